"""Train models on many kinds of text, and print accuracy and macro-F1 on dev, the mean over the seeds.

    python scripts/results/measure_suite.py --data_root DIR --output_file suite.jsonl --linear --seeds 3 \
        --model scratch "--recipe scratch" --model default "" --peer fasttext --peer minilm --peer model2vec

The sets are folders of DIR with train.tsv and dev.tsv. A model is a name and flags of `hf-rnn train`. The linear model
is TF-IDF of words, word pairs and characters with logistic regression, its strength chosen on dev. Each result is a
line of the output file: a stopped run continues there, and the table shows all lines. Seconds are processor time of
one core.
"""

import json
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.command_line import Parser, positive, run
from results import models, report

SETS = (
    "semeval2016", "semeval_pool", "emotion", "imdb", "suite/subj", "suite/cr", "suite/mpqa", "suite/banking"
)  # fmt: skip
LINEAR = "linear"
PEERS: dict[str, Callable[..., Any]] = {
    "fasttext": partial(models.train_fasttext, grid=((0.1, 0.5), (5, 25), (2,), (0, 3))),
    "minilm": models.train_on_frozen_vectors(models.load_minilm),
    "model2vec": models.train_on_frozen_vectors(models.distill_model2vec),
    "frozen english": models.train_on_frozen_vectors(models.load_english),
}
Job = tuple[str, str, int, Callable[[int], dict[str, Any]]]  # set, model, seed, and the training
SCORES = ("accuracy", "macro_f1", "macro_recall")


def main() -> None:
    """Measure what is missing in the output file, and print the table."""
    parser = Parser(__doc__, allow_abbrev=False)
    parser.add_argument("--data_root", type=Path, required=True, help="folder of the sets")
    parser.add_argument("--sets", nargs="+", default=list(SETS), help="folders below it (default: all eight)")
    parser.add_argument("--model", nargs=2, action="append", metavar=("NAME", "FLAGS"), default=[])
    parser.add_argument("--linear", action="store_true", help="measure the linear model too")
    parser.add_argument("--peer", action="append", choices=list(PEERS), default=[], help="measure another library too")
    parser.add_argument("--seeds", type=positive, default=3, help="seeds 0, 1, ... (default: %(default)s)")
    parser.add_argument("--output_file", type=Path, required=True, help="JSON lines of the results")
    parser.add_argument(
        "--speed",
        nargs=3,
        action="append",
        metavar=("MODEL", "NAME", "RATIO"),
        default=[],
        help="draw the model by this name in the figure, at this multiple of MiniLM-L6's speed",
    )
    parser.add_argument("--figure", type=Path, help="draw mean accuracy against speed in this PNG")
    flags = parser.parse_args()
    if flags.figure and not flags.speed:
        parser.error("--figure draws the models with a --speed: add --speed MODEL NAME RATIO")

    import torch

    torch.set_num_threads(1)
    trained = [(LINEAR, None, 1)] * flags.linear + [(name, words, flags.seeds) for name, words in flags.model]
    jobs: list[Job] = []
    for data in flags.sets:
        for name, words, seeds in trained:
            folder = flags.data_root / data
            train = partial(measure_linear, folder) if words is None else partial(measure, folder, shlex.split(words))
            jobs += [(data, name, seed, train) for seed in range(seeds)]
        for name in flags.peer:
            train = partial(measure_peer, name, flags.data_root / data)
            jobs += [(data, name, seed, train) for seed in range(flags.seeds if name == "fasttext" else 1)]
    results = measure_missing(jobs, flags.output_file)
    print_table(results, flags.sets)
    if flags.figure:
        draw_figure(results, flags)


def draw_figure(results: list[dict[str, Any]], flags: Any) -> None:
    """Draw the mean accuracy over the sets against speed, for the models with a speed."""
    rows = []
    for model, name, ratio in flags.speed:
        runs = [result for result in results if result["model"] == model]
        means = [statistics.mean(run["accuracy"] for run in runs if run["set"] == data) for data in flags.sets]
        rows.append(
            {"name": name, "accuracy": [statistics.mean(means)], "speed": float(ratio), "ours": "hf-rnn" in name}
        )
    title = f"mean over {len(flags.sets)} data sets"
    report.draw(rows, title, flags.figure, "accuracy", "accuracy", "MiniLM-L6 in ONNX Runtime, int8")


