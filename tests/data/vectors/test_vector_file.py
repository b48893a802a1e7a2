"""Files of vectors, written byte by byte: every form gives the same numbers, and damage is told with its place."""

import gzip
import logging
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from vector_files import FORMATS, TABLE, make_tokenizer, row_of, write_binary, write_text, zipped

from hf_rnn.data.vectors import load_vectors
from hf_rnn.data.vectors.vector_file import VectorFile, _Reader
from hf_rnn.utils.errors import UserError


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_numbers(write, name):
    path = write(FORMATS[name], name)
    read = VectorFile(path).read(["the", "näive", "absent"])
    assert read.size == 3
    assert {word: row.tolist() for word, row in read.rows.items()} == {word: TABLE[word] for word in ("the", "näive")}
    assert {row.dtype for row in read.rows.values()} == {np.dtype("float32")}
    assert VectorFile(path).first_words(3) == list(TABLE)[:3]
    assert VectorFile(path).first_words(99) == list(TABLE)

    tokenizer = make_tokenizer("film", "the", "näive")
    loaded = load_vectors(path, tokenizer)
    assert loaded.matrix.shape == (5, 3) and loaded.matrix.dtype == torch.float32
    assert all(row_of(loaded, tokenizer, word) == TABLE[word] for word in ("film", "the", "näive"))
    assert loaded.matrix[tokenizer.pad_token_id].tolist() == [0, 0, 0]
    assert loaded.name == name


WORDS = st.text(
    st.characters(exclude_categories=("Cs",), exclude_characters=" \t\n\r\x0b\x0c\x00\ufeff"), min_size=1, max_size=6
)


FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@st.composite
def tables(draw):
    size = draw(st.integers(2, 6))
    rows = st.lists(FLOATS, min_size=size, max_size=size)
    return draw(st.dictionaries(WORDS, rows, min_size=1, max_size=12))


@given(tables(), st.sampled_from([write_text, write_binary]), st.booleans(), st.booleans())
@settings(max_examples=150, deadline=None)
def test_what_was_written_is_read(tmp_path_factory, table, writer, option, packed):
    content = writer(table, between=b"\n" if option else b"") if writer is write_binary else writer(table, option)
    path = tmp_path_factory.getbasetemp() / "random table"
    path.write_bytes(gzip.compress(content) if packed else content)
    read = VectorFile(path).read(table)
    assert list(read.rows) == list(table)
    for word, row in table.items():
        assert read.rows[word].tolist() == row, "repr and float32 lose nothing"


def test_a_word_with_spaces_is_what_stands_before_the_last_numbers(write):
    rows = b"the 0.5 0.25\nat name@domain.com 0.5 0.75\nroute 66 0.125 0.5\n. . . 1.5 2.5\n"
    read = VectorFile(write(rows)).read(["at name@domain.com", "route 66", ". . .", "66"])
    assert {word: row.tolist() for word, row in read.rows.items()} == {
        "at name@domain.com": [0.5, 0.75],
        "route 66": [0.125, 0.5],
        ". . .": [1.5, 2.5],
    }


def test_a_binary_file_of_chunks_and_chance_bytes(write, monkeypatch):
    """Rows lie across the borders of the chunks; the first row's bytes end, at a newline byte, like a number."""
    monkeypatch.setattr("hf_rnn.data.vectors.vector_file._CHUNK", 7)
    chance = struct.unpack("<2f", b"\x8f\x02\x80\x3f" + b" 5\n\x3f")
    table = {"first": list(chance), **{f"word{number}": [number, -number / 2] for number in range(50)}}
    content = write_binary(table, between=b"")
    assert content.splitlines()[1].split()[-1] == b"5", "premise: a field that looks like a number ends the line"
    read = VectorFile(write(content)).read(table)
    assert {word: row.tolist() for word, row in read.rows.items()} == table


def test_a_binary_file_whose_vectors_have_another_size_than_announced(write):
    content = write_binary(
        {"first": [0.1, 0.2, 0.3], "second": [1.5, 2.5, 3.5], "third": [7.1, 8.2, 9.3]}, between=b""
    )
    head, _, rest = content.partition(b"\n")
    assert head == b"3 3", "premise"
    with pytest.raises(
        UserError, match="no word, get it again: .* do not have the 2 numbers that its first line"
    ) as told:
        VectorFile(write(b"3 2\n" + rest)).read(["first", "second"])
    assert "byte" in str(told.value)


