"""Two months of texts compared: whether they differ at all, in their labels, scores, texts and words, and what to do.

The test compares the mean vectors of texts, whitened by their directions of most variance
(Hotelling's T squared; H. Hotelling: The Generalization of Student's Ratio. 1931), with those of
random splits of all texts: p is the share of splits that differ as much. Intervals of shares have a
confidence of 95 % (Clopper and Pearson, 1934). Texts that are least like the old ones have the
smallest similarity to the nearest of these.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import binomtest, norm

from ..inference.fast import FastRnn
from ..utils.errors import UserError
from .vectors import encode_texts

if TYPE_CHECKING:
    pass

logger = logging.getLogger(__name__)

_LEVEL = 0.05
_MOST_ROWS = 20_000  # from each table, at random
_DIRECTIONS = 50
_SPLITS = 999
_SHOWN = 10
_FEWEST = 5  # texts with words that rose
_TARGET = 0.95
_WORD = re.compile(r"\w[\w'-]*")


@dataclass(frozen=True)
class Comparison:
    """How a new month differs from an old one; shares are of texts."""

    rows: dict[str, int]  # that were compared: `old`, `new`
    differs: bool  # whether the p value is below .05
    p_value: float
    # by label: `old` and `new`, each with `share`, `low`, `high`; and whether they differ
    labels: dict[str, dict[str, Any]]
    scores: dict[str, float]  # mean score: `old`, `new`
    for_a_person: dict[str, float] | None  # None without thresholds
    unlike: list[dict[str, Any]]  # texts of the new month: `row`, `text`, `similarity`
    # words and pairs of words whose share rose most: `words`, `old`, `new`
    rose: list[dict[str, Any]]
    advice: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison for JSON."""
        return asdict(self)


def compare(
    model: FastRnn, old: Sequence[str], new: Sequence[str], target: float = _TARGET, seed: int = 0
) -> Comparison:
    """Compare two months.

    Args:
        model: The model at work, which chooses one label for a text.
        old: Texts of the month that it is right for; blank ones are left out.
        new: Texts of the other month.
        target: The accuracy whose thresholds say which answers need a person.
        seed: Decides which rows are compared, of more than 20,000, and the random splits.

    Raises:
        UserError: For a model of another task, and for fewer than 20 texts.
    """
    if not model.task.one_label:
        raise UserError("compare is for models that choose one label for a text")
    draw = np.random.default_rng(seed)
    chosen = {"old": _choose(old, "old", draw), "new": _choose(new, "new", draw)}
    texts = [[old[row] for row in chosen["old"]], [new[row] for row in chosen["new"]]]
    vectors = encode_texts([*texts[0], *texts[1]]).astype(np.float32)
    groups = np.split(vectors, [len(texts[0])])
    p_value = _test(groups[0], groups[1], draw)

    months = dict(
        zip(("old", "new"), (_answer(model, part, target) for part in texts), strict=True)
    )
    labels = _compare_labels(
        list(model.config.id2label.values()), [months[month]["labels"] for month in months]
    )
    waiting = {month: facts["for_a_person"] for month, facts in months.items()}
    nearest = _find_nearest(groups[1], groups[0])
    unlike = [
        {
            "row": int(chosen["new"][place]),
            "text": texts[1][place],
            "similarity": round(float(nearest[place]), 3),
        }
        for place in np.argsort(nearest, kind="stable")[:_SHOWN]
    ]
    differs = p_value < _LEVEL
    changed = [label for label, facts in labels.items() if facts["differs"]]
    return Comparison(
        rows={month: len(rows) for month, rows in chosen.items()},
        differs=differs,
        p_value=p_value,
        labels=labels,
        scores={month: facts["score"] for month, facts in months.items()},
        for_a_person=None if None in waiting.values() else waiting,
        unlike=unlike,
        rose=_find_risen(texts[0], texts[1]),
        advice=_advise(differs, changed),
    )


def _choose(texts: Sequence[str], month: str, draw: np.random.Generator) -> np.ndarray:
    """Return the rows to compare, in order."""
    rows = np.array([row for row, text in enumerate(texts) if text.strip()], dtype=int)
    if len(rows) < 20:
        raise UserError(f"the {month} month has {len(rows)} texts: give 20 at least")
    if len(rows) > _MOST_ROWS:
        message = "%d of the %d texts of the %s month are compared, chosen at random"
        logger.warning(message, _MOST_ROWS, len(rows), month)
        rows = np.sort(draw.permutation(rows)[:_MOST_ROWS])
    return rows


