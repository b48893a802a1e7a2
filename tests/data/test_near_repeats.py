"""Near repeats against all pairs, and against texts that were typed again."""

import random
from itertools import combinations
from pathlib import Path

import datasets
import numpy as np
import pytest
from rapidfuzz.distance import OSA

from hf_rnn import load_tsv
from hf_rnn.data.near_repeats import find_near_repeats, group_near_repeats
from hf_rnn.data.splits import hold_out
from hf_rnn.data.typos import mistype
from hf_rnn.quality.audit import count_near_pairs, find_near_pairs

ROOT = Path(__file__).parents[2]
TEXTS = sorted(set(load_tsv(ROOT / "data/tweets")["train"]["text"]))


def find(texts):
    pairs = find_near_repeats(texts)
    return {(int(a), int(b)) for a, b in zip(pairs.first, pairs.second, strict=True)}


@pytest.mark.parametrize(
    ("one", "other", "near"),
    [
        ("Where is my parcel?", "where is my  PARCEL", True),
        ("my order 123 is late", "My order 98-7 is late!", True),
        ("Hi Anna, where is my parcel", "where is my parcel, thank you", True),
        ("the battery lasts all day", "the battery lasts all day", True),
        ("I want to activate my card", "I want to deactivate my card", False),
        ("how do I top up my account", "how do I close my account", False),
        ("good", "bad", False),
        ("", "", False),
    ],
)
def test_what_a_near_repeat_is(one, other, near):
    assert ((0, 1) in find([one, other])) == near


def test_texts_that_are_typed_again_are_found():
    """A tenth of the words mistyped: 95 % found, at most 1 % of the pairs of others."""
    draw = random.Random(3)
    again = [mistype(text, 0.1, draw) for text in TEXTS[:400]]
    changed = [row for row in range(400) if again[row] != TEXTS[row]]
    pairs = find([*TEXTS, *again])
    right = {(row, len(TEXTS) + row) for row in range(400)}
    found = sum((row, len(TEXTS) + row) in pairs for row in changed)
    assert len(changed) > 250 and found / len(changed) >= 0.95
    assert len(pairs - right) <= 0.01 * len(pairs)


def test_all_pairs_give_the_same():
    """Letters of all pairs compared, for texts with one mistyped word: no bucket hides one."""
    draw = random.Random(0)
    texts = TEXTS[:120] + [mistype(text, 0.05, draw) for text in TEXTS[:120]]
    pairs = find(texts)
    for one, other in combinations(range(len(texts)), 2):
        similarity = OSA.normalized_similarity(texts[one].lower(), texts[other].lower())
        if similarity > 0.97:
            assert (one, other) in pairs
        elif similarity < 0.6:
            assert (one, other) not in pairs


def test_near_repeats_stay_on_one_side():
    draw = random.Random(1)
    texts = TEXTS[:300] + [mistype(text, 0.1, draw) for text in TEXTS[:300]]
    classes = np.arange(600) % 2
    held_out = hold_out(texts, classes, 0.1, seed=0)
    groups = group_near_repeats(texts)
    assert 30 <= held_out.sum() <= 120 and len(set(groups)) < 330
    for group in set(groups):
        assert len(set(held_out[groups == group])) == 1
    # a row stays where it is when others come
    alone = hold_out(texts[:300], classes[:300], 0.1, seed=0)
    assert (alone == held_out[:300]).mean() > 0.9


def test_the_audit_counts_them_across_splits():
    features = datasets.Features(
        text=datasets.Value("string"), label=datasets.ClassLabel(names=["a", "b"])
    )
    train = {"text": ["my parcel is late today", "the app is slow"], "label": [0, 1]}
    test = {
        "text": ["my parcle is late today", "the app is slow", "the app is solw", "new"],
        "label": [1, 1, 1, 0],
    }
    splits = {"test": test, "train": train}
    data = datasets.DatasetDict(
        {name: datasets.Dataset.from_dict(rows, features) for name, rows in splits.items()}
    )
    pairs = find_near_pairs(data)
    places = pairs[["split", "row", "other_split", "other_row"]].values.tolist()
    assert places[0] == ["test", 0, "train", 0]  # another label comes first
    assert places[1:] == [["test", 2, "train", 1]]  # the exact repeat is not among them
    expected = {"source": "train", "split": "test", "pairs": 2, "rows": 2, "other_label": 1}
    assert count_near_pairs(pairs) == [expected]
