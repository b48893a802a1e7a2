"""Part `train` of benchmark.py: examples per second of our Trainer against loops written by hand in plain torch.

Both sides train the same network, which is asserted first, in turn epoch by epoch, or step by step to measure the
cost of the Trainer itself. A callback runs the peer inside our training, so nothing starts or ends between turns.
"""

import dataclasses
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.loops import (
    EPOCHS,
    TUTORIAL_BATCH,
    Texts,
    check_same_network,
    find_best_threads,
    make_plain,
    run_plain_epochs,
    run_tutorial_epochs,
)
from benchmarks.timing import summarize

OUR_BATCH, OUR_RATE = 256, 1e-2  # for the networks of the tutorial
CELLS = {"rnn_tanh": "RNN", "gru": "GRU", "lstm": "LSTM"}  # and torch's name


def make_trainer(texts: Texts, folder: str, model: dict[str, Any], **settings: Any) -> Any:
    """Return our Trainer without evaluation or checkpoints."""
    import torch

    from hf_rnn import RnnConfig, RnnForSequenceClassification, RnnTrainer, RnnTrainingArguments

    torch.manual_seed(123)
    config = RnnConfig(vocab_size=len(texts.tokenizer), num_labels=texts.classes, **model)
    plain: dict[str, Any] = {
        "output_dir": folder,
        "use_cpu": True,
        "train_sampling_strategy": "group_by_length",
        "lr_scheduler_type": "constant",
        "logging_strategy": "epoch",
        "seed": 123,
    }
    off = {"save_strategy": "no", "eval_strategy": "no", "load_best_model_at_end": False, "early_stopping_patience": 0}
    trainer = RnnTrainer(
        model=RnnForSequenceClassification(config),
        args=RnnTrainingArguments(**{**plain, **settings, **off}),
        train_dataset=texts.train,
        processing_class=texts.tokenizer,
    )
    trainer.silence()
    return trainer


def train_in_turn(trainer: Any, peer: Callable[[], Any], by_step: bool) -> dict[str, list[float]]:
    """Train, and run the peer after each epoch or step of ours.

    Returns:
        Seconds of each side. Ours include everything between two turns of the peer: batches, callbacks and logs.
    """
    from transformers import TrainerCallback

    seconds: dict[str, list[float]] = {"ours": [], "peer": []}

    class Turns(TrainerCallback):
        start = 0.0

        def switch(self) -> None:
            end = time.perf_counter()
            peer()
            if self.start:
                seconds["ours"].append(end - self.start)
                seconds["peer"].append(time.perf_counter() - end)
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
    return seconds


def add_rates(result: dict[str, Any], rows: int, note: str = "") -> dict[str, Any]:
    """Return the result of whole epochs with examples per second."""
    ours, peer = (1000 * rows / result[f"{side}_ms"] for side in ("ours", "peer"))
    note = f", {ours:,.0f} and {peer:,.0f} examples/s{note}"
    return result | {"ours_per_second": ours, "peer_per_second": peer, "note": note}


def compare_tutorial(texts: Texts, cell: str) -> dict[str, Any]:
    """Compare the tutorial's loop with our Trainer on one of its networks, and the accuracy after five epochs."""
    import torch

    kind = CELLS[cell]
    torch.manual_seed(123)
    plain = make_plain(texts, kind, hidden=50, layers=2, both=False, sparse=True)
    model = {"cell_type": cell, "embedding_size": 300, "hidden_size": 50, "num_hidden_layers": 2}
    model |= {"bidirectional": False, "pooling": "last", "classifier_activation": "relu"}
    settings = {"learning_rate": OUR_RATE, "lr_scheduler_type": "linear", "per_device_train_batch_size": OUR_BATCH}
    with tempfile.TemporaryDirectory() as folder:
        ours = make_trainer(texts, folder, model, **settings, num_train_epochs=EPOCHS)
        check_same_network(texts, plain, ours.model, OUR_BATCH)
        threads = find_best_threads(texts, plain, TUTORIAL_BATCH)
        epochs = run_tutorial_epochs(texts, plain, threads)
        seconds = train_in_turn(ours, lambda: next(epochs), by_step=False)
    trained = ours.model.eval()
    scores = {
        "ours_accuracy": texts.accuracy(lambda ids: trained(ids).logits, 64),
        "peer_accuracy": texts.accuracy(plain.eval(), TUTORIAL_BATCH),
        "majority": texts.majority,
    }
    note = "; accuracy after {} epochs {:.3f} and {:.3f}, majority class {:.3f}".format(EPOCHS, *scores.values())
    result = summarize(f"training, {kind} 50x2, the tutorial's loop / RnnTrainer", **seconds)
    return add_rates(result, len(texts.rows), note) | scores | {"peer_threads": threads}


