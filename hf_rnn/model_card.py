"""Facts about a trained model to its card: metadata that the Hub reads and a short text that people read.

Pure: no files but the template, no network, no clock, and no word that the facts do not carry. A line of the template
whose fact is None is left out. Gathering the facts is training's work.
"""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib import resources
from string import Template
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from .errors import UserError

_CELLS = {"rnn_tanh": "RNN (tanh)", "rnn_relu": "RNN (ReLU)", "gru": "GRU", "lstm": "LSTM"}
_SCORES = {"accuracy": "accuracy", "macro_f1": "macro F1", "macro_recall": "macro recall"}
_HUB_METRICS = {"macro_f1": "f1", "macro_recall": "recall"}  # the Hub's name, where it is another


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """What a card says. Everything can be stored as JSON.

    Attributes:
        name: Name of the model: the title, and in the metadata.
        cell_type: As in the configuration; so are the next six.
        num_hidden_layers: Stacked layers.
        hidden_size: Units per direction.
        bidirectional: Whether texts are read both ways.
        pooling: How the states of a text become one vector.
        embedding_size: Width of a token's vector.
        vocab_size: Entries of the vocabulary.
        num_parameters: Parameters of the model.
        dataset_name: What the data is called.
        class_counts: Rows of the train split by class name, in the order of the ids.
        results: Metrics by split, each as `classification_metrics` returns them; further floats, such as `loss`, go
            into the metadata.
        versions: Versions by package.
        repo_id: Where the model lies on the Hub.
        dataset_id: Where the data lies on the Hub.
        language: Codes of the languages of the texts (ISO 639), empty when not known.
        license: The Hub's identifier of the model's licence, such as `apache-2.0`.
        tags: Tags beside the package's own.
        best_metric: The metric whose best value on the validation split chose the epoch that was kept.
        size_in_bytes: Size of the weights file.
        max_length: Tokens that are read of a text.
        unknown_token_share: Share of the tokens of the validation split that are not in the vocabulary, from 0 to 1.
        command: The command that repeats the run, as it is typed.
        figures: File name of each figure in the folder, by caption.

    Raises:
        ValueError: When the classes of the results are not those of `class_counts`.
    """

    name: str
    cell_type: str
    num_hidden_layers: int
    hidden_size: int
    bidirectional: bool
    pooling: str
    embedding_size: int
    vocab_size: int
    num_parameters: int
    dataset_name: str
    class_counts: Mapping[str, int]
    results: Mapping[str, Mapping[str, Any]]
    versions: Mapping[str, str]
    repo_id: str | None = None
    dataset_id: str | None = None
    language: tuple[str, ...] = ()
    license: str | None = None
    tags: tuple[str, ...] = ()
    best_metric: str | None = None
    size_in_bytes: int | None = None
    max_length: int | None = None
    unknown_token_share: float | None = None
    command: str | None = None
    figures: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        for split, metrics in self.results.items():
            if list(metrics["per_class"]) != list(self.class_counts):
                raise ValueError(f"classes of {split} are not those of train: {list(metrics['per_class'])}")

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON can hold them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> CardFacts:
        """Make the facts again from what :meth:`to_dict` returned, through JSON or not.

        Raises:
            UserError: For a fact that this version does not know, one that is missing, or facts that disagree.
        """
        unknown = sorted(set(facts) - {field.name for field in fields(cls)})
        if unknown:
            raise UserError(
                f"unknown card facts {', '.join(unknown)}: were they written by a newer version of hf-rnn?"
            )
        try:
            lists = {name: tuple(facts[name]) for name in ("language", "tags") if name in facts}
            return cls(**{**facts, **lists})
        except (TypeError, ValueError, KeyError, AttributeError) as error:  # the first names what is missing
            raise UserError(f"card facts cannot be used: {error}") from error


def render(facts: CardFacts) -> str:
    """Return the card: a YAML block for the Hub and Markdown for people.

    Args:
        facts: What is known.

    Returns:
        The content of `README.md`.
    """
    reference = facts.repo_id or facts.name
    quoted = json.dumps(reference, ensure_ascii=False)
    values: dict[str, str | None] = {
        "metadata": _metadata(facts),
        "title": _plain(facts.name),
        "summary": _summary(facts),
        "languages": ", ".join(map(_plain, facts.language)) or None,
        "label_table": _label_table(facts.class_counts),
        "results": "\n\n".join(_result(split, facts) for split in facts.results) or None,
        "figures": _figures(facts.figures or {}),
        "stands_for": f"{_code(reference)} stands for the folder of this card." if facts.repo_id is None else None,
        "predict_command": _block("bash", f'hf-rnn predict --model {shlex.quote(reference)} --text "Your text"'),
        "with_package": _block(
            "python",
            "import hf_rnn  # makes transformers know the model\n"
            "from transformers import pipeline\n\n"
            f'classifier = pipeline("text-classification", model={quoted})\n'
            'classifier("Your text")',
        ),
        "without_package": _block(
            "python",
            "from transformers import pipeline\n\n"
            f'classifier = pipeline("text-classification", model={quoted}, trust_remote_code=True)\n'
            'classifier("Your text")',
        ),
        "train_rows": f"{sum(facts.class_counts.values()):,}",
        "dataset": _plain(facts.dataset_name),
        "command": f"This command repeats the run:\n\n{_block('bash', facts.command)}" if facts.command else None,
        "best_metric": _code(facts.best_metric) if facts.best_metric else None,
        "num_parameters": f"{facts.num_parameters:,}",
        "size_in_bytes": _counted(facts.size_in_bytes),
        "vocab_size": f"{facts.vocab_size:,}",
        "max_length": _counted(facts.max_length),
        "unknown_token_share": None if facts.unknown_token_share is None else f"{facts.unknown_token_share:.1%}",
        "versions": ", ".join(f"{_plain(package)} {_plain(version)}" for package, version in facts.versions.items()),
    }
    return _fill((resources.files(__package__) / "model_card.md").read_text(encoding="utf-8"), values)


