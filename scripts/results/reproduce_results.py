"""All models on one data set: scores, sizes and speed, in a Markdown table, a JSON file and a figure.

    pip install '.[bench]'
    python scripts/reproduce_results.py --quick
    python scripts/reproduce_results.py --data_dir DIR --normalizer tweet --output_dir out/results
    python scripts/reproduce_results.py --data_dir DIR --teacher FOLDER --unlabeled FILE

Each model learns from train.tsv, chooses what it has to choose on dev.tsv, and is scored there: the mean over seeds
with its 95 % interval (Student's t). What separates two rows is a paired bootstrap over the rows of dev.tsv. Speed is
from raw text to label on one core, in turn with TF-IDF over words and logistic regression, each pass over other texts:
a ratio, so that rows which were measured at different times can be compared. The linear models and fastText read what
the normaliser makes of a text, which is in their time; benchmark.py compares with their own fastest paths. No number
is of a test file.

Each row is kept in OUTPUT_DIR/rows when it is ready. With --resume the rows that are there are not made again: a run
that was stopped goes on, several runs with --only share the work, and one without --only puts the table together. A
row of other texts or settings is in the way, and nothing is replaced that was not asked for.
"""

import argparse
import hashlib
import json
import math
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import command_line
from results_models import FURTHER, STUDENT, TEACHER

QUICK = ("majority class", "TF-IDF words + logistic regression", "fastText", "recipe `fast`", "recipe `default`")
ROUNDS, MOST_SECONDS = 5, 2.0  # of timing: passes over the texts, and what one pass may take


def parse_flags() -> argparse.Namespace:
    """Read the flags."""
    parser = command_line.Parser(__doc__)
    parser.add_argument(
        "--data_dir", type=Path, default=command_line.SAMPLE, help="train.tsv and dev.tsv (default: the sample)"
    )
    parser.add_argument("--normalizer", default="none", help="none, or tweet for raw tweets (default: %(default)s)")
    parser.add_max_bad_rows()
    parser.add_argument("--output_dir", type=Path, default=Path("out/results"), help="default: %(default)s")
    parser.add_argument("--seeds", type=int, help="seeds 0, 1, ... (default: 5, and 2 with --quick)")
    parser.add_argument("--teacher", type=Path, help="made by finetune_teacher.py; adds it and its student")
    parser.add_argument("--teacher_labels", nargs="+", help="its names of the classes, where its own say nothing")
    parser.add_argument("--unlabeled", type=Path, help="texts that the teacher labels besides, one a line; adds a row")
    parser.add_argument("--only", action="append", metavar="NAME", help="a row of the table; may be repeated")
    parser.add_argument("--resume", action="store_true", help="keep the rows that OUTPUT_DIR has of such a run")
    parser.add_argument("--quick", action="store_true", help="two seeds, and only the models that train in seconds")
    flags = parser.parse_args()
    flags.refuse = parser.refuse
    flags.asked = flags.only or []
    flags.shares = flags.resume and flags.only is not None  # the table is another run's
    if flags.seeds is None:
        flags.seeds = 2 if flags.quick else 5
    if flags.seeds < 1:
        parser.error(f"--seeds must be at least 1, found {flags.seeds}")
    if flags.quick and flags.only is None:
        taught = [] if flags.teacher is None else [STUDENT, *([] if flags.unlabeled is None else [FURTHER]), TEACHER]
        flags.only = [*QUICK, *taught]
    if flags.teacher_labels and flags.teacher is None:
        parser.error("--teacher_labels are those of a --teacher, which is not given")
    if flags.teacher is not None and not any(
        (flags.teacher / name).is_file() for name in ("config.json", "folds.json")
    ):
        parser.error(f"there is no model in {flags.teacher}: make one with scripts/finetune_teacher.py")
    if flags.unlabeled is not None and (flags.teacher is None or not flags.unlabeled.is_file()):
        parser.error(f"--unlabeled {flags.unlabeled} must be a file, and needs --teacher")
    return flags


