"""`FastRnn`, `Tagger`, `OnnxModel`, `SentenceEncoder`: texts → answers, by one [`Predictor`] for every engine.

`tokens` makes ids from texts, an engine logits from ids, and the task of the model answers from logits. The native
engine and ONNX Runtime need neither torch nor transformers.
"""

from __future__ import annotations

import copy
import logging
import math
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np

from ..hub.model_folder import FinishedFolder, find_folder, load_model
from ..tasks import check_verb, compute_scores, score_kind, task_of
from ..utils.errors import UserError, find_text_error, list_texts
from .engines import DEFAULTS, Engine, InferenceOptions, NativeEngine, Precision, read_live, read_stored
from .native.network import CLASSIFIER, MISSING, Unsupported
from .tokens import FastTokenizer

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from ..tasks import Config, Task
    from .stream import TextStream
    from .tokens import Tokenizer

_LOGGER = logging.getLogger(__name__)

Table = TypeVar("Table")


def load_to_predict(
    name_or_path: str | Path, options: InferenceOptions, is_encoder: bool = False
) -> tuple[PreTrainedModel | NativeEngine, Tokenizer]:
    """Return a model and its tokenizer as [`load_model`] does, or its engine in C, which needs no torch.

    A sentence encoder is a classifier, whose logits are its vectors before normalisation.
    """
    if str(options.device) == "cpu":
        folder = FinishedFolder(find_folder(name_or_path, options.revision))
        if (stored := read_stored(str(name_or_path), folder, options, is_encoder)) is not None:
            return stored
    if is_encoder:
        from .engines.torch import load_sentence_model

        return load_sentence_model(name_or_path)
    return load_model(name_or_path, options.revision, options.device)


def _choose_engine(model: PreTrainedModel, tokenizer: Tokenizer, options: InferenceOptions) -> Engine:
    """Return the engine of a model in memory: in C where the kernel computes it, else the plain model."""
    if model.training:
        raise ValueError("the model is in training mode, where dropout changes its answers: call model.eval()")
    kept = copy.deepcopy(model)  # training the given model must not change answers
    if model.device.type == "cpu":
        try:
            return NativeEngine(model.config, read_live(model, options), model=kept)
        except Unsupported as error:
            if str(error) != MISSING:
                _LOGGER.warning("the plain model predicts, as the kernel does not compute this one: %s", error)
    from .engines.torch import TorchEngine

    return TorchEngine(kept, tokenizer)


