"""A model card from facts: `README.md`, with metadata for the Hub, and `card_facts.json`.

`card.md` is its text for every task. Tables of scores and labels are made here.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ..utils.errors import HubError, reason_of
from ..utils.process import write_whole
from .model_folder import FinishedFolder

logger = logging.getLogger(__name__)

Facts: TypeAlias = Mapping[str, Any]  # about one subject, by name, as JSON

_SHOWN = 10  # labels at either end of a long table
_HUB_METRICS = {"macro_f1": "f1", "macro_recall": "recall"}  # names on the Hub that differ
_COLUMNS = {"text": "text", "second text": "text_pair", "label": "label"}


@dataclass(kw_only=True)
class ModelFacts:
    """The network. Fields without a comment are as in the configuration."""

    task: str = "sequence-classification"
    cell_type: str
    num_hidden_layers: int
    hidden_size: int
    bidirectional: bool
    pooling: str
    embedding_size: int
    vocab_size: int
    block_type: str = "plain"
    num_parameters: int
    size_in_bytes: int | None = None  # size of the weights
    max_length: int | None = None  # tokens read per text
    text_pairs: bool = False  # whether an example is two texts
    # thresholds of a multi-label model in the order of the ids
    thresholds: Sequence[float] | None = None
    # the linear part: `ngrams`, `factor`, `seconds`, `network` (scores), `strongest` (by label)
    wide: Facts | None = None


@dataclass(kw_only=True)
class DataFacts:
    """The data that the model learned."""

    dataset_name: str
    dataset_id: str | None = None
    data: Facts | None = None  # the record of the data in `metrics.json`
    rows: int | None = None  # number of training rows
    # the same by class, in the order of the ids
    class_counts: Mapping[str, int] = field(default_factory=dict)
    examples: Mapping[str, Sequence[str]] | None = None  # a few training texts of each class
    audit: Facts | None = None  # see `hf_rnn.data.audit.AuditReport.summary`
    unknown_token_share: float | None = None  # in the validation split, from 0 to 1


@dataclass(kw_only=True)
class TrainingFacts:
    """How the model learned."""

    # `epochs`, `steps`, `seconds`, or `method` and `seconds`
    training: Facts | None = None
    settings: Facts | None = None
    best_metric: str | None = None  # selected the epoch on the validation split
    # `name`, `id` (None for a folder), `keeps_classifier`, maybe `new_labels`
    start: Facts | None = None
    start_note: str | None = None  # why the run started so
    # `name`, `coverage_types`, `coverage_tokens` (None if not counted)
    vectors: Facts | None = None
    teacher: Facts | None = None  # its texts, and its agreement with the model
    command: str | None = None  # repeats the run
    fill_in: Mapping[str, str] | None = None  # meaning of the words in capitals in `command`
    versions: Mapping[str, str]  # by package


@dataclass(kw_only=True)
class ScoreFacts:
    """The scores and figures of the model."""

    # by split; floats go into the metadata
    results: Mapping[str, Facts] = field(default_factory=dict)
    # scores by model and split
    baselines: Mapping[str, Mapping[str, Mapping[str, float]]] | None = None
    # scores for rows of a `split` with a `share` of words mistyped
    typos: Facts | None = None
    calibration: Facts | None = None  # its effect by split
    # by target: answers that need no person, on other rows and `chosen_on`
    decisions: Facts | None = None
    figures: Mapping[str, str] | None = None  # file names by caption
    # by file: `bytes`, `texts`, `max_difference`
    onnx: Mapping[str, Mapping[str, float]] | None = None


@dataclass(kw_only=True)
class CardFacts(ModelFacts, DataFacts, TrainingFacts, ScoreFacts):
    """The content of a model card, with what the Hub asks. A missing fact leaves out its part."""

    name: str  # name of the model: the title, and in the metadata
    # the Hub's name of the task, and that of transformers' pipeline
    pipeline_tag: str = "text-classification"
    repo_id: str | None = None
    language: Sequence[str] = ()  # codes of the languages of the texts (ISO 639)
    license: str | None = None  # the Hub's identifier, such as `apache-2.0`
    tags: Sequence[str] = ()  # beside the package's own


def render(facts: CardFacts) -> str:
    """Return the content of `README.md`: a YAML block for the Hub and Markdown for people."""
    cell = "rnn" if facts.cell_type.startswith("rnn_") else facts.cell_type
    data = ModelCardData(
        pipeline_tag=facts.pipeline_tag,
        library_name="transformers",
        license=facts.license,
        language=list(facts.language) or None,
        datasets=[facts.dataset_id] if facts.dataset_id else None,
        base_model=facts.start["id"] if facts.start else None,
        tags=["hf_rnn", cell, *facts.tags],
        model_name=facts.name,
        eval_results=_list_results(facts) or None,
    )
    reference = facts.repo_id or facts.name
    template = _ENVIRONMENT.get_template("card.md")
    card = ModelCard(template.render(card_data=data.to_yaml(), facts=facts, reference=reference))
    card.text = re.sub(r"\n{3,}", "\n\n", card.text).rstrip() + "\n"
    return str(card)


def _list_results(facts: CardFacts) -> list[EvalResult]:
    """Return the scores for the Hub."""
    results: list[EvalResult] = []
    for split, metrics in facts.results.items():
        for name, value in metrics.items():
            if isinstance(value, float) and math.isfinite(value):
                result = EvalResult(
                    task_type=facts.pipeline_tag,
                    dataset_type=facts.dataset_id or "text",  # required; local data has no id
                    dataset_name=facts.dataset_name,
                    dataset_split=split,
                    metric_type=_HUB_METRICS.get(name, name),
                    metric_name=name,
                    metric_value=round(float(value), 4),
                )
                results.append(result)
    return results


# ---- tables ----


def make_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table: floats with three digits, None as an empty cell."""
    titles = [name.replace("_", " ").replace("f1", "F1") for name in columns]
    rule = ["---", *["---:"] * (len(columns) - 1)]
    lines = [titles, rule, *(list(map(_show, row)) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _show(value: object) -> str:
    """Return the text of a cell."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else plain(str(value))


def label_table(facts: CardFacts) -> str:
    """Return the labels with their number in train, and their thresholds if there are some."""
    columns: dict[str, Mapping[str, float]] = {"in train": facts.class_counts}
    if facts.thresholds is not None:
        thresholds = map(float, facts.thresholds)
        columns["threshold"] = dict(zip(facts.class_counts, thresholds, strict=True))
    rows: list[Sequence[object]] = []
    for name, _ in _ends(facts.class_counts):
        rows.append([name, *(column.get(name) for column in columns.values())])
    return make_table(["label", *columns], rows)


def score_tables(facts: CardFacts, split: str) -> str:
    """Return the scores of the model and of simpler ones, and the scores per label."""
    metrics = facts.results[split]
    by_label = [value for value in metrics.values() if isinstance(value, Mapping)]
    labels: Facts = by_label[0] if by_label else {}
    models: dict[str, Facts] = {"this model": metrics}
    models |= _list_baselines(facts, split, labels)
    typos = facts.typos
    if typos and typos["split"] == split:
        mistyped = f"{typos['share']:.0%} of words mistyped"
        models[f"this model, {mistyped}"] = typos
        for scores in (facts.baselines or {}).values():
            models[f"linear SVM, {mistyped}"] = scores["typos"]

    names = [name for name, value in metrics.items() if isinstance(value, float)]
    table = _make_score_table("", names, models)
    if labels:
        columns = list(next(iter(labels.values())))
        table += "\n\n" + _make_score_table("label", columns, dict(_ends(labels)))
    return table


def _make_score_table(title: str, names: Sequence[str], rows: Mapping[str, Facts]) -> str:
    """Return a table with a row per model or label, and these scores of it."""
    cells = [[row, *map(scores.get, names)] for row, scores in rows.items()]
    return make_table([title, *names], cells)


def _list_baselines(facts: CardFacts, split: str, labels: Facts) -> dict[str, Facts]:
    """Return the scores of simpler models by their names, with that of the most frequent class."""
    models: dict[str, Facts] = {}
    for name, splits in (facts.baselines or {}).items():
        if split in splits:
            models[name] = splits[split]
    if facts.task == "sequence-classification" and labels and facts.class_counts:
        largest = max(facts.class_counts, key=lambda name: facts.class_counts[name])
        count = sum(row["support"] for row in labels.values())
        models[f"always {largest}"] = {"accuracy": labels[largest]["support"] / max(1, count)}
    return models


def _ends(rows: Facts) -> list[tuple[str, Any]]:
    """Return names and values; of more than 20 the ten largest and the ten smallest.

    Rows of scores are sorted by F1.
    """
    entries = list(rows.items())
    if len(entries) <= 2 * _SHOWN:
        return entries
    gap: Any = None
    if isinstance(entries[0][1], Mapping):
        gap = {}
        entries = [entry for entry in entries if entry[1].get("support", 1)]
        entries.sort(key=lambda entry: entry[1].get("f1", 0), reverse=True)
    else:
        entries.sort(key=lambda entry: entry[1], reverse=True)
    return [*entries[:_SHOWN], ("…", gap), *entries[-_SHOWN:]]


# ---- escapes ----


def plain(text: str) -> str:
    """Return text on one line, escaped so that Markdown shows it unchanged."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&$])", r"\\\1", " ".join(text.split()))


def code(text: str, block: str = "") -> str:
    """Return text as Markdown code, inline or as a `block` of a language.

    It is in more backticks than it contains.
    """
    longest = max(map(len, re.findall("`+", text)), default=0)
    marks = "`" * max(longest + 1, 3 if block else 1)
    if block:
        return f"{marks}{block}\n{text.strip()}\n{marks}\n"
    pad = " " if "`" in text else ""
    return f"{marks}{pad}{' '.join(text.split())}{pad}{marks}"


def list_columns(data: Facts) -> str:
    """Return the columns of the data that have names, from the record of the data."""
    columns: list[str] = []
    for role, name in _COLUMNS.items():
        column = data.get(f"{name}_column") or ""
        if column and not column.lstrip("-").isdigit():
            columns.append(f"{role} {code(column)}")
    return ", ".join(columns)


_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)
# `fmt` is Python's format function: `{{ 1234 | fmt(",") }}`
_ENVIRONMENT.filters.update(plain=plain, code=code, cell=_show, fmt=format, shell=shlex.quote)
_ENVIRONMENT.filters["quoted"] = lambda text: json.dumps(text, ensure_ascii=False)
_ENVIRONMENT.globals.update(
    label_table=label_table, score_tables=score_tables, columns=list_columns
)


