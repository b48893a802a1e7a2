"""A model card from facts: `README.md`, metadata for the Hub and Markdown for people, and `card_facts.json`."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ...utils.errors import UserError, reason_of
from ...utils.process import write_whole
from ..model_folder import FinishedFolder

logger = logging.getLogger(__name__)

_SHOWN = 10  # labels at either end of a long table
_HUB_METRICS = {"macro_f1": "f1", "macro_recall": "recall"}  # names on the Hub that differ


@dataclass(kw_only=True)
class CardFacts:
    """The content of a model card. A missing fact leaves out its part of the card.

    A task is added by a template `<task>.md` beside this file and `CardFacts(task=...)`.
    """

    name: str  # name of the model: the title, and in the metadata
    cell_type: str  # as in the configuration; so are the next six
    num_hidden_layers: int
    hidden_size: int
    bidirectional: bool
    pooling: str
    embedding_size: int
    vocab_size: int
    num_parameters: int
    dataset_name: str
    versions: Mapping[str, str]  # by package
    block_type: str = "plain"  # as in the configuration; so is the next
    residual_size: int | None = None
    task: str = "sequence-classification"  # names the template
    pipeline_tag: str = "text-classification"  # the Hub's name of the task, and that of transformers' pipeline
    results: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # by split; floats go into the metadata
    text_pairs: bool = False  # whether an example is two texts
    rows: int | None = None  # number of training rows, if it is not the sum of `class_counts`
    thresholds: Sequence[float] | None = None  # thresholds of a multi-label model in the order of the ids
    class_counts: Mapping[str, int] = field(default_factory=dict)  # rows of train by class, in the order of the ids
    baselines: Mapping[str, Mapping[str, Mapping[str, float]]] | None = None  # scores by model and split
    examples: Mapping[str, Sequence[str]] | None = None  # a few training texts of each class
    training: Mapping[str, float] | None = None  # `epochs`, `steps`, `seconds`
    settings: Mapping[str, Any] | None = None
    audit: Mapping[str, Any] | None = None  # see `hf_rnn.data.audit.AuditReport.summary`
    repo_id: str | None = None
    dataset_id: str | None = None
    language: tuple[str, ...] = ()  # codes of the languages of the texts (ISO 639)
    license: str | None = None  # the Hub's identifier, such as `apache-2.0`
    tags: tuple[str, ...] = ()  # beside the package's own
    best_metric: str | None = None  # selected the epoch on the validation split
    size_in_bytes: int | None = None  # size of the weights
    max_length: int | None = None  # tokens read per text
    data: Mapping[str, Any] | None = None  # the record of the data in `metrics.json`
    start_note: str | None = None  # why the run started so
    unknown_token_share: float | None = None  # in the validation split, from 0 to 1
    command: str | None = None  # repeats the run
    fill_in: Mapping[str, str] | None = None  # meaning of the words in capitals in `command`
    vectors: Mapping[str, Any] | None = None  # `name`, `coverage_types`, `coverage_tokens` (None if not counted)
    start: Mapping[str, Any] | None = None  # `name`, `id` (None for a folder), `keeps_classifier`, maybe `new_labels`
    teacher: Mapping[str, Any] | None = None  # its texts, and its agreement with the model
    calibration: Mapping[str, Any] | None = None  # its effect by split
    figures: Mapping[str, str] | None = None  # file names by caption
    onnx: Mapping[str, Mapping[str, float]] | None = None  # by file: `bytes`, `texts`, `max_difference`

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> CardFacts:
        """Restore the facts from their dictionary, through JSON or not; TypeError for an unknown fact."""
        lists = {name: tuple(facts[name]) for name in ("language", "tags") if name in facts}
        return cls(**{**facts, **lists})


def render(facts: CardFacts) -> str:
    """Return the content of `README.md`: a YAML block for the Hub and Markdown for people."""
    # a task without a template of its own gets the base template
    template = _ENVIRONMENT.select_template([f"{facts.task.replace('-', '_')}.md", "model_card.md"])
    metadata, reference = _metadata(facts).to_yaml(), facts.repo_id or facts.name
    card = ModelCard(template.render(card_data=metadata, facts=facts, reference=reference))
    card.text = re.sub(r"\n{3,}", "\n\n", card.text).rstrip() + "\n"
    return str(card)


def _metadata(facts: CardFacts) -> ModelCardData:
    results = [
        EvalResult(
            task_type=facts.pipeline_tag,
            task_name=facts.pipeline_tag.replace("-", " ").title(),
            dataset_type=facts.dataset_id or "text",  # required by the Hub; local data has no id
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
        pipeline_tag=facts.pipeline_tag,
        library_name="transformers",
        license=facts.license,
        language=list(facts.language) or None,
        datasets=[facts.dataset_id] if facts.dataset_id else None,
        base_model=facts.start["id"] if facts.start else None,
        tags=["hf_rnn", "rnn" if facts.cell_type.startswith("rnn_") else facts.cell_type, *facts.tags],
        model_name=facts.name,
        eval_results=results or None,
    )


def plain(text: str) -> str:
    """Return text on one line, escaped so that Markdown shows it unchanged."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&$])", r"\\\1", " ".join(text.split()))


