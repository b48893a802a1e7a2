"""Settings of a run → the tokenizer that it reads texts with, and the model that it starts from."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ..hub.loading import check_name
from ..hub.model_folder import because_of_damage, nested_model
from ..tokenizers.word_level import train_tokenizer
from ..utils.errors import UserError, reason_of
from .arguments.text_arguments import DataArguments
from .warm_start import StartingModel


def load_start(data_args: DataArguments) -> StartingModel | None:
    """Load the model that the settings name to go on from, if they do.

    Args:
        data_args: Says which.

    Raises:
        UserError: When it cannot be loaded.
    """
    name = data_args.model_name_or_path
    return None if name is None else StartingModel.load(name, data_args.max_length)


def make_tokenizer(data_args: DataArguments, texts: Iterable[str]) -> PreTrainedTokenizerBase:
    """Load the tokenizer that the settings name, or train one.

    Args:
        data_args: Says which, and with what settings.
        texts: The training texts, a table's column or a stream's.

    Raises:
        UserError: When the named one cannot be loaded or does not pad.
    """
    name = data_args.tokenizer_name_or_path
    if name is None:
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
    if "/" in name or Path(name).exists():  # the Hub's oldest tokenizers have names without an owner
        check_name(name, "a tokenizer")
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # a file of a newer library makes tokenizers raise `Exception` itself
        if (nested := nested_model(Path(name))) is not None:
            raise UserError(f"{name} holds no tokenizer. Did you mean {nested}?") from error
        because = because_of_damage(Path(name))
        raise UserError(f"the tokenizer {name} cannot be loaded{because}: {reason_of(error)}") from error
    if tokenizer.pad_token_id is None:
        raise UserError(f"the tokenizer {name} has no padding token, which batches need")
    if "attention_mask" not in tokenizer.model_input_names:  # as some encoders' that mask nothing
        tokenizer.model_input_names = [*tokenizer.model_input_names, "attention_mask"]
        tokenizer.init_kwargs["model_input_names"] = tokenizer.model_input_names  # so that it is saved
    if data_args.max_length is not None:
        tokenizer.model_max_length = data_args.max_length  # so that prediction cuts where training did
    return tokenizer