def compare_plain_lstm(texts: Texts, bf16: bool) -> dict[str, Any]:
    """Compare padded nn.LSTM in random order with our Trainer on a bi-LSTM of 128 units in batches of 64."""
    plain = make_plain(texts, "LSTM", hidden=128, layers=1, both=True, sparse=False)
    model = {"embedding_size": 300, "hidden_size": 128, "pooling": "mean_max"}
    settings = {"learning_rate": 1e-3, "per_device_train_batch_size": 64, "num_train_epochs": EPOCHS, "bf16": bf16}
    with tempfile.TemporaryDirectory() as folder:
        ours = make_trainer(texts, folder, model, **settings)
        check_same_network(texts, plain, ours.model, 64, bf16)
        epochs = run_plain_epochs(texts, plain, batch_size=64)
        seconds = train_in_turn(ours, lambda: next(epochs), by_step=False)
    name = f"training, bi-LSTM E300 H128, plain padded nn.LSTM / RnnTrainer{' bf16' if bf16 else ''}"
    return add_rates(summarize(name, **seconds), len(texts.rows))


def compare_bare_loop(texts: Texts, in_memory: bool) -> dict[str, Any]:
    """Compare a loop with the model, loss, clipping, optimizer and batches of recipe `scratch` with our Trainer.

    Args:
        texts: To train on.
        in_memory: Whether the loop has its batches in memory; else a DataLoader and the collator make them.
    """
    import torch
    from torch.utils.data import DataLoader
    from transformers import DataCollatorWithPadding

    from hf_rnn import RnnConfig, RnnForSequenceClassification, RnnTrainingArguments
    from hf_rnn.data.samplers import LengthBucketedBatchSampler
    from hf_rnn.training.recipes import load_recipe

    recipe = load_recipe("scratch")
    model, settings = (
        {field.name: recipe[field.name] for field in dataclasses.fields(kind) if field.name in recipe}
        for kind in (RnnConfig, RnnTrainingArguments)
    )
    settings["learning_rate"] = float(settings["learning_rate"])
    with tempfile.TemporaryDirectory() as folder:
        ours = make_trainer(texts, folder, model, **{**settings, "num_train_epochs": EPOCHS})
        torch.manual_seed(123)
        bare = RnnForSequenceClassification(RnnConfig(**ours.model.config.to_diff_dict())).train()
        weights, smoothing = ours._class_weights, ours.args.label_smoothing_factor
        optimizer = torch.optim.AdamW(bare.parameters(), lr=ours.args.learning_rate, weight_decay=0, fused=True)
        order = LengthBucketedBatchSampler(texts.lengths, ours.args.per_device_train_batch_size, seed=ours.args.seed)
        loader = DataLoader(texts.train, batch_sampler=order, collate_fn=DataCollatorWithPadding(texts.tokenizer))

        def make_batches() -> Iterator[Any]:
            for epoch in range(EPOCHS):
                order.set_epoch(epoch)
                yield from loader

        batches = iter(list(make_batches())) if in_memory else make_batches()

        def step() -> None:
            batch = next(batches)
            logits = bare(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
            loss = torch.nn.functional.cross_entropy(logits, batch["labels"], weights, label_smoothing=smoothing)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(bare.parameters(), ours.args.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()

        seconds = train_in_turn(ours, step, by_step=True)
    source = "batches in memory" if in_memory else "DataLoader and collator"
    result = summarize(f"a step of recipe scratch, bare loop ({source}) / RnnTrainer", **seconds)
    return result | {"note": f", the Trainer takes {1 / result['ratio'] - 1:+.1%}"}


def compare(folder: Path | None, quick: bool) -> list[dict[str, Any]]:
    """Measure everything; `quick` takes few texts, to see that it runs."""
    import torch

    texts = Texts(folder, rows=100 if quick else 0)
    results = [compare_tutorial(texts, cell) for cell in CELLS]
    few = Texts(folder, rows=100 if quick else 3000)
    results.append(compare_plain_lstm(few, bf16=False))
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        results.append(compare_plain_lstm(few, bf16=True))
    else:
        print("skipped, this processor does not support bf16: RnnTrainer with bf16", file=sys.stderr)
    return [*results, compare_bare_loop(few, in_memory=True), compare_bare_loop(few, in_memory=False)]