def test_one_file_of_several_in_an_archive(write, tmp_path):
    path = write(zipped(write_text(TABLE), "glove.3d.txt", "other/glove.txt"), "glove.zip")
    assert VectorFile(path / "other/glove.txt").read(["the"]).rows["the"].tolist() == TABLE["the"]
    tokenizer = make_tokenizer("the", "film")
    assert load_vectors(path / "glove.3d.txt", tokenizer).name == "glove.3d.txt"
    with pytest.raises(UserError, match=r"glove\.zip holds 2 files: give one of them, such as .*glove\.3d\.txt"):
        load_vectors(path, tokenizer)
    with pytest.raises(UserError, match=r"glove\.zip holds no glove\.4d\.txt: it holds glove\.3d\.txt, other"):
        load_vectors(path / "glove.4d.txt", tokenizer)
    plain = write(write_text(TABLE), "plain.txt")
    with pytest.raises(
        UserError, match=r"plain\.txt is no zip archive that could hold glove\.txt: give .*plain\.txt alone"
    ):
        load_vectors(plain / "glove.txt", tokenizer)


def test_an_archive_with_a_password_is_to_be_unpacked_by_somebody_else(write):
    content = bytearray(zipped(write_text(TABLE), "v.txt"))
    content[6] |= 1  # bit 0 of the flags of its header: encrypted
    content[content.index(b"PK\1\2") + 8] |= 1  # and in the table of contents
    with pytest.raises(UserError, match="cannot be unpacked: .* Give what is in it, unpacked by another program"):
        VectorFile(write(bytes(content))).read(["the"])


def squeeze(content):
    return gzip.compress(content, compresslevel=1)


@pytest.mark.parametrize(("writer", "pack"), [(write_text, bytes), (write_text, squeeze), (write_binary, bytes)])
def test_only_the_words_needed_are_parsed_and_kept(write, monkeypatch, writer, pack):
    numbers = np.random.default_rng(0).normal(size=(16_000, 100)).astype(np.float32)
    table = {f"word{number}": row.tolist() for number, row in enumerate(numbers)}
    content = writer(table)
    path = write(pack(content))
    assert len(content) > 6_400_000, "premise: the numbers alone are 6.4 MB"

    parsed = []
    for kind in _Reader.__subclasses__():
        parse = kind.parse
        monkeypatch.setattr(
            kind, "parse", lambda self, row, place, parse=parse: (parsed.append(place), parse(self, row, place))[1]
        )
    monkeypatch.setattr("hf_rnn.data.vectors.vector_file._CHUNK", 1 << 14)
    tracemalloc.start()
    read = VectorFile(path).read(["word7", "word15999"])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(parsed) == 2
    assert read.rows["word15999"].tolist() == table["word15999"]
    assert peak < 3_800_000, "a buffer of 1 MiB, what is unpacked into it (twice, by newer Pythons), and little else"


def long_table(count=40):
    return {f"w{number}": [number + 0.5, 0.25, -0.125] for number in range(count)}


TEXT, VEC, BINARY = write_text(long_table()), write_text(long_table(), header=True), write_binary(long_table())


LZMA_DATA = zipped(TEXT, "v", method=zipfile.ZIP_LZMA)[45:75]  # behind the header of 31 bytes and that of LZMA


