"""The linear part: what it learns, when it is there, and the promises of folders with it."""

import collections
import itertools
import random

import numpy as np
import pytest
import torch
from conftest import same_weights
from datasets import Dataset
from scipy.optimize import minimize
from scipy.special import log_softmax
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.svm import LinearSVC
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hf_rnn import FastRnn, train
from hf_rnn.hub.model_folder import load_model
from hf_rnn.inference.torch import compute_logits
from hf_rnn.linear.factor import USUAL_FACTOR, find_factor
from hf_rnn.linear.fit import TrainingRows, fit_part
from hf_rnn.training.trainer import RnnTrainer

SMALL = {"recipe": "scratch", "normalizer": "none", "min_frequency": 1, "use_cpu": True}
SMALL |= {"embedding_size": 8, "hidden_size": 8, "num_train_epochs": 1, "baselines": False}
WORDS = [f"w{number}" for number in range(300)]
CLASSES = ("red", "green", "blue")


def invent(count, seed, length=12):
    """Texts of three classes; a few of many words show the class, others show nothing."""
    chance = random.Random(seed)
    rows = []
    for _ in range(count):
        label = chance.randrange(3)
        words = chance.choices(WORDS, k=length)
        for _ in range(2):
            words[chance.randrange(length)] = f"{CLASSES[label]}{chance.randrange(60)}"
        rows.append((" ".join(words), CLASSES[label]))
    return rows


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A small network, which learns little, with a linear part."""
    rows = {"train": invent(900, 0), "validation": invent(400, 1)}
    folder = tmp_path_factory.mktemp("wide") / "out"
    return rows, train(rows["train"], folder, validation=rows["validation"], wide=True, **SMALL)


def without_ngrams(model):
    model.ngrams.scale.zero_()
    return model


# ---- what it is ----


def test_the_linear_part_is_a_support_vector_machine_of_scikit_learn(wide):
    """Features by scikit-learn's vectorizers; margins up to the rounding of weights to a byte."""
    rows, result = wide
    model, tokenizer = load_model(result.folder)
    factor = result.metrics["wide"]["factor"]
    texts = [text for text, _ in rows["train"]]
    labels = [model.config.label2id[label] for _, label in rows["train"]]
    counter = CountVectorizer(ngram_range=(1, 3), analyzer="word", token_pattern=r"\S+", min_df=2)
    counter.fit(texts)
    words = [word for word in tokenizer.get_vocab() if word not in tokenizer.all_special_tokens]
    pieces = CountVectorizer(ngram_range=(2, 5), analyzer="char", min_df=2, lowercase=False)
    pieces.fit(words)

    def count_letters(text):
        return pieces.transform(sorted(set(text.split()) & set(words))).sum(axis=0).A1

    def read(texts):
        lengths = np.sqrt([len(text.split()) for text in texts])[:, None]
        ngrams = (counter.transform(texts) > 0).toarray()
        return ngrams / lengths, np.stack(list(map(count_letters, texts))) / lengths

    scales = []
    for features, weight in zip(read(texts), (1, 0.5), strict=True):
        scale = np.log((1 + len(texts)) / (1 + (features > 0).sum(axis=0))) + 1
        length = np.sqrt(np.square(features * scale).sum(axis=1).mean())
        scales.append(weight * scale / length / np.hypot(1, 0.5))
    svm = LinearSVC(tol=1e-6, max_iter=20_000)
    svm.fit(np.hstack(list(map(np.multiply, read(texts), scales))), labels)

    new = [text for text, _ in invent(100, 2)]
    ids = tokenizer(new)["input_ids"]
    both = compute_logits(model, tokenizer, ids).numpy()
    network = compute_logits(without_ngrams(model), tokenizer, ids).numpy()
    expected = factor * np.hstack(list(map(np.multiply, read(new), scales))) @ svm.coef_.T
    assert np.abs(expected).max() > 0.2, "premise"
    np.testing.assert_allclose(both - network, expected, atol=0.06 * np.abs(expected).max())


