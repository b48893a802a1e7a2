"""Decisions: which answers need no person.

An answer stands alone if its score reaches the threshold of its label. Thresholds are chosen on
rows that were not trained on, for a target such as 0.95.

About 20 cuts are tested, from the highest scores down. The test of a cut asks whether the answers
above it reach the target with a confidence of 90 %, by the bound of C. Clopper and E. Pearson: The
use of confidence or fiducial limits illustrated in the case of the binomial. Biometrika 26, 1934.
The first cut that fails ends the sequence. So the chance that a threshold is granted wrongly is at
most 10 % for all cuts together (fixed-sequence testing, as in A. Angelopoulos and others: Learn
then Test, arXiv:2110.01052, 2021). Twelve right answers give no threshold for 0.95.

A few wrong labels among the highest scores would end the sequence early. So with many answers each
of two sequences has a chance of 5 %: one from the highest scores, and one from two thirds of the
answers down. If all cuts of the first one pass, the second one has both chances (B. Wiens: A fixed
sequence Bonferroni procedure for testing multiple endpoints. Pharmaceutical Statistics 2, 2003).

Labels share a threshold. A label whose answers refute the target has its own, or a person checks
all its answers. Labels with few answers, which could hide three times the errors of the target,
share another one among themselves. `thresholds.json` has the thresholds by target.

Scores are compared in float32, as `predict` returns them. Legend: N rows, C labels.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..utils.errors import UserError
from ..utils.hashing import digest
from .figures import plot_lines

if TYPE_CHECKING:
    import numpy.typing as npt

CONFIDENCE = 0.9
TARGETS = (0.9, 0.95, 0.99)  # chosen by each training
_CUTS = 20
_FIRST_CUT = (1.0, 3.0)  # times the fewest answers that can reach a target: least and most
_FIRST_SHARE = 0.25  # the share of answers above the first cut, within these limits
_SECOND_START = 2 / 3  # the share of answers above the first cut of the second sequence
_ENOUGH_FOR_TWO = 8  # times the fewest answers that can reach a target: then there is a second one
_FOLDS = 5
_LEAST_SHOWN = 10  # answers, in the picture
_CANDIDATES = 10  # labels with most errors, which may be left out of a shared threshold
_MOST_CONFIDENT = 50  # answers that are counted where no threshold reaches a target
_EXAMPLES = 3  # shown among them


@dataclass(frozen=True)
class Decisions:
    """The answers of some rows that stand alone."""

    rows: int
    share: float  # share of the rows whose answer stands alone
    accuracy: float | None  # accuracy of these answers; None without any


@dataclass(frozen=True)
class Thresholds:
    """Thresholds for one target."""

    target: float  # the accuracy that was asked for
    # lowest score of an answer that stands alone; None: a person checks all of them
    by_label: dict[str, float | None]
    chosen_on: Decisions  # on the rows that chose the thresholds
    # on rows that did not choose: in each of five parts, with thresholds of the others
    repeated: Decisions
    chosen_on_hash: str = ""  # hash of the texts that chose
    # the same for all labels, for comparison; None if no score reaches the target
    single: float | None = None


@dataclass(frozen=True)
class _Answers:
    """The best label of some rows, its score, and whether it is right, each `(N,)`."""

    labels: np.ndarray
    scores: np.ndarray
    right: np.ndarray

    def select(self, rows: np.ndarray) -> _Answers:
        return _Answers(self.labels[rows], self.scores[rows], self.right[rows])

    def find_threshold(self, target: float) -> float | None:
        return find_threshold(self.scores, self.right, target)


def _answer(scores: np.ndarray, labels: np.ndarray) -> _Answers:
    best = scores.argmax(axis=1)
    return _Answers(best, scores.max(axis=1).astype(np.float32), best == labels)


def needs_person(
    by_label: Mapping[str, float | None], names: Sequence[str], scores: np.ndarray
) -> np.ndarray:
    """Return whether the answer to each row needs a person, `(N)`.

    Args:
        by_label: Thresholds, as in [`Thresholds`].
        names: The labels by id (C).
        scores: `(N, C)`, from 0 to 1.
    """
    limits = [by_label.get(name) for name in names]
    lowest = np.array([np.inf if limit is None else limit for limit in limits], np.float32)
    # NaN needs a person
    return ~(scores.max(axis=1).astype(np.float32) >= lowest[scores.argmax(axis=1)])


def check_target(target: float) -> None:
    """Raise a [`UserError`] for a target that is not an accuracy."""
    if not 0 < target < 1:
        meaning = "target is the accuracy of the answers that need no person, such as 0.95"
        raise UserError(f"{meaning}: found {target:g}")


# ---- choose ----


def surely_reaches(
    right: npt.ArrayLike, rows: npt.ArrayLike, target: float, level: float = 1 - CONFIDENCE
) -> np.ndarray:
    """Return whether an accuracy is at least the target, with at most the chance `level` of error.

    `right` and `rows` are numbers of right answers and of all.
    """
    from scipy.special import betainc

    right = np.asarray(right)
    rows = np.asarray(rows)
    return (right > 0) & (betainc(np.maximum(right, 1), rows - right + 1, target) <= level)


def _count_fewest(target: float, level: float = 1 - CONFIDENCE) -> float:
    """Return how many answers, all of them right, reach a target."""
    return math.log(level) / math.log(target)


def find_cuts(count: int, target: float, level: float) -> np.ndarray:
    """Return the numbers of answers that are tested for a target, fewest first: about 20, or none.

    They are about equally far from each other. Each is the fewest for its number of errors, as
    further answers would need one more. The last one is all answers. `level` is the chance of error
    of a test.
    """
    from scipy.special import bdtrin

    fewest_right = _count_fewest(target, level)
    if count < fewest_right:
        return np.zeros(0, int)
    least, most = (factor * fewest_right for factor in _FIRST_CUT)
    first = min(count, math.ceil(np.clip(_FIRST_SHARE * count, least, most)))
    places = np.linspace(first, count, _CUTS).round()
    errors = np.arange(math.ceil((1 - target) * count) + 1)
    fewest = np.ceil(bdtrin(errors, level, 1 - target))  # answers, by errors among them
    cuts = fewest[np.searchsorted(fewest, places, side="right") - 1]
    return np.unique(np.append(cuts, count)).astype(int)


def find_threshold(confidence: np.ndarray, right: np.ndarray, target: float) -> float | None:
    """Return the score of the last cut that reaches the target before one fails; None without one.

    A cut is a number of answers with the highest scores, and those with an equal score. It depends
    on the scores alone, not on which answers are right. With many answers a second sequence of cuts
    is tested, even if the first one fails.
    """
    count = len(confidence)
    level = both_levels = 1 - CONFIDENCE
    second_start = count + 1  # one sequence
    if count >= _ENOUGH_FOR_TWO * _count_fewest(target):
        level = both_levels / 2
        second_start = math.ceil(_SECOND_START * count)
    cuts = find_cuts(count, target, level)
    if not len(cuts):
        return None

    order = np.argsort(-confidence, kind="stable")
    scores = confidence[order]
    right_so_far = right[order].cumsum()
    ends = np.unique(np.searchsorted(-scores, -scores[cuts - 1], side="right"))
    first, second = np.split(ends, [np.searchsorted(ends, second_start)])

    reached = _pass_cuts(first, right_so_far, target, level)
    if len(reached) == len(first):
        level = both_levels
    reached = np.append(reached, _pass_cuts(second, right_so_far, target, level))
    return float(scores[reached[-1] - 1]) if len(reached) else None


def _pass_cuts(
    ends: np.ndarray, right_so_far: np.ndarray, target: float, level: float
) -> np.ndarray:
    """Return the cuts that pass before one fails."""
    passed = surely_reaches(right_so_far[ends - 1], ends, target, level)
    return ends[np.logical_and.accumulate(passed)]


def choose_thresholds(
    scores: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    target: float,
    chosen_on_hash: str = "",
) -> Thresholds:
    """Return the thresholds for a target, from rows that were not trained on.

    A label without rows has no threshold: a person checks all its answers.

    Args:
        scores: `(N, C)`, from 0 to 1.
        labels: True ids `(N)`; -1 for a text of no class, whose answer is wrong.
        names: The labels by id (C).
        target: The accuracy that is asked for.
        chosen_on_hash: A hash of the texts, see [`hash_rows`].
    """
    check_target(target)
    by_label = _choose(scores, labels, names, target)
    waiting = np.ones(len(labels), dtype=bool)
    order = np.random.default_rng(0).permutation(len(labels))
    for fold in np.array_split(order, _FOLDS):
        others = np.setdiff1d(order, fold)
        limits = _choose(scores[others], labels[others], names, target)
        waiting[fold] = needs_person(limits, names, scores[fold])
    return Thresholds(
        target,
        by_label,
        chosen_on=measure_decisions(needs_person(by_label, names, scores), scores, labels),
        repeated=measure_decisions(waiting, scores, labels),
        chosen_on_hash=chosen_on_hash,
        single=_answer(scores, labels).find_threshold(target),
    )


def _choose(
    scores: np.ndarray, labels: np.ndarray, names: Sequence[str], target: float
) -> dict[str, float | None]:
    """Return the threshold of each label."""
    answers = _answer(scores, labels)
    counts = np.bincount(answers.labels, minlength=len(names))
    # this many right answers show that a label makes at most three times the errors of the target
    enough = math.ceil(math.log(1 - CONFIDENCE) / math.log(max(0.5, 3 * target - 2)))
    thresholds: dict[int, float | None] = {}
    for group in (counts >= enough, counts < enough):
        thresholds |= _share_threshold(answers.select(group[answers.labels]), target)
    with_rows = set(labels.tolist())
    return {
        name: thresholds.get(number) if number in with_rows else None
        for number, name in enumerate(names)
    }


def _share_threshold(answers: _Answers, target: float) -> dict[int, float | None]:
    """Return one threshold for most labels of some answers; a label that refutes it has its own."""
    thresholds: dict[int, float | None] = {}
    while len(answers.labels):
        limit = answers.find_threshold(target)
        worst = _find_refuting(answers, limit, target)
        if worst is None:
            return thresholds | dict.fromkeys(answers.labels.tolist(), limit)
        is_worst = answers.labels == worst
        thresholds[worst] = answers.select(is_worst).find_threshold(target)
        answers = answers.select(~is_worst)
    return thresholds


def _find_refuting(answers: _Answers, limit: float | None, target: float) -> int | None:
    """Return the label whose answers refute the target, and cost most; None without one.

    They refute it by the upper bound of their accuracy, with a confidence of 90 % for all labels
    together. Labels that are left out for less would be chosen by luck.
    """
    level = (1 - CONFIDENCE) / len(set(answers.labels.tolist()))
    errors = np.bincount(answers.labels[~answers.right])
    worst = None
    most = -1
    for label in np.argsort(-errors, kind="stable")[:_CANDIDATES].tolist():
        is_label = answers.labels == label
        others = answers.select(~is_label)
        without = others.find_threshold(target)
        limits = [score for score in (limit, without) if score is not None]
        if not limits:
            continue
        alone = is_label & (answers.scores >= min(limits))
        wrong = np.count_nonzero(alone & ~answers.right)
        if not surely_reaches(wrong, np.count_nonzero(alone), 1 - target, level):
            continue
        gained = 0 if without is None else int(np.count_nonzero(others.scores >= without))
        if gained > most:
            worst = label
            most = gained
    return worst


# ---- measure ----


def measure_decisions(waiting: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> Decisions:
    """Return the decisions on rows; a person checks those that are `waiting` (N)."""
    alone = ~waiting
    right = scores.argmax(axis=1) == labels
    accuracy = float(right[alone].mean()) if alone.any() else None
    return Decisions(len(labels), float(alone.mean()) if len(alone) else 0.0, accuracy)


def measure_labels(
    by_label: Mapping[str, float | None],
    scores: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
) -> dict[str, dict[str, Any]]:
    """Return by label its `threshold`, `answers`, and `share` and `accuracy` of those alone."""
    waiting = needs_person(by_label, names, scores)
    answers = scores.argmax(axis=1)
    measured: dict[str, dict[str, Any]] = {}
    for number, name in enumerate(names):
        rows = answers == number
        alone = asdict(measure_decisions(waiting[rows], scores[rows], labels[rows]))
        measured[name] = {"threshold": by_label.get(name), "answers": alone.pop("rows"), **alone}
    return measured


def measure_none(
    scores: np.ndarray,
    labels: np.ndarray,
    unknown: np.ndarray,
    names: Sequence[str],
    by_label: Mapping[str, float | None],
) -> dict[str, Any]:
    """Return how well texts of no class are found by the highest score.

    Args:
        scores: Those of texts with a class, `(N, C)`.
        labels: Their true ids `(N)`.
        unknown: Scores of texts without a class, `(N, C)`.
        names: The labels by id (C).
        by_label: Thresholds, as in [`Thresholds`].

    Returns:
        `auroc`: the share of pairs, a text with a class and one without, whose second text has the
        lower score. `alone`: the share of texts without a class whose answer would stand alone.
        `accuracy_with_new`: that of all answers that stand alone, where those to texts without a
        class are wrong; None without any.
    """
    from sklearn.metrics import roc_auc_score

    both = np.concatenate([scores, unknown])
    true = np.append(labels, np.full(len(unknown), -1))
    waiting = needs_person(by_label, names, both)
    return {
        "rows": len(unknown),
        "auroc": float(roc_auc_score(true >= 0, both.max(axis=1))),
        "alone": float((~waiting[len(scores) :]).mean()),
        "accuracy_with_new": measure_decisions(waiting, both, true).accuracy,
    }


def describe_costliest(by_label: Mapping[str, Mapping[str, Any]], target: float) -> str | None:
    """Return in one sentence which label leaves most to a person; None if nothing is left."""
    waiting = {
        name: round(facts["answers"] * (1 - facts["share"])) for name, facts in by_label.items()
    }
    name = max(waiting, key=lambda name: waiting[name], default=None)
    if name is None or not waiting[name]:
        return None
    facts = by_label[name]
    why = f"no threshold reaches {target:g}"
    if facts["threshold"] is not None:
        why = f"below {facts['threshold']:.3f}"
    checked = f"a person checks {waiting[name]} of its {facts['answers']} answers"
    return f"{name!r} costs most: {checked} ({why})"


def describe_missing(
    thresholds: Thresholds,
    scores: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    texts: Sequence[str],
) -> str | None:
    """Return why no label has a threshold, with examples, and what to do; None if one has.

    Args:
        thresholds: Those for a target.
        scores: `(N, C)`, of rows that were not trained on.
        labels: True ids `(N)`, or -1.
        names: The labels by id (C).
        texts: Those of the rows (N).
    """
    if not len(labels) or any(limit is not None for limit in thresholds.by_label.values()):
        return None
    answers = _answer(scores, labels)
    first = np.argsort(-answers.scores, kind="stable")[:_MOST_CONFIDENT]
    wrong = first[~answers.right[first]]
    sentence = f"no threshold reaches {thresholds.target:g}"
    enough = _FIRST_CUT[1] * _count_fewest(thresholds.target)
    if not len(wrong) or len(labels) < enough:
        more = max(math.ceil(enough), 2 * len(labels))  # many rows can still miss it by chance
        advice = f"give {more} or more"
        return f"{sentence}: {len(labels)} rows are too few to show it; {advice}"
    examples = []
    for row in wrong[:_EXAMPLES].tolist():
        label = names[labels[row]] if labels[row] >= 0 else "no class"
        score = answers.scores[row]
        answer = names[answers.labels[row]]
        examples.append(f"{texts[row][:80]!r} is {label}, answered {answer} with {score:.2f}")
    return (
        f"{sentence}: {len(wrong)} of the {len(first)} most confident answers are wrong, such as "
        f"{'; '.join(examples)}. Wrong labels are the usual reason: correct them, and type "
        f"hf-rnn evaluate MODEL ROWS --target {thresholds.target:g} --choose"
    )


# ---- share against accuracy ----


def draw_coverage(
    scores: np.ndarray,
    labels: np.ndarray,
    chosen: Sequence[Thresholds],
    path: Path,
    others: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
) -> str:
    """Draw accuracy against the share of answers that stand alone; return the caption.

    A point is what thresholds by label do on rows that did not choose them, as the card lists it. A
    line is for a single threshold at any height. `others` are the confidence and the right answers
    of other models by name, each `(N,)`.
    """
    points = [
        (100 * thresholds.repeated.share, thresholds.repeated.accuracy)
        for thresholds in chosen
        if thresholds.repeated.accuracy is not None
    ]
    answers = _answer(scores, labels)
    lines = {"single threshold": _trace_accuracy(answers.scores, answers.right)}
    for name, (confidence, right) in (others or {}).items():
        lines[name] = _trace_accuracy(confidence, right)
    names = ("answers that need no person, %", "their accuracy")
    plot_lines(lines, *names, path, points={"thresholds by label": points})
    return "Accuracy of the answers that need no person"


def _trace_accuracy(confidence: np.ndarray, right: np.ndarray) -> list[tuple[float, float]]:
    """Return share in percent and accuracy of the first answers, from few of them to all."""
    counts = np.arange(1, len(right) + 1)
    accuracy = right[np.argsort(-confidence, kind="stable")].cumsum() / counts
    few = min(_LEAST_SHOWN, len(right)) - 1  # the accuracy of fewer answers jumps
    return list(zip(100 * counts[few:] / len(right), accuracy[few:], strict=True))


# ---- the file ----


def write_thresholds(
    path: Path, fingerprint: str, thresholds: Sequence[Thresholds], replace: bool = False
) -> None:
    """Write thresholds by target for the weights with a fingerprint.

    Other targets in the file stay, unless `replace` and they belong to other weights.
    """
    by_target: dict[str, Thresholds] = {}
    if path.is_file():
        try:
            by_target = parse_thresholds(path.read_bytes(), path, fingerprint)
        except UserError:
            if not replace:
                raise
    by_target |= {f"{chosen.target:g}": chosen for chosen in thresholds}
    targets = {target: asdict(chosen) for target, chosen in sorted(by_target.items())}
    content = {"model": fingerprint, "confidence": CONFIDENCE, "targets": targets}
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def parse_thresholds(
    content: bytes | None, path: Path | str, fingerprint: str
) -> dict[str, Thresholds]:
    """Return thresholds by target, such as `"0.95"`, from the content of `thresholds.json`.

    Args:
        content: None without a file: there are no thresholds.
        path: The place of the file, for messages.
        fingerprint: That of the weights, which the thresholds must belong to.

    Raises:
        UserError: For a damaged file, and for thresholds of other weights.
    """
    if content is None:
        return {}
    advice = "choose new ones by hf-rnn evaluate MODEL ROWS --target 0.95 --choose"
    try:
        stored = json.loads(content)
        model = stored["model"]
        targets = stored["targets"]
        if not isinstance(model, str) or not isinstance(targets, dict):
            raise TypeError("model is a text, and targets an object")
        if model == fingerprint:
            return {target: _parse_target(facts) for target, facts in targets.items()}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error!r:.80}): {advice}") from error
    raise UserError(f"{path} has thresholds of other weights: {advice}")


def _parse_target(facts: dict[str, Any]) -> Thresholds:
    """Return the thresholds for a target; raise ValueError, KeyError or TypeError for others."""
    by_label = facts["by_label"]
    if not isinstance(by_label, dict):
        raise TypeError("by_label is an object")
    numbers = [facts["target"], facts.get("single"), *by_label.values()]
    parts = {}
    for name in ("chosen_on", "repeated"):
        parts[name] = Decisions(**facts[name])
        numbers += [parts[name].rows, parts[name].share, parts[name].accuracy]
    for number in numbers:
        is_number = isinstance(number, float | int) and not isinstance(number, bool)
        if number is not None and not (is_number and math.isfinite(number)):
            raise ValueError(f"a number is {number!r:.40}")
    return Thresholds(**{**facts, **parts})


def hash_rows(hashes: np.ndarray) -> str:
    """Return one hash of the hashes of texts, in any order."""
    return digest(np.sort(hashes))[:16]
