"""Measure a model on labelled rows: scores, decisions, texts of no class, mistyped rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from operator import ne
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import pyarrow as pa

from ..data.splits import hash_texts, join_texts
from ..data.typos import mistype_rows
from ..evaluation import decisions
from ..evaluation.scores import single_scores
from ..hub.model_folder import load_model
from ..tasks import Config, Metrics, Task, compute_scores, task_of
from ..utils.errors import UserError
from ..utils.process import replace_file
from .engine import InferenceOptions
from .open import Opened, open_engine
from .options import EvaluateOptions
from .rows import Rows, choose_rows
from .tables import came_from_excel, find_suffix, write_table

if TYPE_CHECKING:
    import numpy.typing as npt

    from ..data.table import Table

_ROWS = 50_000  # answered at a time
_TARGET = 0.95


@dataclass(frozen=True)
class Answers:
    """The answers of a model to rows."""

    encoded: datasets.Dataset  # the rows as ids
    logits: np.ndarray
    labels: Any  # `(N)`, `(N, C)`, or by sentence


@dataclass
class Evaluation:
    """A measured model.

    Attributes:
        model: Its name, as it was given.
        task: That of the model.
        config: That of the model.
        rows: The rows that were scored.
        scores: Those of the task; see `Task.evaluate`.
        answers: Those of the model to the rows.
        without_a_person: Which answers to unseen rows need no person; None without such rows, and
            for other tasks than one label per text.
        none: How well texts of no class are found, with `none_label`.
        typos: Scores of mistyped rows, by the share of mistyped words.
        notes: Lines about rows, thresholds and pictures, for people.
    """

    model: str
    task: Task = field(repr=False)
    config: Config = field(repr=False)
    rows: Rows = field(repr=False)
    scores: Metrics
    answers: Answers | None = field(default=None, repr=False)  # None of a language model
    without_a_person: Metrics | None = None
    none: Metrics | None = None
    typos: dict[str, Metrics] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> Metrics:
        """Return the numbers as `hf-rnn evaluate` prints them."""
        result: Metrics = {
            "model": self.model,
            "split": self.rows.name,
            "rows_trained_on": self.rows.trained_on,
            **self.scores,
        }
        if self.task.one_label:
            result["without_a_person"] = self.without_a_person
        if self.none is not None:
            result["none"] = self.none
        if self.typos:
            result["typos"] = self.typos
        return result

    def summarize(self) -> str:
        """Return lines for people: scores that are one number, and what needs no person."""
        numbers = single_scores(self.scores).items()
        scores = [f"{name.replace('_', ' ')} {value:.3f}" for name, value in numbers]
        count = self.scores.get("rows", "all")
        lines = [f"{self.rows.name}: {count} rows, {', '.join(scores)}"]
        alone = self.without_a_person
        if alone is not None:
            chosen = alone["chosen_on"]
            lines.append(
                f"{alone['share']:.0%} of the texts need no person for a target of "
                f"{alone['target']:g}: their accuracy is {alone['accuracy'] or 0:.3f}; on the rows "
                f"that chose the thresholds {chosen['share']:.0%}, {chosen['accuracy'] or 0:.3f}"
            )
            if alone["costliest"]:
                lines.append(alone["costliest"])
        none = self.none
        if none is not None:
            line = f"{none['label']}: AUROC {none['auroc']:.3f}"
            line += f", {none['alone']:.0%} would be answered alone"
            with_new = none["accuracy_with_new"]
            if with_new is not None:
                line += f"; the accuracy of all automatic answers is {with_new:.3f}"
            lines.append(line)
        return "\n".join(lines)

    def write_answers(self, path: str | Path) -> None:
        """Write the rows with places, answers, scores and whether they are wrong, worst first.

        Columns without names are named by their use, such as text and label.

        Raises:
            UserError: For an unknown format, and for tasks without one answer per text.
        """
        check_answers_file(str(path), self.task)
        assert self.answers is not None  # the task has answers
        _write_answers(self, self.answers, str(path))


def evaluate(
    model: str | Path,
    data: object,
    *,
    split: str | None = None,
    target: float | None = None,
    none_label: str | None = None,
    typos: Iterable[float] = (),
    **options: Any,
) -> Evaluation:
    """Measure a model on labelled rows.

    Args:
        model: A finished folder, or a repo of the Hub by its id.
        data: A table, or a folder with splits; or rows in memory: a frame, or pairs of a text and
            its label.
        split: `train`, `validation` or `test`; of one table `train` are the rows that were trained
            on. By default test, or the rows of a table that were not trained on.
        target: The accuracy of answers that need no person. The thresholds in the folder are
            measured; without them these rows choose, and the folder keeps what they choose.
        none_label: The label in the data of texts that fit no class of the model. They count as
            wrong where thresholds are chosen.
        typos: Shares of words; copies of the rows with this share of mistyped words are scored too.
        options: The other flags of `hf-rnn evaluate`, such as `label_column`, `revision` and
            `choose`.

    Raises:
        UserError: For unusable data, and for an option that the model has no use for.

    Example:
        >>> evaluate("out/tweets", "later.csv", target=0.95).scores["accuracy"]
        0.81
    """
    revision = options.pop("revision", None)
    if isinstance(data, str | Path):
        options["data_dir"] = str(data)
        data = None
    settings = EvaluateOptions(
        split=split,
        target=target,
        none_label=none_label,
        typos=list(typos) or None,
        **options,
    )
    return evaluate_model(str(model), settings, revision, data)


def evaluate_model(
    model: str,
    options: EvaluateOptions,
    revision: str | None = None,
    data: object = None,
    output_file: str | None = None,
) -> Evaluation:
    """Measure a model; see [`evaluate`].

    Args:
        model: A finished folder, or a repo of the Hub by its id.
        options: The rows, and the measures.
        revision: Branch, tag or commit, for a repo id.
        data: Rows in memory, in place of the source of the options.
        output_file: The file for each row with its answer.
    """
    opened = open_engine(model, InferenceOptions(revision, device=options.device))
    config = opened.engine.config
    task = task_of(config)
    check_options(options, task, config)
    if output_file is not None:
        check_answers_file(output_file, task)
    rows = choose_rows(model, options, config, revision, data)
    if task.generates:
        from ..tasks.causal_lm import sum_losses  # needs torch

        network, _ = load_model(opened.folder.root, device=options.device)
        encoded = task.encode(datasets.DatasetDict(test=rows.data), opened.tokenizer, None)
        scores = task.evaluate(sum_losses(network, encoded["test"]), (), config)
        return Evaluation(model, task, config, rows, scores, notes=[rows.note])

    answers = answer_rows(opened, task, rows.data)
    scores = task.evaluate(answers.logits.astype(np.float64), answers.labels, config)
    result = Evaluation(model, task, config, rows, scores, answers, notes=[rows.note])
    if task.one_label:
        _decide(result, answers, options, opened)
    for share in options.typos or ():
        mistyped = answer_rows(opened, task, mistype_rows(rows.data, share, "evaluate"))
        scores = task.evaluate(mistyped.logits.astype(np.float64), mistyped.labels, config)
        result.typos[f"{share:g}"] = single_scores(scores)
    if output_file is not None:
        result.write_answers(output_file)
    return result


def check_options(options: EvaluateOptions, task: Task, config: Config) -> None:
    """Raise a [`UserError`] for an option that the model has no use for."""
    has_one = "one label per text"
    for name, suits, what in (
        ("target", task.one_label, has_one),
        ("none_label", task.one_label, has_one),
        ("typos", not task.generates, "labels, tags and numbers"),
    ):
        if getattr(options, name) is not None and not suits:
            raise UserError(f"{name} is for {what}: the task is {task.name}; leave it out")
    for share in options.typos or ():
        if not 0 <= share <= 1:
            raise UserError(f"typos are shares of words, from 0 to 1: found {share:g}")
    if options.target is not None:
        decisions.check_target(options.target)
    if options.choose and options.target is None:
        raise UserError("choose replaces the thresholds for a target: add --target 0.95")
    if options.none_label in config.id2label.values():
        raise UserError(
            f"none_label is for texts of no class: {options.none_label!r} is a label of the model"
        )


# ---- answers and their scores ----


def answer_rows(opened: Opened, task: Task, rows: datasets.Dataset) -> Answers:
    """Return the answers of a model to rows, in float32, as [`FastRnn.predict`] computes them."""
    encoded = task.encode(datasets.DatasetDict(test=rows), opened.tokenizer, None)["test"]
    labels = encoded["labels"][:]
    if task.per_token:
        return Answers(encoded, opened.engine.run(encoded["input_ids"][:]), labels)
    batches = encoded.select_columns("input_ids").iter(_ROWS)
    logits = [opened.engine.run(batch["input_ids"]) for batch in batches]
    return Answers(encoded, np.concatenate(logits or [opened.engine.run([])]), np.asarray(labels))


# ---- decisions ----


def _decide(result: Evaluation, answers: Answers, options: EvaluateOptions, opened: Opened) -> None:
    """Say which answers to unseen rows need no person, and how texts of no class are answered.

    Thresholds of the folder that other rows chose are measured. Without them these rows choose,
    which is repeated on parts that did not choose; with `target` such thresholds go into the
    folder.
    """
    rows = result.rows
    config = result.config
    names = list(config.id2label.values())
    unseen = np.flatnonzero(~rows.seen)
    scores = compute_scores(answers.logits, config)
    unknown = np.zeros((0, len(names)), np.float32)
    if options.none_label is not None:
        logits = answer_rows(opened, result.task, rows.classless).logits
        unknown = compute_scores(logits, config)

    by_label: Mapping[str, float | None] = {}
    if len(unseen):
        data = datasets.concatenate_datasets([rows.data.select(unseen), rows.classless])
        every_score = np.concatenate([scores[unseen], unknown])
        every_label = np.append(answers.labels[unseen], np.full(len(unknown), -1))
        thresholds = _find_thresholds(result, options, opened, data, every_score, every_label)
        by_label = thresholds.by_label
        result.without_a_person = _measure_thresholds(
            thresholds, scores[unseen], answers.labels[unseen], names, _hash(data)
        )
        texts = data["text"]
        hint = decisions.describe_missing(thresholds, every_score, every_label, names, texts)
        if hint is not None:
            result.notes.append(hint)
    if options.none_label is not None:
        measured = decisions.measure_none(scores, answers.labels, unknown, names, by_label)
        result.none = {"label": options.none_label, **measured}


def _find_thresholds(
    result: Evaluation,
    options: EvaluateOptions,
    opened: Opened,
    data: datasets.Dataset,
    scores: np.ndarray,
    labels: np.ndarray,
) -> decisions.Thresholds:
    """Return the thresholds of the folder, or those that these rows choose for it."""
    folder = opened.folder
    fingerprint = opened.engine.fingerprint
    names = list(opened.engine.config.id2label.values())
    target = options.target or _TARGET
    if not options.choose:
        content = folder.read_thresholds()
        stored = decisions.parse_thresholds(content, folder.thresholds, fingerprint)
        if f"{target:g}" in stored:
            return stored[f"{target:g}"]
    chosen = decisions.choose_thresholds(scores, labels, names, target, _hash(data))
    present = set(labels.tolist())
    absent = [name for number, name in enumerate(names) if number not in present]
    if absent:
        result.notes.append(
            f"no rows of label {', '.join(absent)} here: no threshold can be chosen, so its "
            "answers go to a person"
        )
    if options.target is not None and Path(result.model).is_dir():
        decisions.write_thresholds(folder.thresholds, fingerprint, [chosen], options.choose)
        place = f"the thresholds are in {folder.thresholds}"
        result.notes.append(f"{place}, for predict --target {target:g}")
        known = labels >= 0
        try:
            decisions.draw_coverage(scores[known], labels[known], [chosen], folder.coverage)
            result.notes.append(f"the picture is {folder.coverage}")
        except UserError as error:
            result.notes.append(f"no picture: {error}")
    return chosen


def _hash(data: datasets.Dataset) -> str:
    return decisions.hash_rows(hash_texts(join_texts(data)))


def _measure_thresholds(
    thresholds: decisions.Thresholds,
    scores: np.ndarray,
    labels: np.ndarray,
    names: list[str],
    rows_hash: str,
) -> Metrics:
    """Return what thresholds do to rows; for rows that chose them, to parts that did not."""

    def measure(by_label: Mapping[str, float | None]) -> decisions.Decisions:
        waiting = decisions.needs_person(by_label, names, scores)
        return decisions.measure_decisions(waiting, scores, labels)

    alone = thresholds.repeated
    if thresholds.chosen_on_hash != rows_hash:
        alone = measure(thresholds.by_label)
    single = measure(dict.fromkeys(names, thresholds.single))
    by_label = decisions.measure_labels(thresholds.by_label, scores, labels, names)
    return {
        "target": thresholds.target,
        **asdict(alone),
        "chosen_on": asdict(thresholds.chosen_on),
        "single_threshold": {
            "threshold": thresholds.single,
            "share": single.share,
            "accuracy": single.accuracy,
        },
        "by_label": by_label,
        "costliest": decisions.describe_costliest(by_label, thresholds.target),
    }


# ---- each row with its answer ----


def check_answers_file(path: str, task: Task) -> None:
    """Raise a [`UserError`] for a file that cannot hold the answers of a task."""
    if task.per_token or task.generates:
        found = f"the task is {task.name}; leave it out"
        raise UserError(f"output_file is for labels and numbers of whole texts: {found}")
    find_suffix(path)


def _write_answers(result: Evaluation, answers: Answers, path: str) -> None:
    rows = result.rows
    columns, badness, true = _grade(result.task, result.config, answers)
    layout: tuple[str | None, bool] = (None, False)
    if rows.table is None:
        table = rows.data.with_format("arrow")[:].drop_columns("label")
        table = table.append_column("label", pa.array(list(true)))
    else:
        layout = (rows.table.separator, came_from_excel(rows.table))
        table, places = _take_rows(rows.table, rows)
        columns = places | columns

    prefix = "" if columns.keys().isdisjoint(table.column_names) else "predicted_"
    for name, column in columns.items():
        table = table.append_column(prefix + name, pa.array(column))
    table = table.take(np.argsort(-badness, kind="stable"))
    with replace_file(Path(path)) as file:
        write_table(table, file, path, *layout)


def _take_rows(stored: Table, rows: Rows) -> tuple[pa.Table, dict[str, npt.ArrayLike]]:
    """Return the scored rows as they are stored, and the columns of their places."""
    numbers = np.searchsorted(stored.places, rows.places)
    places: dict[str, npt.ArrayLike] = {stored.unit: rows.places}
    if stored.unit == "line":  # as a spreadsheet counts, where a cell may have several lines
        places["row"] = numbers + 1 + stored.has_names
    table = stored.to_arrow()
    if not stored.has_names:
        uses = {column: use for use, column in rows.columns.items()}
        table = table.rename_columns([uses.get(name, name) for name in table.column_names])
    return table.take(numbers), places


def _grade(
    task: Task, config: Config, answers: Answers
) -> tuple[dict[str, npt.ArrayLike], np.ndarray, Iterable[object]]:
    """Return columns of answers, how bad each is `(N)`, and the true labels."""
    names = np.array(list(config.id2label.values()))
    labels = answers.labels
    scores = compute_scores(answers.logits.astype(np.float64), config)
    columns: dict[str, npt.ArrayLike]
    if task.one_label:
        best = scores.argmax(axis=1)
        columns = {"answer": names[best], "score": scores.max(axis=1), "wrong": best != labels}
        return columns, -scores[np.arange(len(labels)), labels], names[labels]

    true = labels.reshape(scores.shape)
    distances = np.abs(scores - true)
    if task.problem_type == "regression":
        columns = dict(zip([f"answer_{name}" for name in names], scores.T, strict=True))
        columns["error"] = distances.max(axis=1)
        return columns, distances.max(axis=1), true

    true_sets = [names[row > 0.5].tolist() for row in true]
    sets = [row["labels"] for row in task.answers(scores, config)]
    wrong = np.array(list(map(ne, map(set, sets), map(set, true_sets))))
    return {"answer": sets, "wrong": wrong}, distances.sum(axis=1) + len(names) * wrong, true_sets
