"""A page to try a model: a text or a file in; label, probabilities and coloured words out.

`hf-rnn demo --model DIR` serves it locally. It is also a complete Space of the Hub: with a `requirements.txt` that
contains `hf-rnn[demo]`, `app.py` is either these two lines

    from hf_rnn.inference.demo import build
    build("me/name").launch()

or a copy of this file, with the repo's id in the Space's variable `MODEL_ID` (and optionally `MODEL_REVISION`).

Gradio is an extra, imported when a page is built. Nothing is sent anywhere: no analytics, and fonts and scripts come
from the page's own server.
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_rnn.hub.card.files import read_facts
from hf_rnn.hub.loading import find_folder, load_model
from hf_rnn.hub.model_folder import FinishedFolder
from hf_rnn.inference import FastRnn, Tagger
from hf_rnn.inference.attribution import explain
from hf_rnn.inference.attribution_html import colour, escape
from hf_rnn.inference.predict_file import FORMATS, Answer, label_file, write_answers
from hf_rnn.tasks import Task, task_of
from hf_rnn.utils.errors import UserError, install_hint

if TYPE_CHECKING:
    import gradio

MAX_LINES = 50_000  # per file, because a Space is shared by many users

_SHOWN_LINES, _SHOWN_LABELS = 200, 10  # the file has all
_EXAMPLES = ("best day of the year, thank you!", "late again, so tired of this", "the shop opens at nine on Saturday")
_EXAMPLES_SHOWN = 6

# One column on a telephone, with the label above the examples.
_LAYOUT = """
<style>
@media (min-width: 45rem) {
  #one-text { display: grid; grid-template: auto 1fr / 5fr 6fr; }
  #one-text > :nth-child(2) { grid-area: 1 / 2 / 3; }
}
</style>
"""


def build(model_name_or_path: str | Path, revision: str | None = None) -> gradio.Blocks:
    """Return the page of a model, for `launch()` or [`serve`].

    Args:
        model_name_or_path: A finished folder, or a repo id of the Hub.
        revision: Branch, tag or commit, for a repo id.
    """
    gr = _import_gradio()
    folder = find_folder(model_name_or_path, revision)
    model, tokenizer = load_model(folder)
    if model.config.sep_token_id is not None:
        raise UserError(f"{model_name_or_path} reads pairs of texts, and the page has one: use hf-rnn predict")
    examples = read_examples(FinishedFolder(folder))
    name = Path(folder).resolve().name if Path(model_name_or_path).is_dir() else str(model_name_or_path)
    if task_of(model.config).per_token:
        return _build_tagger_page(gr, Tagger(model, tokenizer), name, examples)
    classifier = FastRnn(model, tokenizer)
    answers = _Answers(gr, classifier)
    # uploads and answers are deleted within the hour
    with gr.Blocks(title=name, analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.HTML(_LAYOUT + _heading(name, list(classifier.config.id2label.values()), classifier.task.purpose))
        with gr.Tab("A text"), gr.Row(elem_id="one-text"):
            with gr.Column():
                text = gr.Textbox(
                    label="Text", placeholder="Type or paste a text", lines=3, max_lines=12, autofocus=True
                )
                button = gr.Button("Label it", variant="primary")
            with gr.Column():
                label = gr.Label(label="Label", num_top_classes=_SHOWN_LABELS)
                words = gr.HTML(label="Words", container=True, padding=True, show_label=True, elem_id="words")
            with gr.Column():
                tried = gr.Examples([[example] for example in examples], text, cache_examples=False)
        with gr.Tab("A file"):
            with gr.Row():
                file = gr.File(label="A text file in UTF-8, one text per line", type="filepath", height=120)
                with gr.Column():
                    kind = gr.Radio(list(FORMATS), value=FORMATS[0], label="Format of the answers")
                    go = gr.Button("Label all lines", variant="primary")
            said = gr.HTML()
            result = gr.File(label="Answers", visible=False, interactive=False)
            columns = {"headers": ["text", "label", "score"], "datatype": ["str", "str", "number"]}
            columns["column_widths"] = ["48%", "31%", "21%"]
            table = gr.Dataframe(**columns, wrap=True, interactive=False, visible=False, buttons=[])
        one: dict[str, Any] = {"fn": answers.for_text, "inputs": text, "outputs": [label, words]}
        private: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal"}
        gr.on([button.click, text.submit], **one, **private)
        tried.load_input_event.then(**one, **private)
        go.click(answers.for_file, [file, kind], [said, result, table], **private)
    return page


def _build_tagger_page(gr: Any, tagger: Tagger, name: str, examples: Sequence[str]) -> gradio.Blocks:
    """Return the page of a model that tags words: a text in, coloured spans out."""

    def tag(text: str | None) -> list[tuple[str, str | None]]:
        return colour_spans(str(text or ""), tagger.predict([str(text or "")])[0]["entities"])

    with gr.Blocks(title=name, analytics_enabled=False) as page:
        about = "This recurrent network marks words of a text. Give it one: the colours show the labels."
        gr.HTML(f'{_LAYOUT}<h1 style="margin: 0.2em 0">{escape(name)}</h1><p>{about}</p>')
        with gr.Row(elem_id="one-text"):
            with gr.Column():
                text = gr.Textbox(
                    label="Text", placeholder="Type or paste a text", lines=3, max_lines=12, autofocus=True
                )
                button = gr.Button("Mark it", variant="primary")
            spans = gr.HighlightedText(label="Marked text", combine_adjacent=False, elem_id="spans")
            with gr.Column():
                tried = gr.Examples([[example] for example in examples], text, cache_examples=False)
        one: dict[str, Any] = {"fn": tag, "inputs": text, "outputs": spans}
        gr.on([button.click, text.submit], **one, api_visibility="private")
        tried.load_input_event.then(**one, api_visibility="private")
    return page


def colour_spans(text: str, entities: Sequence[Mapping[str, Any]]) -> list[tuple[str, str | None]]:
    """Return a text in parts with their labels, None for those between entities."""
    parts: list[tuple[str, str | None]] = []
    end = 0
    for found in entities:
        parts += [(text[end : found["start"]], None)] if found["start"] > end else []
        parts.append((text[found["start"] : found["end"]], found["label"]))
        end = found["end"]
    return parts + [(text[end:], None)] * (end < len(text))


def serve(page: gradio.Blocks, host: str = "127.0.0.1", port: int | None = None) -> str:
    """Serve a page from threads of this process and return its URL.

    Args:
        page: The result of [`build`].
        host: Address to listen at. `0.0.0.0` admits everybody who can reach this machine.
        port: None takes the first free one from 7860.
    """
    _check_address(host)
    settings: dict[str, Any] = {"share": False, "quiet": True, "prevent_thread_lock": True, "show_error": True}
    settings |= {"footer_links": [], "run_history": False, "ssr_mode": False, "mcp_server": False}
    gr = _import_gradio()
    # the visitor's own fonts, as most of Gradio's lack bold letters; blue is the colour of evidence for a label
    fonts: dict[str, Any] = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    settings["theme"] = gr.themes.Default(primary_hue="blue", **fonts)
    try:
        page.launch(server_name=host, server_port=port, **settings)
    except OSError as error:
        where = f"port {port} of {host}" if port is not None else host
        raise UserError(f"the page cannot be served at {where}: set --port to a free one") from error
    return page.local_url


def _check_address(host: str) -> None:
    """Refuse an address of another machine, because Gradio would try port after port for minutes."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.bind(address)
    except (OSError, UnicodeError) as error:  # the second for an invalid name
        raise UserError(
            f"this machine has no address {host!r}: leave out --host, or set it to 0.0.0.0 to let others in"
        ) from error


