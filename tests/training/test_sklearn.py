"""`RnnClassifier`, compared with the command on the same rows, the pipeline, and scikit-learn."""

import json
import pickle
import random
import shutil

import datasets
import numpy as np
import pytest
import torch
from conftest import LABELS, invent_rows, write_rows
from safetensors.torch import load, load_file
from sklearn.metrics import accuracy_score, average_precision_score, log_loss, r2_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import check_estimator
from sklearn.utils.validation import check_is_fitted, validate_data
from transformers import pipeline
from transformers.utils import logging as transformers_logging

import hf_rnn.training.train
from hf_rnn import RnnClassifier, RnnRegressor
from hf_rnn.data.splits import read_training_rows
from hf_rnn.hub.model_folder import FinishedFolder
from hf_rnn.training.train import train
from hf_rnn.utils.errors import UserError

QUICK = {
    "recipe": "scratch",
    "embedding_size": 8,
    "hidden_size": 4,
    "learning_rate": 0.05,
    "use_cpu": True,
}
QUICK |= {
    "baselines": False,
    "num_train_epochs": 1,
    "min_frequency": 1,
    "per_device_train_batch_size": 8,
}
QUICK["verbose"] = False
TEXTS, NAMES = (list(column) for column in zip(*invent_rows(24, seed=5), strict=True))
ASKED = ["miro", "selk and sand", "a door", "", "the box of dry sand stood there for days"]


def columns(count, seed):
    return [list(column) for column in zip(*invent_rows(count, seed), strict=True)]


