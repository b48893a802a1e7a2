"""The encoders of the package, whose large tokenizers are read once."""

from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace

import pytest
from tokenizers import Tokenizer

import hf_rnn

READ_ONCE = SimpleNamespace(from_file=lru_cache(Tokenizer.from_file))


@pytest.fixture(autouse=True)
def encoders(monkeypatch):
    monkeypatch.setattr("hf_rnn.tokenizers.language.Tokenizer", READ_ONCE)
    monkeypatch.setattr(
        "hf_rnn.hub.model_folder.PRETRAINED", Path(hf_rnn.__file__).parent / "hub" / "pretrained"
    )
