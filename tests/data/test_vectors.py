"""Vectors for the words of a tokenizer: files, tables of models, other forms, coverage."""

import gzip

import numpy as np
import pytest
import torch
from hub_server import Repo
from tiny_bert import PIECES
from transformers import AutoTokenizer
from vector_files import FORMATS, TABLE, make_tokenizer, row_of, write_text

from hf_rnn.data.vectors import load_vectors, read_file
from hf_rnn.utils.errors import UserError


def test_the_first_form_with_vectors_is_taken(write):
    table = {"usa": [1.0, 0.0], "USA": [2.0, 0.0], "London": [3.0, 0.0], "<user>": [4.0, 0.0]}
    tokenizer = make_tokenizer("usa", "london", "<user>", "don't", "Usa")
    loaded = load_vectors(write(write_text(table)), tokenizer)
    expected = {"usa": [1, 0], "Usa": [1, 0], "london": [3, 0], "<user>": [4, 0]}
    assert {word: row_of(loaded, tokenizer, word) for word in expected} == expected
    assert (loaded.words, loaded.covered) == (5, 4)


def test_coverage_worked_by_hand(write):
    tokenizer = make_tokenizer("the", "film", "zyx", "london")
    # 7 tokens; the, film, the, film, london have vectors
    texts = ["the film the", "zyx film", "london unheard", ""]
    loaded = load_vectors(write(write_text(TABLE)), tokenizer, texts=iter(texts))
    assert loaded.coverage == "3 of 4 words (75.0%), 71.4% of the tokens"
    assert loaded.describe() == {
        "name": "vectors.txt",
        "coverage_types": 3 / 4,
        "coverage_tokens": 5 / 7,
    }
    for texts in (None, []):
        assert load_vectors(write(write_text(TABLE)), tokenizer, texts=texts).token_share is None
    assert not loaded.matrix[tokenizer.pad_token_id].any()


def test_words_without_a_vector_are_drawn_at_the_scale_of_the_others(write):
    numbers = np.random.default_rng(1).normal(scale=0.3, size=(20, 200)).astype(np.float32)
    words = [f"word{index}" for index in range(20)]
    path = write(write_text(dict(zip(words, numbers.tolist(), strict=True))))
    tokenizer = make_tokenizer(*words, *(f"absent{index}" for index in range(20)))
    first, again, other = (load_vectors(path, tokenizer, seed=seed) for seed in (1, 1, 2))
    drawn = [index for word, index in tokenizer.get_vocab().items() if word.startswith("absent")]
    known = [tokenizer.get_vocab()[word] for word in words]
    assert first.matrix[drawn].std().item() == pytest.approx(numbers.std(), rel=0.05)
    assert torch.equal(first.matrix, again.matrix)
    assert torch.equal(first.matrix[known], other.matrix[known])
    assert not torch.equal(first.matrix[drawn], other.matrix[drawn])


def test_sources_that_are_not_vectors(tmp_path, hub, write, bert):
    tokenizer = make_tokenizer("the")
    with pytest.raises(UserError, match="have 3 numbers, and embedding_size is 4"):
        load_vectors(write(write_text(TABLE)), tokenizer, embedding_size=4)
    with pytest.raises(UserError, match="none of the 2 words"):
        load_vectors(write(write_text(TABLE)), make_tokenizer("zyx", "qqq"))
    for source, message in {
        tmp_path / "absent.txt": r"no vectors at .*absent\.txt",
        "../no such/name": "no vectors at",
        "nobody/nothing": "nobody/nothing",
    }.items():
        with pytest.raises(UserError, match=message):
            load_vectors(source, tokenizer)


# ---- files ----


