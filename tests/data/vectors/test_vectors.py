"""Vectors for the words of a tokenizer: forms of a word, fall-backs, coverage, and what is no source."""

import numpy as np
import pytest
import torch
from vector_files import TABLE, make_tokenizer, row_of, write_text

from hf_rnn.data.vectors import load_vectors
from hf_rnn.data.vectors.fallbacks import is_placeholder, list_forms
from hf_rnn.data.vectors.loading import find_source
from hf_rnn.utils.errors import UserError


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


@pytest.mark.parametrize("mark", ["▁", "Ġ"])
def test_forms_of_a_marked_entry(mark):
    listed = list(list_forms("film", f"{mark}film"))
    assert listed[0] == (f"{mark}film",)
    assert [form for form in listed if form in [("film",), ("FILM",)]] == [("film",), ("FILM",)]


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
    with pytest.raises(UserError, match=r"there can be no vectors at a{80}\.\.\.: File name too long"):
        find_source("a" * 300)
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
