"""`hf-rnn label`: label texts on a page in the browser, train on the answers, print the scores."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..data import ColumnFlags, Location
from ..data.columns import read_text_table
from ..models.settings_rnn import setting
from ..settings.flags import Flags
from ..utils.process import write_whole
from .console import print_note


@dataclass
class LabelArguments(ColumnFlags):
    """Flags of this verb."""

    table: Location = setting(
        "", "your texts: .csv .xlsx .tsv .jsonl .parquet, or .txt with a text per line"
    )
    output_dir: Location = setting("", "folder for answers.jsonl and labels.csv, and for the model")
    none_label: str = setting("no class", "label of texts of no class: they are not trained on")
    port: int | None = setting(None, "port of the page (default: a free one)")
    browser: bool = setting(True, "open the page in the browser")
    train: bool = setting(True, "train when the page is finished")
    seed: int = setting(0, "decides which texts are random")


FLAGS = Flags(
    "label",
    LabelArguments,
    "Label texts on a page in your browser, "
    "with suggestions by a model that learns from each answer.",
    "tickets.csv my-model",
    ("table", "output_dir"),
    needed=2,
)


def run(argv: Sequence[str]) -> None:
    """Serve the page until it is finished, then train."""
    arguments: LabelArguments = FLAGS.build(argv)
    table = read_text_table(arguments.table, arguments)
    from ..desk.answers import write_table
    from ..desk.labeller import Labeller
    from ..desk.page import serve
    from ..hub import model_folder

    model_folder.quiet()
    labeller = Labeller(table.texts, table.labels, arguments.output_dir, arguments.seed)
    number = labeller.waiting + len(labeller.answers)
    if number < len(table.texts) - len(labeller.labels):
        print_note(f"{number:,} texts are offered, chosen at random from {len(table.texts):,}")
    serve(labeller, arguments.none_label, arguments.port, arguments.browser, print_note)

    none = arguments.none_label
    rows = [(table.texts[row], label) for row, label in labeller.labels.items() if label != none]
    export = Path(arguments.output_dir) / "labels.csv"
    content = write_table(labeller.answers)
    if export.exists() and not content.startswith(export.read_bytes()):  # somebody changed it
        os.replace(export, export.with_name("labels.old.csv"))
    write_whole(export, content)
    print_note(f"{len(labeller.answers):,} answers are in {arguments.output_dir}/answers.jsonl")
    print_note(f"as a table they are in {export}")
    names = sorted({label for _, label in rows})
    if len(names) < 2:
        print_note("nothing is trained: label texts of two labels at least")
    elif arguments.train:
        from ..training.train import train

        # with names, a few answers to many classes are not taken for swapped columns
        result = train(rows, arguments.output_dir, class_names=names, overwrite_output_dir=True)
        print(result.summarize())
