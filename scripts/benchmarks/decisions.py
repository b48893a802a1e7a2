"""Measure decisions: answers that need no person, and texts of no class.

    python scripts/benchmarks/decisions.py none banking.tsv emotions.tsv
    python scripts/benchmarks/decisions.py fresh banking.tsv tweets.tsv reviews.tsv

Each file has a text and a label per line. It prints a JSON object per file and seed.

`none` trains without a fifth of the classes, then reads texts of all. It has the area under the
curve (AUROC) of three scores: highest probability, energy (W. Liu et al.: Energy-based
Out-of-distribution Detection, arXiv:2010.03759), distance to the nearest class mean before the last
layer.

`fresh` trains on six tenths of the rows. One half of the others chooses thresholds for 0.95, and
the other half is answered with them: share and accuracy, by label and with a single threshold. Each
seed draws other halves.
"""

import argparse
import json
import random
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

TARGET = 0.95


def read_vectors(model: Any, tokenizer: Any, texts: list[str]) -> "tuple[np.ndarray, np.ndarray]":
    """Return the inputs of the last layer `(N, P)` and the logits `(N, C)` of texts."""
    import numpy as np
    import torch

    vectors, logits = [], []
    model.classifier.register_forward_pre_hook(
        lambda _, inputs: vectors.append(inputs[0].float().numpy())
    )
    with torch.inference_mode():
        for start in range(0, len(texts), 64):
            batch = tokenizer(
                texts[start : start + 64], padding=True, truncation=True, return_tensors="pt"
            )
            logits.append(model(batch["input_ids"], batch["attention_mask"]).logits.float().numpy())
    return np.concatenate(vectors), np.concatenate(logits)


def read(path: Path) -> list[list[str]]:
    """Return text and label of each line."""
    return [line.rsplit("\t", 1) for line in path.read_text("utf-8").splitlines()]


def measure_none(path: Path, seed: int) -> dict[str, float]:
    """Return the AUROC of each score."""
    import numpy as np
    from scipy.special import logsumexp, softmax
    from sklearn.metrics import roc_auc_score

    from hf_rnn import train
    from hf_rnn.hub.model_folder import load_model

    rows = read(path)
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
            train=rest,
            output_dir=f"{folder}/out",
            baselines=False,
            use_cpu=True,
            seed=seed,
            overwrite_output_dir=True,
        )
        model, tokenizer = load_model(f"{folder}/out")[:2]
    known, learned = [text for text, _ in test], [text for text, _ in rest]
    vectors, logits = read_vectors(model.eval(), tokenizer, learned + known + unknown)
    labels = np.array([model.config.label2id[label] for _, label in rest])
    means = np.stack(
        [
            vectors[: len(rest)][labels == number].mean(axis=0)
            for number in range(model.config.num_labels)
        ]
    )
    vectors, logits = vectors[len(rest) :].astype(float), logits[len(rest) :].astype(float)
    distances = np.sqrt(((vectors[:, None] - means[None]) ** 2).sum(axis=-1)).min(axis=1)
    scores = {
        "probability": softmax(logits, axis=1).max(axis=1),
        "energy": logsumexp(logits, axis=1),
        "distance": -distances,
    }
    has_class = np.arange(len(vectors)) < len(known)
    return {
        name: round(float(roc_auc_score(has_class, values)), 4) for name, values in scores.items()
    }


def measure_fresh(path: Path, seeds: int) -> Iterator[dict[str, Any]]:
    """Yield decisions on fresh rows by seed."""
    import numpy as np

    from hf_rnn import FastRnn, train
    from hf_rnn.evaluation.decisions import choose_thresholds, measure_decisions, needs_person

    rows = read(path)
    random.Random(0).shuffle(rows)
    end = len(rows) * 6 // 10
    with tempfile.TemporaryDirectory() as folder:
        train(train=rows[:end], output_dir=f"{folder}/out", baselines=False, use_cpu=True)
        model = FastRnn.from_pretrained(f"{folder}/out")
        scores = model.predict_proba([text for text, _ in rows[end:]]).astype(float)
    names = list(model.config.id2label.values())
    labels = np.array([names.index(label) for _, label in rows[end:]])
    for seed in range(seeds):
        first, second = np.array_split(np.random.default_rng(seed).permutation(len(labels)), 2)
        chosen = choose_thresholds(scores[first], labels[first], names, TARGET)
        by_label, single = (
            measure_decisions(
                needs_person(limits, names, scores[second]), scores[second], labels[second]
            )
            for limits in (chosen.by_label, dict.fromkeys(names, chosen.single))
        )
        facts = {"threshold": chosen.single, "share": single.share, "accuracy": single.accuracy}
        yield {"share": by_label.share, "accuracy": by_label.accuracy, "single": facts}


def main() -> None:
    """Print one JSON object per file and seed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("none", "fresh"))
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--seeds", type=int, help="default: 2 for none, 10 for fresh")
    arguments = parser.parse_args()
    for path in arguments.files:
        if arguments.what == "none":
            found: Iterable[dict[str, Any]] = (
                measure_none(path, seed) for seed in range(arguments.seeds or 2)
            )
        else:
            found = measure_fresh(path, arguments.seeds or 10)
        for seed, facts in enumerate(found):
            print(json.dumps({"file": path.name, "seed": seed, **facts}), flush=True)


if __name__ == "__main__":
    main()
