"""The teacher of a pretraining, loaded by sentence-transformers, and its answers to all texts in memory-mapped files.

Legend: N texts, M tokens of all texts, S width of a teacher's vector, S' that of its states.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from tqdm.auto import tqdm

from ...hub.loading import check_name
from ...hub.model_folder import read_mapping
from ...utils.atomic_write import write_whole
from ...utils.errors import UserError, install_hint, reason_of

logger = logging.getLogger(__name__)

BLOCK = 4096  # texts; a stopped run computes at most one block again
_TOKENS_PER_BATCH = 2048


class SentenceTeacher:
    """An encoder of sentences: a sentence-transformers model, or an encoder of transformers with mean pooling.

    Args:
        name_or_path: A folder, or a repo id of the Hub. Code of a repo is never run.
        max_length: Tokens per text, if that is less than the teacher's own limit.
        device: Where it runs.
        bf16: Whether to compute in bfloat16.

    Raises:
        UserError: If sentence-transformers is missing, or the teacher cannot be loaded.
    """

    def __init__(self, name_or_path: str, max_length: int | None, device: torch.device, bf16: bool) -> None:
        check_name(name_or_path, "a teacher")
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise UserError(f"pretrain needs sentence-transformers. Type: {install_hint('pretrain')}") from error
        try:
            self.model = SentenceTransformer(
                name_or_path,
                device=str(device),
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True, "dtype": torch.float32},
            ).eval()
        except Exception as error:  # the libraries below raise exceptions of many kinds
            raise UserError(f"the teacher {name_or_path} cannot be loaded: {reason_of(error):.300}") from error
        limits = [limit for limit in (self.model.max_seq_length, max_length) if limit is not None]
        self.max_length = min(limits, default=None)
        if self.max_length is not None:
            self.model.max_seq_length = self.max_length
        local = Path(name_or_path).is_dir()
        self.name = Path(name_or_path).absolute().name if local else name_or_path
        self.tokenizer = self.model.tokenizer
        self.vector_size = self.model.encode(["a text"]).shape[1]
        transformer: Any = self.model[0]
        self.network = transformer.auto_model
        self.state_size: int = self.network.config.hidden_size
        self._bf16 = bf16
        around = {*self.tokenizer.all_special_ids} - {self.tokenizer.unk_token_id}  # tokens that are not of a text
        self._around = np.array(sorted(around))

    def fingerprint(self) -> str:
        """Return a hash of all that decides its answers."""
        digest = hashlib.sha256(f"{self.model} {self.max_length} {self._bf16}".encode())
        digest.update(self.tokenizer.backend_tokenizer.to_str().encode())
        for name, weight in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(weight.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def read_table(self) -> np.ndarray:
        """Return the token vectors `(V, E)`."""
        return self.network.get_input_embeddings().weight.detach().cpu().float().numpy()

    def count_special(self) -> int:
        """Return the number of tokens that the tokenizer puts around a text."""
        return self.tokenizer.num_special_tokens_to_add()

    @torch.inference_mode()
    def answer(self, texts: Sequence[str]) -> tuple[np.ndarray, list[np.ndarray]]:
        """Return unit vectors `(N, S)`, and per text the last hidden states `(T, S')` of its own tokens."""
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        vectors = np.empty((len(texts), self.vector_size), np.float32)
        states: list[Any] = [None] * len(texts)
        start = 0
        while start < len(order):
            longest = len(texts[order[min(start + _TOKENS_PER_BATCH, len(order)) - 1]]) // 3 + 8
            rows = order[start : start + max(1, _TOKENS_PER_BATCH // longest)]
            start += len(rows)
            inputs = self.model.preprocess([texts[row] for row in rows])
            inputs = {
                name: value.to(self.model.device) if hasattr(value, "to") else value for name, value in inputs.items()
            }
            with torch.autocast(self.model.device.type, dtype=torch.bfloat16, enabled=self._bf16):
                outputs = self.model(inputs)
            found = torch.nn.functional.normalize(outputs["sentence_embedding"].float(), dim=-1)
            hidden = outputs["token_embeddings"].float().cpu().numpy()
            kept = ~np.isin(inputs["input_ids"].cpu().numpy(), self._around)
            vectors[rows] = found.cpu().numpy()
            for place, row in enumerate(rows):
                states[row] = hidden[place, kept[place]]
        return vectors, states


class TeacherAnswers:
    """A teacher's answers in files of `folder`, in float16: vectors `(N, S)` and, for tokens, states `(M, S')`.

    Blocks that a stopped run has computed for the same teacher and texts are kept. With several processes the first
    one calls `prepare`, then each computes its part, then all read.

    Args:
        texts: The texts.
        lengths: Tokens of each text, to store the states of its tokens too; None for vectors only.
        folder: Where the files are.
        fingerprint: A hash of teacher, texts and tokens.
    """

    def __init__(self, texts: datasets.Dataset, lengths: np.ndarray | None, folder: Path, fingerprint: str) -> None:
        self._texts, self._folder, self.fingerprint = texts, folder, fingerprint
        self._record, self._path = folder / "vectors.json", folder / "vectors.npy"
        self._states = folder / "states.npy"
        self.offsets = None if lengths is None else np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])

    def prepare(self, vector_size: int, state_size: int) -> None:
        """Make empty files, unless there are some of the same teacher and texts."""
        known = read_mapping(self._record, self._record.read_bytes()) if self._record.is_file() else {}
        if known.get("fingerprint") == self.fingerprint and self._path.is_file():
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        for old in self._folder.glob("block-*"):
            old.unlink()
        np.lib.format.open_memmap(self._path, "w+", np.float16, (len(self._texts), vector_size)).flush()
        if self.offsets is not None:
            shape = (int(self.offsets[-1]), state_size)
            logger.info("teacher's states of %s tokens take %.1f GB", f"{shape[0]:,}", 2 * shape[0] * shape[1] / 1e9)
            np.lib.format.open_memmap(self._states, "w+", np.float16, shape).flush()
        write_whole(self._record, json.dumps({"fingerprint": self.fingerprint}).encode())

    def compute(self, teacher: SentenceTeacher, process: int = 0, processes: int = 1) -> None:
        """Compute the missing blocks that belong to one of several processes."""
        count = len(self._texts)
        blocks = [range(first, min(first + BLOCK, count)) for first in range(0, count, BLOCK)]
        missing = [rows for rows in blocks if not self._mark(rows).is_file()][process::processes]
        if not missing:
            return
        left = sum(map(len, missing))
        if processes == 1 and left < count:
            logger.info("teacher's answers: %s of %s are there already", f"{count - left:,}", f"{count:,}")
        seconds = 0.1 if sys.stderr.isatty() else 30
        bar = tqdm(desc="teacher's answers", total=left, unit=" texts", mininterval=seconds, disable=process > 0)
        files = [np.lib.format.open_memmap(self._path, "r+")]
        if self.offsets is not None:
            files.append(np.lib.format.open_memmap(self._states, "r+"))
        for rows in missing:
            vectors, states = teacher.answer(self._texts[rows.start : rows.stop]["text"])
            files[0][rows.start : rows.stop] = vectors
            if self.offsets is not None:
                self._store_states(files[1], rows, states)
            for file in files:
                file.flush()
            self._mark(rows).touch()
            bar.update(len(rows))
        bar.close()

    def _store_states(self, file: np.ndarray, rows: range, states: list[np.ndarray]) -> None:
        offsets: Any = self.offsets
        begins, ends = offsets[rows.start : rows.stop], offsets[rows.start + 1 : rows.stop + 1]
        for begin, end, state in zip(begins, ends, states, strict=True):
            if len(state) == end - begin:
                file[begin:end] = state
            else:  # the text spells a special token, as in `[SEP]`: zeros have no gradient
                file[begin:end] = 0

    def read(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the vectors, and the states or None, mapped from their files."""
        states = None if self.offsets is None else np.load(self._states, mmap_mode="r")
        return np.load(self._path, mmap_mode="r"), states

    def _mark(self, rows: range) -> Path:
        return self._folder / f"block-{rows.start}"


def iterate(texts: datasets.Dataset) -> Iterator[str]:
    """Yield the column `text`, a batch in memory at a time."""
    for start in range(0, len(texts), BLOCK):
        yield from texts[start : start + BLOCK]["text"]


def hash_texts(texts: datasets.Dataset, *facts: str) -> str:
    """Return a hash of texts and of facts, such as a teacher's fingerprint."""
    digest = hashlib.sha256(json.dumps(facts).encode())
    for text in iterate(texts):
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return digest.hexdigest()
