"""The report as text for people: tables of all counts, and the first few of the rows behind them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .report import AuditReport, Conflict, Overlap, Place

SHOWN = 3  # rows of each kind


def render_text(report: AuditReport) -> str:
    """Return the report as lines for a terminal.

    Args:
        report: To show. Rows are named by file and line where these are known, else by split and row from 0.
    """
    return "\n".join(_Text(report).lines())


def render_line(report: AuditReport) -> str:
    """Return the report on one line: what leaks from train into each split, and the conflicts in train."""
    parts = []
    for overlap in report.overlaps:
        if overlap.source == "train" != overlap.split:
            other = overlap.count("exact", other_label=True) + overlap.count("near", other_label=True)
            parts.append(
                f"{len(overlap.repeats):,} of {overlap.rows:,} rows of {overlap.split} repeat a row of train "
                f"({overlap.share:.2%}{f', {other:,} under another label' if other else ''})"
            )
    rows = sum(conflict.rows for conflict in report.conflicts)
    if rows:
        parts.append(f"{len(report.conflicts):,} texts stand in train under several labels ({rows:,} rows)")
    return "; ".join(parts) or "no text stands in train under several labels, and there is nothing to leak into"


class _Text:
    """Writes one report."""

    def __init__(self, report: AuditReport) -> None:
        self.report = report

    def lines(self) -> Iterator[str]:
        yield from self._splits()
        yield from self._words()
        yield from self._repeats()
        for overlap in self.report.overlaps:
            yield from self._examples(overlap)
        yield from self._conflicts(self.report.conflicts)
        yield from self._shifts()
        yield from ("", "longest texts")
        for line in self.report.longest:
            yield f"  {self._place(line.place)}: {line.characters:,} characters, {line.words:,} words: {line.text!r}"
        if len(self.report.splits) > 1 and "train" in self.report.splits:
            yield from ("", f"rows that leak from train: at most {self.report.leak_share:.2%} of a split")

    def _splits(self) -> Iterator[str]:
        splits = self.report.splits
        rows = [["rows", *(f"{facts.rows:,}" for facts in splits.values())]]
        for label in next(iter(splits.values())).label_counts:
            shares = (f"{each.label_counts[label]:,} ({each.label_shares[label]:.1%})" for each in splits.values())
            rows.append([_one_line(label), *shares])
        yield from _table(["rows by label", *splits], rows)

    def _words(self) -> Iterator[str]:
        rows = []
        for name, facts in self.report.splits.items():
            words, unknown = facts.words, facts.unknown_token_share
            middle = (f"{number:,.1f}" for number in (words.quantile_05, words.median, words.quantile_95))
            share = "-" if unknown is None else f"{unknown:.1%}"
            rows.append([name, f"{words.mean:,.1f}", f"{words.minimum:,}", *middle, f"{words.maximum:,}", share])
        yield ""
        yield from _table(["words in a text", "mean", "least", "5%", "median", "95%", "most", "unknown tokens"], rows)

    def _repeats(self) -> Iterator[str]:
        rows = []
        for overlap in self.report.overlaps:
            counts = overlap.counts()
            numbers = (f"{counts[name]:,}" for name in ("exact", "exact_other_label", "near", "near_other_label"))
            rows.append([_title(overlap), *numbers, f"{overlap.share:.2%}"])
        yield ""
        yield from _table(["rows that repeat", "exactly", "other label", "nearly", "other label", "of all rows"], rows)

    def _examples(self, overlap: Overlap) -> Iterator[str]:
        if not overlap.repeats:
            return
        yield from ("", f"{_title(overlap)}{_first(len(overlap.repeats))}")
        for repeat in overlap.repeats[:SHOWN]:
            how = "exact" if repeat.kind == "exact" else f"near, {repeat.similarity:.2f}"
            yield f"  {self._place(repeat.place)} ({_one_line(repeat.label)}): {repeat.text!r}"
            yield f"    {how}: {self._place(repeat.twin)} ({_one_line(repeat.twin_label)}): {repeat.twin_text!r}"

    def _conflicts(self, conflicts: Sequence[Conflict]) -> Iterator[str]:
        rows = sum(conflict.rows for conflict in conflicts)
        yield from ("", f"one text, several labels in train: {len(conflicts):,} texts in {rows:,} rows")
        for conflict in conflicts[:SHOWN]:
            places = (
                f"{_one_line(label)} in {', '.join(map(self._place, places[:SHOWN]))}{' ...' * (len(places) > SHOWN)}"
                for label, places in conflict.places.items()
            )
            yield f"  {conflict.text!r}: {'; '.join(places)}"

    def _shifts(self) -> Iterator[str]:
        if self.report.shifts:
            rows = [
                [f"{each.source}, {each.split}", f"{each.labels:.3f}", f"{each.words:.3f}"]
                for each in self.report.shifts
            ]
            yield ""
            yield from _table(["differences from 0 to 1", "labels", "words in a text"], rows)

    def _place(self, place: Place) -> str:
        if place.line is None:
            return f"{place.split} row {place.row}"
        return f"{self.report.splits[place.split].file}:{place.line}"


def _title(overlap: Overlap) -> str:
    return f"{overlap.split} repeats {'itself' if overlap.split == overlap.source else overlap.source}"


def _first(total: int) -> str:
    return f", the first {SHOWN} of {total:,} rows" if total > SHOWN else ""


def _one_line(label: str) -> str:
    """Return a label as it stands, quoted if it does not print as one word or several on one line."""
    return label if label.isprintable() else repr(label)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table, its first column to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for first, *others in (header, *rows):
        cells = (f"{cell:>{width}}" for cell, width in zip(others, widths[1:], strict=True))
        yield "  ".join([f"{first:<{widths[0]}}", *cells])
