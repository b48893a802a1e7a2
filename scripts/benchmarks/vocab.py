"""Part `vocab` of benchmark.py: cost of a training step at small and large vocabularies.

Timed are steps of `RnnTrainer` from before the forward pass to after the optimizer, with the sizes and dropouts of
recipe `scratch` and tokens drawn from the whole vocabulary.
"""

import inspect
import statistics
import tempfile
import time
from typing import Any

from benchmarks.timing import summarize

SMALL, LARGE = 3_330, 1_000_000
BATCH, TOKENS, CLASSES = 64, 20, 3
STEPS, WARM_UP, MAX_ROUNDS = 12, 4, 10


def make_trainer(vocab_size: int, sparse: bool, folder: str, **settings: Any) -> Any:
    """Return our Trainer with the sizes of recipe `scratch` and `STEPS` random batches.

    Args:
        vocab_size: Entries of the vocabulary.
        sparse: Whether gradients of the embedding are sparse.
        folder: For the Trainer.
        settings: More of `RnnConfig` or `RnnTrainingArguments`.
    """
    import datasets
    import torch

    from hf_rnn import RnnConfig, RnnForSequenceClassification, RnnTrainer, RnnTrainingArguments
    from hf_rnn.training.recipes import load_recipe

    known = inspect.signature(RnnConfig).parameters
    model = {name: value for name, value in {**load_recipe("scratch"), **settings}.items() if name in known}
    config = RnnConfig(**model, vocab_size=vocab_size, num_labels=CLASSES, sparse_embedding=sparse)
    torch.manual_seed(0)
    ids = torch.randint(2, vocab_size, (STEPS * BATCH, TOKENS)).tolist()
    labels = [row % CLASSES for row in range(len(ids))]
    rows = datasets.Dataset.from_dict(
        {"input_ids": ids, "attention_mask": [[1] * TOKENS] * len(ids), "labels": labels}
    )
    plain: dict[str, Any] = {
        "per_device_train_batch_size": BATCH,
        "max_steps": STEPS,
        "learning_rate": 1e-3,
        "use_cpu": True,
    }
    plain |= {"save_strategy": "no", "eval_strategy": "no", "report_to": "none"}
    given = {name: value for name, value in settings.items() if name not in known}
    args = RnnTrainingArguments(output_dir=folder, **{**plain, **given})
    trainer = RnnTrainer(RnnForSequenceClassification(config), args, train_dataset=rows)
    trainer.silence()
    return trainer


def check_first_step() -> None:
    """Assert that sparse and dense training reach the same weights after one step without dropout.

    Later steps differ on purpose: sparse ones do not move the tokens that a batch lacks.

    Raises:
        AssertionError: If a weight differs.
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
        assert not torch.equal(dense, start[name]), f"{name} has not changed"
        torch.testing.assert_close(weights[0][name], dense, atol=1e-6, rtol=0)  # 1/1000 of a step


def time_step(vocab_size: int, sparse: bool) -> float:
    """Return the median seconds of a few training steps."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.start = 0.0
            self.taken: list[float] = []

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.start = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.taken.append(time.perf_counter() - self.start)

    clock = Clock()
    with tempfile.TemporaryDirectory() as scratch:
        trainer = make_trainer(vocab_size, sparse, scratch)
        trainer.add_callback(clock)
        trainer.train()
    return statistics.median(clock.taken[WARM_UP:])


def compare_steps(repeats: int) -> list[dict[str, Any]]:
    """Time sparse and dense steps at both vocabularies in turn, after the check that they do the same."""
    check_first_step()
    sides = [(SMALL, True), (LARGE, True), (SMALL, False), (LARGE, False)]
    times: dict[tuple[int, bool], list[float]] = {side: [] for side in sides}
    for number in range(min(max(3, repeats // 4), MAX_ROUNDS)):
        for side in sides if number % 2 else reversed(sides):
            times[side].append(time_step(*side))
    name = f"training step, sparse_embedding, vocabulary {SMALL:,} / {LARGE:,}"
    results = [summarize(name, times[LARGE, True], times[SMALL, True])]
    for size in (LARGE, SMALL):
        name = f"training step, vocabulary {size:,}, dense fused AdamW / sparse_embedding"
        results.append(summarize(name, times[size, True], times[size, False]))
    return results
