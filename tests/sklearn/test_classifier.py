"""The scikit-learn interface: against the command on the same rows, the pipeline on the same folder, and sklearn."""

import copy
import json
import logging
import pickle
import random
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from conftest import LABELS, invent_rows, may_train, write_rows
from hub_server import HubServer
from safetensors.torch import load, load_file
from sklearn.ensemble import BaggingClassifier
from sklearn.exceptions import NotFittedError
from sklearn.multiclass import OneVsRestClassifier
from transformers import pipeline
from transformers.utils import logging as transformers_logging

import hf_rnn.sklearn.classifier as classifier_module
import hf_rnn.training.save
from hf_rnn import RnnClassifier
from hf_rnn.hub.model_folder import FinishedFolder
from hf_rnn.sklearn.labelled_texts import describe_labels, read_labels, read_texts, restore_labels
from hf_rnn.training.arguments.run_arguments import parse_settings
from hf_rnn.training.arguments.training_arguments import RnnTrainingArguments
from hf_rnn.training.recipes import load_recipe
from hf_rnn.training.train import train
from hf_rnn.utils.errors import UserError
from hf_rnn.utils.process_state import contained

# as `tiny_settings`, and as little as can be trained
TINY = {
    "embedding_size": 16,
    "hidden_size": 8,
    "embedding_dropout": 0.1,
    "num_train_epochs": 4,
    "per_device_train_batch_size": 16,
    "learning_rate": 0.02,
    "use_cpu": True,
}
QUICK = {"embedding_size": 8, "hidden_size": 4, "learning_rate": 0.05, "use_cpu": True, "verbose": False}
QUICK |= {"num_train_epochs": 1, "min_frequency": 1, "per_device_train_batch_size": 8}
ASKED = ["miro", "selk and sand", "a door", "", "the box of dry sand stood there for days"]


def columns(count, seed):
    texts, labels = zip(*invent_rows(count, seed), strict=True)
    return list(texts), list(labels)


TEXTS, NAMES = columns(24, seed=5)


@pytest.fixture
def hurried(monkeypatch):
    """Three quarters of the time of a small fit go into drawing and into collecting this process's garbage."""
    monkeypatch.setattr("gc.collect", lambda *args: 0)
    monkeypatch.setattr(hf_rnn.training.save, "draw_figures", lambda *args: {})


@pytest.fixture(scope="module")
def fitted():
    """Trained on the rows of `trained`; nobody changes it."""
    return RnnClassifier(**TINY).fit(*columns(240, seed=1), eval_set=columns(60, seed=2))


def weights_of(classifier):
    return load(classifier._files["model.safetensors"])


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# ---- the same as the command ----


def test_fit_is_the_command_on_the_same_rows(fitted, trained):
    """`trained` read them from train.tsv and dev.tsv."""
    assert same(weights_of(fitted), load_file(trained.folder / "model.safetensors"))
    assert fitted.metrics_["validation"] == trained.metrics["validation"]


def test_the_held_out_rows_are_those_of_the_command(tmp_path, hurried):
    texts, labels = columns(60, seed=4)
    write_rows(tmp_path / "train.tsv", zip(texts, labels, strict=True))
    settings = {name: value for name, value in QUICK.items() if name != "verbose"}
    result = train(data_dir=str(tmp_path), output_dir=str(tmp_path / "out"), **settings)
    classifier = RnnClassifier(**QUICK).fit(texts, labels)
    assert classifier.metrics_["validation"]["rows"] == 6
    assert classifier.metrics_["validation"] == result.metrics["validation"]
    assert same(weights_of(classifier), load_file(result.folder / "model.safetensors"))


