"""The linear baseline of a card against scikit-learn used directly."""

import pytest
from conftest import LABELS, invent_rows
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, recall_score
from sklearn.pipeline import make_union

from hf_rnn import train_tokenizer
from hf_rnn.evaluation.baselines import linear_scores


def table(rows, names=LABELS):
    features = Features(text=Value("string"), label=ClassLabel(names=list(names)))
    columns = {"text": [text for text, _ in rows], "label": [names.index(label) for _, label in rows]}
    return Dataset.from_dict(columns, features=features)


@pytest.mark.parametrize("least", [1, 2])
def test_scores_are_those_of_scikit_learn(monkeypatch, least):
    """Among many rows, what one text alone has is left out."""
    monkeypatch.setattr("hf_rnn.evaluation.baselines.MANY_ROWS", 90 if least == 2 else 91)
    train, validation = invent_rows(90, 1), invent_rows(45, 2)
    texts = DatasetDict(train=table(train), validation=table(validation))
    scores = linear_scores(texts, train_tokenizer([text for text, _ in train]))

    vectorizer = make_union(
        TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\S+", sublinear_tf=True, min_df=least),
        TfidfVectorizer(ngram_range=(2, 5), analyzer="char_wb", sublinear_tf=True, min_df=least),
    )
    matrix = vectorizer.fit_transform([text for text, _ in train])
    model = LogisticRegression(class_weight="balanced", max_iter=1000).fit(matrix, [label for _, label in train])
    true = [label for _, label in validation]
    predicted = model.predict(vectorizer.transform([text for text, _ in validation]))
    expected = {
        "accuracy": accuracy_score(true, predicted),
        "macro_f1": f1_score(true, predicted, average="macro"),
        "macro_recall": recall_score(true, predicted, average="macro"),
    }
    assert scores == {"validation": pytest.approx(expected)}


def test_it_reads_what_the_model_reads():
    """Only the normaliser makes the links equal, so that they predict the label."""
    bad = [(f"wwww{number} here", "bad") for number in range(40)]
    train = [(f"https://t.co/{number} here", "good") for number in range(20)]
    validation = [(f"www.{number}.org here", "good") for number in range(20)]
    texts = DatasetDict(train=table(train + bad[:20]), validation=table(validation + bad[20:]))
    tweet = train_tokenizer(texts["train"]["text"], normalizer="tweet", min_frequency=1)
    plain = train_tokenizer(texts["train"]["text"], normalizer="none", min_frequency=1)
    assert linear_scores(texts, tweet)["validation"]["accuracy"] == 1.0
    assert linear_scores(texts, plain)["validation"]["accuracy"] < 0.8


@pytest.mark.parametrize("reason", ["characters", "class"])
def test_a_missing_baseline_has_one_line_of_log(monkeypatch, caplog, reason):
    rows = [("a b", "bad"), ("b c", "bad" if reason == "class" else "good")]
    texts = DatasetDict(train=table(rows), validation=table([("a", "bad")]))
    tokenizer = train_tokenizer(texts["train"]["text"], min_frequency=1)
    if reason == "characters":
        monkeypatch.setattr("hf_rnn.evaluation.baselines.MOST_CHARACTERS", 1)
    assert linear_scores(texts, tokenizer) is None
    assert len(caplog.messages) == 1 and reason in caplog.messages[0]


def test_texts_without_spaces_have_a_baseline(monkeypatch):
    """No two texts are equal, so no word is in two of them."""
    monkeypatch.setattr("hf_rnn.evaluation.baselines.MANY_ROWS", 40)
    rows = [
        (f"{chr(0x4E00 + number)}房间{'很好' if number % 2 else '太吵'}", "ab"[number % 2]) for number in range(60)
    ]
    texts = DatasetDict(train=table(rows[:40], "ab"), validation=table(rows[40:], "ab"))
    tokenizer = train_tokenizer(texts["train"]["text"], min_frequency=1, tokenizer="char")
    assert linear_scores(texts, tokenizer)["validation"]["accuracy"] == 1.0
