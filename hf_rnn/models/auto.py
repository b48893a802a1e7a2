"""The models, an encoder and its heads: the class that a configuration names, and the Auto class that loads it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the second one takes seconds to import
    from transformers import PreTrainedConfig, PreTrainedModel

ENCODER = "RnnModel"  # has no task of its own: heads start from it
# Class name: its module in this package, and the Auto class of transformers.
HEADS: dict[str, tuple[str, str]] = {
    "RnnForSequenceClassification": ("modeling_rnn", "AutoModelForSequenceClassification"),
    "RnnForTokenClassification": ("token_classification_rnn", "AutoModelForTokenClassification"),
    "RnnForCausalLM": ("causal_lm_rnn", "AutoModelForCausalLM"),
    ENCODER: ("modeling_rnn", "AutoModel"),
}
PIPELINES = {  # by Auto class: the task of `transformers.pipeline` and of the Hub
    "AutoModelForSequenceClassification": "text-classification",
    "AutoModelForTokenClassification": "token-classification",
    "AutoModelForCausalLM": "text-generation",
}


def head_name(config: PreTrainedConfig) -> str:
    """Return the head that `architectures` names first, or the first of `HEADS` if it names nothing.

    Raises:
        ValueError: For an unknown architecture.
    """
    name = next(iter(config.architectures or HEADS))
    if name not in HEADS:
        raise ValueError(f"unknown architecture in config.json: found {name!r:.80}; use one of {', '.join(HEADS)}")
    return name


def head_class(name: str) -> type[PreTrainedModel]:
    """Return the class of a head of `HEADS`."""
    return getattr(import_module(f".{HEADS[name][0]}", __package__), name)


def model_class(config: PreTrainedConfig) -> type[PreTrainedModel]:
    """Return the class of the head that `architectures` names.

    Raises:
        ValueError: For an unknown architecture.
    """
    return head_class(head_name(config))
