"""A page to try a model: a text in; label, probabilities and coloured words out.

`hf-rnn demo --model DIR` serves it locally. `build("me/name").launch()` is the `app.py` of a Space
of the Hub, whose `requirements.txt` has `hf-rnn[demo]`. Nothing is sent anywhere: there are no
analytics, and fonts and scripts come from the page's own server.

The effects of words are those of `hf-rnn predict --explain`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..hub.model_folder import FinishedFolder, find_folder
from ..tasks import score_kind
from ..utils.errors import UserError, install_hint
from .explain import explain_spans
from .predict import FastRnn

if TYPE_CHECKING:
    import gradio

_SHOWN_LABELS = 10
_MOST_BYTES = 1_000_000  # bytes per request
_SMALLEST_SCALE = 0.02  # in units of the logit; smaller effects are never shown at full strength


def build(model_name_or_path: str | Path, revision: str | None = None) -> gradio.Blocks:
    """Return the page of a model, for `launch()` or [`serve`].

    Args:
        model_name_or_path: A finished folder, or a repo of the Hub by its id.
        revision: Branch, tag or commit, for a repo id.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio as gr
    except ModuleNotFoundError as error:
        raise UserError(f"the page needs Gradio: {install_hint('demo')}") from error
    folder = find_folder(model_name_or_path, revision)
    model = FastRnn.from_pretrained(folder)
    if model.config.sep_token_id is not None:
        raise UserError(
            f"{model_name_or_path} reads pairs of texts, and the page has one: use hf-rnn predict"
        )
    name = (
        Path(folder).resolve().name
        if Path(model_name_or_path).is_dir()
        else str(model_name_or_path)
    )
    is_tagger = model.task.per_token
    words = _TAGGER_WORDS if is_tagger else _CLASSIFIER_WORDS
    outputs: list[object] = []
    with gr.Blocks(title=name, analytics_enabled=False) as page:
        gr.Markdown(f"# {name}\nA recurrent network. Type a text: {words.shown}")
        with gr.Row():
            with gr.Column():
                text = gr.Textbox(
                    label="Text",
                    placeholder="Type or paste a text",
                    lines=3,
                    max_lines=12,
                    autofocus=True,
                )
                button = gr.Button(words.button, variant="primary")
                texts = [[example] for example in FinishedFolder(folder).read_examples()]
                examples = gr.Examples(texts, text, cache_examples=False) if texts else None
            with gr.Column():
                if not is_tagger:
                    outputs.append(gr.Label(label="Label", num_top_classes=_SHOWN_LABELS))
                outputs.append(
                    gr.HighlightedText(
                        label=words.title, combine_adjacent=False, show_legend=not is_tagger
                    )
                )

        def answer(text: str | None) -> object:
            try:
                if is_tagger:
                    return mark_text(model, text or "")
                return label_text(model, text, gr.Info) if text and text.strip() else (None, [])
            except UserError as error:
                raise gr.Error(str(error)) from error

        event: dict[str, object] = {
            "fn": answer,
            "inputs": text,
            "outputs": outputs,
            "api_visibility": "private",
            "show_progress": "minimal",
        }
        gr.on([button.click, text.submit], **event)
        if examples is not None:
            examples.load_input_event.then(**event)
    return page


@dataclass(frozen=True)
class _PageWords:
    """The words of a page."""

    shown: str
    button: str
    title: str


_TAGGER_WORDS = _PageWords("the colours show the labels.", "Mark it", "Marked text")
_CLASSIFIER_WORDS = _PageWords(
    "its answer, and the words that count.",
    "Label it",
    "Words: for the first label (up to 1), or against it",
)


def mark_text(model: FastRnn, text: str) -> dict[str, object]:
    """Return a text with its entities, as a highlighted text of Gradio takes it."""
    spans = model.predict([text])[0]["entities"]
    return {"text": text, "entities": [{**span, "entity": span["label"]} for span in spans]}


def label_text(
    model: FastRnn, text: str, inform: Callable[[str], object]
) -> tuple[dict[str, float] | str, list[tuple[str, float | None]]]:
    """Return scores by label, and parts of the text with effects; inform if not all was read."""
    explanation = explain_spans(model, text)
    tokens = len(model.tokenizer([text], verbose=False)["input_ids"][0])
    most = model.tokenizer.model_max_length
    if tokens > most:
        inform(f"The model reads the first {most} of the {tokens} tokens.")
    parts = list(explanation.parts())
    scale = max([_SMALLEST_SCALE, *(abs(effect or 0.0) for _, effect in parts)])
    parts = [(part, effect and effect / scale) for part, effect in parts]
    numbers = explanation.scores[0].tolist()
    scores = dict(zip(model.config.id2label.values(), numbers, strict=True))
    if score_kind(model.config) == "values":
        return ", ".join(f"{name} {number:.4g}" for name, number in scores.items()), parts
    return scores, parts


def serve(page: gradio.Blocks, host: str = "127.0.0.1", port: int | None = None) -> str:
    """Serve a page from threads of this process and return its URL.

    It takes no uploads, which Gradio would store, no large requests, and only this machine's names
    in `Host`: by a foreign one a website could read the page (DNS rebinding).

    Args:
        page: The result of [`build`].
        host: Address to listen at. `0.0.0.0` admits everybody who can reach this machine.
        port: None takes the first free one from 7860.
    """
    import gradio as gr
    from starlette.middleware import Middleware
    from starlette.middleware.body_limit import RequestBodyLimitMiddleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    refusal = PlainTextResponse("this page takes no files", status_code=403)
    hosts = ["*"] if host in ("0.0.0.0", "::") else [host, "localhost", "127.0.0.1"]
    guard = {
        "middleware": [
            Middleware(TrustedHostMiddleware, allowed_hosts=hosts),
            Middleware(RequestBodyLimitMiddleware, max_body_size=_MOST_BYTES),
        ],
        "routes": [
            Route(f"/gradio_api/{path}", refusal) for path in ("upload", "process_recording")
        ],
    }
    # the visitor's own fonts, as most of Gradio's lack bold letters; blue is also the colour of
    # words for a label
    theme = gr.themes.Default(
        primary_hue="blue",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )
    try:
        page.launch(
            server_name=host,
            server_port=port,
            app_kwargs=guard,
            theme=theme,
            quiet=True,
            show_error=True,
            footer_links=[],
            run_history=False,
            share=False,
            prevent_thread_lock=True,
            ssr_mode=False,
            mcp_server=False,
        )
    except (OSError, OverflowError) as error:  # the second for a port above 65535
        raise UserError(f"the page cannot be served at {host}: set --port to a free one") from error
    return page.local_url