def test_the_folder_is_the_commands(fitted, trained, tmp_path):
    fitted.save_pretrained(tmp_path / "films")
    FinishedFolder(tmp_path / "films").check_finished()
    names = {path.name for path in (tmp_path / "films").iterdir()}
    assert names == {path.name for path in trained.folder.iterdir()} - {"checkpoints"}
    for path in (tmp_path / "films").glob("*.json"):
        told, expected = (json.loads((folder / path.name).read_text()) for folder in (path.parent, trained.folder))
        if path.name == "config.json":
            assert told.pop("task_specific_params") == {"label_type": {"kind": "str", "dtype": "str"}}
        if path.name == "training_args.json":
            assert (told.pop("data_dir"), expected.pop("data_dir")) == (None, "texts0")
        if path.name == "metrics.json":
            assert expected.pop("test"), "there is no test split here"
            assert told["training"].pop("seconds") > 0 < expected["training"].pop("seconds")
        if path.name == "card_facts.json":
            assert (told.pop("name"), told.pop("dataset_name")) == ("films", "rows in memory")
            for fact in ("results", "baselines", "audit"):  # by split, and there is no test split here
                assert told.pop(fact).keys() <= expected.pop(fact).keys()
            assert told.pop("command") is None and "data_dir" in expected.pop("command")
            assert told.pop("training")["steps"] == expected.pop("training")["steps"]
            expected = {fact: value for fact, value in expected.items() if fact not in ("name", "dataset_name")}
        assert told == expected, path.name
    card = (tmp_path / "films" / "README.md").read_text()
    assert "# films\n" in card and "name: films\n" in card and "240 rows" in card and "rnn-classifier" not in card
    assert "hf-rnn train" not in card, "no command repeats it"


def test_saving_leaves_what_else_is_there(fitted, tmp_path):
    for name in ("notes.txt", "README.md"):
        (tmp_path / name).write_text("mine")
    fitted.save_pretrained(str(tmp_path))
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert f"# {tmp_path.name}\n" in (tmp_path / "README.md").read_text().replace("\\", "")
    with pytest.raises(UserError, match="is a file"):
        fitted.save_pretrained(tmp_path / "notes.txt")


