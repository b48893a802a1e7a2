"""Pretrained vectors: files written byte by byte, a tiny BERT, and a training run, against tables known by hand."""

import gzip
import io
import logging
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import LABELS, invent_rows, write_rows
from hub_server import Blob, Repo
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import Unigram
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertModel,
    BertTokenizerFast,
    PreTrainedTokenizerFast,
)

from hf_rnn import train
from hf_rnn.arguments import parse_argv, parse_settings
from hf_rnn.errors import UserError
from hf_rnn.run_vectors import prepare_vectors
from hf_rnn.tokenization import train_tokenizer
from hf_rnn.vectors import load_vectors, widen_vocabulary
from hf_rnn.vectors.forms import is_placeholder, list_forms
from hf_rnn.vectors.loading import find_source
from hf_rnn.vectors.model_table import ModelTable
from hf_rnn.vectors.vector_file import VectorFile, _Reader

TABLE = {
    "the": [0.5, -1.25, 2.0],
    "film": [0.125, 0.25, -0.375],
    "London": [-0.5, 0.75, 1.5],
    "<user>": [3.5, -3.5, 0.5],
    "näive": [1.5, 2.5, 3.5],
}


def write_text(table, header=False, end=b"\n", tail=b""):
    """GloVe's form; with `header` and `tail` of a space that of fastText's .vec and word2vec."""
    size = len(next(iter(table.values())))
    rows = [b" ".join([word.encode(), *(repr(float(x)).encode() for x in row)]) + tail for word, row in table.items()]
    first = [f"{len(table)} {size}".encode()] if header else []
    return end.join(first + rows) + end


def write_binary(table, between=b"\n"):
    """word2vec's own form, which ends each row with a newline; others leave that out."""
    size = len(next(iter(table.values())))
    rows = [word.encode() + b" " + struct.pack(f"<{size}f", *row) + between for word, row in table.items()]
    return f"{len(table)} {size}\n".encode() + b"".join(rows)


def zipped(content, *names, method=zipfile.ZIP_DEFLATED):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        for name in names:
            archive.writestr(name, content)
    return packed.getvalue()


FORMATS = {
    "glove.txt": write_text(TABLE),
    "windows.txt": write_text(TABLE, end=b"\r\n"),
    "marked.txt": b"\xef\xbb\xbf" + write_text(TABLE),
    "tabs.txt": write_text(TABLE).replace(b" ", b"\t"),
    "fasttext.vec": write_text(TABLE, header=True, tail=b" "),
    "word2vec.txt": write_text(TABLE, header=True),
    "word2vec.bin": write_binary(TABLE),
    "dense.bin": write_binary(TABLE, between=b""),
    "glove.txt.gz": gzip.compress(write_text(TABLE)),
    "word2vec.bin.gz": gzip.compress(write_binary(TABLE)),
    "fasttext.zip": zipped(write_text(TABLE, header=True), "folder/vectors.vec"),
    "word2vec.zip": zipped(write_binary(TABLE), "vectors.bin"),
    "lzma.zip": zipped(write_text(TABLE), "vectors.txt", method=zipfile.ZIP_LZMA),
    "packed under a plain name": gzip.compress(write_text(TABLE, header=True)),
}


@pytest.fixture
def write(tmp_path):
    def write_file(content, name="vectors.txt"):
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return write_file


def make_tokenizer(*words, lowercase=False, normalizer="none"):
    return train_tokenizer([" ".join(words)], min_frequency=1, lowercase=lowercase, normalizer=normalizer)


def row_of(vectors, tokenizer, word):
    return vectors.matrix[tokenizer.get_vocab()[word]].tolist()


# ---- formats ----


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
    monkeypatch.setattr("hf_rnn.vectors.vector_file._CHUNK", 7)
    chance = struct.unpack("<2f", b"\x8f\x02\x80\x3f" + b" 5\n\x3f")
    table = {"first": list(chance), **{f"word{number}": [number, -number / 2] for number in range(50)}}
    content = write_binary(table, between=b"")
    assert content.splitlines()[1].split()[-1] == b"5", "premise: a field that looks like a number ends the line"
    read = VectorFile(write(content)).read(table)
    assert {word: row.tolist() for word, row in read.rows.items()} == table


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
    with pytest.raises(UserError, match=r"plain\.txt is no zip archive that could hold glove"):
        load_vectors(plain / "glove.txt", tokenizer)