def code(text: str) -> str:
    """Return text as inline Markdown code, in more backticks than it contains."""
    marks = _backticks(text, 1)
    pad = " " if "`" in text else ""
    return f"{marks}{pad}{' '.join(text.split())}{pad}{marks}"


def fence(content: str, language: str) -> str:
    """Return a block of code, in more backticks than it contains."""
    marks = _backticks(content, 3)
    return f"{marks}{language}\n{content.strip()}\n{marks}\n"


def ends(rows: Mapping[str, Any], key: str = "") -> list[tuple[int, str, Any]]:
    """Return number, name and value of the labels; of more than 20 the ten largest and the ten smallest by `key`."""
    entries = [(number, name, row) for number, (name, row) in enumerate(rows.items())]
    if len(entries) <= 2 * _SHOWN:
        return entries
    entries = [entry for entry in entries if not key or entry[2]["support"]]
    entries.sort(key=lambda entry: entry[2][key] if key else entry[2], reverse=True)
    return entries[:_SHOWN] + entries[max(_SHOWN, len(entries) - _SHOWN) :]


def _backticks(text: str, least: int) -> str:
    return "`" * max(least, max(map(len, re.findall("`+", text)), default=0) + 1)


_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    undefined=StrictUndefined,
)
# `fmt` is Python's format function: `{{ 1234 | fmt(",") }}`
_ENVIRONMENT.filters.update(plain=plain, code=code, fence=fence, ends=ends, fmt=format, shell=shlex.quote)
_ENVIRONMENT.filters["quoted"] = lambda text: json.dumps(text, ensure_ascii=False)


def write_card(folder: FinishedFolder, facts: CardFacts) -> None:
    """Write the card and its facts."""
    for name, content in _contents(folder, facts).items():
        write_whole(folder.root / name, content)


def read_facts(folder: FinishedFolder) -> CardFacts | None:
    """Return the facts of a card; None if the folder has no facts that this version understands."""
    if not folder.card_facts.is_file():
        return None
    try:
        return CardFacts.from_dict(json.loads(folder.card_facts.read_text(encoding="utf-8")))
    except (TypeError, ValueError, AttributeError) as error:
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

    Texts of the training data are left out unless `examples`. A card without facts, or edited by hand, is not changed,
    so it is left out here. An edited card that shows such texts without `examples` raises a `UserError`.
    """
    facts = read_facts(folder)
    if facts is None:
        return {}
    sent = dataclasses.replace(facts, repo_id=repo_id, examples=facts.examples if examples else None)
    contents = _contents(folder, sent)
    if _is_edited(folder, facts):
        del contents[folder.card.name]
        shown = folder.card.read_text(encoding="utf-8")
        if not examples and any(plain(text) in shown for texts in (facts.examples or {}).values() for text in texts):
            raise UserError(f"{folder.card} was edited and shows training texts: remove them, or set --card_examples")
    return contents


def _is_edited(folder: FinishedFolder, facts: CardFacts) -> bool:
    """Return whether a card differs from its facts."""
    return not folder.card.is_file() or render(facts) != folder.card.read_text(encoding="utf-8")


def _contents(folder: FinishedFolder, facts: CardFacts) -> dict[str, bytes]:
    stored = json.dumps(dataclasses.asdict(facts), indent=2, ensure_ascii=False) + "\n"
    return {folder.card_facts.name: stored.encode(), folder.card.name: render(facts).encode()}
