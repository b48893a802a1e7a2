"""All models on one data set: scores, sizes and speed, in a Markdown table, a JSON file and a figure.

    pip install '.[bench]'
    python scripts/results/reproduce_results.py --quick
    python scripts/results/reproduce_results.py --data_dir DIR --normalizer tweet --output_dir out/results
    python scripts/results/reproduce_results.py --data_dir DIR --teacher FOLDER --unlabeled FILE

Each model learns from train.tsv, chooses its settings on dev.tsv, and is scored there: the mean over seeds with its
95 % interval (Student's t). Two rows are compared by a paired bootstrap over the rows of dev.tsv. Speed is from raw
text to label on one core, as a ratio to TF-IDF over words with logistic regression, measured in turn on texts that
neither has seen. The linear models and fastText read normalized texts, and their time includes normalization;
scripts/benchmarks/benchmark.py compares with their own fastest paths. test.tsv is not read.

Each finished row is kept in OUTPUT_DIR/rows. With --resume kept rows are not made again, so a stopped run resumes, and
several runs with --only share the work. Rows of other texts or settings are refused, never replaced.
"""

import argparse
import hashlib
import json
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.command_line import SAMPLE, Parser, positive, run
from results import models, report

QUICK = ("majority class", "TF-IDF words + logistic regression", "fastText", "recipe `fast`", "recipe `scratch`")
ROUNDS, MAX_SECONDS = 5, 2.0  # timing: passes over the texts, and seconds per pass


def parse_flags(parser: Parser) -> argparse.Namespace:
    """Declare and read the flags."""
    parser.add_data_dir(default=SAMPLE)
    parser.add_argument("--normalizer", default="none", help="none, or tweet for raw tweets (default: %(default)s)")
    parser.add_argument("--output_dir", type=Path, default=Path("out/results"), help="default: %(default)s")
    parser.add_argument("--seeds", type=positive, help="seeds 0, 1, ... (default: 5, and 2 with --quick)")
    parser.add_argument("--teacher", type=Path, help="made by finetune_teacher.py; adds it and its student")
    parser.add_argument("--teacher_labels", nargs="+", help="its class names, if its own are LABEL_0 and so on")
    parser.add_argument("--unlabeled", type=Path, help="with --teacher: texts to learn from besides, one per line")
    parser.add_argument("--only", action="append", metavar="NAME", help="a row of the table; may be repeated")
    parser.add_argument("--resume", action="store_true", help="keep the rows in OUTPUT_DIR of the same run")
    parser.add_argument("--quick", action="store_true", help="two seeds, and only models that train in seconds")
    flags = parser.parse_args()
    if flags.unlabeled is not None and flags.teacher is None:
        parser.error("--unlabeled needs --teacher")
    if flags.seeds is None:
        flags.seeds = 2 if flags.quick else 5
    return flags


def main() -> None:
    """Train, measure, write."""
    parser = Parser(__doc__)
    flags = parse_flags(parser)
    if missing := report.missing():
        parser.error(f"the table and the figure need {', '.join(missing)}: pip install '.[bench]'")

    import torch

    from hf_rnn.training.distill import Teacher

    torch.set_num_threads(1)
    chosen = models.list_models(
        flags.teacher, flags.unlabeled, flags.output_dir / "teacher_cache", flags.teacher_labels
    )
    if unknown := set(flags.only or ()) - {model.name for model in chosen}:
        parser.error(f"unknown row: found {', '.join(unknown)}; choose from {'; '.join(row.name for row in chosen)}")
    if flags.only:
        chosen = [model for model in chosen if model.name in flags.only]
    elif flags.quick:
        chosen = [model for model in chosen if model.name in QUICK or model.files]
    for model in chosen:
        if flags.only and (missing := model.missing()):
            parser.error(f"--only '{model.name}' needs {', '.join(missing)}: pip install '.[bench]'")
    texts = models.Texts(flags.data_dir, flags.normalizer, flags.max_bad_rows)
    if flags.teacher:
        # other labels are refused before hours of training
        Teacher.open(str(flags.teacher)).align(texts.names, flags.teacher_labels)
    rows = flags.output_dir / "rows"
    rows.mkdir(parents=True, exist_ok=True)
    if not flags.resume and any(rows.glob("*.json")):
        parser.error(f"{rows} holds rows of an earlier run: give another --output_dir, or --resume to keep them")
    results = compare(texts, chosen, flags.seeds, rows)
    table = report.make_table(results, texts.names)
    print(table, end="", flush=True)
    if not (flags.resume and flags.only):
        content = json.dumps(results, ensure_ascii=False) + "\n"
        (flags.output_dir / "results.json").write_text(content, encoding="utf-8")
        (flags.output_dir / "results.md").write_text(table, encoding="utf-8")
        counts = f"{len(texts.texts):,} rows to train on, {len(texts.dev_texts):,} to choose and score on"
        title = f"{texts.folder.resolve().name}: {counts}"
        report.draw(results, title, flags.output_dir / "results.png")


