"""A stratified validation split for data that has none, chosen the same way whether rows are in memory or streamed.

`Dataset.train_test_split(stratify_by_column=...)` needs all rows at hand and refuses a class with one row; here a
row's side follows from its label and from how many rows of that label came before it, so that a stream can be split
in constant memory and both ways of reading deliver the same rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..utils.errors import UserError


def check_share(share: float) -> None:
    """Refuse what is no share of the rows.

    Raises:
        UserError: For one that is not above 0, or above 0.5.
    """
    if not 0 < share <= 0.5:
        raise UserError(f"validation_share is {share}: give a share above 0 and at most 0.5, such as 0.1")


@dataclass(frozen=True)
class Holdout:
    """Which rows of train become validation.

    The rows of each class, in file order, are cut into as many runs of equal length as rows are wanted, and a seeded
    draw takes one row of each run: exact counts, every part of the file represented, no period.

    Attributes:
        counts: Rows by label id.
        share: Wanted share of the rows, above 0 and at most 0.5.
        seed: Changes the draw.
    """

    counts: tuple[int, ...]
    share: float
    seed: int

    def __post_init__(self) -> None:
        check_share(self.share)
        if not self.rows:
            raise UserError(
                f"train has {sum(self.counts)} rows, no two of one label: too few to hold validation rows out of. "
                "Give a dev.tsv"
            )

    def quota(self, label: int) -> int:
        """Return how many rows of a class are held out: its share, at least one, and never all."""
        count = self.counts[label]
        return min(max(1, round(self.share * count)), count // 2)

    @property
    def rows(self) -> int:
        """How many rows are held out."""
        return sum(map(self.quota, range(len(self.counts))))

    def select(self, labels: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """Tell the held-out rows among the next rows of train.

        Args:
            labels: Label ids of consecutive rows, shape (rows,).
            seen: Rows of each class before these, shape (classes,); is advanced past them.

        Returns:
            A boolean mask of shape (rows,): True where the row goes to validation.
        """
        held_out = np.zeros(len(labels), dtype=bool)
        for label in np.unique(labels):
            rows = np.flatnonzero(labels == label)
            ordinals = seen[label] + np.arange(len(rows))
            seen[label] += len(rows)
            count, quota = self.counts[label], self.quota(label)
            if quota:
                run = ordinals * quota // count
                first, after = -(-run * count // quota), -(-(run + 1) * count // quota)
                held_out[rows] = ordinals == first + self._draw(label, run) % (after - first)
        return held_out

    def _draw(self, label: int, run: np.ndarray) -> np.ndarray:
        """Return a uniform non-negative integer for each run of a class.

        The output function of SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number
        generators").
        """
        entropy = [abs(self.seed), int(label), *([1] if self.seed < 0 else [])]
        stream = np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]
        bits = stream + run.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return ((bits ^ (bits >> np.uint64(31))) >> np.uint64(1)).astype(np.int64)
