"""The teacher of a pretraining: an encoder of sentences, and its vectors of all texts in one memory-mapped file.

A sentence-transformers folder names its pooling and further layers in `modules.json`. Any other encoder of
transformers is pooled by the mean. Code of a repo is never run, and weights are read from safetensors only.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import time
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
from transformers import AutoModel, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from ...hub.client import fetch
from ...hub.loading import check_name
from ...hub.model_folder import name_damage, read_config, read_mapping
from ...utils.atomic_write import write_whole
from ...utils.errors import UserError
from ..checkpointing.fingerprints import hash_tokenizer
from ..distillation.teacher import check_tokenizer

logger = logging.getLogger(__name__)

BLOCK = 4096  # texts; a stopped run computes at most one block again
_SECONDS_BETWEEN_LINES = 30
_TOKENS_PER_BATCH = 4096
_POOLINGS = ("cls", "mean", "max")


@dataclass(frozen=True)
class SentenceTeacher:
    """An encoder of sentences whose weights stay on disk until they are needed.

    Attributes:
        name: Name of the folder, or repo id.
        folder: Contains the files.
        config: Configuration.
        tokenizer: Tokenizer.
        max_length: Tokens per text, including special ones; None means unlimited.
        poolings: Parts of a pooled vector, of `cls`, `max` and `mean`, side by side.
        dense: Folders of linear layers on top.
        device: Device of the model.
        bf16: Whether it multiplies in bfloat16.
    """

    name: str
    folder: Path
    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerBase
    max_length: int | None
    poolings: tuple[str, ...] = ("mean",)
    dense: tuple[Path, ...] = ()
    device: torch.device = torch.device("cpu")
    bf16: bool = False

    @classmethod
    def open(
        cls,
        name_or_path: str,
        *,
        max_length: int | None = None,
        device: torch.device | None = None,
        bf16: bool = False,
    ) -> Self:
        """Find a teacher and read everything except its weights.

        Args:
            name_or_path: A folder, or a repo id of the Hub.
            max_length: Truncate texts to this number of tokens, or to the teacher's own limit if that is smaller.
            device: None is the CPU.
            bf16: Whether it multiplies in bfloat16.

        Raises:
            UserError: If it does not exist, cannot be loaded, or has modules that are not known here.
        """
        check_name(name_or_path, "a teacher")
        local, title = Path(name_or_path).is_dir(), f"the teacher {name_or_path}"
        root = Path(name_or_path) if local else fetch(name_or_path)
        folder, poolings, dense, own = _read_modules(title, root)
        if not (folder / "config.json").is_file():
            raise UserError(f"{title} has no config.json: give a sentence-transformers folder, or an encoder's")
        if not list(folder.glob("*.safetensors")):
            raise UserError(f"{title} has no model.safetensors: save it with save_pretrained of transformers")
        config = read_config(title, folder)
        with name_damage(title, "its tokenizer"):
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            asked = min((length for length in (own, max_length) if length is not None), default=None)
            limit = check_tokenizer(title, config, tokenizer, asked)
        name = root.absolute().name if local else name_or_path
        return cls(name, folder, config, tokenizer, limit, poolings, dense, device or torch.device("cpu"), bf16)

    @cached_property
    def fingerprint(self) -> str:
        """Return a hash of all that decides its vectors: weights, configuration, tokenizer, pooling, precision."""
        settings = self.config.to_dict()
        for name in ("transformers_version", "_name_or_path", "dtype"):
            settings.pop(name, None)
        parts = [settings, hash_tokenizer(self.tokenizer), self.max_length, self.poolings, self.bf16]
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode())
        for path in (*sorted(self.folder.glob("*.safetensors")), *sorted(p / "model.safetensors" for p in self.dense)):
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    def load(self) -> Callable[[list[str]], np.ndarray]:
        """Load the model; return a function from N texts to their unit vectors `(N, S)` in float32."""
        with name_damage(f"the teacher {self.name}", "its weights"):
            model = AutoModel.from_pretrained(
                self.folder, config=self.config, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
            )
            layers = nn.Sequential(*map(_load_dense, self.dense))
        model, layers = model.to(self.device).eval(), layers.to(self.device).eval()
        accepted = inspect.signature(model.forward).parameters
        length = {"truncation": True, "max_length": self.max_length} if self.max_length is not None else {}

        @torch.inference_mode()
        def compute(texts: list[str]) -> np.ndarray:
            encoded = {name: rows for name, rows in self.tokenizer(texts, **length).items() if name in accepted}
            lengths = [len(row) for row in encoded["input_ids"]]
            order = sorted(range(len(texts)), key=lengths.__getitem__, reverse=True)
            found: list[torch.Tensor] = []
            start = 0
            while start < len(order):
                rows = order[start : start + max(1, _TOKENS_PER_BATCH // max(1, lengths[order[start]]))]
                start += len(rows)
                part = {name: [values[row] for row in rows] for name, values in encoded.items()}
                batch = self.tokenizer.pad(part, return_tensors="pt").to(self.device)
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                    states = model(**batch, return_dict=True).last_hidden_state
                    found.append(layers(_pool(states, batch["attention_mask"], self.poolings)).float().cpu())
            vectors = torch.empty(len(texts), found[0].shape[1])
            vectors[order] = normalize(torch.cat(found), dim=-1)
            return vectors.numpy()

        return compute


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
        self.fingerprint = hashlib.sha256(f"{teacher.fingerprint} {hash_texts(texts)}".encode()).hexdigest()

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
        """Compute the missing blocks that belong to one of several processes.

        Raises:
            UserError: For vectors that are not finite.
        """
        count = len(self._texts)
        blocks = [range(first, min(first + BLOCK, count)) for first in range(0, count, BLOCK)]
        missing = [rows for rows in blocks if not self._mark(rows).is_file()][process::processes]
        if not missing:
            return
        left = sum(map(len, missing))
        progress = Progress("teacher's vectors", count if processes == 1 else left, (count - left) * (processes == 1))
        vectors, embed = np.lib.format.open_memmap(self._path, "r+"), self._teacher.load()
        for rows in missing:
            found = embed(self._texts[rows.start : rows.stop]["text"])
            if not np.isfinite(found).all():
                row = rows[int(np.flatnonzero(~np.isfinite(found).all(axis=1))[0])]
                text = self._texts[row]["text"]
                raise UserError(f"the teacher {self._teacher.name} has no finite vector for {text!r:.80}")
            vectors[rows.start : rows.stop] = found
            vectors.flush()
            self._mark(rows).touch()
            progress.advance(len(rows))

    def read(self) -> np.ndarray:
        """Return the vectors, mapped from their file."""
        return np.load(self._path, mmap_mode="r")

    def _mark(self, rows: range) -> Path:
        return self._folder / f"block-{rows.start}"


def hash_texts(texts: datasets.Dataset) -> str:
    """Return a hash of the column `text`."""
    digest = hashlib.sha256()
    for text in iterate(texts):
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return digest.hexdigest()


def iterate(texts: datasets.Dataset) -> Iterator[str]:
    """Yield the column `text`, a batch in memory at a time."""
    for start in range(0, len(texts), BLOCK):
        yield from texts[start : start + BLOCK]["text"]


class Progress:
    """Log what is done, texts per second and the time left, every half minute."""

    def __init__(self, what: str, total: int, done: int) -> None:
        self._what, self._total, self._done, self._start = what, total, done, done
        self._began = self._shown = time.monotonic()
        if done:
            logger.info("%s: %s of %s are there already", what, f"{done:,}", f"{total:,}")

    def advance(self, count: int) -> None:
        """Count finished texts."""
        self._done += count
        now = time.monotonic()
        if now - self._shown < _SECONDS_BETWEEN_LINES and self._done < self._total:
            return
        self._shown, rate = now, (self._done - self._start) / max(1e-9, now - self._began)
        left = (self._total - self._done) / max(1e-9, rate)
        message = "%s: %s of %s, %s texts a second, %s left"
        numbers = f"{self._done:,}", f"{self._total:,}", f"{rate:,.0f}", f"{int(left) // 60}:{int(left) % 60:02d}"
        logger.info(message, self._what, *numbers)