def read_lists(path, words):
    return {word: row.tolist() for word, row in read_file(path, words).items()}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_numbers(write, name):
    path = write(FORMATS[name], name)
    assert read_lists(path, ["the", "näive", "absent"]) == {
        word: TABLE[word] for word in ("the", "näive")
    }
    tokenizer = make_tokenizer("film", "the", "näive")
    loaded = load_vectors(path, tokenizer)
    assert loaded.matrix.shape == (5, 3) and loaded.matrix.dtype == torch.float32
    assert all(row_of(loaded, tokenizer, word) == TABLE[word] for word in ("film", "the", "näive"))
    assert loaded.name == name
    spaced = write(b"the 0.5 0.25\nat name@domain.com 0.5 0.75\n", "spaced.txt")
    assert read_lists(spaced, ["at name@domain.com", "at"]) == {"at name@domain.com": [0.5, 0.75]}


LONG = {f"w{number}": [number + 0.5, 0.25, -0.125] for number in range(40)}
TEXT, VEC = write_text(LONG), write_text(LONG, header=True)
DAMAGED = {
    "prose": (b"password is hunter2\n", "line 1: expected a word and 2 numbers"),
    "a fastText model": (b"\xba\x16\x4f\x2f\x0c\0\0\0", r"fastText \(its \.vec file\)"),
    "one number too few": (
        b"w0 0.5 0.25 1.5\nw1 0.5 0.25\n",
        "line 2: expected a word and 3 numbers, found 2",
    ),
    "no number": (b"w0 0.5 0.25\nw1 0.5 x\n", "'w1': could not convert"),
    "NaN": (b"w0 0.5 0.25\nw1 0.5 nan\n", "'w1' contains a number that is not finite"),
    "text cut after a row": (VEC[: VEC.rindex(b"w39")], "has 39 rows and announces 40 on line 1"),
    "binary word2vec": (
        b"1 3\nw0 " + np.ones(3, "<f4").tobytes(),
        "line 2: expected a word and 3 numbers",
    ),
    "gzip cut short": (gzip.compress(TEXT)[:-20], "it is damaged"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damage_is_reported_with_its_place(write, damage):
    content, message = DAMAGED[damage]
    path = write(content, "v.txt")
    with pytest.raises(UserError, match=message) as caught:
        load_vectors(path, make_tokenizer("w0", "w1", "w39"))
    assert str(path) in str(caught.value)
    assert "hunter2" not in str(caught.value), "a line of another file is nobody's business"


# ---- tables of models ----


def test_words_are_rows_or_means_of_pieces(bert):
    piece = {name: bert[1][index] for index, name in enumerate(PIECES)}
    tokenizer = make_tokenizer("film", "FILM", "unseen", "zyx", ":)")
    loaded = load_vectors(bert[0], tokenizer, texts=["film unseen zyx"])
    assert loaded.name == "tiny-bert"
    for word, expected in {
        "film": piece["film"],
        "FILM": piece["film"],
        "unseen": (piece["un"] + piece["##seen"]) / 2,
        ":)": (piece[":"] + piece[")"]) / 2,
    }.items():
        torch.testing.assert_close(loaded.matrix[tokenizer.get_vocab()[word]], expected)
    assert loaded.covered == 4, "zyx is unknown"
    assert loaded.token_share == 2 / 3
    assert not torch.equal(loaded.matrix[0], load_vectors(bert[0], tokenizer, seed=1).matrix[0]), (
        "<unk> is drawn"
    )


def test_a_models_own_tokenizer_gets_its_rows_unchanged(bert):
    tokenizer = AutoTokenizer.from_pretrained(bert[0])
    expected = bert[1].clone()
    expected[tokenizer.pad_token_id] = 0
    loaded = load_vectors(bert[0], tokenizer)
    torch.testing.assert_close(loaded.matrix, expected, rtol=0, atol=0)
    assert loaded.covered == loaded.words


def test_a_model_on_the_hub(hub, bert):
    repo = hub.repos["me/tiny"] = Repo("me", False)
    repo.add("main", "a model", {path.name: path.read_bytes() for path in bert[0].iterdir()})
    tokenizer = make_tokenizer("film")
    loaded = load_vectors("me/tiny", tokenizer)
    assert loaded.name == "me/tiny"
    assert torch.equal(loaded.matrix, load_vectors(bert[0], tokenizer).matrix)
