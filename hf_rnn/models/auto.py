"""The encoder and its heads: the class that a configuration names, and its Auto class."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the second one takes seconds to import
    from transformers import PreTrainedConfig, PreTrainedModel

ENCODER = "RnnModel"  # has no task of its own: heads start from it
# Class name: its module, or the class, and the Auto class of transformers.
HEADS: dict[str, tuple[str | type, str]] = {
    "RnnForSequenceClassification": (
        f"{__package__}.modeling_rnn",
        "AutoModelForSequenceClassification",
    ),
    "RnnForTokenClassification": (
        f"{__package__}.token_classification_rnn",
        "AutoModelForTokenClassification",
    ),
    "RnnForCausalLM": (f"{__package__}.causal_lm_rnn", "AutoModelForCausalLM"),
    ENCODER: (f"{__package__}.modeling_rnn", "AutoModel"),
}
PIPELINES = {  # by Auto class: the task of `transformers.pipeline` and of the Hub
    "AutoModelForSequenceClassification": "text-classification",
    "AutoModelForTokenClassification": "token-classification",
    "AutoModelForCausalLM": "text-generation",
}


def register_head(head: type[PreTrainedModel], auto_class: str) -> None:
    """Add a head from elsewhere: training, loading and an Auto class know it beside the others."""
    HEADS[head.__name__] = head, auto_class
    register_heads()


def register_heads() -> None:
    """Register all heads with the Auto classes; where two share one, `architectures` decides."""
    from transformers.models.auto import modeling_auto

    from .configuration_rnn import RnnConfig

    by_auto_class: dict[str, list[type[PreTrainedModel]]] = {}
    for name, (_, auto_class) in HEADS.items():
        by_auto_class.setdefault(auto_class, []).append(head_class(name))
    for auto_class, heads in by_auto_class.items():
        registered = tuple(heads) if len(heads) > 1 else heads[0]
        getattr(modeling_auto, auto_class).register(RnnConfig, registered, exist_ok=True)


def head_name(config: PreTrainedConfig) -> str:
    """Return the head that `architectures` names first, or else the first of `HEADS`.

    Raises:
        ValueError: For an unknown architecture.
    """
    name = next(iter(config.architectures or HEADS))
    if name not in HEADS:
        raise ValueError(
            f"unknown architecture in config.json: found {name!r:.80}; "
            f"use one of {', '.join(HEADS)}"
        )
    return name


def head_class(name: str) -> type[PreTrainedModel]:
    """Return the class of a head of `HEADS`."""
    head = HEADS[name][0]
    return getattr(import_module(head), name) if isinstance(head, str) else head