def _import_gradio() -> Any:
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


def _heading(name: str, labels: Sequence[str], purpose: str = Task.purpose) -> str:
    about = describe([f"<b>{escape(label)}</b>" for label in labels], purpose)
    return (
        f'<h1 style="margin: 0.2em 0">{escape(name)}</h1><p>{about} '
        "Give it one: the colours show which words count.</p>"
    )


def describe(labels: Sequence[str], purpose: str) -> str:
    """Return the sentence on a page that names the labels."""
    names = [*labels[:_SHOWN_LABELS], *["another label"] * (len(labels) > _SHOWN_LABELS)]
    choice = " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))
    return f"This recurrent network {purpose.format(choice)}."


class _Answers:
    """The functions of the page's buttons."""

    def __init__(self, gr: Any, classifier: FastRnn) -> None:
        self._gr, self._classifier = gr, classifier
        self._folders: deque[tempfile.TemporaryDirectory[str]] = deque(maxlen=16)  # until Gradio has copied the files

    def for_text(self, text: str | None) -> tuple[dict[str, float] | str | None, str]:
        """Return the scores by label, and the coloured words."""
        if not (text or "").strip():
            return None, "<p>Type a text first.</p>"
        try:
            explanation = explain(self._classifier.model, self._classifier.tokenizer, str(text))
        except UserError as error:
            return None, f"<p>{escape(str(error))}</p>"
        task = self._classifier.task
        shown = explanation.scores if task.shares else task.caption({"values": explanation.scores})
        return shown, colour(explanation)

    def for_file(self, path: str | None, kind: str) -> tuple[str, Any, Any]:
        """Return a summary, the file of answers, and the table of its first lines."""
        hidden = self._gr.update(value=None, visible=False)
        if path is None:
            return "<p>Choose a file first.</p>", hidden, hidden
        try:
            blocks = label_file(self._classifier, Path(path), MAX_LINES + 1)
            answers = [answer for block in blocks for answer in block]
        except UserError as error:
            return f"<p>{escape(str(error))}</p>", hidden, hidden
        if not answers:
            return "<p>The file is empty.</p>", hidden, hidden
        answers, more = answers[:MAX_LINES], len(answers) > MAX_LINES
        folder = tempfile.TemporaryDirectory(prefix="hf-rnn-", ignore_cleanup_errors=True)
        self._folders.append(folder)
        target = Path(folder.name) / f"answers.{kind}"
        write_answers(answers, target)
        rows = [
            [answer.text, answer.label or answer.error, None if answer.score is None else round(answer.score, 3)]
            for answer in answers[:_SHOWN_LINES]
        ]
        file, table = self._gr.update(value=str(target), visible=True), self._gr.update(value=rows, visible=True)
        return _summarize(answers, more), file, table


def _summarize(answers: Sequence[Answer], more: bool) -> str:
    """Return the number of lines per label, and which lines are left out."""
    counts = Counter(answer.label for answer in answers if answer.label is not None)
    items = [f"{count:,} {escape(label)}" for label, count in counts.most_common(_SHOWN_LABELS)]
    if refused := sum(answer.label is None for answer in answers):
        items.append(f"{refused:,} refused (the file says why)")
    parts = [f"<b>{len(answers):,} lines</b>: {', '.join(items)}."]
    if more:
        parts.append(f"The file has more: only the first {MAX_LINES:,} are labelled here. Use hf-rnn predict for all.")
    if len(answers) > _SHOWN_LINES:
        parts.append(f"The table shows the first {_SHOWN_LINES}.")
    return f"<p>{' '.join(parts)}</p>"


if __name__ == "__main__":  # a Space's app.py
    if "MODEL_ID" not in os.environ:
        sys.exit("MODEL_ID is not set: set it to the id of a model on the Hub, owner/name")
    try:
        build(os.environ["MODEL_ID"], os.environ.get("MODEL_REVISION")).launch()
    except UserError as error:
        sys.exit(f"hf-rnn demo: error: {error}")
