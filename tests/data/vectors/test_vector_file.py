"""Files of vectors: every format gives the same numbers, and damage is reported with its place."""

import gzip

import pytest
import torch
from vector_files import FORMATS, TABLE, make_tokenizer, row_of, write_text

from hf_rnn.data.vectors import load_vectors
from hf_rnn.data.vectors.vector_file import VectorFile
from hf_rnn.utils.errors import UserError


def read_lists(path, words):
    return {word: row.tolist() for word, row in VectorFile(path).read(words)[1].items()}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_numbers(write, name):
    path = write(FORMATS[name], name)
    assert read_lists(path, ["the", "näive", "absent"]) == {word: TABLE[word] for word in ("the", "näive")}
    assert VectorFile(path).first_words(3) == list(TABLE)[:3]
    assert VectorFile(path).first_words(99) == list(TABLE)
    tokenizer = make_tokenizer("film", "the", "näive")
    loaded = load_vectors(path, tokenizer)
    assert loaded.matrix.shape == (5, 3) and loaded.matrix.dtype == torch.float32
    assert all(row_of(loaded, tokenizer, word) == TABLE[word] for word in ("film", "the", "näive"))
    assert loaded.name == name


def test_words_with_spaces(write):
    rows = b"the 0.5 0.25\nat name@domain.com 0.5 0.75\n. . . 1.5 2.5\n"
    expected = {"at name@domain.com": [0.5, 0.75], ". . .": [1.5, 2.5]}
    assert read_lists(write(rows), [*expected, ".", "at"]) == expected


LONG = {f"w{number}": [number + 0.5, 0.25, -0.125] for number in range(40)}
TEXT, VEC = write_text(LONG), write_text(LONG, header=True)
DAMAGED = {
    "prose": (b"It was a dark and stormy night.\n", "line 1: expected a word and its numbers"),
    "a fastText model": (b"\xba\x16\x4f\x2f\x0c\0\0\0", r"fastText model: .*\.vec"),
    "one number too few": (b"w0 0.5 0.25 1.5\nw1 0.5 0.25\n", "line 2: found 2 numbers, expected 3"),
    "a hole in an unwanted row": (b"w0 0.5 0.25 1.5\nzz 0.5  0.25\n", "line 2: found 2 numbers, expected 3"),
    "fewer than announced": (b"1 4\nw0 0.5 0.25 1.5\n", "line 2: found 3 numbers, expected 4"),
    "no number": (b"w0 0.5 0.25\nw1 0.5 x\n", "line 2: could not convert .*x"),
    "NaN": (b"w0 0.5 0.25\nw1 0.5 nan\n", "'w1' contains a number that is not finite"),
    "binary word2vec": (b"2 2\nw0 \0\0\0\x3f\0\0\0\x3fw1 \0\0\0\x3f\0\0\0\x3f", "save binary vectors"),
    "a zip archive": (b"PK\x03\x04\x14\0\n", "unpack it"),
    "text cut in a row": (TEXT[:-12], "line 40: found [12] numbers, expected 3"),
    "text cut after a row": (VEC[: VEC.rindex(b"w39")], "has 39 rows and announces 40 on line 1"),
    "gzip cut short": (gzip.compress(TEXT)[:-20], "is cut short"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damage_is_reported_with_its_place(write, damage):
    content, message = DAMAGED[damage]
    path = write(content, "v.txt")
    with pytest.raises(UserError, match=message) as caught:
        load_vectors(path, make_tokenizer("w0", "w1", "w39"))
    assert str(path) in str(caught.value)
