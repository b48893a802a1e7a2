"""`hf-rnn evaluate`: measure a trained model on labelled texts; print one JSON object."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..settings.arguments import TableArguments, expand_home, setting
from ..settings.parser import SettingsParser
from ..utils.errors import UserError
from ..utils.process import write_whole
from .console import ModelFlags, print_note

_ACCURACY = 0.95  # wanted without a person


@dataclass
class EvaluateArguments(TableArguments, ModelFlags):
    """Flags of `evaluate` beside those of the texts and their files."""

    split: str | None = setting(
        None,
        "train, validation or test; dev is validation (default: test; of the table that was trained on the rows that "
        "training held out, of another table all rows)",
        common=True,
    )
    output_file: str | None = setting(
        None,
        "write each row with its answer, score and whether it is wrong, worst first: .csv .tsv .jsonl .parquet .xlsx",
        common=True,
    )
    label_map: list[str] | None = setting(
        None, "labels of the data with other names in the model, each as DATA=MODEL: 0=neutral 1=bad"
    )
    threshold: float = setting(0.9, "streaming models: the score at which an early answer counts", above=0, most=1)
    device: str = setting("cpu", "cpu is the fast path; cuda, mps ... run the plain model")

    def read_label_map(self) -> dict[str, str]:
        """Return `label_map` as the model's names by label of the data, or raise a [`UserError`]."""
        pairs = [pair.rpartition("=")[::2] for pair in self.label_map or ()]
        names = dict(pairs)
        if len(names) < len(pairs) or not all(names):
            raise UserError(
                f"label_map is {' '.join(self.label_map or ())}: give each label of the data once, as "
                "--label_map 0=negative 1=neutral"
            )
        return names


@dataclass(frozen=True)
class Measured:
    """Rows to measure, a name for them, and how many were trained on; None if that cannot be known."""

    rows: Any
    split: str
    trained_on: int | None


def run(argv: Sequence[str]) -> None:
    """Measure, and print `model`, `split`, `rows_trained_on` and the scores of its task."""
    (arguments,) = SettingsParser(
        EvaluateArguments,
        prog="hf-rnn evaluate",
        description="Measure a model on labelled texts.",
        example="my-model tickets.csv",
    ).parse(argv)
    name = arguments.model
    expand_home(arguments, "output_file")
    arguments.check_model()
    arguments.check_source()
    import datasets
    import numpy as np

    from ..evaluation.calibration import share_at_accuracy
    from ..hub.loading import quiet
    from ..inference.predictor import Runner, load_to_predict
    from ..inference.tables import find_suffix, read_record
    from ..tasks import task_of
    from ..tasks.answers import compute_scores

    quiet()
    datasets.disable_progress_bars()
    model, tokenizer = load_to_predict(name, arguments.revision, arguments.device)
    task, config = task_of(model.config), model.config
    if arguments.output_file is not None:
        find_suffix(arguments.output_file)
        if task.per_token or task.verb == "generate":
            raise UserError(f"output_file is for labels and numbers of whole texts: the task is {task.name}")
    class_names = [config.id2label[index] for index in range(config.num_labels)]
    label_map = arguments.read_label_map()
    if not label_map and class_names == [f"LABEL_{index}" for index in range(len(class_names))]:
        label_map = {str(index): name for index, name in enumerate(class_names)}  # as transformers numbers integers
    options = {"class_names": class_names, "label_map": label_map}
    measured = choose_rows(arguments, task, read_record(name, arguments.revision), options)
    rows = task.encode(datasets.DatasetDict(test=measured.rows), tokenizer, None)["test"]
    found = {"model": name, "split": measured.split, "rows_trained_on": measured.trained_on}
    if task.verb == "generate":
        from ..evaluation.language_model import sum_losses
        from ..hub.loading import load_model

        model = load_model(name, arguments.revision, arguments.device)[0]
        metrics = task.evaluate(sum_losses(model, rows), None, config)
    else:
        logits = Runner(model, tokenizer).logits(rows["input_ids"][:]).astype(np.float64)
        metrics = task.evaluate(logits, rows["labels"][:], config)
    if getattr(config, "streaming", False) and not task.per_token:
        from ..inference.predictor import FastRnn
        from ..inference.stream import measure_prefixes

        streamed = FastRnn(model, tokenizer)
        metrics["streaming"] = measure_prefixes(streamed, rows["input_ids"][:], rows["labels"][:], arguments.threshold)
    if task.one_label:
        scores, labels = compute_scores(logits, config), np.asarray(rows["labels"][:])
        metrics["without_a_person"] = share_at_accuracy(scores, labels, _ACCURACY)
    if arguments.output_file is not None:
        write_answers(arguments.output_file, task, config, measured.rows, logits, rows["labels"][:])
    print(json.dumps({**found, **metrics}, ensure_ascii=False))


