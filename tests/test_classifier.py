"""The scikit-learn interface: against the command on the same rows, the pipeline on the same folder, and sklearn."""

import copy
import enum
import json
import logging
import pickle
import random
import re
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
from transformers import pipeline
from transformers.utils import logging as transformers_logging

import hf_rnn.classifier.rnn_classifier as classifier_module
import hf_rnn.run.finishing
from hf_rnn import RnnClassifier
from hf_rnn.arguments.run_arguments import parse_settings
from hf_rnn.arguments.training_arguments import RnnTrainingArguments
from hf_rnn.classifier import NotFittedError, setting_names
from hf_rnn.classifier.labelled_texts import LabelledTexts, LabelType
from hf_rnn.classifier.settings import settings_of_command
from hf_rnn.containment import contained
from hf_rnn.errors import UserError
from hf_rnn.folder import FinishedFolder
from hf_rnn.recipes import load_recipe
from hf_rnn.training import train

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
    monkeypatch.setattr(hf_rnn.run.finishing, "_draw", lambda *args: False)


@pytest.fixture(scope="module")
def fitted():
    """Trained on the rows of `trained`; nobody changes it."""
    return RnnClassifier(**TINY).fit(*columns(240, seed=1), eval_set=columns(60, seed=2))


def weights_of(classifier):
    return load(classifier._fitted.files["model.safetensors"])


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
            assert (told.pop("name"), told.pop("dataset_name")) == ("films", "texts that were given in Python")
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
        (np.array(["b", "a", "ä"], dtype=object), object),
        ([10, 9, -1], np.int_),
        (["10", "9", "-1"], "<U2"),
        (np.array([3, -2], dtype=np.int8), np.int8),
        (np.array([2**64 - 1, 1], dtype=np.uint64), np.uint64),
        ([True, False, True], bool),
        (np.array([True, False]), bool),
        (pd.Series(["b", "a"], index=[7, 3]), object),
        (pd.Series([1, 0], dtype="int16"), np.int16),
        (pd.Series(["b", "a", "b"], dtype="category"), object),
        (pd.Series([True, False], dtype="boolean"), bool),
        (pd.Series([3, 1], dtype="Int64"), np.int64),
    ],
)
def test_labels_come_back_as_they_were(labels, dtype):
    """By way of names and JSON, as through a folder."""
    kind = LabelType.of_values(labels)
    record = json.loads(json.dumps({"kind": kind.kind, "dtype": kind.dtype}))
    expected = np.unique(np.asarray(labels)).tolist()
    restored = LabelType.from_record(record).restore([str(label) for label in expected])
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
    with pytest.raises(UserError, match=r"in one process, and here are several.* hf_rnn.train, .*from_pretrained"):
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


def test_items_that_are_more_than_str_and_int(hurried):
    class Mood(str, enum.Enum):  # noqa: UP042 - whose str() is not the value
        BAD, GOOD, PLAIN = "bad", "good", "plain"

    expected = weights_of(RnnClassifier(**QUICK).fit(TEXTS, NAMES))
    classifier = RnnClassifier(**QUICK).fit([np.str_(text) for text in TEXTS], [Mood(name) for name in NAMES])
    assert same(weights_of(classifier), expected) and classifier.classes_.tolist() == sorted(LABELS)
    assert LabelType.of_values([np.int64(3), 4]) == LabelType("int", "int64")
    assert LabelType.of_values([np.True_, False]) == LabelType("bool", "bool")


@pytest.mark.parametrize(
    "record",
    [{"kind": "float", "dtype": "float64"}, {"kind": "int", "dtype": "object"}, {"kind": "int"}, 3, {"kind": []}],
)
def test_a_record_that_is_none(record):
    with pytest.raises(UserError, match="label type that is not known"):
        LabelType.from_record(record)


def test_names_that_are_no_such_labels():
    for kind, names in (("int", ["a"]), ("bool", ["yes"]), ("int8", ["300"])):
        with pytest.raises(UserError, match="are not of type"):
            LabelType(kind.rstrip("8"), kind).restore(names)


# ---- scikit-learn ----


def test_scikit_learn_takes_it_for_a_classifier(fitted):
    base, validation = pytest.importorskip("sklearn.base"), pytest.importorskip("sklearn.utils.validation")
    assert base.is_classifier(RnnClassifier())
    validation.check_is_fitted(fitted)
    with pytest.raises(Exception, match="not fitted"):
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
    unknown, endless = (np.where(weights == 3, number, 1) for number in (np.nan, np.inf))
    for wrong in ([1], np.zeros(30), ["a"] * 30, weights[:, None], unknown, endless, np.resize([1, -1], 30)):
        with pytest.raises(UserError, match="sample_weight must be 30 numbers, one a text, none below 0"):
            fitted.score(texts, labels, wrong)


