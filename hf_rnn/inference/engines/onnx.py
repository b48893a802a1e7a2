"""`OnnxEngine`: logits of an ONNX file in ONNX Runtime, and the files of a folder that it needs besides.

These are the tokenizer, `config.json` and the ONNX file, not the weights. The packages are `onnxruntime`, `tokenizers`
and `numpy`: nothing here imports torch, transformers or datasets.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...hub.model_folder import TOKENIZER, FinishedFolder, check_name, check_tokenizer, name_damage
from ...utils.errors import UserError, install_hint, reason_of
from ..tokens import TokenizerFile
from . import CLASSIFIER, DEFAULTS, TAGGER, Engine, InferenceOptions, batch_by_length
from .stored import read_config_alone

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

    from ...tasks import Config

# In the metadata of the file, which show whether it still belongs to its folder.
WEIGHTS_KEY = "weights_sha256"
LABELS_KEY = "id2label"
STREAM_KEY = "stream"  # binds the state of a stream to its model
HEADS = (CLASSIFIER, TAGGER, "RnnModel")  # in `architectures`
_TOKENS = 8192  # per batch, padding included
_TOKENIZER_FILES = ("*.json", "*.txt", "*.model", "*.jinja")


def open_session(model: str | bytes, threads: int | None = None) -> InferenceSession:
    """Return a session on the path or content of an ONNX file; its threads are those of torch, or OMP_NUM_THREADS."""
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(f"ONNX files need onnxruntime. Type: {install_hint('onnx')}") from error
    options = onnxruntime.SessionOptions()
    torch = sys.modules.get("torch")
    usual = torch.get_num_threads() if torch else int(os.environ.get("OMP_NUM_THREADS", 0))
    options.intra_op_num_threads = threads or usual
    options.log_severity_level = 3  # errors
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run_session(
    session: InferenceSession, input_ids: np.ndarray, attention_mask: np.ndarray, **state: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the outputs by name of ids and mask, int64 `(B, T)`, and of the `initial_state` of a streaming model."""
    names = [node.name for node in session.get_outputs()]
    values = session.run(names, {"input_ids": input_ids, "attention_mask": attention_mask, **state})
    return dict(zip(names, values, strict=True))


def hash_weights(folder: FinishedFolder) -> str:
    """Return the SHA-256 of a folder's weights."""
    digest = hashlib.sha256()
    for path in folder.weight_files():
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()


def write_labels(config: Config) -> str:
    """Return the labels in the form of the file's metadata."""
    return json.dumps(dict(sorted(config.id2label.items())), ensure_ascii=False)


