"""The facts of a model card, as plain values that JSON can hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """The content of a model card. A missing fact leaves out its part of the card.

    A task is added by a template `<task>.md` beside this file and `CardFacts(task=...)`.
    """

    name: str  # of the model: the title, and in the metadata
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
    task: str = "sequence-classification"  # names the template
    pipeline_tag: str = "text-classification"  # the Hub's name of the task, and that of transformers' pipeline
    results: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # by split; floats go into the metadata
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
    size_in_bytes: int | None = None  # of the weights
    max_length: int | None = None  # tokens read per text
    unknown_token_share: float | None = None  # in the validation split, from 0 to 1
    command: str | None = None  # repeats the run
    vectors: Mapping[str, Any] | None = None  # `name`, `coverage_types`, `coverage_tokens` (None if not counted)
    start: Mapping[str, Any] | None = None  # `name`, `id` on the Hub (None for a folder), `keeps_classifier`
    teacher: Mapping[str, Any] | None = None  # its texts, and its agreement with the model
    calibration: Mapping[str, Any] | None = None  # its effect by split
    figures: Mapping[str, str] | None = None  # file names by caption
    onnx: Mapping[str, Mapping[str, float]] | None = None  # by file: `bytes`, `texts`, `max_difference`, `agreement`

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON can hold them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> CardFacts:
        """Restore the facts from the result of [`to_dict`], through JSON or not; TypeError for an unknown fact."""
        lists = {name: tuple(facts[name]) for name in ("language", "tags") if name in facts}
        return cls(**{**facts, **lists})
