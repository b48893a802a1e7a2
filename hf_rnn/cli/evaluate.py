"""`hf-rnn evaluate`: measure a trained model on labelled texts; print a summary, in a pipe one JSON object."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data import Location, TableArguments
from ..hub.model_folder import FinishedFolder, find_folder
from ..models.settings_rnn import setting
from ..settings.flags import Flags
from ..utils.errors import UserError
from ..utils.process import write_whole
from .console import ModelFlags, print_note

if TYPE_CHECKING:
    import datasets
    import numpy as np
    from transformers import PreTrainedConfig

    from ..data.read import Table
    from ..inference.engines import Engine
    from ..inference.tokens import Tokenizer
    from ..tasks import Task


@dataclass
class EvaluateArguments(TableArguments, ModelFlags):
    """Flags of this verb beside those of the texts and their files."""

    split: str | None = setting(
        None,
        "train, dev or test; of one table train are the rows that were trained on (default: test, or others)",
        shown="common",
    )
    output_file: Location | None = setting(
        None,
        "file for each row with answer and score, worst first: .csv .tsv .jsonl .parquet .xlsx",
        shown="common",
    )
    target: float | None = setting(
        None, "accuracy of the answers that need no person; thresholds for it go into the folder", above=0, below=1,
        shown="common",
    )  # fmt: skip
    none_label: str | None = setting(
        None, "label in the data of texts that fit no class of the model"
    )
    typos: list[float] | None = setting(
        None, "score copies of the rows with this share of words mistyped too, such as 0.1 0.2"
    )
    guard: str | None = setting(
        None, "streaming models: measure stops of a text by the score of this label"
    )
    label_map: list[str] | None = setting(
        None, "labels of the data with other names in the model: 0=neutral 1=bad"
    )
    threshold: float = setting(
        0.9, "streaming models: the score at which an early answer counts", above=0, most=1
    )
    device: str = setting("cpu", "cpu is the fast path; cuda, mps ... run the plain model")


_TARGET = 0.95
_MEANING = "Measure a model on labelled texts."
FLAGS = Flags(
    "evaluate", EvaluateArguments, _MEANING, "my-model tickets.csv", ("model", "data_dir"), 2
)


@dataclass(frozen=True)
class Measured:
    """Rows to score."""

    rows: datasets.Dataset  # as the task reads them
    name: str  # that of their split or their file
    # rows of the split or the file that the model was trained on; None for unknown
    trained_on: int | None
    seen: np.ndarray  # whether each of `rows` was trained on
    classless: datasets.Dataset  # the rows of no class
    table: Table | None
    places: np.ndarray  # lines or rows in the table
    columns: Mapping[str, str]  # those of the table by use: text, label ...


def run(argv: Sequence[str]) -> None:
    """Measure, and print `model`, `split`, `rows_trained_on` and the scores of the task."""
    arguments: EvaluateArguments = FLAGS.build(argv)
    arguments.check_model()
    arguments.check_source()
    import datasets
    import numpy as np

    from ..evaluation.decisions import measure_none
    from ..hub.model_folder import load_model, quiet
    from ..inference.engines import InferenceOptions
    from ..inference.predictor import load_engine
    from ..tasks import compute_scores, task_of

    quiet()
    datasets.disable_progress_bars()
    engine, tokenizer = load_engine(
        arguments.model, InferenceOptions(arguments.revision, device=arguments.device)
    )
    task, config = task_of(engine.config), engine.config
    check_flags(arguments, task, config)
    measured = choose_rows(arguments, task, config)
    result: dict[str, Any] = {
        "model": arguments.model, "split": measured.name, "rows_trained_on": measured.trained_on
    }  # fmt: skip

    def encode(rows: datasets.Dataset) -> datasets.Dataset:
        return task.encode(datasets.DatasetDict(test=rows), tokenizer, None)["test"]

    def answer(rows: datasets.Dataset) -> tuple[list[list[int]], np.ndarray, Any]:
        encoded = encode(rows)
        input_ids, labels = encoded["input_ids"][:], encoded["labels"][:]
        logits = engine.run(input_ids).astype(np.float64)
        return input_ids, logits, labels if task.per_token else np.asarray(labels)

    if task.generates:
        from ..tasks.causal_lm import sum_losses

        model, _ = load_model(arguments.model, arguments.revision, arguments.device)
        result |= task.evaluate(sum_losses(model, encode(measured.rows)), (), config)
    else:
        input_ids, logits, labels = answer(measured.rows)
        result |= task.evaluate(logits, labels, config)
        if getattr(config, "streaming", False) and not task.per_token:
            from ..inference.stream import measure_prefixes

            result["streaming"] = measure_prefixes(engine, input_ids, labels, arguments.threshold)
        if arguments.guard is not None:
            result["guard"] = judge_guard(arguments, engine, input_ids, labels)
        if task.one_label:
            scores = compute_scores(logits, config)
            decisions = decide(arguments, list(config.id2label.values()), measured, scores, labels)
            result["without_a_person"] = decisions
            if arguments.none_label is not None:
                by_label = {
                    name: facts["threshold"]
                    for name, facts in (decisions or {}).get("by_label", {}).items()
                }
                unknown = compute_scores(answer(measured.classless)[1], config)
                result["none"] = {
                    "label": arguments.none_label,
                    **measure_none(scores, unknown, by_label),
                }
        if arguments.typos:
            result["typos"] = judge_typos(arguments, task, config, tokenizer, measured.rows, answer)
        if arguments.output_file is not None:
            write_answers(arguments.output_file, task, config, measured, logits, labels)
    print(summarize(result) if sys.stdout.isatty() else json.dumps(result, ensure_ascii=False))


def check_flags(arguments: EvaluateArguments, task: Task, config: PreTrainedConfig) -> None:
    """Raise a [`UserError`] for a flag that the model has no use for."""
    from ..inference.tables import find_suffix

    labels, streams = list(config.id2label.values()), getattr(config, "streaming", False)
    one_each = not task.per_token and not task.generates
    for name, suits, what in (
        ("target", task.one_label, "one label per text"),
        ("none_label", task.one_label, "one label per text"),
        ("typos", not task.generates, "labels, tags and numbers"),
        ("output_file", one_each, "labels and numbers of whole texts"),
        (
            "guard",
            streams and one_each and task.problem_type != "regression",
            "labels of a streaming model",
        ),
    ):
        if getattr(arguments, name) is not None and not suits:
            raise UserError(f"{name} is for {what}: the task is {task.name}; leave it out")
    if wrong := [share for share in arguments.typos or () if not 0 <= share <= 1]:
        raise UserError(f"typos are shares of words, from 0 to 1: found {wrong[0]:g}")
    if arguments.none_label in labels:
        raise UserError(
            f"none_label is for texts of no class: {arguments.none_label!r} is a label of the model"
        )
    if arguments.guard not in (None, *labels):
        raise UserError(f"guard must be one of {', '.join(labels)}: found {arguments.guard!r}")
    if arguments.output_file is not None:
        find_suffix(arguments.output_file)


def summarize(result: Mapping[str, Any]) -> str:
    """Return lines for people: the scores that are one number, and the share of texts that need no person."""
    scores = [
        f"{name.replace('_', ' ')} {value:.3f}"
        for name, value in result.items()
        if isinstance(value, float)
    ]
    lines = [f"{result['split']}: {result.get('rows', 'all')} rows, {', '.join(scores)}"]
    if sure := result.get("without_a_person"):
        lines.append(
            f"{sure['share']:.0%} of the texts need no person for a target of {sure['target']:g}: their accuracy is "
            f"{sure['accuracy'] or 0:.3f}; on the rows that chose the thresholds {sure['chosen_on']['share']:.0%}, "
            f"{sure['chosen_on']['accuracy'] or 0:.3f}"
        )
        lines += [sure["costliest"]] * bool(sure["costliest"])
    if none := result.get("none"):
        lines.append(
            f"{none['label']}: AUROC {none['auroc']:.3f}, {none['alone']:.0%} would be answered alone"
        )
    return "\n".join(lines)


# ---- decisions, stops, typing mistakes ----


def decide(
    arguments: EvaluateArguments,
    names: Sequence[str],
    measured: Measured,
    scores: np.ndarray,
    labels: np.ndarray,
) -> dict[str, Any] | None:
    """Return which answers to unseen rows need no person; None without such rows.

    Thresholds of the folder that other rows chose are measured. Without them these rows choose,
    which is repeated on parts that did not choose; with `target` such thresholds go into the
    folder.
    """
    from ..data.splits import hash_texts, join_texts
    from ..evaluation import decisions as made

    unseen, target = ~measured.seen, arguments.target or _TARGET
    scores, labels = scores[unseen], labels[unseen]
    if not len(labels):
        return None
    folder = FinishedFolder(find_folder(arguments.model, arguments.revision))
    weights = folder.weight_files()[0]
    texts = made.hash_rows(hash_texts(join_texts(measured.rows))[unseen])
    thresholds = made.read_thresholds(folder.thresholds, weights).get(f"{target:g}")
    if thresholds is None:
        thresholds = made.choose_thresholds(scores, labels, names, target, texts)
        if absent := [name for number, name in enumerate(names) if number not in labels]:
            print_note(f"without rows, so a person checks all their answers: {', '.join(absent)}")
        if arguments.target is not None and Path(arguments.model).is_dir():
            made.write_thresholds(folder.thresholds, weights, [thresholds])
            print_note(
                f"the thresholds are in {folder.thresholds}, for predict --target {target:g}"
            )
            draw(
                lambda: made.draw_coverage(scores, labels, names, folder.coverage), folder.coverage
            )
    alone, single = (
        made.measure_decisions(made.needs_person(limits, names, scores), scores, labels)
        for limits in (thresholds.by_label, dict.fromkeys(names, thresholds.single))
    )
    by_label = made.measure_labels(thresholds.by_label, scores, labels, names)
    return {
        "target": target,
        **asdict(thresholds.repeated if thresholds.texts == texts else alone),
        "chosen_on": asdict(thresholds.chosen_on),
        "single_threshold": {
            "threshold": thresholds.single,
            "share": single.share,
            "accuracy": single.accuracy,
        },
        "by_label": by_label,
        "costliest": made.describe_costliest(by_label, target),
    }


def judge_guard(
    arguments: EvaluateArguments,
    engine: Engine,
    input_ids: Sequence[Sequence[int]],
    labels: np.ndarray,
) -> dict[str, Any]:
    """Return false stops and misses of a guard by its rule; draw them into the folder of the model."""
    from ..inference.stream import draw_guard, measure_guard

    number = engine.config.label2id[arguments.guard]
    is_bad = labels == number if labels.ndim == 1 else labels[:, number] > 0.5
    stops = measure_guard(engine, input_ids, is_bad, number)
    if Path(arguments.model).is_dir():
        path = FinishedFolder(Path(arguments.model)).guard
        draw(lambda: draw_guard(stops, path), path)
    return {"label": arguments.guard, **stops}


def draw(picture: Callable[[], object], path: Path) -> None:
    """Draw a picture, and note where it is, or why it is missing."""
    try:
        picture()
        print_note(f"the picture is {path}")
    except UserError as error:
        print_note(f"no picture: {error}")


def judge_typos(
    arguments: EvaluateArguments,
    task: Task,
    config: PreTrainedConfig,
    tokenizer: Tokenizer,
    rows: datasets.Dataset,
    answer: Callable[[datasets.Dataset], tuple[Any, np.ndarray, Any]],
) -> dict[str, Any]:
    """Return by share the scores for mistyped rows, with those of a linear model if the data has its training rows."""
    from ..data.report import DataReport
    from ..data.typos import mistype_rows
    from ..evaluation.scores import LinearBaseline

    linear, by_share = None, dict[str, dict[str, Any]]()
    if task.one_label and Path(str(arguments.data_dir)).is_dir():
        with contextlib.suppress(UserError, ValueError):
            options = find_options(arguments, task, config, {})
            train = task.read(arguments, report=DataReport(), **options, splits=["train"])["train"]
            linear = LinearBaseline(train, tokenizer)
    for share in arguments.typos or ():
        mistyped = mistype_rows(rows, share, "evaluate")
        _, logits, labels = answer(mistyped)
        scores = task.evaluate(logits, labels, config)
        by_share[f"{share:g}"] = {
            name: value for name, value in scores.items() if isinstance(value, float)
        }
        if linear is not None:
            by_share[f"{share:g}"]["linear_model"] = linear.measure(mistyped, "typos")
    return by_share


# ---- the rows ----


def choose_rows(arguments: EvaluateArguments, task: Task, config: PreTrainedConfig) -> Measured:
    """Return the rows that the flags name: without `split` test, or the rows of a table that were not trained on.

    A table without splits has two halves: rows that were trained on are `train`, the others
    `validation`.
    """
    import numpy as np

    from ..data.report import DataReport
    from ..data.splits import hash_texts, join_texts, read_training_rows
    from ..inference.tables import read_record

    split = {"dev": "validation"}.get(str(arguments.split), arguments.split)
    source, folder = str(arguments.data_dir or arguments.dataset_name), Path(arguments.model)
    record, is_file = read_record(arguments.model, arguments.revision), Path(source).is_file()
    options, report = find_options(arguments, task, config, record), DataReport()
    trained = read_training_rows(FinishedFolder(folder)) if folder.is_dir() else None
    halves = (
        split in ("train", "validation")
        and not task.generates
        and (is_file or bool(record.get("held_out")))
    )
    further = {"validation_share": 0} if halves else {"splits": [split or "test"]}
    splits = task.read(arguments, report=report, **options, **further)
    stored = "train" if halves and split not in splits else split or "test"
    rows, name = splits[stored], Path(source).name if is_file and split is None else split or "test"
    chosen, seen = np.ones(len(rows), dtype=bool), np.zeros(len(rows), dtype=bool)
    if trained is not None:
        seen = np.isin(hash_texts(join_texts(rows)), trained)
    if halves and stored == "train" and (seen.any() or is_file or split == "validation"):
        chosen = seen if split == "train" else ~seen
        if not seen.any() or not chosen.any():
            there = "all rows were" if seen.any() else "no row is known to be"
            raise UserError(
                f"{source} has no split {split}, and {there} trained on: leave out --split"
            )
    # the scores of a folder are those of its card
    elif split is None and is_file and not seen.all():
        chosen = ~seen
    counted = seen[chosen] if halves else seen
    count = None if trained is None else int(counted.sum())
    print_note(describe_rows(name, count, len(counted), int(chosen.sum()), record))
    classless = np.zeros(len(rows), dtype=bool)
    if arguments.none_label is not None:
        classless = chosen & (np.asarray(rows["label"][:]) == config.num_labels)
        chosen &= ~classless
        if not classless.any() or not chosen.any():
            shares = f"{classless.sum()} of {(chosen | classless).sum()}"
            raise UserError(f"none_label needs rows with this label and others: {shares} have it")
    table, places = report.tables.get(stored, (None, np.arange(len(rows))))
    named = rows.select(np.flatnonzero(classless))
    rows = rows if chosen.all() else rows.select(np.flatnonzero(chosen))
    return Measured(rows, name, count, seen[chosen], named, table, places[chosen], report.columns)


def find_options(
    arguments: EvaluateArguments, task: Task, config: PreTrainedConfig, record: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the labels of a model and the columns that it was trained on, as options of a reader."""
    class_names = [config.id2label[index] for index in range(config.num_labels)]
    label_map = dict(pair.rpartition("=")[::2] for pair in arguments.label_map or ())
    if len(label_map) < len(arguments.label_map or ()) or not all(label_map):
        found = " ".join(arguments.label_map or ())
        raise UserError(
            f"label_map is {found}: give each label of the data once, as --label_map 0=negative 1=neutral"
        )
    if not label_map and class_names == [f"LABEL_{index}" for index in range(len(class_names))]:
        # as transformers numbers integers
        label_map = {str(index): name for index, name in enumerate(class_names)}
    class_names += [] if arguments.none_label is None else [arguments.none_label]
    options: dict[str, Any] = {"class_names": class_names, "label_map": label_map}
    if not task.per_token:
        options["recorded"] = {
            name: record.get(f"{name}_column") for name in ("text", "text_pair", "label")
        }
    return options


