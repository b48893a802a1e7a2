"""The loss of a distillation by hand, its gradient, and a step of its Trainer."""

import numpy as np
import pytest
import torch
from datasets import Dataset

from hf_rnn import train_tokenizer
from hf_rnn.models.configuration_rnn import RnnConfig
from hf_rnn.models.modeling_rnn import RnnForSequenceClassification
from hf_rnn.training.arguments.training_arguments import RnnTrainingArguments
from hf_rnn.training.distillation.trainer import NO_LABEL, DistillationTrainer, distillation_loss


def softmax(values):
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def make_batch(rows=7, classes=4, seed=0):
    generator = np.random.default_rng(seed)
    logits, teachers = generator.normal(size=(2, rows, classes)) * 3
    labels = generator.integers(classes, size=rows)
    labels[::3] = NO_LABEL
    return logits, labels, teachers


@pytest.mark.parametrize(("temperature", "weight"), [(1.0, 0.5), (2.0, 0.9), (5.0, 1.0), (0.5, 0.0)])
def test_the_loss_by_hand(temperature, weight):
    logits, labels, teachers = make_batch()
    weights, smoothing, classes = np.array([0.5, 1.0, 2.0, 1.5]), 0.1, 4
    tilted = weights * softmax(teachers)
    p = tilted ** (1 / temperature)
    p, q = p / p.sum(axis=1, keepdims=True), softmax(logits / temperature)
    expected = weight * temperature**2 * (p * (np.log(p) - np.log(q))).sum()
    for row, label in zip(softmax(logits), labels, strict=True):
        if label != NO_LABEL:
            share = np.full(classes, smoothing / classes)
            share[label] += 1 - smoothing
            expected -= (1 - weight) * (share * weights * np.log(row)).sum()
    found = distillation_loss(
        *map(torch.from_numpy, (logits, labels, teachers)), temperature, weight, torch.from_numpy(weights), smoothing
    )
    assert found.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("temperature", "weight"), [(1.0, 0.3), (4.0, 0.8)])
def test_its_gradient(temperature, weight):
    """By finite differences, and as Hinton et al. have it: a T (q - p) + (1 - a) (softmax - one-hot)."""
    logits, labels, teachers = make_batch()
    values = torch.from_numpy(logits).requires_grad_()
    others = (torch.from_numpy(labels), torch.from_numpy(teachers), temperature, weight)
    assert torch.autograd.gradcheck(lambda values: distillation_loss(values, *others), values)
    distillation_loss(values, *others).backward()
    expected = weight * temperature * (softmax(logits / temperature) - softmax(teachers / temperature))
    labelled = labels != NO_LABEL
    one_hot = np.eye(4)[labels[labelled]]
    expected[labelled] += (1 - weight) * (softmax(logits[labelled]) - one_hot)
    np.testing.assert_allclose(values.grad.numpy(), expected, atol=1e-12)


def test_rows_without_labels_have_no_part_in_the_cross_entropy():
    logits, _, teachers = map(torch.from_numpy, make_batch())
    none = torch.full((7,), NO_LABEL)
    assert distillation_loss(logits, none, teachers, 2.0, 0.0).item() == 0
    assert distillation_loss(logits, none, logits, 2.0, 0.7).item() == pytest.approx(0, abs=1e-12), "they agree"


def make_trainer(tmp_path, batch, steps, **more):
    """A Trainer that takes one plain step of gradient descent over eight rows."""
    torch.manual_seed(3)
    model = RnnForSequenceClassification(RnnConfig(vocab_size=9, embedding_size=4, hidden_size=4, num_labels=4))
    generator = np.random.default_rng(5)
    logits, labels, teachers = make_batch(rows=8, seed=1)
    rows = Dataset.from_dict(
        {
            "input_ids": [generator.integers(2, 9, size=size).tolist() for size in (3, 1, 5, 2, 4, 4, 2, 6)],
            "labels": labels.tolist(),
            "teacher_logits": teachers.astype(np.float32).tolist(),
        }
    )
    settings = RnnTrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=batch, gradient_accumulation_steps=steps, max_steps=1,
        optim="sgd", learning_rate=0.5, max_grad_norm=0, use_cpu=True, report_to=[], save_strategy="no",
        train_sampling_strategy="sequential", lr_scheduler_type="constant", disable_tqdm=True, **more,
    )  # fmt: skip
    trainer = DistillationTrainer(
        model=model,
        args=settings,
        train_dataset=rows,
        processing_class=train_tokenizer(["a b c d e f g"], min_frequency=1),
        class_counts=[1, 2, 3, 4],
        temperature=3.0,
        soft_label_weight=0.6,
    )
    trainer.silence()
    return trainer, rows


@pytest.mark.parametrize("more", [{}, {"class_weight_power": 0.7, "label_smoothing_factor": 0.1}])
def test_a_step_is_one_over_the_mean_of_all_rows(tmp_path, more):
    """Also in accumulated batches, whose labelled rows are not equally many; against a step taken by hand."""
    stepped = {}
    for batch, steps in ((8, 1), (4, 2), (2, 4)):
        trainer, rows = make_trainer(tmp_path, batch, steps, **more)
        before = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
        trainer.train()
        stepped[batch] = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
    counts = [sum(label != NO_LABEL for label in rows["labels"][first : first + 2]) for first in (0, 2, 4, 6)]
    assert len(set(counts)) > 1, "premise"
    model = trainer.model
    model.load_state_dict(before)
    model.zero_grad()
    width = max(map(len, rows["input_ids"]))
    ids = torch.tensor([ids + [1] * (width - len(ids)) for ids in rows["input_ids"]])
    mask = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in rows["input_ids"]])
    total = distillation_loss(
        model(input_ids=ids, attention_mask=mask).logits,
        torch.tensor(rows["labels"]),
        torch.tensor(rows["teacher_logits"]),
        3.0,
        0.6,
        trainer._class_weights,
        more.get("label_smoothing_factor", 0.0),
    )
    assert ("class_weight_power" in more) == (trainer._class_weights is not None)
    (total / 8).backward()
    for name, weight in model.named_parameters():
        expected = before[name] - 0.5 * weight.grad
        for batch, state in stepped.items():
            torch.testing.assert_close(state[name], expected, atol=1e-6, rtol=1e-4, msg=f"{name}, batches of {batch}")
