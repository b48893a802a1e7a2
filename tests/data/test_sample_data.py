"""The promises of data/README.md about the sample."""

import collections
import itertools
import re
from pathlib import Path

import pytest

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
    """No two share more than half of their trigrams of words."""
    texts = [text for split in LEAST_ROWS for text, _ in read(split)]
    assert len(texts) == len(set(texts))
    words = [text.lower().split() for text in texts]
    trigrams = [{tuple(tweet[at : at + 3]) for at in range(len(tweet) - 2)} for tweet in words]
    holders = collections.defaultdict(list)
    for number, present in enumerate(trigrams):
        for trigram in present:
            holders[trigram].append(number)
    pairs = collections.Counter(pair for rows in holders.values() for pair in itertools.combinations(rows, 2))
    assert pairs, "premise: some trigrams do recur"
    for (left, right), shared in pairs.items():
        assert shared <= 0.5 * min(len(trigrams[left]), len(trigrams[right]))


def test_no_word_reveals_a_label():
    """A linear model over words and word pairs learns the set, and stays under 0.9 on its test split."""
    text = pytest.importorskip("sklearn.feature_extraction.text")
    linear_model = pytest.importorskip("sklearn.linear_model")
    vectorizer = text.TfidfVectorizer(ngram_range=(1, 2))
    train, test = read("train"), read("test")
    model = linear_model.LogisticRegression(C=10, max_iter=1000)
    model.fit(vectorizer.fit_transform([text for text, _ in train]), [label for _, label in train])
    assert 0.6 < model.score(vectorizer.transform([text for text, _ in test]), [label for _, label in test]) < 0.9
