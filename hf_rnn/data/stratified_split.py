"""A stratified validation split for data without one; tables and streams hold out the same rows.

`Dataset.train_test_split(stratify_by_column=...)` needs all rows in memory and refuses a class with one row. Here the
label of a row and the number of earlier rows with that label decide, so a stream is split in constant memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..utils.errors import UserError


@dataclass(frozen=True)
class Holdout:
    """The rows of train that become validation.

    The rows of each class, in file order, are cut into as many equal runs as rows are wanted, and a seeded draw takes
    one row of each run: exact counts, every part of the file represented, no period.
    """

    counts: tuple[int, ...]
    share: float
    seed: int

    def __post_init__(self) -> None:
        if not 0 < self.share <= 0.5:
            raise UserError(f"invalid validation_share: found {self.share}; give more than 0 and at most 0.5")
        if not self.rows:
            raise UserError(f"too few rows to hold out validation rows: found {self.counts} by label; give a dev.tsv")

    def quota(self, label: int) -> int:
        """Return the number of held-out rows of a class: its share, at least one, at most half."""
        count = self.counts[label]
        return min(max(1, round(self.share * count)), count // 2)

    @property
    def rows(self) -> int:
        """The number of held-out rows."""
        return sum(map(self.quota, range(len(self.counts))))

    def select(self, labels: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """Return for each of the next rows of train, by their label ids (rows,), whether it is held out.

        `seen` has the earlier rows of each class (classes,), and is advanced past these rows.
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
