"""The part `train` of benchmark.py: examples a second of our Trainer against loops written by hand in plain torch.

Both sides train the same network, which is asserted first, in one run and in turn: epoch by epoch, or step by step
where the Trainer's own cost is in question. A callback runs the peer's turn inside our training, so that nothing
starts or ends between the turns.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmark_loops import EPOCHS, TUTORIAL_BATCH, Texts, best_threads, make_plain, plain_epochs, tutorial_epochs
from benchmark_same import check_same_network
from benchmark_timing import summarize

OUR_BATCH, OUR_RATE = 256, 1e-2  # of its three networks; with AdamW and a rate that falls to zero
CELLS = {"rnn_tanh": ("RNN", 8.0), "gru": ("GRU", 8.0), "lstm": ("LSTM", 4.0)}  # torch's name, the goal
Turn = Callable[[], None]


def make_trainer(texts: Texts, folder: str, model: dict[str, Any], **settings: Any) -> Any:
    """Our Trainer: nothing but training."""
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


def take_turns(trainer: Any, peer: Turn, by_step: bool) -> dict[str, list[float]]:
    """Train, with the peer's turn after each epoch or step of ours.

    Returns:
        Seconds of each side. Our epoch is all that lies between its begin and its end; our step all that lies between
        the peer's turn and the end of the step: batches, callbacks and logs as well.
    """
    from transformers import TrainerCallback

    seconds: dict[str, list[float]] = {"ours": [], "peer": []}

    class Turns(TrainerCallback):
        began = 0.0

        def switch(self) -> None:
            now = time.perf_counter()
            if self.began:
                seconds["ours"].append(now - self.began)
            start = time.perf_counter()
            peer()
            stop = time.perf_counter()
            if self.began:
                seconds["peer"].append(stop - start)
            self.began = time.perf_counter()

        def on_epoch_begin(self, *_: Any, **__: Any) -> None:
            self.began = 0.0 if by_step else time.perf_counter()

        def on_epoch_end(self, *_: Any, **__: Any) -> None:
            if not by_step:
                self.switch()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            if by_step:
                self.switch()

    trainer.add_callback(Turns())
    trainer.train()
    return seconds


def against_tutorial(texts: Texts, cell: str) -> dict[str, Any]:
    """One of the tutorial's networks: its loop against our Trainer, the same epochs, and what each has learned."""
    import torch

    kind, goal = CELLS[cell]
    torch.manual_seed(123)
    plain = make_plain(texts, kind, hidden=50, layers=2, both=False, sparse=True)
    model = {"cell_type": cell, "embedding_size": 300, "hidden_size": 50, "num_hidden_layers": 2}
    model |= {"bidirectional": False, "pooling": "last", "classifier_activation": "relu"}
    with tempfile.TemporaryDirectory() as folder:
        ours = make_trainer(
            texts,
            folder,
            model,
            learning_rate=OUR_RATE,
            lr_scheduler_type="linear",
            per_device_train_batch_size=OUR_BATCH,
            num_train_epochs=EPOCHS,
        )
        check_same_network(texts, plain, ours.model, OUR_BATCH)
        threads = best_threads(texts, plain, TUTORIAL_BATCH)
        epochs = tutorial_epochs(texts, plain, threads)
        seconds = take_turns(ours, lambda: next(epochs), by_step=False)
    trained = ours.model.eval()
    accuracies = {
        "ours_accuracy": texts.accuracy(lambda ids: trained(ids).logits, 64),
        "peer_accuracy": texts.accuracy(plain.eval(), TUTORIAL_BATCH),
        "majority": texts.majority,
    }
    result = summarize(f"training, {kind} 50x2, the tutorial's loop / RnnTrainer", **seconds, goal=goal, **accuracies)
    rates = [1000 * len(texts.rows) / result[f"{side}_ms"] for side in ("ours", "peer")]
    scores = "accuracy after {} epochs {:.3f} and {:.3f}, commonest class {:.3f}".format(EPOCHS, *accuracies.values())
    result |= {"ours_per_second": rates[0], "peer_per_second": rates[1], "peer_threads": threads}
    result["note"] = f", {rates[0]:,.0f} and {rates[1]:,.0f} examples/s (goal: {goal}); {scores}"
    return result