# ---- streaming ----


def squeeze(content):
    return gzip.compress(content, compresslevel=1)


@pytest.mark.parametrize(("writer", "pack"), [(write_text, bytes), (write_text, squeeze), (write_binary, bytes)])
def test_only_the_words_needed_are_parsed_and_kept(write, monkeypatch, writer, pack):
    numbers = np.random.default_rng(0).normal(size=(8_000, 100)).astype(np.float32)
    table = {f"word{number}": row.tolist() for number, row in enumerate(numbers)}
    content = writer(table)
    path = write(pack(content))
    assert len(content) > 3_200_000, "premise: the numbers alone are 3.2 MB"

    parsed = []
    for kind in _Reader.__subclasses__():
        parse = kind.parse
        monkeypatch.setattr(
            kind, "parse", lambda self, row, place, parse=parse: (parsed.append(place), parse(self, row, place))[1]
        )
    monkeypatch.setattr("hf_rnn.vectors.vector_file._CHUNK", 1 << 14)
    tracemalloc.start()
    read = VectorFile(path).read(["word7", "word7999"])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(parsed) == 2
    assert read.rows["word7999"].tolist() == table["word7999"]
    assert peak < (2 << 20) + 300_000, "a buffer of 1 MiB, what is unpacked into it, and little else"


# ---- words and fall-backs ----


@pytest.mark.parametrize(
    ("word", "forms"),
    [
        ("london", [("london",), ("London",), ("LONDON",)]),
        ("USA", [("USA",), ("usa",), ("Usa",)]),
        ("<<<mention>>>", [("<user>",), ("@user",), ("user",)]),
        ("<<<MENTION>>>", [("<user>",), ("@user",), ("user",)]),
        ("@user", [("<user>",), ("user",)]),
        ("<<<URL>>>", [("<url>",), ("http",), ("url",)]),
        ("<<<hashtag>>>", [("<hashtag>",), ("#",), ("hashtag",)]),
        ("<<<digit>>>", [("<number>",), ("<num>",), ("number",)]),
        ("<number>", [("<num>",), ("number",)]),
        ("▁film", [("▁film",), ("film",), ("FILM",)]),
        ("Ġfilm", [("Ġfilm",), ("film",)]),
        (":-)", [("<smile>",)]),
        (":D", [("<smile>",)]),
        (":(", [("<sadface>",)]),
        ("<3", [("<heart>",)]),
        ("don't", [("do", "n't")]),
        ("Can't", [("Ca", "n't"), ("ca", "n't")]),
        ("we're", [("we", "'re")]),
        ("well-known", [("well", "known")]),
    ],
)
def test_forms_in_their_order(word, forms):
    listed = list(list_forms(word))
    assert listed[0] == (word,)
    assert [form for form in listed if form in forms] == forms
    assert len(set(listed)) == len(listed)


@pytest.mark.parametrize(
    ("word", "is_one"), [("<<<mention>>>", True), ("@user", True), ("<url>", True), ("<b>", False)]
)
def test_placeholders(word, is_one):
    assert is_placeholder(word) is is_one


@pytest.mark.parametrize("word", ["-", "--", "▁", "'", "n't", "<", "<>", "@", ""])
def test_odd_words_have_forms_too(word):
    assert next(list_forms(word)) == (word,)
    assert () not in list(list_forms(word))


def test_fall_backs_take_the_best_row_there_is(write):
    table = {
        "usa": [1.0, 0.0],
        "USA": [2.0, 0.0],
        "London": [3.0, 0.0],
        "<user>": [4.0, 0.0],
        "user": [5.0, 0.0],
        "do": [6.0, 2.0],
        "n't": [8.0, 4.0],
        "well": [1.0, 3.0],
    }
    tokenizer = make_tokenizer("usa", "london", "<<<mention>>>", "don't", "well-known", "Usa")
    loaded = load_vectors(write(write_text(table)), tokenizer)
    assert row_of(loaded, tokenizer, "usa") == [1, 0], "the word itself before other case"
    assert row_of(loaded, tokenizer, "Usa") == [1, 0], "lower case before upper"
    assert row_of(loaded, tokenizer, "london") == [3, 0]
    assert row_of(loaded, tokenizer, "<<<mention>>>") == [4, 0], "a placeholder before a plain word"
    assert row_of(loaded, tokenizer, "don't") == [7, 3], "the mean of do and n't"
    assert (loaded.coverage.words, loaded.coverage.found) == (6, 5), "known is not there, so well-known is not either"