def main() -> None:
    """Train, measure, write."""
    flags = parse_flags()

    import results_report

    if missing := results_report.missing():  # not found out after hours of training
        flags.refuse(f"the table and the figure need {', '.join(missing)}: pip install '.[bench]'")

    import results_models
    import results_texts
    import torch

    from hf_rnn.hub.model_folder import FinishedFolder
    from hf_rnn.training.distillation.unlabeled import read_unlabeled
    from hf_rnn.training.output_dir import make_writable
    from hf_rnn.utils.errors import UserError

    torch.set_num_threads(1)
    rows = flags.output_dir / "rows"
    try:
        chosen = results_models.models(
            flags.teacher, flags.unlabeled, flags.output_dir / "teacher_cache", flags.teacher_labels
        )
    except UserError as error:
        flags.refuse(str(error))
    if flags.only:
        names = [model.name for model in chosen]
        if unknown := set(flags.only) - set(names):
            flags.refuse(f"there is no row {', '.join(sorted(unknown))}; there are: {'; '.join(names)}")
        chosen = [model for model in chosen if model.name in flags.only]
    for model in chosen:
        if model.name in flags.asked and (missing := model.missing()):
            flags.refuse(f"--only '{model.name}' needs {', '.join(missing)}: pip install '.[bench]'")
    try:
        texts = results_texts.Texts(flags.data_dir, flags.normalizer, flags.max_bad_rows)
        if flags.teacher is not None:  # before hours of training
            results_models.check_teacher(flags.teacher, texts, flags.teacher_labels)
        if flags.unlabeled is not None:
            read_unlabeled(flags.unlabeled, class_names=texts.names)
        make_writable(FinishedFolder(rows))
        if not flags.resume and (there := sorted(path.name for path in rows.glob("*.json"))):
            flags.refuse(
                f"{rows} holds rows of an earlier run ({', '.join(there[:3])}{', ...' if len(there) > 3 else ''}): "
                "give another --output_dir, or --resume to keep those that were made of the same texts and settings"
            )
        results = compare(texts, chosen, flags.seeds, rows)
    except UserError as error:
        flags.refuse(str(error))
    written = results_report.table(results, texts.names)
    print(written, end="", flush=True)
    if not flags.shares:
        content = json.dumps(results, ensure_ascii=False) + "\n"
        (flags.output_dir / "results.json").write_text(content, encoding="utf-8")
        (flags.output_dir / "results.md").write_text(written, encoding="utf-8")
        results_report.figure(results, texts.title(), flags.output_dir / "results.png")


def compare(texts: Any, chosen: Sequence[Any], seeds: int, rows: Path) -> list[dict[str, Any]]:
    """Train the models, and return a row of the table for each: scores by seed, sizes and speed.

    Args:
        texts: See `results_texts.Texts`.
        chosen: See `results_models.Model`; those whose packages are not installed are left out.
        seeds: Runs of a model that draws numbers.
        rows: Folder that keeps the rows; one that is there already is taken.

    Raises:
        UserError: For a row that was made of other texts, normaliser, number of seeds or teacher.
    """
    import datasets
    import numpy as np
    import results_report

    from hf_rnn.hub import loading as model_loading
    from hf_rnn.training import recipes

    model_loading.quiet()
    datasets.disable_progress_bars()
    tables = [path for path in sorted(texts.folder.glob("*.tsv")) if path.stem != "test"]
    own_recipes = sorted(Path(recipes.__file__).parent.glob("*.yaml"))
    wanted = []
    yardstick: list[Callable[[Sequence[str]], Any]] = []  # made when the first row needs it
    for model in chosen:
        if missing := model.missing():
            print(f"{model.name}: left out, because it is not installed: {', '.join(missing)}", file=sys.stderr)
            continue
        runs = seeds if model.draws else 1
        made_from = {"texts": fingerprint(tables), "normalizer": texts.normalizer, "seeds": runs}
        if _is_ours(model.name):
            made_from["recipes"] = fingerprint(own_recipes)
        if model.files:
            made_from |= {"files": fingerprint(model.files), "choices": model.choices}
        kept = rows / f"{re.sub('[^a-z0-9]+', '_', model.name.lower()).strip('_')}.json"
        check_row(kept, read_row(kept), made_from)  # of all rows before the first is made
        wanted.append((model, runs, kept, made_from))
    results = []
    for model, runs, kept, made_from in wanted:
        row = read_row(kept)  # another run may have made it meanwhile
        check_row(kept, row, made_from)
        if not row:
            row = {**make(texts, model, runs, yardstick), "made_from": made_from}
            kept.write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
        results.append(row)
        print(results_report.table(results[-1:], texts.names).splitlines()[-1], file=sys.stderr)
    labels = np.array(texts.dev_labels)
    for above, row in zip(results, results[1:], strict=False):
        ours, theirs = (np.array(one["predictions"]) for one in (row, above))
        row["above"] = results_report.bootstrap(ours, theirs, labels, len(texts.names))
    return results


