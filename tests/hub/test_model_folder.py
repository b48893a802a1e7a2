"""The files of a finished folder, and the advice for missing ones."""

import json

import pytest

from hf_rnn.hub.model_folder import FinishedFolder
from hf_rnn.utils.errors import UserError

TO_LOAD = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
RECORDS = ["README.md", "metrics.json", "training_args.json"]


def fill(root, names=(*TO_LOAD, *RECORDS)):
    root.mkdir(parents=True, exist_ok=True)
    for name in names:
        settings = {"backend": "tokenizers"} if name == "tokenizer_config.json" else {}
        (root / name).write_text(json.dumps(settings) if name.endswith(".json") else "")
    return FinishedFolder(root)


def refusal(folder):
    with pytest.raises(UserError) as caught:
        folder.check_finished()
    return str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]"])
def test_a_damaged_record_stops_sharing_but_not_prediction(tmp_path, content):
    folder = fill(tmp_path)
    assert folder.missing() == []
    folder.check_finished()
    folder.metrics.write_bytes(content)
    folder.check()
    assert "metrics.json" in refusal(folder)


@pytest.mark.parametrize("lost", TO_LOAD + RECORDS)
def test_each_missing_file_is_named(tmp_path, lost):
    folder = fill(tmp_path, [name for name in TO_LOAD + RECORDS if name != lost])
    assert folder.missing() == [tmp_path / lost]
    assert f"has no {lost}. " in refusal(folder)
    if lost in RECORDS:
        folder.check()  # prediction does not need it
    else:
        with pytest.raises(UserError, match=lost):
            folder.check()


def test_a_tokenizer_without_a_vocabulary_file(tmp_path):
    folder = fill(tmp_path, ["config.json", "model.safetensors"])
    folder.tokenizer_config.write_text(json.dumps({"backend": "custom", "tokenizer_class": "ByT5Tokenizer"}))
    folder.check()


def test_an_unfinished_training_names_the_newest_complete_checkpoint(tmp_path):
    for step in (8, 100, 20):
        fill(tmp_path / "checkpoints" / f"checkpoint-{step}", TO_LOAD)
    fill(tmp_path / "checkpoints" / "checkpoint-120", [])  # killed while it was written
    message = refusal(FinishedFolder(tmp_path))
    assert "--resume" in message and message.endswith("checkpoint-100")
