"""A finished folder or a repo id → model and tokenizer → logits, in the order of the texts.

No Trainer and no data sets. What cannot be loaded is refused with one message that names it; a model is loaded whole
or not at all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.utils import disable_progress_bars
from safetensors import safe_open
from transformers import AutoConfig, AutoTokenizer, DataCollatorWithPadding, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from .configuration_rnn import RnnConfig
from .errors import UserError
from .folder import FinishedFolder
from .hub_repo import fetch
from .modeling_rnn import RnnForSequenceClassification

_REPO_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def check_name(name: str | Path, what: str) -> None:
    """Refuse a name that is neither a folder here nor could be a repo id, before the network is asked for it.

    Args:
        name: A folder or a repo id of the Hub, `owner/name`.
        what: What it should be, for the message.

    Raises:
        UserError: For an empty name, and for a path at which there is no folder.
    """
    if not str(name):  # a path would take it for the folder one is in
        raise UserError(f"the name is empty: give the folder of {what}, or its id on the Hub")
    path = Path(name)
    if path.is_dir():
        return
    if path.exists():
        raise UserError(f"{name} is a file: give the folder of {what}")
    if not _REPO_ID.fullmatch(str(name)) or path.parent.is_dir():
        raise UserError(f"there is no folder {name}: give the folder of {what}, or its id on the Hub")


def find_folder(name_or_path: str | Path, revision: str | None = None, token: str | None = None) -> Path:
    """Return the folder that a name means: itself, or that of the cache, where it is got from the Hub.

    Args:
        name_or_path: A finished folder, a checkpoint, or a repo id of the Hub. What was got from there once is found
            again without the network.
        revision: Branch, tag or commit, for a repo id; None is `main`.
        token: For a private repo; None takes the one that is stored.

    Raises:
        UserError: When there is no such folder, it cannot be had from the Hub, or is no model of this package.
    """
    check_name(name_or_path, "a trained model")
    path, name = Path(name_or_path), str(name_or_path)
    if path.is_dir():
        if revision is not None:
            raise UserError(f"{name} is a folder here, which has no revision {revision!r}: leave it out")
        FinishedFolder(path).check()
        return path
    found = FinishedFolder(fetch(name, revision, token, only=(FinishedFolder(path).config.name,)))
    if found.config.is_file():  # before weights are got that may be large and of no use
        try:
            config = AutoConfig.from_pretrained(found.root, trust_remote_code=False)
        except Exception as error:  # as in `load_model`
            raise UserError(f"{name} cannot be loaded, because of config.json: {_reason(error)}") from error
        _check_kind(name, config)
    found = FinishedFolder(fetch(name, found.root.name, token))
    if missing := found.missing_to_load():
        raise UserError(f"{name} on the Hub has no {missing[0].name}: it is no model of this package")
    return found.root


def load_model(
    name_or_path: str | Path, revision: str | None = None, device: str | torch.device | None = "cpu"
) -> tuple[RnnForSequenceClassification, PreTrainedTokenizerBase]:
    """Load a classifier and its tokenizer, ready to predict.

    Args:
        name_or_path: A finished folder, a checkpoint, or a repo id of the Hub; see [`find_folder`].
        revision: Branch, tag or commit, for a repo id; None is `main`.
        device: Where the model is to run; None is the accelerator, if there is one.

    Raises:
        UserError: When it cannot be found or is no whole model of this package, the message says what is missing; and
            for a device that is none, or that is not there.
    """
    name, part, wanted = str(name_or_path), "config.json", _find_device(device)
    try:
        folder = find_folder(name_or_path, revision)
        # an explicit False: else transformers asks at the terminal whether to run a repo's code
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        _check_kind(name, config)
        part = "model.safetensors"
        _check_weights(name, FinishedFolder(folder).weights, config)
        model = RnnForSequenceClassification.from_pretrained(folder, config=config)
        part = "tokenizer.json or tokenizer_config.json"
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        _check_tokenizer(name, tokenizer, config.vocab_size)
        logits = compute_logits(model.eval(), tokenizer, tokenize(tokenizer, ["", "a word"]))  # whether it answers
        if not logits.isfinite().all():
            raise UserError(f"{name} cannot be used: its logits are {logits.tolist()}, so weights are NaN or infinite")
    except UserError:
        raise
    except Exception as error:  # files that others wrote make the libraries raise anything, `Exception` itself too
        raise UserError(f"{name} cannot be loaded, because of {part}: {_reason(error)}") from error
    try:
        return model.to(wanted).eval(), tokenizer
    except (RuntimeError, AssertionError, ImportError) as error:  # it is full, another program's alone, or not there
        raise UserError(
            f"{name} cannot be moved to {wanted}: {_reason(error)}. The device cpu is always there"
        ) from error


def _find_device(device: str | torch.device | None) -> torch.device:
    """Return the device that is meant, whether it is there or not."""
    if device is None:
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return found or torch.device("cpu")
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise UserError(f"device must be cpu, cuda, cuda:1, mps or another of torch's, found {device!r}") from error
    if found.type == "meta":
        raise UserError("device meta holds no weights: give one that computes, such as cpu")
    return found


def _reason(error: Exception) -> str:
    """What went wrong, in one line of bounded length."""
    return f"{' '.join(str(error).split()) or type(error).__name__:.1000}"


def load_tokenizer(name: str, folder: FinishedFolder) -> tuple[RnnConfig, PreTrainedTokenizerBase]:
    """Load what a program needs that runs a model without its weights: the configuration and the tokenizer.

    Args:
        name: Of the model, for messages.
        folder: Where its files are.

    Raises:
        UserError: When it is no model of this package, or a file cannot be read.
    """
    try:
        config = AutoConfig.from_pretrained(folder.root, trust_remote_code=False)
        _check_kind(name, config)
        tokenizer = AutoTokenizer.from_pretrained(folder.root, trust_remote_code=False)
        _check_tokenizer(name, tokenizer, config.vocab_size)
    except UserError:
        raise
    except Exception as error:  # as in `load_model`
        raise UserError(f"{name} cannot be loaded: {_reason(error)}") from error
    return config, tokenizer


def check_sorts(name: str, config: PreTrainedConfig) -> None:
    """Refuse a model that does not give each text exactly one of several labels.

    Raises:
        UserError: For a model of another task.
    """
    if config.num_labels < 2 or config.problem_type not in (None, "single_label_classification"):
        kind = config.problem_type or "regression"
        raise UserError(
            f"{name} gives no text exactly one label: it is a model of {config.num_labels} outputs, {kind}"
        )


def _check_kind(name: str, config: PreTrainedConfig) -> None:
    """Refuse a model of another kind."""
    if not isinstance(config, RnnConfig):
        raise UserError(f"{name} is a {config.model_type!r} model: this command runs {RnnConfig.model_type!r} models")


def _check_weights(name: str, weights: Path, config: RnnConfig) -> None:
    """Refuse weights that are not those of the configuration, by name and shape, before memory is taken for any."""
    with safe_open(weights, framework="pt") as file:
        stored = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118 - no mapping
    if config.num_hidden_layers > len(stored):  # as many modules would take long, even without memory
        raise UserError(
            f"{name} holds no whole model: model.safetensors has {len(stored)} weights, and config.json "
            f"num_hidden_layers={config.num_hidden_layers}"
        )
    with torch.device("meta"):
        weightless = RnnForSequenceClassification(config)
    expected = {key: tuple(weight.shape) for key, weight in weightless.state_dict().items()}
    if missing := sorted(expected.keys() - stored.keys()):
        raise UserError(f"{name} holds no whole model: model.safetensors lacks {', '.join(missing[:3])}")
    if left := sorted(stored.keys() - expected.keys()):
        raise UserError(
            f"{name}: model.safetensors has {', '.join(left[:3])}, for which config.json has no place: "
            "the two do not belong together"
        )
    for key, shape in sorted(expected.items()):
        if stored[key] != shape:
            raise UserError(
                f"{name}: {key} has shape {stored[key]} in model.safetensors and {shape} by config.json: "
                "the two do not belong together"
            )


def _check_tokenizer(name: str, tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> None:
    """Refuse a tokenizer that is not the model's, or that makes no batches."""
    largest = max(tokenizer.get_vocab().values(), default=-1)
    if largest >= vocab_size:
        raise UserError(
            f"{name}: the tokenizer has ids up to {largest}, the model a table of {vocab_size} rows: "
            "tokenizer.json and model.safetensors do not belong together"
        )
    longest = tokenizer.model_max_length
    if not isinstance(longest, int | float) or not longest >= 1:
        raise UserError(
            f"{name}: model_max_length in tokenizer_config.json must be a number of tokens, found {longest!r:.200}"
        )
    if tokenizer.pad_token_id is None:
        raise UserError(f"{name}: tokenizer_config.json names no pad_token that tokenizer.json has")
    if not {"input_ids", "attention_mask"} <= set(tokenizer.model_input_names):
        raise UserError(
            f"{name}: model_input_names in tokenizer_config.json must be input_ids and attention_mask, "
            f"found {tokenizer.model_input_names!r:.200}"
        )