def test_coverage_worked_by_hand(write):
    tokenizer = make_tokenizer("the", "film", "zyx", "london")
    texts = ["the film the", "zyx film", "london unheard", ""]  # 7 tokens; the, film, the, film, london have vectors
    loaded = load_vectors(write(write_text(TABLE)), tokenizer, texts=iter(texts))
    assert (loaded.coverage.words, loaded.coverage.found) == (4, 3)
    assert loaded.coverage.type_share == 3 / 4
    assert loaded.coverage.token_share == 5 / 7
    assert str(loaded.coverage) == "3 of 4 words (75.0%), 71.4% of the tokens"
    assert loaded.describe() == {"name": "vectors.txt", "coverage_types": 3 / 4, "coverage_tokens": 5 / 7}
    assert load_vectors(write(write_text(TABLE)), tokenizer).coverage.token_share is None
    assert load_vectors(write(write_text(TABLE)), tokenizer, texts=[]).coverage.token_share is None


def test_words_without_a_vector_are_drawn_at_the_scale_of_the_others(write):
    numbers = np.random.default_rng(1).normal(scale=0.3, size=(20, 200)).astype(np.float32)
    words = [f"word{index}" for index in range(20)]
    path = write(write_text(dict(zip(words, numbers.tolist(), strict=True))))
    tokenizer = make_tokenizer(*words, *(f"absent{index}" for index in range(20)))
    first, again, other = (load_vectors(path, tokenizer, seed=seed) for seed in (1, 1, 2))
    drawn = [index for word, index in tokenizer.get_vocab().items() if word.startswith("absent")]
    known = [tokenizer.get_vocab()[word] for word in words]
    assert first.matrix[drawn].std().item() == pytest.approx(numbers.std(), rel=0.05)
    assert abs(first.matrix[drawn].mean().item()) < 0.02
    assert torch.equal(first.matrix, again.matrix) and first.fingerprint() == again.fingerprint()
    assert torch.equal(first.matrix[known], other.matrix[known])
    assert not torch.equal(first.matrix[drawn], other.matrix[drawn]) and first.fingerprint() != other.fingerprint()


# ---- errors, each with file and line ----


def long_table(count=40):
    return {f"w{number}": [number + 0.5, 0.25, -0.125] for number in range(count)}


TEXT, VEC, BINARY = write_text(long_table()), write_text(long_table(), header=True), write_binary(long_table())
LZMA_DATA = zipped(TEXT, "v", method=zipfile.ZIP_LZMA)[45:75]  # behind the header of 31 bytes and that of LZMA

DAMAGED = {
    "no bytes": (b"", "v.txt is empty"),
    "an empty first line": (b"\nw 0.5 0.25\n", "v.txt, line 1 is empty"),
    "no bytes in gzip": (gzip.compress(b""), "v.txt is empty"),
    "nothing in zip": (zipped(b""), "v.txt is an empty archive"),
    "prose": (b"It was a dark and stormy night.\n", "v.txt, line 1: a word and its numbers should stand there"),
    "a picture": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "v.txt, line 1: a word and its numbers should stand"),
    "a fastText model": (b"\xba\x16\x4f\x2f\x0c\0\0\0", r"v.txt is a whole fastText model: .*\.vec"),
    "one number too few": (b"w0 0.5 0.25 1.5\nw1 0.5 0.25\n", "v.txt, line 2: 2 numbers should be 3"),
    "one number too many": (b"w0 0.5 0.25\nw1 0.5 0.25 1.5\n", "v.txt, line 2: 3 numbers should be 2"),
    "whole numbers, one too many": (b"w0 1 2\nw1 1 2 3\n", "v.txt, line 2: 3 numbers should be 2"),
    "a hole": (b"w0 0.5 0.25 1.5\nw1 0.5  0.25\n", "v.txt, line 2: 2 numbers should be 3"),
    "a hole in a row nobody wants": (b"w0 0.5 0.25 1.5\nzz 0.5  0.25\n", "v.txt, line 2: 2 numbers should be 3"),
    "two numbers apart by a tab": (b"w0 0.5 0.25 1.5\nw1 0.5 0.25 1.5\t2.5\n", "v.txt, line 2: 4 numbers should be 3"),
    "fewer than announced": (b"1 4\nw0 0.5 0.25 1.5\n", "v.txt, line 2: 3 numbers should be 4"),
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


