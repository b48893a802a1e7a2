"""Compare two months of texts: do they differ, in what, and what is to be done?

The test compares the mean vectors of texts, whitened by their directions of most variance
(Hotelling's T squared; H. Hotelling: The Generalization of Student's Ratio. 1931), with those of
random splits of all texts: p is the share of splits that differ as much. Intervals of shares have a
confidence of 95 % (Clopper and Pearson, 1934). Texts that are least like the old ones have the
smallest similarity to the nearest of these.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.stats import binomtest, norm
from sklearn.decomposition import PCA
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.neighbors import NearestNeighbors

from ..inference.predict import FastRnn
from ..utils.errors import UserError
from .vectors import encode_texts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas.api.typing import SeriesGroupBy

logger = logging.getLogger(__name__)

_LEVEL = 0.05
_MOST_ROWS = 20_000  # from each table, at random
_DIRECTIONS = 50
_SPLITS = 999
_SHOWN = 10
_FEWEST = 5  # texts with words that rose
_LEAST_RISE = 2  # z value
_TARGET = 0.95
_WORD = r"\w[\w'-]*"
_COLORS = {"old": "#8a94a3", "new": "#2563eb"}


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
    texts = pd.concat({"old": _choose(old, "old", draw), "new": _choose(new, "new", draw)})
    vectors = encode_texts(texts.tolist()).astype(np.float32)
    old_vectors, new_vectors = np.split(vectors, [len(texts["old"])])
    p_value = measure_p_value(old_vectors, new_vectors, draw)

    by_month = _answer(model, texts, target).groupby(level=0, sort=False)
    labels = _compare_labels(by_month["label"], list(model.config.id2label.values()))
    means = by_month.mean(numeric_only=True).to_dict()
    return Comparison(
        rows=by_month.size().to_dict(),
        differs=p_value < _LEVEL,
        p_value=p_value,
        labels=labels,
        scores=means["score"],
        for_a_person=means.get("for_a_person"),
        unlike=_find_unlike(texts["new"], new_vectors, old_vectors),
        rose=_find_risen(texts),
        advice=_advise(p_value < _LEVEL, labels),
    )


def _choose(texts: Sequence[str], month: str, draw: np.random.Generator) -> pd.Series:
    """Return the texts to compare, in order, by row."""
    column = pd.Series(texts, dtype=object)
    column = column[[bool(text.strip()) for text in texts]]
    if len(column) < 20:
        raise UserError(f"the {month} month has {len(column)} texts: give 20 at least")
    if len(column) > _MOST_ROWS:
        message = "%d of the %d texts of the %s month are compared, chosen at random"
        logger.warning(message, _MOST_ROWS, len(column), month)
        column = column.sample(_MOST_ROWS, random_state=draw).sort_index()
    return column


def measure_p_value(old: np.ndarray, new: np.ndarray, draw: np.random.Generator) -> float:
    """Return the p value of a permutation test of mean vectors; see the top of this file.

    Args:
        old: Vectors `(N, S)` of a month.
        new: Those of another month `(M, S)`.
        draw: Draws the random splits.
    """
    both = np.concatenate([old, new])
    number = min(_DIRECTIONS, both.shape[1], len(old) // 4, len(new) // 4)
    white = PCA(number, whiten=True).fit_transform(both)

    is_new = np.arange(len(both)) >= len(old)
    differences = np.empty(1 + _SPLITS)
    for split in range(1 + _SPLITS):
        # the sums over all rows are zero, so that those of the new ones decide
        differences[split] = (white[is_new].sum(axis=0) ** 2).sum()
        is_new = draw.permutation(is_new)
    return float((differences >= differences[0] * (1 - 1e-9)).mean())


def _answer(model: FastRnn, texts: pd.Series, target: float) -> pd.DataFrame:
    """Return `label`, `score`, and with thresholds `for_a_person` of each text."""
    chosen: float | None = target
    try:
        model.read_thresholds(target)
    except UserError:
        chosen = None
    return pd.DataFrame(model.predict(texts.tolist(), target=chosen), index=texts.index)


def _compare_labels(answers: SeriesGroupBy, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return shares by label; a z test at 5 % decides, by Bonferroni's rule for all labels."""
    counts = answers.value_counts().unstack(0, fill_value=0).reindex(names, fill_value=0)
    sizes = answers.size()
    limit = norm.isf(_LEVEL / 2 / len(names))
    labels: dict[str, dict[str, Any]] = {}
    for name, change in _measure_change(counts, sizes).items():
        shares = {
            month: _describe_share(counts[month][name], sizes[month]) for month in sizes.index
        }
        labels[str(name)] = {**shares, "differs": bool(abs(change) > limit)}
    return labels