def against_plain_lstm(texts: Texts, bf16: bool) -> dict[str, Any]:
    """A bidirectional LSTM of 128 units in batches of 64: padded nn.LSTM in random order against our Trainer."""
    goal = 1.8 if bf16 else 1.4
    plain = make_plain(texts, "LSTM", hidden=128, layers=1, both=True, sparse=False)
    with tempfile.TemporaryDirectory() as folder:
        model = {"embedding_size": 300, "hidden_size": 128, "pooling": "mean_max"}
        ours = make_trainer(
            texts,
            folder,
            model,
            learning_rate=1e-3,
            per_device_train_batch_size=64,
            num_train_epochs=EPOCHS,
            bf16=bf16,
        )
        check_same_network(texts, plain, ours.model, 64, bf16)
        epochs = plain_epochs(texts, plain, batch_size=64)
        seconds = take_turns(ours, lambda: next(epochs), by_step=False)
    what = f"training, bi-LSTM E300 H128, plain padded nn.LSTM / RnnTrainer{' bf16' if bf16 else ''}"
    result = summarize(what, **seconds, goal=goal)
    rates = [1000 * len(texts.rows) / result[f"{side}_ms"] for side in ("ours", "peer")]
    result |= {"ours_per_second": rates[0], "peer_per_second": rates[1]}
    result["note"] = f", {rates[0]:,.0f} and {rates[1]:,.0f} examples/s (goal: {goal})"
    return result


def against_bare_loop(texts: Texts, ready: bool) -> dict[str, Any]:
    """Recipe `default`: a loop with the same model, loss, clipping, optimiser and batches, without a Trainer.

    Args:
        texts: To train on.
        ready: Whether the loop finds its batches in memory; else a DataLoader and the collator make them.
    """
    import dataclasses

    import torch
    from torch.utils.data import DataLoader
    from transformers import DataCollatorWithPadding

    from hf_rnn import RnnConfig, RnnForSequenceClassification, RnnTrainingArguments
    from hf_rnn.data.samplers import LengthBucketedBatchSampler
    from hf_rnn.training.recipes import load_recipe

    recipe = load_recipe("default")
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

        def in_order() -> Iterator[Any]:
            for epoch in range(EPOCHS):
                order.set_epoch(epoch)
                yield from loader

        batches = iter(list(in_order())) if ready else in_order()

        def step() -> None:
            batch = next(batches)
            logits = bare(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
            loss = torch.nn.functional.cross_entropy(logits, batch["labels"], weights, label_smoothing=smoothing)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(bare.parameters(), ours.args.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()

        seconds = take_turns(ours, step, by_step=True)
    found = "batches ready in memory" if ready else "DataLoader and collator"
    result = summarize(f"a step of recipe default, bare loop ({found}) / RnnTrainer", **seconds, goal=0.95)
    result["note"] = f", the Trainer takes {1 / result['ratio'] - 1:+.1%} (goal: under +5%)"
    return result


def train(folder: Path | None, quick: bool) -> list[dict[str, Any]]:
    """Measure all; `quick` takes a few texts, to see that it runs and not how fast."""
    import torch

    texts = Texts(folder, rows=300 if quick else 0)
    results = [against_tutorial(texts, cell) for cell in CELLS]
    few = Texts(folder, rows=300 if quick else 3000)
    results.append(against_plain_lstm(few, bf16=False))
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        results.append(against_plain_lstm(few, bf16=True))
    else:
        print("left out, because this processor does not compute in bf16: RnnTrainer with bf16", file=sys.stderr)
    return [*results, against_bare_loop(few, ready=True), against_bare_loop(few, ready=False)]
