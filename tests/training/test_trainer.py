"""RnnTrainer: batches, losses, optimizers and resuming, each compared with another computation."""

import copy
import random

import datasets
import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import nn
from transformers import DataCollatorWithPadding
from transformers.trainer_pt_utils import get_length_grouped_indices

from hf_rnn.models.configuration_rnn import RnnConfig
from hf_rnn.models.modeling_rnn import RnnForSequenceClassification
from hf_rnn.settings.training_arguments import RnnTrainingArguments
from hf_rnn.tokenizers.word_level import train_tokenizer
from hf_rnn.training.trainer import SAMPLE_WEIGHT, EpochSampler, RnnTrainer, weigh_classes
from hf_rnn.utils.errors import UserError

CLASSES = 3
PLAIN = {"embedding_dropout": 0.0, "word_dropout": 0.0}


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([" ".join(f"w{number}" for number in range(20))], min_frequency=1)


def make_examples(rows=24, seed=0):
    """Return random ids of random lengths with unequal class counts: about 1/2, 1/3, 1/6."""
    chance = random.Random(seed)
    ids = [[chance.randrange(2, 22) for _ in range(chance.randrange(1, 12))] for _ in range(rows)]
    labels = [chance.choice([0, 0, 0, 1, 1, 2]) for _ in range(rows)]
    features = {
        "input_ids": datasets.List(datasets.Value("int32")),
        "labels": datasets.ClassLabel(num_classes=3),
    }
    return datasets.Dataset.from_dict(
        {"input_ids": ids, "labels": labels}, features=datasets.Features(features)
    )


def make_model(**settings):
    torch.manual_seed(0)
    settings = {
        "vocab_size": 22,
        "embedding_size": 6,
        "hidden_size": 4,
        "num_labels": CLASSES,
        **settings,
    }
    return RnnForSequenceClassification(RnnConfig(**settings))


SETTINGS = {
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 5,
    "num_train_epochs": 1,
    "optim": "sgd",
    "learning_rate": 0.1,
    "lr_scheduler_type": "constant",
    "save_strategy": "no",
    "logging_strategy": "epoch",
    "use_cpu": True,
}


@pytest.fixture
def make(tokenizer, tmp_path):
    """Make a small RnnTrainer."""

    def make_trainer(model=None, examples=None, settings=None, folder=tmp_path, **more):
        return RnnTrainer(
            model or make_model(),
            RnnTrainingArguments(str(folder), **{**SETTINGS, **(settings or {})}),
            train_dataset=make_examples() if examples is None else examples,
            processing_class=tokenizer,
            **more,
        )

    return make_trainer


def pad(tokenizer, examples, rows):
    return DataCollatorWithPadding(tokenizer)([examples[row] for row in rows])


# ---- losses ----


