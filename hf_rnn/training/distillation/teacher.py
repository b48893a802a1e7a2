"""Teachers: sequence classifiers of transformers, one or cross-fitted ones.

Configuration and tokenizer are read first, the weights only for logits that are not in the cache. Code of a repo is
never run, and weights are read from safetensors only.

A teacher repeats little more than the label of a text that it was fine-tuned on. Cross-fitted teachers avoid this: the
folder has `fold-1`, `fold-2`, ..., each a model that was fine-tuned on the training texts of all other folds.
`folds.json` is written last: a folder without it is incomplete.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from ...data.audit import normalize_text
from ...data.labels import listed
from ...hub.client import fetch
from ...hub.loading import check_name, check_sorts
from ...hub.model_folder import name_damage, read_config, read_mapping
from ...utils.atomic_write import write_whole
from ...utils.errors import UserError
from ..checkpointing.fingerprints import hash_tokenizer

FOLDS_FILE = "folds.json"
UNFINISHED_FILE = "unfinished.json"  # present while some teachers are missing

_CONFIG = "config.json"
_GENERIC = re.compile(r"(LABEL|RANK)_\d+")  # names that transformers and our importer give to unnamed classes
_NO_LIMIT = 10**9  # tokenizers without a limit report a larger number
_NO_TABLE = 2  # models without a table of positions report at most this number


@dataclass(frozen=True)
class Teacher:
    """A classifier whose weights stay on disk until they are needed.

    Attributes:
        name: Name of the folder, or repo id.
        folder: Contains the files.
        config: Configuration.
        tokenizer: Tokenizer.
        max_length: Tokens per text, including special ones; None means unlimited.
        batch_size: Texts per batch.
        device: Device of the model.
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
        """Find a teacher and read everything except its weights.

        Args:
            name_or_path: A folder, or a repo id of the Hub.
            max_length: Truncate texts to this number of tokens, or to the teacher's own limit if that is smaller.
            batch_size: Texts per batch; 1 is used for a teacher that cannot pad.
            device: None is the CPU.
            bf16: Whether it multiplies in bfloat16.

        Raises:
            UserError: If it does not exist, cannot be loaded, has another model's tokenizer, or does not assign
                exactly one of several labels to a text.
        """
        check_name(name_or_path, "a teacher")
        local, title = Path(name_or_path).is_dir(), f"the teacher {name_or_path}"
        folder = Path(name_or_path) if local else fetch(name_or_path, only=(_CONFIG,))
        if not (folder / _CONFIG).is_file():
            raise UserError(f"{title} has no {_CONFIG}: give the folder of a transformers model")
        config = read_config(title, folder)
        for architecture in config.architectures or ():
            if not architecture.endswith("ForSequenceClassification"):
                raise UserError(f"{title} does not classify texts: found a {architecture}; give a sequence classifier")
        check_sorts(title, config)
        if not local:  # download the weights of a usable model only
            folder = fetch(name_or_path, folder.name)
        if not list(folder.glob("*.safetensors")):
            raise UserError(f"{title} has no model.safetensors: save it with save_pretrained of transformers")
        with name_damage(title, "its tokenizer"):
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            limit = check_tokenizer(title, config, tokenizer, max_length)
        pads = tokenizer.pad_token_id is not None and getattr(config, "pad_token_id", None) is not None
        name = folder.resolve().name if local else name_or_path
        device = device or torch.device("cpu")
        return cls(name, folder, config, tokenizer, limit, batch_size if pads else 1, device, bf16)

    def label_names(self) -> list[str]:
        """Return the names of its classes, by id."""
        return [str(self.config.id2label.get(index, index)) for index in range(self.config.num_labels)]

    def align(self, class_names: Sequence[str], own_names: Sequence[str] | None = None) -> list[int]:
        """Return the teacher's id of each class of the data, matched by name.

        Args:
            class_names: Classes of the data, by id.
            own_names: Names of the teacher's classes by its ids, in place of those in its configuration.

        Raises:
            UserError: If the names differ, or `own_names` contradicts a configuration that has the data's names.
                Generic names (`LABEL_0`) are never guessed.
        """
        configured = self.label_names()
        found = configured if own_names is None else list(own_names)
        source = "" if own_names is None else "by teacher_labels, "
        if len(found) != len(configured):
            raise UserError(
                f"teacher_labels must name {len(configured)} classes of the teacher {self.name} "
                f"({listed(configured)}): found {listed(found)}"
            )
        generic = all(map(_GENERIC.fullmatch, configured))
        if found != configured and not generic and sorted(configured) == sorted(class_names):
            raise UserError(
                f"teacher_labels contradicts the {_CONFIG} of the teacher {self.name}: found {listed(found)} instead "
                f"of {listed(configured)}; leave it out, or correct the file"
            )
        if sorted(found) == sorted(class_names):
            return [found.index(name) for name in class_names]
        remedy = "take a teacher of the same task"
        if len(found) == len(class_names):
            remedy = "give the data's labels in the order of the teacher's ids as teacher_labels"
        raise UserError(
            f"{source}the teacher {self.name} has other labels than the data: found {listed(found)} instead of "
            f"{listed(class_names)}; {remedy}"
        )

    @cached_property
    def fingerprint(self) -> str:
        """Return a hash of all that decides its logits: weights, configuration, tokenizer, length, precision."""
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
        """Load the model, ready to predict.

        Raises:
            UserError: If the weights are damaged, or some are missing or of another shape.
        """
        level = transformers_logging.get_verbosity()
        transformers_logging.set_verbosity_error()  # unfit weights are reported below
        try:
            with name_damage(f"the teacher {self.name}", "its weights"):
                model, report = AutoModelForSequenceClassification.from_pretrained(
                    self.folder,
                    config=self.config,
                    trust_remote_code=False,
                    use_safetensors=True,
                    dtype=torch.float32,
                    output_loading_info=True,
                    ignore_mismatched_sizes=True,
                )
        finally:
            transformers_logging.set_verbosity(level)
        unfit = sorted([*report["missing_keys"], *(str(entry[0]) for entry in report["mismatched_keys"])])
        if unfit:
            raise UserError(
                f"the teacher {self.name} has no weights that fit its {_CONFIG} for {', '.join(unfit[:3])}: give a "
                "fine-tuned classifier, with its own configuration"
            )
        return model.to(self.device).eval()