def _describe_share(count: int, size: int) -> dict[str, float]:
    low, high = binomtest(count, size).proportion_ci()
    return {"share": float(count / size), "low": float(low), "high": float(high)}


def _measure_change(counts: pd.DataFrame, sizes: pd.Series) -> pd.Series:
    """Return by row the z value of the difference of two shares, positive where it rose."""
    shares = counts / sizes
    pooled = counts.sum(axis=1) / sizes.sum()
    errors = np.sqrt(pooled * (1 - pooled) * (1 / sizes).sum())
    return (shares["new"] - shares["old"]) / errors.clip(lower=1e-12)


def _find_unlike(texts: pd.Series, new: np.ndarray, old: np.ndarray) -> list[dict[str, Any]]:
    """Return the new texts whose nearest old one is least similar."""
    search = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(old)
    distances = search.kneighbors(new)[0].ravel().astype(float)
    similarity = (1 - distances**2 / 2).round(3)  # the cosine of two unit vectors
    columns = {"row": texts.index, "text": texts.array, "similarity": similarity}
    return pd.DataFrame(columns).nsmallest(_SHOWN, "similarity").to_dict("records")


def _find_risen(texts: pd.Series) -> list[dict[str, Any]]:
    """Return the words whose share of texts rose most, by the z value of the difference."""
    words = CountVectorizer(ngram_range=(1, 2), token_pattern=_WORD, min_df=_FEWEST, binary=True)
    try:
        matrix = words.fit_transform(texts)
    except ValueError:  # all words are rare
        return []
    counts = pd.DataFrame(index=words.get_feature_names_out())
    for month in ("old", "new"):
        is_of_month = texts.index.get_level_values(0) == month
        counts[month] = np.asarray(matrix[is_of_month].sum(axis=0)).ravel()
    counts = counts[counts["new"] >= _FEWEST]
    sizes = texts.groupby(level=0, sort=False).size()
    change = _measure_change(counts, sizes).nlargest(_SHOWN)
    best = change.index[change > _LEAST_RISE]
    return (counts / sizes).loc[best].rename_axis("words").reset_index().to_dict("records")


def _advise(differs: bool, labels: dict[str, dict[str, Any]]) -> list[str]:
    """Return what to do."""
    if not differs:
        return ["the months do not differ measurably: nothing has to be done"]
    advice = ["read the texts that are least like the old ones: is there a new category?"]
    advice.append("label a part: hf-rnn label NEW FOLDER; its random texts measure the accuracy")
    changed = [label for label, facts in labels.items() if facts["differs"]]
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
    _draw_shares(left, dict(labels))
    words = [one["words"] for one in comparison.rose[::-1]]
    for month in ("new", "old"):
        shares = [100 * one[month] for one in comparison.rose[::-1]]
        right.barh(words, shares, color=_COLORS[month], height=0.4)
    right.set_xlabel("% of the texts, words that rose")
    right.set_visible(bool(words))

    verdict = "differ" if comparison.differs else "do not differ measurably"
    figure.suptitle(f"The months {verdict} (p = {comparison.p_value:.3f})")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a letter that the font lacks
        figure.tight_layout()
        figure.savefig(path, dpi=120)


def _draw_shares(axes: Axes, labels: dict[str, dict[str, Any]]) -> None:
    for offset, month in ((0.15, "old"), (-0.15, "new")):
        facts = 100 * pd.DataFrame([label[month] for label in labels.values()])
        places = np.arange(len(labels)) + offset
        errors = [facts["share"] - facts["low"], facts["high"] - facts["share"]]
        color = _COLORS[month]
        axes.errorbar(
            facts["share"], places, xerr=np.abs(errors), fmt="o", color=color, label=month
        )
    marks = [f"{name} *" if facts["differs"] else name for name, facts in labels.items()]
    axes.set_yticks(range(len(labels)), marks)
    axes.set_xlabel("% of the answers (95 %; * differs)")
    axes.legend(loc="lower right")