def test_a_tilde_is_the_home_folder(fitted, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    fitted.save_pretrained("~/films")
    assert [path.name for path in tmp_path.iterdir()] == ["films"]
    assert type(fitted).from_pretrained("~/films").predict(["miro"])[0] == fitted.predict(["miro"])[0]


def test_predictions_are_the_pipelines(fitted, tmp_path):
    fitted.save_pretrained(tmp_path / "films")
    classify = pipeline("text-classification", str(tmp_path / "films"), top_k=None, device="cpu")
    said = [{one["label"]: one["score"] for one in answer} for answer in classify(ASKED)]
    assert fitted.predict(ASKED).tolist() == [max(scores, key=scores.get) for scores in said]
    expected = [[scores[name] for name in sorted(LABELS)] for scores in said]
    np.testing.assert_allclose(fitted.predict_proba(ASKED), expected, atol=1e-6)
    np.testing.assert_allclose(fitted.predict_proba(ASKED).sum(axis=1), 1, atol=1e-12)


def test_it_learned_the_rule(fitted):
    texts, labels = columns(60, seed=3)
    assert fitted.score(texts, labels) > 0.9, "chance is a third"


def test_nothing_is_asked(fitted):
    assert fitted.predict([]).shape == (0,)
    assert fitted.predict_proba([]).shape == (0, 3)


# ---- labels ----


@pytest.mark.parametrize(
    ("labels", "dtype"),
    [
        (["so", "bad", "good", "so"], "<U4"),
        (np.array(["b", "a"], dtype="<U9"), "<U1"),
        (np.array(["b", "a", "ä"], dtype=object), "<U1"),
        (np.array([["b"], ["a"]]), "<U1"),
        ([2.0, 1.0], float),
        ([10, 9, -1], np.int_),
        (["10", "9", "-1"], "<U2"),
        (np.array([3, -2], dtype=np.int8), np.int8),
        (np.array([2**64 - 1, 1], dtype=np.uint64), np.uint64),
        ([True, False, True], bool),
        (np.array([True, False]), bool),
        (pd.Series(["b", "a"], index=[7, 3]), "<U1"),
        (pd.Series([1, 0], dtype="int16"), np.int16),
        (pd.Series(["b", "a", "b"], dtype="category"), "<U1"),
        (pd.Series([True, False], dtype="boolean"), bool),
        (pd.Series([3, 1], dtype="Int64"), np.int64),
    ],
)
def test_labels_come_back_as_they_were(labels, dtype):
    """By way of names and JSON, as through a folder."""
    expected = np.unique(np.asarray(labels)).tolist()
    record = json.loads(json.dumps(describe_labels(read_labels(labels))))
    restored = restore_labels([str(label) for label in expected], record)
    assert restored.dtype == dtype
    assert [(type(label), label) for label in restored.tolist()] == [(type(label), label) for label in expected]


@pytest.mark.parametrize(
    "values", [(9, -1, 10), (False, True), ("9", "10", "-1")], ids=["integers", "booleans", "strings of integers"]
)
def test_a_model_keeps_the_type_of_its_labels(values, tmp_path, hurried):
    given = np.array([values[LABELS.index(name) % len(values)] for name in NAMES])
    if given.dtype.kind == "i":
        given = given.astype(np.int16)
    classifier = RnnClassifier(**QUICK).fit(TEXTS, given)
    classifier.save_pretrained(tmp_path / "model")
    loaded = RnnClassifier.from_pretrained(tmp_path / "model", use_cpu=True)
    for one in (classifier, loaded):
        assert one.classes_.tolist() == np.unique(given).tolist()
        assert one.classes_.dtype == np.unique(given).dtype
        assert one.predict(TEXTS).dtype == one.classes_.dtype
        assert set(one.predict(TEXTS).tolist()) <= set(given.tolist())
    assert (loaded.predict_proba(TEXTS) == classifier.predict_proba(TEXTS)).all()


def test_fits_in_threads_are_those_of_one_after_the_other(hurried):
    rows, seeds = columns(60, seed=3), [1, 2, 1]
    alone = [weights_of(RnnClassifier(**QUICK, seed=seed).fit(*rows)) for seed in seeds]
    with ThreadPoolExecutor() as threads:
        together = list(threads.map(lambda seed: weights_of(RnnClassifier(**QUICK, seed=seed).fit(*rows)), seeds))
    assert all(map(same, alone, together))
    assert not same(alone[0], alone[1])


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_a_program_that_only_predicts_may_train(context, hurried):
    rows = columns(60, seed=3)
    with context():
        inside = RnnClassifier(**QUICK).fit(*rows)
        assert not torch.is_grad_enabled()
    assert same(weights_of(inside), weights_of(RnnClassifier(**QUICK).fit(*rows)))


def test_settings_are_read_while_no_other_fit_trains(hurried, monkeypatch):
    """They ask accelerate for the device, which resets what a training has there."""
    free = []

    def parse(*given, **named):
        with ThreadPoolExecutor() as threads:
            free.append(threads.submit(may_train).result())
        return parse_settings(*given, **named)

    monkeypatch.setattr(classifier_module, "parse_settings", parse)
    RnnClassifier(**QUICK).fit(*columns(60, seed=3))
    assert free == [False]


def test_several_processes_are_sent_to_train(monkeypatch):
    monkeypatch.setattr(RnnTrainingArguments, "world_size", 2)
    with pytest.raises(UserError, match="in one process"):
        RnnClassifier(**QUICK).fit(TEXTS, NAMES)


def test_where_it_cannot_be_saved(fitted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="save_directory is empty"):
        fitted.save_pretrained("")
    with pytest.raises(UserError, match=r"could not be written to file.below: .*\. Make room there, or name another"):
        fitted.save_pretrained("file/below")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_columns_are_sorted_whatever_the_order_of_the_ids(trained, tmp_path):
    """As scikit-learn's scorers take for granted."""
    shutil.copytree(trained.folder, tmp_path / "model")
    names = ["plain", "bad", "good"]
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config["id2label"], config["label2id"] = dict(enumerate(names)), {name: id for id, name in enumerate(names)}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    classifier = RnnClassifier.from_pretrained(tmp_path / "model", use_cpu=True)
    assert classifier.classes_.tolist() == ["bad", "good", "plain"]
    classify = pipeline("text-classification", str(tmp_path / "model"), device="cpu")
    assert classifier.predict(ASKED).tolist() == [answer["label"] for answer in classify(ASKED)]
    best = classifier.predict_proba(ASKED).max(axis=1)
    np.testing.assert_allclose(best, [answer["score"] for answer in classify(ASKED)], atol=1e-6)


# ---- scikit-learn ----


def test_scikit_learn_takes_it_for_a_classifier(fitted):
    base, validation = pytest.importorskip("sklearn.base"), pytest.importorskip("sklearn.utils.validation")
    assert base.is_classifier(RnnClassifier())
    validation.check_is_fitted(fitted)
    with pytest.raises(NotFittedError):
        validation.check_is_fitted(RnnClassifier())
    copied = base.clone(RnnClassifier(hidden_size=3, random_state=np.random.RandomState(1)))
    assert copied.hidden_size == 3
    bare = base.clone(fitted)
    assert bare.get_params() == fitted.get_params() and not hasattr(bare, "classes_")


def test_score_against_sklearn(fitted):
    metrics = pytest.importorskip("sklearn.metrics")
    texts, labels = columns(30, seed=8)
    labels[:4] = ["plain"] * 3 + ["never seen"]
    answers = fitted.predict(texts)
    assert fitted.score(texts, labels) == metrics.accuracy_score(labels, answers) < 1
    weights = np.arange(30)
    expected = metrics.accuracy_score(labels, answers, sample_weight=weights)
    assert fitted.score(np.array(texts), pd.Series(labels), weights) == pytest.approx(expected)


@pytest.mark.parametrize(
    "shape",
    [
        iter,
        lambda texts: np.array(texts)[:, None],
        lambda texts: pd.DataFrame({"text": texts}),
        lambda texts: pa.chunked_array([texts]),
        pa.array,
    ],
    ids=["iterator", "array", "frame", "chunked", "arrow"],
)
def test_shapes_of_texts(shape):
    assert read_texts(shape(TEXTS)) == TEXTS


def test_sample_weight_is_repeated_rows(trained, hurried):
    """Full-batch SGD without dropout, from the same weights, with class weights and accumulation."""
    dropouts = dict.fromkeys(("embedding_dropout", "word_dropout", "hidden_dropout", "classifier_dropout"), 0)
    settings = {**dropouts, "model_name_or_path": str(trained.folder), "optim": "sgd", "learning_rate": 0.5}
    settings |= {"num_train_epochs": 3, "lr_scheduler_type": "constant", "class_weight_power": 1.0, "max_grad_norm": 0}
    settings |= {"label_smoothing_factor": 0.1, "load_best_model_at_end": False, "use_cpu": True, "verbose": False}
    settings |= {"early_stopping_patience": None, "warmup_steps": 0, "per_device_train_batch_size": 99}
    counts = np.array([3, 1, 2, 1, 1, 0, 2, 2, *[1] * 16])
    in_parts = {"per_device_train_batch_size": 6, "gradient_accumulation_steps": 4}

    def fit(texts, names, weights=None, **more):
        return (
            RnnClassifier(**settings | more).fit(texts, names, weights, eval_set=(TEXTS, NAMES)).predict_proba(TEXTS)
        )

    expected = fit(np.repeat(TEXTS, counts), np.repeat(NAMES, counts))
    np.testing.assert_allclose(fit(TEXTS, NAMES, counts * 7.5, **in_parts), expected, atol=1e-5)
    assert abs(fit(TEXTS, NAMES) - expected).max() > 1e-3


@pytest.mark.parametrize("weight", [[1], [-1] * 24, [0] * 24])
def test_bad_sample_weight(weight):
    with pytest.raises(ValueError, match="sample_weight|weight"):
        RnnClassifier(**QUICK).fit(TEXTS, NAMES, sample_weight=weight)


def test_weights_are_routed(hurried):
    sklearn, selection = pytest.importorskip("sklearn"), pytest.importorskip("sklearn.model_selection")
    with sklearn.config_context(enable_metadata_routing=True):
        classifier = RnnClassifier(**QUICK).set_fit_request(sample_weight=True).set_score_request(sample_weight=False)
        one, other = (
            selection.cross_validate(
                pickle.loads(pickle.dumps(classifier)),
                TEXTS,
                NAMES,
                cv=selection.StratifiedKFold(2),
                params={"sample_weight": np.resize(weights, len(TEXTS))},
                return_estimator=True,
            )["estimator"][0]
            for weights in ([1], [9, 1])
        )
    assert not same(weights_of(one), weights_of(other))


@pytest.mark.parametrize("ensemble", ["BaggingClassifier", "OneVsRestClassifier"])
def test_ensembles(ensemble, hurried):
    kinds = {kind.__name__: kind for kind in (BaggingClassifier, OneVsRestClassifier)}
    column = np.array(TEXTS, dtype=object)[:, None]
    many = kinds[ensemble](RnnClassifier(**QUICK)).fit(column, NAMES)
    assert set(many.predict(column)) <= set(LABELS)


def test_logarithms_of_probabilities(fitted):
    np.testing.assert_allclose(np.exp(fitted.predict_log_proba(ASKED)), fitted.predict_proba(ASKED))


def test_without_scikit_learn():
    code = "import sys; sys.modules['sklearn'] = None\nfrom hf_rnn import RnnClassifier"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install 'hf-rnn[sklearn]'" in done.stderr.splitlines()[-1]


def test_cross_validation_and_scorers_of_probabilities(hurried):
    """Against the loop written by hand."""
    selection, metrics = pytest.importorskip("sklearn.model_selection"), pytest.importorskip("sklearn.metrics")
    texts, labels = np.array(TEXTS, dtype=object), np.array([len(name) for name in NAMES])
    cut = selection.StratifiedKFold(2)
    found = selection.cross_validate(
        RnnClassifier(**QUICK), texts, labels, cv=cut, scoring=["accuracy", "neg_log_loss"], error_score="raise"
    )
    for fold, (known, asked) in enumerate(cut.split(texts, labels)):
        one = RnnClassifier(**QUICK).fit(texts[known], labels[known])
        assert found["test_accuracy"][fold] == np.mean(one.predict(texts[asked]) == labels[asked])
        expected = metrics.log_loss(labels[asked], one.predict_proba(texts[asked]), labels=one.classes_)
        assert -found["test_neg_log_loss"][fold] == pytest.approx(expected)


def test_a_grid_over_a_pipeline(hurried):
    selection, pipelines = pytest.importorskip("sklearn.model_selection"), pytest.importorskip("sklearn.pipeline")
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    upper = preprocessing.FunctionTransformer(lambda texts: [text.upper() for text in texts])
    steps = pipelines.make_pipeline(upper, RnnClassifier(**QUICK, lowercase=False))
    grid = {"rnnclassifier__cell_type": ["gru", "rnn_tanh"]}
    cut = selection.StratifiedShuffleSplit(1, test_size=0.25, random_state=0)
    search = selection.GridSearchCV(steps, grid, cv=cut, error_score="raise").fit(TEXTS, NAMES)
    best = search.best_estimator_[-1]
    assert (
        best.get_params()["cell_type"] == best._runner.model.config.cell_type == search.best_params_[next(iter(grid))]
    )
    assert "BOX" in best._runner.tokenizer.get_vocab(), "it saw what the step before it made"
    assert search.classes_.tolist() == sorted(LABELS)
    assert search.predict_proba(["miro"]).shape == (1, 3)


# ---- settings ----


def test_settings_by_name():
    classifier = RnnClassifier(hidden_size=3)
    assert {"recipe", "seed", "normalizer", "random_state", "verbose"} <= classifier.get_params().keys()
    assert classifier.set_params(cell_type="gru", hidden_size=None) is classifier
    assert repr(classifier) == "RnnClassifier(cell_type='gru')"
    assert len(repr(RnnClassifier(recipe=load_recipe("default")))) < 1500, "as `from_pretrained` has it"


@pytest.mark.parametrize("setting", ["hiden_size", "data_dir", "class_names", "output_dir", "resume", "hub_model_id"])
def test_no_setting(setting):
    with pytest.raises(TypeError, match=setting):
        RnnClassifier(**{setting: 3})
    with pytest.raises(ValueError, match=setting):
        RnnClassifier().set_params(**{setting: 3})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_size": "wide"}, "hidden_size: expected a whole number: found 'wide'"),
        ({"recipe": "tutoral"}, "Did you mean 'tutorial'"),
        ({"random_state": "x"}, "'x' cannot be used to seed"),
    ],
)
def test_bad_values_are_found_by_fit(settings, message):
    with pytest.raises(ValueError, match=message):
        RnnClassifier(**settings).fit(TEXTS, NAMES)


