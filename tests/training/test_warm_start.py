"""Going on from a trained model: its architecture, tokenizer and weights, whatever the recipe says of these.

With a learning rate of zero a run ends with the weights that it started from, so that the old model tells what the new
one must answer.
"""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from conftest import LABELS, write_rows
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from hf_rnn import FastRnn, RnnClassifier, RnnConfig, RnnForSequenceClassification, train
from hf_rnn.hub.push import push
from hf_rnn.training import warm_start as starting_model
from hf_rnn.training.arguments.run_arguments import parse_argv, parse_settings
from hf_rnn.training.warm_start import ARCHITECTURE, StartingModel
from hf_rnn.utils.errors import UserError

TEXTS = ["miro", "the selk stood", "near a door", "", "qwertz miro"]
STILL = {"learning_rate": 0.0, "num_train_epochs": 1, "baselines": False, "use_cpu": True}


def scores_of(folder, texts=TEXTS):
    """Scores by label."""
    fast = FastRnn.from_pretrained(folder)
    names = [fast.model.config.id2label[number] for number in range(fast.model.config.num_labels)]
    return dict(zip(names, fast.predict_proba(texts).T, strict=True))


@pytest.fixture
def go_on(trained, texts_dir, tmp_path):
    def run(**settings):
        usual = {"data_dir": str(texts_dir), "model_name_or_path": str(trained.folder), "output_dir": "new", **STILL}
        chosen = {**usual, **settings}
        return train(**{**chosen, "output_dir": str(tmp_path / chosen["output_dir"])})

    return run


def test_every_setting_of_the_config_is_of_the_architecture_or_of_training():
    """One that is neither would be lost silently: whoever adds a setting decides here."""
    of_training = {name for name in RnnConfig.__annotations__ if "dropout" in name}
    of_training |= {"sparse_embedding", "freeze_embedding", "embedding_initializer_range"}
    fields = {field.name for field in dataclasses.fields(RnnConfig) if "help" in field.metadata}
    assert {*ARCHITECTURE, *of_training, "vocab_size", "pad_token_id"} == fields


def test_without_a_step_it_answers_as_before(go_on, trained):
    result = go_on()
    new, old = load_file(result.folder / "model.safetensors"), load_file(trained.folder / "model.safetensors")
    assert new.keys() == old.keys() and all(torch.equal(new[name], old[name]) for name in old)
    for split in ("validation", "test"):
        assert result.metrics[split]["macro_f1"] == trained.metrics[split]["macro_f1"]
    tokenizers = [AutoTokenizer.from_pretrained(folder) for folder in (result.folder, trained.folder)]
    assert tokenizers[0].get_vocab() == tokenizers[1].get_vocab()
    config = json.loads((trained.folder / "config.json").read_text())
    assert json.loads((result.folder / "config.json").read_text()) == config, "the recipe's sizes and dropouts yield"
    assert config["hidden_size"] == 8 and config["embedding_dropout"] == 0.1, "premise: these are not the recipe's"


def test_it_goes_on_learning(go_on, trained):
    result = go_on(learning_rate=0.02, num_train_epochs=2)
    new, old = load_file(result.folder / "model.safetensors"), load_file(trained.folder / "model.safetensors")
    assert not any(torch.equal(new[name], old[name]) for name in old)
    assert result.metrics["validation"]["loss"] < trained.metrics["validation"]["loss"]


def test_a_correction_of_shares_is_not_made_twice(trained, go_on, texts_dir, caplog, tmp_path):
    """The start's own stands in its biases: training, and another correction, go by the shares of the rows."""
    caplog.set_level("INFO", "hf_rnn")
    target = {"bad": 0.9, "good": 0.05, "plain": 0.05}
    corrected = go_on(output_dir="corrected", calibrate=True, target_prior=target)
    shift = corrected.metrics["calibration"]["shift"]
    assert max(shift.values()) > 0.5, "premise"
    settings = {"model_name_or_path": str(corrected.folder)}
    plain = go_on(**settings, output_dir="plain")
    assert "correction of shares (target_prior)" in caplog.text
    old, new = (load_file(result.folder / "model.safetensors") for result in (trained, plain))
    temperature = corrected.metrics["calibration"]["temperature"]
    torch.testing.assert_close(new["classifier.weight"] * temperature, old["classifier.weight"])
    torch.testing.assert_close(new["classifier.bias"] * temperature, old["classifier.bias"], atol=1e-5, rtol=1e-5)
    again = go_on(**settings, output_dir="again", calibrate=True, target_prior=target)
    for name, value in scores_of(again.folder).items():
        np.testing.assert_allclose(value, scores_of(corrected.folder)[name], atol=1e-4)
    start = StartingModel.load(str(corrected.folder), None)
    assert dataclasses.replace(start, shift={}).fingerprint() != start.fingerprint()
    (corrected.folder / "metrics.json").write_text(json.dumps({"calibration": {"shift": {"bad": 1.0}}}))
    with pytest.raises(UserError, match="metrics.json: calibration.shift must hold a number for each class"):
        go_on(**settings, output_dir="no")