# ---- files ----


def write_card(folder: FinishedFolder, facts: CardFacts) -> None:
    """Write the card and its facts."""
    for name, content in _contents(folder, facts).items():
        write_whole(folder.root / name, content)


def read_facts(folder: FinishedFolder) -> CardFacts | None:
    """Return the facts of a card; None if the folder has no facts that this version understands."""
    if not folder.card_facts.is_file():
        return None
    try:
        return CardFacts(**json.loads(folder.card_facts.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        logger.info("the card stays unchanged: %s (%s)", folder.card_facts.name, reason_of(error))
        return None


def amend_card(folder: FinishedFolder, facts: CardFacts, **changes: Any) -> bool:
    """Change facts of a card, unless the card was edited by hand; return whether it was changed."""
    if _is_edited(folder, facts):
        return False
    write_card(folder, dataclasses.replace(facts, **changes))
    return True


def card_for_repo(folder: FinishedFolder, repo_id: str, examples: bool = False) -> dict[str, bytes]:
    """Return the contents by file name of a card that names the repo in place of the folder.

    Texts of the training data are left out unless `examples`. A card without facts, or edited by
    hand, is not changed, so it is left out here.

    Raises:
        HubError: For an edited card that shows such texts without `examples`.
    """
    facts = read_facts(folder)
    if facts is None:
        return {}
    shown = facts.examples if examples else None
    contents = _contents(folder, dataclasses.replace(facts, repo_id=repo_id, examples=shown))
    if _is_edited(folder, facts):
        del contents[folder.card.name]
        card = folder.card.read_text(encoding="utf-8")
        texts = chain.from_iterable((facts.examples or {}).values())
        if not examples and any(plain(text) in card for text in texts):
            raise HubError(
                f"{folder.card} was edited and shows training texts: "
                "remove them, or set --card_examples"
            )
    return contents


def _is_edited(folder: FinishedFolder, facts: CardFacts) -> bool:
    """Return whether a card differs from its facts."""
    return not folder.card.is_file() or render(facts) != folder.card.read_text(encoding="utf-8")


def _contents(folder: FinishedFolder, facts: CardFacts) -> dict[str, bytes]:
    stored = json.dumps(dataclasses.asdict(facts), indent=2, ensure_ascii=False) + "\n"
    return {folder.card_facts.name: stored.encode(), folder.card.name: render(facts).encode()}
