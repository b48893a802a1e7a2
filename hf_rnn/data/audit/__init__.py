"""Audit of labelled texts: duplicates, leaks between splits, conflicting labels, unknown tokens.

Every finding names its rows; no row is changed.
"""

from .duplicates import RepeatFinder, normalize_text
from .report import AuditReport, Origin, audit, render_line, render_text

__all__ = ["AuditReport", "Origin", "RepeatFinder", "audit", "normalize_text", "render_line", "render_text"]
