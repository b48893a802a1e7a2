"""Measure `hf-rnn predict --output_dir` over many short texts: one process, two processes, and Ray.

    python scripts/benchmarks/many_texts.py
    python scripts/benchmarks/many_texts.py --texts 5000000 --engines local:1 local:2 ray:2

Each engine reads the same Parquet files and writes all answers. The rate counts from the first block that a worker
has finished, without the start of the processes. Beside it are the CPU time of the workers per text, which other
programs of the machine disturb less, and the memory of the largest worker after half of the texts and at the end. The
bare predictor is `FastRnn.predict` on texts in memory, in one thread. The model is random: speed does not depend on
weights.
"""

import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.infer import Texts
from common.command_line import Parser, positive, run

FILES = 32
BARE_TEXTS, AT_ONCE = 50_000, 8192


def write_files(texts: list[str], count: int, folder: Path) -> list[str]:
    """Write texts of 8 to 16 words of the sample, one in 50 of them new, and return the first of them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    words, chance = " ".join(texts).split(), random.Random(0)
    first: list[str] = []

    def word() -> str:
        return chance.choice(words) if chance.random() < 0.98 else f"{chance.choice(words)}{chance.randrange(10**6)}"

    for number in range(FILES):
        size = (number + 1) * count // FILES - number * count // FILES
        made = [" ".join(word() for _ in range(chance.randint(8, 16))) for _ in range(size)]
        pq.write_table(pa.table({"text": made}), folder / f"{number:02d}.parquet")
        first += made[: max(0, BARE_TEXTS - len(first))]
    return first


def measure_bare(model: Path, texts: list[str]) -> float:
    """Return the CPU seconds per text of `FastRnn.predict`."""
    import torch

    from hf_rnn import FastRnn

    torch.set_num_threads(1)
    fast = FastRnn.from_pretrained(model)
    fast.predict(texts[:AT_ONCE])
    start = time.process_time()
    for first in range(0, len(texts), AT_ONCE):
        fast.predict(texts[first : first + AT_ONCE])
    return (time.process_time() - start) / len(texts)


def measure_engine(engine: str, workers: int, model: Path, data: Path, output: Path) -> dict[str, Any]:
    """Run the command and watch its workers and the files of its blocks."""
    import psutil
    import pyarrow.parquet as pq

    command = [sys.executable, "-m", "hf_rnn", "predict", "--model", str(model), "--input", f"{data}/*.parquet"]
    command += ["--output_dir", str(output), "--engine", engine, "--workers", str(workers)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    samples: list[tuple[float, int, float, float]] = []  # time, finished rows, CPU seconds, largest memory in MB
    while process.poll() is None:
        time.sleep(0.2)
        rows = sum(pq.read_metadata(path).num_rows for path in output.glob("*.parquet"))
        seconds, memory = 0.0, 0.0
        for child in psutil.Process(process.pid).children(recursive=True) if process.poll() is None else ():
            try:
                if engine == "local" or "MapWorker" in child.name() or child.name().startswith("ray::Map"):
                    seconds += sum(child.cpu_times()[:2])
                    memory = max(memory, child.memory_info().rss / 1e6)
            except psutil.Error:
                continue
        if memory:
            samples.append((time.perf_counter(), rows, seconds, memory))
    if process.returncode:
        raise SystemExit(f"{engine} with {workers} failed: code {process.returncode}")
    first = next(sample for sample in samples if sample[1])
    last = next(sample for sample in samples if sample[1] == samples[-1][1])
    rows = last[1] - first[1]
    half = max(sample[3] for sample in samples if sample[1] <= last[1] / 2)
    return {
        "texts/s": rows / (last[0] - first[0]),
        "CPU us/text": 1e6 * (last[2] - first[2]) / rows,
        "MB at half": half,
        "MB": max(sample[3] for sample in samples),
    }


def main() -> None:
    """Print a line per engine."""
    parser = Parser(__doc__)
    parser.add_argument("--texts", type=positive, default=400_000, help="number of texts (default: %(default)s)")
    parser.add_argument("--engines", nargs="+", default=["local:1", "local:2", "ray:2"], help="ENGINE:WORKERS")
    parser.add_argument("--recipe", default="fast", help="architecture of the model (default: %(default)s)")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        data, model = root / "data", root / "model"
        data.mkdir()
        sample = Texts(None)
        for part in sample.make(flags.recipe):
            part.save_pretrained(model)
        texts = write_files(sample.train, flags.texts, data)
        for engine in flags.engines:
            before = measure_bare(model, texts)
            name, _, workers = engine.partition(":")
            found = measure_engine(name, int(workers), model, data, root / engine.replace(":", "-"))
            bare = 1e6 * (before + measure_bare(model, texts)) / 2
            found |= {"bare us/text": bare, "CPU over bare": found["CPU us/text"] / bare}
            numbers = [f"{key} {value:,.0f}" if value > 1000 else f"{key} {value:.3g}" for key, value in found.items()]
            print(engine, *numbers, sep=", ", flush=True)


if __name__ == "__main__":
    run(main)
