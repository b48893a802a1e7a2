"""[`FastRnn`]: texts → answers of any task, by any engine; [`SentenceEncoder`]: texts → vectors.

`data.tokens` makes ids from texts, an engine logits from ids, and the task of the model answers
from logits.
"""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

import numpy as np

from ..data.tokens import FastTokenizer
from ..hub.model_folder import FinishedFolder
from ..tasks import Answer, check_answers, compute_scores, score_kind, task_of
from ..utils.errors import UserError, find_text_error, list_texts
from .engine import Engine, InferenceOptions, TokenIds
from .open import choose_engine, open_engine

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..data.errors import BadRow
    from ..data.tokens import Tokenizer
    from .stream import TextStream

Table = TypeVar("Table")


class FastRnn:
    """From texts, tables and texts that grow to the answers of a model's task; also `Tagger`.

    On a CPU the network runs in C, without torch. The plain model predicts where that is not
    possible: on an accelerator, without the compiled kernel, and for a model with hooks, adapters
    or modules from outside this package, which the log says. After further training of a model make
    a new predictor.

    A classifier labels texts, a tagger finds entities in texts of any length. For a model of text
    pairs, each text is a pair `(first, second)`.

    Args:
        model: In evaluation mode; or an engine.
        tokenizer: The tokenizer of the model; texts are truncated to its `model_max_length`.
        options: Those of [`InferenceOptions`], such as `precision`.

    Raises:
        UserError: For an unknown `precision`, and for a language model.
        ValueError: When the model is in training mode.

    Example:
        >>> classifier = FastRnn.from_pretrained("out/tweets")
        >>> classifier.predict(["best concert of my life!"])
        [{'label': 'positive', 'score': 0.9}]
    """

    def __init__(
        self, model: PreTrainedModel | Engine, tokenizer: Tokenizer, **options: Any
    ) -> None:
        self.options = InferenceOptions(**options)
        if not isinstance(model, Engine):
            model = choose_engine(model, tokenizer, self.options)
        self.engine = model
        self.config = model.config
        self.tokenizer = tokenizer
        check_answers(self.config)
        self.task = task_of(self.config)
        self._is_paired = getattr(self.config, "sep_token_id", None) is not None
        self.tokenize = FastTokenizer(tokenizer, self._is_paired)  # texts → token ids
        self._chooses_one = score_kind(self.config) == "softmax" and not self.task.per_token
        # about a model from a folder or a repo, as it was loaded
        self._name: str | None = None
        self._thresholds: bytes | None = None  # the content of `thresholds.json`
        self._fingerprint: str | None = None
        self._by_target: dict[float, dict[str, float | None]] = {}

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path, revision: str | None = None, **options: Any
    ) -> Self:
        """Load a finished folder, or a repo of the Hub by its id.

        The options are those of [`InferenceOptions`]: `precision`, `device`, `threads` and
        `tokens_per_batch`.

        Raises:
            UserError: For an incomplete model, named in the message, and for an unknown or missing
                device.
        """
        opened = open_engine(name_or_path, InferenceOptions(revision, **options))
        predictor = cls(opened.engine, opened.tokenizer, **options)
        predictor._name = absolute_name(name_or_path)
        predictor._thresholds = opened.folder.read_thresholds()
        return predictor

    @property
    def fingerprint(self) -> str:
        """A hash of all weights as they were loaded, for thresholds and states of streams."""
        return self._fingerprint or self.engine.fingerprint

    def __reduce__(self) -> tuple[object, ...]:
        state = {
            "_name": self._name,
            "_thresholds": self._thresholds,
            "options": self.options,
        }
        if self.engine.model is not None:  # whose weights may be rounded otherwise than the stored
            state["_fingerprint"] = self.fingerprint
        make = partial(type(self), precision=self.options.precision)
        return make, (self.engine.model or self.engine, self.tokenizer), state

    def predict(
        self,
        texts: Sequence[str],
        all_scores: bool = False,
        top_k: int = 1,
        target: float | None = None,
    ) -> list[Answer]:
        """Return the answer to each text, in order.

        It is `{"label": ..., "score": ...}` of the best class. For multi-label it is `{"labels":
        [...], "scores": {label: score}}`, with the labels above their thresholds; for regression
        `{"values": {name: number}}`; of a tagger `{"entities": [...]}`, with their places in the
        text. `all_scores` adds `scores` where they are not an answer already, `top_k` the next
        labels, as `label_2`, `score_2` and so on. With a `target` such as 0.95 each answer has
        `for_a_person`: False if it needs no person, as answers like it are right at this rate, by
        the thresholds that `hf-rnn evaluate --target` chose.

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
            return self._tag(list_texts(texts))
        scores = self.predict_proba(texts)
        answers = self.answer_scores(scores, target)
        if not self._chooses_one:
            return answers
        names = list(self.config.id2label.values())
        for answer, row in zip(answers, scores, strict=True):
            if all_scores:
                answer["scores"] = dict(zip(names, row.tolist(), strict=True))
            if top_k > 1:
                following = np.argsort(-row, kind="stable")[1:top_k].tolist()
                for rank, number in enumerate(following, 2):
                    answer[f"label_{rank}"] = names[number]
                    answer[f"score_{rank}"] = float(row[number])
        return answers

    def _tag(self, texts: list[str]) -> list[Answer]:
        """Return the answers of a tagger."""
        from ..evaluation.scores import check_finite_logits

        encoded = self.tokenizer(
            texts, return_offsets_mapping=True, return_attention_mask=False, verbose=False
        )
        logits = self.logits(encoded["input_ids"])
        check_finite_logits(logits.reshape(-1, self.config.num_labels))
        return self.task.answers(logits, self.config, texts, encoded)

    def answer_each(
        self,
        rows: Sequence[object],
        all_scores: bool = False,
        top_k: int = 1,
        target: float | None = None,
    ) -> list[Answer | str]:
        """Return the answer to each row as [`predict`] does, or the reason why it is missing.

        A row is a text, a tuple of two for a model of text pairs, or a [`BadRow`]; other objects
        have no answer.
        """
        results = [self._find_fault(row) for row in rows]
        valid = [place for place, fault in enumerate(results) if not fault]
        texts = cast("list[str]", [rows[place] for place in valid])
        answers = self.predict(texts, all_scores, top_k, target)
        answered: list[Answer | str] = [*results]
        for place, answer in zip(valid, answers, strict=True):
            numbers = answer.get("values") or answer.get("scores") or {}
            is_finite = all(map(math.isfinite, [answer.get("score", 0.0), *numbers.values()]))
            answered[place] = answer
            if not is_finite:
                answered[place] = "score not finite: did the training of the model diverge?"
        return answered

    def _find_fault(self, row: object) -> str:
        """Return why a row has no answer, or an empty string."""
        size = 2 if self._is_paired else 1
        texts = row if isinstance(row, tuple) else (row,)
        for text in texts:
            if hasattr(text, "fault"):
                bad = cast("BadRow", text)
                return f"{bad.fault.reason}: {bad.fault.detail}: found {bad.excerpt}"
        if len(texts) != size:
            amount = "few" if len(texts) < size else "many"
            return f"too {amount} fields: found {len(texts)} of {size} texts"
        return next(filter(None, map(find_text_error, texts)), "")

    def answer_scores(self, scores: np.ndarray, target: float | None = None) -> list[Answer]:
        """Return the answers to texts by their scores `(N, C)`."""
        answers = self.task.answers(scores, self.config)
        if target is not None:
            from ..evaluation.decisions import needs_person

            names = list(self.config.id2label.values())
            waiting = needs_person(self.read_thresholds(target), names, scores)
            for answer, waits in zip(answers, waiting.tolist(), strict=True):
                answer["for_a_person"] = waits
        return answers

    def read_thresholds(self, target: float) -> dict[str, float | None]:
        """Return by label the lowest score of an answer that needs no person, for a target.

        They are those of `thresholds.json` when the model was loaded.

        Raises:
            UserError: Unless the folder of the model has thresholds of its weights for this target.
        """
        if target in self._by_target:
            return self._by_target[target]
        from ..evaluation.decisions import check_target, parse_thresholds

        check_target(target)
        if not self._chooses_one:
            raise UserError("target is for models that choose one label for a text: leave it out")
        if self._name is None:
            raise UserError("target needs the folder of the model: load it by from_pretrained")
        path = FinishedFolder(Path(self._name)).thresholds
        by_target = parse_thresholds(self._thresholds, path, self.fingerprint)
        chosen = by_target.get(f"{target:g}")
        if chosen is None:
            those = f"thresholds for {', '.join(by_target)} alone" if by_target else "no thresholds"
            command = f"hf-rnn evaluate {shlex.quote(self._name)} DATA --target {target:g}"
            raise UserError(
                f"{self._name} has {those}: for {target:g} type {command}, with rows of their own"
            )
        self._by_target[target] = chosen.by_label
        return chosen.by_label

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

    def logits(self, input_ids: TokenIds) -> np.ndarray:
        """Return the logits `(N, C)` of token ids by text, also of padding; see [`Engine.run`]."""
        return self.engine.run(input_ids, self.options)

    def predict_table(self, table: Table, **settings: Any) -> Table:
        """Return a frame of pandas or polars, or a table of Arrow, with the columns of answers.

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
            found = type(table).__name__
            raise UserError(
                f"predict_table reads a frame of pandas, polars or Arrow: found {found}"
            )
        return answer_frame(self, table, "the table", TableSettings(**settings), {}, is_batch=False)

    def explain(self, text: str, most: int = 8) -> Answer:
        """Return the answer to a text, and the words and phrases that count most for it.

        The numbers are in units of the logit of the label; with one label per text, of its
        distance to the mean of all labels. The share of an n-gram in the linear part is exact. For
        the network the number of a word is its loss when the word is left out.

        Args:
            text: The text; its first 256 words are left out one by one.
            most: The number of phrases.

        Returns:
            The answer of [`predict`], with `because`: a list of `[phrase, number]`, the largest
            numbers first; those below zero speak against the label.

        Raises:
            UserError: For a tagger, and a model of text pairs.
        """
        from .explain import explain_spans

        explanation = explain_spans(self, text)
        answer = self.answer_scores(explanation.scores)[0]
        return {**answer, "because": explanation.phrases(most)}

    def stream(self, target: float | None = None) -> TextStream:
        """Return a stream that reads a text piece by piece; see [`TextStream`].

        Args:
            target: As in [`predict`]; its thresholds were chosen for whole texts.

        Raises:
            UserError: For a model that was not trained with `streaming`, or runs by torch.
        """
        if self.task.per_token:
            raise UserError("a tagger does not stream: tag the last sentence again when it grows")
        if not getattr(self.config, "streaming", False):
            raise UserError(
                "the model does not stream: train one with `hf-rnn train DATA OUT --streaming`"
            )
        if target is not None:
            self.read_thresholds(target)
        from .stream import TextStream

        return TextStream(self, target)


