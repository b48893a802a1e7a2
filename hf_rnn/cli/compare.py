"""`hf-rnn compare`: find out whether new texts differ from old ones; print JSON, and what to do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..data import ColumnFlags, Location
from ..data.columns import read_text_table
from ..models.settings_rnn import setting
from ..settings.flags import Flags
from ..utils.errors import install_hint
from .console import ModelFlags, print_note


@dataclass
class CompareArguments(ColumnFlags, ModelFlags):
    """Flags of this verb."""

    old: Location = setting("", "table of the texts that the model is right for")
    new: Location = setting("", "table of the new texts")
    target: float = setting(0.95, "accuracy whose thresholds say which answers need a person")
    picture: Location | None = setting("compare.png", "file for the picture")
    seed: int = setting(0, "decides which texts are compared, of more than 20,000")


FLAGS = Flags(
    "compare",
    CompareArguments,
    "Find out whether new texts differ from old ones: labels, scores, words, and a test of both.",
    "my-model october.csv november.csv",
    ("model", "old", "new"),
    needed=3,
    unused=("label_column",),
)


def run(argv: Sequence[str]) -> None:
    """Compare two tables; the object on stdout has `differs` and `p_value`."""
    arguments: CompareArguments = FLAGS.build(argv)
    arguments.check_model()
    tables = [read_text_table(path, arguments) for path in (arguments.old, arguments.new)]
    from ..hub import model_folder
    from ..inference.predict import FastRnn
    from ..quality.compare import compare, draw_comparison

    model_folder.quiet()
    model = FastRnn.from_pretrained(arguments.model, arguments.revision)
    result = compare(model, tables[0].texts, tables[1].texts, arguments.target, arguments.seed)
    if arguments.picture:
        try:
            draw_comparison(result, Path(arguments.picture))
            print_note(f"the picture is {arguments.picture}")
        except ModuleNotFoundError:
            print_note(f"no picture: {install_hint('plots')}")
    for line in result.advice:
        print_note(line)
    print(json.dumps(result.to_dict(), ensure_ascii=False))