def test_what_is_no_source(tmp_path):
    tokenizer = make_tokenizer("the")
    with pytest.raises(UserError, match=r"there are no vectors at .*absent\.txt: give a file"):
        load_vectors(tmp_path / "absent.txt", tokenizer)
    with pytest.raises(UserError, match="has no config.json: give the folder of a transformers model"):
        load_vectors(tmp_path, tokenizer)
    for name in ("fold-2", "fold-1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"has no config\.json: did you mean .*fold-1\?"):
        load_vectors(tmp_path, tokenizer)
    (tmp_path / "config.json").write_text('{"model_type": "none of these"}')
    with pytest.raises(UserError, match=f"the vectors of {tmp_path.name} cannot be loaded"):
        load_vectors(tmp_path, tokenizer)
    with pytest.raises(UserError, match="there are no vectors at ../no such/name"):
        find_source("../no such/name")


def test_a_repo_that_is_not_there(hub):
    with pytest.raises(UserError, match="nobody/nothing"):
        load_vectors("nobody/nothing", make_tokenizer("the"))


def test_vectors_that_do_not_fit(write):
    path = write(write_text(TABLE))
    with pytest.raises(UserError, match=r"vectors\.txt have 3 numbers, and embedding_size is 4"):
        load_vectors(path, make_tokenizer("the"), embedding_size=4)
    assert load_vectors(path, make_tokenizer("the"), embedding_size=3).matrix.shape == (3, 3)
    with pytest.raises(UserError, match=r"vectors\.txt has a vector for none of the 2 words of the vocabulary"):
        load_vectors(path, make_tokenizer("zyx", "qqq"))


# ---- a transformers model ----

PIECES = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "a",
    "film",
    "un",
    "##seen",
    "##k",
    "mention",
    "##film",
    "<",
    ">",
    ":",
    ")",
]


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A folder with a BERT whose pieces have 8 numbers each, and its table."""
    folder = tmp_path_factory.mktemp("bert") / "tiny-bert"
    torch.manual_seed(0)
    model = BertModel(
        BertConfig(
            vocab_size=len(PIECES),
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=8,
            max_position_embeddings=16,
        )
    )
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(PIECES) + "\n", encoding="utf-8")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder, model.get_input_embeddings().weight.detach().clone()


def test_words_of_a_model_are_rows_or_means_of_pieces(bert):
    folder, table = bert
    tokenizer = make_tokenizer("film", "FILM", "unseen", "zyx", ":)", "<<<mention>>>")
    loaded = load_vectors(folder, tokenizer, texts=["film unseen zyx"])
    piece = {name: table[index] for index, name in enumerate(PIECES)}
    assert loaded.name == "tiny-bert"
    for word, expected in {
        "film": piece["film"],
        "FILM": piece["film"],
        "unseen": (piece["un"] + piece["##seen"]) / 2,
        ":)": (piece[":"] + piece[")"]) / 2,
    }.items():
        torch.testing.assert_close(loaded.matrix[tokenizer.get_vocab()[word]], expected)
    assert find_source(folder).compose(["<<<mention>>>"]), "premise: its letters could be put together"
    assert loaded.coverage.found == 4, "zyx is unknown, and a placeholder means nothing by its letters"
    assert loaded.coverage.token_share == 2 / 3
    assert not loaded.matrix[tokenizer.pad_token_id].any()


@pytest.mark.parametrize(("kind", "mark"), [("Metaspace", "▁"), ("ByteLevel", "Ġ")])
def test_words_are_cut_as_after_another_word(tmp_path, kind, mark):
    """Subword vocabularies mark the start of a word; a mark that is a piece of its own is no part of the word."""
    pieces = ["<unk>", mark, f"{mark}a", f"{mark}film", "film", "selk", "mi", f"{mark}mi", "ro"]
    backend = Tokenizer(Unigram([(piece, -1.0) for piece in pieces], unk_id=0))
    backend.pre_tokenizer, backend.decoder = getattr(pre_tokenizers, kind)(), getattr(decoders, kind)()
    table = torch.arange(2.0 * len(pieces)).view(-1, 2)
    save_file({"table": table}, tmp_path / "weights")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    source = ModelTable("invented", tokenizer, tmp_path / "weights", "table", 2)
    read = source.read(["film", "selk", "miro", "zyx"])
    assert {word: row.tolist() for word, row in read.rows.items()} == {
        "film": table[pieces.index(f"{mark}film")].tolist(),
        "selk": table[pieces.index("selk")].tolist(),
    }
    (row,) = source.compose(["miro", "zyx"]).values()
    np.testing.assert_array_equal(row, table[[pieces.index(f"{mark}mi"), pieces.index("ro")]].mean(0))
    assert source.first_words(9) == ["a", "film", "selk", "mi", "ro"]


def test_a_special_token_has_no_meaning_by_its_letters(bert):
    folder, _ = bert
    assert find_source(folder).compose(["<unk>"]), "premise: its letters could be put together"
    tokenizer = make_tokenizer("film")
    drawn = [load_vectors(folder, tokenizer, seed=seed).matrix[tokenizer.unk_token_id] for seed in range(2)]
    assert not torch.equal(*drawn)


def test_a_models_own_tokenizer_gets_its_rows_as_they_are(bert):
    folder, table = bert
    tokenizer = AutoTokenizer.from_pretrained(folder)
    loaded = load_vectors(folder, tokenizer)
    expected = table.clone()
    expected[tokenizer.pad_token_id] = 0
    torch.testing.assert_close(loaded.matrix, expected, rtol=0, atol=0)
    assert loaded.coverage.type_share == 1


def test_a_models_whole_words_come_first(bert):
    assert find_source(bert[0]).first_words(99) == ["a", "film", "un", "mention", "<", ">", ":", ")"]
    assert find_source(bert[0]).first_words(2) == ["a", "film"]


def test_a_model_on_the_hub(hub, bert):
    repo = hub.repos["me/tiny"] = Repo("me", private=False)
    repo.add("main", "a model", {path.name: Blob(path.read_bytes(), lfs=False) for path in bert[0].iterdir()})
    tokenizer = make_tokenizer("film")
    loaded = load_vectors("me/tiny", tokenizer)
    assert loaded.name == "me/tiny"
    assert torch.equal(loaded.matrix, load_vectors(bert[0], tokenizer).matrix)


def test_a_model_in_several_files(bert, tmp_path):
    BertModel.from_pretrained(bert[0]).save_pretrained(tmp_path, max_shard_size="1KB")
    AutoTokenizer.from_pretrained(bert[0]).save_pretrained(tmp_path)
    assert not (tmp_path / "model.safetensors").exists(), "premise: it was cut"
    tokenizer = make_tokenizer("film")
    assert torch.equal(load_vectors(tmp_path, tokenizer).matrix, load_vectors(bert[0], tokenizer).matrix)
    next(tmp_path.glob("model-*.safetensors")).unlink()
    for path in tmp_path.glob("model-*.safetensors"):
        path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UserError, match=r"model-0.*\.safetensors cannot be read"):
        load_vectors(tmp_path, tokenizer)


def test_a_model_without_safe_weights(bert, tmp_path):
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((bert[0] / name).read_bytes())
    with pytest.raises(UserError, match="has no model.safetensors"):
        load_vectors(tmp_path, make_tokenizer("film"))
    (tmp_path / "model.safetensors").write_bytes((bert[0] / "model.safetensors").read_bytes()[:100])
    with pytest.raises(UserError, match=f"{tmp_path.name} cannot be loaded"):
        load_vectors(tmp_path, make_tokenizer("film"))


def test_a_model_with_a_number_that_is_not_finite(bert, tmp_path):
    model = BertModel.from_pretrained(bert[0])
    model.get_input_embeddings().weight.data[PIECES.index("film"), 3] = float("nan")
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(bert[0]).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=f"{tmp_path.name}: row 6 of .*word_embeddings.weight holds a number"):
        load_vectors(tmp_path, make_tokenizer("film"))


# ---- a wider vocabulary ----

WIDE = {"The": [0.5, 1.5], "Paris": [2.5, 3.5], "film": [4.5, 5.5], "<unk>": [6.5, 7.5], "a\u3000b": [1.0, 2.0]}
WIDE |= {"rare": [8.5, 9.5], "beyond": [0.25, 0.75]}


def test_widening_keeps_ids_and_adds_the_first_words(write, tmp_path):
    path = write(write_text(WIDE))
    narrow = make_tokenizer("the", "film", "film", lowercase=True)
    before = narrow.get_vocab()
    wide = widen_vocabulary(narrow, path, 6)
    assert narrow.get_vocab() == before, "the one given is as it was"
    added = {word: index for word, index in wide.get_vocab().items() if word not in before}
    assert wide.get_vocab().items() >= before.items()
    assert added == {"paris": 4, "rare": 5}, "spelt as the tokenizer spells, no word twice, none that is cut in two"
    assert len(wide) == 6
    wide.save_pretrained(tmp_path / "wide")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "wide")
    text = "The rare FILM of Paris <unk> <pad> beyond"
    assert loaded(text)["input_ids"] == wide(text)["input_ids"]
    known = ["the", "rare", "film", None, "paris", None, None, None]
    assert wide(text)["input_ids"] == [0 if word is None else wide.get_vocab()[word] for word in known]
    assert (loaded.unk_token_id, loaded.pad_token_id, loaded.model_max_length) == (0, 1, narrow.model_max_length)
    vectors = load_vectors(path, wide)
    assert row_of(vectors, wide, "paris") == WIDE["Paris"] and row_of(vectors, wide, "rare") == WIDE["rare"]


def test_widening_keeps_the_ids_of_tokens_that_were_added(write, tmp_path):
    narrow = make_tokenizer("the", "film")
    narrow.add_tokens(["paris", "later"])
    wide = widen_vocabulary(narrow, write(write_text({word.lower(): row for word, row in WIDE.items()})), 99)
    wide.save_pretrained(tmp_path / "wide")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "wide")
    assert loaded.get_vocab() == wide.get_vocab()
    assert wide.get_vocab().items() >= narrow.get_vocab().items()
    assert sorted(wide.get_vocab().values()) == list(range(len(wide)))
    text = "the rare film of paris later"
    assert loaded(text)["input_ids"] == wide(text)["input_ids"]


@pytest.mark.parametrize("normalizer", ["none", "semeval", "tweet"])
def test_every_word_that_was_added_is_found_in_a_text(write, normalizer):
    listed = ["The", "don't", "#tag", "12", "u.s.", "Ｗide", "naïve", ":)", "😀", "x-y", "a/b", "<user>", "sooo", "ﬁn"]
    path = write(write_text({word: [0.5] * 2 for word in listed}))
    narrow = make_tokenizer("box", lowercase=True, normalizer=normalizer)
    wide = widen_vocabulary(narrow, path, 99)
    for word in wide.get_vocab().keys() - narrow.get_vocab().keys():
        again = [text for text in listed if wide(text)["input_ids"] == [wide.get_vocab()[word]]]
        assert again, f"{word} is the id of no listed word"


def test_widening_refusals(write, bert):
    path = write(write_text(WIDE))
    with pytest.raises(UserError, match="at least 1, found 0"):
        widen_vocabulary(make_tokenizer("the"), path, 0)
    with pytest.raises(UserError, match="for a vocabulary of whole words"):
        widen_vocabulary(AutoTokenizer.from_pretrained(bert[0]), path, 5)


# ---- in a training run ----

INVENTED = ("the", "box", "miro", "selk", "unheard")


@pytest.fixture(scope="module")
def vector_file(tmp_path_factory):
    """Vectors of 8 numbers for some of the words of the invented texts, and for one that stands in none."""
    numbers = np.random.default_rng(3).normal(size=(len(INVENTED), 8)).astype(np.float32)
    path = tmp_path_factory.mktemp("vectors") / "invented.txt"
    path.write_bytes(write_text(dict(zip(INVENTED, numbers.tolist(), strict=True))))
    return path, dict(zip(INVENTED, torch.from_numpy(numbers), strict=True))


@pytest.fixture
def train_with(tiny_settings, vector_file, tmp_path):
    """Train with the vectors and return embedding by word, other weights, and the result."""

    def run(name, **changes):
        settings = {key: value for key, value in tiny_settings.items() if key != "embedding_size"}
        changes.setdefault("vectors", str(vector_file[0]))
        result = train(**{**settings, "num_train_epochs": 1, "output_dir": str(tmp_path / name), **changes})
        weights = load_file(result.folder / "model.safetensors")
        embedding = weights.pop(next(key for key in weights if key.endswith("embedding.weight")))
        vocabulary = AutoTokenizer.from_pretrained(result.folder).get_vocab()
        return {word: embedding[index] for word, index in vocabulary.items()}, weights, result

    return run


def test_frozen_vectors_stay_and_words_unseen_in_training_have_theirs(train_with, vector_file):
    embedding, _, result = train_with("frozen", freeze_embedding=True, widen_vocabulary=10)
    for word, vector in vector_file[1].items():
        torch.testing.assert_close(embedding[word], vector, rtol=0, atol=0)
    model = AutoModelForSequenceClassification.from_pretrained(result.folder)
    assert model.config.embedding_size == 8
    tokenizer = AutoTokenizer.from_pretrained(result.folder)
    assert tokenizer("unheard")["input_ids"] != [tokenizer.unk_token_id]
    with torch.no_grad():
        answers = [model(**tokenizer(text, return_tensors="pt")).logits for text in ("unheard", "unknown")]
    assert not torch.equal(*answers), "a word that training never saw is not just unknown"
    # 17 words of the texts, and unheard
    assert result.card.vectors["coverage_types"] == 5 / 18
    rows = [text.split() for text, _ in invent_rows(240, 1)]
    tokens = [word for row in rows for word in row]
    assert result.card.vectors["coverage_tokens"] == pytest.approx(sum(t in INVENTED for t in tokens) / len(tokens))
    card = (result.folder / "README.md").read_text(encoding="utf-8")
    assert "Its token vectors started from invented.txt, which has vectors for 27.8% of its vocabulary" in card


def test_the_same_texts_without_widening(train_with):
    embedding, _, result = train_with("narrow")
    assert "unheard" not in embedding
    assert result.card.vectors["coverage_types"] == 4 / 17


def test_the_embedding_moves_by_its_own_rate(train_with, vector_file):
    """One step of plain SGD: what the embedding moves is its rate times its gradient, and nothing else changes."""
    step = {
        "max_steps": 1,
        "optim": "sgd",
        "lr_scheduler_type": "constant",
        "learning_rate": 0.25,
        "max_grad_norm": 0.0,
        "weight_decay": 0.0,
        "eval_strategy": "no",
        "save_strategy": "no",
        "load_best_model_at_end": False,
        "metric_for_best_model": None,
        "early_stopping_patience": None,
    }
    runs = {
        rate: train_with(f"rate {rate}", **step, **({} if rate is None else {"embedding_learning_rate": rate}))
        for rate in (None, 0.0, 0.5, 1.0)
    }
    start = vector_file[1]
    moved = {
        rate: torch.stack([embedding[word] - start[word] for word in INVENTED[:4]])
        for rate, (embedding, _, _) in runs.items()
    }
    assert not moved[0.0].any()
    assert moved[0.5].abs().max() > 1e-5
    torch.testing.assert_close(moved[1.0], 2 * moved[0.5], rtol=1e-2, atol=1e-6)
    torch.testing.assert_close(moved[0.5], 2 * moved[None], rtol=1e-2, atol=1e-6)
    for _, weights, _ in runs.values():
        for name, weight in weights.items():
            torch.testing.assert_close(weight, runs[None][1][name], rtol=0, atol=0)


def test_tuned_vectors_move_and_the_run_learns(train_with, vector_file):
    embedding, _, result = train_with("tuned", num_train_epochs=6, embedding_learning_rate=0.02)
    assert (embedding["miro"] - vector_file[1]["miro"]).abs().max() > 1e-3
    assert not embedding["<pad>"].any()
    assert result.metrics["validation"]["accuracy"] > 0.8


def test_a_model_as_the_source_of_a_run(train_with, bert, tmp_path):
    texts = tmp_path / "texts"
    texts.mkdir()
    rows = [(f"{'a film' if label == 'good' else 'unseen <'} >", label) for label in LABELS for _ in range(6)]
    for name in ("train", "dev"):
        write_rows(texts / f"{name}.tsv", rows)
    settings = {"data_dir": str(texts), "min_frequency": 1, "freeze_embedding": True}
    embedding, _, result = train_with("bert", vectors=str(bert[0]), **settings)
    torch.testing.assert_close(embedding["film"], bert[1][PIECES.index("film")], rtol=0, atol=0)
    assert result.card.vectors["name"] == "tiny-bert"


def test_a_run_does_not_go_on_with_other_vectors(train_with, vector_file, tmp_path):
    train_with("run")
    other = tmp_path / "other.txt"
    other.write_bytes(vector_file[0].read_bytes().replace(b"miro -", b"miro ").replace(b"miro ", b"miro 1", 1))
    with pytest.raises(UserError, match="this has changed: the pretrained vectors"):
        train_with("run", vectors=str(other), resume=True, num_train_epochs=2)
    _, _, result = train_with("run", resume=True, num_train_epochs=2, resume_anyway=True)
    assert result.metrics["training"]["epochs"] == 2


def test_without_vectors_all_is_as_it_was():
    arguments = parse_settings({"data_dir": "x", "output_dir": "y"})
    tokenizer = make_tokenizer("the")
    assert prepare_vectors(arguments, tokenizer, None) == (arguments, tokenizer, None)


def test_words_of_a_recipe_are_left_out_with_a_tokenizer_that_cuts_them():
    """What the recipe sets goes with a vocabulary of the texts' words; what the user sets is refused elsewhere."""
    flags = ["--recipe", "best", "--vectors", "there", "--data_dir", "here", "--output_dir", "out"]
    assert parse_argv(flags).data.widen_vocabulary == 50_000
    for name in ("--tokenizer_name_or_path", "--tokenizer-name-or-path"):
        assert parse_argv([*flags, name, "there"]).data.widen_vocabulary is None
    assert (
        parse_argv([*flags, "--tokenizer_name_or_path", "there", "--widen_vocabulary", "7"]).data.widen_vocabulary == 7
    )


