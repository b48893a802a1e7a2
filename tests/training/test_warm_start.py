"""A run starts from a model, an encoder or vectors; at a learning rate of 0 it answers the same."""

import json
import tomllib
import zlib
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from conftest import LABELS, invent_rows
from datasets import Dataset
from huggingface_hub import ModelCard
from safetensors import safe_open
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer
from vector_files import write_text

import hf_rnn
import hf_rnn.hub.model_folder
from hf_rnn import FastRnn, train
from hf_rnn.hub.model_folder import FinishedFolder, find_built_in, load_without_weights
from hf_rnn.hub.push import push
from hf_rnn.settings.fields import ARCHITECTURE
from hf_rnn.settings.recipe import load_recipe
from hf_rnn.settings.resolve import resolve
from hf_rnn.training import few_rows
from hf_rnn.training.prepare import decide_start
from hf_rnn.utils.errors import UserError

TEXTS = ["miro", "the selk stood", "near a door", "", "qwertz miro"]
STILL = {
    "learning_rate": 0.0,
    "head_learning_rate": 0.0,
    "few_rows": 0,
    "max_steps": 1,
    "baselines": False,
    "wide": False,
}
STILL["use_cpu"] = True


def weights_of(folder):
    return load_file(folder / "model.safetensors")


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def scores_of(folder):
    """Return the scores of TEXTS by label."""
    fast = FastRnn.from_pretrained(folder)
    names = list(fast.config.id2label.values())
    return dict(zip(names, fast.predict_proba(TEXTS).T, strict=True))


@pytest.fixture
def start_from(trained, texts_dir, tmp_path):
    """Train from `trained`, in a folder named by `output_dir`."""

    def run(**settings):
        usual = {
            "data_dir": str(texts_dir),
            "model_name_or_path": str(trained.folder),
            "output_dir": "new",
            **STILL,
        }
        chosen = {**usual, **settings}
        return train(**{**chosen, "output_dir": str(tmp_path / chosen["output_dir"])})

    return run