DAMAGED = {
    "no bytes": (b"", "v.txt is empty"),
    "an empty first line": (b"\nw 0.5 0.25\n", "v.txt, line 1 is empty"),
    "no bytes in gzip": (gzip.compress(b""), "v.txt is empty"),
    "nothing in zip": (zipped(b""), "v.txt is an empty archive: give one with a file"),
    "prose": (b"It was a dark and stormy night.\n", "v.txt, line 1: a word and its numbers should stand there"),
    "a picture": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "v.txt, line 1: a word and its numbers should stand"),
    "a fastText model": (b"\xba\x16\x4f\x2f\x0c\0\0\0", r"v.txt is a whole fastText model: .*\.vec"),
    "one number too few": (b"w0 0.5 0.25 1.5\nw1 0.5 0.25\n", "v.txt, line 2: 2 numbers should be 3"),
    "one number too many": (b"w0 0.5 0.25\nw1 0.5 0.25 1.5\n", "v.txt, line 2: 3 numbers should be 2"),
    "whole numbers, one too many": (b"w0 1 2\nw1 1 2 3\n", "v.txt, line 2: 3 numbers should be 2"),
    "a hole": (b"w0 0.5 0.25 1.5\nw1 0.5  0.25\n", "v.txt, line 2: 2 numbers should be 3"),
    "a hole in a row nobody wants": (b"w0 0.5 0.25 1.5\nzz 0.5  0.25\n", "v.txt, line 2: 2 numbers should be 3"),
    "two numbers apart by a tab": (b"w0 0.5 0.25 1.5\nw1 0.5 0.25 1.5\t2.5\n", "v.txt, line 2: 4 numbers should be 3"),
    "fewer than announced": (
        b"1 4\nw0 0.5 0.25 1.5\n",
        "v.txt, line 2: 3 numbers should be 4, as line 1 announces. Where",
    ),
    "a count beyond any file": (
        b"9" * 5000 + b" 3\nw0 0.5 0.25 1.5\n",
        "v.txt, line 1 announces b'9999",
    ),
    "a number that only Python knows": (b"w0 0.5 1_0.5\nw1 0.5 1.5\n", "v.txt, line 1: a word and its numbers"),
    "the same on a later line": (b"w1 0.5 1.5\nw0 0.5 1_0.5\n", "v.txt, line 2: could not convert string to float"),
    "no number": (b"w0 0.5 0.25\nw1 0.5 x\n", "v.txt, line 2: could not convert .*x"),
    "NaN": (b"w0 0.5 0.25\nw1 0.5 nan\n", "v.txt, line 2: the vector of 'w1' holds a number that is not finite"),
    "infinite": (b"w0 0.5 0.25\nw1 -inf 0.5\n", "v.txt, line 2: the vector of 'w1' holds a number that is not"),
    "too large for float32": (b"w0 0.5 0.25\nw1 1e39 0.5\n", "v.txt, line 2: the vector of 'w1' holds a number"),
    "NaN in binary": (write_binary({"w0": [0.5], "w1": [float("nan")]}), "v.txt, byte 11: the vector of 'w1' holds"),
    "a word twice": (
        b"2 1\nw0 0.5\nw0 0.25\n",
        "v.txt, line 3: 'w0' stands there a second time with other numbers, first at line 2",
    ),
    "a word twice in binary": (
        b"2 1\nw0 " + struct.pack("<f", 0.5) + b"w0 " + struct.pack("<f", 1.5),
        "v.txt, byte 11: 'w0' stands there a second time with other numbers, first at byte 4",
    ),
    "Latin-1": (b"w0 0.5 0.25\nna\xefve 0.5 0.25\n", r"v.txt, line 2: the word b'na\\xefve' is not UTF-8"),
    "Latin-1 on the first row": (b"1 2\nna\xefve 0.5 0.25\n", r"v.txt, line 2: the word b'na\\xefve' is not UTF-8"),
    "Latin-1 in binary": (
        b"1 1\nna\xefve " + struct.pack("<f", 0.7),
        r"v.txt, byte 4: the word b'na\\xefve' is not UTF-8",
    ),
    "no row": (b"5 3\n", "v.txt holds 0 words and announces 5 on line 1: is it cut short"),
    "no row announced": (b"0 3\nw0 0.5 0.5 0.5\n", "v.txt, line 1 announces 0 words of 3 numbers"),
    "more rows than announced": (b"1 1\nw0 0.5\nw1 0.5\n", "v.txt holds 2 words and announces 1 on line 1"),
    "cut in a word": (b"2 2\nw0 0.5 0.25\nw", "v.txt, line 3: 0 numbers should be 2.*cut short"),
    "cut in the first word": (b"2 2\nw", "v.txt, line 2: 0 numbers should be 2.*cut short"),
    "text cut in a row": (TEXT[:-12], "v.txt, line 40: [12] numbers should be 3.*the file is cut short"),
    "text with a first line cut after a row": (
        VEC[: VEC.rindex(b"w39")],
        "v.txt holds 39 words and announces 40 on line 1: is it cut short",
    ),
    "binary cut in a row": (BINARY[:-5], "v.txt, byte [0-9]+: the file ends, or is damaged, within word 40 of the 40"),
    "binary cut between rows": (BINARY[: BINARY.rindex(b"w39")], "within word 40 of the 40 that its first line"),
    "binary with more than announced": (
        BINARY + b"more",
        "v.txt, byte [0-9]+: the file goes on after the 40 words of 3",
    ),
    "gzip cut short": (gzip.compress(TEXT)[:-20], "v.txt is cut short: the packed data ends too early"),
    "gzip of binary cut short": (gzip.compress(BINARY)[:-20], "v.txt is cut short: the packed data ends too early"),
    "gzip damaged": (gzip.compress(TEXT)[:30] + b"\xff" * 30, "v.txt is (damaged|cut short)"),
    "zip cut short": (zipped(TEXT, "v")[:-20], "v.txt is damaged"),
    "zip by LZMA damaged": (
        zipped(TEXT, "v", method=zipfile.ZIP_LZMA).replace(LZMA_DATA, b"\xff" * len(LZMA_DATA)),
        "v.txt is damaged",
    ),
    "zip damaged": (zipped(TEXT, "v")[:60] + b"\xff" * 9 + zipped(TEXT, "v")[69:], "v.txt is damaged"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damage_is_told_with_its_place(write, damage):
    content, message = DAMAGED[damage]
    path = write(content, "v.txt")
    with pytest.raises(UserError, match=message) as caught:
        load_vectors(path, make_tokenizer("w0", "w1", "w39"))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [TEXT[:-3], VEC[:-3]], ids=["without", "with a first line"])
