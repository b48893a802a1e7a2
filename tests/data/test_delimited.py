"""Rows equal the written ones and every line is counted, with array operations and line by line.

The independent reference is plain Python: bytes split at b"\\n", fields split at b"\\t".
"""

import io
import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tsv_files import SAME_FILE, load_train, write

from hf_rnn.data import delimited
from hf_rnn.data.delimited import read_texts
from hf_rnn.data.labels import LabelMap
from hf_rnn.data.row_errors import BadRow, DataError, Reason
from hf_rnn.data.rows import RowOptions
from hf_rnn.data.tables import read_table

BYTE_ORDER_MARK = b"\xef\xbb\xbf"

texts = st.text(st.characters(exclude_characters="\t\n\0", exclude_categories=["Cs"])).filter(str.strip)
labels = st.sampled_from(["positive", "negative", "mixed feelings"])


@SAME_FILE
@given(
    rows=st.lists(st.tuples(texts, labels)),
    end=st.sampled_from(["\n", "\r\n"]),
    mark=st.sampled_from([b"", BYTE_ORDER_MARK]),
    last_end=st.booleans(),
)
@example([('"quoted', "negative"), ('quoted"', "positive"), (" framed ", "positive")], "\n", b"", True)
@example([("NA", "positive"), ("null", "negative"), ("a\rb\x85c\u2028d", "negative")], "\r\n", BYTE_ORDER_MARK, False)
def test_rows_are_read_as_they_were_written(tmp_path, rows, end, mark, last_end):
    rows = [("first", "positive"), *rows, ("last", "negative")]
    content = mark + end.join(map("\t".join, rows)).encode() + (end.encode() if last_end else b"")
    assert load_train(write(tmp_path / "rows.tsv", content)) == rows


@pytest.mark.parametrize("order", [("id", "text", "label"), ("label", "id", "text")])
def test_columns_by_name_and_by_number(tmp_path, order):
    rows = [("good day", "positive"), ("schön ", "negative"), ("NA", "positive")]
    lines = [dict(zip(("text", "label", "id"), (*row, "7"), strict=True)) for row in rows]
    table = [order, *([line[name] for name in order] for line in lines)]
    content = "".join("\t".join(line) + "\n" for line in table).encode()
    path = write(tmp_path / "columns.tsv", content)
    numbers = {"text_column": order.index("text"), "label_column": order.index("label")}
    assert load_train(path) == load_train(path, text_column="text", label_column="label") == rows
    assert load_train(path, **numbers) == rows
    assert load_train(write(tmp_path / "headless.tsv", content.split(b"\n", 1)[1]), **numbers) == rows


PIECES = [b"\t"] * 3 + [b"\n"] * 3 + [b"\r\n", b"\r", b"\0", b" ", b"a", b"word", b"0", b"1", b"7", b"x" * 70]
PIECES += [piece.encode() for piece in ("é", "\u2028", "\x85", "\u3000", "\ufeff", "日本", "\x1c")]
PIECES += [b"\xe9", b"\xed\xa0\x80", b"\xc0\xaf", b"\xc3"]
GOOD_LINES = [b"word\t0\n", "é\u3000x\t1\r\n".encode(), b"  a\t0\n"]
jumble = st.tuples(st.lists(st.sampled_from(PIECES)), st.lists(st.sampled_from(GOOD_LINES), max_size=20))


def read_everything(path, label_map, monkeypatch, arrays, block):
    with monkeypatch.context() as patch:
        patch.setattr(delimited, "BLOCK_BYTES", block)
        patch.setattr(delimited, "MAX_LINE_BYTES", 80)
        if not arrays:
            patch.setattr(delimited._Walk, "_cut_block", lambda self, block, wanted: None)
        bad, rows, lines, options = [], [], 0, RowOptions()
        for part in options.locate(options.open_file(path)).rows(label_map, bad.append):
            rows += zip(part.columns["text"].to_pylist(), part.columns["label"].to_pylist(), strict=True)
            lines += part.lines
    return rows, bad, lines


def is_good(line):
    line = line.removesuffix(b"\r")
    try:
        text, label = line.decode().split("\t")
    except ValueError:  # not UTF-8, or not two fields
        return False
    return len(line) <= 80 and b"\0" not in line and bool(text.strip()) and label in ("0", "1")


@SAME_FILE
@given(st.lists(jumble, min_size=1))
def test_every_line_is_a_row_or_a_refusal(tmp_path, monkeypatch, parts):
    content = b"word\t0\n" + b"".join(piece for pair in parts for pieces in pair for piece in pieces)
    path, label_map = write(tmp_path / "jumble.tsv", content), LabelMap(("0", "1"))
    found = read_everything(path, label_map, monkeypatch, arrays=True, block=64)
    assert found == read_everything(path, label_map, monkeypatch, arrays=False, block=64)
    assert found == read_everything(path, label_map, monkeypatch, arrays=True, block=100_000)

    rows, bad, count = found
    *lines, last = content.split(b"\n")
    lines += [last + b"\r"] if last else []  # a CR at the end of the file ends no line
    assert count == len(lines) == len(rows) + len(bad)
    good = [is_good(line) for line in lines]
    expected = [line.removesuffix(b"\r").decode().split("\t") for line, fine in zip(lines, good, strict=True) if fine]
    assert [[text, str(label)] for text, label in rows] == expected
    offsets = np.cumsum([0, *(len(line) + 1 for line in lines)])
    places = [(number, offsets[number - 1]) for number, fine in enumerate(good, 1) if not fine]
    assert [(row.line, row.byte_offset) for row in bad] == places


