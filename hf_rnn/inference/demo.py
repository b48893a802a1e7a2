"""A page to try a model: a text in; label, probabilities and coloured words out.

`hf-rnn demo --model DIR` serves it locally. `build("me/name").launch()` is the `app.py` of a Space
of the Hub, whose `requirements.txt` has `hf-rnn[demo]`. Nothing is sent anywhere: there are no
analytics, and fonts and scripts come from the page's own server.

The effect of a token is the loss in score of the label when only this token is left out ("erasure",
Li, Monroe and Jurafsky 2016, "Understanding Neural Networks through Representation Erasure").
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from ..evaluation.scores import check_finite_logits
from ..hub.model_folder import FinishedFolder, find_folder, read_mapping
from ..tasks import compute_scores, score_kind
from ..utils.errors import UserError, check_text, install_hint
from .predictor import Predictor

if TYPE_CHECKING:
    import gradio

_SHOWN_LABELS = 10
_MOST_TOKENS = 256  # left out one by one
_EXAMPLES_SHOWN = 6
_MOST_BYTES = 1_000_000  # bytes per request
_SMALLEST_SCALE = 0.02  # share of the score; smaller effects are never shown at full strength


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
    model = Predictor.from_pretrained(folder)
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
                texts = [[example] for example in read_examples(FinishedFolder(folder))]
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
class _Words:
    """The words of a page."""

    shown: str
    button: str
    title: str


_TAGGER_WORDS = _Words("the colours show the labels.", "Mark it", "Marked text")
_CLASSIFIER_WORDS = _Words(
    "its answer, and the words that count.",
    "Label it",
    "Words: for the first label (up to 1), or against it",
)


def mark_text(model: Predictor, text: str) -> dict[str, object]:
    """Return a text with its entities, as a highlighted text of Gradio takes it."""
    spans = model.predict([text])[0]["entities"]
    return {"text": text, "entities": [{**span, "entity": span["label"]} for span in spans]}


def label_text(
    model: Predictor, text: str, inform: Callable[[str], object]
) -> tuple[dict[str, float] | str, list[tuple[str, float | None]]]:
    """Return scores by label, and parts of the text with effects; inform if not all was read."""
    explanation = explain(model, text)
    if explanation.tokens > explanation.read:
        inform(f"The model reads the first {explanation.read} of the {explanation.tokens} tokens.")
    least = _SMALLEST_SCALE * abs(explanation.scores[explanation.label])
    scale = max([least, *(abs(effect or 0.0) for _, effect in explanation.parts)]) or 1.0
    parts = [(part, effect and effect / scale) for part, effect in explanation.parts]
    scores = explanation.scores
    if score_kind(model.config) == "values":
        return ", ".join(f"{name} {number:.4g}" for name, number in scores.items()), parts
    return scores, parts


@dataclass(frozen=True)
class Explanation:
    """The prediction for a text, and the effects of its tokens.

    An effect is the score of `label` minus its score without the token; negative if the token is
    evidence against it.
    """

    scores: dict[str, float]  # by label, in the order of the ids
    label: str  # the label with the highest score
    # the text; None between tokens, and for tokens after the explained ones
    parts: list[tuple[str, float | None]]
    tokens: int  # in the text, truncated ones included
    read: int  # tokens that the model reads


def explain(model: Predictor, text: str) -> Explanation:
    """Predict the label of a text, and measure the effect of its first tokens.

    Raises:
        UserError: For a text that is not valid Unicode, and for logits that are not finite.
    """
    check_text(text)
    encoded = model.tokenizer([text], truncation=True, return_offsets_mapping=True)
    ids = encoded["input_ids"][0]
    offsets = encoded["offset_mapping"][0]
    tokens = len(model.tokenizer([text], verbose=False)["input_ids"][0])
    variants = [ids[:place] + ids[place + 1 :] for place in range(min(len(ids), _MOST_TOKENS))]
    logits = model.logits([ids, *variants])  # (1 + variants, C)
    check_finite_logits(logits)
    scores = compute_scores(logits, model.config)
    names = list(model.config.id2label.values())
    best = int(scores[0].argmax())
    effects: list[float | None] = [None] * len(ids)
    effects[: len(variants)] = (scores[0, best] - scores[1:, best]).tolist()
    by_label = dict(zip(names, scores[0].tolist(), strict=True))
    return Explanation(by_label, names[best], _cut(text, offsets, effects), tokens, len(ids))


def _cut(
    text: str, offsets: list[tuple[int, int]], effects: list[float | None]
) -> list[tuple[str, float | None]]:
    """Return the parts of a text with the effects of their tokens."""
    parts: list[tuple[str, float | None]] = []
    last = 0
    for (start, end), effect in zip(offsets, effects, strict=True):
        gap = text[last:start]
        # a token such as <user> has the place of its last letter alone
        if gap and not gap[-1].isspace():
            start -= len(gap.split()[-1])
        start = max(start, last)
        end += text[end : end + 1] == "\ufe0f"  # asks for a coloured picture of the sign before
        if start < end:
            parts += [(text[last:start], None), (text[start:end], effect)]
            last = end
    parts.append((text[last:], None))
    return [(piece, effect) for piece, effect in parts if piece]


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


def read_examples(folder: FinishedFolder) -> list[str]:
    """Return texts of the card to try: the first of each label, then the second of each."""
    card = read_mapping(folder.metrics).get("card", {}) if folder.metrics.is_file() else {}
    by_label = card.get("examples") or {}
    examples: list[str] = []
    for texts in zip_longest(*by_label.values()):
        examples += [text for text in texts if text is not None]
    return examples[:_EXAMPLES_SHOWN]
