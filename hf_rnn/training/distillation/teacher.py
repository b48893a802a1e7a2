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
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors.numpy import load_file, save
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)

from ...data.audit import normalize_text
from ...data.labels import listed
from ...hub.client import fetch
from ...hub.loading import check_name, check_sorts
from ...hub.model_folder import name_damage, read_config, read_mapping
from ...inference.reference import compute_logits
from ...utils.atomic_write import write_whole
from ...utils.errors import UserError
from ..checkpoints import hash_tokenizer

FOLDS_FILE = "folds.json"
BLOCK_TEXTS = 500  # texts per file of the cache; a killed run loses at most one file

_CONFIG = "config.json"
_WITHOUT_EFFECT = ("transformers_version", "_name_or_path", "dtype", "id2label", "label2id")  # on the answers
_NO_LIMIT = 10**9  # tokenizers without a limit report a larger number
_NO_TABLE = 2  # models without a table of positions report at most this number


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A sequence classifier whose weights stay on disk until they are needed."""

    name: str  # folder name or repo id
    folder: Path
    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerBase
    max_length: int | None  # tokens per text, including special ones; None means unlimited
    batch_size: int = 32
    device: torch.device = torch.device("cpu")
    bf16: bool = False  # whether it multiplies in bfloat16, under autocast

    @classmethod
    def open(cls, name_or_path: str, max_length: int | None = None, **options: Any) -> Self:
        """Find a teacher, a folder or a repo id of the Hub, and read everything except its weights.

        Texts are truncated to `max_length` tokens, or to the teacher's own limit if that is smaller. Options are
        `batch_size` (1 for a teacher that cannot pad), `device` and `bf16`.

        Raises:
            UserError: If it does not exist, cannot be loaded, has another model's tokenizer, or does not assign
                exactly one of several labels to a text.
        """
        check_name(name_or_path, "a teacher")
        local, title = Path(name_or_path).is_dir(), f"the teacher {name_or_path}"
        folder = Path(name_or_path) if local else fetch(name_or_path)
        config = read_config(title, folder)
        for architecture in config.architectures or ():
            if not architecture.endswith("ForSequenceClassification"):
                raise UserError(f"{title} does not classify texts: found a {architecture}; give a sequence classifier")
        check_sorts(title, config)
        with name_damage(title, "its tokenizer"):
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            limit = check_tokenizer(title, config, tokenizer, max_length)
        pads = tokenizer.pad_token_id is not None and getattr(config, "pad_token_id", None) is not None
        options |= {} if pads else {"batch_size": 1}
        name = folder.resolve().name if local else name_or_path
        return cls(name=name, folder=folder, config=config, tokenizer=tokenizer, max_length=limit, **options)

    def label_names(self) -> list[str]:
        """Return the names of its classes, by id."""
        return [str(self.config.id2label.get(index, index)) for index in range(self.config.num_labels)]

    def align(self, class_names: Sequence[str], own_names: Sequence[str] | None = None) -> list[int]:
        """Return the teacher's id of each class of the data, matched by name.

        `own_names` are names of its classes by id in place of those in its configuration. Generic names (`LABEL_0`)
        are never guessed. Raises a [`UserError`] if the names differ.
        """
        configured = self.label_names()
        names = configured if own_names is None else list(own_names)
        if sorted(names) == sorted(class_names) and len(names) == len(configured):
            return [names.index(name) for name in class_names]
        remedy = "take a teacher of the same task"
        if len(configured) == len(class_names):
            remedy = "give the data's labels in the order of the teacher's ids as teacher_labels"
        raise UserError(
            f"the teacher {self.name} has other labels than the data: found {listed(names)} instead of "
            f"{listed(class_names)}; {remedy}"
        )

    @cached_property
    def fingerprint(self) -> str:
        """Return a hash of all that decides its logits: weights, configuration, tokenizer, length, precision."""
        config = {name: value for name, value in self.config.to_dict().items() if name not in _WITHOUT_EFFECT}
        parts = [config, hash_tokenizer(self.tokenizer), self.max_length, self.bf16]
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode())
        for path in sorted(self.folder.glob("*.safetensors")):
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    def load(self) -> torch.nn.Module:
        """Load the model, ready to predict.

        Raises a [`UserError`] if the weights are damaged, or some are missing or of another shape.
        """
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
        unfit = sorted([*report["missing_keys"], *(str(entry[0]) for entry in report["mismatched_keys"])])
        if unfit:
            raise UserError(
                f"the teacher {self.name} has no weights that fit its {_CONFIG} for {', '.join(unfit[:3])}: give a "
                "fine-tuned classifier, with its own configuration"
            )
        return model.to(self.device).eval()

    def compute(self, model: Any, texts: Sequence[str]) -> np.ndarray:
        """Return the logits `(N, C)` of N texts by its loaded model, in float32, C in the order of its ids."""
        length = {"truncation": True, "max_length": self.max_length} if self.max_length is not None else {}
        input_ids = self.tokenizer(list(texts), **length)["input_ids"]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            return compute_logits(model, self.tokenizer, input_ids, self.batch_size).numpy()


@dataclass(frozen=True)
class Teachers:
    """One teacher, or cross-fitted ones."""

    name: str  # folder name or repo id
    members: Sequence[Teacher]  # with the same labels, in the order of their folds

    @classmethod
    def open(cls, name_or_path: str, **options: Any) -> Self:
        """Find a teacher, or a folder of cross-fitted ones, by [`Teacher.open`].

        Raises a [`UserError`] if one of them cannot be used, or some are missing.
        """
        name_or_path = os.path.expanduser(name_or_path)
        folders = _read_folds(Path(name_or_path))
        names = [str(folder) for folder in folders] or [name_or_path]
        members = [Teacher.open(name, **options) for name in names]
        return cls(Path(name_or_path).resolve().name if folders else members[0].name, members)

    @property
    def folds(self) -> int | None:
        """The number of cross-fitted teachers; None for a single one."""
        return len(self.members) if len(self.members) > 1 else None


class Answers:
    """Logits of teachers, from the cache or from the models; at most one model is in memory.

    A file of the folder `cache` is named after a hash of the teacher and its texts. `advance` is called with each
    number of texts that a teacher is done with.
    """

    def __init__(self, teachers: Teachers, cache: Path, advance: Callable[[int], Any] = lambda count: None) -> None:
        self.computed = self.cached = 0  # texts that a model has read, and those with logits in the cache
        self._teachers, self._cache, self._advance = teachers, cache, advance
        self._loaded: tuple[Teacher, torch.nn.Module] | None = None

    def for_training(self, texts: Sequence[str], sources: Sequence[str]) -> np.ndarray:
        """Return logits `(N, C)` of training texts or copies, each from the teacher that has not seen its source.

        `sources` has the training text of each.
        """
        members = self._teachers.members
        folds = np.array([fold_of(source, len(members)) for source in sources])
        logits = np.empty((len(texts), members[0].config.num_labels), dtype=np.float32)
        for fold, member in enumerate(members):
            rows = np.flatnonzero(folds == fold).tolist()
            logits[rows] = self._look_up(member, [texts[row] for row in rows])
        return logits

    def for_others(self, texts: Sequence[str]) -> np.ndarray:
        """Return logits `(N, C)` of N unseen texts; of several teachers, the mean of their log-probabilities."""
        logits = [self._look_up(member, texts) for member in self._teachers.members]
        if len(logits) == 1:
            return logits[0]
        return torch.stack([torch.from_numpy(one).log_softmax(dim=1) for one in logits]).mean(dim=0).numpy()

    def _look_up(self, teacher: Teacher, texts: Sequence[str]) -> np.ndarray:
        blocks = [np.empty((0, teacher.config.num_labels), dtype=np.float32)]
        for start in range(0, len(texts), BLOCK_TEXTS):
            block = texts[start : start + BLOCK_TEXTS]
            path = self._cache / f"{hash_texts(block, teacher.fingerprint)}.safetensors"
            if path.is_file():
                logits = load_file(path)["logits"]
                self._advance(len(block))
                self.cached += len(block)
            else:
                logits = teacher.compute(self._load(teacher), block)
                self._advance(len(block))
                path.parent.mkdir(parents=True, exist_ok=True)
                write_whole(path, save({"logits": logits}))
                self.computed += len(block)
            blocks.append(logits)
        return np.concatenate(blocks)

    def _load(self, teacher: Teacher) -> torch.nn.Module:
        if self._loaded is None or self._loaded[0] is not teacher:
            self._loaded = None  # frees the memory first
            self._loaded = teacher, teacher.load()
        return self._loaded[1]


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
    return []


def hash_texts(texts: Iterable[str], start: str) -> str:
    """Return a hash of texts and of what comes first, such as a teacher's fingerprint."""
    digest = hashlib.sha256(start.encode())
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return digest.hexdigest()


def check_tokenizer(
    name: str, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, max_length: int | None
) -> int | None:
    """Return the number of tokens per text that a model reads, including special ones; None means unlimited.

    `max_length` is an upper limit. Raises a [`UserError`] for a tokenizer without words.
    """
    if not tokenizer.get_vocab().keys() - set(tokenizer.all_special_tokens):  # made up if its files are missing
        raise UserError(f"{name} has a tokenizer without words: add its files, such as tokenizer.json")
    limit, positions = tokenizer.model_max_length, getattr(config, "max_position_embeddings", None)
    if isinstance(positions, int) and positions > _NO_TABLE:
        offset = 2 * (config.pad_token_id == 1)  # models like RoBERTa count from there
        limit = min(limit, positions - offset)
    return min((size for size in (limit, max_length) if size is not None and size < _NO_LIMIT), default=None)