Tagger = FastRnn


def absolute_name(name: str | Path) -> str:
    """Return the path of a folder from the root; the id of a repo stays as it is."""
    name = os.path.expanduser(name)
    return os.path.abspath(name) if os.path.isdir(name) else name


class SentenceEncoder:
    """The vectors of `SentenceTransformer` for an encoder of `hf-rnn pretrain`, without torch.

    Example:
        >>> encoder = SentenceEncoder.from_pretrained("encoder")
        >>> encoder.encode(["so good", "so bad"]).shape
        (2, 384)
    """

    def __init__(self, engine: Engine, tokenizer: Tokenizer, **options: Any) -> None:
        self.engine = engine
        self.options = InferenceOptions(**options)
        self._encode = FastTokenizer(tokenizer)

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path, revision: str | None = None, **options: Any
    ) -> Self:
        """Load an encoder: a folder, or a repo of the Hub; the options are those of [`FastRnn`].

        Raises:
            UserError: For a folder without an encoder's projection.
        """
        opened = open_engine(name_or_path, InferenceOptions(revision, **options), is_encoder=True)
        return cls(opened.engine, opened.tokenizer, **options)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return the unit vectors `(N, S)` of texts in float32, in their order."""
        vectors = self.engine.run(self._encode(texts), self.options)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
