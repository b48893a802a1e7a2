"""A page to try a model on: a text or a file in; label, probabilities and coloured words out.

`hf-rnn demo --model DIR` serves it on this machine. The same file is the whole of a Space on the Hub: with a
`requirements.txt` that says `hf-rnn[demo]`, its `app.py` is either these two lines

    from hf_rnn.demo import build
    build("me/name").launch()

or a copy of this file, with the repo's id in the Space's variable `MODEL_ID` (and `MODEL_REVISION`, if need be).

Only the page is made here. What it shows is worked out in `explaining`, `colouring` and `labelled_file`, which know
nothing of Gradio. Gradio is an extra, imported when a page is built. Nothing is sent anywhere: no analytics, fonts and
scripts come from the page's own server.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
from collections import Counter, deque
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_rnn.hub.loading import find_folder
from hf_rnn.hub.model_folder import FinishedFolder
from hf_rnn.inference import FastRnn
from hf_rnn.inference.attribution import explain
from hf_rnn.inference.attribution_html import colour, escape
from hf_rnn.inference.predict_file import FORMATS, Answer, label_file, write_answers
from hf_rnn.models.modeling_rnn import RnnForSequenceClassification
from hf_rnn.utils.errors import UserError

if TYPE_CHECKING:
    import gradio

MAX_LINES = 50_000  # of a file; a Space is shared by many

_SHOWN_LINES = 200  # in the table; the file has them all
_SHOWN_LABELS = 10
_EXAMPLES = ("best day of the year, thank you!", "late again, so tired of this", "the shop opens at nine on Saturday")
_EXAMPLES_SHOWN = 6

# One below the other on a telephone, where the label is to be seen without a way past the examples.
_LAYOUT = """
<style>
@media (min-width: 45rem) {
  #one-text { display: grid; grid-template: auto 1fr / 5fr 6fr; }
  #one-text > :nth-child(2) { grid-area: 1 / 2 / 3; }
}
</style>
"""


def build(model_name_or_path: str | Path, revision: str | None = None) -> gradio.Blocks:
    """Make the page of a model.

    Args:
        model_name_or_path: A finished folder, or a repo id of the Hub.
        revision: Branch, tag or commit, for a repo id.

    Returns:
        What `launch()` serves; see [`serve`].

    Raises:
        UserError: When Gradio is not installed, or the model cannot be loaded.
    """
    gr = _import_gradio()
    folder = find_folder(model_name_or_path, revision)
    classifier = FastRnn.from_pretrained(folder)
    name, examples = _read_card(FinishedFolder(folder), str(model_name_or_path))
    answers = _Answers(gr, classifier)
    # what people upload and take home is deleted within the hour
    with gr.Blocks(title=name, analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.HTML(_LAYOUT + _heading(name, classifier.model))
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
                file = gr.File(label="A text file in UTF-8, one text a line", type="filepath", height=120)
                with gr.Column():
                    kind = gr.Radio(list(FORMATS), value=FORMATS[0], label="Format of the answers")
                    go = gr.Button("Label all lines", variant="primary")
            said = gr.HTML()
            result = gr.File(label="Answers", visible=False, interactive=False)
            table = gr.Dataframe(
                headers=["text", "label", "score"],
                datatype=["str", "str", "number"],
                wrap=True,
                interactive=False,
                visible=False,
                buttons=[],
                column_widths=["48%", "31%", "21%"],
            )
        one: dict[str, Any] = {"fn": answers.for_text, "inputs": text, "outputs": [label, words]}
        private: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal"}
        gr.on([button.click, text.submit], **one, **private)
        tried.load_input_event.then(**one, **private)
        go.click(answers.for_file, [file, kind], [said, result, table], **private)
    return page


def serve(page: gradio.Blocks, host: str = "127.0.0.1", port: int | None = None) -> str:
    """Serve a page from threads of this process.

    Args:
        page: What [`build`] returned.
        host: Address to listen at. `0.0.0.0` lets everybody in who can reach this machine.
        port: None takes the first free one from 7860.

    Returns:
        Its URL.

    Raises:
        UserError: When the port is taken or is none, or the address is none of this machine.
    """
    if port is not None and not 0 < port < 65536:
        raise UserError(f"port must be from 1 to 65535, found {port}")
    _check_address(host)
    settings: dict[str, Any] = {"share": False, "quiet": True, "prevent_thread_lock": True, "show_error": True}
    settings |= {"footer_links": [], "run_history": False, "ssr_mode": False, "mcp_server": False}
    gr = _import_gradio()
    # the reader's own fonts, for most that come with Gradio lack bold letters; blue, as what speaks for a label
    fonts: dict[str, Any] = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    settings["theme"] = gr.themes.Default(primary_hue="blue", **fonts)
    try:
        page.launch(server_name=host, server_port=port, **settings)
    except OSError as error:
        where = f"port {port} of {host}" if port is not None else host
        raise UserError(f"the page cannot be served at {where}: is it taken? Give another with --port") from error
    return page.local_url


def _check_address(host: str) -> None:
    """Refuse an address that is none of this machine, with which Gradio would try port after port."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.bind(address)
    except (OSError, UnicodeError) as error:  # the second for a name that cannot be one
        raise UserError(
            f"{host!r} is no address of this machine: leave out --host, or give 0.0.0.0 to let others in"
        ) from error


