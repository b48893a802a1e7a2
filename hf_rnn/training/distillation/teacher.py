"""A sequence classifier of transformers → logits of texts, in the order of the data's classes.

Configuration and tokenizer are read first, the weights only when an answer is not in the cache. What cannot teach is
refused with one message that names it. No code of a repo is run, and no pickle is read.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import torch
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from ...data.labels import is_integer, listed
from ...hub.client import fetch
from ...hub.loading import check_name
from ...hub.model_folder import because_of_damage, read_config
from ...utils.errors import UserError, reason_of
from ..checkpointing.fingerprints import hash_tokenizer

_CONFIG = "config.json"
_GENERIC = re.compile(r"(LABEL|RANK)_\d+")  # names that transformers and our importer give to unnamed classes
_NO_LIMIT = 10**9  # a tokenizer without one says a number beyond it
_NO_TABLE = 2  # so few positions are those of a family that has no table of them


@dataclass(frozen=True)
class Teacher:
    """A classifier that is asked for its logits; its weights stay on disk until they are needed.

    Attributes:
        name: What it is called: a folder's name, or a repo id.
        folder: Where its files are.
        config: Its configuration.
        tokenizer: Its tokenizer.
        max_length: Tokens of a text that it reads; None is no limit.
        batch_size: Texts that it reads at once.
        device: Where it runs.
        bf16: Whether it multiplies in bfloat16, under autocast.
    """

    name: str
    folder: Path
    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerBase
    max_length: int | None
    batch_size: int
    device: torch.device
    bf16: bool = False

    @classmethod
    def open(
        cls,
        name_or_path: str,
        *,
        max_length: int | None = None,
        batch_size: int = 32,
        device: torch.device | None = None,
        bf16: bool = False,
    ) -> Self:
        """Find a teacher and read all of it but its weights.

        Args:
            name_or_path: A folder, or a repo id of the Hub.
            max_length: Cut texts to so many tokens; what the teacher cannot read is cut in any case.
            batch_size: Texts that it reads at once; 1 is taken for a teacher that cannot pad.
            device: Where it runs; None is the CPU.
            bf16: Whether it multiplies in bfloat16.

        Raises:
            UserError: When there is none, it cannot be loaded, its tokenizer is missing or not its own, or it gives no
                text exactly one of several labels.
        """
        check_name(name_or_path, "a teacher")
        here = Path(name_or_path).is_dir()
        folder = Path(name_or_path) if here else fetch(name_or_path, only=(_CONFIG,))
        name = folder.resolve().name if here else name_or_path
        if not (folder / _CONFIG).is_file():
            raise UserError(f"the teacher {name_or_path} has no {_CONFIG}: give the folder of a transformers model")
        try:
            config = read_config(f"the teacher {name_or_path}", folder)
            _check_kind(name_or_path, config)
            if not here:  # now that its weights are known to be of use
                folder = fetch(name_or_path, folder.name)
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            limit = check_tokenizer(f"the teacher {name_or_path}", config, tokenizer, max_length)
        except UserError:
            raise
        except Exception as error:  # files that others wrote make the libraries raise anything, `Exception` itself too
            told = f"the teacher {name_or_path} cannot be loaded{because_of_damage(folder)}"
            raise UserError(f"{told}: {reason_of(error):.1000}") from error
        if not list(folder.glob("*.safetensors")):
            raise UserError(
                f"the teacher {name_or_path} has no model.safetensors, the only form in which weights are read here"
            )
        pads = tokenizer.pad_token_id is not None and getattr(config, "pad_token_id", None) is not None
        device = device or torch.device("cpu")
        return cls(name, folder, config, tokenizer, limit, batch_size if pads else 1, device, bf16)

    def label_names(self) -> list[str]:
        """Return the names of its classes, by id."""
        return [str(self.config.id2label.get(index, index)) for index in range(self.config.num_labels)]

    def align(self, class_names: Sequence[str], own_names: Sequence[str] | None = None) -> list[int]:
        """Find each class of the data among the teacher's, by name.

        Args:
            class_names: Of the data, by id (C).
            own_names: The teacher's, by its ids, in place of those in its configuration.

        Returns:
            For each class of the data the teacher's id.

        Raises:
            UserError: When the names are not the same; with names that say nothing (`LABEL_0`) nothing is guessed.
                When `own_names` is at odds with a configuration that has the data's names.
        """
        stated = self.label_names()
        found = stated if own_names is None else list(own_names)
        if len(found) != self.config.num_labels:
            raise UserError(
                f"teacher_labels names {len(found)} classes ({listed(found)}), and the teacher {self.name} has "
                f"{self.config.num_labels} ({listed(stated)})"
            )
        tell_which = not all(_GENERIC.fullmatch(name) for name in stated)
        if found != stated and tell_which and sorted(stated) == sorted(class_names):
            raise UserError(
                f"teacher_labels gives {listed(found)}, and the teacher {self.name} itself {listed(stated)}: "
                "leave teacher_labels out, or put the names in its config.json right"
            )
        if sorted(found) == sorted(class_names):
            return [found.index(name) for name in class_names]
        told = f"the teacher {self.name} has the labels {listed(found)}, and the data {listed(class_names)}"
        if own_names is not None:
            raise UserError(f"by teacher_labels {told}: give the data's names, in the order of the teacher's ids")
        if len(found) != len(class_names):
            raise UserError(f"{told}: take a teacher of the same task")
        hint = "If they mean the same" if tell_which else "Such names do not tell which is which"
        integers = all(map(is_integer, class_names))  # whose own order would be taken for the teacher's
        example = " ".join(["LABEL"] * len(class_names)) if integers else shlex.join(class_names)
        raise UserError(
            f"{told}. {hint}: give the data's names in the order of the teacher's ids, such as "
            f"--teacher_labels {example}"
        )

    @cached_property
    def fingerprint(self) -> str:
        """A hash of what its logits hang on beside the text: weights, configuration, tokenizer, length, precision."""
        settings = self.config.to_dict()
        for name in ("transformers_version", "_name_or_path", "id2label", "label2id"):
            settings.pop(name, None)
        parts = [json.dumps(settings, sort_keys=True, default=str), hash_tokenizer(self.tokenizer), self.max_length]
        parts += ["bf16"] if self.bf16 else []
        digest = hashlib.sha256(repr(parts).encode())
        for path in sorted(self.folder.glob("*.safetensors")):
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    def load(self) -> torch.nn.Module:
        """Load the model with its weights, in float32, ready to answer.

        Raises:
            UserError: When they are not whole, or not those of a classifier.
        """
        level = transformers_logging.get_verbosity()
        transformers_logging.set_verbosity_error()  # of missing weights we tell ourselves
        try:
            model, found = AutoModelForSequenceClassification.from_pretrained(
                self.folder,
                config=self.config,
                trust_remote_code=False,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # told below: the library's own error points at a report that is off
            )
        except Exception as error:  # as in `open`
            raise UserError(f"the teacher {self.name} cannot be loaded: {reason_of(error):.1000}") from error
        finally:
            transformers_logging.set_verbosity(level)
        if mismatched := sorted(found["mismatched_keys"], key=lambda entry: str(entry[0])):
            name, stored, expected = mismatched[0]
            raise UserError(
                f"the teacher {self.name}: {name} has shape {tuple(stored)} among the weights and {tuple(expected)} "
                f"by {_CONFIG}: the two do not belong together"
            )
        if missing := sorted(found["missing_keys"]):
            raise UserError(
                f"the teacher {self.name} is no trained classifier: its weights lack {', '.join(missing[:3])}. "
                "Fine-tune it first"
            )
        return model.to(self.device).eval()


def _check_kind(name: str, config: PreTrainedConfig) -> None:
    """Refuse a model of another task, as far as its configuration tells; the weights tell the rest."""
    named = list(config.architectures or [])
    if named and not any(architecture.endswith("ForSequenceClassification") for architecture in named):
        raise UserError(
            f"the teacher {name} is a {named[0]}, which classifies no texts: give a model for sequence classification"
        )
    if config.problem_type == "regression" or config.num_labels == 1:
        raise UserError(f"the teacher {name} gives a number (regression), not one of several labels: take another")
    if config.problem_type == "multi_label_classification":
        raise UserError(f"the teacher {name} gives a text any number of labels, not exactly one: take another")


def check_tokenizer(
    name: str, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, max_length: int | None
) -> int | None:
    """Return how many tokens of a text a model reads, special ones counted; None is no limit.

    Args:
        name: What the model is called, for messages.
        config: Its configuration.
        tokenizer: Its tokenizer.
        max_length: The most that it is to read; None is as many as it can.

    Raises:
        UserError: When the tokenizer is not the model's, knows no word, or `max_length` leaves no room for any.
    """
    vocabulary = tokenizer.get_vocab()
    words = vocabulary.keys() - set(tokenizer.all_special_tokens)
    if not words:  # the library makes up such a one where its files are missing
        raise UserError(f"{name} has a tokenizer without a word: put its files, such as tokenizer.json, beside it")
    entries = getattr(config, "vocab_size", None)
    if isinstance(entries, int) and max(vocabulary.values()) >= entries:
        raise UserError(
            f"{name} has a table of {entries:,} tokens, and its tokenizer ids up to {max(vocabulary.values()):,}: "
            "they do not belong together"
        )
    own, positions = tokenizer.model_max_length, getattr(config, "max_position_embeddings", None)
    if isinstance(positions, int) and positions > _NO_TABLE:
        own = min(own, positions - _unused_positions(config, positions))
    limit = min((known for known in (own, max_length) if known is not None and known < _NO_LIMIT), default=None)
    special = tokenizer.num_special_tokens_to_add()
    if limit is not None and limit <= special:
        raise UserError(
            f"{name} would read {limit} tokens of a text, of which {special} are special: let it read more"
        )
    return limit


def _unused_positions(config: PreTrainedConfig, positions: int) -> int:
    """How many of a model's positions no token takes: RoBERTa and its kin count on from their padding's id."""
    with torch.device("meta"):
        model = AutoModel.from_config(config, trust_remote_code=False)
    for name, table in model.named_modules():
        if "position" in name and isinstance(table, torch.nn.Embedding) and table.num_embeddings == positions:
            return 0 if table.padding_idx is None else table.padding_idx + 1
    return 0
