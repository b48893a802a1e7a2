"""`--task causal-lm` from text files to a finished folder, and the verbs on it."""

import json
import math
import random

import pytest
from conftest import run_until
from transformers import pipeline

from hf_rnn import train
from hf_rnn.hub.model_folder import load_model


@pytest.fixture(scope="module")
def text_dir(tmp_path_factory):
    """Lines that a small model learns: a name, then always the same words."""
    folder, chance = tmp_path_factory.mktemp("text"), random.Random(1)
    words = {"Anna": "reads a book", "Bob": "sails", "Cleo": "sings to Bob"}
    for name, count in (("train", 300), ("dev", 40)):
        lines = [f"{who}:\n  {words[who]}.\n" for who in chance.choices(list(words), k=count)]
        (folder / f"{name}.txt").write_text("".join(lines))
    return folder


@pytest.fixture(scope="module")
def settings(tiny_settings, text_dir):
    sizes = {
        "hidden_size": 24,
        "embedding_size": 8,
        "per_device_train_batch_size": 8,
        "block_size": 40,
    }
    sizes |= {"num_train_epochs": 6, "warmup_steps": 0, "recipe": "lm"}
    settings = {**tiny_settings, **sizes, "task": "causal-lm", "data_dir": str(text_dir)}
    del settings["embedding_dropout"]
    return settings


@pytest.fixture(scope="module")
def model_folder(settings, tmp_path_factory):
    return train(**settings, output_dir=str(tmp_path_factory.mktemp("lm") / "model")).folder


def test_it_learns_and_the_pipeline_continues_a_text(model_folder, text_dir, command):
    metrics = json.loads((model_folder / "metrics.json").read_text())["validation"]
    assert metrics["loss"] < 0.6
    assert metrics["perplexity"] == pytest.approx(math.exp(metrics["loss"]))
    assert metrics["bits_per_character"] == pytest.approx(metrics["loss"] / math.log(2))
    write = pipeline("text-generation", str(model_folder))
    options = {"do_sample": False, "max_new_tokens": 20}
    prompts = ["Cleo:\n", "Anna:\n  reads a book.\nBob:\n"]
    (first,), (second,) = write(prompts, batch_size=2, **options)
    assert first["generated_text"].startswith("Cleo:\n  sings to Bob.\n")
    assert second["generated_text"].startswith(prompts[1] + "  sails.\n")
    assert write(prompts[0], **options) == [first]
    code, out, err = command(
        "evaluate", "--model", model_folder, "--data_dir", text_dir, "--split", "dev"
    )
    assert code == 0, err
    found = json.loads(out)
    assert {name: found[name] for name in metrics} == pytest.approx(metrics)
    # in one pass, without the streams of the evaluation
    model, tokenizer = load_model(model_folder)
    ids = tokenizer((text_dir / "dev.txt").read_text(), return_tensors="pt")["input_ids"]
    assert model(ids, labels=ids).loss.item() == pytest.approx(metrics["loss"], abs=1e-5)
    assert 'pipeline("text-generation"' in (model_folder / "README.md").read_text()


def test_training_reads_each_block_alone(settings, tmp_path):
    """Without steps, the training loss is the mean over the blocks' tokens but the first."""
    still = {
        "learning_rate": 0,
        "classifier_dropout": 0,
        "per_device_train_batch_size": 2,
        "num_train_epochs": 1,
    }
    (tmp_path / "train.txt").write_text("abcdefgh bca\n" * 10)
    (tmp_path / "dev.txt").write_text("abc\n")
    result = train(
        **{**settings, **still, "block_size": 13, "data_dir": str(tmp_path)},
        output_dir=str(tmp_path / "out"),
    )
    model, tokenizer = load_model(result.folder)
    ids = tokenizer("abcdefgh bca\n", return_tensors="pt")["input_ids"]
    assert ids.shape == (1, 13) and result.metrics["training"]["steps"] == 5
    assert result.metrics["training"]["loss"] == pytest.approx(
        model(ids, labels=ids).loss.item(), abs=1e-5
    )


def test_a_run_that_is_stopped_within_an_epoch_resumes_bit_for_bit(
    settings, model_folder, tmp_path
):
    again = {**settings, "output_dir": str(tmp_path / "out")}
    run_until(41, lambda: train(**again))
    folder = train(**again, resume=True).folder
    assert (folder / "model.safetensors").read_bytes() == (
        model_folder / "model.safetensors"
    ).read_bytes()
    metrics = [json.loads((place / "metrics.json").read_text()) for place in (folder, model_folder)]
    for found in metrics:
        del found["card"], found["training"]["seconds"], found["training"]["loss"]
    assert metrics[0] == metrics[1]


def test_predict_refuses_a_language_model_in_one_line(model_folder, command):
    code, out, err = command("predict", model_folder, "a")
    assert (
        code == 2
        and out == ""
        and err.count("\n") == 1
        and "causal-lm" in err
        and "text-generation" in err
    )


def test_the_hub_gets_a_folder_that_loads(model_folder, hub, command):
    code, out, err = command("push", "--model", model_folder, "--repo_id", "me/lm")
    assert code == 0, err
    settings = load_model("me/lm")[0].generation_config
    assert (settings.pad_token_id, settings.eos_token_id) == (1, 2)
