"""`hf-rnn evaluate`: measure a trained model on labelled texts; print a summary, or JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from ..data import Location
from ..inference.options import EvaluateOptions
from ..models.settings_rnn import setting
from ..settings.flags import Flags
from .console import ModelFlags, print_note


@dataclass
class EvaluateArguments(EvaluateOptions, ModelFlags):
    """Flags of this verb beside those of what is measured."""

    output_file: Location | None = setting(
        None,
        "file for each row with answer and score, worst first: .csv .tsv .jsonl .parquet .xlsx",
        shown="common",
    )


_MEANING = "Measure a model on labelled texts."
FLAGS = Flags(
    "evaluate", EvaluateArguments, _MEANING, "my-model tickets.csv", ("model", "data_dir"), 2
)


def run(argv: Sequence[str]) -> None:
    """Measure, and print `model`, `split`, `rows_trained_on` and the scores of the task."""
    arguments: EvaluateArguments = FLAGS.build(argv)
    arguments.check_model()
    arguments.check_source()
    import datasets

    from ..hub.model_folder import quiet
    from ..inference.evaluate import evaluate_model

    quiet()
    datasets.disable_progress_bars()
    result = evaluate_model(
        arguments.model, arguments, arguments.revision, output_file=arguments.output_file
    )
    for note in result.notes:
        print_note(note)
    if sys.stdout.isatty():
        print(result.summarize())
    else:
        print(json.dumps(result.as_dict(), ensure_ascii=False))
