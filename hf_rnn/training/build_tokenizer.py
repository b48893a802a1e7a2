"""Train or load the tokenizer of a run."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ..hub.loading import check_name, find_folder, load_without_weights
from ..hub.model_folder import FinishedFolder, because_of_damage, nested_model
from ..tokenizers.word_level import train_tokenizer
from ..utils.errors import UserError, reason_of
from .arguments.text_arguments import DataArguments


def make_tokenizer(data_args: DataArguments, texts: Iterable[str]) -> PreTrainedTokenizerBase:
    """Train a tokenizer, or load the one that the settings name.

    Args:
        data_args: `tokenizer_name_or_path`, `model_name_or_path`, or the settings of a vocabulary.
        texts: Training texts.

    Raises:
        UserError: For a tokenizer that cannot be loaded or cannot pad.
    """
    name = data_args.tokenizer_name_or_path
    if data_args.model_name_or_path is not None:
        start = data_args.model_name_or_path
        tokenizer = load_without_weights(start, FinishedFolder(find_folder(start)))[1]
    elif name is not None:
        tokenizer = _load_tokenizer(name)
    else:
        length = {} if data_args.max_length is None else {"model_max_length": data_args.max_length}
        return train_tokenizer(
            texts,
            min_frequency=data_args.min_frequency,
            max_vocab_size=data_args.max_vocab_size,
            lowercase=data_args.lowercase,
            normalizer=data_args.normalizer,
            tokenizer=data_args.tokenizer,
            **length,
        )
    if data_args.max_length is not None:
        tokenizer.model_max_length = data_args.max_length  # saved, so that prediction truncates at the same length
    return tokenizer


def _load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    if "/" in name or Path(name).exists():  # the oldest tokenizers of the Hub have names without an owner
        check_name(name, "a tokenizer")
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # tokenizers raises a bare `Exception` for files of newer versions
        if (nested := nested_model(Path(name))) is not None:
            raise UserError(f"{name} holds no tokenizer. Did you mean {nested}?") from error
        because = because_of_damage(Path(name))
        raise UserError(f"the tokenizer {name} cannot be loaded{because}: {reason_of(error)}") from error
    if tokenizer.pad_token_id is None:
        raise UserError(f"the tokenizer {name} has no padding token: batches need one")
    if "attention_mask" not in tokenizer.model_input_names:  # true for encoders that mask nothing
        tokenizer.model_input_names = [*tokenizer.model_input_names, "attention_mask"]
        tokenizer.init_kwargs["model_input_names"] = tokenizer.model_input_names  # so that it is saved
    return tokenizer