def test_values_as_they_reach_the_training(tmp_path):
    def arguments(**settings):
        return parse_settings(RnnClassifier(**settings)._settings(str(tmp_path)))

    def seeds(**settings):
        training = arguments(**settings).training
        return training.seed, training.data_seed

    assert seeds() == (42, 42), "the recipe's"
    assert seeds(random_state=7) == seeds(seed=7) == seeds(random_state=np.int64(7), seed=7) == (7, 7)
    drawn = int(np.random.RandomState(3).randint(2**31 - 1))
    state = np.random.RandomState(3)
    assert seeds(random_state=state) == (drawn, drawn) != seeds(random_state=state), "each fit draws anew"
    # as a grid of numpy's has them
    settings = {"hidden_size": np.int64(3), "learning_rate": np.float64(0.25), "lowercase": np.bool_(False)}
    model, data, training = arguments(**settings)
    assert (model.hidden_size, data.lowercase, training.learning_rate) == (3, False, 0.25)


def test_the_process_is_left_alone(capfd, hurried):
    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002 - the one that Trainer seeds

    def seed():
        random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002

    def bars():
        return datasets.are_progress_bars_disabled(), transformers_logging.is_progress_bar_enabled()

    seed()
    expected, before = draw(), bars()
    seed()
    RnnClassifier(**QUICK).fit(TEXTS, NAMES).predict(TEXTS)
    assert draw() == expected
    assert bars() == before
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("shown", [True, False])
@pytest.mark.parametrize("quiet", [True, False])
def test_what_a_training_changes_of_the_process_is_put_back_though_it_fails(shown, quiet):
    loading, checkpoints = (logging.getLogger(name) for name in ("hf_rnn.data.loading", "transformers.trainer_utils"))
    said = [logging.makeLogRecord({"msg": told}) for told in ("mtime may not be reliable on this disk", "it is full")]

    def show(yes):
        (datasets.enable_progress_bars if yes else datasets.disable_progress_bars)()
        (transformers_logging.enable_progress_bar if yes else transformers_logging.disable_progress_bar)()

    def state():
        bars = datasets.are_progress_bars_disabled(), transformers_logging.is_progress_bar_enabled()
        return bars, loading.level, [bool(checkpoints.filter(record)) for record in said]

    def seed():
        random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002

    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002

    seed()
    expected = draw()
    seed()
    show(shown)
    before = state()
    assert before == ((not shown, shown), logging.NOTSET, [True, True]), "premise"
    try:
        with pytest.raises(ZeroDivisionError), contained(quiet):
            draw()
            assert state() == ((True, False), logging.ERROR if quiet else logging.NOTSET, [False, True])
            raise ZeroDivisionError
        assert state() == before
        assert draw() == expected
    finally:
        show(True)


