"""What data/README.md promises of the sample."""

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


def word_trigrams(text):
    words = text.lower().split()
    return {tuple(words[i : i + 3]) for i in range(len(words) - 2)}


@pytest.mark.parametrize("split", LEAST_ROWS)
def test_form_and_shares(split):
    rows = read(split)
    assert len(rows) >= LEAST_ROWS[split]
    assert all(len(row) == 2 and row[0] == row[0].strip() != "" for row in rows)
    counts = collections.Counter(label for _, label in rows)
    page = (DATA / "README.md").read_text(encoding="utf-8")
    stated = re.search(rf"\| `{split}.tsv` \| (.*) \|", page).group(1)
    cells = [
        str(len(rows)),
        *(f"{counts[label]} ({counts[label] / len(rows):.1%})".replace("%", " %") for label in LABELS),
    ]
    assert stated == " | ".join(cells)


def test_no_two_tweets_share_more_than_half_of_their_trigrams():
    trigrams = [word_trigrams(text) for split in LEAST_ROWS for text, _ in read(split)]
    holders = collections.defaultdict(list)
    for number, present in enumerate(trigrams):
        for trigram in present:
            holders[trigram].append(number)
    pairs = collections.Counter(pair for rows in holders.values() for pair in itertools.combinations(rows, 2))
    assert pairs, "premise: some trigrams do recur"
    for (left, right), shared in pairs.items():
        assert shared <= 0.5 * min(len(trigrams[left]), len(trigrams[right]))
    texts = [text for split in LEAST_ROWS for text, _ in read(split)]
    assert len(texts) == len(set(texts))


@pytest.mark.parametrize(
    "settings",
    [{}, {"ngram_range": (1, 2)}, {"analyzer": "char_wb", "ngram_range": (2, 5)}],
    ids=["word", "word12", "char"],
)
def test_no_word_gives_a_label_away(settings):
    """A linear model over words or characters learns the set, and stays under 0.9 on its test split."""
    text = pytest.importorskip("sklearn.feature_extraction.text")
    linear_model = pytest.importorskip("sklearn.linear_model")
    vectorizer = text.TfidfVectorizer(**settings)
    train, test = read("train"), read("test")
    model = linear_model.LogisticRegression(C=10, max_iter=1000)
    model.fit(vectorizer.fit_transform([t for t, _ in train]), [label for _, label in train])
    accuracy = model.score(vectorizer.transform([t for t, _ in test]), [label for _, label in test])
    assert 0.6 < accuracy < 0.9
