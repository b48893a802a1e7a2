"""Measure `hf-rnn audit --labels` on labels that are made wrong: 4 % of the rows.

    python scripts/benchmarks/wrong_labels.py emotion/train.tsv suite/banking/train.tsv

`random` gives other labels, `similar` that of the class which a linear model confuses most with
the right one. It prints average precision and the share of wrong labels in the first 200 rows, also
of a linear model of words and pairs of words by its probability of the label, out of fold; and the
estimated share of wrong labels.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

SHARE = 0.04
FIRST = 200


def score_linear(texts: list[str], labels: "np.ndarray") -> "np.ndarray":
    """Return probabilities `(N, C)` of a linear model, out of fold."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict
    from sklearn.pipeline import make_pipeline

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    model = make_pipeline(words, LogisticRegression(C=30, max_iter=60))
    return cross_val_predict(model, texts, labels, cv=5, method="predict_proba")


def spoil(labels: "np.ndarray", how: str, scores: "np.ndarray", seed: int) -> "np.ndarray":
    """Return the labels, `SHARE` of them wrong."""
    import numpy as np

    draw = np.random.default_rng(seed)
    wrong = draw.permutation(len(labels))[: int(SHARE * len(labels))]
    spoiled = labels.copy()
    classes = scores.shape[1]
    if how == "random":
        spoiled[wrong] = (labels[wrong] + draw.integers(1, classes, len(wrong))) % classes
        return spoiled
    confused = np.stack([scores[labels == label].mean(axis=0) for label in range(classes)])
    np.fill_diagonal(confused, -1)
    spoiled[wrong] = confused.argmax(axis=1)[labels[wrong]]
    return spoiled


def measure(path: Path, seed: int) -> Iterator[dict[str, Any]]:
    """Yield the numbers of a file, for each way to spoil labels."""
    import numpy as np
    from sklearn.metrics import average_precision_score

    from hf_rnn.quality.wrong_labels import find_wrong_labels

    lines = [line.rpartition("\t") for line in path.read_text("utf-8").splitlines()]
    texts = [text for text, _, _ in lines]
    names, labels = np.unique([label for _, _, label in lines], return_inverse=True)
    clean = score_linear(texts, labels)
    for how in ("random", "similar"):
        spoiled = spoil(labels, how, clean, seed)
        is_wrong = spoiled != labels
        start = time.monotonic()
        found = find_wrong_labels(texts, spoiled, names.tolist())
        seconds = time.monotonic() - start
        ours = np.empty(len(labels))
        ours[found.rows["row"]] = -np.arange(len(labels))
        linear = -score_linear(texts, spoiled)[np.arange(len(labels)), spoiled]
        result: dict[str, Any] = {"file": str(path), "wrong": how, "seed": seed}
        for name, scores in (("audit", ours), ("linear", linear)):
            first = is_wrong[np.argsort(-scores, kind="stable")[:FIRST]]
            precision = average_precision_score(is_wrong, scores)
            result[name] = {"precision": round(precision, 3), "first": round(first.mean(), 3)}
        yield result | {"estimate": round(found.share, 3), "seconds": round(seconds, 1)}


def main() -> None:
    """Print a line of JSON for each file and way."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path, help="a text and a label per line")
    parser.add_argument("--seeds", type=int, default=1)
    arguments = parser.parse_args()
    for path in arguments.files:
        for seed in range(arguments.seeds):
            for result in measure(path, seed):
                print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