@pytest.mark.parametrize("recipe", ["default", "scratch"])
def test_without_a_step_the_model_is_the_same(start_from, trained, recipe):
    """The model's architecture wins over that of any recipe; dropouts are the run's."""
    steps = {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
    result = start_from(recipe=recipe, early_stopping_patience=0, optim="adamw_torch", **steps)
    new, old = weights_of(result.folder), weights_of(trained.folder)
    assert new.keys() == old.keys() and all(torch.equal(new[name], old[name]) for name in old)
    config, start = config_of(result.folder), config_of(trained.folder)
    assert {name: config[name] for name in ARCHITECTURE} == {
        name: start[name] for name in ARCHITECTURE
    }
    assert start["hidden_size"] == 8, "premise: not the size of a recipe"
    assert config["word_dropout"] == load_recipe(recipe).get("word_dropout", 0)
    tokenizers = [
        AutoTokenizer.from_pretrained(folder) for folder in (result.folder, trained.folder)
    ]
    assert tokenizers[0].get_vocab() == tokenizers[1].get_vocab()


def test_a_classifier_starts_from_an_encoder(start_from, encoder):
    """Weights in bfloat16 become float32; the pooling is the run's."""
    result = start_from(model_name_or_path=str(encoder), pooling="attention")
    new, old = weights_of(result.folder), weights_of(encoder)
    assert {name.removeprefix("rnn.") for name in new if name.startswith("rnn.")} == old.keys()
    assert all(torch.equal(new[f"rnn.{name}"], old[name].float()) for name in old)
    assert {weight.dtype for weight in old.values()} == {torch.bfloat16}, "premise"
    config = config_of(result.folder)
    assert (config["pooling"], config["hidden_size"], config["num_hidden_layers"]) == (
        "attention",
        5,
        2,
    )
    assert result.metrics["card"]["start"] == {
        "name": encoder.name,
        "id": None,
        "keeps_classifier": False,
    }
    assert set(scores_of(result.folder)) == set(LABELS)
    again = start_from(model_name_or_path=str(result.folder), output_dir="again")
    assert config_of(again.folder)["pooling"] == "attention"
    assert all(torch.equal(weights_of(again.folder)[name], weight) for name, weight in new.items())
    with pytest.raises(UserError, match="pooling .*is attention: found max"):
        start_from(model_name_or_path=str(result.folder), pooling="max", output_dir="refused")


def test_the_default_start_is_the_encoder_of_the_package(
    encoder, texts_dir, tmp_path, monkeypatch, caplog
):
    """A folder `english` in the current folder is named `./english`."""
    caplog.set_level("INFO", "hf_rnn")
    monkeypatch.chdir(tmp_path)
    usual = {"data_dir": str(texts_dir), **STILL}
    folder = train(**usual, output_dir="english").folder
    assert torch.equal(
        weights_of(folder)["rnn.embedding.weight"], weights_of(encoder)["embedding.weight"].float()
    )
    assert "starting from english: an encoder (lstm, layers: 2, units: 5)" in caplog.text
    for named in ("english", "./english"):
        chosen = train(
            **usual, output_dir="chosen", model_name_or_path=named, overwrite_output_dir=True
        )
        assert chosen.metrics["card"]["start"]["keeps_classifier"] == (named == "./english")
        record = json.loads((chosen.folder / "training_args.json").read_text())
        assert record["model_name_or_path"] == named
    FinishedFolder(folder).check_finished()
    assert not (folder / "pretraining.json").exists()


@pytest.mark.parametrize("name", ["english", "multilingual", "multilingual_causal"])
def test_the_wheel_has_the_encoders(name):
    folder = Path(hf_rnn.hub.model_folder.__file__).parent / "pretrained" / name
    FinishedFolder(folder).check()
    assert not list(folder.rglob("*.py")), "its code is the package's"
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(len(zlib.compress(path.read_bytes())) for path in files) <= 20e6
    assert {"pieces_per_word", "unknown_token_share"} <= json.loads(
        (folder / "pretraining.json").read_text()
    ).keys()
    config, tokenizer = load_without_weights(name, FinishedFolder(folder))
    assert config.architectures == ["RnnModel"] and tokenizer.model_max_length >= 4096
    with safe_open(folder / "model.safetensors", "pt") as weights:
        assert weights.get_slice("embedding.weight").get_shape() == [
            config.vocab_size,
            config.embedding_size,
        ]
    root = folder.parents[3]
    packed = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"][
        "package-data"
    ]["hf_rnn"]
    assert {*files} <= {path for pattern in packed for path in (root / "hf_rnn").glob(pattern)}


def test_texts_in_another_language_are_reported(start_from, encoder, caplog):
    texts = ["这部电影很好看我非常喜欢", "天气不好我很累"]
    rows = [
        (text + end, label)
        for end in "abcdefghijkl"
        for text, label in zip(texts, "ab", strict=True)
    ]
    start_from(model_name_or_path=str(encoder), train=rows, data_dir=None)
    assert "tokens of validation are not in the vocabulary" in caplog.text


def test_an_encoder_does_not_predict(command, encoder):
    code, out, err = command("predict", "--model", encoder, "--text", "a")
    assert (code, out) == (2, "")
    expected = (
        f"{encoder} is an encoder without a task: train it with hf-rnn train --model_name_or_path"
    )
    assert expected in err.splitlines()[-1]


def test_labels_in_another_order_keep_their_weights(start_from, trained):
    result = start_from(class_names=["plain", "good", "bad"])
    assert list(config_of(result.folder)["id2label"].values()) == ["plain", "good", "bad"]
    before, after = scores_of(trained.folder), scores_of(result.folder)
    assert list(before) == sorted(LABELS)
    for name in LABELS:
        np.testing.assert_allclose(after[name], before[name], atol=1e-6)


