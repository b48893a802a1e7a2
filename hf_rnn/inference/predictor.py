"""[`Predictor`]: texts → answers of any task, by any engine; `FastRnn` and `Tagger` are its names for users.

`tokens` makes ids from texts, an engine logits from ids, and the task of the model answers from
logits.
"""

from __future__ import annotations

import logging
import math
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

import numpy as np

from ..hub.model_folder import FinishedFolder, find_folder, load_model
from ..tasks import check_answers, compute_scores, score_kind, task_of
from ..utils.errors import UserError, find_text_error, list_texts
from .engines import DEFAULTS, Backend, Engine, InferenceOptions, Precision, check_mode
from .engines.native import MISSING, Unsupported
from .engines.stored import copy_weights, open_folder, read_stored
from .tokens import FastTokenizer

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from ..data.errors import BadRow
    from .stream import TextStream
    from .tokens import Tokenizer

_LOGGER = logging.getLogger(__name__)

Table = TypeVar("Table")


class Predictor:
    """From texts to the answers of a model's task, whichever engine computes its logits.

    On a CPU the network runs in C, without torch. The plain model predicts where that is not
    possible: on an accelerator, without the compiled kernel, and for a model with hooks, adapters
        or modules from outside this
    package, which the log says. After further training of a model make a new predictor.

    A classifier labels texts, a tagger finds entities in texts of any length. For a model of text
    pairs, each text is a pair `(first, second)`.

    Args:
        model: In evaluation mode; or an engine.
        tokenizer: The tokenizer of the model; texts are truncated to its `model_max_length`.
        precision: `"float32"` answers as the model does (logits within 1e-5). `"int16"` computes
            the products of matrices in 16 bits, which is faster: logits within 3e-3. `"int8"` is
            the fastest on processors with AVX-512 VNNI, and int16 elsewhere: logits within about
            0.1, so that labels near a tie change.
        tokens_per_batch: About how many tokens the plain model or ONNX Runtime reads at once.
        threads: Threads for many texts, which do not change the answers; None is `OMP_NUM_THREADS`,
            or all processors.

    Raises:
        UserError: For an unknown `precision`, and for a language model.
        ValueError: When the model is in training mode.

    Example:
        >>> classifier = FastRnn.from_pretrained("out/tweets")
        >>> classifier.predict(["best concert of my life!"])
        [{'label': 'positive', 'score': 0.9}]
    """

    def __init__(
        self,
        model: PreTrainedModel | Engine,
        tokenizer: Tokenizer,
        precision: Precision = "float32",
        tokens_per_batch: int | None = None,
        threads: int | None = None,
    ) -> None:
        self.options = InferenceOptions(
            precision=precision, tokens_per_batch=tokens_per_batch, threads=threads
        )
        self.engine = (
            model if isinstance(model, Engine) else choose_engine(model, tokenizer, self.options)
        )
        self.tokenizer, self.config = tokenizer, self.engine.config
        check_answers(self.config)
        self.task, self._is_paired = (
            task_of(self.config),
            getattr(self.config, "sep_token_id", None) is not None,
        )
        self.tokenize = FastTokenizer(tokenizer, self._is_paired)  # texts → token ids
        self._chooses_one = score_kind(self.config) == "softmax" and not self.task.per_token
        self._source: tuple[str, str | None] | None = None  # the folder or repo, and its revision
        self._thresholds: dict[float, dict[str, float | None]] = {}  # by target

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        revision: str | None = None,
        precision: Precision = "float32",
        tokens_per_batch: int | None = None,
        device: str | torch.device | None = "cpu",
        threads: int | None = None,
        backend: Backend = "torch",
    ) -> Self:
        """Load a finished folder, or a repo of the Hub by its id, at a branch, tag or commit (`revision`).

        With the `device` None the model is on the accelerator, if there is one. The `backend`
        `"onnx"` runs the file of `hf-rnn export`, which gives the model's numbers within 1e-4. The
        other arguments are those of [`FastRnn`].

        Raises:
            UserError: For an incomplete model, named in the message, and for an unknown or missing
                device.
        """
        options = InferenceOptions(revision, precision, tokens_per_batch, device, threads, backend)
        predictor = cls(*load_engine(name_or_path, options), precision, tokens_per_batch, threads)
        name = os.path.expanduser(name_or_path)
        predictor._source = os.path.abspath(name) if os.path.isdir(name) else name, revision
        return predictor

    def __reduce__(self) -> tuple[Any, ...]:
        options = self.options.precision, self.options.tokens_per_batch, self.options.threads
        return (
            type(self),
            (self.engine.model or self.engine, self.tokenizer, *options),
            {"_source": self._source},
        )

    def predict(
        self,
        texts: Sequence[str],
        all_scores: bool = False,
        top_k: int = 1,
        target: float | None = None,
    ) -> list[dict[str, Any]]:
        """Return the answer to each text, in their order: `{"label": ..., "score": ...}` of its best class.

        For multi-label it is `{"labels": [...], "scores": {label: score}}`, with the labels above
        their thresholds; for regression `{"values": {name: number}}`; of a tagger `{"entities":
        [...]}`, with their places in the text. `all_scores` adds `scores` where they are not an
        answer already, `top_k` the next labels, as `label_2`, `score_2` and so on. With a `target`
        such as 0.95 each answer has `for_a_person`: False if it needs no person, as answers like it
        are right at this rate, by the thresholds that `hf-rnn evaluate --target` chose.

        Raises:
            UserError: For an invalid list of texts, here and in the next methods; for scores of a
                tagger that are not finite; for a `top_k` above the number of classes; for a target
                without thresholds.
        """
        if target is not None:
            self.read_thresholds(target)
        if top_k > 1 and not (self._chooses_one and top_k <= self.config.num_labels):
            found = f"top_k is {top_k}: the model does not choose one of at least {top_k} labels"
            raise UserError(f"{found}; leave it out")
        if self.task.per_token:
            from ..evaluation.scores import check_finite_logits

            texts = list_texts(texts)
            encoded = self.tokenizer(
                texts, return_offsets_mapping=True, return_attention_mask=False, verbose=False
            )
            logits = self.logits(encoded["input_ids"])
            check_finite_logits(logits.reshape(-1, self.config.num_labels))
            return self.task.answers(logits, self.config, texts, encoded)
        scores = self.predict_proba(texts)
        answers = self.answer_scores(scores, target)
        if self._chooses_one and (all_scores or top_k > 1):
            names = list(self.config.id2label.values())
            for answer, row in zip(answers, scores, strict=True):
                if all_scores:
                    answer["scores"] = dict(zip(names, row.tolist(), strict=True))
                for rank, number in enumerate(np.argsort(-row, kind="stable")[1:top_k], 2):
                    answer |= {f"label_{rank}": names[number], f"score_{rank}": float(row[number])}
        return answers

    def answer_each(
        self,
        rows: Sequence[object],
        all_scores: bool = False,
        top_k: int = 1,
        target: float | None = None,
    ) -> list[dict[str, Any] | str]:
        """Return the answer to each row as [`predict`] does, or the reason why it is missing.

        A row is a text, a tuple of two for a model of text pairs, or a [`BadRow`]; other objects
        have no answer.
        """
        size = 2 if self._is_paired else 1
        results: list[dict[str, Any] | str] = []
        for row in rows:
            texts = row if isinstance(row, tuple) else (row,)
            if bad := [cast("BadRow", text) for text in texts if hasattr(text, "fault")]:
                results.append(
                    f"{bad[0].fault.reason}: {bad[0].fault.detail}: found {bad[0].excerpt}"
                )
            elif len(texts) != size:
                few = "few" if len(texts) < size else "many"
                results.append(f"too {few} fields: found {len(texts)} of {size} texts")
            else:
                results.append(next(filter(None, map(find_text_error, texts)), ""))
        valid = [place for place, error in enumerate(results) if not error]
        asked = cast("list[str]", [rows[place] for place in valid])
        for place, answer in zip(
            valid, self.predict(asked, all_scores, top_k, target), strict=True
        ):
            numbers = answer.get("values") or answer.get("scores") or {}
            finite = all(map(math.isfinite, [answer.get("score", 0.0), *numbers.values()]))
            results[place] = (
                answer if finite else "score not finite: did the training of the model diverge?"
            )
        return results

    def predict_table(self, table: Table, **settings: Any) -> Table:
        """Return a frame of pandas or polars, or a table of Arrow, with `label` and `score` as further columns.

        A row whose text is missing keeps its place, with the reason in a column `error`.

        Args:
            table: The frame; it does not change.
            settings: `text_column` and `text_pair_column`, by default those with usual names such
                as `text`; `prefix` of the new columns, by default `predicted_` if the table has one
                of their names; `all_scores` adds a column per class, such as `scores.positive`.

        Raises:
            UserError: For a missing column, whose message lists the columns.
        """
        # needs pyarrow, which a service does not have
        from .tables import TableSettings, answer_frame

        if not hasattr(table, "__arrow_c_stream__"):
            raise UserError(
                f"predict_table reads a frame of pandas, polars or Arrow: found {type(table).__name__}"
            )
        return answer_frame(self, table, "the table", TableSettings(**settings), {}, is_batch=False)

    def answer_scores(
        self, scores: np.ndarray, target: float | None = None
    ) -> list[dict[str, Any]]:
        """Return the answers to texts by their scores `(N, C)`."""
        answers = self.task.answers(scores, self.config)
        if target is not None:
            from ..evaluation.decisions import needs_person

            waiting = needs_person(
                self.read_thresholds(target), list(self.config.id2label.values()), scores
            )
            for answer, waits in zip(answers, waiting.tolist(), strict=True):
                answer["for_a_person"] = waits
        return answers

    def read_thresholds(self, target: float) -> dict[str, float | None]:
        """Return by label the lowest score of an answer that needs no person, for a target such as 0.95.

        Raises:
            UserError: Unless the folder of the model has thresholds of this model for this target.
        """
        if target in self._thresholds:
            return self._thresholds[target]
        from ..evaluation.decisions import check_target, read_thresholds

        check_target(target)
        if not self._chooses_one:
            raise UserError("target is for models that choose one label for a text: leave it out")
        if self._source is None:
            raise UserError("target needs the folder of the model: load it by from_pretrained")
        name, revision = self._source
        folder = open_folder(name, ["thresholds.json"], revision)
        by_target = read_thresholds(folder.thresholds, folder.weights)
        if (chosen := by_target.get(f"{target:g}")) is None:
            those = f"thresholds for {', '.join(by_target)} alone" if by_target else "no thresholds"
            advice = f"type hf-rnn evaluate {shlex.quote(name)} DATA --target {target:g}, with rows of their own"
            raise UserError(f"{name} has {those}: for {target:g} {advice}")
        return self._thresholds.setdefault(target, chosen.by_label)

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        """Return the scores `(N, C)` in float32, in the order of the texts and of `id2label`.

        They are probabilities: of the classes (softmax), or of each label (sigmoid, for
        multi-label); for regression they are the values themselves.

        Raises:
            UserError: For a tagger, which has scores of tokens.
        """
        if self.task.per_token:
            raise UserError("a tagger has scores of tokens, not of texts: call predict")
        return compute_scores(self.text_logits(texts), self.config)

    def text_logits(self, texts: Sequence[str]) -> np.ndarray:
        """Return the logits `(N, C)` in float32, in the order of the texts."""
        return self.logits(self.tokenize(texts))

    def logits(self, input_ids: Sequence[Sequence[int]]) -> np.ndarray:
        """Return the logits `(N, C)` of token ids by text, each id read, also a padding id; see [`Engine.run`]."""
        return self.engine.run(input_ids, self.options)

    def stream(
        self,
        state: bytes | None = None,
        target: float | None = None,
        stop: str | None = None,
        threshold: float = 0.9,
        in_a_row: int = 1,
    ) -> TextStream:
        """Return a stream that reads a text piece by piece and answers after each; see [`TextStream`].

        Args:
            state: From `TextStream.save`, to continue its text with its own target and stop.
            target: As in [`predict`]; its thresholds were chosen for whole texts.
            stop: A label: one answer has an entry `stop`, where the label reaches the next two.
            threshold: The least score of that label.
            in_a_row: After how many tokens one after another it has this score.

        Raises:
            UserError: For a model that was not trained with `streaming`, a damaged or foreign
                state, an unknown label, a threshold outside 0 to 1, and less than one token.
        """
        if self.task.per_token:
            raise UserError("a tagger does not stream: tag the last sentence again when it grows")
        if not getattr(self.config, "streaming", False):
            raise UserError(
                "the model does not stream: train one with `hf-rnn train DATA OUT --streaming`"
            )
        from .stream import Stop, TextStream

        if state is not None and (target, stop) != (None, None):
            raise UserError("a state has its own target and stop: leave them out")
        if target is not None:
            self.read_thresholds(target)
        stream = TextStream(self, target, None if stop is None else Stop(stop, threshold, in_a_row))
        if state is not None:
            stream.restore(state)
        return stream