def measure_missing(jobs: Iterable[Job], output_file: Path) -> list[dict[str, Any]]:
    """Run the jobs that the output file does not have, append their results to it, and return all."""
    lines = output_file.read_text("utf-8").splitlines() if output_file.exists() else []
    results = [json.loads(line) for line in lines]
    measured = {(result["set"], result["model"], result["seed"]) for result in results}
    for data, name, seed, train in jobs:
        if (data, name, seed) in measured:
            continue
        start = time.process_time()
        scores = train(seed)
        seconds = round(time.process_time() - start, 1)
        results.append({"set": data, "model": name, "seed": seed, "seconds": seconds, **scores})
        with output_file.open("a", encoding="utf-8") as file:
            file.write(f"{json.dumps(results[-1])}\n")
        print(json.dumps(results[-1]), file=sys.stderr, flush=True)
    return results


def measure(folder: Path, words: list[str], seed: int) -> dict[str, Any]:
    """Return the dev scores and the bytes of the weights of one training."""
    from hf_rnn.training.settings import parse_argv
    from hf_rnn.training.train import run_training

    with tempfile.TemporaryDirectory() as place:
        settings = ["--data_dir", str(folder), "--output_dir", place, "--seed", str(seed), "--no_baselines"]
        result = run_training(parse_argv([*settings, "--disable_tqdm", "true", *words]))
        size = (Path(place) / "model.safetensors").stat().st_size
    return {**{name: result.metrics["validation"][name] for name in SCORES}, "bytes": size}


def measure_linear(folder: Path, _: int = 0) -> dict[str, Any]:
    """Return the dev scores of the linear model with the best strength."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import accuracy_score, f1_score, recall_score
    from sklearn.pipeline import make_pipeline, make_union

    from hf_rnn import load_tsv

    splits = load_tsv(folder)
    texts, labels = ({name: split[column][:] for name, split in splits.items()} for column in ("text", "label"))
    union = make_union(
        TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\S+", sublinear_tf=True, min_df=2),
        TfidfVectorizer(ngram_range=(2, 5), analyzer="char_wb", sublinear_tf=True, min_df=2),
    )
    vectors = {"train": union.fit_transform(texts["train"])}
    vectors["validation"] = union.transform(texts["validation"])
    tried = []
    for strength in (1, 3, 10, 30):
        model = make_pipeline(LogisticRegression(C=strength, max_iter=300)).fit(vectors["train"], labels["train"])
        found, wanted = model.predict(vectors["validation"]), labels["validation"]
        scores = {
            "accuracy": accuracy_score(wanted, found),
            "macro_f1": f1_score(wanted, found, average="macro"),
            "macro_recall": recall_score(wanted, found, average="macro"),
        }
        tried.append({name: float(value) for name, value in scores.items()})
    return max(tried, key=lambda scores: scores["accuracy"])


def measure_peer(name: str, folder: Path, seed: int) -> dict[str, Any]:
    """Return the dev scores of another library's model, with the settings that are best on dev; see models.py."""
    texts = models.Texts(folder, "none")
    with tempfile.TemporaryDirectory() as place:
        learned = PEERS[name](texts, seed, Path(place), {})
        scores = texts.score(learned.classify(texts.dev_texts))
    return {**{name: scores[name] for name in SCORES}, "bytes": learned.bytes}


def print_table(results: list[dict[str, Any]], sets: list[str]) -> None:
    """Print a row per model: accuracy / macro-F1 of each set, and the mean accuracy over the sets."""
    names = list(dict.fromkeys(result["model"] for result in results))
    print(f"| model | {' | '.join(sets)} | mean | seconds |\n|{'---|' * (len(sets) + 3)}")
    for name in names:
        cells, means, seconds = [], [], []
        for data in sets:
            runs = [result for result in results if (result["model"], result["set"]) == (name, data)]
            if not runs:
                cells.append("")
                continue
            pair = [statistics.mean(result[score] for result in runs) for score in ("accuracy", "macro_f1")]
            cells.append(" / ".join(f"{value:.3f}".removeprefix("0") for value in pair))
            means.append(pair[0])
            seconds.append(statistics.mean(result["seconds"] for result in runs))
        whole = f"{statistics.mean(means):.3f} | {sum(seconds):.0f}" if len(means) == len(sets) else " | "
        print(f"| {name} | {' | '.join(cells)} | {whole} |")


if __name__ == "__main__":
    run(main)
