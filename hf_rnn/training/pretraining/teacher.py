"""The teacher of a pretraining: an encoder of sentences, and its vectors of all texts in one memory-mapped file.

A sentence-transformers folder names its pooling and further layers in `modules.json`. Any other encoder of
transformers is pooled by the mean. Code of a repo is never run, and weights are read from safetensors only.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import datasets
import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import normalize
from tqdm.auto import tqdm
from transformers import AutoModel, AutoTokenizer

from ...hub.client import fetch
from ...hub.loading import check_name
from ...hub.model_folder import name_damage, read_config, read_mapping
from ...utils.atomic_write import write_whole
from ...utils.errors import UserError
from ..distillation.teacher import TeacherModel, check_tokenizer, hash_texts

logger = logging.getLogger(__name__)

BLOCK = 4096  # texts; a stopped run computes at most one block again
_TOKENS_PER_BATCH = 4096
_POOLINGS = ("cls", "mean", "max")


@dataclass(frozen=True, kw_only=True)
class SentenceTeacher(TeacherModel):
    """An encoder of sentences."""

    poolings: tuple[str, ...] = ("mean",)  # parts of a pooled vector, of `cls`, `max` and `mean`, side by side
    dense: tuple[Path, ...] = ()  # folders of linear layers on top

    @classmethod
    def open(cls, name_or_path: str, max_length: int | None = None, **options: Any) -> Self:
        """Find a teacher, a folder or a repo id of the Hub, and read everything except its weights.

        Texts are truncated to `max_length` tokens, or to the teacher's own limit if that is smaller. Options are
        `device` and `bf16`. Raises a [`UserError`] if it does not exist, cannot be loaded, or has modules that are not
        known here.
        """
        check_name(name_or_path, "a teacher")
        local, title = Path(name_or_path).is_dir(), f"the teacher {name_or_path}"
        root = Path(name_or_path) if local else fetch(name_or_path)
        folder, poolings, dense, own = _read_modules(title, root)
        config = read_config(title, folder)
        with name_damage(title, "its tokenizer"):
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            asked = min((length for length in (own, max_length) if length is not None), default=None)
            limit = check_tokenizer(title, config, tokenizer, asked)
        options |= {"poolings": poolings, "dense": dense}
        name = root.absolute().name if local else name_or_path
        return cls(name=name, folder=folder, config=config, tokenizer=tokenizer, max_length=limit, **options)

    @cached_property
    def fingerprint(self) -> str:
        """Return a hash of all that decides its vectors."""
        layers = [hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest() for folder in self.dense]
        return self.hash_model(self.poolings, layers)

    def load(self) -> Callable[[list[str]], np.ndarray]:
        """Load the model; return a function from N texts to their unit vectors `(N, S)` in float32."""
        with name_damage(f"the teacher {self.name}", "its weights"):
            model = AutoModel.from_pretrained(
                self.folder, config=self.config, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
            )
            layers = nn.Sequential(*map(_load_dense, self.dense)).to(self.device).eval()
        model = model.to(self.device).eval()

        def read(outputs: Any, mask: torch.Tensor) -> torch.Tensor:
            return normalize(layers(_pool(outputs.last_hidden_state, mask, self.poolings)).float(), dim=-1)

        return lambda texts: self.run(model, texts, read, lambda longest: max(1, _TOKENS_PER_BATCH // longest))


def _read_modules(title: str, root: Path) -> tuple[Path, tuple[str, ...], tuple[Path, ...], int | None]:
    """Return the folder of the encoder, the parts of its pooling, folders of dense layers, and tokens per text."""
    path = root / "modules.json"
    if not path.is_file():
        return root, ("mean",), (), None
    folder, dense, limit = root, [], None
    poolings: tuple[str, ...] = ("mean",)
    with name_damage(title, path.name):
        for module in json.loads(path.read_text("utf-8")):
            kind, place = module["type"].rpartition(".")[2], root / module["path"]
            if kind == "Transformer":
                folder = place
                settings = place / "sentence_bert_config.json"
                if settings.is_file():
                    limit = read_mapping(settings, settings.read_bytes()).get("max_seq_length")
            elif kind == "Pooling":
                asked = read_mapping(place / "config.json", (place / "config.json").read_bytes())
                poolings = _read_pooling(title, asked)
            elif kind == "Dense":
                dense.append(place)
            elif kind != "Normalize":
                raise UserError(
                    f"{title} has a module {kind}: Transformer, Pooling, Dense and Normalize are known here"
                )
    return folder, poolings, tuple(dense), limit


def _read_pooling(title: str, asked: dict[str, Any]) -> tuple[str, ...]:
    mode = asked.get("pooling_mode")
    names = [mode] if isinstance(mode, str) else mode
    if names is None:
        found = [
            name.removeprefix("pooling_mode_") for name, on in asked.items() if name.startswith("pooling_") and on
        ]
        names = [name.removesuffix("_tokens").removesuffix("_token") for name in found]
    if not names or not set(names) <= set(_POOLINGS):
        raise UserError(f"{title} has a pooling {', '.join(names)}: {', '.join(_POOLINGS)} are known here")
    return tuple(name for name in ("cls", "max", "mean") if name in names)


def _load_dense(folder: Path) -> nn.Module:
    settings = read_mapping(folder / "config.json", (folder / "config.json").read_bytes())
    layer = nn.Linear(settings["in_features"], settings["out_features"], settings.get("bias", True))
    weights = load_file(folder / "model.safetensors")
    layer.load_state_dict({name.removeprefix("linear."): weight for name, weight in weights.items()})
    name = str(settings.get("activation_function", "Tanh")).rpartition(".")[2]
    if not hasattr(nn, name):
        raise UserError(f"{folder} has an unknown activation_function: found {name}; use one of torch.nn")
    return nn.Sequential(layer, getattr(nn, name)())


def _pool(states: torch.Tensor, mask: torch.Tensor, parts: tuple[str, ...]) -> torch.Tensor:
    """Return the parts of the pooled vectors side by side, in the order of sentence-transformers."""
    real = mask[:, :, None].to(states.dtype)
    pooled = {
        "cls": lambda: states[:, 0],
        "max": lambda: states.masked_fill(real == 0, -1e9).amax(dim=1),
        "mean": lambda: (states * real).sum(dim=1) / real.sum(dim=1).clamp(min=1e-9),
    }
    return torch.cat([pooled[part]() for part in parts], dim=-1)


class TeacherVectors:
    """A teacher's unit vectors `(N, S)` of N texts, float16, in files of `folder`.

    Blocks that a stopped run has computed for the same teacher and texts are kept. With several processes the first
    one calls `prepare`, then each computes its part, then all read.
    """

    def __init__(self, teacher: SentenceTeacher, texts: datasets.Dataset, folder: Path) -> None:
        self._teacher, self._texts, self._folder = teacher, texts, folder
        self._record, self._path = folder / "vectors.json", folder / "vectors.npy"
        self.fingerprint = hash_texts(iterate(texts), teacher.fingerprint)

    def prepare(self) -> None:
        """Make an empty file, unless there is one of the same teacher and texts."""
        known = read_mapping(self._record, self._record.read_bytes()) if self._record.is_file() else {}
        if known.get("fingerprint") == self.fingerprint and self._path.is_file():
            return
        size = self._teacher.load()(["a text"]).shape[1]
        self._folder.mkdir(parents=True, exist_ok=True)
        for old in self._folder.glob("block-*"):
            old.unlink()
        np.lib.format.open_memmap(self._path, "w+", np.float16, (len(self._texts), size)).flush()
        write_whole(self._record, json.dumps({"fingerprint": self.fingerprint}).encode())

    def compute(self, process: int = 0, processes: int = 1) -> None:
        """Compute the missing blocks that belong to one of several processes."""
        count = len(self._texts)
        blocks = [range(first, min(first + BLOCK, count)) for first in range(0, count, BLOCK)]
        missing = [rows for rows in blocks if not self._mark(rows).is_file()][process::processes]
        if not missing:
            return
        left = sum(map(len, missing))
        if processes == 1 and left < count:
            logger.info("teacher's vectors: %s of %s are there already", f"{count - left:,}", f"{count:,}")
        seconds = 0.1 if sys.stderr.isatty() else 30
        bar = tqdm(desc="teacher's vectors", total=left, unit=" texts", mininterval=seconds, disable=process > 0)
        vectors, embed = np.lib.format.open_memmap(self._path, "r+"), self._teacher.load()
        for rows in missing:
            vectors[rows.start : rows.stop] = embed(self._texts[rows.start : rows.stop]["text"])
            vectors.flush()
            self._mark(rows).touch()
            bar.update(len(rows))
        bar.close()

    def read(self) -> np.ndarray:
        """Return the vectors, mapped from their file."""
        return np.load(self._path, mmap_mode="r")

    def _mark(self, rows: range) -> Path:
        return self._folder / f"block-{rows.start}"


def iterate(texts: datasets.Dataset) -> Iterator[str]:
    """Yield the column `text`, a batch in memory at a time."""
    for start in range(0, len(texts), BLOCK):
        yield from texts[start : start + BLOCK]["text"]
