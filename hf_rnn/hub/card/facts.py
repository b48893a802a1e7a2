"""The facts of a model card, as plain values that JSON can hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """The content of a model card. A missing fact leaves out its part of the card.

    A task is added by a template `<task>.md` beside this file and `CardFacts(task=...)`.

    Attributes:
        name: Name of the model: the title, and in the metadata.
        cell_type: As in the configuration; so are the next six.
        num_hidden_layers: Stacked layers.
        hidden_size: Units per direction.
        bidirectional: Whether texts are read in both directions.
        pooling: How the states of a text become one vector.
        embedding_size: Width of a token's vector.
        vocab_size: Entries of the vocabulary.
        num_parameters: Parameters of the model.
        dataset_name: Name of the data.
        versions: Versions by package.
        task: Names the template, `sequence-classification` is `sequence_classification.md`.
        pipeline_tag: The Hub's name of the task, and that of transformers' pipeline.
        results: Metrics by split. Floats go into the metadata; the template decides what it shows.
        class_counts: Rows of the train split by class name, in the order of the ids.
        baselines: Scores of other models on the same rows, by name and split: `accuracy`, `macro_f1`, `macro_recall`.
        examples: A few training texts of each class.
        training: `epochs`, `steps` and `seconds` of the training.
        settings: Settings of the run, by name.
        audit: Summary of the audit of the texts, see [`~hf_rnn.data.audit.AuditReport.summary`].
        repo_id: Repo of the model on the Hub.
        dataset_id: Repo of the data on the Hub.
        language: Codes of the languages of the texts (ISO 639).
        license: The Hub's identifier of the model's licence, such as `apache-2.0`.
        tags: Tags beside the package's own.
        best_metric: The metric on the validation split that selected the epoch.
        size_in_bytes: Size of the weights file.
        max_length: Maximum tokens read per text.
        unknown_token_share: Share of unknown tokens in the validation split, from 0 to 1.
        command: The command that repeats the run.
        vectors: Source of the pretrained token vectors: `name`, and the shares of the vocabulary and of the training
            tokens that they cover, `coverage_types` and `coverage_tokens` (None if not counted).
        start: The trained model that provided the initial weights: `name`, `id` on the Hub (None for a folder), and
            `keeps_classifier`.
        teacher: The teacher, its texts and its agreement with the model, as distillation measures them.
        calibration: The fitted calibration and its effect by split.
        figures: File name of each figure in the folder, by caption.
        onnx: Files for ONNX Runtime, by name: `bytes`, and how their logits and answers compare with the model's on
            a number of `texts`: `max_difference` and `agreement` (from 0 to 1).
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
    versions: Mapping[str, str]
    task: str = "sequence-classification"
    pipeline_tag: str = "text-classification"
    results: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    class_counts: Mapping[str, int] = field(default_factory=dict)
    baselines: Mapping[str, Mapping[str, Mapping[str, float]]] | None = None
    examples: Mapping[str, Sequence[str]] | None = None
    training: Mapping[str, float] | None = None
    settings: Mapping[str, Any] | None = None
    audit: Mapping[str, Any] | None = None
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
    vectors: Mapping[str, Any] | None = None
    start: Mapping[str, Any] | None = None
    teacher: Mapping[str, Any] | None = None
    calibration: Mapping[str, Any] | None = None
    figures: Mapping[str, str] | None = None
    onnx: Mapping[str, Mapping[str, float]] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON can hold them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> CardFacts:
        """Restore the facts from the result of [`to_dict`], through JSON or not.

        Raises:
            TypeError: For an unknown or a missing fact.
        """
        lists = {name: tuple(facts[name]) for name in ("language", "tags") if name in facts}
        return cls(**{**facts, **lists})