def compare(texts: models.Texts, chosen: Sequence[models.Model], seeds: int, rows: Path) -> list[dict[str, Any]]:
    """Train the models and return a row for each: scores per seed, sizes and speed.

    Args:
        texts: Data set.
        chosen: Models; those with missing packages are skipped.
        seeds: Runs of a model that depends on the seed.
        rows: Folder of kept rows, which are taken from there.

    Raises:
        UserError: If a kept row was made of other texts, settings, seeds or teacher.
    """
    import datasets
    import numpy as np
    from transformers.utils import logging

    from hf_rnn.training import recipes
    from hf_rnn.utils.atomic_write import write_whole

    datasets.disable_progress_bars()
    logging.disable_progress_bar()
    tables = [path for path in sorted(texts.folder.glob("*.tsv")) if path.stem != "test"]
    recipe_files = sorted(Path(recipes.__file__).parent.glob("*.yaml"))
    wanted = []
    for model in chosen:
        if missing := model.missing():
            print(f"{model.name}: skipped, not installed: {', '.join(missing)}", file=sys.stderr)
            continue
        source: dict[str, Any] = {
            "texts": hash_files(tables),
            "normalizer": texts.normalizer,
            "seeds": seeds if model.random else 1,
        }
        if model.ours:
            source["recipes"] = hash_files(recipe_files)
        if model.files:
            source |= {"files": hash_files(model.files), "choices": model.choices}
        kept = rows / f"{re.sub('[^a-z0-9]+', '_', model.name.lower()).strip('_')}.json"
        read_row(kept, source)  # check all rows before the first is made
        wanted.append((model, kept, source))
    results = []
    yardstick: list[Callable[[Sequence[str]], Any]] = []
    for model, kept, source in wanted:
        row = read_row(kept, source)
        if row is None:
            row = {**make_row(texts, model, source["seeds"], yardstick), "made_from": source}
            write_whole(kept, json.dumps(row, ensure_ascii=False).encode())
        results.append(row)
        print(report.make_table([row], texts.names).splitlines()[-1], file=sys.stderr)
    labels = np.array(texts.dev_labels)
    for above, row in zip(results, results[1:], strict=False):
        ours, theirs = (np.array(one["predictions"]) for one in (row, above))
        row["above"] = report.bootstrap(ours, theirs, labels, len(texts.names))
    return results


def read_row(path: Path, source: dict[str, Any]) -> dict[str, Any] | None:
    """Return a kept row, or None without one.

    Raises:
        UserError: If it was made of something else.
    """
    from hf_rnn.utils.errors import UserError

    if not path.is_file():
        return None
    row = json.loads(path.read_text(encoding="utf-8"))
    before = row["made_from"]
    if other := ", ".join(sorted(name for name in before | source if before.get(name) != source.get(name))):
        raise UserError(f"{path} was made with other {other}: remove it, or give another --output_dir")
    return row


def hash_files(paths: Sequence[Path]) -> str:
    """Return a hash of names and contents."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def make_row(
    texts: models.Texts, model: models.Model, runs: int, yardstick: list[Callable[[Sequence[str]], Any]]
) -> dict[str, Any]:
    """Train a model with several seeds and measure it; `yardstick` keeps the model that speed is relative to."""
    import numpy as np

    shared: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="results-") as scratch:
        learned = [model.learn(texts, seed, Path(scratch), shared) for seed in range(runs)]
        predictions = [np.asarray(one.classify(texts.dev_texts)) for one in learned]
        row = describe(model, texts, learned, predictions)
        if not yardstick and not models.YARDSTICK.missing():
            yardstick.append(models.YARDSTICK.learn(texts, 0, Path(scratch), {}).classify)
        if yardstick:
            row["speed"], row["texts_per_second"] = measure_speed(learned[0].classify, yardstick[0], texts.texts)
    return row


def describe(
    model: models.Model, texts: models.Texts, learned: Sequence[models.Learned], predictions: Sequence[Any]
) -> dict[str, Any]:
    """Return a row without its speed."""
    scores = [texts.score(one) for one in predictions]
    seconds = [one.seconds for one in learned if one.seconds is not None]
    return {
        "name": model.name,
        "ours": model.ours,
        **{key: [one[key] for one in scores] for key in ("accuracy", "macro_recall", "macro_f1")},
        "f1_by_class": {label: [one["per_class"][label]["f1"] for one in scores] for label in texts.names},
        "seconds": statistics.median(seconds) if seconds else None,
        "parameters": learned[0].parameters,
        "bytes": learned[0].bytes,
        "settings": learned[0].settings,
        "predictions": [one.tolist() for one in predictions],
        "speed": None,
        "texts_per_second": None,
    }


def measure_speed(
    classify: Callable[[Sequence[str]], Any], yardstick: Callable[[Sequence[str]], Any], texts: Sequence[str]
) -> tuple[float, float]:
    """Return the speed of a model relative to the yardstick, and its texts per second: medians over passes.

    Both run in turn. No pass repeats a text, because tokenizers remember words; a slow model reads only the first
    texts of a pass.
    """

    def rate(answer: Callable[[Sequence[str]], Any], some: Sequence[str]) -> float:
        start = time.perf_counter()
        answer(some)
        return len(some) / (time.perf_counter() - start)

    first, *passes = (texts[number :: ROUNDS + 1] for number in range(ROUNDS + 1))
    rate(yardstick, first[:100])
    amount = max(50, int(MAX_SECONDS * rate(classify, first[:100])))
    rates = [(rate(classify, some[:amount]), rate(yardstick, some)) for some in passes]
    return statistics.median(ours / other for ours, other in rates), statistics.median(ours for ours, _ in rates)


if __name__ == "__main__":
    run(main, "stopped: --resume keeps the finished rows")
