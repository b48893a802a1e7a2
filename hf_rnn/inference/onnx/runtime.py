"""The ONNX file of a finished folder in ONNX Runtime, from raw texts to answers: a class for each head.

They need the tokenizer, `config.json` and the ONNX file, not the weights. Their packages are `onnxruntime`,
`tokenizers` and `numpy`: nothing here imports torch, transformers or datasets.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from ...hub.model_folder import TOKENIZER, FinishedFolder, check_name, check_tokenizer, name_damage
from ...tasks import task_of
from ...utils.errors import UserError, install_hint, list_texts, reason_of
from ..stored import read_config_alone
from ..text_classifier import TextClassifier, batch_by_length
from ..tokens import TokenizerFile

# In the metadata of the file, which show whether it still belongs to its folder.
WEIGHTS_KEY = "weights_sha256"
LABELS_KEY = "id2label"
_TOKENIZER_FILES = ("*.json", "*.txt", "*.model", "*.jinja")


def open_session(model: str | bytes) -> Any:
    """Return a session on the path or content of an ONNX file, with the threads of torch, or of OMP_NUM_THREADS."""
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(f"ONNX files need onnxruntime. Type: {install_hint('onnx')}") from error
    options = onnxruntime.SessionOptions()
    torch = sys.modules.get("torch")
    options.intra_op_num_threads = torch.get_num_threads() if torch else int(os.environ.get("OMP_NUM_THREADS", 0))
    options.log_severity_level = 3  # errors
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run_session(session: Any, input_ids: np.ndarray, attention_mask: np.ndarray) -> dict[str, np.ndarray]:
    """Return the outputs by name of ids and mask, int64 `(B, T)`."""
    names = [node.name for node in session.get_outputs()]
    values = session.run(names, {"input_ids": input_ids, "attention_mask": attention_mask})
    return dict(zip(names, values, strict=True))


def hash_weights(folder: FinishedFolder) -> str:
    """Return the SHA-256 of a folder's weights."""
    digest = hashlib.sha256()
    for path in folder.weight_files():
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()


def write_labels(config: Any) -> str:
    """Return the labels in the form of the file's metadata."""
    return json.dumps(dict(sorted(config.id2label.items())), ensure_ascii=False)