def test_labels_that_can_be_read_once():
    texts, labels = columns(30, seed=8)
    read = LabelledTexts.read(iter(texts), (label for label in labels))
    assert (read.texts, read.labels, read.type) == (texts, labels, LabelledTexts.read(texts, labels).type)


@pytest.mark.parametrize("chunked", [True, False])
def test_columns_of_arrow(chunked):
    texts, labels = columns(30, seed=8)
    table = pa.table({"text": texts, "label": labels})
    given = [table[name] if chunked else table[name].combine_chunks() for name in ("text", "label")]
    read = LabelledTexts.read(*given)
    assert (read.texts, read.labels, read.type) == (texts, labels, LabelledTexts.read(texts, labels).type)


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
        best.get_params()["cell_type"]
        == best._fitted.runner.model.config.cell_type
        == search.best_params_[next(iter(grid))]
    )
    assert "BOX" in best._fitted.runner.tokenizer.get_vocab(), "it saw what the step before it made"
    assert search.classes_.tolist() == sorted(LABELS)
    assert search.predict_proba(["miro"]).shape == (1, 3)


# ---- settings ----


def test_settings_by_name():
    classifier = RnnClassifier(hidden_size=3)
    assert classifier.get_params(deep=False) == dict.fromkeys(setting_names()) | {"hidden_size": 3}
    assert classifier.set_params(cell_type="gru", hidden_size=None) is classifier
    assert repr(classifier) == "RnnClassifier(cell_type='gru')"
    whole = RnnClassifier(recipe=load_recipe("default"), seed=7)  # as `from_pretrained` has it of a folder
    assert re.fullmatch(r"RnnClassifier\(seed=7, recipe=\{'min_frequency': 3, .{,77}\.\.\.\)", repr(whole))
    assert {"recipe", "seed", "normalizer", "learning_rate", "random_state", "verbose"} <= set(setting_names())


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("hiden_size", "has no setting 'hiden_size'. Did you mean hidden_size?"),
        ("xyzzy", "has no setting 'xyzzy'"),
        ("data_dir", "given to fit"),
        ("class_names", "labels given to fit"),
        ("output_dir", "save_pretrained"),
        ("resume", "starts anew"),
        ("hub_model_id", r"push_to_hub\(repo_id\)"),
        ("push_to_hub", r"push_to_hub\(repo_id\)"),
    ],
)
def test_no_setting(setting, message):
    with pytest.raises(UserError, match=message):
        RnnClassifier(**{setting: 3})
    classifier = RnnClassifier(hidden_size=3)
    with pytest.raises(UserError, match=message):
        classifier.set_params(hidden_size=5, **{setting: 3})
    assert classifier.hidden_size == 3, "all or nothing"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_size": "wide"}, "hidden_size: invalid int value: 'wide'"),
        ({"hidden_size": 0}, "hidden_size must be at least 1"),
        ({"recipe": "tutoral"}, "Did you mean 'tutorial'"),
        ({"metric_for_best_model": "f2"}, "metric_for_best_model 'f2' is not known"),
        ({"random_state": -1}, "random_state is -1"),
        ({"random_state": True}, "random_state is True"),
        ({"random_state": 1, "seed": 2}, "random_state=1 and seed=2 disagree"),
    ],
)
def test_bad_values_are_found_by_fit(settings, message):
    with pytest.raises(UserError, match=message):
        RnnClassifier(**settings).fit(TEXTS, NAMES)


