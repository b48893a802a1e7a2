"""Measure decisions: answers that need no person, and texts of no class.

    python scripts/benchmarks/decisions.py none banking.tsv emotions.tsv
    python scripts/benchmarks/decisions.py fresh banking.tsv tweets.tsv reviews.tsv
    python scripts/benchmarks/decisions.py fresh banking/dev.tsv --model out/banking
    python scripts/benchmarks/decisions.py guarantee

Each file has a text and a label per line. It prints a JSON object per file and seed.

`none` trains without a fifth of the classes, then reads texts of all. It has the area under the
curve (AUROC) of three scores: highest probability, energy (W. Liu et al.: Energy-based
Out-of-distribution Detection, arXiv:2010.03759), distance to the nearest class mean before the last
layer.

`fresh` trains on six tenths of the rows, or takes the finished folder `--model`, whose files are
then rows that it has not seen. One half of the other rows chooses thresholds for 0.9, 0.95 and
0.99, and the other half is answered with them: share and accuracy, by label, with a single
threshold, and with the lowest of all cuts whose own bound reaches the target, which promises too
much. Each seed draws other halves.

`guarantee` draws rows whose scores say nothing, of an accuracy just below the target, and prints in
how many of the draws there is a threshold: at most a tenth are allowed. It reads no files.
"""

import argparse
import json
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

TARGETS = (0.9, 0.95, 0.99)
DRAWS = ((0.945, 0.95, 1000), (0.945, 0.95, 400), (0.89, 0.9, 170))  # accuracy, target, rows


def read_vectors(model: Any, tokenizer: Any, texts: list[str]) -> "tuple[np.ndarray, np.ndarray]":
    """Return the inputs of the last layer `(N, P)` and the logits `(N, C)` of texts."""
    import numpy as np
    import torch

    vectors = []
    logits = []
    hook = model.classifier.register_forward_pre_hook(
        lambda _, inputs: vectors.append(inputs[0].float().numpy())
    )
    with torch.inference_mode():
        for start in range(0, len(texts), 64):
            batch = tokenizer(
                texts[start : start + 64], padding=True, truncation=True, return_tensors="pt"
            )
            logits.append(model(batch["input_ids"], batch["attention_mask"]).logits.float().numpy())
    hook.remove()
    return np.concatenate(vectors), np.concatenate(logits)


def read(path: Path) -> list[list[str]]:
    """Return text and label of each line."""
    return [line.rsplit("\t", 1) for line in path.read_text("utf-8").splitlines()]


