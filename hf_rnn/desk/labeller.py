"""Label texts with a model in the loop: the next text, its likely label, and how often it is right.

First come 50 texts that represent the others: each next one raises the mean similarity of all texts
to the nearest chosen one most (the facility location function; K. Wei, R. Iyer, J. Bilmes:
Submodularity in Data Subset Selection and Active Learning. ICML 2015). They are worth twice as many
random ones. Then the order is random: the texts with the smallest margin, those of rare labels and
further representatives each were worse than random on a data set
(`scripts/benchmarks/labelling.py`). Only random texts measure how often suggestions are right.
"""

from __future__ import annotations

import datetime
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression

from ..quality.vectors import encode_texts
from ..utils.errors import UserError, find_text_error, list_texts
from .answers import Answer, AnswerFile, check_label

ANSWERS = "answers.jsonl"
_FIRST = 50  # texts that represent the others
_POOL = 20_000  # texts to choose from, at random; these have suggestions in half a second
_REPRESENTED = 3_000  # texts among them that are represented
_ENOUGH = 4  # rows of each of two labels, to suggest one
_RECENT = 50  # random texts that the accuracy counts
_CONFIDENCE = 0.95
_STRENGTH = 10.0  # parameter C of the regression
_STEPS = 50  # per fit; the next one continues them
_REFIT_SHARE = 0.02  # new answers, as a share of all, after which the model is fitted again


class Suggestion(TypedDict):
    """A label for a text, and its probability."""

    label: str
    score: float


class Accuracy(TypedDict):
    """The right suggestions for the last random texts, and the interval of their share (95 %)."""

    right: int
    of: int
    low: float
    high: float


@dataclass(frozen=True)
class _Question:
    place: int  # index in the pool
    order: str


