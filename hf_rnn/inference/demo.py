"""A page to try a model: a text in; label, probabilities and coloured words out.

`hf-rnn demo --model DIR` serves it locally. It is also a Space of the Hub: with a `requirements.txt` that contains
`hf-rnn[demo]`, `app.py` is these two lines:

    from hf_rnn.inference.demo import build
    build("me/name").launch()

Gradio is an extra, imported when a page is built. Nothing is sent anywhere: no analytics, and fonts and scripts come
from the page's own server.
"""

from __future__ import annotations

import html
import os
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ..hub.card import read_facts
from ..hub.model_folder import FinishedFolder, find_folder, load_model
from ..tasks import check_answers, score_kind, task_of
from ..utils.errors import UserError, install_hint
from .attribution import explain
from .predictor import Tagger

if TYPE_CHECKING:
    import gradio
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_SHOWN_LABELS = 10
_EXAMPLES = ("best day of the year, thank you!", "late again, so tired of this", "the shop opens at nine on Saturday")
_EXAMPLES_SHOWN = 6
_MOST_BYTES = 1_000_000  # bytes per request
_FOR, _AGAINST, _STRONGEST = "37, 99, 235", "217, 119, 6", 0.6  # colours of the page in `web/`
_EVERYWHERE = ("0.0.0.0", "::")


def build(model_name_or_path: str | Path, revision: str | None = None) -> gradio.Blocks:
    """Return the page of a model, for `launch()` or [`serve`].

    Args:
        model_name_or_path: A finished folder, or a repo id of the Hub.
        revision: Branch, tag or commit, for a repo id.
    """
    gr = _import_gradio()
    folder = find_folder(model_name_or_path, revision)
    model, tokenizer = load_model(folder)
    check_answers(model.config)
    if model.config.sep_token_id is not None:
        raise UserError(f"{model_name_or_path} reads pairs of texts, and the page has one: use hf-rnn predict")
    is_tagger, examples = task_of(model.config).per_token, read_examples(FinishedFolder(folder))
    name = Path(folder).resolve().name if Path(model_name_or_path).is_dir() else str(model_name_or_path)
    with gr.Blocks(title=name, analytics_enabled=False) as page:
        shown = "the colours show the labels." if is_tagger else "its answer, and the words that count."
        gr.Markdown(f"# {name}\nA recurrent network. Type a text: {shown}")
        with gr.Row():
            with gr.Column():
                lines: dict[str, Any] = {"lines": 3, "max_lines": 12, "autofocus": True}
                text = gr.Textbox(label="Text", placeholder="Type or paste a text", **lines)
                button = gr.Button("Mark it" if is_tagger else "Label it", variant="primary")
                tried = gr.Examples([[example] for example in examples], text, cache_examples=False)
            one: dict[str, Any] = {"inputs": text, "api_visibility": "private", "show_progress": "minimal"}
            with gr.Column():
                if is_tagger:
                    tagger = Tagger(model, tokenizer)
                    one["fn"] = lambda text: mark_text(tagger, text or "")
                    one["outputs"] = gr.HighlightedText(label="Marked text", combine_adjacent=False, elem_id="spans")
                else:
                    one["fn"] = lambda text: _show(gr, model, tokenizer, text or "")
                    label = gr.Label(label="Label", num_top_classes=_SHOWN_LABELS)
                    one["outputs"] = [label, gr.HTML(label="Words", elem_id="words")]
        gr.on([button.click, text.submit], **one)
        tried.load_input_event.then(**one)
    return page


def _show(
    gr: ModuleType, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str
) -> tuple[dict[str, float] | str | None, str]:
    """Return the answer to a text for the page, or show the error."""
    if not text.strip():
        return None, ""
    try:
        scores, parts, note = label_text(model, tokenizer, text)
    except UserError as error:
        raise gr.Error(str(error)) from error
    if note:
        gr.Info(note)
    return scores, color_parts(parts)


