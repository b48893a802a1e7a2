"""`TextClassifier`: from texts to answers, for any program that computes logits. Needs NumPy and tokenizers alone.

Answers are those of the model's task.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ..data.row_errors import BadRow, Reason
from ..tasks import task_of
from ..tasks.answers import compute_scores, score_kind
from ..utils.errors import UserError, check_texts, find_text_error
from .tokens import FastTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Table = TypeVar("Table")


def batch_by_length(
    input_ids: Sequence[Sequence[int]], tokens_per_batch: int, texts_per_batch: int | None = None
) -> Iterator[list[int]]:
    """Yield batches of row numbers, shortest rows first; a row longer than `tokens_per_batch` is alone."""
    batch: list[int] = []
    for row in sorted(range(len(input_ids)), key=lambda row: len(input_ids[row])):
        full = (len(batch) + 1) * len(input_ids[row]) > tokens_per_batch or len(batch) == texts_per_batch
        if batch and full:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


class PairTokenizer:
    """Token ids of pairs of texts, with the interface of [`FastTokenizer`]."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer

    def __call__(self, texts: Sequence[Sequence[str]]) -> list[list[int]]:
        """Return the ids of each pair (first, second) around the separator."""
        pairs = list(texts) if isinstance(texts, Iterable) and not isinstance(texts, str) else [texts]
        for position, pair in enumerate(pairs):
            if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2:
                raise UserError(f"texts[{position}] must be a pair (first, second): found {pair!r:.80}")
        firsts = [first for first, _ in pairs]
        seconds = [second for _, second in pairs]
        check_texts(firsts)
        check_texts(seconds)
        return self._tokenizer(firsts, seconds, truncation=True)["input_ids"] if pairs else []


def answer_each(
    model: Any, rows: Sequence[object], all_scores: bool = False, top_k: int = 1
) -> list[dict[str, Any] | str]:
    """Return the answer of a model to each row, or the reason why it has none.

    A row is a text, a tuple of two for a model of text pairs, or a [`BadRow`]; other objects have no answer. With
    `top_k` an answer has the next labels too, as `label_2`, `score_2` and so on.

    Raises:
        UserError: For a `top_k` above the number of labels, or of a model that does not choose one label.
    """
    chooses_one = score_kind(model.config) == "softmax" and not model.task.per_token
    if top_k > 1 and not (chooses_one and top_k <= model.config.num_labels):
        raise UserError(f"top_k is {top_k}: the model does not choose one of at least {top_k} labels; leave it out")
    size = 1 if model.config.sep_token_id is None else 2
    results: list[Any] = [_find_row_error(row, size) for row in rows]
    valid = [place for place, error in enumerate(results) if not error]
    more = {"all_scores": True} if all_scores or top_k > 1 else {}
    for place, answer in zip(valid, model.predict([rows[place] for place in valid], **more), strict=True):
        results[place] = answer
        if (score := _find_broken_number(answer)) is not None:
            results[place] = f"score not finite: the model gives {score}; did its training diverge?"
        elif top_k > 1:
            scores = answer["scores"] if all_scores else answer.pop("scores")
            best = sorted(scores, key=scores.__getitem__, reverse=True)[:top_k]
            for number, label in enumerate(best[1:], 2):
                answer |= {f"label_{number}": label, f"score_{number}": scores[label]}
    return results


def _find_row_error(row: object, size: int) -> str:
    """Return why a row of `size` texts has no answer, or an empty string."""
    texts = row if isinstance(row, tuple) else (row,)
    for bad in texts:
        if isinstance(bad, BadRow):
            return f"{bad.fault.reason}: {bad.fault.detail}: found {bad.excerpt}"
    if len(texts) != size:
        reason = Reason.TOO_FEW_FIELDS if len(texts) < size else Reason.TOO_MANY_FIELDS
        return f"{reason}: found {len(texts)} of {size} texts"
    return next(filter(None, map(find_text_error, texts)), "")


def _find_broken_number(answer: Mapping[str, Any]) -> float | None:
    for value in answer.values():
        if isinstance(value, dict):
            value = _find_broken_number(value)
        if isinstance(value, float) and not math.isfinite(value):
            return value
    return None


class TextClassifier:
    """From texts to labels and scores, for a subclass that computes logits.

    For a model of text pairs, each text is a pair `(first, second)`.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: Any, tokens_per_batch: int | None) -> None:
        self.tokenizer = tokenizer
        self.tokens_per_batch: Any = tokens_per_batch
        paired = getattr(config, "sep_token_id", None) is not None
        self._encode: Any = PairTokenizer(tokenizer) if paired else FastTokenizer(tokenizer)
        self.config: Any = config
        self.task = task_of(config)

    def predict(self, texts: Sequence[str], all_scores: bool = False) -> list[dict[str, Any]]:
        """Return the answer to each text, in their order: `{"label": ..., "score": ...}` of its best class.

        For multi-label it is `{"labels": [...], "scores": {label: score}}`, with the labels above their thresholds;
        for regression `{"values": {name: number}}`. `all_scores` adds `scores` where they are not an answer already.

        Raises:
            UserError: For an invalid list of texts, here and in the next methods; the message names the position.
        """
        scores = self.predict_proba(texts)
        answers = self.task.answers(scores, self.config)
        if all_scores and answers and "label" in answers[0]:
            names = list(self.config.id2label.values())
            for answer, row in zip(answers, scores.tolist(), strict=True):
                answer["scores"] = dict(zip(names, row, strict=True))
        return answers

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

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        """Return the scores `(N, C)` in float32, in the order of the texts and of `id2label`.

        They are probabilities: of the classes (softmax), or of each label (sigmoid, for multi-label); for regression
        they are the values themselves.
        """
        return compute_scores(np.asarray(self.text_logits(texts)), self.config)

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of texts, equal to those of `tokenizer(texts, truncation=True)`."""
        return self._encode(texts)

    def text_logits(self, texts: Sequence[str]) -> Any:
        """Return the logits `(N, C)` in float32 on the CPU, in the order of the texts: a tensor or a NumPy array."""
        return self.logits(self._encode(texts))

    def logits(self, input_ids: Sequence[Sequence[int]]) -> Any:
        """Return the logits `(N, C)` in float32 on the CPU, in the order of `input_ids`.

        Args:
            input_ids: Token ids by text, possibly empty; each id is read, also a padding id.

        Raises:
            IndexError: For an id outside the vocabulary.
        """
        raise NotImplementedError
