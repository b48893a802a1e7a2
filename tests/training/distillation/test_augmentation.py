"""Changed copies of texts, and the mask that hides a word from a tokenizer."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_teacher import bert_tokenizer, bytes_tokenizer

from hf_rnn import train_tokenizer
from hf_rnn.tokenizers.normalizers import NORMALIZERS
from hf_rnn.training.distillation.augmentation import MASKED, augment, find_mask, write_masks


@given(
    st.lists(st.text(), max_size=5),
    st.integers(0, 6),
    st.floats(0, 1),
    st.floats(0, 1),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=150, deadline=None)
def test_copies_of_anything(texts, copies, hidden, cut, seed):
    def draw(texts):
        return list(augment(texts, copies, mask_probability=hidden, ngram_probability=cut, seed=seed))

    assert draw(texts) == draw(texts)
    for number, copy in draw(texts):
        assert {MASKED, *texts[number].split()} >= set(copy.split(" ")), "the number is that of its text"
    for text in texts:
        words, drawn = text.split(), [copy for _, copy in draw([text])]
        assert len(drawn) <= copies and len(set(drawn)) == len(drawn) and " ".join(words) not in drawn
        for copy in drawn:
            kept = copy.split(" ")
            places = range(len(words) - len(kept) + 1)
            assert any(
                all(word in (MASKED, original) for word, original in zip(kept, words[place:], strict=False))
                for place in places
            ), "neighbouring words in their order, some hidden"
            assert set(kept) != {MASKED} or MASKED in words
            assert len(kept) == len(words) or len(kept) <= 5


def test_more_copies_begin_with_those_of_fewer():
    texts = ["a b c d e f g h", "", "i j k l m n o p q r", "s"]
    three, seven = (list(augment(texts, copies, seed=3)) for copies in (3, 7))
    assert 3 < len(three) < len(seven) and seven[: len(three)] == three
    assert seven != list(augment(texts, 7, seed=4))


def test_as_many_words_are_hidden_and_copies_cut_as_asked():
    text = " ".join(f"w{number}" for number in range(40))
    copies = [copy for _, copy in augment([text] * 2000, 1, mask_probability=0.3, ngram_probability=0.25)]
    cut = [copy for copy in copies if len(copy.split()) < 40]
    hidden = Counter(word == MASKED for copy in copies if len(copy.split()) == 40 for word in copy.split())
    # a copy whose only words are hidden is not made: of those of one word 0.3, of those of two 0.09, ...
    assert len(cut) / 2000 == pytest.approx(0.25 * (1 - (0.3 + 0.09 + 0.027 + 0.008 + 0.002) / 5), abs=0.03)
    assert hidden[True] / hidden.total() == pytest.approx(0.3, abs=0.01)
    assert {len(copy.split()) for copy in cut} == {1, 2, 3, 4, 5}


def test_a_hidden_word_is_what_the_tokenizer_does_not_know():
    bert = bert_tokenizer()
    assert find_mask(bert) == "[MASK]"
    assert write_masks(["picture \ufffc"], "[MASK]") == ["picture \ufffc"], "what a phone leaves of a picture stays"
    ids = bert(write_masks([f"the {MASKED} sand"], "[MASK]"), add_special_tokens=False)["input_ids"]
    assert bert.convert_ids_to_tokens(ids[0]) == ["the", "[MASK]", "sand"]
    assert find_mask(bytes_tokenizer()) == "", "every byte is known"
    for normalizer in NORMALIZERS:
        own = train_tokenizer(["the sand unk mask"], min_frequency=1, normalizer=normalizer)
        (copy,) = write_masks([f"the {MASKED} sand"], find_mask(own))
        assert own.convert_ids_to_tokens(own(copy)["input_ids"]) == ["the", "<unk>", "sand"], normalizer