def color_parts(parts: Sequence[tuple[str, float | None]]) -> str:
    """Return a text in parts as HTML, each part coloured by its effect from -1 to 1, with a legend."""
    marks = [_mark(text, effect) if effect else html.escape(text) for text, effect in parts]
    legend = f"{_mark('for the first label', 1)} {_mark('against it', -1)}"
    return f'<p dir="auto" style="white-space: pre-wrap">{"".join(marks)}</p><p><small>{legend}</small></p>'


def _mark(text: str, effect: float) -> str:
    color = f"rgba({_AGAINST if effect < 0 else _FOR}, {_STRONGEST * abs(effect):.3f})"
    return f'<mark style="color: inherit; background: {color}" title="{effect:+.2f}">{html.escape(text)}</mark>'


def label_text(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str
) -> tuple[dict[str, float] | str, list[tuple[str, float | None]], str]:
    """Return the scores by label, the parts of the text with their effects, and what was not read, if any."""
    explanation, note = explain(model, tokenizer, text), ""
    if explanation.tokens > explanation.read:
        note = f"The model reads the first {explanation.read} of the {explanation.tokens} tokens."
    if score_kind(model.config) == "values":
        numbers = ", ".join(f"{name} {number:.4g}" for name, number in explanation.scores.items())
        return numbers, explanation.highlight(), note
    return explanation.scores, explanation.highlight(), note


def mark_text(tagger: Tagger, text: str) -> dict[str, Any]:
    """Return a text and its entities, as Gradio reads them."""
    spans = tagger.predict([text])[0]["entities"]
    entities = [{"entity": span["label"], "start": span["start"], "end": span["end"]} for span in spans]
    return {"text": text, "entities": entities}


def serve(page: gradio.Blocks, host: str = "127.0.0.1", port: int | None = None) -> str:
    """Serve a page from threads of this process and return its URL.

    Args:
        page: The result of [`build`].
        host: Address to listen at. `0.0.0.0` admits everybody who can reach this machine.
        port: None takes the first free one from 7860.
    """
    settings: dict[str, Any] = {"share": False, "quiet": True, "prevent_thread_lock": True, "show_error": True}
    settings |= {"footer_links": [], "run_history": False, "ssr_mode": False, "mcp_server": False}
    gr = _import_gradio()
    # the visitor's own fonts, as most of Gradio's lack bold letters; blue is also the colour of words for a label
    fonts: dict[str, Any] = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    settings["theme"] = gr.themes.Default(primary_hue="blue", **fonts)
    try:
        page.launch(server_name=host, server_port=port, app_kwargs=_guard(host), **settings)
    except (OSError, OverflowError) as error:  # the second for a port above 65535
        raise UserError(f"the page cannot be served at {host}: set --port to a free one") from error
    return page.local_url


def _guard(host: str) -> dict[str, Any]:
    """Return settings of the server: no uploads, no large requests, and only this machine's names in `Host`.

    Gradio stores the files that anyone uploads, and a foreign `Host` lets a website read the page (DNS rebinding).
    """
    from starlette.middleware import Middleware
    from starlette.middleware.body_limit import RequestBodyLimitMiddleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    refusal = PlainTextResponse("this page takes no files", status_code=403)
    uploads = ("/gradio_api/upload", "/gradio_api/process_recording")
    hosts = ["*"] if host in _EVERYWHERE else [host, "localhost", "127.0.0.1"]
    limit = Middleware(RequestBodyLimitMiddleware, max_body_size=_MOST_BYTES)
    middleware = [Middleware(TrustedHostMiddleware, allowed_hosts=hosts), limit]
    return {"middleware": middleware, "routes": [Route(path, refusal) for path in uploads]}


def _import_gradio() -> ModuleType:
    """Import Gradio with analytics off."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
    except ModuleNotFoundError as error:
        raise UserError(f"the page needs Gradio: {install_hint('demo')}") from error
    return gradio


def read_examples(folder: FinishedFolder) -> list[str]:
    """Return texts to try: the first of each label on the card, then the second of each, or built-in ones."""
    facts = read_facts(folder)
    rounds = zip_longest(*(facts.examples if facts and facts.examples else {}).values())
    examples = [text for texts in rounds for text in texts if text is not None]
    return examples[:_EXAMPLES_SHOWN] or list(_EXAMPLES)