class OnnxModel:
    """Base of the classes for the heads: the file, its tokenizer, and batches of token ids.

    The float32 file gives the model's own numbers, within 1e-4, in any batch. The int8 file is smaller and rounds; as
    its inputs are rounded over the whole batch, its numbers depend a little on the other texts of the batch. A
    model from `from_pretrained` is pickled as its arguments: the other process loads the file again.

    Args:
        session: An ONNX Runtime session on a file of `hf-rnn export`.
        tokenizer: The tokenizer of the model; texts are truncated to its `model_max_length`.
        config: Has labels and kind of task; an `RnnConfig`, or the settings of `config.json` as attributes.
        tokens_per_batch: About how many tokens run at once.
    """

    def __init__(self, session: Any, tokenizer: Any, config: Any, tokens_per_batch: int = 8192) -> None:
        self.tokenizer = tokenizer
        self.config = config
        self.tokens_per_batch: Any = tokens_per_batch
        self.session = session
        self._source: tuple[Any, ...] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        if self._source is None:
            raise TypeError("only a model from from_pretrained can be pickled")
        return type(self).from_pretrained, self._source

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        quantized: bool = False,
        revision: str | None = None,
        tokens_per_batch: int = 8192,
    ) -> Self:
        """Load the ONNX file of a finished folder or a repo of the Hub; [`OnnxModel`] loads that of any head.

        Args:
            name_or_path: The folder, or the repo id. The weights may be missing.
            quantized: Whether to load the int8 file.
            revision: Branch, tag or commit of a repo.
            tokens_per_batch: About how many tokens run at once.

        Raises:
            UserError: If a file is missing or damaged, or was made from other weights or labels than the folder has.
        """
        name = os.path.expanduser(str(name_or_path))
        folder = _find_folder(name, quantized, revision)
        config = read_config_alone(name, folder)
        if quantized and config.problem_type == "regression":
            raise UserError(f"{name} predicts numbers, which int8 would round: take the float32 file, backend onnx")
        head = next(iter(config.architectures or CLASSES))
        if head not in CLASSES or config.sep_token_id is not None:
            known = f"{', '.join(CLASSES)} for single texts"
            raise UserError(f"{name} has a {head}, and ONNX files are for {known}: use hf_rnn.FastRnn or the model")
        if not issubclass(kind := CLASSES[head], cls):
            raise UserError(f"{name} is a model for {kind.__name__}: found {cls.__name__}")
        session = _open_checked(name, folder, config, quantized)
        with name_damage(name, TOKENIZER):
            tokenizer = TokenizerFile(folder)
        check_tokenizer(name, tokenizer, config)
        model: Any = kind(session, tokenizer, config, tokens_per_batch)
        place = os.path.abspath(name) if folder.root == Path(name) else name
        model._source = place, quantized, revision, tokens_per_batch
        return model

    def predict(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        """Return the answer to each text, in their order; see [`TextClassifier.predict`] and [`Tagger.predict`]."""
        raise UserError("a sentence encoder has no answers: call encode")

    def run(self, input_ids: Sequence[Sequence[int]]) -> Iterator[tuple[list[int], np.ndarray, dict[str, np.ndarray]]]:
        """Yield the rows of each batch, its mask `(B, T)`, and the outputs by name.

        Raises:
            IndexError: For an id outside the vocabulary; ONNX Runtime would count a negative one from the end.
        """
        ends = [end for ids in input_ids if len(ids) for end in (min(ids), max(ids))]
        largest = self.config.vocab_size - 1
        if ends and not 0 <= min(ends) <= max(ends) <= largest:
            raise IndexError(f"token ids must be from 0 to {largest}, found {min(ends)}, {max(ends)}")
        for rows in batch_by_length(input_ids, self.tokens_per_batch):
            time = max(len(input_ids[row]) for row in rows)
            ids = np.zeros((len(rows), time), np.int64)
            mask = np.zeros_like(ids)
            for place, row in enumerate(rows):
                ids[place, : len(input_ids[row])] = input_ids[row]
                mask[place, : len(input_ids[row])] = 1
            yield rows, mask, run_session(self.session, ids, mask)


class OnnxClassifier(TextClassifier, OnnxModel):
    """A text classifier in ONNX Runtime; see [`OnnxModel`] for its settings.

    Example:
        >>> classifier = OnnxClassifier.from_pretrained("out/tweets")
        >>> classifier.predict(["best concert of my life!"])
        [{'label': 'positive', 'score': 0.9}]
    """

    def __init__(self, session: Any, tokenizer: Any, config: Any, tokens_per_batch: int = 8192) -> None:
        OnnxModel.__init__(self, session, tokenizer, config, tokens_per_batch)
        TextClassifier.__init__(self, tokenizer, config, tokens_per_batch)

    def logits(self, input_ids: Sequence[Sequence[int]]) -> np.ndarray:
        """As in [`TextClassifier`]."""
        logits = np.zeros((len(input_ids), self.config.num_labels), np.float32)
        for rows, _, outputs in self.run(input_ids):
            logits[rows] = outputs["logits"]
        return logits


class OnnxTagger(OnnxModel):
    """A tagger in ONNX Runtime, with the answers of [`Tagger`]; see [`OnnxModel`] for its settings.

    A text is read whole, however long it is.
    """

    predict_table = TextClassifier.predict_table

    def __init__(self, session: Any, tokenizer: Any, config: Any, tokens_per_batch: int = 8192) -> None:
        super().__init__(session, tokenizer, config, tokens_per_batch)
        self.task = task_of(config)

    def predict(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        """Return the answer to each text, in their order, as [`Tagger.predict`] does."""
        texts = list_texts(texts)
        encoded = self.tokenizer(texts)
        longest = max(map(len, encoded["input_ids"]), default=0)
        logits = np.zeros((len(texts), longest, self.config.num_labels), np.float32)
        for rows, mask, outputs in self.run(encoded["input_ids"]):
            logits[rows, : mask.shape[1]] = outputs["logits"]
        return self.task.answers(logits, self.config, texts, encoded) if texts else []


class OnnxSentenceEncoder(OnnxModel):
    """A sentence encoder in ONNX Runtime, with the vectors of [`SentenceEncoder`]; see [`OnnxModel`]."""

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return the unit vectors `(N, P)` of texts in float32, in their order."""
        texts = list_texts(texts)
        output = self.session.get_outputs()[0]
        if output.name != "sentence_embedding":
            raise UserError("the file has no sentence_embedding: export an encoder of hf-rnn pretrain")
        vectors = np.zeros((len(texts), output.shape[1]), np.float32)
        for rows, _, outputs in self.run(self.tokenizer(texts)["input_ids"] if texts else []):
            vectors[rows] = outputs[output.name]
        return vectors


# by the name of the head in `config.json`
CLASSES: dict[str, type[OnnxModel]] = {
    "RnnForSequenceClassification": OnnxClassifier,
    "RnnForTokenClassification": OnnxTagger,
    "RnnModel": OnnxSentenceEncoder,
}


def _open_checked(name: str, folder: FinishedFolder, config: Any, quantized: bool) -> Any:
    """Return a session on the file of a folder, if it belongs to the folder's weights and labels."""
    path = folder.onnx_model_int8 if quantized else folder.onnx_model
    again = f"make it with `hf-rnn export --model {shlex.quote(name)}{' --quantize int8' if quantized else ''}`"
    if not path.is_file():
        place, again = ("", again) if Path(name).is_dir() else (" on the Hub", "its owner makes it with hf-rnn export")
        raise UserError(f"{name}{place} has no {path.relative_to(folder.root).as_posix()}: {again}")
    try:
        session = open_session(str(path))
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


def _find_folder(name: str, quantized: bool, revision: str | None) -> FinishedFolder:
    """Return the given folder, or that of the cache after a download without the weights."""
    check_name(name, "a trained model")
    folder = FinishedFolder(Path(name))
    if not folder.root.is_dir():
        file = folder.onnx_model_int8 if quantized else folder.onnx_model
        from ...hub.client import fetch  # huggingface_hub is not needed for a folder

        return FinishedFolder(fetch(name, revision, only=(*_TOKENIZER_FILES, f"onnx/{file.name}")))
    if revision is not None:
        raise UserError(f"{name} is a folder here, which has no revision {revision!r}: leave it out")
    weights = folder.weight_files()
    if missing := [path.name for path in folder.missing_to_load() if path not in weights]:
        raise UserError(f"{name} has no {', '.join(missing)}: give the folder of a trained model")
    return folder