@pytest.mark.parametrize("block", [7, 20, 1000])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""])
def test_the_cap_does_not_depend_on_blocks(tmp_path, monkeypatch, block, end):
    monkeypatch.setattr(delimited, "BLOCK_BYTES", block)
    monkeypatch.setattr(delimited, "MAX_LINE_BYTES", 20)
    for length in (19, 20, 21, 22, 40):
        path = write(tmp_path / "cap.tsv", b"x\t0\n" + b"y" * (length - 2) + b"\t0" + end)
        batches = list(read_table(path, header=False, strict=2))
        read, bad = sum(len(batch.rows) for batch in batches), [row for batch in batches for row in batch.bad]
        assert (read, [row.fault.reason for row in bad]) == ((1, [Reason.LINE_TOO_LONG]) if length > 20 else (2, []))
        assert all(f"it has {length} bytes" in row.fault.detail for row in bad)


# ---- streams: in any chunks each line is a text or is refused, in its place ----

CAP = 24


class Chunks:
    """A stream that returns at most one chunk per read, as a pipe does."""

    def __init__(self, chunks):
        self.chunks = list(chunks)
        self.reads = 0

    def read1(self, size):
        self.reads += 1
        if not self.chunks:
            return b""
        first = self.chunks.pop(0)
        if len(first) > size:
            self.chunks.insert(0, first[size:])
        return first[:size]


def read(stream, cap=CAP):
    return [line for block in read_texts(stream, "input", cap) for line in block]


def expect(content):
    """Yield the offset of each line, and its text or the reason of its refusal, independent of the reader."""
    offset = len(BYTE_ORDER_MARK) if content.startswith(BYTE_ORDER_MARK) else 0
    lines = content[offset:].split(b"\n")
    ended = [line.removesuffix(b"\r") for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])
    for line, whole in zip(ended, lines, strict=False):
        if len(line) > CAP:
            yield offset, Reason.LINE_TOO_LONG
        elif b"\0" in line:
            yield offset, Reason.NUL
        else:
            try:
                yield offset, line.decode("utf-8")
            except UnicodeDecodeError:
                yield offset, Reason.NOT_UTF8
        offset += len(whole) + 1


LINE_PIECES = st.one_of(
    st.sampled_from(
        [b"\n", b"\r\n", b"\r", BYTE_ORDER_MARK, b"\xe2\x80\xa8", b"\xc2\x85", b"\0", b" ", b"\t", b"\xe9"]
    ),
    st.text(max_size=8).map(lambda text: text.encode("utf-8", "ignore")),
    st.integers(CAP - 4, 2 * CAP).map(lambda size: b"x" * size),
)


@given(
    content=st.lists(LINE_PIECES, max_size=30).map(b"".join), cuts=st.lists(st.integers(1, 9), min_size=1, max_size=9)
)
def test_every_line_is_answered_in_its_place_in_any_chunks(content, cuts):
    chunks, at = [], 0
    while at < len(content):
        size = cuts[len(chunks) % len(cuts)]
        chunks.append(content[at : at + size])
        at += size
    expected, found = list(expect(content)), read(Chunks(chunks))
    assert [row.fault.reason if isinstance(row, BadRow) else row for row in found] == [line for _, line in expected]
    assert [(line.line, line.byte_offset) for line in found if isinstance(line, BadRow)] == [
        (number, offset) for number, (offset, line) in enumerate(expected, 1) if isinstance(line, Reason)
    ]


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (BYTE_ORDER_MARK + b"x" * CAP, ["x" * CAP]),
        (BYTE_ORDER_MARK, []),
        (b"a\n" + BYTE_ORDER_MARK + b"b", ["a", "\ufeffb"]),
    ],
)
def test_a_byte_order_mark_does_not_count_for_the_cap(content, lines):
    assert read(io.BytesIO(content)) == lines


@pytest.mark.parametrize(
    ("chunks", "reason"),
    [(["a line\n".encode("utf-16")], Reason.UTF16), ([b"\x1f", b"\x8b", b"\x08\x00\n\n"], Reason.COMPRESSED)],
)
def test_a_stream_that_is_not_text_is_one_error(chunks, reason):
    with pytest.raises(DataError, match="^input: ") as caught:
        read(Chunks(chunks))
    assert caught.value.reason == reason


def test_a_line_is_available_at_its_line_feed():
    stream = Chunks([b"fi", b"rst\n", b"two\nth", b"ree"])
    blocks = read_texts(stream, "input")
    assert (next(blocks), stream.reads) == (["first"], 2)
    assert (next(blocks), stream.reads) == (["two"], 3)
    assert list(blocks) == [["three"]]


def test_a_long_line_is_never_in_memory():
    piece = b"x" * (1 << 16)
    stream = Chunks([piece] * 400 + [b"\nafter\n", b"last \xff"])
    tracemalloc.start()
    try:
        long, after, last = read(stream, 1 << 20)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert long.fault.reason == Reason.LINE_TOO_LONG and f"{400 << 16} bytes" in long.fault.detail
    assert after == "after"
    assert (last.line, last.byte_offset) == (3, (400 << 16) + len("\nafter\n"))
    assert peak < 6 << 20


def test_utf16_is_read_in_blocks(tmp_path):
    (tmp_path / "texts").write_text("a text é\n" * 500_000, encoding="utf-16")
    tracemalloc.start()
    try:
        blocks = delimited.TextFile(str(tmp_path / "texts"), "utf-16", ()).blocks()
        lines = sum(block.count(b"\n") for _, _, block, _ in blocks)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert lines == 500_000 and peak < 4 << 20