@pytest.mark.parametrize("known", ["good", None])
def test_new_labels_get_new_rows_of_the_output_layer(start_from, trained, known):
    rows = [(f"miro {number}", known or "warm") for number in range(20)]
    rows += [(f"selk {number}", "cold") for number in range(20)]
    result = start_from(train=rows, data_dir=None)
    new, old = weights_of(result.folder), weights_of(trained.folder)
    for name in old:
        if name.startswith("classifier."):
            assert new[name].shape[0] == 2 and not torch.isin(new[name][0], old[name]).any(), "cold"
            assert torch.equal(new[name][1], old[name][sorted(LABELS).index("good")]) == (
                known == "good"
            )
        else:
            assert torch.equal(new[name], old[name]), name
    assert new["classifier.weight"].std(dim=1).min() > 0
    assert result.metrics["card"]["start"]["keeps_classifier"] is False
    assert result.metrics["card"]["start"].get("new_labels") == (["cold"] if known else None)
    said = "New in its last layer: cold" if known else "The last layer is new"
    assert said in (result.folder / "README.md").read_text(encoding="utf-8")


def test_start_from_the_hub(hub, trained, texts_dir, tmp_path, monkeypatch):
    push(trained.folder, "me/base")
    monkeypatch.chdir(tmp_path)
    result = train(data_dir=str(texts_dir), output_dir="out", **STILL, model_name_or_path="me/base")
    assert result.metrics["test"]["macro_f1"] == trained.metrics["test"]["macro_f1"]
    assert ModelCard.load(result.folder / "README.md").data.base_model == "me/base"
    assert (
        json.loads((result.folder / "training_args.json").read_text())["model_name_or_path"]
        == "me/base"
    )


def test_pairs_start_from_an_encoder_of_single_texts(encoder, tmp_path):
    """The separator gets a row of the table; a run from the result keeps the weights."""
    rows = [("miro", "selk", "a"), ("selk", "miro", "b")] * 20
    usual = {"train": rows, "text_pair_column": "text_pair", **STILL}
    first = train(**usual, output_dir=str(tmp_path / "first"))
    table, old = (
        weights_of(first.folder)["rnn.embedding.weight"],
        weights_of(encoder)["embedding.weight"],
    )
    assert len(table) == len(old) + 1 and torch.equal(table[:-1], old.float())
    assert len(FastRnn.from_pretrained(first.folder).predict([("miro", "selk")])) == 1
    again = train(**usual, model_name_or_path=str(first.folder), output_dir=str(tmp_path / "again"))
    new = weights_of(again.folder)
    assert all(torch.equal(new[name], weight) for name, weight in weights_of(first.folder).items())


@pytest.mark.parametrize("labels", [2, 3])
def test_few_rows_change_the_encoder_a_little_and_fit_the_last_layer(tmp_path, labels):
    rows = [row for row in invent_rows(120, seed=3) if row[1] in LABELS[:labels]]
    settings = {"recipe": "finetune", "few_rows": 40, "baselines": False, "use_cpu": True}
    result = train(train=rows, validation=rows, output_dir=str(tmp_path / "out"), **settings)
    assert result.metrics["validation"]["accuracy"] > 1 / labels + 0.15
    before, after = (
        load_file(find_built_in("english") / "model.safetensors"),
        weights_of(result.folder),
    )
    for name, weight in before.items():
        change = after[f"rnn.{name}"].float() - weight.float()
        assert change.norm() <= 0.2 * weight.float().norm(), name
    assert not all(
        torch.equal(after[f"rnn.{name}"].float(), weight.float()) for name, weight in before.items()
    )
    many = train(
        train=rows,
        validation=rows,
        output_dir=str(tmp_path / "all"),
        **{**settings, "few_rows": 39},
        max_steps=1,
    )
    assert many.metrics["training"]["steps"] == 1


