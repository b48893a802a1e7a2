"""Measure the order of `hf-rnn label`: accuracy after some answers, and in random order.

    python scripts/benchmarks/labelling.py emotion suite/cr suite/banking suite/newsgroups

Each folder has `train.tsv` and `dev.tsv`, a text and a label per line. The labels of train answer
in place of a person; the accuracy is that of dev. A draw decides what is random. `--model train`
trains with `hf-rnn train`, `regression` fits logistic regression to the vectors of `english`, as
the suggestions do, and takes seconds. Results are in a file, a JSON object per line, so that a
stopped measurement continues; at the end comes a table of the means.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

Rows = Sequence[tuple[str, str]]
ORDERS = ("labeller", "random")
NUMBERS = (25, 50, 100, 200, 400)


def read(path: Path) -> Rows:
    """Return text and label of each line."""
    rows: list[tuple[str, str]] = []
    for line in path.read_text("utf-8").splitlines():
        text, _, label = line.rpartition("\t")
        rows.append((text, label))
    return rows


def draw_order(rows: Rows, order: str, seed: int, cache: Path) -> list[int]:
    """Return the first rows in an order; the vectors of the texts are kept in a folder."""
    import numpy as np

    from hf_rnn import Labeller

    if order == "random":
        return np.random.default_rng(seed).permutation(len(rows))[: NUMBERS[-1]].tolist()
    (cache / "answers.jsonl").unlink(missing_ok=True)
    labeller = Labeller([text for text, _ in rows], output_dir=cache, seed=seed)
    while len(labeller.answers) < NUMBERS[-1]:
        row = labeller.next()
        labeller.answer(row, rows[row][1])
    return [answer.row for answer in labeller.answers]


def fit_regression(rows: Rows, test: Rows, cache: Path) -> float:
    """Return the accuracy of logistic regression on the vectors of `english`."""
    from sklearn.linear_model import LogisticRegression

    from hf_rnn.quality.vectors import encode_texts

    vectors = encode_texts([text for text, _ in rows]).astype("float32")
    model = LogisticRegression(C=10, max_iter=200).fit(vectors, [label for _, label in rows])
    known = encode_texts([text for text, _ in test], cache / "dev.npz").astype("float32")
    return float(model.score(known, [label for _, label in test]))


def train_model(rows: Rows, test: Rows, cache: Path) -> float:
    """Return the accuracy of a model that `train` makes of all rows."""
    import hf_rnn

    with tempfile.TemporaryDirectory() as folder:
        names = sorted({label for _, label in rows})
        hf_rnn.train(rows, folder, class_names=names, baselines=False, use_cpu=True)
        answers = hf_rnn.FastRnn.from_pretrained(folder).predict([text for text, _ in test])
    right = [answer["label"] == label for answer, (_, label) in zip(answers, test, strict=True)]
    return sum(right) / len(right)


def tabulate(results: Sequence[dict[str, Any]]) -> "pd.DataFrame":
    """Return mean accuracies by data set and order, and those of all data sets."""
    import pandas as pd

    frame = pd.DataFrame(results)
    by_data = frame.pivot_table("accuracy", ["data", "order"], "answers")
    mean = by_data.groupby("order").mean()
    mean.index = pd.MultiIndex.from_product([["mean"], mean.index])
    return pd.concat([by_data, mean]).round(3)


def measure_order(
    folder: Path, order: str, seed: int, numbers: list[int], arguments: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """Yield the accuracy of a set after each number of answers."""
    measure = {"regression": fit_regression, "train": train_model}[arguments.model]
    rows = read(folder / "train.tsv")
    test = read(folder / "dev.tsv")
    cache = arguments.cache / folder.name
    cache.mkdir(parents=True, exist_ok=True)
    chosen = draw_order(rows, order, seed, cache)
    for number in numbers:
        accuracy = measure([rows[row] for row in chosen[:number]], test, cache)
        result = {"data": folder.name, "order": order, "draw": seed, "answers": number}
        yield result | {"accuracy": round(accuracy, 4)}


def main() -> None:
    """Measure what the file of results lacks, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="+", type=Path, help="folders with train.tsv and dev.tsv")
    parser.add_argument("--model", choices=("regression", "train"), default="train")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--answers", nargs="+", type=int, default=NUMBERS)
    parser.add_argument("--results", type=Path, default=Path("labelling.jsonl"))
    parser.add_argument("--cache", type=Path, default=Path("labelling-vectors"))
    arguments = parser.parse_args()

    results = []
    if arguments.results.exists():
        results = [json.loads(line) for line in arguments.results.read_text().splitlines()]
    there = {(one["data"], one["order"], one["draw"], one["answers"]) for one in results}
    for seed, folder, order in product(range(arguments.draws), arguments.data, ORDERS):
        task = (folder.name, order, seed)
        missing = [number for number in arguments.answers if (*task, number) not in there]
        if missing:
            for result in measure_order(folder, order, seed, missing, arguments):
                results.append(result)
                with open(arguments.results, "a") as file:
                    file.write(json.dumps(result) + "\n")
    print(tabulate(results).to_string())


if __name__ == "__main__":
    main()