def test_what_is_shown(capfd, hurried):
    RnnClassifier(**QUICK | {"verbose": None}).fit(TEXTS, NAMES).predict(TEXTS)
    out, err = capfd.readouterr()
    assert out == "" and "epoch 1/1  loss" in err


def test_early_stopping(hurried):
    """A rate of zero: the second epoch is no better than the first."""
    still = QUICK | {"learning_rate": 0.0, "early_stopping_patience": 1, "num_train_epochs": 50}
    assert RnnClassifier(**still).fit(TEXTS, NAMES).metrics_["training"]["epochs"] == 2


# ---- what is no data ----


@pytest.mark.parametrize(
    ("texts", "labels", "message"),
    [
        ([], [], "two classes or more"),
        (TEXTS, NAMES[:-1], "differ in length: 24 and 23"),
        (["a", "b"], ["x", "x"], "two classes or more, found .'x'."),
        (["a", "b"], ["x", "y"], "too few to hold out"),
        (["a", None, "b"], [1, 0, 1], r"^X\[1\] is not a str: found None"),
        (pd.Series(["a", pd.NA, "b"], dtype="string"), [1, 0, 1], r"^X\[1\] is not a str: found <NA>"),
        (["a", "b", "\ud800"], [1, 0, 1], r"X\[2\] is not valid Unicode: a lone surrogate at character 0"),
        (["a", "", "b"], [1, 0, 1], r"^X\[1\]: the text has no character"),
        ("a b", [1, 0, 1], "give a list"),
        ({"text": ["a"]}, [1], "give a list"),
        (pd.DataFrame({"text": ["a", "b"], "b": 1}), [1, 0], "must have one column"),
        (["a", "b", "c"], [1, 0, None], "must be strings, integers or booleans"),
        (["a", "b", "c"], [1.0, float("nan"), 0.0], "NaN"),
        (["a", "b", "c"], [1.5, 2.0, 1.5], "continuous"),
        (["a", "b", "c"], ["x", None, "x"], r"^y\[1\] is None and y\[0\] 'x'"),
        (["a", "b", "c"], [1, "0", 1], r"^y\[1\] is '0' and y\[0\] 1"),
        (["a", "b", "c"], ["x", "x", " y"], "label ' y' has white space at its ends"),
        (["a", "b", "c"], [1, 2**70, 1], "must be strings, integers or booleans"),
        (["a", "b"], np.eye(2, dtype=int), "must have one column"),
    ],
)
def test_bad_rows(texts, labels, message):
    with pytest.raises(ValueError, match=message) as caught:
        RnnClassifier().fit(texts, labels)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("eval_set", "message"),
    [
        ((["a"], ["worse"]), "^eval_set y contains .*'worse'"),
        ((["a"], [1]), "^eval_set y contains .*1"),
        ((["a", "b"], ["bad"]), "eval_set X and eval_set y differ in length: 2 and 1"),
        (([" "], ["bad"]), r"^eval_set X\[0\]: the text is ' '"),
        (TEXTS, r"eval_set must be \(X, y\)"),
    ],
)
def test_bad_eval_set(eval_set, message):
    with pytest.raises(UserError, match=message):
        RnnClassifier(**QUICK).fit(TEXTS, NAMES, eval_set=eval_set)


