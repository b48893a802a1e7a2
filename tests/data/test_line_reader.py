"""Lines of a stream, however it arrives: each is a text or is refused, in its place."""

import io
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_rnn.data import DataError, Reason
from hf_rnn.data.line_reader import read_texts
from hf_rnn.data.row_errors import BadRow

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
CAP = 24


class Chunks:
    """A stream that hands over one chunk a read, as a pipe does; of a longer chunk the rest comes with the next."""

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


def reasons(content, cap=CAP):
    return [row.fault.reason if isinstance(row, BadRow) else row for row in read(io.BytesIO(content), cap)]


def expect(content):
    """The lines by a way of its own: (byte offset, text or the reason why it is none)."""
    start = len(BYTE_ORDER_MARK) if content.startswith(BYTE_ORDER_MARK) else 0
    lines = content[start:].split(b"\n")
    ended = [line.removesuffix(b"\r") for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])
    offset = start
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
    st.sampled_from([b"\n", b"\r\n", b"\r", b"", BYTE_ORDER_MARK, b"\xe2\x80\xa8", b"\xc2\x85", b"\0", b" ", b"\t"]),
    st.binary(max_size=6),
    st.text(max_size=8).map(lambda text: text.encode("utf-8", "ignore")),
    st.integers(CAP - 4, 2 * CAP).map(lambda size: b"x" * size),
)


@settings(deadline=None, max_examples=300)
@given(content=st.lists(PIECES, max_size=30).map(b"".join), cuts=st.lists(st.integers(1, 9), min_size=1, max_size=9))
def test_every_line_is_answered_in_its_place_however_it_arrives(content, cuts):
    chunks, at = [], 0
    while at < len(content):
        size = cuts[len(chunks) % len(cuts)]
        chunks.append(content[at : at + size])
        at += size
    expected = list(expect(content))
    try:
        found = read(Chunks(chunks))
    except DataError as error:
        assert error.reason in (Reason.UTF16, Reason.COMPRESSED)
        assert content[:2] in (b"\xff\xfe", b"\xfe\xff", b"\x1f\x8b", b"BZ", b"PK") or b"\0" in content
        return
    assert [line.fault.reason if isinstance(line, BadRow) else line for line in found] == [
        line for _, line in expected
    ]
    assert [(line.line, line.byte_offset) for line in found if isinstance(line, BadRow)] == [
        (number, offset) for number, (offset, line) in enumerate(expected, 1) if isinstance(line, Reason)
    ]


def test_reasons_are_those_of_the_data_reader():
    content = b"good\nbad \xff\n\n \nn\0l\n" + b"x" * (CAP + 1) + b"\r\n" + b"x" * CAP + b"\r\nlast\r"
    assert reasons(content) == [
        "good",
        Reason.NOT_UTF8,
        "",
        " ",
        Reason.NUL,
        Reason.LINE_TOO_LONG,
        "x" * CAP,
        "last\r",
    ]


def test_a_byte_order_mark_does_not_count_for_the_cap():
    assert reasons(BYTE_ORDER_MARK + b"x" * CAP) == ["x" * CAP]
    assert reasons(BYTE_ORDER_MARK) == []
    assert reasons(b"a\n" + BYTE_ORDER_MARK + b"b") == ["a", "\ufeffb"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_utf16_is_one_error(encoding):
    with pytest.raises(DataError, match=r"^input: UTF-16: .*iconv -f UTF-"):
        read(io.BytesIO("a first line\nand a second one\n".encode(encoding)))


def test_a_compressed_file_is_one_error_though_its_first_byte_comes_alone():
    with pytest.raises(DataError, match="^input: compressed file: its first bytes are those of gzip. Unpack it first"):
        read(Chunks([b"\x1f", b"\x8b", b"\x08\x00\n\n"]))


def test_a_line_is_there_as_soon_as_its_line_feed_is():
    stream = Chunks([b"o", b"ne\n", b"two\nth", b"ree"])
    blocks = read_texts(stream, "input")
    assert next(blocks) == ["one"]
    assert stream.reads == 2
    assert next(blocks) == ["two"]
    assert stream.reads == 3
    assert list(blocks) == [["three"]]


def test_a_line_of_any_length_is_never_held_as_a_whole():
    piece = b"x" * (1 << 16)
    size = 64 << 20

    class Long(Chunks):
        """64 MiB without a line feed, then two lines."""

        def read1(self, wanted):
            self.reads += 1
            if self.reads <= size // len(piece):
                return piece[:wanted]
            return super().read1(wanted)

    stream = Long([b"\nafter\n", b"last \xff"])
    tracemalloc.start()
    try:
        found = read(stream, 1 << 20)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    long, after, last = found
    assert long.fault.reason == Reason.LINE_TOO_LONG
    length = int(long.fault.detail.split()[2])
    assert length > size // 2
    assert after == "after"
    assert (last.line, last.byte_offset) == (3, length + len("\nafter\n"))
    assert peak < 6 << 20