def _import_gradio() -> Any:
    """Import Gradio, told beforehand to keep to itself."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
    except ModuleNotFoundError as error:
        raise UserError("the page needs Gradio: pip install 'hf-rnn[demo]'") from error
    return gradio


def _read_card(folder: FinishedFolder, name: str) -> tuple[str, list[str]]:
    """Return the model's name and a few texts to try, as its card has them, or else what can be said anyway."""
    try:
        facts = json.loads(folder.card_facts.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        facts = {}
    texts = facts.get("examples") if isinstance(facts, dict) else None
    by_label = [list(some) for some in texts.values() if isinstance(some, list)] if isinstance(texts, dict) else []
    # one of each label, then the second of each
    turns = [some[turn] for turn in range(max(map(len, by_label), default=0)) for some in by_label if turn < len(some)]
    examples = [text for text in turns if isinstance(text, str)][:_EXAMPLES_SHOWN]
    return (Path(name).resolve().name if Path(name).is_dir() else name), examples or list(_EXAMPLES)


def _heading(name: str, model: RnnForSequenceClassification) -> str:
    labels = [f"<b>{escape(model.config.id2label[index])}</b>" for index in range(model.config.num_labels)]
    named = labels[0] if len(labels) == 1 else f"{', '.join(labels[:-1])} or {labels[-1]}"
    if len(labels) > _SHOWN_LABELS:
        named = f"one of {len(labels)} things, such as {', '.join(labels[:3])}"
    return (
        f'<h1 style="margin: 0.2em 0">{escape(name)}</h1><p>This recurrent network says whether a text is {named}. '
        "Give it one: the colours show which words count.</p>"
    )


class _Answers:
    """What the page's buttons do."""

    def __init__(self, gr: Any, classifier: FastRnn) -> None:
        self._gr, self._classifier = gr, classifier
        self._rooms: deque[tempfile.TemporaryDirectory[str]] = deque(maxlen=16)  # Gradio makes copies of its own

    def for_text(self, text: str | None) -> tuple[dict[str, float] | None, str]:
        """The scores by label, and the coloured words."""
        if not (text or "").strip():
            return None, "<p>Type a text first.</p>"
        try:
            explanation = explain(self._classifier.model, self._classifier.tokenizer, str(text))
        except UserError as error:
            return None, f"<p>{escape(str(error))}</p>"
        return explanation.scores, colour(explanation)

    def for_file(self, path: str | None, kind: str) -> tuple[str, Any, Any]:
        """A line on the outcome, the file to take home, and the table of its first lines."""
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
        room = tempfile.TemporaryDirectory(prefix="hf-rnn-", ignore_cleanup_errors=True)
        self._rooms.append(room)
        target = Path(room.name) / f"answers.{kind}"
        write_answers(answers, target)
        rows = [
            [answer.text, answer.label or answer.error, None if answer.score is None else round(answer.score, 3)]
            for answer in answers[:_SHOWN_LINES]
        ]
        file, table = self._gr.update(value=str(target), visible=True), self._gr.update(value=rows, visible=True)
        return _tell(answers, more), file, table


def _tell(answers: Sequence[Answer], more: bool) -> str:
    """How many lines got which label, and what is left out."""
    counts = Counter(answer.label for answer in answers if answer.label is not None)
    told = [f"{count:,} {escape(label)}" for label, count in counts.most_common(_SHOWN_LABELS)]
    if refused := sum(answer.label is None for answer in answers):
        told.append(f"{refused:,} refused (the file says why)")
    parts = [f"<b>{len(answers):,} lines</b>: {', '.join(told)}."]
    if more:
        parts.append(
            f"The file has more: only the first {MAX_LINES:,} are labelled here. Take hf-rnn predict for all."
        )
    if len(answers) > _SHOWN_LINES:
        parts.append(f"The table shows the first {_SHOWN_LINES}.")
    return f"<p>{' '.join(parts)}</p>"


if __name__ == "__main__":  # a Space's app.py
    if "MODEL_ID" not in os.environ:
        sys.exit("MODEL_ID is not set: give the id of a model on the Hub, owner/name")
    try:
        build(os.environ["MODEL_ID"], os.environ.get("MODEL_REVISION")).launch()
    except UserError as error:
        sys.exit(f"hf-rnn demo: error: {error}")