@pytest.mark.slow
def test_few_rows_say_what_was_done(tmp_path, caplog):
    """Card, metrics and log; the last layer equals that of all rows, the scores are held out."""
    caplog.set_level("INFO", "hf_rnn")
    rows = [
        (f"{row[0]} " * (1 + 7 * number % 13), row[1])
        for number, row in enumerate(invent_rows(60, seed=3))
    ]
    settings = {"recipe": "finetune", "few_rows": 40, "baselines": False, "use_cpu": True}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hf_rnn.training.few_rows._STRENGTHS", (3.0,))
        result = train(
            train=rows, output_dir=str(tmp_path / "held_out"), num_train_epochs=9, **settings
        )
        everything = train(
            train=rows, validation=rows, output_dir=str(tmp_path / "all"), **settings
        )
    training, data = result.metrics["training"], result.metrics["data"]
    held_out = data["held_out"]["rows"]
    assert training["method"] == "contrast and logistic regression"
    assert (training["steps"], training["rows"]) == (30, 60 - held_out)
    assert data["learned_held_out"] and held_out == result.metrics["validation"]["rows"] > 0
    assert not everything.metrics["data"]["learned_held_out"]
    assert "no effect of num_train_epochs: few_rows has its own steps" in caplog.text
    assert (
        f"learns from the {held_out} rows held out too" in caplog.text
        and "row_budget" not in caplog.text
    )
    card = (result.folder / "README.md").read_text(encoding="utf-8")
    assert (
        "30 steps of supervised contrast changed the encoder a little, and logistic regression"
        in card
    )
    assert "After its scores were taken, the saved model learned these rows" in " ".join(
        card.split()
    )
    assert "epochs" not in card.split("## Training")[1]
    first, second = (weights_of(run.folder)["classifier.weight"] for run in (result, everything))
    torch.testing.assert_close(first, second, rtol=0, atol=2e-2 * second.abs().max().item())


def test_rows_that_were_held_out_are_given_back_where_rows_are_few(encoder, tmp_path, capfd):
    """The model is that of all rows for the same epochs; the scores are those of before."""
    datasets.enable_progress_bars()
    rows = [
        (f"{text} {number}", label) for number, (text, label) in enumerate(invent_rows(60, seed=3))
    ]
    settings = {
        "model_name_or_path": str(encoder),
        "baselines": False,
        "use_cpu": True,
        "bf16": False,
        "typos": 0.2,
    }
    settings |= {"num_train_epochs": 3, "load_best_model_at_end": False}
    first = train(train=rows, output_dir=str(tmp_path / "few"), few_rows=10, **settings)
    record = first.metrics["data"]
    assert (
        record["learned_held_out"]
        and first.metrics["training"]["rows"] == 60 - record["held_out"]["rows"]
    )
    assert "examples/s" not in capfd.readouterr().err, (
        "no bar of a library, as ours need a terminal"
    )
    assert not datasets.are_progress_bars_disabled(), "outside of a training they are as before"
    columns = {
        name: list(column)
        for name, column in zip(("text", "label"), zip(*rows, strict=True), strict=True)
    }
    splits = hf_rnn.load_tsv(Dataset.from_dict(columns))
    names = splits["train"].features["label"].names
    joined = [
        (row["text"], names[row["label"]])
        for split in ("train", "validation")
        for row in splits[split]
    ]
    assert len(joined) == 60
    few = rows[:20]  # both linear parts have the factor of few validation rows
    whole = train(
        train=joined, validation=few, output_dir=str(tmp_path / "all"), few_rows=10, **settings
    )
    new, expected = weights_of(first.folder), weights_of(whole.folder)
    assert all(torch.equal(new[name], weight) for name, weight in expected.items())
    many = train(train=rows, output_dir=str(tmp_path / "many"), few_rows=4, **settings)
    assert not many.metrics["data"]["learned_held_out"], "more than four times few_rows per class"


# ---- pretrained vectors, against tables known by hand ----

INVENTED = ("the", "box", "miro", "selk", "unheard")


@pytest.fixture(scope="module")
def vector_file(tmp_path_factory):
    """Vectors of 8 numbers for four words of the invented texts and one other word."""
    numbers = np.random.default_rng(3).normal(size=(len(INVENTED), 8)).astype(np.float32)
    path = tmp_path_factory.mktemp("vectors") / "invented.txt"
    path.write_bytes(write_text(dict(zip(INVENTED, numbers.tolist(), strict=True))))
    return path, dict(zip(INVENTED, torch.from_numpy(numbers), strict=True))


