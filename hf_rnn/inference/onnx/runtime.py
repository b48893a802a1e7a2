"""`OnnxClassifier`: the ONNX file of a finished folder, run by ONNX Runtime; raw texts → labels and scores.

It needs the tokenizer, `config.json` and the ONNX file, not the weights. Making that file is [`hf_rnn.inference.onnx`]'s work.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from ...hub.client import fetch
from ...hub.loading import check_name, load_without_weights
from ...hub.model_folder import FinishedFolder
from ...models.configuration_rnn import RnnConfig
from ...utils.errors import UserError, reason_of
from ..fast_tokenizer.fast_tokenization import FastTokenizer
from ..reference import batch_by_length, scores_of

WEIGHTS_KEY = "weights_sha256"  # in the file's metadata: the weights that it was made of
LABELS_KEY = "id2label"  # and the labels of its answers
_BESIDE = ("*.json", "*.txt", "*.model", "*.jinja")  # what of a repo is needed besides the ONNX file: the tokenizers'


def open_session(model: str | bytes) -> Any:
    """Return a session of ONNX Runtime on the CPU, with as many threads as torch has.

    Args:
        model: Path of an ONNX file, or its content.

    Raises:
        UserError: When ONNX Runtime is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError("ONNX files need onnxruntime. Type: pip install 'hf-rnn[onnx]'") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run_session(session: Any, input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
    """Return the logits `(B, C)` of ids and mask, int64 `(B, T)`."""
    return session.run(["logits"], {"input_ids": input_ids, "attention_mask": attention_mask})[0]


def hash_weights(folder: FinishedFolder) -> str:
    """Return the SHA-256 of a folder's weights, by which an ONNX file that was made of others is told."""
    return _hash(folder.weights)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_labels(config: RnnConfig) -> str:
    """Return the labels as an ONNX file's metadata has them."""
    return json.dumps(dict(sorted(config.id2label.items())), ensure_ascii=False)


class OnnxClassifier:
    """A text classifier in ONNX Runtime.

    The float32 file gives the model's own logits, within 1e-4, in any batch. The int8 file is smaller and rounds; as
    its inputs are rounded over the whole batch, its scores depend a little on the texts beside. One that
    `from_pretrained` made can be pickled, for other processes and machines: the file's content goes along.

    Args:
        session: An ONNX Runtime session on a file that `hf-rnn export` made.
        tokenizer: The tokenizer that belongs to it; texts are cut at its `model_max_length`.
        config: Gives labels and kind of task.
        tokens_per_batch: About how many tokens run at once.

    Raises:
        UserError: For `tokens_per_batch` under 1.

    Example:
        >>> classifier = OnnxClassifier.from_pretrained("out/tweets")
        >>> classifier.predict(["best concert of my life!"])
        [{'label': 'positive', 'score': 0.9}]
    """

    def __init__(
        self, session: Any, tokenizer: PreTrainedTokenizerBase, config: RnnConfig, tokens_per_batch: int = 8192
    ) -> None:
        if tokens_per_batch < 1:
            raise UserError(f"tokens_per_batch must be at least 1, found {tokens_per_batch}")
        self.session = session
        self.tokenizer = tokenizer
        self._encode = FastTokenizer(tokenizer)
        self.config = config
        self.tokens_per_batch = tokens_per_batch
        self._file: bytes | tuple[Path, str] | None = None  # its content, or path and hash: no session gives it back

    def __reduce__(self) -> tuple[Any, ...]:
        if self._file is None:
            raise TypeError(
                "only an OnnxClassifier that from_pretrained made can be pickled, this has another session"
            )
        content = self._file if isinstance(self._file, bytes) else _read_again(*self._file)
        return _open_again, (type(self), content, self.tokenizer, self.config, self.tokens_per_batch)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        quantized: bool = False,
        revision: str | None = None,
        tokens_per_batch: int = 8192,
    ) -> OnnxClassifier:
        """Load the ONNX file of a finished folder or a repo of the Hub.

        Args:
            name_or_path: The folder, or the repo id. The weights need not be there.
            quantized: Take the int8 file.
            revision: Branch, tag or commit of a repo.
            tokens_per_batch: About how many tokens run at once.

        Raises:
            UserError: When a file is missing, cannot be read, was made of other weights or labels than the folder has,
                or does not take ids and give logits.
        """
        name = os.path.expanduser(str(name_or_path))
        folder = _find(name, quantized, revision)
        path = _file(folder, quantized)
        again = f"hf-rnn export --model {shlex.quote(name)}{' --quantize int8' if quantized else ''}"
        if not path.is_file():
            file = path.relative_to(folder.root).as_posix()
            if Path(name).is_dir():
                raise UserError(f"{name} has no {file}: make it with `{again}`")
            raise UserError(f"{name} on the Hub has no {file}: its owner can make it with `hf-rnn export` and push it")
        try:
            session = open_session(str(path))
            metadata = session.get_modelmeta().custom_metadata_map
        except UserError:
            raise
        except Exception as error:  # ONNX Runtime's own errors have no common class
            raise UserError(f"{path} cannot be read: {reason_of(error):.300}. Make it again with `{again}`") from error
        if not metadata.keys() >= {WEIGHTS_KEY, LABELS_KEY}:
            raise UserError(f"{path} was not made by hf-rnn export: make it with `{again}`")
        if folder.weights.is_file() and metadata[WEIGHTS_KEY] != hash_weights(folder):
            raise UserError(f"{path} was made of other weights than {folder.weights} holds: repeat `{again}`")
        config, tokenizer = load_without_weights(name, folder)
        if metadata[LABELS_KEY] != write_labels(config):
            raise UserError(f"{path} was made of other labels than {folder.config} holds: repeat `{again}`")
        _check_answers(path, session, config, again)
        classifier = cls(session, tokenizer, config, tokens_per_batch)
        classifier._file = path.absolute(), _hash(path)
        return classifier

    def predict(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        """Return `{"label": ..., "score": ...}` of each text's best class, in the order of the texts.

        Raises:
            UserError: For something that is no list of texts; the message says which.
        """
        scores, numbers = scores_of(self.config, self.logits(self.tokenize(texts))).max(dim=-1)
        labels = self.config.id2label
        return [
            {"label": labels[number], "score": score}
            for number, score in zip(numbers.tolist(), scores.tolist(), strict=True)
        ]

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        """Return the scores `(N, C)` in float32, in the order of the texts and of `id2label`.

        Raises:
            UserError: For something that is no list of texts; the message says which.
        """
        return scores_of(self.config, self.logits(self.tokenize(texts))).numpy()

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of texts, equal to those of `tokenizer(texts, truncation=True)`.

        Raises:
            UserError: For something that is no list of texts; the message says which.
        """
        return self._encode(texts)

    def logits(self, input_ids: Sequence[Sequence[int]]) -> torch.Tensor:
        """Return the logits `(N, C)` in float32, in the order of `input_ids`.

        Args:
            input_ids: Token ids by text, each id a token to read; a text without any is allowed.

        Raises:
            IndexError: For an id that the vocabulary does not have; a negative one ONNX Runtime would take as one from
                the end.
        """
        if min((min(ids, default=0) for ids in input_ids), default=0) < 0:
            raise IndexError("a token id is negative")
        if (largest := max((max(ids, default=0) for ids in input_ids), default=0)) >= self.config.vocab_size:
            raise IndexError(f"a token id is {largest}, and vocab_size {self.config.vocab_size}")
        logits = np.zeros((len(input_ids), self.config.num_labels), np.float32)
        for rows in batch_by_length(input_ids, self.tokens_per_batch):
            time = max(len(input_ids[row]) for row in rows)
            ids = np.zeros((len(rows), time), np.int64)
            mask = np.zeros_like(ids)
            for place, row in enumerate(rows):
                ids[place, : len(input_ids[row])] = input_ids[row]
                mask[place, : len(input_ids[row])] = 1
            logits[rows] = run_session(self.session, ids, mask)
        return torch.from_numpy(logits)


def _open_again(
    kind: type[OnnxClassifier], content: bytes, tokenizer: PreTrainedTokenizerBase, config: RnnConfig, tokens: int
) -> OnnxClassifier:
    """Make a classifier of what was pickled."""
    classifier = kind(open_session(content), tokenizer, config, tokens)
    classifier._file = content
    return classifier


def _read_again(path: Path, expected: str) -> bytes:
    """Return the content of a file that was loaded once."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}, which goes into the pickle, cannot be read: {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != expected:
        raise UserError(f"{path} is another file than when it was loaded: load it again before you pickle it")
    return content


def _check_answers(path: Path, session: Any, config: RnnConfig, again: str) -> None:
    """Run a file on the first and the last entry of the vocabulary: another's may carry our marks too."""
    ids = np.array([[0], [config.vocab_size - 1]])
    try:
        logits = run_session(session, ids, np.ones_like(ids))
    except Exception as error:  # as above
        raise UserError(f"{path} does not run: {reason_of(error):.300}. Make it again with `{again}`") from error
    found = f"{type(logits).__name__} {getattr(logits, 'dtype', '')} {np.shape(logits)}"
    if found != (wanted := f"ndarray float32 {(2, config.num_labels)}"):
        raise UserError(f"{path} gives {found} for two texts, not {wanted}: make it again with `{again}`")
    if not np.isfinite(logits).all():
        raise UserError(f"{path} gives logits that are NaN or infinite: make it again with `{again}`")


def _file(folder: FinishedFolder, quantized: bool) -> Path:
    return folder.onnx_model_int8 if quantized else folder.onnx_model


def _find(name: str, quantized: bool, revision: str | None) -> FinishedFolder:
    """Return the folder that a name means, got from the Hub without the weights if it is none of here."""
    check_name(name, "a trained model")
    folder = FinishedFolder(Path(name))
    if not folder.root.is_dir():
        wanted = _file(folder, quantized).relative_to(folder.root).as_posix()
        return FinishedFolder(fetch(name, revision, only=(*_BESIDE, wanted)))
    if revision is not None:
        raise UserError(f"{name} is a folder here, which has no revision {revision!r}: leave it out")
    missing = [path.name for path in folder.missing_to_load() if path != folder.weights]
    if missing:
        raise UserError(f"{name} has no {', '.join(missing)}: give the folder of a trained model")
    return folder