def check_text(text: str) -> None:
    """Refuse a text that is no Unicode, as a terminal hands over bytes that are not UTF-8.

    Raises:
        UserError: When it cannot be encoded.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(f"the text is not UTF-8 at character {error.start}: {text!r:.60}") from error


def list_texts(texts: Iterable[str]) -> list[str]:
    """Return texts as a list, or refuse what is none.

    Raises:
        UserError: For one text in place of several, for what is no collection, and for an element that is no text; the
            message says which.
    """
    listed = texts if type(texts) is list else _as_list(texts)
    for position, text in enumerate(listed):
        if not isinstance(text, str):
            raise UserError(f"texts[{position}] is not a str: found {text!r:.80}; give '' for an empty text")
    return listed


def _as_list(texts: Iterable[str]) -> list[str]:
    if isinstance(texts, str | bytes) or not isinstance(texts, Iterable):
        found = "one text: put it into a list, [text]" if isinstance(texts, str | bytes) else f"{texts!r:.80}"
        raise UserError(f"texts must be a list of str, found {found}")
    if isinstance(texts, Mapping | Set) or getattr(texts, "ndim", 1) != 1:  # columns, or without an order
        raise UserError(f"texts must be a list of str, found a {type(texts).__name__}: give the texts of it as a list")
    return list(texts)


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Return the token ids of texts, cut at the tokenizer's `model_max_length`."""
    return tokenizer(list(texts), truncation=True, return_attention_mask=False)["input_ids"] if len(texts) else []


