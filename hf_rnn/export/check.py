"""Compare the numbers of ONNX Runtime with those of a model, for hostile and random texts."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import normalize

from ..data.tokens import HOSTILE, TokenizerFile
from ..hub.model_folder import FinishedFolder, find_folder, load_model
from ..inference.engine import CLASSIFIER, Source, TokenIds, pad_ids
from ..inference.open import PROJECTION, fingerprint_folder
from ..inference.torch import load_sentence_model
from ..models.auto import ENCODER
from ..utils.errors import UserError, install_hint

if TYPE_CHECKING:
    from onnxruntime import InferenceSession
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MAX_DIFFERENCE = 1e-4  # between two numbers of the output
_RELATIVE_DIFFERENCE = 1e-5  # the same for numbers above 10, whose last digits float32 rounds
TEXTS = 200
_BATCH = 16  # texts
_LONGEST = 60  # words of a random text


@dataclass(frozen=True)
class ExportSource:
    """A model to export; a sentence encoder is a classifier of vectors, see `Source`."""

    folder: FinishedFolder
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    gives_vectors: bool  # whether it is a sentence encoder
    fingerprint: str  # a hash of its weights


def load_source(name: str, revision: str | None) -> ExportSource:
    """Load a model, and refuse one that the graph does not support."""
    try:
        from .graph import ONNX_CELLS, ONNX_POOLINGS
    except ImportError as error:
        raise UserError(
            f"export needs onnx and onnxruntime. Type: {install_hint('onnx')}"
        ) from error

    folder = FinishedFolder(find_folder(name, revision))
    model, tokenizer = load_model(folder.root, allow_encoder=True)
    config = model.config
    head = type(model).__name__
    refused = f"{name} cannot be exported to ONNX"
    if head not in (CLASSIFIER, ENCODER):
        raise UserError(
            f"{refused}: found the head {head}, the export knows {CLASSIFIER}, {ENCODER}; "
            "use hf_rnn.FastRnn"
        )
    if config.sep_token_id is not None:
        raise UserError(
            f"{refused}: it reads pairs of texts, and the export knows single ones; "
            "use hf_rnn.FastRnn"
        )
    for setting, supported in (("cell_type", ONNX_CELLS), ("pooling", ONNX_POOLINGS)):
        value = getattr(config, setting)
        if value not in supported:
            raise UserError(
                f"{refused}: found {setting} {value!r}; train with one of {', '.join(supported)}"
            )
    gives_vectors = head == ENCODER and (folder.root / PROJECTION).is_file()
    if gives_vectors:
        model, _ = load_sentence_model(Source(name, folder, is_encoder=True))
    return ExportSource(folder, model, tokenizer, gives_vectors, fingerprint_folder(folder))


def make_texts(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return `TEXTS` texts: hostile ones, and random words of the vocabulary.

    The first entries of the vocabulary are drawn more often, as they are more frequent in texts.
    """
    chance = random.Random(0)
    size = len(tokenizer)
    texts = ["", " \t ", *HOSTILE, "the " * 600, "a" * 3000]
    while len(texts) < TEXTS:
        ids = [int(size * chance.random() ** 3) for _ in range(chance.randint(1, _LONGEST))]
        texts.append(str(tokenizer.decode(ids)))
    return texts


def encode_as_file(source: ExportSource, texts: list[str]) -> list[list[int]]:
    """Return the token ids of texts; refuse a tokenizer whose file gives others."""
    file = source.folder.tokenizer
    ids = source.tokenizer(texts, truncation=True)["input_ids"]
    if file.is_file() and TokenizerFile(source.folder)(texts, truncation=True)["input_ids"] != ids:
        raise UserError(
            f"{file} gives other ids than transformers with tokenizer_config.json: "
            "save both again with tokenizer.save_pretrained"
        )
    return ids


@torch.inference_mode()
def measure_difference(
    source: ExportSource, session: InferenceSession, input_ids: TokenIds
) -> float:
    """Return the largest difference between two numbers, less where they exceed 10, or NaN."""
    differences = [0.0]
    model = source.model
    for start in range(0, len(input_ids), _BATCH):
        ids, mask = pad_ids(input_ids[start : start + _BATCH])
        batch = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
        outputs = model(**batch)
        if source.gives_vectors:
            states = model.classifier(model.rnn(**batch).last_hidden_state)
            outputs = {
                "last_hidden_state": states * batch["attention_mask"][:, :, None],
                "sentence_embedding": normalize(outputs.logits, dim=-1),
            }
        for name, numbers in run_session(session, ids, mask).items():
            expected = outputs[name].numpy()
            allowed = max(1.0, _RELATIVE_DIFFERENCE / MAX_DIFFERENCE * np.abs(expected).max())
            differences.append(np.abs(expected - numbers).max() / allowed)
    return float(np.max(differences))


def open_session(model: str | bytes) -> InferenceSession:
    """Return a session of ONNX Runtime on the path or content of a file."""
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(f"ONNX files need onnxruntime. Type: {install_hint('onnx')}") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run_session(
    session: InferenceSession, input_ids: np.ndarray, attention_mask: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the outputs by name of ids and mask, int64 `(B, T)`."""
    names = [node.name for node in session.get_outputs()]
    values = session.run(names, {"input_ids": input_ids, "attention_mask": attention_mask})
    return dict(zip(names, values, strict=True))