def test_settings_that_contradict_the_vectors(train_with, vector_file, tmp_path):
    with pytest.raises(UserError, match="embedding_size is 16, and the vectors of .* have 8 numbers: leave"):
        train_with("size", embedding_size=16)
    with pytest.raises(UserError, match="freeze_embedding leaves the embedding out of training"):
        train_with("frozen", freeze_embedding=True, embedding_learning_rate=0.1)
    with pytest.raises(UserError, match="embedding_learning_rate must be finite and not negative, found -1"):
        train_with("negative", embedding_learning_rate=-1.0)
    with pytest.raises(UserError, match="widen_vocabulary must be at least 1, found 0"):
        train_with("zero", widen_vocabulary=0)
    with pytest.raises(
        UserError, match="widen_vocabulary, which recipe best sets, takes words of pretrained vectors: give vectors"
    ):
        train_with("none", vectors=None, widen_vocabulary=5)
    assert not list(tmp_path.iterdir())


def test_mistakes_on_the_command_line(command, texts_dir, tmp_path):
    """Exit 2 and one line, before any folder is made."""
    (tmp_path / "bad.txt").write_bytes(b"the 0.5 0.25\nbox 0.5\n")
    for name, message in {
        "absent.txt": "there are no vectors at",
        "bad.txt": "bad.txt, line 2: 1 numbers should be 2",
    }.items():
        code, out, err = command(
            "train", "--data_dir", texts_dir, "--output_dir", tmp_path / "out", "--vectors", tmp_path / name
        )
        assert (code, out) == (2, "")
        assert "Traceback" not in err
        assert message in err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_vectors_on_the_command_line(command, texts_dir, vector_file, tmp_path):
    flags = ["--num_train_epochs", "1", "--hidden_size", "8", "--use_cpu", "--widen_vocabulary", "5"]
    flags += ["--embedding_learning_rate", "1e-4", "--vectors", vector_file[0]]
    code, out, err = command("train", "--data_dir", texts_dir, "--output_dir", tmp_path / "out", *flags)
    assert code == 0, err
    assert "vectors of invented.txt: 5 of 18 words (27.8%), " in err
    assert "embedding_size is 8, that of the vectors" in err
    assert Path(tmp_path / "out" / "model.safetensors").is_file()
