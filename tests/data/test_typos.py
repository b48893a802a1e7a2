"""Typing mistakes: one per chosen word, none in numbers, handles and links, the same by seed."""

import random
from itertools import permutations

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_rnn.data.typos import mistype, mistype_half, mistype_rows

UNTOUCHED = [
    "12345",
    "$9.99",
    "@friend",
    "https://a.example/path",
    "www.example.org",
    "me@example.org",
    "<<<URL>>>",
]
UNTOUCHED += [
    "bit.ly/abcdef",
    "(example.com/page)",
    "news.example.co.uk/today",
    "R&amp;Dream",
    "&quot;Hello",
]
UNTOUCHED += ["😂😂", "an", "U2", "b2b", "...", "我的", "I'm"]


def distance(first, second):
    """Return the edits from a word to another: a letter more, less or other, or a swapped pair."""
    rows = {(i, 0): i for i in range(len(first) + 1)} | {(0, j): j for j in range(len(second) + 1)}
    for i in range(1, len(first) + 1):
        for j in range(1, len(second) + 1):
            rows[i, j] = min(
                rows[i - 1, j] + 1,
                rows[i, j - 1] + 1,
                rows[i - 1, j - 1] + (first[i - 1] != second[j - 1]),
            )
            if i > 1 and j > 1 and first[i - 2 : i] == second[j - 2 : j][::-1]:
                rows[i, j] = min(rows[i, j], rows[i - 2, j - 2] + 1)
    return rows[len(first), len(second)]


def test_each_chosen_word_has_one_mistake():
    words = [
        "battery",
        "Größe",
        "don't",
        "hello!",
        "über-rascht",
        "cafe\u0301s",
        "HELLO",
        "книга",
        "aaa",
    ] * 50
    typed = mistype(" ".join(words), 1.0, random.Random(0)).split(" ")
    assert len(typed) == len(words)
    for word, mistyped in zip(words, typed, strict=True):
        assert 1 <= distance(word, mistyped) <= 2, (
            "two code points if a letter has an accent of its own"
        )
    beside = [f"aaa{key}"[1:] for key in "qwsz"]  # A on the keyboard
    beside = {"".join(letters) for word in beside for letters in permutations(word)}
    same = {mistyped for word, mistyped in zip(words, typed, strict=True) if word == "aaa"}
    assert {"aa", "aaaa"} < same <= {"aa", "aaaa", *beside}
    upper = [mistyped for word, mistyped in zip(words, typed, strict=True) if word == "HELLO"]
    assert all(map(str.isupper, upper)) and len(set(upper)) > 15, "all kinds of mistakes"


def test_the_mistakes_of_letters_without_a_keyboard_are_of_these_letters():
    text = "книга хорошая बहुतअच्छा" * 40
    assert set(mistype(text, 1.0, random.Random(0))) <= set(text)


@pytest.mark.parametrize("word", UNTOUCHED)
def test_words_that_are_not_typed_letter_by_letter_stay(word):
    assert {mistype(word, 1.0, random.Random(seed)) for seed in range(50)} == {word}


@given(st.text(), st.integers())
def test_any_text_keeps_white_space_and_its_number_of_words(text, seed):
    typed = mistype(text, 1.0, random.Random(seed))
    assert [part for part in typed if part.isspace()] == [part for part in text if part.isspace()]
    assert len(typed.split()) == len(text.split())
    assert mistype(text, 0.0, random.Random(seed)) == text
    assert typed == mistype(text, 1.0, random.Random(seed))


def test_shares_are_those_of_words_and_of_texts():
    text = "seven letters in every single word that stands here " * 2000
    typed = mistype(text, 0.2, random.Random(1)).split()
    long = [(word, other) for word, other in zip(text.split(), typed, strict=True) if len(word) > 2]
    assert sum(word != other for word, other in long) / len(long) == pytest.approx(0.2, abs=0.02)
    texts = ["whatever people write in a hurry has some mistakes in its words"] * 4000
    typed = list(mistype_half(texts, 0.2, random.Random(2)))
    clean = sum(first == second for first, second in zip(texts, typed, strict=True)) / 4000
    assert 0.5 < clean < 0.62, "half of the texts, and some others by chance"
    assert list(mistype_half(texts, 0.0, random.Random(2))) == texts


def test_rows_of_every_task_keep_their_labels_and_words():
    columns = {
        "text": ["some words here"] * 50,
        "text_pair": ["others there"] * 50,
        "label": list(range(50)),
    }
    rows = datasets.Dataset.from_dict(columns)
    typed = mistype_rows(rows, 0.5, "0 1")
    assert (
        typed["label"][:] == rows["label"][:]
        and typed["text"][:] != rows["text"][:] != typed["text_pair"][:]
    )
    assert (
        typed["text"][:]
        == mistype_rows(rows, 0.5, "0 1")["text"][:]
        != mistype_rows(rows, 0.5, "0 2")["text"][:]
    )
    sentences = [["New York", "is", "", "big"], ["words", "and", "others"]] * 30
    typed = mistype_rows(datasets.Dataset.from_dict({"tokens": sentences}), 0.5, "0")["tokens"][:]
    assert [len(words) for words in typed] == [4, 3] * 30 and typed != sentences
    assert {words[1] for words in typed[::2]} == {"is"} and {words[2] for words in typed[::2]} == {
        ""
    }