def test_a_last_number_that_may_be_cut_is_told(write, caplog, content):
    """All numbers are there, so this may be a whole file whose last line only lacks its end."""
    load_vectors(write(content), make_tokenizer("w0", "w39"))
    assert "its last line does not end: is it cut short?" in caplog.text


def test_a_whole_file_is_no_reason_to_warn(write, caplog):
    with caplog.at_level(logging.WARNING, "hf_rnn"):
        load_vectors(write(TEXT), make_tokenizer("w0", "w39"))
    assert not caplog.records


def test_a_word_twice_with_the_same_numbers_is_harmless(write):
    path = write(b"w0 0.5 0.25\nw1 1.5 2.5\nw0 0.5 0.25\n")
    assert VectorFile(path).read(["w0", "w1"]).rows["w0"].tolist() == [0.5, 0.25]


@given(
    st.binary(max_size=200), st.sampled_from([b"", b"2 2\n", b"3 1\n", b"the 0.5 0.25\n", b"\x1f\x8b", b"PK\x03\x04"])
)
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_read_or_refused_with_the_file_named(tmp_path_factory, content, start):
    path = tmp_path_factory.getbasetemp() / "any bytes"
    path.write_bytes(start + content)
    try:
        read = VectorFile(path).read(["the", "a", ""])
    except UserError as error:
        assert str(path) in str(error)
    else:
        assert all(row.shape == (read.size,) and np.isfinite(row).all() for row in read.rows.values())


@given(st.integers(0, len(BINARY) - 1), st.sampled_from(["text", "vec", "binary"]))
@settings(max_examples=100, deadline=None)
def test_a_cut_anywhere_loses_no_number_silently(tmp_path_factory, length, kind):
    whole = {"text": TEXT, "vec": VEC, "binary": BINARY}[kind]
    table, path = long_table(), tmp_path_factory.getbasetemp() / "cut"
    path.write_bytes(whole[: min(length, len(whole) - 1)])
    try:
        read = VectorFile(path).read(table)
    except UserError:
        return
    wrong = [word for word, row in read.rows.items() if row.tolist() != table[word]]
    assert len(wrong) <= (kind != "binary"), "at most the last number of a text, of which there is a warning"
    assert kind == "text" or len(read.rows) == len(table)
