"""Measure which score finds texts of no class: train without some classes, then read texts of all.

    python scripts/benchmarks/none_of_classes.py banking.tsv emotions.tsv

Each file has a text and a label per line. A fifth of the classes is held out whole, of the other rows a tenth. It
prints by file and score the area under the curve (AUROC): highest probability, energy (W. Liu et al.: Energy-based
Out-of-distribution Detection, arXiv:2010.03759), distance to the nearest class mean before the last layer.
"""

import argparse
import json
import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import logsumexp, softmax
from sklearn.metrics import roc_auc_score

from hf_rnn import train
from hf_rnn.hub.model_folder import load_model


def read_vectors(model: Any, tokenizer: Any, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the inputs of the last layer `(N, P)` and the logits `(N, C)` of texts."""
    vectors, logits = [], []
    model.classifier.register_forward_pre_hook(lambda _, inputs: vectors.append(inputs[0].float().numpy()))
    with torch.inference_mode():
        for start in range(0, len(texts), 64):
            batch = tokenizer(texts[start : start + 64], padding=True, truncation=True, return_tensors="pt")
            logits.append(model(batch["input_ids"], batch["attention_mask"]).logits.float().numpy())
    return np.concatenate(vectors), np.concatenate(logits)


def measure(path: Path, seed: int) -> dict[str, float]:
    """Return the AUROC of each score."""
    rows = [line.rsplit("\t", 1) for line in path.read_text("utf-8").splitlines()]
    draw = random.Random(seed)
    classes = sorted({label for _, label in rows})
    outside = set(draw.sample(classes, len(classes) // 5))
    inside = [row for row in rows if row[1] not in outside]
    draw.shuffle(inside)
    test, rest = inside[: len(inside) // 10], inside[len(inside) // 10 :]
    unknown = [text for text, label in rows if label in outside]
    unknown = draw.sample(unknown, min(len(unknown), len(test)))
    with tempfile.TemporaryDirectory() as folder:
        train(
            train=rest, output_dir=f"{folder}/out", baselines=False, use_cpu=True, seed=seed, overwrite_output_dir=True
        )
        model, tokenizer = load_model(f"{folder}/out")[:2]
    known, learned = [text for text, _ in test], [text for text, _ in rest]
    vectors, logits = read_vectors(model.eval(), tokenizer, learned + known + unknown)
    labels = np.array([model.config.label2id[label] for _, label in rest])
    means = np.stack(
        [vectors[: len(rest)][labels == number].mean(axis=0) for number in range(model.config.num_labels)]
    )
    vectors, logits = vectors[len(rest) :].astype(float), logits[len(rest) :].astype(float)
    distances = np.sqrt(((vectors[:, None] - means[None]) ** 2).sum(axis=-1)).min(axis=1)
    scores = {
        "probability": softmax(logits, axis=1).max(axis=1),
        "energy": logsumexp(logits, axis=1),
        "distance": -distances,
    }
    has_class = np.arange(len(vectors)) < len(known)
    return {name: round(float(roc_auc_score(has_class, values)), 4) for name, values in scores.items()}


def main() -> None:
    """Print one JSON object per file and seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--seeds", type=int, default=2)
    arguments = parser.parse_args()
    for path in arguments.files:
        for seed in range(arguments.seeds):
            print(json.dumps({"file": path.name, "seed": seed, **measure(path, seed)}), flush=True)


if __name__ == "__main__":
    main()