@pytest.fixture
def train_with(tiny_settings, vector_file, tmp_path):
    """Train with the vectors; return the embedding by word, and the result."""

    def run(name, **changes):
        settings = {key: value for key, value in tiny_settings.items() if key != "embedding_size"}
        settings |= {"vectors": str(vector_file[0]), "num_train_epochs": 1, "baselines": False}
        result = train(**{**settings, "output_dir": str(tmp_path / name), **changes})
        embedding = weights_of(result.folder)["rnn.embedding.weight"]
        vocabulary = AutoTokenizer.from_pretrained(result.folder).get_vocab()
        return {word: embedding[index] for word, index in vocabulary.items()}, result

    return run


def test_frozen_vectors_stay(train_with, vector_file, caplog):
    caplog.set_level("INFO", "hf_rnn")
    embedding, result = train_with("frozen", freeze_embedding=True)
    for word in INVENTED[:4]:
        torch.testing.assert_close(embedding[word], vector_file[1][word], rtol=0, atol=0)
    model = AutoModelForSequenceClassification.from_pretrained(result.folder)
    assert model.config.embedding_size == 8
    assert "vectors of invented.txt: 4 of 17 words (23.5%), " in caplog.text
    tokens = [word for text, _ in invent_rows(240, 1) for word in text.split()]
    assert result.metrics["card"]["vectors"] == {
        "name": "invented.txt",
        "coverage_types": 4 / 17,
        "coverage_tokens": pytest.approx(sum(token in INVENTED for token in tokens) / len(tokens)),
    }
    assert "invented.txt" in (result.folder / "README.md").read_text(encoding="utf-8")


# ---- the start suits the language of the texts ----


SAMPLES = {
    "German": [
        "Was für ein schöner Tag heute",
        "Nie wieder kaufe ich dieses Telefon",
        "Der Film war langweilig",
    ],
    "Spanish": [
        "Qué día tan bonito hace hoy",
        "Nunca más compraré este teléfono",
        "La película era aburrida",
    ],
    "Arabic": [
        "يا له من يوم جميل اليوم",
        "لن أشتري هذا الهاتف مرة أخرى",
        "كان الفيلم مملا لكنه متقن",
    ],
    "Chinese": [
        "今天天气真好",
        "我再也不会买这个手机了，马上就坏了",
        "这部电影很无聊，但是拍得很好",
    ],
    "Hindi": ["आज का दिन कितना सुंदर है", "मैं यह फोन फिर कभी नहीं खरीदूंगा", "फिल्म उबाऊ थी"],
    "Thai": ["วันนี้อากาศดีมาก", "จะไม่ซื้อโทรศัพท์นี้อีก"],
    "Hindi in Latin letters": [
        "aaj ka din kitna sundar hai",
        "main yeh phone phir kabhi nahi kharidunga",
    ],
    "English": [
        "What a beautiful day today",
        "I will never buy this phone again 😡",
        "lol the movie was boring tbh",
    ],
    "code": [
        "for row in rows:",
        "    return [index for index, row in enumerate(rows)]",
        "if (x > 0) { y = x; }",
    ],
    "emoji": ["😂 😂", "😭", "❤️ 🔥"],
    "Cherokee": ["ᎣᏏᏲ ᎠᏂᏴᏫ ᏣᎳᎩ", "ᎠᏂᏴᏫᏯ ᎤᎾᏙᏢᎯ"],
    "a cipher": ["qzxvj kwqfz zkpqx", "vjxqz ffkwq jzxpv qkzzx"],
}


DATA = Path(__file__).parents[3] / "shared" / "data"
STARTS = {
    "English": "english",
    "code": "english",
    "emoji": "english",
    "Cherokee": None,
    "a cipher": None,
}
TASKS = ["sequence-classification", "multi-label", "regression", "token-classification"]


