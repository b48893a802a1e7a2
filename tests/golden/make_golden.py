"""Make the golden checkpoint that later versions must still load: run once a file format, never to make a test pass.

    python tests/golden/make_golden.py

It writes `tests/golden/checkpoint` (a tiny bi-LSTM with attention pooling, and its tokenizer) and
`tests/golden/expected.json` (the answers of the version that wrote it).
"""

import json
from pathlib import Path

import torch

import hf_rnn
from hf_rnn import RnnConfig, RnnForSequenceClassification, train_tokenizer

HERE = Path(__file__).parent
TEXTS = ["What a lovely day :)", "worst bus ever, never again!!!", "The library opens at 9", "sooo good", ""]


def main() -> None:
    """Write the checkpoint and what it answers."""
    tokenizer = train_tokenizer(TEXTS, min_frequency=1, normalizer="tweet")
    torch.manual_seed(0)
    config = RnnConfig(
        vocab_size=len(tokenizer),
        embedding_size=4,
        hidden_size=3,
        num_hidden_layers=2,
        pooling="attention",
        id2label={0: "negative", 1: "neutral", 2: "positive"},
    )
    model = RnnForSequenceClassification(config).eval()
    with torch.no_grad():
        model.classifier.weight.mul_(10)  # answers far enough apart to tell
    model.save_pretrained(HERE / "checkpoint")
    tokenizer.save_pretrained(HERE / "checkpoint")
    for code in (HERE / "checkpoint").glob("*_rnn.py"):
        code.unlink()  # later versions bring their own
    with torch.no_grad():
        logits = [model(**tokenizer(text, return_tensors="pt")).logits[0].tolist() if text else None for text in TEXTS]
        logits[-1] = model.classifier.bias.tolist()  # a text without tokens: the answer of a zero vector
    ids = [tokenizer(text).input_ids for text in TEXTS]
    expected = {"version": hf_rnn.__version__, "texts": TEXTS, "input_ids": ids, "logits": logits}
    (HERE / "expected.json").write_text(json.dumps(expected, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
