"""Vectors for the words of a tokenizer: other forms, coverage, sources, and widened vocabularies."""

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer
from vector_files import TABLE, make_tokenizer, row_of, write_text

from hf_rnn.data.vectors import load_vectors, widen_vocabulary
from hf_rnn.data.vectors.loading import is_placeholder, list_forms
from hf_rnn.utils.errors import UserError


@pytest.mark.parametrize(
    ("word", "forms"),
    [
        ("london", [("london",), ("London",), ("LONDON",)]),
        ("<<<MENTION>>>", [("<user>",), ("@user",), ("user",)]),
        ("<number>", [("<num>",), ("number",)]),
        (":-)", [("<smile>",)]),
        ("Can't", [("Ca", "n't"), ("ca", "n't")]),
        ("well-known", [("well", "known")]),
        ("", []),
    ],
)
def test_forms_in_their_order(word, forms):
    listed = list_forms(word)
    assert listed[0] == (word,)
    assert [form for form in listed if form in forms] == forms
    assert len(set(listed)) == len(listed) and () not in listed
    assert list_forms("film", "▁film")[0] == ("▁film",)
    assert is_placeholder("<url>") and not is_placeholder("<b>")


def test_the_first_form_with_vectors_is_taken(write):
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
    expected = {"usa": [1, 0], "Usa": [1, 0], "london": [3, 0], "<<<mention>>>": [4, 0], "don't": [7, 3]}
    assert {word: row_of(loaded, tokenizer, word) for word in expected} == expected
    assert (loaded.coverage.words, loaded.coverage.found) == (6, 5), "known is missing, so well-known is too"


def test_coverage_worked_by_hand(write):
    tokenizer = make_tokenizer("the", "film", "zyx", "london")
    texts = ["the film the", "zyx film", "london unheard", ""]  # 7 tokens; the, film, the, film, london have vectors
    loaded = load_vectors(write(write_text(TABLE)), tokenizer, texts=iter(texts))
    assert (loaded.coverage.words, loaded.coverage.found) == (4, 3)
    assert str(loaded.coverage) == "3 of 4 words (75.0%), 71.4% of the tokens"
    assert loaded.describe() == {"name": "vectors.txt", "coverage_types": 3 / 4, "coverage_tokens": 5 / 7}
    for texts in (None, []):
        assert load_vectors(write(write_text(TABLE)), tokenizer, texts=texts).coverage.token_share is None
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
    assert torch.equal(first.matrix, again.matrix) and first.fingerprint() == again.fingerprint()
    assert torch.equal(first.matrix[known], other.matrix[known])
    assert not torch.equal(first.matrix[drawn], other.matrix[drawn]) and first.fingerprint() != other.fingerprint()


def test_sources_that_are_not_vectors(tmp_path, hub):
    tokenizer = make_tokenizer("the")
    for source, message in {
        tmp_path / "absent.txt": r"no vectors at .*absent\.txt",
        "../no such/name": "no vectors at",
        tmp_path: "no config.json: give",
        "nobody/nothing": "nobody/nothing",
    }.items():
        with pytest.raises(UserError, match=message):
            load_vectors(source, tokenizer)
    (tmp_path / "fold-1").mkdir()
    (tmp_path / "fold-1" / "config.json").write_text("{}")
    with pytest.raises(UserError, match="did you mean .*fold-1"):
        load_vectors(tmp_path, tokenizer)


def test_vectors_that_do_not_fit(write):
    path = write(write_text(TABLE))
    with pytest.raises(UserError, match="have 3 numbers, and embedding_size is 4"):
        load_vectors(path, make_tokenizer("the"), embedding_size=4)
    with pytest.raises(UserError, match="none of the 2 words"):
        load_vectors(path, make_tokenizer("zyx", "qqq"))


# ---- widen_vocabulary ----

WIDE = {"The": [0.5, 1.5], "Paris": [2.5, 3.5], "film": [4.5, 5.5], "<unk>": [6.5, 7.5], "a\u3000b": [1.0, 2.0]}
WIDE |= {"rare": [8.5, 9.5], "beyond": [0.25, 0.75]}


def test_widening_keeps_ids_and_adds_the_first_words(write, tmp_path):
    path = write(write_text(WIDE))
    narrow = make_tokenizer("the", "film", "film", lowercase=True)
    before = narrow.get_vocab()
    wide = widen_vocabulary(narrow, path, 6)
    assert narrow.get_vocab() == before
    assert wide.get_vocab() == {**before, "paris": 4, "rare": 5}
    wide.save_pretrained(tmp_path / "wide")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "wide")
    text = "The rare FILM of Paris <unk> <pad> beyond"
    known = ["the", "rare", "film", None, "paris", None, None, None]
    assert wide(text)["input_ids"] == [0 if word is None else wide.get_vocab()[word] for word in known]
    assert loaded(text)["input_ids"] == wide(text)["input_ids"]
    assert (loaded.unk_token_id, loaded.pad_token_id, loaded.model_max_length) == (0, 1, narrow.model_max_length)
    vectors = load_vectors(path, wide)
    assert row_of(vectors, wide, "paris") == WIDE["Paris"] and row_of(vectors, wide, "rare") == WIDE["rare"]


@pytest.mark.parametrize("normalizer", ["none", "tweet"])
def test_every_added_word_is_found_in_a_text(write, normalizer):
    listed = ["The", "don't", "#tag", "12", "u.s.", "Ｗide", "naïve", ":)", "😀", "x-y", "a/b", "<user>", "sooo", "ﬁn"]
    path = write(write_text({word: [0.5] * 2 for word in listed}))
    narrow = make_tokenizer("box", lowercase=True, normalizer=normalizer)
    wide = widen_vocabulary(narrow, path, 99)
    added = {index for word, index in wide.get_vocab().items() if word not in narrow.get_vocab()}
    assert added and added <= {wide(text)["input_ids"][0] for text in listed if len(wide(text)["input_ids"]) == 1}


def test_widening_refusals(write, bert):
    path = write(write_text(WIDE))
    with pytest.raises(UserError, match="at least 1, found 0"):
        widen_vocabulary(make_tokenizer("the"), path, 0)
    with pytest.raises(UserError, match="vocabulary of whole words"):
        widen_vocabulary(AutoTokenizer.from_pretrained(bert[0]), path, 5)
