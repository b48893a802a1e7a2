"""The linear baseline of a card against scikit-learn used directly."""

import random
import re

import numpy as np
import pytest
from conftest import LABELS, invent_rows
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, recall_score
from sklearn.pipeline import make_pipeline, make_union
from sklearn.svm import LinearSVC

from hf_rnn import train_tokenizer
from hf_rnn.linear.baseline import fit_linear, linear_scores


def table(rows, names=LABELS):
    features = Features(text=Value("string"), label=ClassLabel(names=list(names)))
    columns = {
        "text": [text for text, _ in rows],
        "label": [names.index(label) for _, label in rows],
    }
    return Dataset.from_dict(columns, features=features)


@pytest.mark.parametrize("least", [1, 2])
def test_scores_are_those_of_scikit_learn(monkeypatch, least):
    """Among many rows, characters of one text alone are left out."""
    monkeypatch.setattr("hf_rnn.linear.baseline.MANY_ROWS", 90 if least == 2 else 91)
    train, validation = invent_rows(90, 1), invent_rows(45, 2)
    texts = DatasetDict(train=table(train), validation=table(validation))
    found = linear_scores(texts, train_tokenizer([text for text, _ in train]))
    name = found.name
    strength, balanced = float(re.search(r"C ([\d.]+)", name)[1]), "class-weighted" in name

    features = [
        TfidfVectorizer(ngram_range=(1, 4), analyzer="char", sublinear_tf=True, min_df=least)
    ]
    if "word pairs" in name:
        words = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\w+|[^\w\s]", sublinear_tf=True)
        features = [words, features[0].set_params(ngram_range=(1, 5), analyzer="char_wb")]
    model = LinearSVC(C=strength, class_weight="balanced" if balanced else None)
    model = make_pipeline(make_union(*features), model).fit(*zip(*train, strict=True))
    held_out, true = zip(*validation, strict=True)
    predicted = model.predict(held_out)
    expected = {
        "accuracy": accuracy_score(true, predicted),
        "macro_f1": f1_score(true, predicted, average="macro"),
        "macro_recall": recall_score(true, predicted, average="macro"),
    }
    assert found.scores == {"validation": pytest.approx(expected)}
    margins, right = found.margins["validation"]
    best = np.sort(model.decision_function(held_out))
    np.testing.assert_allclose(margins, best[:, -1] - best[:, -2], atol=5e-3)
    assert right.tolist() == (np.array(true) == predicted).tolist()


def invent_signals(seed):
    """Return texts of 30 random words and one that gives the class, of ten, some of them rare."""
    chance = random.Random(seed)
    labels = chance.choices(range(10), [1 / (number + 1) for number in range(10)], k=400)
    noise = [["".join(chance.choices("abcdefgh", k=4)) for _ in range(30)] for _ in labels]
    return [
        " ".join([*words, f"key{chr(105 + label)}"])
        for words, label in zip(noise, labels, strict=True)
    ], labels


@pytest.mark.slow
def test_the_options_are_chosen_for_the_rows():
    """A fixed strength loses a tenth here; the same rows give the same model."""
    (texts, labels), (others, true) = invent_signals(0), invent_signals(1)
    model, name = fit_linear(texts, labels)
    fixed = make_pipeline(model[0], LogisticRegression(class_weight="balanced")).fit(texts, labels)
    assert model.score(others, true) > fixed.score(others, true) + 0.02
    assert (
        "chosen in 3 folds" in name
        and "too few to choose" in fit_linear(["so good", "so bad"], [0, 1])[1]
    )
    again, same = fit_linear(texts, labels)
    assert (
        same == name and (again.decision_function(others) == model.decision_function(others)).all()
    )


def test_it_reads_what_the_model_reads():
    """Only the normaliser makes the links equal, so that they predict the label."""
    bad = [(f"wwww{number} here", "bad") for number in range(40)]
    train = [(f"https://t.co/{number} here", "good") for number in range(20)]
    validation = [(f"www.{number}.org here", "good") for number in range(20)]
    texts, found = (
        DatasetDict(train=table(train + bad[:20]), validation=table(validation + bad[20:])),
        {},
    )
    for normalizer in ("tweet", "none"):
        tokenizer = train_tokenizer(texts["train"]["text"], normalizer=normalizer, min_frequency=1)
        found[normalizer] = linear_scores(texts, tokenizer).scores["validation"]["accuracy"]
    assert found["tweet"] == 1.0 and found["none"] < 0.8


@pytest.mark.parametrize("reason", ["characters", "class"])
def test_a_missing_baseline_has_one_line_of_log(monkeypatch, caplog, reason):
    rows = [("a b", "bad"), ("b c", "bad" if reason == "class" else "good")]
    texts = DatasetDict(train=table(rows), validation=table([("a", "bad")]))
    tokenizer = train_tokenizer(texts["train"]["text"], min_frequency=1)
    if reason == "characters":
        monkeypatch.setattr("hf_rnn.linear.baseline.MOST_WORK", 1)
    assert linear_scores(texts, tokenizer) is None
    assert len(caplog.messages) == 1 and reason in caplog.messages[0]


def test_texts_without_spaces_have_a_baseline(monkeypatch):
    """No two texts are equal, so no word is in two of them."""
    monkeypatch.setattr("hf_rnn.linear.baseline.MANY_ROWS", 40)
    texts = [
        f"{chr(0x4E00 + number)}房间{'很好' if number % 2 else '太吵'}" for number in range(60)
    ]
    assert fit_linear(texts[:40], [0, 1] * 20)[0].predict(texts[40:]).tolist() == [0, 1] * 10
