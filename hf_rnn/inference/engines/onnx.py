"""`OnnxEngine`: logits of an ONNX file in ONNX Runtime.

The packages are `onnxruntime`, `tokenizers` and `numpy`: nothing here imports torch, transformers
or datasets.
"""

from __future__ import annotations

import os
import shlex
import sys
from typing import TYPE_CHECKING

import numpy as np

from ...data.tokens import TokenizerFile
from ...hub.model_folder import TOKENIZER, check_name, check_tokenizer
from ...utils.errors import UserError, explain, install_hint
from . import (
    DEFAULTS,
    Engine,
    InferenceOptions,
    Source,
    TokenIds,
    batch_by_length,
    check_ids,
    pad_ids,
)
from .stored import absolute_name, fingerprint_folder, load_config, open_folder

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

# in the metadata of the file, shows whether it still belongs to its folder
WEIGHTS_KEY = "weights"
_TOKENS = 8192  # per batch, padding included
_FILES = ("*.json", "*.txt", "*.model", "*.jinja", "onnx/model.onnx")  # all that is fetched


class OnnxEngine(Engine):
    """ONNX Runtime on the file of `hf-rnn export`, within 1e-4 of the model's numbers.

    The weights of the folder may be missing. The file has their fingerprint. An engine is pickled
    as its arguments: the other process loads the file.

    Raises:
        UserError: If the file is missing, or was made from other weights than the folder has.
    """

    def __init__(self, source: Source, options: InferenceOptions = DEFAULTS) -> None:
        name = source.name
        self._arguments = (absolute_name(name), options, source.is_encoder)
        folder = source.folder
        again = "its owner makes it with hf-rnn export"
        if os.path.isdir(name):
            again = f"make it with `hf-rnn export --model {shlex.quote(name)}`"
        self.config = load_config(name, folder)
        if not folder.onnx_model.is_file():
            raise UserError(f"{name} has no onnx/{folder.onnx_model.name}: {again}")
        self.session = open_session(str(folder.onnx_model), options.threads)
        metadata = self.session.get_modelmeta().custom_metadata_map
        self.fingerprint = metadata.get(WEIGHTS_KEY, "")
        has_weights = all(path.is_file() for path in folder.weight_files())
        if has_weights and self.fingerprint != fingerprint_folder(folder):
            raise UserError(
                f"{folder.onnx_model} was made of other weights than {folder.root} holds: {again}"
            )
        output = self.session.get_outputs()[0].name
        if source.is_encoder and output != "sentence_embedding":
            raise UserError(
                "the file has no sentence_embedding: export an encoder of hf-rnn pretrain"
            )

    def __reduce__(self) -> tuple[object, ...]:
        return _open_again, self._arguments

    def run(self, input_ids: TokenIds, options: InferenceOptions = DEFAULTS) -> np.ndarray:
        """As in [`Engine`]; an encoder gives vectors."""
        output = self.session.get_outputs()[0]
        results = np.zeros((len(input_ids), output.shape[-1]), np.float32)
        for rows in batch_by_length(input_ids, options.tokens_per_batch or _TOKENS):
            ids, mask = pad_ids([input_ids[row] for row in rows])
            check_ids(
                ids, self.config.vocab_size
            )  # ONNX Runtime counts a negative one from the end
            results[rows] = run_session(self.session, ids, mask)[output.name]
        return results


def find_source(name: str, options: InferenceOptions, is_encoder: bool = False) -> Source:
    """Return the folder of an exported model, which may lack its weights."""
    name = os.path.expanduser(name)
    check_name(name, "a trained model")
    return Source(name, open_folder(name, _FILES, options.revision), is_encoder)


def _open_again(name: str, options: InferenceOptions, is_encoder: bool) -> OnnxEngine:
    return OnnxEngine(find_source(name, options, is_encoder), options)


def open_onnx(source: Source, options: InferenceOptions) -> tuple[Engine, TokenizerFile]:
    """Return the engine of the file in a folder, and its tokenizer; see [`OnnxEngine`]."""
    engine = OnnxEngine(source, options)
    with explain(f"{source.name} cannot be loaded, because of {TOKENIZER}"):
        tokenizer = TokenizerFile(source.folder)
    check_tokenizer(source.name, tokenizer, engine.config)
    return engine, tokenizer


def open_session(model: str | bytes, threads: int | None = None) -> InferenceSession:
    """Return a session on the path or content of an ONNX file, with as many threads as torch."""
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
    session: InferenceSession, input_ids: np.ndarray, attention_mask: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the outputs by name of ids and mask, int64 `(B, T)`."""
    names = [node.name for node in session.get_outputs()]
    values = session.run(names, {"input_ids": input_ids, "attention_mask": attention_mask})
    return dict(zip(names, values, strict=True))