def test_tokens_that_no_training_text_has_get_the_weights_of_their_letters():
    """`preheat` is not in a training text; it shares letters with words of one class."""
    words = ["heat", "heats", "heater", "cold", "colds", "colder", "preheat", "xyzzy"]
    ids = [[chance % 3 + 3 * (chance // 3 % 2)] * 2 for chance in range(60)]
    labels = np.array([row[0] // 3 for row in ids])
    encoded = Dataset.from_dict({"input_ids": ids})
    weights = {0: 1.0, 1: 1.0}
    rows = TrainingRows([encoded], labels, np.ones(60), weights, None, 2)
    linear = fit_part(rows, dict(enumerate(words)))
    unseen = Dataset.from_dict({"input_ids": [[6], [7]]})
    heat, unknown = linear.score(unseen)
    assert heat[0] > heat[1] + 0.1
    np.testing.assert_allclose(unknown, linear.biases)


def test_it_knows_words_that_the_network_does_not(wide):
    rows, result = wide
    metrics = result.metrics
    assert metrics["validation"]["accuracy"] > metrics["wide"]["network"]["accuracy"] + 0.1
    for label, shown in metrics["wide"]["strongest"].items():
        assert sum(label in text for text in shown) >= 3, shown
    texts = collections.Counter(
        span for text, _ in rows["train"] for span in {*find_spans(text.split())}
    )
    for text in itertools.chain.from_iterable(metrics["wide"]["strongest"].values()):
        assert texts[text] >= 2, "an n-gram of one text can be private"


def test_the_card_describes_it(wide):
    _, result = wide
    card = (result.folder / "README.md").read_text(encoding="utf-8")
    facts = result.metrics["wide"]
    ngrams = f"{facts['ngrams']:,} n-grams with factor {facts['factor']:.2g}"
    assert f"and a linear part over {ngrams}." in card
    for shown in facts["strongest"].values():
        assert " · ".join(shown) in card


def find_spans(words):
    for size in (1, 2, 3):
        for first in range(len(words) - size + 1):
            yield " ".join(words[first : first + size])


def test_all_ways_of_loading_answer_alike(wide):
    rows, result = wide
    texts = [text for text, _ in rows["validation"][:50]] + ["", "red1", "unseen words only"]
    model = AutoModelForSequenceClassification.from_pretrained(result.folder)
    tokenizer = AutoTokenizer.from_pretrained(result.folder)
    with torch.no_grad():
        logits = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits
    fast = FastRnn.from_pretrained(result.folder)
    np.testing.assert_allclose(fast.predict_proba(texts), logits.softmax(-1), atol=1e-5)


# ---- the factor ----


def draw(rows, informative, seed=0):
    chance = np.random.default_rng(seed)
    labels = chance.integers(0, 3, rows)
    truth = np.eye(3)[labels]
    logits = truth + chance.normal(size=(rows, 3))
    margins = informative * truth + chance.normal(size=(rows, 3))
    return logits, margins, labels


def test_noise_gets_no_weight():
    for seed in range(20):
        logits, margins, labels = draw(400, 0.0, seed)
        changed = logits + find_factor(logits, margins, labels) * margins
        assert np.mean(changed.argmax(1) == logits.argmax(1)) > 0.9
        numbers = np.eye(3)[labels]
        near = numbers + 0.01 * logits
        assert find_factor(near, margins, numbers, "regression") == 0


def test_the_unit_of_the_margins_does_not_matter():
    logits, margins, labels = draw(200, 1.0)
    factor = find_factor(logits, margins, labels)
    for unit in (0.1, 8.0):
        other = find_factor(logits, unit * margins, labels)
        assert other * unit == pytest.approx(factor, rel=0.2)


@pytest.mark.parametrize("informative", [0.5, 1.0, 3.0])
def test_the_factor_of_many_rows_is_the_likely_one(informative):
    logits, margins, labels = draw(4000, informative)

    def loss(values):
        scaled = np.exp(values[0]) * (logits + np.exp(values[1]) * margins)
        return -log_softmax(scaled, axis=1)[np.arange(len(labels)), labels].mean()

    likely = np.exp(minimize(loss, [0, 0], method="Nelder-Mead").x[1])
    assert find_factor(logits, margins, labels) == pytest.approx(likely, rel=0.35)


@pytest.mark.parametrize(("count", "is_usual"), [(20, True), (60, False)])
def test_few_validation_rows_take_the_usual_factor(tmp_path, count, is_usual):
    rows = invent(400, 0)
    result = train(rows, tmp_path / "out", validation=invent(count, 1), wide=True, **SMALL)
    assert (result.metrics["wide"]["factor"] == USUAL_FACTOR) == is_usual


# ---- when it is there ----


def test_other_kinds_of_labels(tmp_path):
    """Several labels, and numbers: the sum is better than a network that learned nearly nothing."""
    chance = random.Random(0)
    records = []
    for text, label in invent(1300, 3):
        other = chance.choice(CLASSES)
        labels = [label, other]
        number = 5.0 * CLASSES.index(label) + 100
        records.append({"text": f"{text} {other}7", "label": labels, "number": number})
    sets = {
        "train": Dataset.from_list(records[:900]),
        "validation": Dataset.from_list(records[900:]),
    }
    several = {name: rows.remove_columns("number") for name, rows in sets.items()}
    result = train(
        several["train"], tmp_path / "a", validation=several["validation"],
        task="multi-label", wide=True, **SMALL,
    )  # fmt: skip
    network = result.metrics["wide"]["network"]
    assert result.metrics["validation"]["macro_f1"] > network["macro_f1"] + 0.05

    numbers = {
        name: rows.remove_columns("label").rename_column("number", "label")
        for name, rows in sets.items()
    }
    result = train(
        numbers["train"], tmp_path / "b", validation=numbers["validation"],
        task="regression", wide=True, **SMALL,
    )  # fmt: skip
    assert result.metrics["validation"]["r2"] > result.metrics["wide"]["network"]["r2"] + 0.1
    answers = FastRnn.from_pretrained(tmp_path / "b").predict(
        ["red1 red2 red3", "blue1 blue2 blue3"]
    )
    low, high = (next(iter(answer["values"].values())) for answer in answers)
    assert low < 102 < 108 < high


def test_no_linear_part(tmp_path, wide):
    rows, result = wide
    plain = train(
        rows["train"], tmp_path / "out", validation=rows["validation"], wide=False, **SMALL
    )
    assert "wide" not in plain.metrics
    assert plain.metrics["validation"]["accuracy"] == result.metrics["wide"]["network"]["accuracy"]
    assert plain.metrics["training"]["loss"] == result.metrics["training"]["loss"]


def test_the_same_run_twice(tmp_path, wide):
    rows, result = wide
    again = train(
        rows["train"], tmp_path / "out", validation=rows["validation"], wide=True, **SMALL
    )
    assert same_weights(again.folder, result.folder)


@pytest.mark.parametrize(("before", "after"), [(CLASSES[:2], CLASSES), (CLASSES, CLASSES[:2])])
def test_a_label_more_or_less(tmp_path, before, after):
    """A start with a linear part, for other labels: a new part is fitted and answers."""
    rows = [row for row in invent(1500, 0) if row[1] in before]
    train(rows[:600], tmp_path / "a", validation=rows[600:], wide=True, **SMALL)
    rows = [row for row in invent(2500, 5) if row[1] in after]
    changed = {**SMALL, "model_name_or_path": str(tmp_path / "a"), "recipe": "finetune"}
    for name in ("normalizer", "min_frequency", "embedding_size", "hidden_size"):
        changed.pop(name)
    result = train(rows[:900], tmp_path / "b", validation=rows[900:], few_rows=0, **changed)
    model, _ = load_model(result.folder)
    assert set(model.config.label2id) == set(after)
    assert model.ngrams.weight.shape[1] == len(after)
    assert result.metrics["validation"]["accuracy"] > 0.5


# ---- windows ----


def test_an_epoch_reads_stretches_of_long_texts(tmp_path, monkeypatch):
    seen = []
    step = RnnTrainer.training_step

    def record(trainer, model, inputs, count=None):
        seen.append(inputs["input_ids"])
        return step(trainer, model, inputs, count)

    monkeypatch.setattr(RnnTrainer, "training_step", record)
    rows = [*invent(60, 0, length=50), *invent(60, 1, length=5)]
    settings = {**SMALL, "train_window": 20, "num_train_epochs": 2}
    train(rows, tmp_path / "out", validation=invent(60, 2, length=50), **settings)
    assert max(batch.shape[1] for batch in seen) == 20
    lengths = collections.Counter(row.ne(1).sum().item() for batch in seen for row in batch)
    assert lengths == {20: 120, 5: 120}
    first = {tuple(row.tolist()) for batch in seen[: len(seen) // 2] for row in batch}
    second = {tuple(row.tolist()) for batch in seen[len(seen) // 2 :] for row in batch}
    long = [text for text in first & second if 1 not in text]
    assert len(long) < 20, "each epoch draws other places"