@pytest.fixture(scope="module")
def fitted(tiny_settings, _figures):
    """Return a classifier that was trained on the rows of `trained` and does not change."""
    settings = {name: value for name, value in tiny_settings.items() if name != "data_dir"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hf_rnn.training.save.draw_figures", _figures)
        return RnnClassifier(**settings, verbose=False).fit(
            *columns(240, seed=1), eval_set=columns(60, seed=2)
        )


def read_weights(source):
    if isinstance(source, RnnClassifier):
        return load(source._files["model.safetensors"])
    return load_file(source / "model.safetensors")


def same(one, other):
    one, other = read_weights(one), read_weights(other)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# ---- fit ----


def test_held_out_rows_are_those_of_the_command(tmp_path):
    texts, labels = columns(60, seed=4)
    write_rows(tmp_path / "train.tsv", zip(texts, labels, strict=True))
    settings = {name: value for name, value in QUICK.items() if name != "verbose"}
    result = train(data_dir=str(tmp_path), output_dir=str(tmp_path / "out"), **settings)
    classifier = RnnClassifier(**QUICK).fit(texts, labels)
    assert classifier.metrics_["validation"] == result.metrics["validation"] and same(
        classifier, result.folder
    )
    classifier.save_pretrained(tmp_path / "saved")
    rows = [
        read_training_rows(FinishedFolder(folder)) for folder in (tmp_path / "saved", result.folder)
    ]
    assert rows[0].tolist() == rows[1].tolist()


def test_sample_weight_equals_repeated_rows(trained):
    """Full-batch SGD without dropout, from the same weights, with weights of classes."""
    dropouts = dict.fromkeys(
        ("embedding_dropout", "word_dropout", "hidden_dropout", "classifier_dropout"), 0
    )
    settings = {
        **dropouts,
        "model_name_or_path": str(trained.folder),
        "optim": "sgd",
        "learning_rate": 0.5,
    }
    settings |= {
        "num_train_epochs": 4,
        "lr_scheduler_type": "constant",
        "class_weight_power": 1.0,
        "max_grad_norm": 0,
    }
    settings |= {
        "label_smoothing_factor": 0.1,
        "load_best_model_at_end": False,
        "use_cpu": True,
        "verbose": False,
    }
    settings |= {
        "early_stopping_patience": None,
        "warmup_steps": 0,
        "per_device_train_batch_size": 99,
    }
    settings |= {"baselines": False, "few_rows": 0, "typos": 0}
    settings["wide"] = False  # an n-gram of one row is left out, that of a repeated row is not
    counts = np.array([3, 1, 2, 1, 1, 0, 2, 2, *[1] * 16])
    parts = {"per_device_train_batch_size": 6, "gradient_accumulation_steps": 4}

    def fit(texts, names, weights=None, **more):
        classifier = RnnClassifier(**settings | more).fit(
            texts, names, weights, eval_set=(TEXTS, NAMES)
        )
        return classifier.predict_proba(TEXTS)

    expected = fit(np.repeat(TEXTS, counts), np.repeat(NAMES, counts))
    np.testing.assert_allclose(fit(TEXTS, NAMES, counts * 7.5, **parts), expected, atol=1e-5)
    assert abs(fit(TEXTS, NAMES) - expected).max() > 1e-3, "premise: weights matter"


@pytest.mark.parametrize("fails", [False, True])
def test_the_process_is_left_alone(capfd, caplog, monkeypatch, fails):
    def seed():
        random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002 - the one that the Trainer seeds

    def draw(*args, **kwargs):
        return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002

    def show_bars():
        return datasets.are_progress_bars_disabled(), transformers_logging.is_progress_bar_enabled()

    seed()
    expected, bars = draw(), show_bars()
    seed()
    if fails:
        monkeypatch.setattr(hf_rnn.training.train, "train_on", lambda *args, **kwargs: draw() / 0)
        with pytest.raises(TypeError):
            RnnClassifier(**QUICK).fit(TEXTS, NAMES)
    else:
        RnnClassifier(**QUICK).fit(TEXTS, NAMES).predict(TEXTS)
    assert (draw(), show_bars()) == (expected, bars)
    assert capfd.readouterr() == ("", "") and not caplog.records


@pytest.mark.parametrize(
    ("texts", "labels", "message"),
    [
        (TEXTS, NAMES[:-1], "24, 23"),
        (["a", "b"], ["x", "x"], "two classes"),
        (["a", None, "b"], [1, 0, 1], r"X\[1\]"),
        (["a", "", "b"], [1, 0, 1], r"X\[1\]"),
        ("a b", [1, 0, 1], "1d array"),
        (["a", "b", "c"], [1.5, 2.0, 1.5], "continuous"),
    ],
)
def test_bad_rows(texts, labels, message):
    with pytest.raises(ValueError, match=message):
        RnnClassifier(**QUICK).fit(texts, labels)


def test_bad_arguments_change_nothing(fitted):
    before = fitted.predict_proba(ASKED)
    for name, value in {"eval_set": (["a"], ["worse"]), "sample_weight": [1]}.items():
        with pytest.raises(ValueError, match=f"worse|{name}"):
            fitted.fit(TEXTS, NAMES, **{name: value})
    assert (fitted.predict_proba(ASKED) == before).all()


# ---- labels and texts ----


@pytest.mark.parametrize("values", [(9, -1, 10), (False, True)], ids=["integers", "booleans"])
def test_a_saved_model_keeps_the_type_of_its_labels(values, tmp_path):
    given = np.array([values[LABELS.index(name) % len(values)] for name in NAMES])
    given = given.astype(np.int16) if given.dtype.kind == "i" else given
    classifier = RnnClassifier(**QUICK).fit(TEXTS, given)
    classifier.save_pretrained(tmp_path / "model")
    loaded = RnnClassifier.from_pretrained(tmp_path / "model", use_cpu=True)
    for one in (classifier, loaded):
        assert one.classes_.tolist() == np.unique(given).tolist()
        assert one.predict(TEXTS).dtype == one.classes_.dtype == given.dtype
    assert (loaded.predict_proba(TEXTS) == classifier.predict_proba(TEXTS)).all()


# ---- predictions ----


def test_predictions_equal_the_pipelines(fitted, tmp_path):
    fitted.save_pretrained(tmp_path / "films")
    classify = pipeline("text-classification", str(tmp_path / "films"), top_k=None, device="cpu")
    found = [{one["label"]: one["score"] for one in answer} for answer in classify(ASKED)]
    assert fitted.predict(ASKED).tolist() == [max(scores, key=scores.get) for scores in found]
    expected = [[scores[name] for name in sorted(LABELS)] for scores in found]
    np.testing.assert_allclose(fitted.predict_proba(ASKED), expected, atol=1e-6)
    assert fitted.predict([]).shape == (0,) and fitted.predict_proba([]).shape == (0, 3)
    with pytest.raises(UserError, match=r"X\[1\]"):
        fitted.predict(["a", None])


def test_columns_are_sorted_for_any_order_of_ids(copy):
    """Scorers of scikit-learn rely on it."""
    names, file = ["plain", "bad", "good"], copy / "config.json"
    labels = {
        "id2label": dict(enumerate(names)),
        "label2id": {name: id for id, name in enumerate(names)},
    }
    file.write_text(json.dumps(json.loads(file.read_text()) | labels))
    classifier = RnnClassifier.from_pretrained(copy, use_cpu=True)
    assert classifier.classes_.tolist() == ["bad", "good", "plain"]
    best = pipeline("text-classification", str(copy), device="cpu")(ASKED)
    assert classifier.predict(ASKED).tolist() == [answer["label"] for answer in best]
    scores = [answer["score"] for answer in best]
    np.testing.assert_allclose(classifier.predict_proba(ASKED).max(axis=1), scores, atol=1e-6)


# ---- scikit-learn ----


class SpelledNumbers:
    """Let the checks of scikit-learn, which give numbers, reach an estimator of texts."""

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.one_d_array, tags.input_tags.string = (
            True,
            False,
            False,
        )
        for own in filter(None, (tags.classifier_tags, tags.regressor_tags)):
            own.poor_score = True  # near numbers are unrelated words
        return tags

    def _fit(self, X, y, *more):  # noqa: N803
        X, y = validate_data(self, X, y, multi_output=True)  # noqa: N806
        return super()._fit(self._spell(X), y, *more)

    def _scores(self, X):  # noqa: N803
        check_is_fitted(self)
        return super()._scores(self._spell(validate_data(self, X, reset=False)))

    def _spell(self, X):  # noqa: N803
        return [" ".join(f"{place}:{value:.0f}" for place, value in enumerate(row)) for row in X]


class SpelledClassifier(SpelledNumbers, RnnClassifier):
    pass


class SpelledRegressor(SpelledNumbers, RnnRegressor):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("kind", [SpelledClassifier, SpelledRegressor])
def test_checks_of_scikit_learn(kind):
    """All of `check_estimator`."""
    order = (
        "batches are drawn and the best epoch kept, "
        "so a copied text takes other steps than a weight; see above"
    )
    reasons = {"check_sample_weight_equivalence_on_dense_data": order}
    for check in check_estimator(
        kind(**QUICK), expected_failed_checks=reasons, on_skip=None, on_fail=None
    ):
        assert check["status"] != "failed", f"{check['check_name']}: {check['exception']!r}"


@pytest.mark.slow
def test_a_grid_over_a_pipeline():
    """Compared with a loop; the classifier sees the output of the step before and gets weights."""
    texts, labels, cut = (
        np.array(TEXTS, dtype=object),
        np.array([len(name) for name in NAMES]),
        StratifiedKFold(2),
    )
    weights = np.resize([1.0, 3.0], len(labels))
    upper = FunctionTransformer(lambda texts: [text.upper() for text in texts])
    steps = make_pipeline(upper, RnnClassifier(**QUICK, lowercase=False))
    search = GridSearchCV(
        steps, {"rnnclassifier__cell_type": ["gru"]}, cv=cut, scoring="neg_log_loss"
    )
    search.fit(texts, labels, rnnclassifier__sample_weight=weights)
    best = search.best_estimator_[-1]
    assert best._runner.config.cell_type == "gru" and "BOX" in best._runner.tokenizer.get_vocab()
    losses = []
    for known, asked in cut.split(texts, labels):
        one = RnnClassifier(**QUICK, lowercase=False, cell_type="gru")
        one.fit(upper.transform(texts[known]), labels[known], sample_weight=weights[known])
        losses.append(
            log_loss(
                labels[asked], one.predict_proba(upper.transform(texts[asked])), labels=one.classes_
            )
        )
    assert -search.best_score_ == pytest.approx(np.mean(losses))


# ---- saving and loading ----


def test_the_saved_folder_is_the_commands(fitted, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    (tmp_path / "films").mkdir()
    for name in ("notes.txt", "README.md"):
        (tmp_path / "films" / name).write_text("mine")
    fitted.save_pretrained("~/films")
    folder = FinishedFolder(tmp_path / "films")
    folder.check_finished()
    names = {path.name for path in trained.folder.iterdir()} - {"checkpoints", "figures"}
    assert {path.name for path in folder.root.iterdir()} >= names | {"notes.txt"}
    assert (folder.root / "notes.txt").read_text() == "mine"
    for name, own in (("config.json", "task_specific_params"), ("training_args.json", "data_dir")):
        found, expected = (
            json.loads((one / name).read_text()) for one in (folder.root, trained.folder)
        )
        assert found.pop(own, None) != expected.pop(own, None)
        assert found == expected | (
            {"task": "sequence-classification"} if name == "training_args.json" else {}
        )
    card = folder.card.read_text()
    assert "# films\n" in card and "240 rows" in card and "hf-rnn train" not in card


def test_a_model_of_the_command_is_refitted_with_its_settings(trained, copy):
    """After pickling, and without its folder."""
    loaded = RnnClassifier.from_pretrained(copy, use_cpu=True, verbose=False)
    shutil.rmtree(copy)
    assert loaded.score(*columns(60, seed=3)) == pytest.approx(trained.metrics["test"]["accuracy"])
    moved = pickle.loads(pickle.dumps(loaded))
    assert same(moved.fit(*columns(240, seed=1), eval_set=columns(60, seed=2)), trained.folder)


# ---- several labels per text, and numbers ----


WORDS = ["miro", "selk", "box", "sand", "door"]
LONGER = {"recipe": "scratch", "embedding_size": 16, "hidden_size": 8,
            "num_train_epochs": 6, "learning_rate": 0.02, "min_frequency": 1,
            "per_device_train_batch_size": 16, "word_dropout": 0, "embedding_dropout": 0,
            "use_cpu": True, "verbose": False}  # fmt: skip


def invent(count, seed):
    chance = np.random.default_rng(seed)
    texts = [" ".join(chance.choice(WORDS, 5)) for _ in range(count)]
    return texts, np.array(
        [[word in text for word in ("miro", "selk")] for text in texts], dtype=int
    )


def test_a_matrix_of_labels(tmp_path):
    sets = RnnClassifier(**LONGER).fit(*invent(200, 0))
    texts, matrix = invent(60, 1)
    found, shares = sets.predict(texts), sets.predict_proba(texts)
    assert found.shape == shares.shape == matrix.shape and found.dtype == int
    assert sets.classes_.tolist() == [0, 1]
    assert sets.score(texts, matrix) == accuracy_score(matrix, found) > 0.8
    assert average_precision_score(matrix, shares) > 0.95
    sets.save_pretrained(tmp_path / "saved")
    again = RnnClassifier.from_pretrained(tmp_path / "saved")
    assert (again.predict(texts) == found).all() and again.classes_.tolist() == [0, 1]


def test_numbers(tmp_path):
    texts, matrix = invent(200, 3)
    numbers = 1000 + matrix @ [30, -10]
    regressor = RnnRegressor(**LONGER).fit(texts, numbers)
    tests, matrix = invent(60, 4)
    found, true = regressor.predict(tests), 1000 + matrix @ [30, -10]
    assert found.shape == (60,)
    assert (
        regressor.score(tests, true) == pytest.approx(r2_score(true, found))
        and r2_score(true, found) > 0.8
    )
    regressor.save_pretrained(tmp_path / "saved")
    assert np.array_equal(RnnRegressor.from_pretrained(tmp_path / "saved").predict(tests), found)
    with pytest.raises(UserError, match="for the task regression"):
        RnnClassifier.from_pretrained(tmp_path / "saved")
