"""Part `data` of benchmark.py: speed and memory of reading a TSV file.

`python scripts/benchmarks/data.py SIDE FILE` takes one measurement in its own process, so that the peak of memory is
that of one reading.
"""

import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.timing import summarize

LABELS = ("negative", "neutral", "positive")
MAX_REPEATS = 7


def write_tsv(path: Path, rows: int) -> Counter[str]:
    """Write random texts of 5 to 34 words, one in ten with letters beyond ASCII; return the rows per label."""
    generator = random.Random(0)
    words = ["".join(generator.choices("etaoinshrdlucmfw", k=generator.randrange(1, 9))) for _ in range(3000)]
    words += ['"quoted"', "NA", "'s"]
    texts = [" ".join(generator.choices(words, k=generator.randrange(5, 35))) for _ in range(20_000)]
    texts = [text + " 🙂 schön" if number % 10 == 0 else text for number, text in enumerate(texts)]
    counts: Counter[str] = Counter()
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for start in range(0, rows, 10_000):
            size = min(10_000, rows - start)
            labels = generator.choices(LABELS, weights=(1, 3, 2), k=size)
            counts.update(labels)
            lines = zip(generator.choices(texts, k=size), labels, strict=True)
            file.write("".join(f"{text}\t{label}\n" for text, label in lines))
    return counts


def read_with_pyarrow(path: str) -> Counter[str]:
    """Stream with `pyarrow.csv` on one thread, without any checks."""
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


def read_with_load_tsv(path: str) -> Counter[str]:
    """Stream with `load_tsv`, which reads the file twice: once to check it, once for the rows."""
    from hf_rnn import load_tsv

    split = load_tsv({"train": path}, splits=["train"], streaming=True)["train"]
    counts: Counter[int] = Counter()
    for batch in split.with_format("arrow").iter(batch_size=10_000):
        for entry in batch["label"].value_counts().to_pylist():
            counts[entry["values"]] += entry["counts"]
    return Counter({split.features["label"].names[label]: rows for label, rows in counts.items()})


SIDES: dict[str, Callable[[str], Counter[str]]] = {"ours": read_with_load_tsv, "peer": read_with_pyarrow}


def measure(side: str, path: str) -> dict[str, Any]:
    """Import, then read once; return seconds, peak memory, memory after the imports, and rows per label."""
    import pyarrow.csv  # noqa: F401 - imports are not timed

    if side == "ours":
        sys.argv[0] = "hf-rnn"  # import the package as its command does, without the models
        import torch  # noqa: F401 - a stream of `datasets` imports it

        from hf_rnn import load_tsv  # noqa: F401
    import_mb = peak_mb()
    start = time.perf_counter()
    counts = SIDES[side](path)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "peak_mb": peak_mb(), "import_mb": import_mb, "counts": counts}


def peak_mb() -> float:
    """Return the peak memory of this process in 10^6 bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # on Linux getrusage counts the parent's peak too
        (kib,) = re.findall(r"^VmHWM:\s+(\d+) kB$", status.read_text(), flags=re.MULTILINE)
        return int(kib) * 1024 / 1e6
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def compare(repeats: int, rows: int) -> list[dict[str, Any]]:
    """Read one generated file with both sides in turn; the ratio is ours / peer, below 1 ours is faster."""
    taken: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.tsv"
        counts = write_tsv(path, rows)
        for number in range(min(repeats, MAX_REPEATS)):
            for side in list(SIDES)[:: 1 if number % 2 else -1]:
                command = [sys.executable, __file__, side, str(path)]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                taken[side].append(json.loads(done.stdout))
                if taken[side][-1]["counts"] != counts:
                    raise SystemExit(f"{side} counts {taken[side][-1]['counts']}, written were {dict(counts)}")
    seconds = {side: [one["seconds"] for one in runs] for side, runs in taken.items()}
    memory = {
        f"{side}_{key}": max(one[key] for one in runs)
        for side, runs in taken.items()
        for key in ("peak_mb", "import_mb")
    }
    note = (
        "; peak memory (after the imports): ours {ours_peak_mb:.0f} MB ({ours_import_mb:.0f}), "
        "peer {peer_peak_mb:.0f} MB ({peer_import_mb:.0f})"
    )
    name = f"{rows:,} rows, load_tsv streaming / pyarrow.csv streaming"
    # summarize gives peer / ours
    result = summarize(name, seconds["peer"], seconds["ours"], **memory, note=note.format(**memory))
    return [result | {"ours_ms": result["peer_ms"], "peer_ms": result["ours_ms"]}]


if __name__ == "__main__":
    print(json.dumps(measure(*sys.argv[1:3])))