class OnnxEngine(Engine):
    """An ONNX Runtime session on a file of `hf-rnn export`; its first output is the result.

    The float32 file gives the model's own numbers, within 1e-4, in any batch. The int8 file is smaller and rounds; as
    its inputs are rounded over the whole batch, its numbers depend a little on the other texts of the batch. An engine
    is pickled as `source`, the arguments of `load`: the other process loads the file again.
    """

    def __init__(
        self, session: InferenceSession, config: Config, source: tuple[str, InferenceOptions] | None = None
    ) -> None:
        self.session, self.config, self._source = session, config, source

    def __reduce__(self) -> tuple[Any, ...]:
        if self._source is None:
            raise TypeError("only a model from from_pretrained can be pickled")
        return _load_again, self._source

    @classmethod
    def load(cls, name: str, options: InferenceOptions, is_encoder: bool = False) -> tuple[OnnxEngine, TokenizerFile]:
        """Return the engine and the tokenizer of a finished folder or a repo; its weights may be missing.

        Raises:
            UserError: If a file is missing or damaged, or was made from other weights or labels than the folder has.
        """
        name = os.path.expanduser(name)
        folder, session, tokenizer, config = read_exported(name, options)
        if is_encoder and session.get_outputs()[0].name != "sentence_embedding":
            raise UserError("the file has no sentence_embedding: export an encoder of hf-rnn pretrain")
        engine = cls(session, config, (os.path.abspath(name) if folder.root == Path(name) else name, options))
        engine.folder = folder
        return engine, tokenizer

    def run(self, input_ids: Sequence[Sequence[int]], options: InferenceOptions = DEFAULTS) -> np.ndarray:
        """As in [`Engine`]; an encoder gives vectors. ONNX Runtime would count a negative id from the end."""
        ends = [end for ids in input_ids if len(ids) for end in (min(ids), max(ids))]
        largest = self.config.vocab_size - 1
        if ends and not 0 <= min(ends) <= max(ends) <= largest:
            raise IndexError(f"token ids must be from 0 to {largest}, found {min(ends)}, {max(ends)}")
        output = self.session.get_outputs()[0]
        longest = [max(map(len, input_ids), default=0)] * (len(output.shape) - 2)
        results = np.zeros((len(input_ids), *longest, output.shape[-1]), np.float32)
        for rows in batch_by_length(input_ids, options.tokens_per_batch or _TOKENS):
            ids, mask = _pad([input_ids[row] for row in rows])
            values = run_session(self.session, ids, mask)[output.name]
            if longest:
                results[rows, : ids.shape[1]] = values
            else:
                results[rows] = values
        return results

    def advance(self, input_ids: Sequence[Sequence[int]], states: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """As in [`Engine`], if the file has the state."""
        if not self.session.get_overridable_initializers():
            again = "export a classifier again, without --quantize, or leave out backend"
            raise UserError(f"the ONNX file does not stream: {again}")
        outputs = run_session(self.session, *_pad(input_ids), **({} if states is None else {"initial_state": states}))
        return outputs["logits"], outputs["final_state"]

    @property
    def fingerprint(self) -> str:
        """As in [`Engine`], from the metadata of the file."""
        return str(self.session.get_modelmeta().custom_metadata_map[STREAM_KEY])


def _load_again(name: str, options: InferenceOptions) -> OnnxEngine:
    return OnnxEngine.load(name, options)[0]


def _pad(rows: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Return ids and mask `(B, T)` of rows of ids."""
    mask = np.zeros((len(rows), max(map(len, rows), default=0)), np.int64)
    ids = np.zeros_like(mask)
    for place, row in enumerate(rows):
        ids[place, : len(row)], mask[place, : len(row)] = row, 1
    return ids, mask


def read_exported(
    name: str, options: InferenceOptions
) -> tuple[FinishedFolder, InferenceSession, TokenizerFile, Config]:
    """Return the folder of an exported model or of its download, a session on its file, its tokenizer and settings.

    Raises:
        UserError: If a file is missing or damaged, or was made from other weights or labels than the folder has.
    """
    check_name(name, "a trained model")
    folder, is_local, quantized = FinishedFolder(Path(name)), Path(name).is_dir(), options.backend == "onnx_int8"
    if not is_local:
        from ...hub.client import fetch  # huggingface_hub is not needed for a folder

        file = (folder.onnx_model_int8 if quantized else folder.onnx_model).name
        folder = FinishedFolder(fetch(name, options.revision, only=(*_TOKENIZER_FILES, f"onnx/{file}")))
    elif options.revision is not None:
        raise UserError(f"{name} is a folder here, which has no revision {options.revision!r}: leave it out")
    elif missing := [path.name for path in folder.missing_to_load() if path not in folder.weight_files()]:
        raise UserError(f"{name} has no {', '.join(missing)}: give the folder of a trained model")
    config = read_config_alone(name, folder)
    if quantized and config.problem_type == "regression":
        raise UserError(f"{name} predicts numbers, which int8 would round: take the float32 file, backend onnx")
    if (head := next(iter(config.architectures or HEADS))) not in HEADS or config.sep_token_id is not None:
        known = f"{', '.join(HEADS)} for single texts"
        raise UserError(f"{name} has a {head}, and ONNX files are for {known}: leave out backend")
    path = folder.onnx_model_int8 if quantized else folder.onnx_model
    again = f"make it with `hf-rnn export --model {shlex.quote(name)}{' --quantize int8' if quantized else ''}`"
    if not path.is_file():
        place, again = ("", again) if is_local else (" on the Hub", "its owner makes it with hf-rnn export")
        raise UserError(f"{name}{place} has no {path.relative_to(folder.root).as_posix()}: {again}")
    session = _open_checked(path, folder, config, again, options.threads)
    with name_damage(name, TOKENIZER):
        tokenizer = TokenizerFile(folder)
    check_tokenizer(name, tokenizer, config)
    return folder, session, tokenizer, config


def _open_checked(
    path: Path, folder: FinishedFolder, config: Config, again: str, threads: int | None
) -> InferenceSession:
    """Return a session on a file, if it belongs to the weights and labels of its folder."""
    try:
        session = open_session(str(path), threads)
        metadata = session.get_modelmeta().custom_metadata_map
    except UserError:
        raise
    except Exception as error:  # ONNX Runtime's own errors have no common class
        raise UserError(f"{path} cannot be read: {reason_of(error):.300}; {again}") from error
    present = all(weights.is_file() for weights in folder.weight_files())
    if present and metadata.get(WEIGHTS_KEY) != hash_weights(folder):
        raise UserError(f"{path} was made of other weights than {folder.root} holds: {again}")
    if metadata.get(LABELS_KEY) != write_labels(config):
        raise UserError(f"{path} was made of other labels than {folder.config} holds: {again}")
    return session
