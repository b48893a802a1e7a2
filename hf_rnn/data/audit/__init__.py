"""Labelled texts → a report on what would spoil a training run or its scores, without changing a row.

[`audit`] finds rows that repeat others, inside a split and across splits (leaks), one text under several labels,
splits that differ in labels or lengths, words that a tokenizer does not know, and the longest texts. Every finding
names its rows. What to do about them is the reader's decision.

The files, in the order in which data passes them: `rows` (splits to columns), `normalizing` (when two texts count as
the same), `near_duplicates` (which texts are almost the same), `repeats` (which rows repeat which), `measuring`
(numbers of a split), `report` (what is found), `auditing` (all of these together), `rendering` (text for people).
"""

from .auditing import audit
from .formatting import render_line, render_text
from .report import AuditReport, Conflict, LongLine, Origin, Overlap, Place, Repeat, Shift, SplitFacts, WordCounts

__all__ = [
    "AuditReport",
    "Conflict",
    "LongLine",
    "Origin",
    "Overlap",
    "Place",
    "Repeat",
    "Shift",
    "SplitFacts",
    "WordCounts",
    "audit",
    "render_line",
    "render_text",
]