class Predictor:
    """From texts to the answers of a model's task, whichever engine computes its logits.

    For a model of text pairs, each text is a pair `(first, second)`. The arguments are those of [`FastRnn`], whose
    model can be an engine.
    """

    def __init__(
        self,
        model: PreTrainedModel | Engine,
        tokenizer: Tokenizer,
        precision: Precision = "float32",
        tokens_per_batch: int | None = None,
        threads: int | None = None,
    ) -> None:
        self.options = InferenceOptions(precision=precision, tokens_per_batch=tokens_per_batch, threads=threads)
        model = getattr(model, "_orig_mod", model)  # under torch.compile
        self.tokenizer: Any = tokenizer
        self.engine = model if isinstance(model, Engine) else _choose_engine(model, tokenizer, self.options)
        self.config: Any = self.engine.config
        self._check_task()
        self._encode = FastTokenizer(tokenizer, getattr(self.config, "sep_token_id", None) is not None)

    def _check_task(self) -> None:
        """Refuse a model for another class, by a [`UserError`]."""

    def __reduce__(self) -> tuple[Any, ...]:
        options = self.options.precision, self.options.tokens_per_batch, self.options.threads
        return type(self), (getattr(self.engine, "model", None) or self.engine, self.tokenizer, *options)

    @cached_property
    def task(self) -> Task:
        """The task that `config.json` names."""
        return task_of(self.config)

    @property
    def model(self) -> PreTrainedModel:
        """The plain model; one that was read without torch loads here."""
        engine: Any = self.engine
        return engine.model or load_model(engine.folder.root)[0]

    def predict(self, texts: Sequence[str], all_scores: bool = False) -> list[dict[str, Any]]:
        """Return the answer to each text, in their order: `{"label": ..., "score": ...}` of its best class.

        For multi-label it is `{"labels": [...], "scores": {label: score}}`, with the labels above their thresholds;
        for regression `{"values": {name: number}}`; of a tagger `{"entities": [...]}`, with their places in the text.
        `all_scores` adds `scores` where they are not an answer already.

        Raises:
            UserError: For an invalid list of texts, here and in the next methods, whose message names the position;
                for scores of a tagger that are not finite.
        """
        if self.task.per_token:
            return self._tag(list_texts(texts))
        scores = self.predict_proba(texts)
        answers = self.task.answers(scores, self.config)
        if all_scores and answers and "label" in answers[0]:
            names = list(self.config.id2label.values())
            for answer, row in zip(answers, scores.tolist(), strict=True):
                answer["scores"] = dict(zip(names, row, strict=True))
        return answers

    def _tag(self, texts: list[str]) -> list[dict[str, Any]]:
        from ..evaluation.scores import check_finite_logits

        if not texts:
            return []
        encoded = self._encode.encode_whole(texts)
        logits = self.logits(encoded["input_ids"])
        check_finite_logits(logits.reshape(-1, logits.shape[-1]))
        return self.task.answers(logits, self.config, texts, encoded)

    def answer_each(
        self, rows: Sequence[object], all_scores: bool = False, top_k: int = 1
    ) -> list[dict[str, Any] | str]:
        """Return the answer to each row, or the reason why it is missing.

        A row is a text, a tuple of two for a model of text pairs, or a [`BadRow`]; other objects have no answer. With
        `top_k` an answer has the next labels too, as `label_2`, `score_2` and so on.

        Raises:
            UserError: For a `top_k` above the number of labels, or of a model that does not choose one label.
        """
        chooses_one = score_kind(self.config) == "softmax" and not self.task.per_token
        if top_k > 1 and not (chooses_one and top_k <= self.config.num_labels):
            found = f"top_k is {top_k}: the model does not choose one of at least {top_k} labels"
            raise UserError(f"{found}; leave it out")
        size = 1 if self.config.sep_token_id is None else 2
        results: list[Any] = [_find_row_error(row, size) for row in rows]
        valid = [place for place, error in enumerate(results) if not error]
        texts: Any = [rows[place] for place in valid]
        for place, answer in zip(valid, self.predict(texts, all_scores or top_k > 1), strict=True):
            results[place] = answer
            if (score := _find_broken_number(answer)) is not None:
                results[place] = f"score not finite: the model gives {score}; did its training diverge?"
            elif top_k > 1:
                scores = answer["scores"] if all_scores else answer.pop("scores")
                best = sorted(scores, key=scores.__getitem__, reverse=True)[:top_k]
                for number, label in enumerate(best[1:], 2):
                    answer |= {f"label_{number}": label, f"score_{number}": scores[label]}
        return results

    def predict_table(self, table: Table, **settings: Any) -> Table:
        """Return a frame of pandas or polars, or a table of Arrow, with `label` and `score` as further columns.

        A row whose text is missing keeps its place, with the reason in a column `error`.

        Args:
            table: The frame; it does not change.
            settings: `text_column` and `text_pair_column`, by default those with usual names such as `text`; `prefix`
                of the new columns, by default `predicted_` if the table has one of their names; `all_scores` adds a
                column per class, such as `scores.positive`.

        Raises:
            UserError: For a missing column, whose message lists the columns.
        """
        from .tables import TableSettings, predict_table  # needs pyarrow, which a service does not have

        answered: Table = predict_table(self, table, TableSettings(**settings))
        return answered

    def answer_logits(self, logits: np.ndarray) -> list[dict[str, Any]]:
        """Return the answers to texts by their logits `(N, C)`."""
        return self.task.answers(compute_scores(logits, self.config), self.config)

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        """Return the scores `(N, C)` in float32, in the order of the texts and of `id2label`.

        They are probabilities: of the classes (softmax), or of each label (sigmoid, for multi-label); for regression
        they are the values themselves.
        """
        return compute_scores(self.text_logits(texts), self.config)

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of texts, equal to those of `tokenizer(texts, truncation=True)`."""
        return self._encode(texts)

    def text_logits(self, texts: Sequence[str]) -> np.ndarray:
        """Return the logits `(N, C)` in float32, in the order of the texts."""
        return self.logits(self._encode(texts))

    def logits(self, input_ids: Sequence[Sequence[int]]) -> np.ndarray:
        """Return the logits `(N, C)` in float32, in the order of `input_ids`; see [`Engine`] for those of a tagger.

        Args:
            input_ids: Token ids by text, possibly empty; each id is read, also a padding id.

        Raises:
            IndexError: For an id outside the vocabulary.
        """
        return self.engine.run(input_ids, self.options)

    def stream(self, state: bytes | None = None) -> TextStream:
        """Return a stream that reads a text piece by piece and answers after each; see [`TextStream`].

        Args:
            state: From `TextStream.save`, to continue its text.

        Raises:
            UserError: For a model that was not trained with `streaming`, and for the state of another model.
        """
        if not getattr(self.config, "streaming", False):
            raise UserError("the model does not stream: train one with `hf-rnn train DATA OUT --streaming`")
        from .stream import TaggedStream, TextStream

        stream = TaggedStream(self) if self.task.per_token else TextStream(self)
        if state is not None:
            stream.restore(state)
        return stream

    @staticmethod
    def feed_many(streams: Sequence[TextStream], pieces: Sequence[str]) -> list[dict[str, Any]]:
        """Read the next piece of several texts in one call; see [`stream.feed_many`]."""
        from .stream import feed_many

        return feed_many(streams, pieces)


def _find_row_error(row: object, size: int) -> str:
    """Return why a row of `size` texts has no answer, or an empty string."""
    texts = row if isinstance(row, tuple) else (row,)
    bad: Any = next((text for text in texts if hasattr(text, "fault")), None)  # a BadRow
    if bad is not None:
        return f"{bad.fault.reason}: {bad.fault.detail}: found {bad.excerpt}"
    if len(texts) != size:
        return f"too {'few' if len(texts) < size else 'many'} fields: found {len(texts)} of {size} texts"
    return next(filter(None, map(find_text_error, texts)), "")


def _find_broken_number(answer: Mapping[str, Any]) -> float | None:
    for value in answer.values():
        if isinstance(value, dict):
            value = _find_broken_number(value)
        if isinstance(value, float) and not math.isfinite(value):
            return value
    return None


class FastRnn(Predictor):
    """A text classifier prepared for inference on a CPU.

    Blocks and layers of every cell run in C, without torch. The plain model predicts where that is not possible: on an
    accelerator, without the compiled kernel, and for a model with hooks, adapters or modules from outside this
    package, which the log says. Later training of the given model does not change the answers.

    Args:
        model: In evaluation mode.
        tokenizer: The tokenizer of the model; texts are truncated to its `model_max_length`.
        precision: `"float32"` answers as the model does (logits within 1e-5). `"int16"` computes the products of
            matrices in 16 bits, which is faster: logits within 3e-3. `"int8"` is the fastest on processors with
            AVX-512 VNNI, and int16 elsewhere: logits within about 0.1, so that labels near a tie change.
        tokens_per_batch: About how many tokens the plain model reads at once.
        threads: Threads for many texts, which do not change the answers; None is `OMP_NUM_THREADS`, or all processors.

    Raises:
        UserError: For an unknown `precision`, and for a model of another task.
        ValueError: When the model is in training mode.

    Example:
        >>> classifier = FastRnn.from_pretrained("out/tweets")
        >>> classifier.predict(["best concert of my life!"])
        [{'label': 'positive', 'score': 0.9}]
    """

    def _check_task(self) -> None:
        check_verb(self.config, "predict")
        if self.task.per_token:
            raise UserError(f"FastRnn answers for whole texts: found a model for {self.task.name}; use hf_rnn.Tagger")

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        revision: str | None = None,
        precision: Precision = "float32",
        tokens_per_batch: int | None = None,
        device: str | torch.device | None = "cpu",
        threads: int | None = None,
    ) -> Self:
        """Load a finished folder, or a repo of the Hub by its id, at a branch, tag or commit (`revision`).

        With the `device` None the model is on the accelerator, if there is one; off the CPU the plain model runs. The
        other arguments are those of [`FastRnn`].

        Raises:
            UserError: For an incomplete model, named in the message, and for an unknown or missing device.
        """
        options = InferenceOptions(revision, precision=precision, device=device)
        return cls(*load_to_predict(name_or_path, options), precision, tokens_per_batch, threads)


class Tagger(Predictor):
    """From texts to the answers of a head for each token, such as entities with their places.

    A text is read whole, however long it is. The arguments are those of [`FastRnn`].
    """

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        revision: str | None = None,
        device: str | torch.device | None = "cpu",
        precision: Precision = "float32",
    ) -> Self:
        """Load a finished folder, or a repo of the Hub, as [`FastRnn`] does."""
        options = InferenceOptions(revision, precision=precision, device=device)
        return cls(*load_to_predict(name_or_path, options), precision)


class OnnxModel(Predictor):
    """A model of any head in ONNX Runtime, with the methods of [`FastRnn`]; `encode` is for sentence encoders.

    The float32 file gives the model's own numbers, within 1e-4, in any batch. The int8 file is smaller and rounds; as
    its inputs are rounded over the whole batch, its numbers depend a little on the other texts of the batch. A
    model from `from_pretrained` is pickled as its arguments: the other process loads the file again.

    Args:
        session: An ONNX Runtime session on a file of `hf-rnn export`.
        tokenizer: The tokenizer of the model; texts are truncated to its `model_max_length`.
        config: Has labels and kind of task; an `RnnConfig`, or the settings of `config.json` as attributes.
        tokens_per_batch: About how many tokens run at once.
    """

    def __init__(self, session: Any, tokenizer: Tokenizer, config: Config, tokens_per_batch: int = 8192) -> None:
        from .engines.onnx import OnnxEngine

        super().__init__(OnnxEngine(session, config), tokenizer, tokens_per_batch=tokens_per_batch)
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
        from .engines.onnx import read_exported

        name = os.path.expanduser(str(name_or_path))
        folder, session, tokenizer, config = read_exported(name, quantized, revision)
        kind = OnnxClassifier if (config.architectures or [CLASSIFIER])[0] == CLASSIFIER else OnnxModel
        if not issubclass(kind, cls):
            raise UserError(f"{name} is a model for {kind.__name__}: found {cls.__name__}")
        model: Any = kind(session, tokenizer, config, tokens_per_batch)
        place = os.path.abspath(name) if folder.root == Path(name) else name
        model._source = place, quantized, revision, tokens_per_batch
        return model

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return the unit vectors `(N, S)` of texts in float32, in their order, as [`SentenceEncoder`] does."""
        if self.session.get_outputs()[0].name != "sentence_embedding":
            raise UserError("the file has no sentence_embedding: export an encoder of hf-rnn pretrain")
        return self.text_logits(texts)


