"""A teacher that is small enough for tests."""

import json
import shutil

import numpy as np
import torch
from conftest import LABELS, NEUTRAL, invent_rows
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertTokenizerFast,
    PreTrainedTokenizerFast,
)

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *NEUTRAL, "miro", "selk"]
SHAPE = {
    "vocab_size": len(WORDS),
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
}


def bert_tokenizer():
    return BertTokenizerFast(
        vocab={word: index for index, word in enumerate(WORDS)}, model_max_length=32
    )


def bytes_tokenizer():
    backend = Tokenizer(
        BPE({symbol: index for index, symbol in enumerate(sorted(ByteLevel.alphabet()))}, [])
    )
    backend.pre_tokenizer = ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def make_teacher(folder):
    """Save a BERT that knows the rule; its labels are in another order than the data's."""
    names = ["plain", "bad", "good"]
    assert sorted(names) == sorted(LABELS) != names
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BertForSequenceClassification(
            BertConfig(
                **SHAPE, num_labels=3, id2label=dict(enumerate(names)), hidden_dropout_prob=0.0
            )
        )
        tokenizer, rows = bert_tokenizer(), invent_rows(480, seed=11)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        for step in range(60):
            texts, labels = zip(*rows[step * 48 % 480 :][:48], strict=True)
            batch = tokenizer(list(texts), padding=True, return_tensors="pt")
            loss = model(
                **batch, labels=torch.tensor([names.index(label) for label in labels])
            ).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        texts, labels = zip(*invent_rows(90, seed=12), strict=True)
        predicted = model.eval()(
            **tokenizer(list(texts), padding=True, return_tensors="pt")
        ).logits.argmax(dim=1)
    assert (
        np.mean([names[index] == label for index, label in zip(predicted, labels, strict=True)])
        > 0.95
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def change_config(folder, target, file="config.json", **changes):
    """Copy the folder of a model with other values in a JSON file."""
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("checkpoints"))
    path = target / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return target