def test_classes_in_another_order_keep_their_meaning(go_on, trained):
    result = go_on(class_names=["plain", "good", "bad"])
    assert list(json.loads((result.folder / "config.json").read_text())["id2label"].values()) == [
        "plain",
        "good",
        "bad",
    ]
    before, after = scores_of(trained.folder), scores_of(result.folder)
    assert list(before) == sorted(LABELS)
    for name in LABELS:
        np.testing.assert_allclose(after[name], before[name], atol=1e-6)


def test_other_classes_get_a_new_last_layer(go_on, trained, tmp_path, caplog):
    folder = tmp_path / "others"
    folder.mkdir()
    rows = [(f"miro {number}", "warm") for number in range(20)] + [(f"selk {number}", "cold") for number in range(20)]
    write_rows(folder / "train.tsv", rows)
    with caplog.at_level("INFO", logger="hf_rnn"):
        result = go_on(data_dir=str(folder))
    assert "the classes cold, warm are not those of" in caplog.text and "the last layer starts anew" in caplog.text
    new, old = load_file(result.folder / "model.safetensors"), load_file(trained.folder / "model.safetensors")
    for name in old:
        last = name.startswith("classifier.")
        assert (new[name].shape[0] == 2) if last else torch.equal(new[name], old[name]), name
    assert new["classifier.weight"].std() > 0
    card = (result.folder / "README.md").read_text(encoding="utf-8")
    assert "It went on from the weights of model, with the same tokenizer, but for the last layer" in card
    assert "lowercase=" not in card and "min_frequency=" not in card, "these did nothing here"


def test_a_table_that_is_larger_than_the_vocabulary_stays_so(go_on, trained, tmp_path):
    """As where a vocabulary size was set by hand, in a script with the plain Trainer."""
    larger = shutil.copytree(trained.folder, tmp_path / "larger", ignore=shutil.ignore_patterns("checkpoints"))
    weights = load_file(larger / "model.safetensors")
    table = weights["rnn.embedding.weight"]
    weights["rnn.embedding.weight"] = torch.cat([table, torch.ones(9, table.shape[1])])
    save_file(weights, larger / "model.safetensors", {"format": "pt"})
    config = json.loads((larger / "config.json").read_text())
    (larger / "config.json").write_text(json.dumps({**config, "vocab_size": len(table) + 9}))
    folder = go_on(model_name_or_path=str(larger)).folder
    assert torch.equal(
        load_file(folder / "model.safetensors")["rnn.embedding.weight"], weights["rnn.embedding.weight"]
    )
    for name, scores in scores_of(folder).items():
        np.testing.assert_allclose(scores, scores_of(trained.folder)[name], atol=1e-6)


def test_flags_change_training_and_not_the_architecture(go_on, trained):
    result = go_on(word_dropout=0.0, embedding_dropout=0.0, freeze_embedding=True, max_length=5)
    config = json.loads((result.folder / "config.json").read_text())
    assert (config["word_dropout"], config["embedding_dropout"], config["freeze_embedding"]) == (0, 0, True)
    assert AutoTokenizer.from_pretrained(result.folder).model_max_length == 5
    for setting, value in {
        "hidden_size": 9, "cell_type": "gru", "pooling": "max", "bidirectional": False, "num_hidden_layers": 2,
        "embedding_size": 300, "classifier_activation": "relu",
    }.items():  # fmt: skip
        with pytest.raises(UserError, match=f"^{setting} is {value}, and .* leave {setting} out$"):
            go_on(**{setting: value, "output_dir": "refused"})
    same = go_on(hidden_size=8, cell_type="lstm", output_dir="same")
    assert same.folder.is_dir(), "what agrees may be said"


@pytest.mark.parametrize("flag", ["--model_name_or_path", "--model-name-or-path"])
def test_a_flag_written_either_way_takes_over_the_architecture(trained, flag):
    model = parse_argv([f"{flag}={trained.folder}", "--data_dir=texts", "--output_dir=out"]).model
    assert (model.embedding_size, model.hidden_size) == (16, 8)