class OnnxClassifier(OnnxModel):
    """A text classifier in ONNX Runtime; see [`OnnxModel`] for its settings.

    Example:
        >>> classifier = OnnxClassifier.from_pretrained("out/tweets")
        >>> classifier.predict(["best concert of my life!"])
        [{'label': 'positive', 'score': 0.9}]
    """


class SentenceEncoder:
    """The vectors of `SentenceTransformer` for an encoder of `hf-rnn pretrain`, without torch.

    Example:
        >>> encoder = SentenceEncoder.from_pretrained("encoder")
        >>> encoder.encode(["so good", "so bad"]).shape
        (2, 384)
    """

    def __init__(self, network: FastRnn) -> None:
        self._network = network

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, precision: Precision = "float32") -> SentenceEncoder:
        """Load an encoder: a folder, or a repo of the Hub; `precision` is as in [`FastRnn`].

        Raises:
            UserError: For a folder without an encoder's projection.
        """
        model, tokenizer = load_to_predict(name_or_path, InferenceOptions(precision=precision), is_encoder=True)
        return cls(FastRnn(model, tokenizer, precision))

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return the unit vectors `(N, S)` of texts in float32, in their order."""
        vectors = self._network.text_logits(texts)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def load_predictor(name: str, options: InferenceOptions = DEFAULTS) -> Predictor:
    """Load a model of any task for prediction, from a finished folder or a repo."""
    predictor: Predictor
    if options.backend == "torch":
        model, tokenizer = load_to_predict(name, options)
        kind = Tagger if task_of(model.config).per_token else FastRnn
        predictor = kind(model, tokenizer, options.precision, options.tokens_per_batch, options.threads)
    else:
        quantized, size = options.backend == "onnx_int8", options.tokens_per_batch or 8192
        predictor = OnnxModel.from_pretrained(name, quantized, options.revision, size)
    check_verb(predictor.config, "predict")
    return predictor
