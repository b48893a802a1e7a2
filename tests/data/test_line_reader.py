"""Lines of a stream, in any chunks: each is a text or is refused, in its place."""

import io
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_rnn.data.delimited import read_texts
from hf_rnn.data.row_errors import BadRow, DataError, Reason

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
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


PIECES = st.one_of(
    st.sampled_from(
        [b"\n", b"\r\n", b"\r", BYTE_ORDER_MARK, b"\xe2\x80\xa8", b"\xc2\x85", b"\0", b" ", b"\t", b"\xe9"]
    ),
    st.text(max_size=8).map(lambda text: text.encode("utf-8", "ignore")),
    st.integers(CAP - 4, 2 * CAP).map(lambda size: b"x" * size),
)


@given(content=st.lists(PIECES, max_size=30).map(b"".join), cuts=st.lists(st.integers(1, 9), min_size=1, max_size=9))
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
