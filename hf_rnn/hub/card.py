"""A model card from the files of a finished folder: `README.md`, with metadata for the Hub.

`card.md` is its text for every task; tables of scores and labels are made here. Facts come from
`config.json` and `metrics.json`, whose section `card` has those that no other file has.
"""

from __future__ import annotations

import json
import math
import re
import shlex
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ..utils.errors import HubError
from ..utils.process import write_whole
from .model_folder import MODEL_TYPE, FinishedFolder, read_config, read_mapping

Facts: TypeAlias = Mapping[str, Any]  # about one subject, by name, as JSON

_SHOWN = 10  # labels at either end of a long table
_HUB_METRICS = {"macro_f1": "f1", "macro_recall": "recall"}  # names on the Hub that differ
_COLUMNS = {"text": "text", "second text": "text_pair", "label": "label"}
OLDER_FACTS = "card_facts.json"  # in folders of earlier versions


def read_facts(folder: FinishedFolder) -> Facts | None:
    """Return what a card says, by name; None for a folder of an older version.

    These are the fields of the configuration, the sections of `metrics.json`, and the fields of its
    section `card`. A missing fact is None and leaves out its part of the card.
    """
    metrics = read_mapping(folder.metrics) if folder.metrics.is_file() else {}
    if "card" not in metrics:
        return None
    config = read_config(str(folder.root), folder.root, MODEL_TYPE)
    facts = {**config.to_dict(), **metrics, **metrics["card"]}
    facts["results"] = {
        split: metrics[split] for split in ("validation", "test") if split in metrics
    }
    if folder.weights.is_file():
        facts["size_in_bytes"] = folder.weights.stat().st_size
    return facts


def render(found: Facts) -> str:
    """Return the content of `README.md`: a YAML block for the Hub and Markdown for people."""
    facts: Facts = defaultdict(lambda: None, found)
    cell = "rnn" if facts["cell_type"].startswith("rnn_") else facts["cell_type"]
    data = ModelCardData(
        pipeline_tag=facts["pipeline_tag"],
        library_name="transformers",
        license=facts["license"],
        language=facts["language"],
        datasets=[facts["dataset_id"]] if facts["dataset_id"] else None,
        base_model=facts["start"]["id"] if facts["start"] else None,
        tags=["hf_rnn", cell, *(facts["tags"] or ())],
        model_name=facts["name"],
        eval_results=_list_results(facts) or None,
    )
    reference = facts["repo_id"] or facts["name"]
    template = _ENVIRONMENT.get_template("card.md")
    card = ModelCard(template.render(card_data=data.to_yaml(), facts=facts, reference=reference))
    card.text = re.sub(r"\n{3,}", "\n\n", card.text).rstrip() + "\n"
    return str(card)


def _list_results(facts: Facts) -> list[EvalResult]:
    """Return the scores for the Hub."""
    results: list[EvalResult] = []
    for split, metrics in (facts["results"] or {}).items():
        for name, value in metrics.items():
            if isinstance(value, float) and math.isfinite(value):
                result = EvalResult(
                    task_type=facts["pipeline_tag"],
                    dataset_type=facts["dataset_id"] or "text",  # required; local data has no id
                    dataset_name=facts["dataset_name"],
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


def label_table(facts: Facts) -> str:
    """Return the labels with their number in train, and their thresholds if there are some."""
    counts: Mapping[str, int] = facts["class_counts"]
    columns: dict[str, Mapping[str, float]] = {"in train": counts}
    if facts["label_thresholds"] is not None:
        columns["threshold"] = dict(zip(counts, facts["label_thresholds"], strict=True))
    rows: list[Sequence[object]] = []
    for name, _ in _ends(counts):
        rows.append([name, *(column.get(name) for column in columns.values())])
    return make_table(["label", *columns], rows)


def score_tables(facts: Facts, split: str) -> str:
    """Return the scores of the model and of simpler ones, and the scores per label."""
    metrics = facts["results"][split]
    by_label = [value for value in metrics.values() if isinstance(value, Mapping)]
    labels: Facts = by_label[0] if by_label else {}
    baselines: Mapping[str, Mapping[str, Facts]] = facts["baselines"] or {}
    models: dict[str, Facts] = {"this model": metrics}
    models |= {name: splits[split] for name, splits in baselines.items() if split in splits}

    counts: Mapping[str, int] = facts["class_counts"]
    if facts["task"] == "sequence-classification" and labels and counts:
        largest = max(counts, key=lambda name: counts[name])
        rows = sum(row["support"] for row in labels.values())
        models[f"always {largest}"] = {"accuracy": labels[largest]["support"] / max(1, rows)}
    typos = facts["typos"]
    if typos and typos["split"] == split:
        mistyped = f"{typos['share']:.0%} of words mistyped"
        models[f"this model, {mistyped}"] = typos
        for scores in baselines.values():
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


def write_card(folder: FinishedFolder, metrics: Facts) -> None:
    """Write `metrics.json` with its section `card`, and the card of these facts."""
    write_whole(folder.metrics, _to_json(metrics))
    write_whole(folder.card, render(read_facts(folder) or {}).encode())


def amend_card(folder: FinishedFolder, **changes: Any) -> bool:
    """Change facts of a card that has some; return False for one that was edited by hand."""
    facts = read_facts(folder)
    if facts is None:
        return True
    if _is_edited(folder, facts):
        return False
    metrics = read_mapping(folder.metrics)
    metrics["card"] |= changes
    write_card(folder, metrics)
    return True


def card_for_repo(folder: FinishedFolder, repo_id: str, examples: bool = False) -> dict[str, bytes]:
    """Return the contents by file name of a card that names the repo in place of the folder.

    Texts of the training data are left out unless `examples`. A card of an older version, or edited
    by hand, is not changed, so it is left out here.

    Raises:
        HubError: For such a card that shows texts without `examples`.
    """
    metrics = read_mapping(folder.metrics)
    facts = read_facts(folder)
    older = folder.root / OLDER_FACTS
    stored = metrics.get("card") or (read_mapping(older) if older.is_file() else {})
    texts = chain.from_iterable((stored.get("examples") or {}).values())
    contents: dict[str, bytes] = {}
    if facts is not None:
        changes: dict[str, Any] = {"repo_id": repo_id}
        if not examples:
            changes["examples"] = None
        metrics["card"] |= changes
        contents[folder.metrics.name] = _to_json(metrics)
        if not _is_edited(folder, facts):
            contents[folder.card.name] = render({**facts, **changes}).encode()
            return contents
    card = folder.card.read_text(encoding="utf-8")
    if not examples and any(plain(text) in card for text in texts):
        raise HubError(
            f"{folder.card} was edited and shows training texts: "
            "remove them, or set --card_examples"
        )
    return contents


def _is_edited(folder: FinishedFolder, facts: Facts) -> bool:
    """Return whether a card differs from its facts."""
    return not folder.card.is_file() or render(facts) != folder.card.read_text(encoding="utf-8")


def _to_json(content: Facts) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
