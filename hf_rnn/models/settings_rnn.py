"""Settings of the architecture. The help of a command reads them: nothing heavy is imported here.

The metadata of a field has all facts about it: the text of the help, the range, the choices, and
its effects.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from math import inf
from operator import ge, gt, le, lt
from typing import Any, Literal, TypeVar

Entry = TypeVar("Entry")
IGNORED_LABEL = -100  # the loss does not count a token or row with this label, as in torch
MAX_PARAMETERS = 2**33  # 32 GiB in float32: a larger number in `config.json` is a mistake
_LIMITS = {  # word of the metadata: how it reads in a message, and the check
    "least": ("at least", ge),
    "above": ("greater than", gt),
    "most": ("at most", le),
    "below": ("below", lt),
}


def setting(default: object, meaning: str, **more: object) -> Any:
    """Declare a field of a dataclass of settings.

    Args:
        default: The value without a recipe and a flag.
        meaning: The text of the help. The short help ends at the first semicolon.
        more: `least`, `above`, `most` and `below` limit a number. `shown="first"` and
            `shown="common"` put a setting into the short help. An encoder to start from fixes one
            with `start="shape"`, a model also `start="head"`.
    """
    return field(default=default, metadata={"help": meaning, **more})


def check_range(name: str, value: float | None, limits: Mapping[str, float]) -> None:
    """Raise a ValueError for a number outside its limits, NaN or infinite; None is unset."""
    words = [word for word in _LIMITS if word in limits]
    if value is None or not words:
        return
    holds = [_LIMITS[word][1](value, limits[word]) for word in words]
    if not -inf < value < inf or not all(holds):
        allowed = " and ".join(f"{_LIMITS[word][0]} {limits[word]}" for word in words)
        raise ValueError(f"{name} must be {allowed}; found {value}")


def check_ranges(settings: Any) -> None:
    """Check each field of a dataclass of settings with [`check_range`]."""
    for entry in fields(settings):
        check_range(entry.name, getattr(settings, entry.name), entry.metadata)


def look_up(name: str, value: str, registry: Mapping[str, Entry]) -> Entry:
    """Return the entry of a registry that a setting names, or raise a ValueError with its names."""
    if value not in registry:
        raise ValueError(f"{name} must be one of {', '.join(registry)}; found {value!r}")
    return registry[value]


def _size(default: int | None, meaning: str, **more: object) -> Any:
    return setting(default, meaning, least=1, below=MAX_PARAMETERS, start="shape", **more)


def _dropout(meaning: str) -> Any:
    return setting(0.0, meaning, least=0, below=1)


@dataclass
class RnnSettings:
    """The fields of [`RnnConfig`] that a user chooses, except those that the tokenizer decides."""

    embedding_size: int = _size(300, "width of a token's vector")
    cell_type: str = setting(
        "lstm",
        "the cell: lstm, gru, min_gru (fastest), rnn_tanh or rnn_relu",
        shown="common",
        start="shape",
    )
    hidden_size: int = _size(128, "units per direction", shown="common")
    num_hidden_layers: int = _size(1, "stacked recurrent layers, or residual blocks")
    block_type: Literal["plain", "residual"] = setting(
        "plain",
        "plain layers, or residual blocks (short convolution, cell, gate and MLP)",
        start="shape",
    )
    residual_size: int | None = _size(
        None, "residual: width of the stream of states (default: hidden_size)"
    )
    conv_kernel: int = setting(
        3,
        "residual: tokens that the short convolution sees; 1 leaves it out",
        least=1,
        below=32,
        start="shape",
    )
    bidirectional: bool = setting(True, "also read from the last token to the first", start="shape")
    pooling: str = setting(
        "mean_max",
        "from states to one vector: mean, max, mean_max, last or attention; "
        "last is each direction's last state, mean_max both vectors side by side, "
        "attention a learned weighted mean",
        shown="common",
        start="head",
    )
    embedding_dropout: float | int = _dropout("share of the elements of the token vectors to drop")
    word_dropout: float | int = _dropout(
        "share of the word types to drop per batch, at all their occurrences"
    )
    hidden_dropout: float | int = _dropout(
        "dropout between recurrent layers, and on what a residual block adds"
    )
    recurrent_dropout: float | int = _dropout(
        "share of the hidden-to-hidden weights to drop; not for min_gru"
    )
    classifier_dropout: float | int = _dropout("dropout on the pooled vector")
    classifier_activation: Literal["linear", "relu", "tanh", "gelu"] = setting(
        "linear",
        "function between pooling and the last layer; linear is the identity",
        start="head",
    )
    crf: bool = setting(False, "token-classification: score whole taggings of a text", start="head")
    word_forms: int = setting(
        0,
        "token-classification: rows for the forms of words (prefixes, suffixes, capitals), "
        "which an LSTM over words reads; 0 tags tokens",
        least=0,
        below=1 << 15,
        start="head",
    )
    streaming: bool = setting(
        False,
        "read in one direction, and learn to answer while a text is still being written; "
        "see `FastRnn.stream`",
        shown="common",
    )
    freeze_embedding: bool = setting(False, "exclude the embedding from training")
    tie_word_embeddings: bool = setting(
        False, "causal-lm: the embedding is the output layer too", start="head"
    )
    embedding_initializer_range: float | int = setting(
        1.0, "standard deviation of the initial embedding", least=0
    )
