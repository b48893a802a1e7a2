"""The part `data` of benchmark.py: how fast rows are read, and in how much memory.

Called by itself, as `python scripts/benchmark_data.py SIDE FILE`, it takes one measurement: in a process of its own,
for the peak of its memory is then that of one reading and not of whatever ran before.
"""

import json
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import command_line

LABELS = ("negative", "neutral", "positive")
GOAL_RATIO, GOAL_MB = 3, 400
MAX_REPEATS = 7  # of 1,000,000 rows: more take minutes and change nothing


def write_tsv(path: Path, rows: int) -> Counter[str]:
    """Write texts as long as tweets (some 20 words, one in ten with letters beyond ASCII), the same every time.

    Returns:
        Rows by label.
    """
    chance = random.Random(0)
    letters = "etaoinshrdlucmfw"
    words = ["".join(chance.choices(letters, k=chance.randrange(1, 9))) for _ in range(3000)] + [
        '"quoted"',
        "NA",
        "'s",
    ]
    texts = [" ".join(chance.choices(words, k=chance.randrange(5, 35))) for _ in range(20_000)]
    texts = [text + " 🙂 schön" if number % 10 == 0 else text for number, text in enumerate(texts)]
    counts: Counter[str] = Counter()
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for start in range(0, rows, 10_000):
            size = min(10_000, rows - start)
            labels = chance.choices(LABELS, weights=(1, 3, 2), k=size)
            counts.update(labels)
            lines = zip(chance.choices(texts, k=size), labels, strict=True)
            file.write("".join(f"{text}\t{label}\n" for text, label in lines))
    return counts


def read_by_pyarrow(path: str) -> Counter[str]:
    """Stream with `pyarrow.csv`, on one thread as ours; it checks neither texts nor labels."""
    from pyarrow import csv

    counts: Counter[str] = Counter()
    reader = csv.open_csv(
        path,
        read_options=csv.ReadOptions(column_names=["text", "label"], use_threads=False),
        parse_options=csv.ParseOptions(delimiter="\t", quote_char=False),
    )
    for batch in reader:
        for entry in batch.column("label").value_counts().to_pylist():
            counts[entry["values"]] += entry["counts"]
    return counts


def read_streaming(path: str) -> Counter[str]:
    """Stream with `load_tsv`, which reads the file twice: once to check every row, once for the rows."""
    from hf_rnn import load_tsv

    split = load_tsv({"train": path}, splits=["train"], streaming=True)["train"]
    counts: Counter[int] = Counter()
    for batch in split.with_format("arrow").iter(batch_size=10_000):
        for entry in batch["label"].value_counts().to_pylist():
            counts[entry["values"]] += entry["counts"]
    return Counter({split.features["label"].names[label]: rows for label, rows in counts.items()})


def read_table(path: str) -> Counter[str]:
    """Read all rows into a table with `load_tsv`."""
    from hf_rnn import load_tsv

    split = load_tsv({"train": path}, splits=["train"])["train"]
    entries = split.with_format("arrow")[:]["label"].value_counts().to_pylist()
    return Counter({split.features["label"].names[entry["values"]]: entry["counts"] for entry in entries})


SIDES: dict[str, Callable[[str], Counter[str]]] = {
    "pyarrow": read_by_pyarrow,
    "stream": read_streaming,
    "table": read_table,
}


def measure(side: str, path: str) -> dict[str, Any]:
    """Import, then read once.

    Returns:
        `seconds` of the reading, `peak_mb` of the process's memory, `import_mb` that it held before, and `counts`,
        rows by label.
    """
    import pyarrow.csv  # noqa: F401 - importing is no part of the time

    if side != "pyarrow":
        sys.modules[
            "__main__"
        ].__file__ = "hf-rnn"  # the package imported as its command does, without the models (some 110 MB more)
        import torch  # noqa: F401 - a stream of `datasets` imports it as soon as it is made

        from hf_rnn import load_tsv  # noqa: F401
    import_mb = peak_mb()
    start = time.perf_counter()
    counts = SIDES[side](path)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "peak_mb": peak_mb(), "import_mb": import_mb, "counts": counts}


def peak_mb() -> float:
    """Return the most memory that this process ever held, in 10^6 bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux counts the parent's peak among getrusage's, from before the program started
        (kib,) = re.findall(r"^VmHWM:\s+(\d+) kB$", status.read_text(), flags=re.MULTILINE)
        return int(kib) * 1024 / 1e6
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def measure_apart(side: str, path: Path) -> dict[str, Any]:
    """Take one measurement in a process of its own."""
    command = [sys.executable, __file__, side, str(path)]
    # in a group of its own, so that Ctrl-C is told by this process alone, which ends the other
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, process_group=0)
    return json.loads(done.stdout)


def compare(repeats: int, rows: int) -> list[dict[str, Any]]:
    """Read one generated file in turn with every side.

    Args:
        repeats: Readings of each side, `MAX_REPEATS` at most.
        rows: Of the file.

    Returns:
        For each side of ours: medians in ms, the median of the ratio ours / peer turn by turn with its quartiles, and
        for both the highest peak of memory, with what the imports alone take of it.
    """
    taken: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.tsv"
        counts = write_tsv(path, rows)
        for number in range(min(repeats, MAX_REPEATS)):
            for side in list(SIDES)[:: 1 if number % 2 else -1]:
                taken[side].append(measure_apart(side, path))
                if taken[side][-1]["counts"] != counts:
                    raise SystemExit(f"{side} counts {taken[side][-1]['counts']}, written were {dict(counts)}")
    peers = taken.pop("pyarrow")
    results = []
    for side, ours in taken.items():
        ratios = [mine["seconds"] / peer["seconds"] for mine, peer in zip(ours, peers, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        memory = {
            f"{who}_{key}": max(taking[key] for taking in takings)
            for who, takings in (("ours", ours), ("peer", peers))
            for key in ("peak_mb", "import_mb")
        }
        note = (
            "; peak memory, and what imports take of it: ours {ours_peak_mb:.0f} MB ({ours_import_mb:.0f}), "
            "peer {peer_peak_mb:.0f} MB ({peer_import_mb:.0f})"
        )
        goal = f"at most {GOAL_RATIO}, under {GOAL_MB} MB" if side == "stream" else "none"
        results.append(
            {
                "what": f"{rows:,} rows, load_tsv as a {side} / pyarrow.csv streaming (goal: {goal})",
                "ours_ms": 1000 * statistics.median(mine["seconds"] for mine in ours),
                "peer_ms": 1000 * statistics.median(peer["seconds"] for peer in peers),
                "ratio": middle,
                "ratio_quartiles": [low, high],
                **memory,
                "repeats": len(ours),
                "note": note.format(**memory),
            }
        )
    return results


def main() -> None:
    """Take one measurement, and print it as JSON."""
    parser = command_line.Parser(__doc__)
    parser.add_argument("side", metavar="SIDE", choices=SIDES, help=f"who reads: {', '.join(SIDES)}")
    parser.add_argument("path", metavar="FILE", help="TSV file to read")
    asked = parser.parse_args()
    try:
        print(json.dumps(measure(asked.side, asked.path)))
    except (ValueError, OSError) as error:  # says which file and line
        parser.refuse(error)


if __name__ == "__main__":
    command_line.run(main)
