"""What is known of a trained model, as plain values: what its card says, stored beside it as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from ...utils.errors import UserError


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
        results: Metrics by split, as `classification_metrics` returns them, `confusion_matrix` not needed; further
            floats, such as `loss`, go into the metadata.
        baselines: What other models of the same rows reach: by what they are called, then by split, `accuracy`,
            `macro_f1` and `macro_recall`.
        examples: A few texts of each class from the training rows.
        training: How long it took: `epochs`, `steps` and `seconds`.
        settings: Those of the run that matter, by name.
        audit: Summary of the audit of the texts, see [`~hf_rnn.data.audit.AuditReport.summary`].
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
        vectors: What the token vectors started from, if pretrained: `name`, and the shares of the vocabulary and of
            the training tokens that they cover, `coverage_types` and `coverage_tokens` (None where not counted).
        start: The trained model that its weights started from, if they did: its `name`, its `id` on the Hub (None of a
            folder), and whether the last layer is its own too, `keeps_classifier`.
        teacher: Who taught it, from what, and how well the two agree, see
            [`~hf_rnn.training.distillation.run.Distillation.measure`].
        calibration: What was fitted so that scores are probabilities, and what it changed, see
            [`~hf_rnn.training.calibrate_run.calibrate_run`].
        figures: File name of each figure in the folder, by caption.
        onnx: Files for ONNX Runtime, by name: `bytes`, and how their logits and answers compared with the model's on a
            number of `texts`: `max_difference` and `agreement` (a share, from 0 to 1).

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
    task: str = "sequence-classification"
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

    def __post_init__(self) -> None:
        for split, metrics in self.results.items():
            if list(metrics["per_class"]) != list(self.class_counts):
                raise ValueError(f"classes of {split} are not those of train: {list(metrics['per_class'])}")

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON can hold them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> CardFacts:
        """Make the facts again from what [`to_dict`] returned, through JSON or not.

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