def _fill(template: str, values: Mapping[str, str | None]) -> str:
    """Fill a template in, without the lines that name a missing value and the headings that are left with nothing."""
    kept: list[str] = []
    for line in reversed(template.splitlines()):
        below = next(filter(None, reversed(kept)), "## ")
        missing = any(values[name] is None for name in Template(line).get_identifiers())
        if not missing and not (line.startswith("## ") and below.startswith("## ")):
            kept.append(line)
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(reversed(kept)))
    return Template(text).substitute(values).rstrip() + "\n"


def _metadata(facts: CardFacts) -> str:
    """Return the YAML that `huggingface_hub.ModelCard` reads back."""
    results = [
        EvalResult(
            task_type="text-classification",
            task_name="Text Classification",
            dataset_type=facts.dataset_id or "text",  # the Hub wants one; local data has none of its own
            dataset_name=facts.dataset_name,
            dataset_split=split,
            metric_type=_HUB_METRICS.get(name, name),
            metric_name=name,
            metric_value=round(float(value), 4),
        )
        for split, metrics in facts.results.items()
        for name, value in metrics.items()
        if isinstance(value, float) and math.isfinite(value)
    ]
    return ModelCardData(
        pipeline_tag="text-classification",
        library_name="transformers",
        license=facts.license,
        language=list(facts.language) or None,
        datasets=[facts.dataset_id] if facts.dataset_id else None,
        tags=["hf_rnn", facts.cell_type.split("_")[0], *facts.tags],
        model_name=facts.name,
        eval_results=results or None,
    ).to_yaml()


def _summary(facts: CardFacts) -> str:
    names = ", ".join(map(_code, facts.class_counts))
    direction = "bidirectional" if facts.bidirectional else "one-directional"
    layers = f"{facts.num_hidden_layers} layer{'s' if facts.num_hidden_layers > 1 else ''}"
    cell = _CELLS.get(facts.cell_type, facts.cell_type)
    return (
        f"This model sorts a text into one of {len(facts.class_counts)} classes: {names}. It is a {direction} {cell} "
        f"({layers} of {facts.hidden_size} units per direction, token vectors of {facts.embedding_size} numbers, "
        f"pooling `{facts.pooling}`)."
    )


def _label_table(class_counts: Mapping[str, int]) -> str:
    total = max(sum(class_counts.values()), 1)
    rows = [
        [str(index), _plain(name), f"{count:,}", f"{count / total:.1%}"]
        for index, (name, count) in enumerate(class_counts.items())
    ]
    return _table(["id", "label", "rows in train", "share"], rows)


def _result(split: str, facts: CardFacts) -> str:
    """Return the part on one split: scores beside the majority class's, then each class."""
    metrics = facts.results[split]
    majority = max(facts.class_counts, key=facts.class_counts.__getitem__)
    baseline = _constant_answer(majority, {name: row["support"] for name, row in metrics["per_class"].items()})
    scores = [
        [who, *(f"{numbers[score]:.3f}" for score in _SCORES)]
        for who, numbers in (("this model", metrics), (f"always {_plain(majority)}", baseline))
    ]
    classes = [
        [_plain(name), *(f"{row[score]:.3f}" for score in ("precision", "recall", "f1")), f"{row['support']:,}"]
        for name, row in metrics["per_class"].items()
    ]
    total = sum(row["support"] for row in metrics["per_class"].values())
    return "\n\n".join(
        [
            f"On the {_plain(split)} split ({total:,} rows), beside always answering train's most frequent class:",
            _table(["", *_SCORES.values()], scores),
            _table(["label", "precision", "recall", "F1", "rows"], classes),
        ]
    )


def _constant_answer(answer: str, support: Mapping[str, int]) -> dict[str, float]:
    """Return the scores of always giving one answer: its precision is its share, its recall 1, all others' are 0."""
    share = support[answer] / max(sum(support.values()), 1)
    found = 1.0 if support[answer] else 0.0
    return {
        "accuracy": share,
        "macro_f1": 2 * share / (share + 1) / len(support),
        "macro_recall": found / len(support),
    }


def _figures(figures: Mapping[str, str]) -> str | None:
    return "\n\n".join(f"![{_plain(caption)}](<{file}>)" for caption, file in figures.items()) or None


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, text to the left and numbers to the right."""
    numeric = [all(re.fullmatch(r"[\d.,%]+", row[column]) for row in rows) for column in range(len(header))]
    rule = ["---:" if right else "---" for right in numeric]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *rows))


def _counted(number: int | None) -> str | None:
    return None if number is None else f"{number:,}"


def _plain(text: str) -> str:
    """Return text on one line that Markdown shows as it stands."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&$])", r"\\\1", " ".join(text.split()))


def _code(text: str) -> str:
    """Return text as Markdown code, fenced by more backticks than it holds."""
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    pad = " " if "`" in text else ""
    return f"{fence}{pad}{' '.join(text.split())}{pad}{fence}"


def _block(language: str, code: str) -> str:
    """Return a block of code, fenced by more backticks than it holds."""
    fence = "`" * max(3, max(map(len, re.findall("`+", code)), default=0) + 1)
    return f"{fence}{language}\n{code}\n{fence}"