FastRnn = Predictor
Tagger = Predictor


class SentenceEncoder:
    """The vectors of `SentenceTransformer` for an encoder of `hf-rnn pretrain`, without torch.

    Example:
        >>> encoder = SentenceEncoder.from_pretrained("encoder")
        >>> encoder.encode(["so good", "so bad"]).shape
        (2, 384)
    """

    def __init__(
        self, engine: Engine, tokenizer: Tokenizer, options: InferenceOptions = DEFAULTS
    ) -> None:
        self.engine, self.options, self._encode = engine, options, FastTokenizer(tokenizer)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        revision: str | None = None,
        precision: Precision = "float32",
        backend: Backend = "torch",
    ) -> Self:
        """Load an encoder: a folder, or a repo of the Hub; the arguments are those of [`FastRnn`].

        Raises:
            UserError: For a folder without an encoder's projection.
        """
        options = InferenceOptions(revision, precision, backend=backend)
        return cls(*load_engine(name_or_path, options, is_encoder=True), options)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return the unit vectors `(N, S)` of texts in float32, in their order."""
        vectors = self.engine.run(self._encode(texts), self.options)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


# ---- the folder of a model and its engine ----


def load_engine(
    name_or_path: str | Path, options: InferenceOptions = DEFAULTS, is_encoder: bool = False
) -> tuple[Engine, Tokenizer]:
    """Load a model, from a finished folder or a repo of the Hub, and its tokenizer.

    A sentence encoder is a classifier, whose logits are its vectors before normalisation.

    Raises:
        UserError: For an incomplete or damaged model, and for an unknown or missing device.
    """
    if options.backend == "onnx":
        from .engines.onnx import OnnxEngine

        engine = OnnxEngine(str(name_or_path), options, is_encoder)
        return engine, engine.tokenizer
    if str(options.device) == "cpu":
        folder = FinishedFolder(find_folder(name_or_path, options.revision))
        if (stored := read_stored(str(name_or_path), folder, options, is_encoder)) is not None:
            return stored
    if is_encoder:
        from .engines.torch import load_sentence_model

        model, tokenizer = load_sentence_model(name_or_path, options.revision)
    else:
        model, tokenizer = load_model(name_or_path, options.revision, options.device)
    return choose_engine(model, tokenizer, options), tokenizer


def choose_engine(
    model: PreTrainedModel, tokenizer: Tokenizer, options: InferenceOptions = DEFAULTS
) -> Engine:
    """Return the engine of a model in memory: in C where the kernel computes it, else the plain model.

    Later training of the model does not change what the kernel computes.
    """
    model = getattr(model, "_orig_mod", model)  # under torch.compile
    check_mode(model)
    if model.device.type == "cpu" and not model.can_generate():
        try:
            return copy_weights(model, options)
        except Unsupported as error:
            if str(error) != MISSING:
                _LOGGER.warning(
                    "the plain model predicts, as the kernel does not compute this one: %s", error
                )
    from .engines.torch import TorchEngine

    return TorchEngine(model, tokenizer)