READ_ONCE = SimpleNamespace(from_file=cache(Tokenizer.from_file), from_str=Tokenizer.from_str)


@pytest.fixture
def encoders(monkeypatch):
    """The encoders of the package itself, whose large tokenizers are read once."""
    monkeypatch.setattr("hf_rnn.tokenizers.language.Tokenizer", READ_ONCE)
    monkeypatch.setattr(
        "hf_rnn.hub.model_folder.PRETRAINED", Path(hf_rnn.__file__).parent / "hub" / "pretrained"
    )


@pytest.mark.parametrize("language", SAMPLES)
def test_the_start_suits_the_language(encoders, language, caplog):
    caplog.set_level("INFO", "hf_rnn")
    task = TASKS[list(SAMPLES).index(language) % len(TASKS)]
    given = {"output_dir": "out", "task": task, "num_train_epochs": 3, "data_dir": "data"}
    found, reason = decide_start(resolve(given), SAMPLES[language], 1000)
    start = STARTS.get(language, "multilingual")
    assert found.data.model_name_or_path == start and reason in caplog.text
    assert f"the run starts from {start}\n" in caplog.text or (
        start is None and "recipe" in caplog.text
    )
    assert (found.data.task, found.data.data_dir, found.training.num_train_epochs) == (
        task,
        "data",
        3,
    )
    assert found.training.language == (["en"] if start == "english" else None)
    explicit = {**given, "model_name_or_path": "english"}
    arguments = resolve(explicit)
    assert decide_start(arguments, SAMPLES[language], 1000)[0] is arguments
    assert ("--model_name_or_path multilingual" in caplog.text) == (
        start != "english" and language not in ("Cherokee", "a cipher")
    )


@pytest.mark.slow
@pytest.mark.parametrize("language", ["English", "Chinese", "Cherokee"])
def test_a_streaming_model_starts_from_an_encoder_in_one_direction(encoders, tmp_path, language):
    """It answers after each letter as `predict` does for the text so far, without spaces too."""
    rows = [(text, "ab"[number % 2]) for number, text in enumerate(SAMPLES[language] * 10)]
    settings = {"max_steps": 1, "baselines": False, "use_cpu": True, "streaming": True}
    result = train(train=rows, output_dir=str(tmp_path), **settings)
    start = {"English": "english_causal", "Chinese": "multilingual_causal"}.get(language)
    assert result.metrics["card"].get("start", {"name": None})["name"] == start
    model, text = FastRnn.from_pretrained(result.folder), SAMPLES[language][0][:30]
    stream = model.stream()
    answers = [stream.feed(letter)["score"] for letter in text]
    expected = [model.predict([text[: place + 1]])[0]["score"] for place in range(len(text))]
    assert answers == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", ["Cherokee", "a cipher"])
def test_texts_that_no_encoder_knows(encoders, tmp_path, name):
    rows = [(text, "ab"[number % 2]) for number, text in enumerate(SAMPLES[name] * 10)]
    result = train(train=rows, output_dir=str(tmp_path), max_steps=1, baselines=False, use_cpu=True)
    tokenizer = AutoTokenizer.from_pretrained(result.folder)
    assert tokenizer.unk_token_id not in tokenizer(SAMPLES[name][0])["input_ids"]
    assert (
        "No encoder of the package knows the texts"
        in result.folder.joinpath("README.md").read_text()
    )


