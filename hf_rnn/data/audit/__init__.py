"""Audit of labelled texts: duplicates, leaks between splits, conflicting labels, shifts, unknown tokens.

Every finding names its rows; no row is changed.
"""

from .auditing import audit
from .duplicates import RepeatFinder, normalize_text
from .report import AuditReport, Origin, Overlap, Place, render_line, render_text

__all__ = [
    "AuditReport",
    "Origin",
    "Overlap",
    "Place",
    "RepeatFinder",
    "audit",
    "normalize_text",
    "render_line",
    "render_text",
]
