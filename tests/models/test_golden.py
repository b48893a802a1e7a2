"""A checkpoint written by the first version still loads and still gives the same answers."""

import json
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import hf_rnn  # noqa: F401 (registers the models)

GOLDEN = Path(__file__).parents[1] / "golden"


def test_golden_checkpoint():
    expected = json.loads((GOLDEN / "expected.json").read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(GOLDEN / "checkpoint")
    model, info = AutoModelForSequenceClassification.from_pretrained(GOLDEN / "checkpoint", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert [tokenizer(text).input_ids for text in expected["texts"]] == expected["input_ids"]
    batch = tokenizer(expected["texts"], padding=True, return_tensors="pt")
    logits = torch.tensor(expected["logits"])
    assert logits.std(dim=0).min() > 0.01, "premise: the texts have different answers"
    torch.testing.assert_close(model(**batch).logits, logits, atol=1e-5, rtol=1e-5)
    assert list(model.config.id2label.values()) == ["negative", "neutral", "positive"]
