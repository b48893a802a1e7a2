"""The finished folder: what belongs to it, and what a user reads when something is not there."""

import json
from dataclasses import FrozenInstanceError

import pytest

from hf_rnn.hub.card.files import read_facts
from hf_rnn.hub.model_folder import FinishedFolder
from hf_rnn.utils.errors import UserError

TO_LOAD = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
RECORDS = ["README.md", "metrics.json", "training_args.json"]


def fill(root, names):
    for name in names:
        settings = {"backend": "tokenizers"} if name == "tokenizer_config.json" else {}
        (root / name).write_text(json.dumps(settings) if name.endswith(".json") else "")
    return FinishedFolder(root)


def test_complete(tmp_path):
    folder = fill(tmp_path, TO_LOAD + RECORDS)
    assert folder.missing() == []
    folder.check()
    folder.check_finished()
    for content in (b"", b"\xff", b"{", b"[]", b"null", b"[" * 100_000):
        folder.metrics.write_bytes(content)
        folder.check()  # it still predicts
        with pytest.raises(UserError, match="metrics.json (is not JSON|must hold values by name)"):
            folder.check_finished()
    folder.metrics.write_text("{}")
    folder.card_facts.parent.mkdir(exist_ok=True)
    folder.card_facts.write_text("{")
    with pytest.raises(UserError, match=f"{folder.card_facts.name} is not JSON"):
        folder.check_finished()


def test_what_is_nested_too_deep_is_not_json(tmp_path):
    """Python gives up with a RecursionError, which is no ValueError."""
    folder = fill(tmp_path, TO_LOAD + RECORDS)
    folder.tokenizer_config.write_text("[" * 100_000)
    assert folder.missing() == []
    folder.card_facts.write_text("[" * 100_000)
    assert read_facts(folder) is None


def test_names(tmp_path):
    folder = FinishedFolder(str(tmp_path))
    attributes = ["config", "weights", "tokenizer", "tokenizer_config", "card", "metrics", "training_args"]
    assert [getattr(folder, name) for name in attributes] == [tmp_path / name for name in TO_LOAD + RECORDS]
    assert folder.learning_curve == tmp_path / "learning_curve.png"
    assert folder.confusion_matrix == tmp_path / "confusion_matrix.png"
    assert folder.checkpoints == tmp_path / "checkpoints"
    figures = ["learning_curve.png", "confusion_matrix.png", "reliability.png"]
    others = ["card_facts.json", "onnx/model.onnx", "onnx/model_int8.onnx", "checkpoints"]
    named = [path.relative_to(tmp_path).as_posix() for path in folder.named_files()]
    assert sorted(named) == sorted(TO_LOAD + RECORDS + figures + others)
    with pytest.raises(FrozenInstanceError):
        folder.root = tmp_path


@pytest.mark.parametrize("lost", TO_LOAD + RECORDS)
def test_each_file_is_missed(tmp_path, lost):
    folder = fill(tmp_path, [name for name in TO_LOAD + RECORDS if name != lost])
    assert folder.missing() == [tmp_path / lost]
    with pytest.raises(UserError, match=f"has no {lost}. .*restore what is missing"):
        folder.check_finished()
    if lost in RECORDS:
        folder.check()  # it still predicts
    else:
        with pytest.raises(UserError, match=lost):
            folder.check()


def test_a_folder_in_the_place_of_a_file_is_no_file(tmp_path):
    folder = fill(tmp_path, [name for name in TO_LOAD if name != "model.safetensors"])
    folder.weights.mkdir()
    assert folder.missing_to_load() == [folder.weights]


def test_a_tokenizer_without_vocabulary_needs_no_file_for_it(tmp_path):
    folder = fill(tmp_path, ["config.json", "model.safetensors"])
    folder.tokenizer_config.write_text(json.dumps({"backend": "custom", "tokenizer_class": "ByT5Tokenizer"}))
    folder.check()


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"{}", b"\xff"])
def test_a_broken_tokenizer_config_excuses_nothing(tmp_path, content):
    folder = fill(tmp_path, ["config.json", "model.safetensors"])
    folder.tokenizer_config.write_bytes(content)
    assert folder.missing_to_load() == [folder.tokenizer]


def test_no_folder(tmp_path):
    with pytest.raises(UserError, match=r"nowhere does not exist: give the folder that `hf-rnn train"):
        FinishedFolder(tmp_path / "nowhere").check()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file is a file"):
        FinishedFolder(tmp_path / "file").check()


def test_stopped_training_names_the_newest_checkpoint(tmp_path):
    for step in (8, 100, 20, 120):
        checkpoint = FinishedFolder(tmp_path / "checkpoints" / f"checkpoint-{step}")
        checkpoint.root.mkdir(parents=True)
        for path in (checkpoint.config, checkpoint.weights, checkpoint.tokenizer_config, checkpoint.tokenizer):
            if step != 120:  # which was killed before it was written
                path.write_text("{}")
    with pytest.raises(UserError, match=r"--resume to go on, or take the model as it was at .*checkpoint-100$"):
        FinishedFolder(tmp_path).check()


def test_the_folder_above_names_the_folder_below(tmp_path):
    for name in ("second", "run"):  # the first by name is meant
        (tmp_path / name).mkdir()
        fill(tmp_path / name, TO_LOAD)
    with pytest.raises(UserError, match=r"Did you mean .*run\?"):
        FinishedFolder(tmp_path).check()


def test_the_folder_of_the_checkpoints_is_not_the_finished_one(tmp_path):
    folder = fill(tmp_path, TO_LOAD + RECORDS)
    newest = folder.checkpoints / "checkpoint-7"
    newest.mkdir(parents=True)
    fill(newest, TO_LOAD)
    with pytest.raises(UserError, match=f"Did you mean {tmp_path}\\?$"):
        FinishedFolder(folder.checkpoints).check_finished()