def batch_by_length(
    input_ids: Sequence[Sequence[int]], tokens_per_batch: int, texts_per_batch: int | None = None
) -> Iterator[list[int]]:
    """Yield rows of about equal length, so many that they make a batch; every row once.

    Args:
        input_ids: Token ids by row.
        tokens_per_batch: Of a batch at most, padding counted; a longer row is a batch of its own.
        texts_per_batch: Rows of a batch at most.
    """
    batch: list[int] = []
    for row in sorted(range(len(input_ids)), key=lambda row: len(input_ids[row])):
        full = (len(batch) + 1) * len(input_ids[row]) > tokens_per_batch or len(batch) == texts_per_batch
        if batch and full:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


@torch.inference_mode()
def compute_logits(
    model: RnnForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    input_ids: Sequence[Sequence[int]],
    batch_size: int = 64,
    tokens_per_batch: int = 8192,
) -> torch.Tensor:
    """Run a model over texts, batched by length.

    Args:
        model: In evaluation mode.
        tokenizer: Pads.
        input_ids: Token ids by text; a text without any is allowed.
        batch_size: Texts run at once, at most.
        tokens_per_batch: Tokens run at once, padding counted, at most; a longer text is run alone.

    Returns:
        Logits `(N, C)` in the order of `input_ids`, in float32 on the CPU.
    """
    logits = torch.zeros(len(input_ids), model.config.num_labels)
    collate: Any = DataCollatorWithPadding(tokenizer)
    for rows in batch_by_length(input_ids, tokens_per_batch, batch_size):
        texts = [list(input_ids[row]) for row in rows]
        if len(texts[0]) == len(texts[-1]):  # nothing to pad, as of one text: a collator takes longer than the model
            ids = torch.tensor(texts, dtype=torch.long)
            batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        else:
            batch = collate([{"input_ids": text} for text in texts])
        inputs = {name: batch[name].to(model.device) for name in ("input_ids", "attention_mask")}
        logits[rows] = model(**inputs, return_dict=True).logits.float().cpu()
    return logits


def compute_scores(model: RnnForSequenceClassification, logits: torch.Tensor) -> torch.Tensor:
    """Turn logits `(N, C)` into scores `(N, C)` as the task has them: softmax, a sigmoid each, or the value itself."""
    return scores_of(model.config, logits)


def scores_of(config: RnnConfig, logits: torch.Tensor) -> torch.Tensor:
    """As [`compute_scores`], of a model of which only the configuration is at hand."""
    return scorer_of(config)(logits)


def scorer_of(config: RnnConfig) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return what [`compute_scores`] does, for many calls: to look at a configuration takes longer than a softmax."""
    if config.problem_type == "regression":
        return lambda logits: logits
    if config.problem_type == "multi_label_classification" or config.num_labels == 1:
        return torch.sigmoid
    return partial(torch.softmax, dim=-1)


def quiet() -> None:
    """Keep the libraries' loading bars and transformers' reports off the terminal; errors are raised, not logged."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    disable_progress_bars()


def __getattr__(name: str) -> Any:
    """Give `FastRnn` too, which builds on this file."""
    if name != "FastRnn":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .fast_inference import FastRnn

    return FastRnn