def test_values_as_they_reach_the_training(tmp_path):
    def arguments(**settings):
        return parse_settings(settings_of_command(RnnClassifier(**settings).get_params(), str(tmp_path)))

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
        ([], [], "texts are empty"),
        (TEXTS, NAMES[:-1], "texts and labels differ in length: 24 and 23"),
        (["a", "b"], ["x", "x"], "one class only, 'x'"),
        (["a", "b"], ["x", "y"], "no two of one class"),
        (["a", None, "b"], [1, 0, 1], r"^texts\[1\] is not a str: found None"),
        (np.array(["a", "b", float("nan")], dtype=object), [1, 0, 1], r"^texts\[2\] is not a str: found nan"),
        (pd.Series(["a", pd.NA, "b"], dtype="string"), [1, 0, 1], r"^texts\[1\] is not a str: found <NA>"),
        ([b"a", "b"], [1, 0], r"texts\[0\] is not a str"),
        (["a", "b", "\ud800"], [1, 0, 1], r"texts\[2\] is not valid Unicode: a lone surrogate at character 0"),
        (["a", "", "b"], [1, 0, 1], r"^texts\[1\]: nothing stands where the text should"),
        (["a", "b", " \n"], [1, 0, 1], r"^texts\[2\]: the text is"),
        ("a b", [1, 0, 1], "put it into a list"),
        (pd.DataFrame({"text": ["a", "b"]}), [1, 0], "must have one dimension, found DataFrame of shape"),
        (3, [1], "must be a list or an array, found int"),
        ({"text": ["a"]}, [1], "must be a list or an array, found a dict"),
        (["a", "b", "c"], [1, 0, None], r"^labels\[2\] is None: labels must be str, int or bool"),
        (["a", "b", "c"], [1.0, float("nan"), 0.0], r"^labels\[0\] is 1.0"),
        (["a", "b", "c"], pd.Series([1, None, 0], dtype="Int64"), r"^labels\[1\] is <NA>"),
        (["a", "b", "c"], [1, "0", 1], r"labels\[1\] is '0', a label of type str, and labels\[0\] 1, one of type int"),
        (["a", "b", "c"], [1, True, 1], r"labels\[1\] is True, a label of type bool"),
        (["a", "b", "c"], ["x", "x", " y"], r"^labels\[2\]: label ' y' has white space at its ends"),
        (["a", "b", "c"], ["x", "x", "y\0"], r"^labels\[2\]: NUL is character 2 of label 'y\\x00'"),
        (["a", "b", "c"], ["x", "", "x"], r"^labels\[1\]: the label is ''"),
        (["a", "b", "c"], [1, 2**70, 1], "do not fit into 64 bits"),
        (["a", "b", "c"], [-1, 2**63, -1], "do not fit into 64 bits"),
        (["a", "b"], np.eye(2, dtype=int), "labels must have one dimension"),
        (["a", "b"], np.array(3), r"labels must have one dimension, found ndarray of shape \(\)"),
    ],
)
def test_bad_rows(texts, labels, message):
    with pytest.raises(UserError, match=message) as caught:
        RnnClassifier().fit(texts, labels)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("eval_set", "message"),
    [
        ((["a"], ["worse"]), r"^eval_set labels\[0\] is 'worse', which labels lack; there are 'bad', 'good', 'plain'"),
        ((["a"], [1]), "eval_set labels are int, labels str"),
        ((["a", "b"], ["bad"]), "eval_set texts and eval_set labels differ in length: 2 and 1"),
        (([], []), "eval_set texts are empty"),
        (([" "], ["bad"]), r"^eval_set texts\[0\]: the text is ' '"),
        ([(["a"], ["bad"])], r"eval_set must be \(texts, labels\)"),
        (TEXTS, r"eval_set must be \(texts, labels\)"),
    ],
)
def test_bad_eval_set(eval_set, message):
    with pytest.raises(UserError, match=message):
        RnnClassifier(**QUICK).fit(TEXTS, NAMES, eval_set=eval_set)


def test_predicting_bad_rows(fitted):
    for method in (fitted.predict, fitted.predict_proba):
        with pytest.raises(UserError, match=r"texts\[1\] is not a str: found None"):
            method(["a", None])
    with pytest.raises(UserError, match="labels are int, those that it was trained with str"):
        fitted.score(["a"], [1])
    with pytest.raises(UserError, match="differ in length"):
        fitted.score(["a"], ["bad", "good"])


def test_without_fit(tmp_path):
    classifier = RnnClassifier()
    calls = [lambda: classifier.predict(["a"]), lambda: classifier.score(["a"], ["b"]), lambda: classifier.classes_]
    calls += [lambda: classifier.save_pretrained(tmp_path), lambda: classifier.push_to_hub("me/x")]
    for call in calls:
        with pytest.raises(NotFittedError, match=r"call fit\(texts, labels\) first"):
            call()
    assert not hasattr(classifier, "classes_") and not hasattr(classifier, "metrics_")
    with pytest.raises(AttributeError, match="no attribute 'clases_'"):
        classifier.clases_  # noqa: B018 - looked up to fail


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
    config = moved._fitted.runner.model.config
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
    assert (tmp_path / "copy" / "model.safetensors").read_bytes() == fitted._fitted.files["model.safetensors"]
    assert RnnClassifier.from_pretrained("me/films", revision=result.commit).classes_.tolist() == sorted(LABELS)
    for name, revision in (("me/nothing", None), ("me/films", "v9")):
        with pytest.raises(UserError, match="nor can it be had from the Hub") as caught:
            RnnClassifier.from_pretrained(name, revision=revision)
        assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_predicting_loads_neither_trainer_nor_datasets_nor_sklearn(trained):
    code = f"""
import sys
from hf_rnn import RnnClassifier
print(RnnClassifier.from_pretrained({str(trained.folder)!r}).predict(["miro"]))
print(sorted({{"transformers.trainer", "datasets", "evaluate", "sklearn", "matplotlib"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["['good']", "[]"]
