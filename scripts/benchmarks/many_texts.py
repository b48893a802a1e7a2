"""Measure `hf-rnn predict --output_dir` over many short texts: one process, two processes, and Ray.

    python scripts/benchmarks/many_texts.py
    python scripts/benchmarks/many_texts.py --texts 5000000 --engines local:1 local:2 ray:2

Each engine reads the same Parquet files and writes all answers. The rate counts from the first finished file to the
last, without the start of the processes. The model is random: speed does not depend on weights.
"""

import random
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.command_line import SAMPLE, Parser, positive, run

FILES = 32


def write_files(train: list[str], count: int, folder: Path) -> None:
    """Write texts of 8 to 16 words of the sample, one in 50 of them new."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    words, chance = " ".join(train).split(), random.Random(0)

    def word() -> str:
        return chance.choice(words) if chance.random() < 0.98 else f"{chance.choice(words)}{chance.randrange(10**6)}"

    def text() -> str:
        return " ".join(word() for _ in range(chance.randint(8, 16)))

    for number in range(FILES):
        size = (number + 1) * count // FILES - number * count // FILES
        texts = [text() for _ in range(size)]
        pq.write_table(pa.table({"text": texts}), folder / f"{number:02d}.parquet")


def measure_engine(engine: str, workers: str, model: Path, data: Path, output: Path) -> float:
    """Run the command and return its texts per second."""
    import pyarrow.parquet as pq

    command = [sys.executable, "-m", "hf_rnn", "predict", "--model", str(model), "--input", f"{data}/*.parquet"]
    command += ["--output_dir", str(output), "--engine", engine, "--workers", workers]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    files = sorted(output.glob("*.parquet"), key=lambda path: path.stat().st_mtime)
    rows = sum(pq.read_metadata(path).num_rows for path in files[1:])
    return rows / (files[-1].stat().st_mtime - files[0].stat().st_mtime)


def main() -> None:
    """Print a line per engine."""
    parser = Parser(__doc__)
    parser.add_argument("--texts", type=positive, default=400_000, help="number of texts (default: %(default)s)")
    parser.add_argument("--engines", nargs="+", default=["local:1", "local:2", "ray:2"], help="ENGINE:WORKERS")
    parser.add_argument("--recipe", default="fast", help="architecture of the model (default: %(default)s)")
    flags = parser.parse_args()

    from benchmarks.parts import Texts

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        data, model = root / "data", root / "model"
        data.mkdir()
        sample = Texts(SAMPLE)
        for part in sample.make(flags.recipe):
            part.save_pretrained(model)
        write_files(sample.train, flags.texts, data)
        for engine in flags.engines:
            name, _, workers = engine.partition(":")
            rate = measure_engine(name, workers, model, data, root / engine.replace(":", "-"))
            print(f"{engine}: {rate:,.0f} texts/s", flush=True)


if __name__ == "__main__":
    run(main)
