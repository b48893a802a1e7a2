"""Decisions: which answers need no person.

An answer stands alone if its score reaches the threshold of its label. Thresholds are chosen on
rows that were not trained on, for a target such as 0.95: answers from the threshold up are right at
that rate with a confidence of 90 %, by the lower bound of C. Clopper and E. Pearson: The use of
confidence or fiducial limits illustrated in the case of the binomial. Biometrika 26, 1934. So
twelve right answers give no threshold for 0.95.

Labels share a threshold. A label whose answers refute the target has its own, or a person checks
all its answers. Labels with few answers, which could hide three times the errors of the target,
share another one among themselves. `thresholds.json` has the thresholds by target.

Legend: N rows, C labels.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..utils.errors import UserError
from .figures import plot_lines

CONFIDENCE = 0.9
TARGETS = (0.9, 0.95, 0.99)  # chosen by each training
_FOLDS = 5
_LEAST_SHOWN = 10  # answers, in the picture
_CANDIDATES = 10  # labels with most errors, which may be left out of a shared threshold


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
    texts: str = ""  # a hash of the texts that chose
    # the same for all labels, for comparison; None if no score reaches the target
    single: float | None = None


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
    lowest = np.array([math.inf if limit is None else limit for limit in limits])
    return ~(scores.max(axis=1) >= lowest[scores.argmax(axis=1)])  # NaN needs a person


def check_target(target: float) -> None:
    """Raise a [`UserError`] for a target that is not an accuracy."""
    if not 0 < target < 1:
        raise UserError(
            f"target is the accuracy of the answers that need no person, such as 0.95: found {target:g}"
        )


def is_above(
    right: np.ndarray, rows: np.ndarray, target: float, level: float = 1 - CONFIDENCE
) -> np.ndarray:
    """Return whether the accuracy is at least the target, with a chance of at most `level` that it is not.

    `right` and `rows` are numbers of right answers and of all.
    """
    from scipy.special import betainc

    return (right > 0) & (betainc(np.maximum(right, 1), rows - right + 1, target) <= level)


def choose_thresholds(
    scores: np.ndarray, labels: np.ndarray, names: Sequence[str], target: float, texts: str = ""
) -> Thresholds:
    """Return the thresholds for a target, from scores `(N, C)` and true ids `(N)` of rows that were not trained on.

    `texts` is a hash of their texts. A label without rows has no threshold: a person checks all its
    answers.
    """
    check_target(target)
    by_label = _choose(scores, labels, names, target)
    order, waiting = (
        np.random.default_rng(0).permutation(len(labels)),
        np.ones(len(labels), dtype=bool),
    )
    for part in np.array_split(order, _FOLDS):
        others = np.setdiff1d(order, part)
        waiting[part] = needs_person(
            _choose(scores[others], labels[others], names, target), names, scores[part]
        )
    chosen_on = measure_decisions(needs_person(by_label, names, scores), scores, labels)
    single = find_threshold(scores.max(axis=1), scores.argmax(axis=1) == labels, target)
    return Thresholds(
        target, by_label, chosen_on, measure_decisions(waiting, scores, labels), texts, single
    )


def _choose(
    scores: np.ndarray, labels: np.ndarray, names: Sequence[str], target: float
) -> dict[str, float | None]:
    """Return the threshold of each label."""
    answers, right = scores.argmax(axis=1), scores.argmax(axis=1) == labels
    confidence, counts = scores.max(axis=1), np.bincount(answers, minlength=len(names))
    # this number of right answers shows that a label makes at most three times the errors of the
    # target
    enough = math.ceil(math.log(1 - CONFIDENCE) / math.log(max(0.5, 3 * target - 2)))
    thresholds: dict[int, float | None] = {}
    for group in (counts >= enough, (counts > 0) & (counts < enough)):
        rows = group[answers]
        thresholds |= _share(answers[rows], confidence[rows], right[rows], target)
    rows = np.bincount(labels, minlength=len(names))
    return {
        name: thresholds.get(number) if rows[number] else None for number, name in enumerate(names)
    }


def _share(
    answers: np.ndarray, confidence: np.ndarray, right: np.ndarray, target: float
) -> dict[int, float | None]:
    """Return one threshold for most labels of some rows, and those of the labels that it leaves out, on their own.

    A label is left out if its answers refute the target, by the upper bound of their accuracy with
    a confidence of 90 % for all labels together. Labels that are left out for less would be chosen
    by luck.
    """
    shared = set(answers.tolist())
    thresholds: dict[int, float | None] = {}
    while shared:
        rows = np.isin(answers, list(shared))
        limit = find_threshold(confidence[rows], right[rows], target)
        errors = np.bincount(answers[rows & ~right], minlength=max(shared) + 1)
        refuted: dict[int, int] = {}  # label: answers that stand alone without it
        for number in sorted(shared, key=lambda number: -errors[number])[:_CANDIDATES]:
            mine, others = answers == number, rows & (answers != number)
            without = find_threshold(confidence[others], right[others], target)
            limits = [least for least in (limit, without) if least is not None]
            wrong = ~right[mine & (confidence >= min(limits, default=math.inf))]
            if is_above(
                wrong.sum(), np.array(len(wrong)), 1 - target, (1 - CONFIDENCE) / len(shared)
            ):
                refuted[number] = (
                    0 if without is None else int((confidence[others] >= without).sum())
                )
        if not refuted:
            return thresholds | dict.fromkeys(shared, limit)
        worst = max(refuted, key=lambda number: refuted[number])
        shared.discard(worst)
        thresholds[worst] = find_threshold(
            confidence[answers == worst], right[answers == worst], target
        )
    return thresholds


def find_threshold(confidence: np.ndarray, right: np.ndarray, target: float) -> float | None:
    """Return the lowest score that reaches the target, by the bound of the answers from it up; None without one."""
    order = np.argsort(-confidence, kind="stable")
    above = is_above(right[order].cumsum(), np.arange(1, len(order) + 1), target)
    # equal scores are on one side
    ends = np.append(np.diff(confidence[order]) != 0, True)[: len(order)]
    reached = np.flatnonzero(above & ends)
    return float(confidence[order][reached[-1]]) if len(reached) else None


def measure_decisions(waiting: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> Decisions:
    """Return the decisions on rows; a person checks those that are `waiting` (N)."""
    alone, right = ~waiting, scores.argmax(axis=1) == labels
    accuracy = float(right[alone].mean()) if alone.any() else None
    return Decisions(len(labels), float(alone.mean()) if len(alone) else 0.0, accuracy)


def measure_labels(
    by_label: Mapping[str, float | None],
    scores: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
) -> dict[str, dict[str, Any]]:
    """Return by label its `threshold`, its `answers`, the `share` of these that stand alone, and their `accuracy`."""
    waiting, answers, measured = needs_person(by_label, names, scores), scores.argmax(axis=1), {}
    for number, name in enumerate(names):
        rows = answers == number
        alone = measure_decisions(waiting[rows], scores[rows], labels[rows])
        facts = {"answers": alone.rows, "share": alone.share, "accuracy": alone.accuracy}
        measured[name] = {"threshold": by_label.get(name), **facts}
    return measured


def measure_none(
    scores: np.ndarray, unknown: np.ndarray, by_label: Mapping[str, float | None]
) -> dict[str, Any]:
    """Return how well texts of no class are found by the highest score.

    `scores` are those of texts with a class, `unknown` those of texts without one, `(N, C)`. The
    area under the curve (`auroc`) is the share of pairs of both whose second text has the lower
    score. `alone` is the share of texts without a class whose answer would stand alone.
    """
    from sklearn.metrics import roc_auc_score

    has_class = np.arange(len(scores) + len(unknown)) < len(scores)
    auroc = roc_auc_score(has_class, np.concatenate([scores, unknown]).max(axis=1))
    alone = ~needs_person(by_label, list(by_label) or [""] * unknown.shape[1], unknown)
    return {"rows": len(unknown), "auroc": float(auroc), "alone": float(alone.mean())}


def describe_costliest(by_label: Mapping[str, Mapping[str, Any]], target: float) -> str | None:
    """Return in one sentence which label has most answers for a person; None if all answers stand alone."""
    waiting = {
        name: round(facts["answers"] * (1 - facts["share"])) for name, facts in by_label.items()
    }
    name = max(waiting, key=lambda name: waiting[name], default=None)
    if name is None or not waiting[name]:
        return None
    facts = by_label[name]
    why = (
        f"no threshold reaches {target:g}"
        if facts["threshold"] is None
        else f"below {facts['threshold']:.3f}"
    )
    return f"{name!r} costs most: a person checks {waiting[name]} of its {facts['answers']} answers ({why})"


# ---- share against accuracy ----


def draw_coverage(
    scores: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    path: Path,
    others: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
) -> str:
    """Draw accuracy against the share of answers that stand alone; return the caption.

    One line is for thresholds by label, on rows that did not choose them, one for a single
    threshold. `others` are the confidence and the right answers of other models by name, each
    `(N,)`.
    """
    lines: dict[str, list[tuple[float, float]]] = {"thresholds by label": []}
    for target in (0.99, 0.98, 0.97, *np.arange(0.95, 0.49, -0.05)):
        repeated = choose_thresholds(scores, labels, names, float(target)).repeated
        if repeated.accuracy is not None:
            lines["thresholds by label"].append((100 * repeated.share, repeated.accuracy))
    lines["thresholds by label"].sort()
    answers = {
        "single threshold": (scores.max(axis=1), scores.argmax(axis=1) == labels),
        **(others or {}),
    }
    for name, (confidence, right) in answers.items():
        counts = np.arange(1, len(right) + 1)
        accuracy = right[np.argsort(-confidence, kind="stable")].cumsum() / counts
        few = min(_LEAST_SHOWN, len(right)) - 1  # the accuracy of fewer answers jumps
        lines[name] = list(zip(100 * counts[few:] / len(right), accuracy[few:], strict=True))
    plot_lines(lines, "answers that need no person, %", "their accuracy", path)
    return "Accuracy of the answers that need no person"


# ---- the file ----


def write_thresholds(path: Path, weights: Path, thresholds: Sequence[Thresholds]) -> None:
    """Write thresholds by target beside the weights that they belong to; other targets in the file stay."""
    by_target = read_thresholds(path, weights) | {
        f"{chosen.target:g}": chosen for chosen in thresholds
    }
    targets = {target: asdict(chosen) for target, chosen in sorted(by_target.items())}
    content = {"model": hash_file(weights), "confidence": CONFIDENCE, "targets": targets}
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_thresholds(path: Path, weights: Path) -> dict[str, Thresholds]:
    """Return thresholds by target, such as `"0.95"`; none if there is no file.

    Raises:
        UserError: For a damaged file, and for thresholds of another model.
    """
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text("utf-8"))
        model, targets = content["model"], {}
        for target, facts in content["targets"].items():
            chosen_on, repeated = (Decisions(**facts[name]) for name in ("chosen_on", "repeated"))
            targets[target] = Thresholds(**{**facts, "chosen_on": chosen_on, "repeated": repeated})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is damaged ({error!r:.80}): choose new thresholds by hf-rnn evaluate"
        ) from error
    if weights.is_file() and model != hash_file(weights):
        raise UserError(
            f"{path} has thresholds of another model: remove it, and choose new ones by hf-rnn evaluate"
        )
    return targets


def hash_rows(hashes: np.ndarray) -> str:
    """Return one hash of the hashes of texts, in any order."""
    return hashlib.sha256(np.sort(hashes).tobytes()).hexdigest()[:16]


def hash_file(path: Path) -> str:
    """Return the beginning of the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
