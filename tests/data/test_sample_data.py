"""The promises of data/README.md about the sample."""

import collections
import re
from pathlib import Path

import pytest

from hf_rnn.data.audit import hash_texts

DATA = Path(__file__).parents[2] / "data"
LEAST_ROWS = {"train": 900, "dev": 150, "test": 150}
LABELS = ("negative", "neutral", "positive")


def read(split):
    lines = (DATA / "tweets" / f"{split}.tsv").read_text(encoding="utf-8").removesuffix("\n").split("\n")
    return [tuple(line.split("\t")) for line in lines]


@pytest.mark.parametrize("split", LEAST_ROWS)
def test_form_and_shares(split):
    rows = read(split)
    assert len(rows) >= LEAST_ROWS[split]
    assert all(len(row) == 2 and row[0] == row[0].strip() != "" for row in rows)
    counts = collections.Counter(label for _, label in rows)
    page = (DATA / "README.md").read_text(encoding="utf-8")
    cells = re.search(rf"\| `{split}.tsv` \| (.*) \|", page).group(1).replace(" %", "%").split(" | ")
    assert cells == [str(len(rows)), *(f"{counts[label]} ({counts[label] / len(rows):.1%})" for label in LABELS)]


def test_no_two_tweets_are_alike():
    texts = [text for split in LEAST_ROWS for text, _ in read(split)]
    assert len(set(hash_texts(texts).tolist())) == len(texts)
