"""Settings of a run → the configuration of its model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from ..models.configuration_rnn import RnnConfig
from ..utils.errors import UserError, reason_of
from .arguments.run_arguments import ModelArguments


def make_config(
    model_args: ModelArguments,
    vocab_size: int | None = None,
    pad_token_id: int | None = None,
    class_names: Iterable[str] = (),
    task_specific_params: dict[str, Any] | None = None,
) -> RnnConfig:
    """Put a configuration together.

    Args:
        model_args: The architecture.
        vocab_size: Entries of the vocabulary; without it only the architecture is looked at.
        pad_token_id: That of the tokenizer.
        class_names: In the order of their ids.
        task_specific_params: Goes into the configuration as it is.

    Raises:
        UserError: For a setting out of its range, or settings that do not fit together.
    """
    settings = dataclasses.asdict(model_args)
    if task_specific_params is not None:
        settings["task_specific_params"] = task_specific_params
    if vocab_size is not None:
        settings.update(vocab_size=vocab_size, pad_token_id=pad_token_id, id2label=dict(enumerate(class_names)))
    try:
        return RnnConfig(**settings)
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise UserError(reason_of(error.__cause__ or error)) from error  # the cause is ours, and plain