@dataclass(frozen=True)
class Teachers:
    """One teacher, or cross-fitted ones.

    Attributes:
        name: Name of the folder, or repo id.
        members: Teachers with the same labels, in the order of their folds.
    """

    name: str
    members: Sequence[Teacher]

    @classmethod
    def open(cls, name_or_path: str, **options: Any) -> Self:
        """Find a teacher, or a folder of cross-fitted ones, and read everything except the weights.

        Args:
            name_or_path: A folder, or a repo id of the Hub (one teacher).
            options: Options of [`Teacher.open`].

        Raises:
            UserError: If one of them cannot be used, some are missing, or their labels differ.
        """
        name_or_path = os.path.expanduser(name_or_path)
        folders = _read_folds(Path(name_or_path))
        names = [str(folder) for folder in folders] or [name_or_path]
        members = [Teacher.open(name, **options) for name in names]
        for other in members[1:]:
            if other.label_names() != members[0].label_names():
                raise UserError(
                    f"teachers in {name_or_path} have different labels: found {listed(other.label_names())} in "
                    f"{other.name}; make all of them with one call of finetune_teacher.py --folds"
                )
        return cls(Path(name_or_path).resolve().name if folders else members[0].name, members)

    @property
    def folds(self) -> int | None:
        """The number of cross-fitted teachers; None for a single one."""
        return len(self.members) if len(self.members) > 1 else None


def fold_of(text: str, folds: int) -> int:
    """Return the fold of a text, from 0 to `folds` - 1.

    It depends on the text alone: duplicates (see [`normalize_text`]) have the same fold in every data set.
    """
    digest = hashlib.sha256(normalize_text(text).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") % folds


def fold_folder(folder: Path, fold: int) -> Path:
    """Return the folder of the teacher that has not seen the texts of a fold, counted from 0."""
    return folder / f"fold-{fold + 1}"


def write_folds(folder: Path, folds: int) -> None:
    """Write `folds.json`, after the last teacher."""
    write_whole(folder / FOLDS_FILE, (json.dumps({"folds": folds}) + "\n").encode())


def _read_folds(folder: Path) -> list[Path]:
    """Return the folders of cross-fitted teachers in the order of their folds; empty for any other folder."""
    path = folder / FOLDS_FILE
    if path.is_file():
        return [fold_folder(folder, fold) for fold in range(read_mapping(path, path.read_bytes())["folds"])]
    if (folder / UNFINISHED_FILE).is_file():
        raise UserError(
            f"some teachers in {folder} are missing: repeat the command of finetune_teacher.py with --resume"
        )
    return []


def check_tokenizer(
    name: str, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, max_length: int | None
) -> int | None:
    """Return the number of tokens per text that a model reads, including special ones; None means unlimited.

    Args:
        name: Name of the model, for messages.
        config: Its configuration.
        tokenizer: Its tokenizer.
        max_length: Upper limit; None is the model's own.

    Raises:
        UserError: For a tokenizer without words or of another model, or if `max_length` leaves no room for words.
    """
    vocabulary = tokenizer.get_vocab()
    if not vocabulary.keys() - set(tokenizer.all_special_tokens):  # the library makes one up if its files are missing
        raise UserError(f"{name} has a tokenizer without words: add its files, such as tokenizer.json")
    entries, largest = getattr(config, "vocab_size", None), max(vocabulary.values())
    if isinstance(entries, int) and largest >= entries:
        raise UserError(
            f"{name} has a tokenizer of another model: found ids up to {largest:,} for a table of {entries:,} tokens"
        )
    own, positions = tokenizer.model_max_length, getattr(config, "max_position_embeddings", None)
    if isinstance(positions, int) and positions > _NO_TABLE:
        own = min(own, positions - _count_unused_positions(config, positions))
    limit = min((known for known in (own, max_length) if known is not None and known < _NO_LIMIT), default=None)
    special = tokenizer.num_special_tokens_to_add()
    if limit is not None and limit <= special:
        raise UserError(f"{name} reads {limit} tokens per text, and {special} are special: raise the maximum length")
    return limit


def _count_unused_positions(config: PreTrainedConfig, positions: int) -> int:
    """Return the number of positions without a token: models like RoBERTa count from the id of the padding token."""
    with torch.device("meta"):
        model = AutoModel.from_config(config, trust_remote_code=False)
    for name, table in model.named_modules():
        if "position" in name and isinstance(table, torch.nn.Embedding) and table.num_embeddings == positions:
            return 0 if table.padding_idx is None else table.padding_idx + 1
    return 0
