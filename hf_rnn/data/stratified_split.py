"""A stratified validation split for data without one; texts that repeat each other stay on one side."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from ..utils.errors import UserError
from .audit.duplicates import group_repeats

logger = logging.getLogger(__name__)

FEWEST_ROWS = 20  # below this number nothing is held out: one or two rows measure nothing


def hold_out(texts: Sequence[str], classes: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Return which rows of train become validation, `(rows,)`: a share of each class, at least one and at most half.

    Groups of equal and nearly equal texts are drawn whole. A class whose groups are all too large has fewer rows
    there; if that is true of every class, single rows are drawn, with a warning. Fewer than 20 rows are all kept.

    Args:
        texts: The text of each row.
        classes: The class of each row, from 0.
        share: Share of each class.
        seed: Changes which rows are drawn.

    Raises:
        UserError: For an invalid share.
    """
    if not 0 < share <= 0.5:
        raise UserError(f"invalid validation_share: found {share}; give more than 0 and at most 0.5")
    if len(classes) < FEWEST_ROWS:
        message = "there is no validation split, and %d rows are too few to hold some out: nothing is measured"
        logger.warning(message, len(classes))
        return np.zeros(len(classes), dtype=bool)
    counts = np.bincount(classes)
    wanted = np.minimum(np.maximum(1, np.round(share * counts).astype(np.int64)), counts // 2)
    draws = _draw_groups(np.unique(group_repeats(texts), return_inverse=True)[1], classes, wanted, seed)
    if not draws.any():
        logger.warning("all texts repeat each other: held-out rows have copies in train, so that scores are too high")
        draws = _draw_groups(np.arange(len(classes)), classes, wanted, seed)
    return draws


def _draw_groups(groups: np.ndarray, classes: np.ndarray, wanted: np.ndarray, seed: int) -> np.ndarray:
    """Return which rows are drawn in whole groups, up to the wanted number of each class."""
    drawn, counts = np.zeros(len(classes), dtype=bool), np.bincount(classes)
    rows, sizes = np.argsort(groups, kind="stable"), np.bincount(groups)
    ends = np.cumsum(sizes)
    order = np.random.default_rng([abs(seed), int(seed < 0)]).permutation(len(sizes))
    taken = np.zeros_like(counts)

    def draw(group: int, most: np.ndarray) -> None:
        own = rows[ends[group] - sizes[group] : ends[group]]
        added = np.bincount(classes[own], minlength=len(counts))
        if (taken + added <= most).all():
            drawn[own] = True
            taken[:] += added

    for group in order:
        draw(group, wanted)
        if (taken == wanted).all():
            break
    most = np.where(taken == 0, np.minimum(2 * wanted, counts // 2), wanted)
    for name in np.flatnonzero((taken == 0) & (wanted > 0)):  # every group of the class has more rows than are wanted
        draw(min(np.unique(groups[classes == name]), key=lambda group: sizes[group]), most)
    return drawn
