"""The heads of this package by the name that `config.architectures` holds."""

from __future__ import annotations

from importlib import import_module

from transformers import PreTrainedConfig, PreTrainedModel

# class: its module in this package, and the Auto class of transformers that loads it
HEADS: dict[str, tuple[str, str]] = {
    "RnnForSequenceClassification": ("modeling_rnn", "AutoModelForSequenceClassification"),
}


def head_class(architecture: str) -> type[PreTrainedModel]:
    """Return the class of a head by its name."""
    return getattr(import_module(f".{HEADS[architecture][0]}", __package__), architecture)


def model_class(config: PreTrainedConfig) -> type[PreTrainedModel]:
    """Return the class that `config.architectures` names; the first head where it names nothing.

    Raises:
        ValueError: For an unknown architecture.
    """
    found = config.architectures or list(HEADS)[:1]
    known = [name for name in found if name in HEADS]
    if not known:
        raise ValueError(f"unknown architecture: found {', '.join(found)}; known are {', '.join(HEADS)}")
    return head_class(known[0])