def draw_classes(
    rows: list[list[str]], draw: random.Random
) -> tuple[list[list[str]], list[str], list[str]]:
    """Return rows to train on, and as many texts of their classes from a fifth that is left out."""
    classes = sorted({label for _, label in rows})
    outside = set(draw.sample(classes, len(classes) // 5))
    inside = [row for row in rows if row[1] not in outside]
    draw.shuffle(inside)
    count = len(inside) // 10
    unknown = [text for text, label in rows if label in outside]
    unknown = draw.sample(unknown, min(len(unknown), count))
    return inside[count:], [text for text, _ in inside[:count]], unknown


def measure_none(path: Path, seed: int) -> dict[str, float]:
    """Return the AUROC of each score."""
    import numpy as np
    from scipy.special import logsumexp, softmax
    from sklearn.metrics import roc_auc_score

    from hf_rnn import train
    from hf_rnn.hub.model_folder import load_model

    rest, known, unknown = draw_classes(read(path), random.Random(seed))
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
    learned, _ = read_vectors(model.eval(), tokenizer, [text for text, _ in rest])
    labels = np.array([model.config.label2id[label] for _, label in rest])
    numbers = range(model.config.num_labels)
    means = np.stack([learned[labels == number].mean(axis=0) for number in numbers])
    vectors, logits = read_vectors(model, tokenizer, known + unknown)
    logits = logits.astype(float)
    distances = np.linalg.norm(vectors[:, None].astype(float) - means, axis=-1).min(axis=1)
    scores = {
        "probability": softmax(logits, axis=1).max(axis=1),
        "energy": logsumexp(logits, axis=1),
        "distance": -distances,
    }
    has_class = np.arange(len(vectors)) < len(known)
    return {
        name: round(float(roc_auc_score(has_class, values)), 4) for name, values in scores.items()
    }


def find_lowest(confidence: "np.ndarray", right: "np.ndarray", target: float) -> float | None:
    """Return the lowest score whose answers from there up reach the target by their own bound."""
    import numpy as np

    from hf_rnn.evaluation.decisions import surely_reaches

    order = np.argsort(-confidence, kind="stable")
    counts = np.arange(1, len(order) + 1)
    reached = np.flatnonzero(surely_reaches(right[order].cumsum(), counts, target))
    return float(confidence[order][reached[-1]]) if len(reached) else None


def score_rows(path: Path, folder: str | None) -> "tuple[np.ndarray, np.ndarray, list[str]]":
    """Return scores `(N, C)` and class ids `(N)` of rows that are new to a model; its labels."""
    import numpy as np

    from hf_rnn import FastRnn, train

    rows = read(path)
    random.Random(0).shuffle(rows)
    with tempfile.TemporaryDirectory() as trained:
        if folder is None:
            folder = f"{trained}/out"
            end = len(rows) * 6 // 10
            train(train=rows[:end], output_dir=folder, baselines=False, use_cpu=True)
            rows = rows[end:]
        model = FastRnn.from_pretrained(folder)
    names = list(model.config.id2label.values())
    rows = [row for row in rows if row[1] in names]
    labels = np.array([names.index(label) for _, label in rows])
    return model.predict_proba([text for text, _ in rows]), labels, names


def measure_fresh(path: Path, folder: str | None, seeds: int) -> Iterator[dict[str, Any]]:
    """Yield decisions on fresh rows by seed and target."""
    import numpy as np

    from hf_rnn.evaluation.decisions import choose_thresholds, measure_decisions, needs_person

    scores, labels, names = score_rows(path, folder)
    confidence = scores.max(axis=1)
    right = scores.argmax(axis=1) == labels
    for seed in range(seeds):
        first, second = np.array_split(np.random.default_rng(seed).permutation(len(labels)), 2)
        for target in TARGETS:
            chosen = choose_thresholds(scores[first], labels[first], names, target)
            lowest = find_lowest(confidence[first], right[first], target)
            facts: dict[str, Any] = {"seed": seed, "target": target}
            for rule, limits in (
                ("by label", chosen.by_label),
                ("single", dict.fromkeys(names, chosen.single)),
                ("lowest of all cuts", dict.fromkeys(names, lowest)),
            ):
                waiting = needs_person(limits, names, scores[second])
                alone = measure_decisions(waiting, scores[second], labels[second])
                facts[rule] = {"share": alone.share, "accuracy": alone.accuracy}
            yield facts


def measure_guarantee(draws: int) -> Iterator[dict[str, Any]]:
    """Yield the share of draws with a threshold, although every threshold would be wrong."""
    import numpy as np

    from hf_rnn.evaluation.decisions import choose_thresholds, find_threshold

    for accuracy, target, rows in DRAWS:
        generator = np.random.default_rng(0)
        granted = dict.fromkeys(("one threshold", "2 labels", "10 labels", "lowest of all cuts"), 0)
        for _ in range(draws):
            confidence = generator.random(rows)
            right = generator.random(rows) < accuracy
            granted["one threshold"] += find_threshold(confidence, right, target) is not None
            granted["lowest of all cuts"] += find_lowest(confidence, right, target) is not None
            for classes in (2, 10):
                scores = generator.random((rows, classes))
                labels = (scores.argmax(axis=1) + ~right) % classes
                names = [str(number) for number in range(classes)]
                chosen = choose_thresholds(scores, labels, names, target).by_label
                has_any = any(limit is not None for limit in chosen.values())
                granted[f"{classes} labels"] += has_any
        shares = {rule: count / draws for rule, count in granted.items()}
        yield {"accuracy": accuracy, "target": target, "rows": rows, "granted": shares}


def main() -> None:
    """Print one JSON object per file and seed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("none", "fresh", "guarantee"))
    parser.add_argument("files", type=Path, nargs="*")
    parser.add_argument("--model", help="for fresh: a finished folder, in place of a training")
    parser.add_argument(
        "--seeds", type=int, help="default: 2 for none, 10 for fresh, 1,000 draws for guarantee"
    )
    arguments = parser.parse_args()
    if arguments.what == "guarantee":
        for facts in measure_guarantee(arguments.seeds or 1000):
            print(json.dumps(facts), flush=True)
    for path in arguments.files:
        if arguments.what == "none":
            for seed in range(arguments.seeds or 2):
                found = {"file": path.name, "seed": seed, **measure_none(path, seed)}
                print(json.dumps(found), flush=True)
        if arguments.what == "fresh":
            for facts in measure_fresh(path, arguments.model, arguments.seeds or 10):
                print(json.dumps({"file": path.name, **facts}), flush=True)


if __name__ == "__main__":
    main()
