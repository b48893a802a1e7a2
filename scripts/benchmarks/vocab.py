"""The part `vocab` of benchmark.py: what a training step costs when the vocabulary grows.

Timed are the steps of `RnnTrainer`, from before the forward pass to after the optimiser, with the sizes and dropouts
of recipe `default`. Tokens are drawn from the whole vocabulary: a batch holds a fifth more different ones with the
largest than with the smallest.
"""

import inspect
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmark_same import check_close
from benchmark_timing import summarize
from command_line import SAMPLE

SMALL, LARGE = 3_330, 1_000_000
BATCH, TOKENS, CLASSES = 64, 20, 3
STEPS, WARM_UP, MAX_ROUNDS = 12, 4, 10
SEEDS = 3  # of whole trainings
GOAL = 1.3  # a step at a million entries takes so many times one at a few thousand, at most


def make_trainer(vocab_size: int, sparse: bool, folder: str, **settings: Any) -> Any:
    """Our Trainer with the sizes of recipe `default`, and `STEPS` batches of tokens drawn at random.

    Args:
        vocab_size: Entries of the vocabulary.
        sparse: The gradients of the embedding.
        folder: For the Trainer.
        settings: More of `RnnConfig` or `RnnTrainingArguments`.
    """
    import datasets
    import torch

    from hf_rnn import RnnConfig, RnnForSequenceClassification, RnnTrainer, RnnTrainingArguments
    from hf_rnn.training.recipes import load_recipe

    known = inspect.signature(RnnConfig).parameters
    model = {name: value for name, value in {**load_recipe("default"), **settings}.items() if name in known}
    config = RnnConfig(**model, vocab_size=vocab_size, num_labels=CLASSES, sparse_embedding=sparse)
    torch.manual_seed(0)
    ids = torch.randint(2, vocab_size, (STEPS * BATCH, TOKENS)).tolist()
    rows = datasets.Dataset.from_dict(
        {
            "input_ids": ids,
            "attention_mask": [[1] * TOKENS] * len(ids),
            "labels": [row % CLASSES for row in range(len(ids))],
        }
    )
    plain = {"per_device_train_batch_size": BATCH, "max_steps": STEPS, "learning_rate": 1e-3, "use_cpu": True}
    off = {"save_strategy": "no", "eval_strategy": "no", "report_to": "none"}
    args = RnnTrainingArguments(
        output_dir=folder, **{**plain, **off, **{name: settings[name] for name in settings if name not in known}}
    )
    trainer = RnnTrainer(RnnForSequenceClassification(config), args, train_dataset=rows)
    trainer.silence()
    return trainer


def check_first_step() -> None:
    """Assert that after one step sparse and dense training are at the same weights.

    Without dropout, from the same start. Later steps differ on purpose: the sparse ones leave tokens as they are that
    a batch does not hold, where the dense ones let them drift on.

    Raises:
        AssertionError: A weight that differs.
    """
    import torch

    weights = []
    for sparse in (True, False):
        with tempfile.TemporaryDirectory() as folder:
            trainer = make_trainer(SMALL, sparse, folder, max_steps=1, word_dropout=0.0, embedding_dropout=0.0)
            start = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
            trainer.train()
        weights.append(dict(trainer.model.named_parameters()))
    for name, dense in weights[1].items():
        assert not torch.equal(dense, start[name]), f"{name} has learned nothing"
        check_close(name, weights[0][name], dense, atol=1e-6)  # a thousandth of what a step moves a weight


def step_seconds(vocab_size: int, sparse: bool) -> float:
    """Train for a few steps and return the median of what they took."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.start = 0.0
            self.taken: list[float] = []

        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            self.start = time.perf_counter()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            self.taken.append(time.perf_counter() - self.start)

    clock = Clock()
    with tempfile.TemporaryDirectory() as scratch:
        trainer = make_trainer(vocab_size, sparse, scratch)
        trainer.add_callback(clock)
        trainer.train()
    return statistics.median(clock.taken[WARM_UP:])


def compare_steps(repeats: int) -> list[dict[str, Any]]:
    """Time the sides in turn, once a step of each is known to do the same."""
    check_first_step()
    sides = {
        "sparse": (SMALL, True),
        "sparse, large": (LARGE, True),
        "dense": (SMALL, False),
        "dense, large": (LARGE, False),
    }
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(min(max(3, repeats // 4), MAX_ROUNDS)):
        for name in list(sides) if number % 2 else reversed(sides):
            times[name].append(step_seconds(*sides[name]))

    def row(what: str, ours: str, peer: str, note: str = "") -> dict[str, Any]:
        return summarize(what, times[ours], times[peer], note=note)

    return [
        row(
            f"training step, sparse_embedding, vocabulary {SMALL:,} / {LARGE:,}",
            "sparse, large",
            "sparse",
            f" (goal: {1 / GOAL:.2f})",
        ),
        row(
            f"training step, vocabulary {LARGE:,}, dense fused AdamW / sparse_embedding",
            "sparse, large",
            "dense, large",
        ),
        row(f"training step, vocabulary {SMALL:,}, dense fused AdamW / sparse_embedding", "sparse", "dense"),
    ]


def compare_quality(folder: Path | None) -> list[dict[str, Any]]:
    """Train recipe `default` both ways and tell the scores on the validation split."""
    from hf_rnn import train

    scores: dict[bool, list[float]] = {False: [], True: []}
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for seed in range(SEEDS):
        for sparse in scores:
            with tempfile.TemporaryDirectory() as scratch:
                start = time.perf_counter()
                result = train(
                    data_dir=str(folder or SAMPLE),
                    output_dir=f"{scratch}/model",
                    sparse_embedding=sparse,
                    seed=seed,
                    data_seed=seed,
                    use_cpu=True,
                )
                seconds[sparse].append(time.perf_counter() - start)
                scores[sparse].append(result.metrics["validation"]["macro_recall"])
    means = [f"{name} {statistics.mean(scores[kind]):.3f}" for kind, name in ((True, "sparse"), (False, "dense"))]
    return [
        summarize(
            "whole training, recipe default, dense / sparse_embedding",
            seconds[True],
            seconds[False],
            macro_recall={"sparse": scores[True], "dense": scores[False]},
            note=f"; macro-recall on validation, mean of {SEEDS} seeds: {', '.join(means)}",
        )
    ]
