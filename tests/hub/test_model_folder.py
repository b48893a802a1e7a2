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


def test_a_lost_or_damaged_record_stops_sharing_but_not_prediction(tmp_path):
    folder = fill(tmp_path)
    folder.check_finished()
    folder.metrics.write_bytes(b"[]")
    folder.check()
    assert "metrics.json" in refusal(folder)
    folder.card.unlink()
    folder.check()
    assert "has no README.md. " in refusal(folder)
    folder.tokenizer_config.unlink()
    with pytest.raises(UserError, match="has no tokenizer_config.json"):
        folder.check()


def test_an_unfinished_training_names_its_checkpoints(tmp_path):
    fill(tmp_path / "checkpoints" / "checkpoint-8", TO_LOAD)
    message = refusal(FinishedFolder(tmp_path))
    assert "--resume" in message and message.endswith("checkpoints")