def _test(old: np.ndarray, new: np.ndarray, draw: np.random.Generator) -> float:
    """Return the p value of the permutation test of the mean vectors, see the top of this file."""
    both = np.concatenate([old, new])
    both -= both.mean(axis=0)
    some = both[draw.permutation(len(both))[:5_000]]
    _, sizes, directions = np.linalg.svd(some, full_matrices=False)
    number = min(_DIRECTIONS, len(old) // 4, len(new) // 4)
    white = both @ (directions[:number] / np.maximum(sizes[:number, None], 1e-9)).T
    is_new = np.arange(len(both)) >= len(old)
    sums = np.empty((_SPLITS + 1, number))
    for split in range(_SPLITS + 1):
        sums[split] = white[is_new].sum(axis=0)
        is_new = draw.permutation(is_new)
    # the sums over all are zero, so that those of the new rows decide
    differences = (sums**2).sum(axis=1)
    return float((differences >= differences[0] * (1 - 1e-9)).mean())


def _answer(model: FastRnn, texts: Sequence[str], target: float) -> dict[str, Any]:
    """Return label counts, the mean score and the share for a person, None without thresholds."""
    try:
        model.read_thresholds(target)
        answers = model.predict(texts, target=target)
    except UserError:
        answers = model.predict(texts)
    waiting = [answer["for_a_person"] for answer in answers if "for_a_person" in answer]
    return {
        "labels": Counter(answer["label"] for answer in answers),
        "score": float(np.mean([answer["score"] for answer in answers])),
        "for_a_person": float(np.mean(waiting)) if waiting else None,
    }


def _compare_labels(
    names: Sequence[str], counts: Sequence[Counter[str]]
) -> dict[str, dict[str, Any]]:
    """Return shares by label; they differ if a z test says so, by Bonferroni's rule for all labels."""
    totals = [sum(month.values()) for month in counts]
    limit = norm.isf(_LEVEL / 2 / len(names))
    labels: dict[str, dict[str, Any]] = {}
    for name in names:
        facts: dict[str, Any] = {}
        for month, count, total in zip(("old", "new"), counts, totals, strict=True):
            low, high = binomtest(count[name], total).proportion_ci()
            facts[month] = {"share": count[name] / total, "low": float(low), "high": float(high)}
        pooled = (counts[0][name] + counts[1][name]) / sum(totals)
        error = (pooled * (1 - pooled) * (1 / totals[0] + 1 / totals[1])) ** 0.5
        difference = abs(facts["new"]["share"] - facts["old"]["share"])
        labels[name] = facts | {"differs": bool(difference > limit * error)}
    return labels


def _find_nearest(new: np.ndarray, old: np.ndarray) -> np.ndarray:
    """Return the similarity of each new text to the nearest old one."""
    pieces = [
        (new[start : start + 1_000] @ old.T).max(axis=1) for start in range(0, len(new), 1_000)
    ]
    return np.concatenate(pieces)


def _count_words(texts: Sequence[str]) -> Counter[str]:
    """Return in how many texts each word and pair of words is."""
    counts = Counter[str]()
    for text in texts:
        words = _WORD.findall(text.lower())
        pairs = [" ".join(pair) for pair in zip(words, words[1:], strict=False)]
        counts.update({*words, *pairs})
    return counts


def _find_risen(old: Sequence[str], new: Sequence[str]) -> list[dict[str, Any]]:
    """Return the words whose share of texts rose most, by the z value of the difference."""
    before = _count_words(old)
    after = {word: count for word, count in _count_words(new).items() if count >= _FEWEST}
    words = list(after)
    shares = np.array([[before[word] / len(old), after[word] / len(new)] for word in words])
    shares = shares.reshape(-1, 2)
    pooled = np.array([before[word] + after[word] for word in words]) / (len(old) + len(new))
    errors = np.sqrt(pooled * (1 - pooled) * (1 / len(old) + 1 / len(new)))
    scores = (shares[:, 1] - shares[:, 0]) / np.maximum(errors, 1e-12)
    best = [place for place in np.argsort(-scores, kind="stable")[:_SHOWN] if scores[place] > 2]
    return [
        {"words": words[place], "old": float(shares[place, 0]), "new": float(shares[place, 1])}
        for place in best
    ]


def _advise(differs: bool, changed: Sequence[str]) -> list[str]:
    """Return what to do."""
    if not differs:
        return ["the months do not differ measurably: nothing has to be done"]
    advice = ["read the texts that are least like the old ones: is there a new category?"]
    advice.append("label a part: hf-rnn label NEW FOLDER; its random texts measure the accuracy")
    if changed:
        shares = ", ".join(changed[:5])
        advice.append(f"shares changed ({shares}): choose thresholds again on the new labels")
    advice.append("train on all months: hf-rnn train ALL OUT2 --model_name_or_path OUT")
    return advice


def draw_comparison(comparison: Comparison, path: Path) -> None:
    """Draw the shares of the labels with intervals, and the words that rose, as a picture."""
    from matplotlib.figure import Figure

    labels = sorted(comparison.labels.items(), key=lambda item: item[1]["new"]["share"])[-15:]
    figure = Figure(figsize=(9, 1.6 + 0.36 * max(len(labels), len(comparison.rose), 4)))
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    for offset, month, color in ((-0.15, "old", "#8a94a3"), (0.15, "new", "#2563eb")):
        shares = np.array(
            [[facts[month][key] for key in ("share", "low", "high")] for _, facts in labels]
        )
        places = np.arange(len(labels)) - offset
        errors = [shares[:, 0] - shares[:, 1], shares[:, 2] - shares[:, 0]]
        left.errorbar(
            100 * shares[:, 0], places, xerr=100 * np.abs(errors), fmt="o", color=color, label=month
        )
    marks = [f"{name} *" if facts["differs"] else name for name, facts in labels]
    left.set_yticks(range(len(labels)), marks)
    left.set_xlabel("% of the answers (95 %; * differs)")
    left.legend(loc="lower right")
    rose = comparison.rose[::-1]
    right.barh(
        [one["words"] for one in rose],
        [100 * one["new"] for one in rose],
        color="#2563eb",
        height=0.4,
    )
    right.barh(
        [one["words"] for one in rose],
        [100 * one["old"] for one in rose],
        color="#8a94a3",
        height=0.4,
    )
    right.set_xlabel("% of the texts, words that rose")
    right.set_visible(bool(rose))
    verdict = "differ" if comparison.differs else "do not differ measurably"
    figure.suptitle(f"The months {verdict} (p = {comparison.p_value:.3f})")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