@pytest.mark.parametrize("name", [pytest.param("German", marks=pytest.mark.slow), "Cherokee"])
def test_the_audit_counts_the_tokens_of_the_run(encoders, tmp_path, name, command):
    for split, count in (("train", 12), ("dev", 7)):
        lines = [
            f"{SAMPLES[name][number % 2]} {name * (number % 5)}\t{'ab'[number % 2]}\n"
            for number in range(count)
        ]
        (tmp_path / f"{split}.tsv").write_text("".join(lines), encoding="utf-8")
    code, out, err = command("audit", tmp_path, "--json")
    assert code == 0, err
    result = train(
        tmp_path, tmp_path / "out", max_steps=1, baselines=False, use_cpu=True, few_rows=0
    )
    facts = json.loads((result.folder / "metrics.json").read_text())["card"]
    assert facts["audit"] == json.loads(out)["summary"]


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason=f"the real texts are not at {DATA}")
def test_the_start_of_real_texts(encoders):
    """The first and the last 40 rows of each set."""
    given = {"output_dir": "out", "data_dir": "data"}
    arguments = resolve(given)
    starts = {}
    for path in [*DATA.glob("*/train.tsv"), *DATA.glob("*/*/train.tsv")]:
        texts = [line.split("\t")[0] for line in path.read_text("utf-8").splitlines()]
        for name, rows in {"first": texts[:40], "last": texts[-40:]}.items():
            found, _ = decide_start(arguments, rows, 1000)
            starts[path.parent, name] = found.data.model_name_or_path
    expected = {
        key: "multilingual" if key[0].parent.name == "languages" else "english" for key in starts
    }
    assert len(starts) >= 36 and starts == expected


@pytest.mark.slow
def test_a_model_leaves_out_scripts_that_its_texts_do_not_have(encoders, tmp_path):
    """Texts of its language have the same pieces and the same vectors as before."""
    texts = [*SAMPLES["German"], "ganz toll 😂 :)"]
    rows = [(text, "ab"[number % 2]) for number, text in enumerate(texts * 4)]
    result = train(train=rows, output_dir=str(tmp_path), max_steps=1, baselines=False, use_cpu=True)
    start = Path(hf_rnn.__file__).parent / "hub" / "pretrained" / "multilingual"
    tables, pieces, vectors = [], [], []
    for folder in (start, result.folder):
        tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
        ids = tokenizer(" ".join(texts))["input_ids"]
        pieces.append(tokenizer.convert_ids_to_tokens(ids))
        tables.append(model.get_input_embeddings().weight)
        vectors.append(tables[-1][ids])
        known = tokenizer("ваза สวัสดี", return_tensors="pt")["input_ids"] != tokenizer.unk_token_id
        assert known.all() == (folder == start)
    assert (
        pieces[0] == pieces[1] and torch.equal(*vectors) and len(tables[1]) < 0.7 * len(tables[0])
    )


def test_texts_without_spaces_become_characters_without_the_encoder():
    """Unless the user names tokens, or has put spaces between the words."""

    def choose(texts=SAMPLES["Chinese"], **settings):
        given = {"output_dir": "out", "data_dir": "data", **settings}
        arguments, _ = decide_start(resolve(given), texts, 1000)
        return arguments.data.tokenizer

    assert (
        choose(hidden_size=8)
        == choose(recipe="fast")
        == choose(["วันนี้อากาศดีมาก"], recipe="scratch")
        == "char"
    )
    assert (
        choose(hidden_size=8, tokenizer="word")
        == choose(["今天 天气 真 好"], hidden_size=8)
        == "word"
    )
    assert (
        choose(SAMPLES["Arabic"], hidden_size=8) == choose(recipe={"recipe": "scratch"}) == "word"
    )


def test_few_long_texts_are_read_in_stretches(tmp_path, monkeypatch):
    """A step of 128 whole texts would take all memory."""
    widths = []
    contrast = few_rows.contrast_classes

    def record(model, tokenizer, views, *others):
        widths.extend(len(ids) for view in views for ids in view)
        contrast(model, tokenizer, views, *others)

    monkeypatch.setattr(few_rows, "contrast_classes", record)
    monkeypatch.setattr(few_rows, "_STEPS", 1)
    rows = [(f"{text} " * 90, label) for text, label in invent_rows(30, seed=3)]
    settings = {"recipe": "finetune", "few_rows": 40, "baselines": False, "train_window": 24}
    train(train=rows, validation=rows, output_dir=str(tmp_path / "out"), **settings)
    assert len(widths) == 7 * 30 and max(widths) == 24