def describe_rows(
    name: str, trained_on: int | None, rows: int, scored: int, record: Mapping[str, Any]
) -> str:
    """Return a note on the number of rows that were trained on."""
    if trained_on is None:
        return f"{name}: some of its {rows:,} rows may have been trained on: the model has no hashes of these rows"
    start = record.get("unknown_rows_of")
    more = (
        f"; the model started from {start}, and the rows that trained that one are unknown"
        if start
        else ""
    )
    note = f"{name}: {trained_on:,} of {rows:,} rows were trained on"
    if scored < rows:
        return f"{note}; the scores are of the other {scored:,}{more}"
    return f"{note}{'; new texts have lower scores' * (trained_on > 0)}{more}"


# ---- the answers ----


def write_answers(
    path: str,
    task: Task,
    config: PreTrainedConfig,
    measured: Measured,
    logits: np.ndarray,
    labels: np.ndarray,
) -> None:
    """Write the rows of the table with their places, answers, scores and whether they are wrong, worst first.

    Columns without names are named by their use, such as text and label.
    """
    import numpy as np
    import pyarrow as pa

    from ..inference.tables import format_table
    from ..tasks import compute_scores

    scores, names = compute_scores(logits, config), np.array(list(config.id2label.values()))
    columns: dict[str, Any] = {}
    if task.one_label:
        true, best = names[labels], scores.argmax(axis=1)
        columns |= {"answer": names[best], "score": scores.max(axis=1), "wrong": best != labels}
        badness = -scores[np.arange(len(labels)), labels]
    elif task.problem_type == "regression":
        true = labels.reshape(scores.shape)
        columns |= {f"answer_{name}": scores[:, number] for number, name in enumerate(names)}
        badness = columns["error"] = np.abs(scores - true).max(axis=1)
    else:
        true = [names[row > 0.5].tolist() for row in labels]
        answers = [answer["labels"] for answer in task.answers(logits, config)]
        wrong = [set(answer) != set(row) for answer, row in zip(answers, true, strict=True)]
        columns |= {"answer": answers, "wrong": wrong}
        badness = np.abs(scores - labels).sum(axis=1) + len(names) * np.asarray(wrong)
    table, separator, encoding = measured.table, None, None
    if table is None:  # a data set, or several files
        rows = (
            measured.rows.with_format("arrow")[:]
            .drop_columns("label")
            .append_column("label", pa.array(list(true)))
        )
    else:
        rows = table.to_arrow()
        separator, encoding, columns = (
            table.separator,
            table.encoding,
            {table.unit: measured.places, **columns},
        )
        if not table.has_names:
            uses = {column: use for use, column in measured.columns.items()}
            rows = rows.rename_columns([uses.get(name, name) for name in rows.column_names])
        rows = rows.take(np.searchsorted(table.places, measured.places))
    prefix = "" if columns.keys().isdisjoint(rows.column_names) else "predicted_"
    for name, column in columns.items():
        rows = rows.append_column(prefix + name, pa.array(column))
    rows = rows.take(np.argsort(-badness, kind="stable"))
    write_whole(
        Path(path), format_table(rows, path, separator, encoding not in (None, "utf-8", "ascii"))
    )
