"""A vocabulary widened by the words of vectors."""

import pytest
from tokenizers.models import WordLevel
from transformers import AutoTokenizer
from vector_files import make_tokenizer, row_of, write_text

from hf_rnn.data.vectors import load_vectors, widen_vocabulary
from hf_rnn.utils.errors import UserError

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


def test_widening_gives_no_id_twice_where_ids_have_gaps(write):
    narrow = make_tokenizer("the", "film")
    gaps = {word: 3 * index for word, index in narrow.get_vocab().items()}
    narrow.backend_tokenizer.model = WordLevel(gaps, unk_token="<unk>")
    added = widen_vocabulary(narrow, write(write_text(WIDE)), 99).get_vocab().items() - gaps.items()
    assert sorted(index for _, index in added) == list(range(10, 10 + len(added))) and len(added) > 1


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