def test_dataclasses_are_compared_too(go_on, trained, texts_dir, tmp_path):
    """They do not tell which of their values were given: all have to agree."""
    settings = {"data_dir": str(texts_dir), "output_dir": str(tmp_path / "new"), **STILL}
    model, data, training = parse_settings({**settings, "model_name_or_path": str(trained.folder)})
    assert model.hidden_size == 8
    other = dataclasses.replace(model, pooling="last")
    with pytest.raises(UserError, match="pooling is last, and mean_max"):
        train(other, data, training)
    assert train(model, data, training).folder.is_dir()


@pytest.mark.parametrize("recipe", ["best", "tutorial", "fast"])
def test_any_recipe_yields(go_on, trained, recipe):
    steps = {"max_steps": 1, "eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
    result = go_on(recipe=recipe, early_stopping_patience=0, optim="adamw_torch", **steps)
    config = json.loads((result.folder / "config.json").read_text())
    assert config == json.loads((trained.folder / "config.json").read_text())


def test_the_settings_of_its_own_run_are_a_recipe_for_it(go_on, trained):
    result = go_on(recipe=str(trained.folder / "training_args.json"), max_steps=1)
    assert result.folder.is_dir()


def test_its_own_settings_repeat_a_run_that_went_on(go_on, trained, texts_dir, tmp_path, monkeypatch):
    """Dropouts and a frozen table that flags asked for stand in the record, beside the model's name."""
    first = go_on(learning_rate=0.02, freeze_embedding=True, word_dropout=0.25, output_dir="first")
    old = json.loads((trained.folder / "config.json").read_text())
    assert old["freeze_embedding"] is False and old["word_dropout"] != 0.25, "premise: the model says otherwise"
    monkeypatch.chdir(tmp_path)
    again = ["--data_dir", str(texts_dir), "--output_dir", "again", "--use_cpu", "--no_baselines"]
    again += ["--model_name_or_path", str(trained.folder)]
    train(*parse_argv(["--recipe", str(first.folder / "training_args.json"), *again]))
    new, repeated = (load_file(folder / "model.safetensors") for folder in (first.folder, tmp_path / "again"))
    assert all(torch.equal(new[name], repeated[name]) for name in new)
    config = json.loads((tmp_path / "again" / "config.json").read_text())
    assert config["freeze_embedding"] is True and config["word_dropout"] == 0.25


def test_what_a_recipe_says_beside_the_model_holds_but_for_the_architecture(trained, tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(f"model_name_or_path: {trained.folder}\nword_dropout: 0.25\nhidden_size: 99\n")
    flags = ["--recipe", str(recipe), "--data_dir=texts", "--output_dir=out"]
    model = parse_argv(flags).model
    assert (model.word_dropout, model.embedding_dropout, model.hidden_size) == (0.25, 0.1, 8)
    assert parse_argv([*flags, "--word_dropout=0.5"]).model.word_dropout == 0.5
    (tmp_path / "on.yaml").write_text(f"recipe: best\nmodel_name_or_path: {trained.folder}\n")
    assert parse_argv(["--recipe", str(tmp_path / "on.yaml"), *flags[2:]]).model.embedding_dropout == 0.1


def test_from_the_hub(hub, trained, texts_dir, tmp_path, monkeypatch):
    push(trained.folder, "me/base")
    monkeypatch.chdir(tmp_path)
    settings = {"data_dir": str(texts_dir), "output_dir": "me", **STILL}  # in which there is no folder `base`
    result = train(**settings, model_name_or_path="me/base")
    assert result.metrics["test"]["macro_f1"] == trained.metrics["test"]["macro_f1"]
    card = ModelCard.load(result.folder / "README.md")
    assert card.data.base_model == "me/base"
    assert "It went on from the weights of me/base, with the same tokenizer." in card.text
    recorded = json.loads((result.folder / "training_args.json").read_text())
    assert recorded["model_name_or_path"] == "me/base"


def test_all_of_a_start_from_the_hub_is_of_one_commit(hub, trained, go_on, monkeypatch):
    """Its weights and the correction that stands in them, although another model is pushed in between."""
    target = {"bad": 0.9, "good": 0.05, "plain": 0.05}
    corrected = go_on(output_dir="corrected", calibrate=True, target_prior=target)
    push(corrected.folder, "me/base")
    load = starting_model.load_model

    def late(*args):
        push(trained.folder, "me/base")
        return load(*args)

    monkeypatch.setattr(starting_model, "load_model", late)
    start = StartingModel.load("me/base", None)
    assert start.shift == corrected.metrics["calibration"]["shift"]
    weights = load_file(corrected.folder / "model.safetensors")
    assert all(torch.equal(weight, weights[name]) for name, weight in start.model.state_dict().items())
    assert not StartingModel.load("me/base", None).shift, "premise: main is another model by now"


def test_a_start_below_the_home_folder(trained, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "base").symlink_to(trained.folder)
    start = StartingModel.load("~/base", None)
    assert start.fingerprint() == StartingModel.load(str(trained.folder), None).fingerprint()


def test_classifier_of_scikit_learns_manner(trained):
    still = {"learning_rate": 0.0, "num_train_epochs": 1, "baselines": False, "verbose": False, "use_cpu": True}
    classifier = RnnClassifier(model_name_or_path=str(trained.folder), **still)
    classifier.fit(["miro", "selk", "sand"] * 10, ["good", "bad", "plain"] * 10)
    before = scores_of(trained.folder)
    assert classifier.classes_.tolist() == sorted(LABELS)
    np.testing.assert_allclose(classifier.predict_proba(TEXTS), np.array(list(before.values())).T, atol=1e-6)


def test_weights_in_half_precision_are_a_start_too(go_on, trained, tmp_path):
    half = tmp_path / "half"
    RnnForSequenceClassification.from_pretrained(trained.folder).to(torch.bfloat16).save_pretrained(half)
    AutoTokenizer.from_pretrained(trained.folder).save_pretrained(half)
    assert load_file(half / "model.safetensors")["classifier.bias"].dtype == torch.bfloat16, "premise"
    new, old = (
        load_file(go_on(model_name_or_path=str(half)).folder / "model.safetensors"),
        load_file(trained.folder / "model.safetensors"),
    )
    for name in old:
        assert torch.equal(new[name], old[name].bfloat16().float()), name


def test_a_run_goes_on_only_with_the_start_that_it_had(go_on, trained, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(trained.folder, other)
    settings = {"model_name_or_path": str(other), "learning_rate": 0.02, "num_train_epochs": 1}
    go_on(**settings)
    weights = load_file(other / "model.safetensors")
    weights["classifier.bias"] += 1e-3
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="the model that it goes on from"):
        go_on(**settings | {"num_train_epochs": 2}, resume=True)
    assert go_on(**settings | {"num_train_epochs": 2}, resume=True, resume_anyway=True).folder.is_dir()


def test_what_its_outputs_mean_is_part_of_a_start(trained):
    start, other = (StartingModel.load(str(trained.folder), None) for _ in range(2))
    assert start.fingerprint() == other.fingerprint() and start.keeps_classifier(other.model.config)
    other.model.config.problem_type = "multi_label_classification"
    assert not other.keeps_classifier(start.model.config)
    other.model.config.id2label = dict(enumerate(reversed(LABELS)))
    other.model.config.label2id = {name: number for number, name in other.model.config.id2label.items()}
    assert start.fingerprint() != other.fingerprint()


def test_mistakes_are_one_line(command, trained, texts_dir, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    bert = tmp_path / "bert"
    bert.mkdir()
    (bert / "config.json").write_text(json.dumps({"model_type": "bert", "vocab_size": 9}))
    (bert / "model.safetensors").write_bytes(b"")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (bert / name).write_text("{}")

    def refused(name, *flags, output_dir=tmp_path / "out"):
        given = ["--data_dir", texts_dir, "--model_name_or_path", name, "--output_dir", output_dir, *flags]
        code, out, err = command("train", *given)
        assert (code, out) == (2, ""), err
        assert "Traceback" not in err and not (tmp_path / "out").exists()
        return err.splitlines()[-1]

    assert "there is no folder" in refused(tmp_path / "nowhere")
    assert "is a file" in refused(tmp_path / "file")
    assert "the name is empty" in refused("")
    assert "empty" in refused(tmp_path / "empty")
    assert "'bert'" in refused(bert)
    assert "leave out vectors" in refused(trained.folder, "--vectors", tmp_path / "file")
    assert "leave out tokenizer_name_or_path" in refused(trained.folder, "--tokenizer_name_or_path", trained.folder)
    assert "brings its own words: leave out widen_vocabulary" in refused(trained.folder, "--widen_vocabulary", 5)
    assert "hidden_size is 7, and 8 in the model" in refused(trained.folder, "--hidden_size", 7)
    assert "lies in the output_dir" in refused(trained.folder, "--overwrite_output_dir", output_dir=trained.folder)
    assert (trained.folder / "model.safetensors").is_file()