def test_class_weights_against_sklearn():
    counts = [2043, 3094, 863]
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    balanced = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    torch.testing.assert_close(
        weigh_classes(counts, 1.0), torch.tensor(balanced, dtype=torch.float32)
    )
    assert weigh_classes(counts, 0.0).tolist() == [1, 1, 1]
    half = weigh_classes(counts, 0.5)
    torch.testing.assert_close(half[2] / half[1], torch.tensor((3094 / 863) ** 0.5))
    assert (half * torch.tensor(counts)).sum().item() == pytest.approx(sum(counts), rel=1e-6)
    assert weigh_classes([4, 0, 4], 1.0).tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    "parts", [{"per_device_train_batch_size": 24}, {"per_device_train_batch_size": 5}]
)
@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(("power", "smoothing", "weighted"), [(0.0, 0.0, False), (0.5, 0.1, True)])
def test_a_step_is_that_of_torch_over_all_rows(
    tokenizer, make, monkeypatch, parts, power, smoothing, weighted, streaming
):
    """Weighted and smoothed, in one batch or unequal ones; a stream also learns from beginnings."""
    # shares of the texts
    monkeypatch.setattr(torch, "rand", lambda *sizes, **options: torch.full(sizes, 0.5))
    examples, model = (
        make_examples(24),
        make_model(**PLAIN, streaming=streaming, bidirectional=not streaming),
    )
    labels = torch.tensor(examples["labels"])
    weights = torch.linspace(0.5, 1.5, 24) if weighted else torch.ones(24)
    examples = datasets.Dataset.from_dict(
        {"input_ids": examples["input_ids"], "labels": labels.tolist()}
    )
    trained = examples.add_column(SAMPLE_WEIGHT, weights.tolist()) if weighted else examples
    by_hand = copy.deepcopy(model)
    settings = {
        "class_weight_power": power,
        "label_smoothing_factor": smoothing,
        "max_grad_norm": 0.0,
        **parts,
    }
    settings["gradient_accumulation_steps"] = 24
    trainer = make(model, trained, settings)
    trainer.train()
    assert trainer.state.global_step == 1
    class_weights = weigh_classes(torch.bincount(labels, weights).tolist(), power)
    logits = by_hand(**pad(tokenizer, examples.remove_columns("labels"), range(24))).logits
    answers = [(1.0, logits)]
    if streaming:
        halves = [{"input_ids": ids[: -(-len(ids) // 2)]} for ids in examples["input_ids"]]
        answers = [
            (0.75, logits),
            (0.25, by_hand(**tokenizer.pad(halves, return_tensors="pt")).logits),
        ]
    options = {"weight": class_weights, "reduction": "none", "label_smoothing": smoothing}
    losses = sum(
        share * nn.functional.cross_entropy(scores, labels, **options) for share, scores in answers
    )
    ((losses * weights).sum() / 24).backward()
    for (name, found), before in zip(model.named_parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(
            found, before - 0.1 * before.grad, atol=1e-6, rtol=1e-5, msg=name
        )


@pytest.mark.parametrize(
    "problem", ["single_label_classification", "multi_label_classification", "regression"]
)
def test_a_batch_of_long_texts_is_read_in_parts_and_takes_the_same_step(make, monkeypatch, problem):
    """Also where the batches of a step have unequal numbers of rows: 16 and 8."""
    rows, sizes, weights = make_examples(24), [], []
    if problem != "single_label_classification":
        targets = [[float(label > 0), float(label > 1), 1.0] for label in rows["labels"]]
        rows = datasets.Dataset.from_dict({"input_ids": rows["input_ids"], "labels": targets})
    for limit in (4096, 40):
        monkeypatch.setattr("hf_rnn.training.trainer._MOST_TOKENS", limit)
        model = make_model(**PLAIN, problem_type=problem)
        model.rnn.register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].numel()))
        settings = {
            "per_device_train_batch_size": 16,
            "gradient_accumulation_steps": 2,
            "max_grad_norm": 0.0,
        }
        trainer = make(model, rows, settings)
        trainer.train()
        weights.append([trainer.state.log_history[0]["loss"], *model.parameters()])
        assert trainer.state.global_step == 1
    assert len(sizes) > 6 and max(sizes[2:]) <= 40 < max(sizes[:2])
    torch.testing.assert_close(weights[1], weights[0], atol=1e-6, rtol=1e-5)


def test_evaluation_loss_is_the_plain_mean_over_rows(tokenizer, make):
    """17 rows in batches of 5, without class weights and smoothing."""
    examples, model = make_examples(17), make_model().eval()
    batch = pad(tokenizer, examples, range(17))
    expected = nn.functional.cross_entropy(model(**batch).logits, batch["labels"]).item()
    trainer = make(
        model,
        settings={"class_weight_power": 1.0, "label_smoothing_factor": 0.3},
        eval_dataset=examples,
    )
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("setting", ["class_weight_power", "label_smoothing_factor"])
def test_other_tasks_have_neither_class_weights_nor_smoothing(make, setting):
    """Cross-entropy would take their targets for probabilities, and train another loss."""
    targets = [[float(label > 0), float(label > 1), 1.0] for label in make_examples(24)["labels"]]
    examples = datasets.Dataset.from_dict(
        {"input_ids": make_examples(24)["input_ids"], "labels": targets}
    )
    with pytest.raises(UserError, match=f"{setting}.* one label per text"):
        make(make_model(problem_type="regression"), examples, {setting: 0.1}).train()


# ---- optimizers and order ----


def test_embedding_and_head_have_their_own_learning_rates(make):
    model = make_model(**PLAIN)
    rates = {
        "learning_rate": 0.1,
        "embedding_learning_rate": 0.2,
        "head_learning_rate": 0.3,
        "weight_decay": 0.01,
    }
    optimizer = make(model, settings={"optim": "adamw_torch", **rates}).create_optimizer()
    found = {
        id(weight): group["lr"] for group in optimizer.param_groups for weight in group["params"]
    }
    for name, weight in model.named_parameters():
        expected = 0.2 if "embedding" in name else 0.1 if name.startswith("rnn.") else 0.3
        assert found[id(weight)] == expected, name
    assert len(found) == len(list(model.parameters()))


def test_batches_have_similar_lengths_and_come_in_random_order(make):
    """Sorted from long to short, as transformers draws them, they teach less."""
    lengths, orders = np.random.default_rng(0).integers(1, 60, 1000), []
    for seed, epoch in ((0, 0), (1, 1), (0, 1)):
        sampler = EpochSampler(32, lengths.tolist(), seed=seed)
        sampler.epoch = epoch
        orders.append(list(sampler))
    assert orders[2] not in orders[:2], "another epoch or seed has another order"
    rows = orders[2]
    batches = [lengths[rows[start : start + 32]] for start in range(0, 992, 32)]
    means = np.array([batch.mean() for batch in batches])
    assert sorted(rows) == list(range(1000)) and rows == list(sampler)
    assert (
        np.mean([np.ptp(batch) for batch in batches]) < 10
        and abs(np.corrcoef(means[1:], means[:-1])[0, 1]) < 0.5
    )
    assert sorted(EpochSampler(32, [3, 4], seed=0)) == [0, 1]
    generator = torch.Generator().manual_seed(1)
    drawn = get_length_grouped_indices(lengths.tolist(), 32, 15, generator)
    batches = {tuple(drawn[start : start + 32]) for start in range(0, 992, 32)}
    assert batches == {tuple(rows[start : start + 32]) for start in range(0, 992, 32)}
    examples = datasets.Dataset.from_dict(
        {"input_ids": [[2] * size for size in lengths], "labels": [0] * 1000}
    )
    loader = make(
        examples=examples, settings={"per_device_train_batch_size": 32}
    ).get_train_dataloader()
    seen = [batch["attention_mask"].sum(1).tolist() for batch in loader]
    assert (
        sorted(sum(seen, [])) == sorted(lengths.tolist())
        and np.mean([np.ptp(batch) for batch in seen]) < 10
    )