def test_predicting_bad_rows(fitted):
    for method in (fitted.predict, fitted.predict_proba):
        with pytest.raises(UserError, match=r"X\[1\] is not a str: found None"):
            method(["a", None])


def test_without_fit(tmp_path):
    classifier = RnnClassifier()
    calls = [lambda: classifier.predict(["a"]), lambda: classifier.score(["a"], ["b"])]
    calls += [lambda: classifier.save_pretrained(tmp_path), lambda: classifier.push_to_hub("me/x")]
    for call in calls:
        with pytest.raises(NotFittedError):
            call()
    assert not hasattr(classifier, "classes_") and not hasattr(classifier, "metrics_")


def test_a_fit_that_fails_changes_nothing(fitted):
    before = fitted.predict_proba(ASKED)
    with pytest.raises(UserError):
        fitted.fit(["a", "b"], ["x", "x"])
    assert (fitted.predict_proba(ASKED) == before).all() and fitted.classes_.tolist() == sorted(LABELS)


# ---- kept ----


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))], ids=["copy", "pickle"]
)
def test_copies(fitted, copied, tmp_path):
    other = copied(fitted)
    assert (other.predict_proba(ASKED) == fitted.predict_proba(ASKED)).all()
    assert other.get_params() == fitted.get_params() and other.metrics_ == fitted.metrics_
    other.save_pretrained(tmp_path / "again")
    assert "# again\n" in (tmp_path / "again" / "README.md").read_text()
    assert copied(RnnClassifier(hidden_size=3)).get_params()["hidden_size"] == 3