def read_row(path: Path) -> dict[str, Any]:
    """A row that was kept; an empty one where there is none, or none that can be read."""
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return row if isinstance(row, dict) else {}


def check_row(path: Path, row: dict[str, Any], made_from: dict[str, Any]) -> None:
    """Refuse a row that was kept of something else.

    Raises:
        UserError: Says of what.
    """
    from hf_rnn.utils.errors import UserError

    if row and (before := row.get("made_from")) != made_from:
        before = before if isinstance(before, dict) else {}
        other = ", ".join(sorted(name for name in before | made_from if before.get(name) != made_from.get(name)))
        raise UserError(f"{path} was made with other {other}: remove it, or give another --output_dir")


def _is_ours(name: str) -> bool:
    return name.startswith(("recipe", "`default`", "distilled"))


def fingerprint(paths: Sequence[Path]) -> str:
    """A hash of files."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def make(texts: Any, model: Any, runs: int, yardstick: list[Callable[[Sequence[str]], Any]]) -> dict[str, Any]:
    """Train a model with several seeds, and measure it."""
    import numpy as np
    import results_models

    with tempfile.TemporaryDirectory(prefix="results-") as scratch:
        learned = [model.learn(texts, seed, Path(scratch), model.once) for seed in range(runs)]
        predictions = [np.asarray(one.classify(texts.dev_texts)) for one in learned]
        row = describe(model.name, texts, learned, predictions)
        if not yardstick and not results_models.YARDSTICK.missing():
            yardstick.append(results_models.YARDSTICK.learn(texts, 0, Path(scratch), {}).classify)
        if yardstick:
            row["speed"], row["texts_per_second"] = measure_speed(learned[0].classify, yardstick[0], texts.texts)
    return row


def describe(name: str, texts: Any, learned: Sequence[Any], predictions: Sequence[Any]) -> dict[str, Any]:
    """A row, its speed aside."""
    import results_texts

    scores = [results_texts.score(texts, one) for one in predictions]
    seconds = statistics.median(one.seconds for one in learned)
    return {
        "name": name,
        "ours": _is_ours(name),
        **{key: [one[key] for one in scores] for key in ("accuracy", "macro_recall", "macro_f1")},
        "f1_by_class": {label: [one["per_class"][label]["f1"] for one in scores] for label in texts.names},
        "seconds": None if math.isnan(seconds) else seconds,  # JSON has no NaN
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
    """How many texts a model answers while the yardstick answers one, and how many a second, the median of passes.

    Both in turn: the first number holds on other machines too, and at other hours, the second hardly. No pass sees a
    text again, for a tokenizer remembers words; a slow model reads the first texts of a pass only.

    Args:
        classify: The model, which has answered none of the texts yet.
        yardstick: The other, likewise.
        texts: To answer.
    """

    def rate(answer: Callable[[Sequence[str]], Any], some: Sequence[str]) -> float:
        start = time.perf_counter()
        answer(some)
        return len(some) / (time.perf_counter() - start)

    first, *passes = (texts[number :: ROUNDS + 1] for number in range(ROUNDS + 1))
    rate(yardstick, first[:100])
    amount = max(50, int(MOST_SECONDS * rate(classify, first[:100])))  # what warms up tells how slow it is
    rates = [(rate(classify, some[:amount]), rate(yardstick, some)) for some in passes]
    return statistics.median(ours / other for ours, other in rates), statistics.median(ours for ours, _ in rates)


if __name__ == "__main__":
    command_line.run(main, "stopped: --resume keeps the rows that are ready")