# ---- the rows ----


def choose_rows(
    arguments: EvaluateArguments, task: Any, record: Mapping[str, Any], options: Mapping[str, Any]
) -> Measured:
    """Return the rows that the flags name: by default test, or of a table without splits what training held out.

    `record` is that of the training data. It cannot show which rows of other data were trained on.
    """
    from ..data.row_errors import DataReport

    if not task.per_token:
        columns = {name: record.get(f"{name}_column") for name in ("text", "text_pair", "label")}
        options = {**options, "recorded": columns}
    split = {"dev": "validation"}.get(str(arguments.split), arguments.split)
    source = arguments.data_dir if arguments.data_dir is not None else str(arguments.dataset_name)
    is_file, held_out = Path(source).is_file(), record.get("held_out") or {}
    name = Path(source).name if is_file and split is None else split or "test"
    report, whole = DataReport(), DataReport()
    if held_out and (split in ("train", "validation") or (is_file and split is None)):
        drawn = {"validation_share": held_out["share"], "seed": held_out["seed"]}
        logging.disable(logging.WARNING)  # a note follows, or the rows are read again
        try:
            parts = task.read(arguments, report=whole, **options, **drawn)
        except UserError:  # it has no train split
            parts = {}
        finally:
            logging.disable(logging.NOTSET)
        if whole.held_out and whole.fingerprint == record.get("fingerprint"):
            rows, learned = parts[split or "validation"], split == "train" or bool(record.get("learned_held_out"))
            if split != "train":
                print_note(", ".join(f"{use} from column {column!r}" for use, column in whole.columns.items()))
                also = "; the saved model has learned them too, after the scores in its card" * learned
                print_note(f"scoring the {len(rows)} rows of {source} that training held out{also}")
            return Measured(rows, split or "validation", len(rows) * learned)
    if is_file and split in ("train", "validation"):
        raise UserError(
            f"{source} has no splits, and is not the table that the model was trained on: leave out --split"
        )
    rows = next(iter(task.read(arguments, report=report, splits=["test" if is_file else name], **options).values()))
    known = bool(record.get("fingerprint")) and report.fingerprint == record["fingerprint"]
    if known:
        print_note(f"note: the model was trained on these {len(rows):,} rows")
    elif is_file and name in (record.get("files") or {}).values():
        print_note(f"note: {name} has changed since training: rows of it may have been trained on")
    return Measured(rows, name, len(rows) if known else None)


# ---- the answers ----


def write_answers(path: str, task: Any, config: Any, texts: Any, logits: Any, labels: Sequence[Any]) -> None:
    """Write each row with its label, answer, score and whether it is wrong, worst first."""
    import numpy as np
    import pyarrow as pa

    from ..inference.tables import format_table
    from ..tasks.answers import compute_scores

    scores, true = compute_scores(logits, config), np.asarray(labels)
    names = np.array([config.id2label[index] for index in range(config.num_labels)])
    table = {name: texts[name][:] for name in ("text", "text_pair") if name in texts.column_names}
    if task.one_label:
        best, likely = scores.argmax(axis=1), scores[np.arange(len(true)), true]
        table |= {"label": names[true].tolist(), "answer": names[best].tolist(), "score": scores.max(axis=1)}
        table["wrong"], badness = best != true, -likely
    elif task.problem_type == "regression":
        badness = np.abs(scores - true.reshape(scores.shape)).max(axis=1)
        for number, name in enumerate(names):
            table |= {f"{name}": true.reshape(scores.shape)[:, number], f"answer_{name}": scores[:, number]}
        table["error"] = badness
    else:
        given = [answer["labels"] for answer in task.answers(logits, config)]
        expected = [names[row > 0.5].tolist() for row in true]
        table |= {"label": list(map(", ".join, expected)), "answer": list(map(", ".join, given))}
        badness = np.abs(scores - true).sum(axis=1)
        table["wrong"] = [set(one) != set(other) for one, other in zip(given, expected, strict=True)]
        badness = badness + len(names) * np.asarray(table["wrong"])
    order = np.argsort(-badness, kind="stable")
    write_whole(Path(path), format_table(pa.table(table).take(order), path))