def test_what_the_command_trained(trained, tmp_path):
    loaded = RnnClassifier.from_pretrained(trained.folder, use_cpu=True)
    assert loaded.score(*columns(60, seed=3)) == pytest.approx(trained.metrics["test"]["accuracy"])
    again = loaded.fit(*columns(240, seed=1), eval_set=columns(60, seed=2))
    assert same(weights_of(again), load_file(trained.folder / "model.safetensors")), "its settings are the recipe"


def test_settings_of_its_run_come_along(trained, tmp_path):
    """Pickled, carried elsewhere and fitted again: the folder that it came from is not needed for that."""
    shutil.copytree(trained.folder, tmp_path / "model")
    loaded = RnnClassifier.from_pretrained(tmp_path / "model", use_cpu=True, num_train_epochs=1)
    shutil.rmtree(tmp_path / "model")
    moved = pickle.loads(pickle.dumps(loaded))
    moved.fit(*columns(60, seed=3))
    kept = json.loads((trained.folder / "config.json").read_text())
    config = moved._runner.model.config
    assert (config.cell_type, config.hidden_size) == (kept["cell_type"], kept["hidden_size"]) != ("lstm", 64)


def test_what_cannot_be_loaded(trained, tmp_path):
    for name, message in ((tmp_path, "has no config.json"), (tmp_path / "x", "there is no folder")):
        with pytest.raises(UserError, match=message):
            RnnClassifier.from_pretrained(name)
    with pytest.raises(UserError, match="has no revision 'v1'"):
        RnnClassifier.from_pretrained(trained.folder, revision="v1")
    shutil.copytree(trained.folder, tmp_path / "model")
    for name in ("metrics.json", "training_args.json"):
        was = (tmp_path / "model" / name).read_bytes()
        for content, message in ((b"{", "is not JSON"), (b"\xff", "is not JSON"), (b"[]", "must hold values by name")):
            (tmp_path / "model" / name).write_bytes(content)
            with pytest.raises(UserError, match=f"{name} {message}"):
                RnnClassifier.from_pretrained(tmp_path / "model")
        (tmp_path / "model" / name).write_bytes(was)
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "outside.py").write_text("mine")
    odd = {
        "AutoModel": f"{tmp_path}/outside.Model",
        "AutoConfig": ["a.B", None],
        "AutoTokenizer": "../x.Y",
        "AutoOther": "own/x--y.Z",
    }
    (tmp_path / "model" / "config.json").write_text(json.dumps({**config, "auto_map": odd}))
    assert RnnClassifier.from_pretrained(tmp_path / "model").predict(["miro"]).shape == (1,)
    config["problem_type"] = "multi_label_classification"
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="exactly one label"):
        RnnClassifier.from_pretrained(tmp_path / "model")


