"""Models with damaged or missing parts: one message that names the part, and advice."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_rnn import FastRnn, RnnConfig, RnnForSequenceClassification, train_tokenizer
from hf_rnn.hub.model_folder import FinishedFolder, load_model
from hf_rnn.utils.errors import UserError


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loading") / "model"
    tokenizer = train_tokenizer(["a b c d"], min_frequency=1)
    config = RnnConfig(
        vocab_size=len(tokenizer), embedding_size=4, hidden_size=4, id2label={0: "no", 1: "yes"}
    )
    RnnForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "model")


def change_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def change_weights(path, change):
    weights = load_file(path)
    change(weights)
    save_file(weights, path, {"format": "pt"})


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("config.json", lambda path: change_json(path, model_type="bert"), "is a 'bert' model"),
        (
            "config.json",
            lambda path: change_json(path, vocab_size=7),
            "not belong together.*embedding.weight",
        ),
        (
            "model.safetensors",
            lambda path: change_weights(
                path, lambda weights: weights.update({"a.further": torch.zeros(1)})
            ),
            "they differ in a.further",
        ),
        (
            "model.safetensors",
            lambda path: path.write_bytes(path.read_bytes()[:-9]),
            "because of model.safetensors",
        ),
        (
            "model.safetensors",
            lambda path: change_weights(
                path, lambda weights: weights["classifier.bias"].fill_(torch.nan)
            ),
            "has NaN or infinite weights",
        ),
        (
            "tokenizer.json",
            lambda path: path.write_text("{"),
            "because of tokenizer.json or tokenizer_config.json",
        ),
        (
            "tokenizer.json",
            lambda path: train_tokenizer(["a b c d e f"], min_frequency=1).save_pretrained(
                path.parent
            ),
            "tokenizer has ids up to 7, the model a table of 6 rows",
        ),
        (
            "adapter_config.json",
            lambda path: path.write_text("{}"),
            "contains an adapter .*merge_and_unload",
        ),
        ("tokenizer_config.json", lambda path: path.unlink(), "has no tokenizer_config.json"),
    ],
)
def test_each_damaged_part_is_named(folder, name, damage, message):
    damage(folder / name)
    with pytest.raises(UserError, match=message) as caught:
        load_model(folder)
    assert str(folder) in str(caught.value) or "architecture" in message


@pytest.mark.parametrize("load", [load_model, FastRnn.from_pretrained])
def test_a_stream_in_two_directions_is_refused(folder, load):
    change_json(folder / "config.json", streaming=True)
    with pytest.raises(UserError, match="streaming does not go with bidirectional=True"):
        load(folder)


@pytest.mark.parametrize(
    ("device", "message"), [("gpu", "gpu: Expected one of cpu"), ("cuda:99", "to the device cuda")]
)
def test_a_missing_device(original, device, message):
    with pytest.raises(UserError, match=message):
        load_model(original, device=device)


def test_a_lost_or_damaged_record_stops_sharing_but_not_prediction(folder):
    for name in ("README.md", "metrics.json", "training_args.json"):
        (folder / name).write_text("{}")
    folder = FinishedFolder(folder)
    folder.check_finished()
    folder.metrics.write_bytes(b"[]")
    with pytest.raises(UserError, match=r"metrics.json must contain"):
        folder.check_finished()
    folder.card.unlink()
    with pytest.raises(UserError, match=r"has no README.md\. "):
        folder.check_finished()
    folder.check()


def test_an_unfinished_training_names_its_checkpoints(original, tmp_path):
    shutil.copytree(original, tmp_path / "checkpoints" / "checkpoint-8")
    with pytest.raises(UserError, match="--resume.*checkpoints$"):
        FinishedFolder(tmp_path).check_finished()


def test_a_run_that_was_killed_while_it_wrote_resumes_from_its_checkpoints(original, tmp_path):
    """Nothing was replaced then: to move files by hand is advice for runs without a checkpoint."""
    shutil.copytree(original, tmp_path / ".unfinished-1" / "new")
    with pytest.raises(UserError, match=r"move .*\.unfinished-1/new/\* to"):
        FinishedFolder(tmp_path).check()
    shutil.copytree(original, tmp_path / "checkpoints" / "checkpoint-8")
    with pytest.raises(UserError, match="repeat its command with --resume"):
        FinishedFolder(tmp_path).check()
