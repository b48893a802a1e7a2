"""A finished folder without the training, for tests of the Hub."""

import json

import torch

from hf_rnn import RnnConfig, RnnForSequenceClassification, train_tokenizer
from hf_rnn.hub.card import write_card
from hf_rnn.hub.model_folder import FinishedFolder

TEXTS = ["good film", "bad film", "so so film", "", "a film that nobody saw"]
LEFT = (
    "checkpoints/checkpoint-8/optimizer.pt",
    "runs/events.out",
    ".cache/x",
    "notes.txt",
    "mine_rnn.py",
)


def write_finished_folder(root, seed=0):
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(TEXTS, min_frequency=1)
    names = ("bad", "so so", "good")
    config = RnnConfig(
        vocab_size=len(tokenizer), embedding_size=6, hidden_size=5, id2label=dict(enumerate(names))
    )
    model, folder = RnnForSequenceClassification(config), FinishedFolder(root)
    model.save_pretrained(root)
    tokenizer.save_pretrained(root)
    card = {
        "name": "films",
        "pipeline_tag": "text-classification",
        "dataset_name": "films",
        "class_counts": dict.fromkeys(names, 4),
        "versions": {},
    }
    numbers = {"parameters": model.num_parameters(), "epochs": 1.0, "steps": 1, "seconds": 1.0}
    metrics = {"validation": {"accuracy": 0.5}, "training": numbers, "card": card}
    write_card(folder, metrics)
    folder.training_args.write_text(
        json.dumps({"learning_rate": 0.02, "data_dir": "films"}, indent=2)
    )
    folder.learning_curve.write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    for name in LEFT:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("not shared")
    return root