def test_the_hub(fitted, hub: HubServer, tmp_path, monkeypatch):
    monkeypatch.setattr("getpass.getuser", lambda: "jdoe")
    with pytest.raises(UserError, match="is no id of the Hub"):
        fitted.push_to_hub("me/..")  # would be a folder above the temporary one
    result = fitted.push_to_hub("me/films", private=True)
    assert result.url.endswith("/me/films") and result.commit
    fitted.save_pretrained(tmp_path / "films")
    sent = {file.name for file in result.files}
    assert sent == {path.name for path in (tmp_path / "films").iterdir()}
    shutil.rmtree(tmp_path / "films")
    for token in ("hf_mine", None):
        loaded = RnnClassifier.from_pretrained("me/films", token=token, use_cpu=True)
        assert (loaded.predict_proba(ASKED) == fitted.predict_proba(ASKED)).all()
    loaded.save_pretrained(tmp_path / "copy")
    assert (tmp_path / "copy" / "model.safetensors").read_bytes() == fitted._files["model.safetensors"]
    assert RnnClassifier.from_pretrained("me/films", revision=result.commit).classes_.tolist() == sorted(LABELS)
    for name, revision in (("me/nothing", None), ("me/films", "v9")):
        with pytest.raises(UserError, match="nor can it be had from the Hub") as caught:
            RnnClassifier.from_pretrained(name, revision=revision)
        assert "\n" not in str(caught.value)