class Labeller:
    """A queue of texts that a person labels, with suggestions by a model that learns from answers.

    The model is logistic regression on the vectors of an encoder of the package. It suggests labels
    as soon as two labels have four rows each.

    Args:
        texts: All texts; a blank one is never asked. From more than 20,000 a random part is taken.
        labels: The labels that are there already; None or "" for a missing one.
        output_dir: Folder for `answers.jsonl`, where each answer is written at once, and for the
            vectors of the texts. The answers of an earlier session there count.
        seed: Decides what is random.

    Raises:
        UserError: For texts that are not, and labels of another number.

    Example:
        >>> labeller = Labeller(texts, output_dir="out")
        >>> row = labeller.next()
        >>> labeller.answer(row, "delivery")
        >>> labeller.accuracy()
        {'right': 0, 'of': 0, 'low': 0.0, 'high': 1.0}
    """

    def __init__(
        self,
        texts: Sequence[str],
        labels: Sequence[str | None] | None = None,
        output_dir: str | Path | None = None,
        seed: int = 0,
    ) -> None:
        self.texts = list_texts(texts)
        self.labels = self._read_labels(labels)
        self.answers: list[Answer] = []
        self._file = None
        if output_dir is not None:
            self._file = AnswerFile(Path(output_dir) / ANSWERS, self.texts)
            self.answers = self._file.answers
        self._draw = np.random.default_rng(seed)
        self._rows = self._draw_pool()
        self._places = {row: place for place, row in enumerate(self._rows.tolist())}
        file = None if output_dir is None else Path(output_dir) / "vectors.npz"
        vectors = encode_texts([self.texts[row] for row in self._rows], file)
        self._vectors = vectors.astype(np.float32)

        self._asked = np.isin(self._rows, list(self.labels))
        for answer in self.answers:
            self._learn(answer)
        self._random = self._draw.permutation(len(self._rows))
        self._representatives = self._find_representatives()
        self._question: _Question | None = None
        self._asked_at = 0.0
        self._model = _make_model()
        self._fitted = 0  # rows that the model has learned
        self._scores: np.ndarray | None = None  # by text and label of the model, `(P, C)`

    # ---- answers ----

    def next(self) -> int:
        """Return the number of the row to label next; the same one until it has an answer.

        Raises:
            UserError: When each text has an answer.
        """
        if self._question is None:
            if not self.waiting:
                raise UserError(f"each of the {len(self._rows):,} texts has an answer")
            self._question = self._choose()
            self._asked_at = time.monotonic()
        return int(self._rows[self._question.place])

    @property
    def waiting(self) -> int:
        """The number of texts without an answer."""
        return int((~self._asked).sum())

    @property
    def order(self) -> str:
        """Why [`next`] chose its text: `different` from those before, or `random`."""
        self.next()
        return self._question.order if self._question is not None else ""

    def answer(self, row: int, label: str | None) -> None:
        """Label a row, any one; None skips it. The answer is on disk when this returns."""
        if not 0 <= row < len(self.texts):
            raise UserError(
                f"there is no row {row}: the texts have rows 0 to {len(self.texts) - 1}"
            )
        name = "" if label is None else check_label(label)
        if any(answer.row == row for answer in self.answers):
            raise UserError(f"row {row} has an answer: undo comes first")
        suggestion = self.suggest(row)
        order = "chosen"
        seconds = None
        if self._question is not None and row == self.next():
            order = self._question.order
            seconds = round(time.monotonic() - self._asked_at, 3)
            self._question = None
        now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
        answer = Answer(
            row,
            self.texts[row],
            label=name,
            time=now.isoformat(timespec="milliseconds"),
            suggestion="" if suggestion is None else suggestion["label"],
            order=order,
            seconds=seconds,
        )
        if self._file is None:
            self.answers.append(answer)
        else:
            self._file.append(answer)
        self._learn(answer)

    def undo(self) -> int | None:
        """Remove the last answer, and return its row, which comes again; None without an answer."""
        if not self.answers:
            return None
        answer = self.answers.pop() if self._file is None else self._file.undo()
        self.labels.pop(answer.row, None)
        place = self._places.get(answer.row)
        if place is not None:
            self._asked[place] = False
            self._question = _Question(place, answer.order)
            self._asked_at = time.monotonic()
        self._fitted = 0
        return answer.row

    def _learn(self, answer: Answer) -> None:
        if answer.label:
            self.labels[answer.row] = answer.label
        if answer.row in self._places:
            self._asked[self._places[answer.row]] = True

    # ---- the model ----

    def suggest(self, row: int) -> Suggestion | None:
        """Return the likeliest label of a row; None before two labels have four rows each."""
        self._fit()
        if self._scores is None:
            return None
        if row in self._places:
            scores = self._scores[self._places[row]]
        else:
            scores = self._model.predict_proba(encode_texts([self.texts[row]]))[0]
        best = int(scores.argmax())
        return {"label": str(self._model.classes_[best]), "score": float(scores[best])}

    def _fit(self) -> None:
        """Fit the model again if there are new answers."""
        new = len(self.labels) - self._fitted
        if self._fitted and new <= _REFIT_SHARE * self._fitted:
            return
        rows = [row for row in self.labels if row in self._places]
        labels = [self.labels[row] for row in rows]
        frequent = Counter(labels).most_common(2)
        if len(frequent) < 2 or frequent[1][1] < _ENOUGH:
            self._scores = None
            return
        if getattr(self._model, "classes_", np.empty(0)).tolist() != sorted(set(labels)):
            self._model = _make_model()
        with warnings.catch_warnings():
            # few steps, which the next fit continues; few rows per label
            warnings.simplefilter("ignore")
            self._model.fit(self._vectors[[self._places[row] for row in rows]], labels)
        self._scores = self._model.predict_proba(self._vectors)
        self._fitted = len(self.labels)

    def accuracy(self) -> Accuracy:
        """Return how many suggestions for the last 50 random texts were right.

        The interval has a confidence of 95 %; C. Clopper, E. Pearson: The use of confidence or
        fiducial limits illustrated in the case of the binomial. Biometrika 26, 1934.
        """
        return measure_accuracy(self.answers)

    # ---- the order ----

    def _choose(self) -> _Question:
        """Return the next text: a representative one among the first answers, or a random one."""
        if len(self.answers) < _FIRST:
            for place in self._representatives:
                if not self._asked[place]:
                    return _Question(place, "different")
        return _Question(int(self._random[~self._asked[self._random]][0]), "random")

    def _find_representatives(self) -> list[int]:
        """Return places of texts that all others are most similar to, best first."""
        some = self._random[:_REPRESENTED]
        vectors = self._vectors[some] - self._vectors[some].mean(axis=0)
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        likeness = np.maximum(vectors @ vectors.T, 0) ** 2
        nearest = np.zeros(len(some), dtype=np.float32)
        chosen: list[int] = []
        for _ in range(min(_FIRST, len(some))):
            means = np.maximum(likeness, nearest).mean(axis=1)
            means[chosen] = -1
            chosen.append(int(means.argmax()))
            nearest = np.maximum(nearest, likeness[chosen[-1]])
        return some[chosen].tolist()

    # ---- what is there at the start ----

    def _read_labels(self, labels: Sequence[str | None] | None) -> dict[int, str]:
        """Return the labels that are given by row."""
        if labels is None:
            return {}
        if len(labels) != len(self.texts):
            raise UserError(f"{len(self.texts)} texts and {len(labels)} labels: give one per text")
        return {row: str(label) for row, label in enumerate(labels) if not find_text_error(label)}

    def _draw_pool(self) -> np.ndarray:
        """Return the rows to choose from: at most 20,000 with labels, and as many others."""
        has_text = np.array([not find_text_error(text) for text in self.texts], dtype=bool)
        has_label = np.isin(np.arange(len(self.texts)), list(self.labels))
        rows = []
        for group in (has_text & ~has_label, has_text & has_label):
            members = np.flatnonzero(group)
            rows.append(self._draw.permutation(members)[:_POOL])
        answered = [answer.row for answer in self.answers]
        pool = np.unique(np.concatenate([*rows, np.array(answered, dtype=int)]))
        if not len(rows[0]):
            raise UserError("there is no text without a label: give texts to label")
        return pool


def _make_model() -> LogisticRegression:
    return LogisticRegression(C=_STRENGTH, max_iter=_STEPS, warm_start=True)


def measure_accuracy(answers: Sequence[Answer]) -> Accuracy:
    """Return how many of the last 50 suggestions for random texts were right."""
    random = [answer for answer in answers if answer.order == "random"]
    counted = [answer for answer in random if answer.label and answer.suggestion][-_RECENT:]
    right = sum(answer.label == answer.suggestion for answer in counted)
    bounds: Sequence[float] = (0.0, 1.0)
    if counted:
        bounds = binomtest(right, len(counted)).proportion_ci(_CONFIDENCE)
    low, high = bounds
    return {"right": right, "of": len(counted), "low": float(low), "high": float(high)}
