"""The linear baseline of a card: scikit-learn's own numbers, on the texts as the model reads them."""

import importlib.util
import logging

import pytest
from conftest import LABELS, invent_rows
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from hf_rnn import train_tokenizer
from hf_rnn.evaluation.baselines import linear_scores, make_linear_model
from hf_rnn.utils.errors import UserError

pytest.importorskip("sklearn", reason="the baseline is scikit-learn's")


def table(rows, names=LABELS):
    features = Features(text=Value("string"), label=ClassLabel(names=list(names)))
    columns = {"text": [text for text, _ in rows], "label": [names.index(label) for _, label in rows]}
    return Dataset.from_dict(columns, features=features)


def test_scores_are_those_of_scikit_learn_by_hand():
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import accuracy_score, f1_score, recall_score

    train, validation = invent_rows(90, 1), invent_rows(45, 2)
    texts = DatasetDict(train=table(train), validation=table(validation))
    scores = linear_scores(texts, train_tokenizer([text for text, _ in train]))

    vectorizer = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\S+", sublinear_tf=True)
    matrix = vectorizer.fit_transform([text for text, _ in train])
    model = LogisticRegression(class_weight="balanced", max_iter=1000).fit(matrix, [label for _, label in train])
    true = [label for _, label in validation]
    predicted = model.predict(vectorizer.transform([text for text, _ in validation]))
    assert scores.keys() == {"validation"}
    assert scores["validation"] == pytest.approx(
        {
            "accuracy": accuracy_score(true, predicted),
            "macro_f1": f1_score(true, predicted, average="macro"),
            "macro_recall": recall_score(true, predicted, average="macro"),
        }
    )


def test_it_reads_what_the_model_reads():
    """Only the normaliser makes the links alike: with it they tell the label, and without they never recur."""
    rows = [
        (f"https://t.co/{number} here", "good") if number % 2 else (f"x{number} here", "bad") for number in range(80)
    ]
    texts = DatasetDict(train=table(rows[:40]), validation=table(rows[40:]))
    tweet = train_tokenizer(texts["train"]["text"], normalizer="tweet", min_frequency=1)
    plain = train_tokenizer(texts["train"]["text"], normalizer="none", min_frequency=1)
    assert linear_scores(texts, tweet)["validation"]["accuracy"] == 1.0
    assert linear_scores(texts, plain)["validation"]["accuracy"] < 0.8


def test_what_cannot_be_had_is_told_in_one_line(monkeypatch, caplog):
    texts = DatasetDict(train=table(invent_rows(30, 1)), validation=table(invent_rows(9, 2)))
    tokenizer = train_tokenizer(texts["train"]["text"])
    monkeypatch.setattr("hf_rnn.evaluation.baselines.MOST_ROWS", 29)
    with caplog.at_level(logging.INFO, logger="hf_rnn"):
        assert linear_scores(texts, tokenizer) is None
    monkeypatch.undo()
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "sklearn" else found(name))
    with caplog.at_level(logging.INFO, logger="hf_rnn"):
        assert linear_scores(texts, tokenizer) is None
    assert "30 rows are more than 29" in caplog.messages[0]
    assert "pip install 'hf-rnn[baselines]'" in caplog.messages[1]
    with pytest.raises(UserError, match="scikit-learn"):
        make_linear_model()


def test_a_linear_model_that_is_too_large_is_left_out(monkeypatch, caplog):
    """One weight a class and n-gram: what it takes in memory, and in time, grows with the number of labels."""
    texts = DatasetDict(train=table([("a b", "bad"), ("b c", "good")]), validation=table([("a", "bad")]))
    tokenizer = train_tokenizer(texts["train"]["text"], min_frequency=1)
    number = len(LABELS) * len({"a", "b", "c", "a b", "b c"})
    monkeypatch.setattr("hf_rnn.evaluation.baselines.MOST_WEIGHTS", number)
    assert linear_scores(texts, tokenizer) is not None
    monkeypatch.setattr("hf_rnn.evaluation.baselines.MOST_WEIGHTS", number - 1)
    with caplog.at_level(logging.INFO, logger="hf_rnn"):
        assert linear_scores(texts, tokenizer) is None
    assert caplog.messages[-1].endswith(f"its {number} weights are more than {number - 1}")


def test_no_memory_for_a_linear_model_is_no_end_of_a_training(monkeypatch, caplog):
    from sklearn.linear_model import LogisticRegression

    def fit(*_):
        raise MemoryError("Unable to allocate 1.81 GiB")

    monkeypatch.setattr(LogisticRegression, "fit", fit)
    texts = DatasetDict(train=table(invent_rows(30, 1)), validation=table(invent_rows(9, 2)))
    assert linear_scores(texts, train_tokenizer(texts["train"]["text"])) is None
    assert caplog.messages[-1] == "no linear baseline in the card: Unable to allocate 1.81 GiB"


def test_one_class_has_no_linear_model(caplog):
    texts = DatasetDict(train=table([("a b", "bad"), ("b c", "bad")]), validation=table([("a", "bad")]))
    with caplog.at_level(logging.INFO, logger="hf_rnn"):
        assert linear_scores(texts, train_tokenizer(texts["train"]["text"], min_frequency=1)) is None
    assert "class" in caplog.messages[0]
