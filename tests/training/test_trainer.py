"""The Trainer's changed parts, each against something computed by other means."""

import copy
import dataclasses
import json
import random
import re

import datasets
import numpy as np
import pytest
import torch
from huggingface_hub import snapshot_download
from sklearn.utils.class_weight import compute_class_weight
from torch import nn
from transformers import DataCollatorWithPadding, Trainer, TrainerCallback, TrainingArguments

from hf_rnn.data.samplers import LengthBucketedBatchSampler, TokenBudgetBatchSampler
from hf_rnn.models.configuration_rnn import RnnConfig
from hf_rnn.models.modeling_rnn import RnnForSequenceClassification
from hf_rnn.tokenizers.word_level import train_tokenizer
from hf_rnn.training.arguments.training_arguments import RnnTrainingArguments
from hf_rnn.training.checkpointing.interrupt import TrainingStopped
from hf_rnn.training.trainer import weigh_classes
from hf_rnn.training.optimizers import LazyAdamW
from hf_rnn.training.trainer import count_tokens
from hf_rnn.training.optimizers import clip_grad_norm
from hf_rnn.training.trainer import RnnTrainer
from hf_rnn.utils.errors import UserError

WORDS = [f"w{number}" for number in range(20)]
CLASSES = 3
LOGGED = ("epoch", "loss", "train_accuracy", "train_loss")


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([" ".join(WORDS)], min_frequency=1)


def make_examples(rows=24, seed=0, empty=False):
    """Random ids of random length with unequal class counts: about 1/2, 1/3, 1/6."""
    chance = random.Random(seed)
    ids = [[chance.randrange(2, 22) for _ in range(chance.randrange(1, 12))] for _ in range(rows)]
    if empty:
        ids[3] = []
    labels = [chance.choice([0, 0, 0, 1, 1, 2]) for _ in range(rows)]
    return datasets.Dataset.from_dict(
        {"input_ids": ids, "labels": labels},
        features=datasets.Features(
            {"input_ids": datasets.List(datasets.Value("int32")), "labels": datasets.ClassLabel(num_classes=CLASSES)}
        ),
    )


def make_model(**settings):
    torch.manual_seed(0)
    settings = {"vocab_size": 22, "embedding_size": 6, "hidden_size": 4, "num_labels": CLASSES, **settings}
    return RnnForSequenceClassification(RnnConfig(**settings))


def make_trainer(tokenizer, folder, model=None, examples=None, settings=None, kind=RnnTrainer, **more):
    settings = {
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 5,
        "num_train_epochs": 1,
        "optim": "sgd",
        "learning_rate": 0.1,
        "lr_scheduler_type": "constant",
        "save_strategy": "no",
        "logging_strategy": "epoch",
        "report_to": "none",
        "use_cpu": True,
        **(settings or {}),
    }
    return kind(
        model=model or make_model(),
        args=RnnTrainingArguments(output_dir=str(folder), **settings),
        train_dataset=make_examples() if examples is None else examples,
        processing_class=tokenizer,
        **more,
    )


def pad(tokenizer, examples, rows):
    return DataCollatorWithPadding(tokenizer)([examples[row] for row in rows])


# ---- batches ----


def rows_of(loader, examples):
    """Which examples each batch holds, told from their content (premise: all differ)."""
    place = {tuple(row["input_ids"]): number for number, row in enumerate(examples)}
    assert len(place) == len(examples)
    return [
        [
            place[tuple(ids[mask.bool()].tolist())]
            for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
        ]
        for batch in loader
    ]


@pytest.mark.parametrize(
    ("settings", "drop_last"),
    [({"seed": 3}, False), ({"seed": 5, "data_seed": 3}, False), ({"seed": 3, "dataloader_drop_last": True}, True)],
)
def test_training_batches_are_the_samplers(tokenizer, tmp_path, settings, drop_last):
    examples = make_examples(45)
    trainer = make_trainer(tokenizer, tmp_path, examples=examples, settings=settings)
    loader = trainer.get_train_dataloader()
    lengths = [len(row["input_ids"]) for row in examples]
    expected = LengthBucketedBatchSampler(lengths, 8, seed=3, drop_last=drop_last)
    orders = []
    for epoch in (0, 1):
        loader.set_epoch(epoch)
        expected.set_epoch(epoch)
        orders.append(rows_of(loader, examples))
        assert orders[-1] == list(expected)
    assert orders[0] != orders[1]


def test_the_training_loop_takes_another_order_each_epoch(tokenizer, tmp_path):
    examples, seen = make_examples(24), []
    trainer = make_trainer(tokenizer, tmp_path, examples=examples, settings={"num_train_epochs": 3, "seed": 3})
    forward = trainer.compute_loss

    def spy(model, inputs, *args, **kwargs):
        seen.append(rows_of([inputs], examples)[0])
        return forward(model, inputs, *args, **kwargs)

    trainer.compute_loss = spy
    trainer.train()
    expected = LengthBucketedBatchSampler([len(row["input_ids"]) for row in examples], 8, seed=3)
    for epoch in range(3):
        expected.set_epoch(epoch)
        assert seen[3 * epoch : 3 * epoch + 3] == list(expected)


def test_training_takes_each_batch_of_a_token_budget(tokenizer, tmp_path):
    """As many steps an epoch as batches, a rate that falls to 0 with the last, and no row lost, repeated or cut."""
    examples, seen = make_examples(45, empty=True), []
    lengths = [len(row["input_ids"]) for row in examples]
    settings = {
        "tokens_per_batch": 30, "num_train_epochs": 3, "seed": 3, "lr_scheduler_type": "linear",
        "per_device_train_batch_size": 1, "logging_strategy": "steps", "logging_steps": 1,
    }  # fmt: skip
    trainer = make_trainer(tokenizer, tmp_path, examples=examples, settings=settings)
    forward = trainer.compute_loss

    def spy(model, inputs, *args, **kwargs):
        assert inputs["input_ids"].numel() <= 30
        seen.append(rows_of([inputs], examples)[0])
        return forward(model, inputs, *args, **kwargs)

    trainer.compute_loss = spy
    trainer.train()
    order = TokenBudgetBatchSampler(lengths, 30, seed=3)
    expected = []
    for epoch in range(3):
        order.set_epoch(epoch)
        expected.append(list(order))
    assert seen == [batch for batches in expected for batch in batches]
    assert len(set(map(len, seen))) > 2 and expected[0] != expected[1], "premise"
    steps = len(order)
    assert (trainer.state.global_step, trainer.state.max_steps, trainer.state.epoch) == (3 * steps, 3 * steps, 3)
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    assert rates == pytest.approx([0.1 * (1 - step / (3 * steps)) for step in range(3 * steps)])


def test_a_text_beyond_the_token_budget_and_empty_ones_train(tokenizer, tmp_path):
    examples = datasets.concatenate_datasets(
        [make_examples(6), make_examples(9, seed=1).map(lambda row: {"input_ids": []})]
    )
    assert max(map(len, examples["input_ids"])) > 4, "premise: there is a text beyond the budget"
    trainer = make_trainer(tokenizer, tmp_path, examples=examples, settings={"tokens_per_batch": 4})
    batches = list(trainer.get_train_dataloader())
    assert sorted(label for batch in batches for label in batch["labels"].tolist()) == sorted(examples["labels"])
    assert any(batch["input_ids"].shape[1] == 0 for batch in batches)
    trainer.train()
    assert all(torch.isfinite(weights).all() for weights in trainer.model.parameters())


def test_a_token_budget_needs_a_table(tokenizer, tmp_path):
    settings = {"max_steps": 1, "tokens_per_batch": 30}
    with pytest.raises(UserError, match="a stream does not tell: give a table of rows, or leave out tokens_per_batch"):
        make_trainer(tokenizer, tmp_path, examples=make_examples().to_iterable_dataset(), settings=settings)


def test_accumulated_token_batches_are_one_batch(tokenizer, tmp_path):
    """However unlike their numbers of rows: the mean is that of the rows, not of the batches."""
    examples = make_examples(24)
    settings = {"tokens_per_batch": 30, "gradient_accumulation_steps": 99, "max_grad_norm": 0.0}
    model = make_model(embedding_dropout=0.0, word_dropout=0.0)
    by_hand = copy.deepcopy(model)
    trainer = make_trainer(tokenizer, tmp_path, model, examples, settings)
    assert len({len(batch["labels"]) for batch in trainer.get_train_dataloader()}) > 1, "premise"
    trainer.train()
    assert trainer.state.global_step == 1
    batch = pad(tokenizer, examples, range(24))
    logits = by_hand(batch["input_ids"], batch["attention_mask"]).logits
    nn.functional.cross_entropy(logits, batch["labels"]).backward()
    for (name, trained), before in zip(trainer.model.named_parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(trained, before - 0.1 * before.grad, atol=1e-6, rtol=1e-5, msg=name)


def test_lengths_are_those_of_the_column_that_is_named():
    rows = datasets.Dataset.from_dict({"input_ids": [[2], [3, 4]], "length": [7, 8]})
    assert count_tokens(rows, "length") == [7, 8]
    assert count_tokens(rows, "size") == count_tokens(list(rows), "size") == [1, 2]


def test_rows_that_are_made_as_they_are_read(tokenizer, tmp_path):
    """The premise: ids and labels are in no column of the table."""
    examples = make_examples(20)
    table = datasets.Dataset.from_dict({"number": range(20)})
    made = table.with_transform(lambda rows: examples[rows["number"]])
    settings = {"remove_unused_columns": False, "class_weight_power": 1.0}
    loaders = []
    for given in (examples, made):
        trainer = make_trainer(tokenizer, tmp_path, examples=given, settings=settings)
        trainer.train()
        loaders.append(trainer.get_train_dataloader())
    for expected, batch in zip(*loaders, strict=True):
        assert all(torch.equal(batch[name], expected[name]) for name in ("input_ids", "attention_mask", "labels"))


def test_stock_orders_are_stock(tokenizer, tmp_path):
    examples = make_examples(20)
    trainer = make_trainer(tokenizer, tmp_path, examples=examples, settings={"train_sampling_strategy": "sequential"})
    assert rows_of(trainer.get_train_dataloader(), examples) == [
        list(range(8)),
        list(range(8, 16)),
        list(range(16, 20)),
    ]


@pytest.mark.parametrize("kind", ["table", "list", "own collator"])
def test_batches_are_what_the_collator_makes(kind, tokenizer, tmp_path):
    """However they are made: from the table's columns, or row by row where that would not do."""
    examples, collator = make_examples(20), DataCollatorWithPadding(tokenizer)
    given = list(examples) if kind == "list" else examples
    more = {"data_collator": lambda rows: dict(collator(rows))} if kind == "own collator" else {}
    trainer = make_trainer(tokenizer, tmp_path, examples=given, **more)
    loader = trainer.get_train_dataloader()
    order = LengthBucketedBatchSampler([len(row["input_ids"]) for row in examples], 8, seed=42)
    for batch, rows in zip(loader, order, strict=True):
        expected = pad(tokenizer, examples, rows)
        assert set(batch) == set(expected)
        for name, tensor in expected.items():
            assert batch[name].dtype == tensor.dtype and torch.equal(batch[name], tensor)


def test_batches_of_workers_are_the_same(tokenizer, tmp_path):
    examples = make_examples(20)
    of_workers = {"dataloader_num_workers": 2, "dataloader_prefetch_factor": 3, "dataloader_persistent_workers": True}
    loaders = [
        make_trainer(tokenizer, tmp_path, examples=examples, settings=settings).get_train_dataloader()
        for settings in ({}, of_workers)
    ]
    assert (loaders[1].num_workers, loaders[1].prefetch_factor, loaders[1].persistent_workers) == (2, 3, True)
    for ours, theirs in zip(*loaders, strict=True):
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("order", ["group_by_length", "random"])
def test_workers_start_as_the_settings_say(tokenizer, tmp_path, order):
    """In our own batches as in the Trainer's."""
    known = {field.name for field in dataclasses.fields(RnnTrainingArguments)}
    if not {"dataloader_multiprocessing_context", "dataloader_in_order"} <= known:
        pytest.skip("transformers does not know these settings yet")
    of_workers = {"dataloader_multiprocessing_context": "spawn", "dataloader_in_order": False}
    settings = {**of_workers, "dataloader_num_workers": 1, "train_sampling_strategy": order}
    trainer = make_trainer(tokenizer, tmp_path, settings=settings)
    loader = trainer.get_train_dataloader()
    assert loader.multiprocessing_context.get_start_method() == "spawn" and not loader.in_order


def test_predictions_come_back_in_the_order_of_the_texts(tokenizer, tmp_path):
    model, examples = make_model().eval(), make_examples(17, empty=True)
    lengths = [len(row["input_ids"]) for row in examples]
    assert lengths != sorted(lengths) and 0 in lengths, "else any order would pass"
    trainer = make_trainer(tokenizer, tmp_path, model=model, settings={"dataloader_drop_last": True})
    assert trainer.args.train_sampling_strategy == "group_by_length"
    predicted = trainer.predict(examples)
    assert trainer.args.dataloader_drop_last, "which is of training alone, and stays as it was"
    assert predicted.label_ids.tolist() == examples["labels"]
    for row, logits in zip(examples, predicted.predictions, strict=True):
        alone = model(torch.tensor([row["input_ids"]], dtype=torch.long)).logits[0]
        torch.testing.assert_close(torch.from_numpy(logits), alone, atol=1e-6, rtol=0)


def test_a_batch_of_empty_texts_only(tokenizer, tmp_path):
    model = make_model().eval()
    examples = make_examples(2).map(lambda row: {"input_ids": []})
    predicted = make_trainer(tokenizer, tmp_path, model=model).predict(examples)
    alone = model(torch.zeros(1, 0, dtype=torch.long)).logits[0]
    torch.testing.assert_close(torch.from_numpy(predicted.predictions[1]), alone)


def test_a_stream_trains(tokenizer, tmp_path):
    stream = make_examples().to_iterable_dataset()
    trainer = make_trainer(tokenizer, tmp_path, examples=stream, settings={"max_steps": 5})
    before = copy.deepcopy(trainer.model.state_dict())
    trainer.train()
    assert trainer.state.global_step == 5
    assert any(not torch.equal(before[name], value) for name, value in trainer.model.state_dict().items())


# ---- loss ----


def test_weights_against_sklearn():
    counts = [2043, 3094, 863]
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    balanced = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    torch.testing.assert_close(weigh_classes(counts, 1.0), torch.tensor(balanced, dtype=torch.float32))
    assert weigh_classes(counts, 0.0).tolist() == [1, 1, 1]
    half = weigh_classes(counts, 0.5)
    torch.testing.assert_close(half[2] / half[1], torch.tensor((3094 / 863) ** 0.5))
    assert (half * torch.tensor(counts)).sum().item() == pytest.approx(sum(counts), rel=1e-6)


def test_weights_of_a_class_without_rows():
    assert weigh_classes([4, 0, 4], 1.0).tolist() == [1, 1, 1]


def test_training_loss_is_torchs_weighted_smoothed_one(tokenizer, tmp_path):
    examples = make_examples(24)
    settings = {"class_weight_power": 0.5, "label_smoothing_factor": 0.1, "train_sampling_strategy": "sequential"}
    trainer = make_trainer(tokenizer, tmp_path, examples=examples, settings=settings)
    batch = pad(tokenizer, examples, range(8))
    counts = [examples["labels"].count(label) for label in range(CLASSES)]
    assert len(set(counts)) > 1, "else weights are no weights"
    trainer.model.train()
    logits = trainer.model(batch["input_ids"], batch["attention_mask"]).logits
    expected = nn.functional.cross_entropy(
        logits, batch["labels"], weigh_classes(counts, 0.5), reduction="sum", label_smoothing=0.1
    )
    loss = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=torch.tensor(8))
    torch.testing.assert_close(loss, expected / 8)


def test_rows_without_a_label_have_no_part_in_the_loss(tokenizer, tmp_path):
    labels = [-100, 0, 1, 2, 1, 1, 0, -100]
    examples = datasets.Dataset.from_dict({"input_ids": [[2 + row] for row in range(8)], "labels": labels})
    trainer = make_trainer(tokenizer, tmp_path, examples=examples, settings={"class_weight_power": 1.0})
    batch = pad(tokenizer, examples, range(8))
    trainer.model.train()
    logits = trainer.model(batch["input_ids"], batch["attention_mask"]).logits
    expected = nn.functional.cross_entropy(logits, batch["labels"], weigh_classes([2, 3, 1], 1.0), reduction="sum") / 6
    torch.testing.assert_close(trainer.compute_loss(trainer.model, dict(batch)), expected)


@pytest.mark.parametrize("settings", [{}, {"class_weight_power": 0.5}, {"label_smoothing_factor": 0.2}])
def test_accumulated_gradients_are_those_of_one_batch(tokenizer, tmp_path, settings):
    weights = []
    for size, steps in ((8, 1), (2, 4)):
        parts = {"per_device_train_batch_size": size, "gradient_accumulation_steps": steps, "max_steps": 2}
        order = {"train_sampling_strategy": "sequential", "max_grad_norm": 0.0}
        trainer = make_trainer(tokenizer, tmp_path, settings={**settings, **parts, **order})
        trainer.train()
        weights.append(trainer.model.state_dict())
    for name in weights[0]:
        torch.testing.assert_close(weights[0][name], weights[1][name], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", [Trainer, RnnTrainer])
@pytest.mark.parametrize(
    "task",
    [
        {"num_labels": 1},
        {"num_labels": 1, "problem_type": "regression"},
        {"num_labels": 2, "problem_type": "regression"},
        {"num_labels": 2, "problem_type": "multi_label_classification"},
        {"num_labels": 2},  # which float labels make one of many labels
    ],
    ids=str,
)
def test_accumulated_gradients_of_other_tasks(tokenizer, tmp_path, task, kind):
    """Whose losses are means: undivided, the parts would add up to a multiple."""
    examples = make_examples(24)
    targets = [[float(label > 0), float(label > 1)][: task["num_labels"]] for label in examples["labels"]]
    targets = [row[0] for row in targets] if task["num_labels"] == 1 else targets
    examples = datasets.Dataset.from_dict({"input_ids": examples["input_ids"], "labels": targets})
    weights, losses = [], []
    for size, steps in ((8, 1), (2, 4)):
        parts = {"per_device_train_batch_size": size, "gradient_accumulation_steps": steps, "max_steps": 2}
        order = {"train_sampling_strategy": "sequential", "max_grad_norm": 0.0}
        model = make_model(**task)
        settings = {**parts, **order}
        trainer = make_trainer(tokenizer, tmp_path, model=model, examples=examples, settings=settings, kind=kind)
        losses.append(trainer.train().training_loss)
        weights.append(trainer.model.state_dict())
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    for name in weights[0]:
        torch.testing.assert_close(weights[0][name], weights[1][name], atol=1e-6, rtol=1e-5)


def test_evaluation_loss_is_the_plain_one(tokenizer, tmp_path):
    model, examples = make_model().eval(), make_examples(17)
    settings = {"class_weight_power": 1.0, "label_smoothing_factor": 0.3}
    trainer = make_trainer(tokenizer, tmp_path, model=model, settings=settings)
    measured = trainer.evaluate(examples)["eval_loss"]
    logits = torch.cat([model(torch.tensor([row["input_ids"]])).logits for row in examples])
    expected = nn.functional.cross_entropy(logits, torch.tensor(examples["labels"])).item()
    # 17 rows in batches of 5: the last, short batch must count by its rows
    assert measured == pytest.approx(expected, abs=1e-6)


def test_class_weights_need_classes_to_count(tokenizer, tmp_path):
    stream, settings = make_examples().to_iterable_dataset(), {"class_weight_power": 0.5, "max_steps": 1}
    with pytest.raises(UserError, match="which a stream does not tell: give class_counts"):
        make_trainer(tokenizer, tmp_path, examples=stream, settings=settings)
    make_trainer(tokenizer, tmp_path, examples=stream, settings=settings, class_counts=[12, 8, 4]).train()
    with pytest.raises(UserError, match="2 numbers for a model with 3 labels"):
        make_trainer(tokenizer, tmp_path, settings=settings, class_counts=[12, 8])
    with pytest.raises(UserError, match="labels up to 2, and those of the model end with 1: .* num_labels=3"):
        make_trainer(tokenizer, tmp_path, make_model(num_labels=2), settings={"class_weight_power": 0.5})
    with pytest.raises(UserError, match="one label each"):
        model = make_model(problem_type="multi_label_classification")
        make_trainer(tokenizer, tmp_path, model=model, settings={"class_weight_power": 0.5})


def test_who_only_evaluates_needs_no_classes_to_count(tokenizer, tmp_path):
    model, examples = make_model(), make_examples(9)
    args = RnnTrainingArguments(str(tmp_path), class_weight_power=0.5, use_cpu=True, report_to="none")
    found = RnnTrainer(model, args, eval_dataset=examples, processing_class=tokenizer).evaluate()["eval_loss"]
    batch = pad(tokenizer, examples, range(9))
    expected = nn.functional.cross_entropy(model.eval()(**batch).logits, batch["labels"]).item()
    assert found == pytest.approx(expected, abs=1e-6)


def test_class_weights_count_the_labels_by_either_name(tokenizer, tmp_path):
    settings, found = {"class_weight_power": 1.0, "num_train_epochs": 1}, []
    examples = make_examples(24)
    for rows in (examples, examples.rename_column("labels", "label"), list(examples)):
        trainer = make_trainer(tokenizer, tmp_path, examples=rows, settings=settings)
        trainer.train()
        found.append(trainer.model.state_dict())
    for other in found[1:]:
        torch.testing.assert_close(other, found[0])
    with pytest.raises(UserError, match="no column labels; they have input_ids, class"):
        make_trainer(tokenizer, tmp_path, examples=examples.rename_column("labels", "class"), settings=settings)


@pytest.mark.parametrize("setting", ["class_weight_power", "label_smoothing_factor"])
@pytest.mark.parametrize("declared", [None, "regression"])
def test_other_tasks_have_neither_class_weights_nor_smoothing(tokenizer, tmp_path, setting, declared):
    """Cross-entropy would take their numbers for probabilities and train on, by another loss than is evaluated."""
    targets = [[float(label > 0), float(label > 1), 1.0] for label in make_examples(24)["labels"]]
    examples = datasets.Dataset.from_dict({"input_ids": make_examples(24)["input_ids"], "labels": targets})
    model = make_model(problem_type=declared)
    with pytest.raises(UserError, match=f"{setting}.* one label each.* to 0"):
        make_trainer(tokenizer, tmp_path, model=model, examples=examples, settings={setting: 0.1}).train()


def test_a_loss_of_the_callers_own_is_left_alone(tokenizer, tmp_path):
    def constant(outputs, labels, num_items_in_batch=None):
        return outputs["logits"].sum() * 0 + 7

    trainer = make_trainer(
        tokenizer,
        tmp_path,
        settings={"class_weight_power": 0.5},
        compute_loss_func=constant,
        eval_dataset=make_examples(5),
    )
    assert trainer.evaluate()["eval_loss"] == 7


class SevenTrainer(RnnTrainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        loss = loss * 0 + 7
        return (loss, outputs) if return_outputs else loss


def test_a_loss_of_the_callers_own_is_left_alone_in_several_processes(tokenizer, tmp_path, monkeypatch):
    def constant(outputs, labels, num_items_in_batch=None):
        return outputs["logits"].sum() * 0 + 7

    trainers = [
        make_trainer(tokenizer, tmp_path, eval_dataset=make_examples(5), **more)
        for more in ({"compute_loss_func": constant}, {"kind": SevenTrainer})
    ]
    monkeypatch.setattr(RnnTrainingArguments, "world_size", 2)  # as far as the loss of an evaluation asks
    assert [trainer.evaluate()["eval_loss"] for trainer in trainers] == [7, 7]


@pytest.mark.parametrize("hidden", [False, True])
def test_the_loss_of_several_processes_is_of_each_row_once(tokenizer, tmp_path, monkeypatch, hidden):
    """Batches of 5 and 2 rows, as if another process had filled up the second: the mean is over rows, not batches."""
    examples, model = make_examples(7), make_model(output_hidden_states=hidden)
    batch = pad(tokenizer, examples, range(7))
    expected = nn.functional.cross_entropy(model.eval()(**batch).logits, batch["labels"]).item()
    trainer = make_trainer(tokenizer, tmp_path, model=model, eval_dataset=examples)
    trainer.gather_function = lambda values: values  # drops nothing
    monkeypatch.setattr(RnnTrainingArguments, "world_size", 2)
    loop = trainer.evaluation_loop(trainer.get_eval_dataloader(), "Evaluation")
    assert len(loop.label_ids) == 7 and loop.metrics["eval_loss"] == pytest.approx(expected, abs=1e-6)


# ---- sparse gradients ----


def test_norm_and_clipping_against_torchs_on_dense_gradients():
    ids = torch.tensor([1, 3, 3, 5, 1])  # rows touched twice: norms of the uncoalesced entries would be wrong
    results = []
    for sparse in (False, True):
        torch.manual_seed(0)
        embedding, linear = nn.Embedding(8, 4, sparse=sparse), nn.Linear(4, 2)
        (linear(embedding(ids)) ** 2).sum().backward()
        parameters = [*embedding.parameters(), *linear.parameters()]
        clip = clip_grad_norm if sparse else nn.utils.clip_grad_norm_
        norm = clip(iter(parameters), 0.5)
        assert norm > 0.5, "else nothing is clipped"
        results.append([norm, *(parameter.grad.to_dense() for parameter in parameters)])
    for dense, sparse in zip(*results, strict=True):
        torch.testing.assert_close(dense, sparse)


@pytest.mark.parametrize("max_grad_norm", [0.0, 0.05])
@pytest.mark.parametrize("optim", ["sgd", "adagrad"])
def test_sparse_training_equals_dense(tokenizer, tmp_path, max_grad_norm, optim):
    runs = []
    for sparse in (False, True):
        settings = {"max_grad_norm": max_grad_norm, "optim": optim, "gradient_accumulation_steps": 2}
        trainer = make_trainer(tokenizer, tmp_path, model=make_model(sparse_embedding=sparse), settings=settings)
        trainer.train()
        runs.append(trainer)
    for (name, dense), sparse in zip(runs[0].model.named_parameters(), runs[1].model.parameters(), strict=True):
        torch.testing.assert_close(dense, sparse, msg=name)
    logged = [[entry["grad_norm"] for entry in run.state.log_history if "grad_norm" in entry] for run in runs]
    assert logged[0] == pytest.approx(logged[1]) and logged[0][0] > 0.05


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"optim": "adafactor"}, "optim 'adafactor' does not take"), ({"weight_decay": 0.1}, "weight_decay 0.1")],
)
def test_what_does_not_take_sparse_gradients_is_refused(tokenizer, tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        make_trainer(tokenizer, tmp_path, model=make_model(sparse_embedding=True), settings=settings)
    make_trainer(
        tokenizer, tmp_path, model=make_model(sparse_embedding=True, freeze_embedding=True), settings=settings
    ).train()


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_torch_fused"])
def test_sparse_gradients_take_adaptive_steps(tokenizer, tmp_path, optim):
    """Two runs from the same weights; in the batches every word but the padding stands, so that lazy is not lazy."""
    everyone = datasets.Dataset.from_dict({"input_ids": [[0, *range(2, 22)]] * 12, "labels": [0, 1, 2, 0] * 3})
    settings = {
        "optim": optim, "learning_rate": 0.01, "weight_decay": 0.1, "max_grad_norm": 0.05,
        "gradient_accumulation_steps": 2, "per_device_train_batch_size": 2, "lr_scheduler_type": "linear",
    }  # fmt: skip
    runs = []
    for sparse in (False, True):
        model = make_model(sparse_embedding=sparse)
        runs.append(make_trainer(tokenizer, tmp_path, model=model, examples=everyone, settings=settings))
        runs[-1].train()
    kinds = [type(run.optimizer.optimizer) for run in runs]
    assert kinds == [torch.optim.AdamW, LazyAdamW]
    for (name, dense), sparse in zip(runs[0].model.named_parameters(), runs[1].model.parameters(), strict=True):
        torch.testing.assert_close(dense, sparse, atol=1e-6, rtol=1e-5, msg=name)
    logged = [[entry["grad_norm"] for entry in run.state.log_history if "grad_norm" in entry] for run in runs]
    assert logged[0] == pytest.approx(logged[1], rel=1e-4) and logged[0][0] > 0.05, "else nothing was clipped"


def test_an_optimizer_of_the_callers_own_is_left_alone(tokenizer, tmp_path):
    model = make_model(sparse_embedding=True)
    own = torch.optim.SGD(model.parameters(), lr=0.1)
    settings = {"optim": "adamw_torch", "embedding_learning_rate": 0.5}
    trainer = make_trainer(tokenizer, tmp_path, model=model, settings=settings, optimizers=(own, None))
    trainer.train()
    assert trainer.optimizer.optimizer is own
    assert [group["lr"] for group in own.param_groups] == [0.1]


@pytest.mark.parametrize("average", [True, False])
def test_the_loss_of_replicas_on_two_devices(tokenizer, tmp_path, monkeypatch, average):
    """What the Trainer makes of the number of rows and of the loss is for replicas; this one is of all rows."""
    losses = []
    for devices in (1, 2):
        settings = {"class_weight_power": 1.0, "average_tokens_across_devices": average}
        trainer = make_trainer(tokenizer, tmp_path, settings=settings)
        monkeypatch.setattr(type(trainer.args), "n_gpu", property(lambda _, devices=devices: devices))
        batch = pad(tokenizer, make_examples(), range(8))
        _, rows = trainer.get_batch_samples(iter([batch]), 1, torch.device("cpu"))
        losses.append(trainer.compute_loss(trainer.model.train(), batch, num_items_in_batch=rows).mean().item())
    assert losses[0] == pytest.approx(losses[1]) and losses[0] > 0.1


def test_a_signal_of_a_run_before_stops_no_other(tokenizer, tmp_path):
    trainer = make_trainer(tokenizer, tmp_path)
    trainer.stop_request.number = 15  # left by a `with` that is over
    try:
        trainer.train()
    except TrainingStopped:  # a KeyboardInterrupt, which would end all tests
        pytest.fail("it was stopped")
    assert trainer.state.global_step == 3


# ---- reports ----


def test_train_accuracy_is_that_of_the_texts_trained_on(tokenizer, tmp_path):
    """At a rate of 0 the model stays what it was, so each epoch's accuracy is the model's own."""
    model, examples = make_model(), make_examples(45)
    trainer = make_trainer(
        tokenizer, tmp_path, model=model, examples=examples, settings={"learning_rate": 0.0, "num_train_epochs": 2}
    )
    trainer.train()
    model.eval()
    right = [model(torch.tensor([row["input_ids"]])).logits.argmax().item() == row["labels"] for row in examples]
    logged = [entry["train_accuracy"] for entry in trainer.state.log_history if "train_accuracy" in entry]
    assert logged == pytest.approx([sum(right) / 45] * 2)
    assert 0 < sum(right) < 45


@pytest.mark.parametrize("disable_tqdm", [True, False])
def test_lines_go_to_stderr_and_nothing_to_stdout(tokenizer, tmp_path, capfd, disable_tqdm):
    settings = {"num_train_epochs": 2, "eval_strategy": "epoch", "disable_tqdm": disable_tqdm}

    def accuracy(predicted):
        return {"accuracy": float((predicted.predictions.argmax(-1) == predicted.label_ids).mean())}

    trainer = make_trainer(
        tokenizer, tmp_path, settings=settings, eval_dataset=make_examples(9), compute_metrics=accuracy
    )
    trainer.train()
    trainer.evaluate()
    out, err = capfd.readouterr()
    assert out == ""
    lines = [line for line in err.splitlines() if line.startswith("epoch ")]
    assert len(lines) == 2
    train, evaluation = trainer.state.log_history[0], trainer.state.log_history[1]
    assert lines[0] == (
        f"epoch 1/2  loss {train['loss']:.3f}  train accuracy {train['train_accuracy']:.3f}"
        f"  validation accuracy {evaluation['eval_accuracy']:.3f}  validation loss {evaluation['eval_loss']:.3f}"
    )


def test_a_notebook_shows_its_table_alone_or_nothing(tokenizer, tmp_path, capfd, monkeypatch):
    class Table(TrainerCallback):  # transformers' own needs IPython
        shown = 0

        def on_evaluate(self, *args, **kwargs):
            Table.shown += 1

    monkeypatch.setattr("transformers.trainer.DEFAULT_PROGRESS_CALLBACK", Table)
    for disable_tqdm, silent, shown, lines in ((False, False, 1, 0), (True, False, 0, 1), (False, True, 0, 0)):
        Table.shown = 0
        settings = {"eval_strategy": "epoch", "disable_tqdm": disable_tqdm}
        trainer = make_trainer(tokenizer, tmp_path, settings=settings, eval_dataset=make_examples(9))
        if silent:
            trainer.silence()
        trainer.train()
        assert (Table.shown, capfd.readouterr().err.count("epoch 1/1  loss")) == (shown, lines)


def test_a_silent_run_stays_silent_when_it_goes_on(tokenizer, tmp_path, capfd):
    for epochs in (1, 2):
        settings = {"num_train_epochs": epochs, "save_strategy": "epoch"}
        trainer = make_trainer(tokenizer, tmp_path, settings=settings)
        if epochs == 2:
            trainer.silence()
        trainer.train(epochs == 2)
    assert trainer.state.global_step == 6, "premise: 3 steps an epoch"
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("epoch ")]
    assert [line.split("  ")[0] for line in lines] == ["epoch 1/1"], "that of the run before"


@pytest.mark.parametrize(
    ("own", "told"),
    [
        ({}, r"  validation loss \d\.\d+"),
        ({"acc": 0.5}, r"  validation acc 0\.500  validation loss \d\.\d+"),
        ({"f": 0.25, "accuracy": 0.5}, r"  validation accuracy 0\.500  validation loss \d\.\d+  f 0\.250"),
    ],
)
def test_a_line_with_scores_of_the_callers_own(tokenizer, tmp_path, capfd, own, told):
    further = {"eval_dataset": make_examples(9), "compute_metrics": (lambda predicted: own) if own else None}
    make_trainer(tokenizer, tmp_path, settings={"eval_strategy": "epoch"}, **further).train()
    (line,) = (line for line in capfd.readouterr().err.splitlines() if line.startswith("epoch "))
    assert re.search(r"train accuracy \d\.\d+" + told + "$", line)


def test_a_line_of_each_data_set_has_its_scores(tokenizer, tmp_path, capfd):
    sets = {"easy": make_examples(9), "hard": make_examples(7, seed=1)}
    make_trainer(tokenizer, tmp_path, settings={"eval_strategy": "epoch"}, eval_dataset=sets).train()
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("epoch ")]
    for line, name in zip(lines, sets, strict=True):
        assert re.search(rf"train accuracy \d\.\d+  validation {name}_loss \d\.\d+$", line)


def test_lines_without_evaluation_and_of_a_stream(tokenizer, tmp_path, capfd):
    make_trainer(tokenizer, tmp_path).train()
    assert "epoch 1/1  loss" in capfd.readouterr().err
    settings = {"max_steps": 4, "logging_strategy": "steps", "logging_steps": 2}
    make_trainer(tokenizer, tmp_path, examples=make_examples().to_iterable_dataset(), settings=settings).train()
    err = capfd.readouterr().err
    assert "step 2/4  loss" in err and "step 4/4  loss" in err


# at a rate of 0 nothing gets better: the first measurement is the best
STALE = {"learning_rate": 0.0, "num_train_epochs": 9, "eval_strategy": "epoch", "metric_for_best_model": "loss"}


def test_early_stopping(tokenizer, tmp_path):
    settings = {**STALE, "early_stopping_patience": 2}
    trainer = make_trainer(tokenizer, tmp_path, settings=settings, eval_dataset=make_examples(9))
    for _ in range(2):
        trainer.train()
        assert trainer.state.epoch == 3, "two more are waited for, in a second run too"
    never = make_trainer(
        tokenizer, tmp_path, settings={**settings, "early_stopping_patience": 0}, eval_dataset=make_examples(9)
    )
    never.train()
    assert never.state.epoch == 9


# ---- resuming ----


class StopAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            control.should_save = control.should_training_stop = True


@pytest.mark.parametrize(
    ("step", "sparse", "more"),  # within the second and third epoch of 3 steps, and at the second's end
    [
        (4, False, {}),
        (7, False, {}),
        (6, False, {}),
        (7, True, {}),
        (4, False, {"tokens_per_batch": 90}),
        (6, False, {"tokens_per_batch": 90}),
        (7, False, {"tokens_per_batch": 56, "gradient_accumulation_steps": 2}),
    ],
)
def test_a_resumed_run_is_the_run_that_never_stopped(tokenizer, tmp_path, step, sparse, more):
    settings = {"num_train_epochs": 4, "eval_strategy": "epoch", "class_weight_power": 0.5}
    settings |= {"optim": "adamw_torch_fused", "learning_rate": 0.01} if sparse else {}
    settings |= {"save_strategy": "no" if step % 3 else "epoch", **more}
    dropout = {"word_dropout": 0.2, "embedding_dropout": 0.2, "recurrent_dropout": 0.2}

    def run(folder, callbacks=(), resume=None):
        torch.manual_seed(1)
        trainer = make_trainer(
            tokenizer,
            folder,
            make_model(**dropout, sparse_embedding=sparse),
            settings=settings,
            eval_dataset=make_examples(9),
            callbacks=list(callbacks),
        )
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole = run(tmp_path / "whole")
    assert whole.state.global_step == 4 * 3, "premise: 3 steps an epoch"
    run(tmp_path / "cut", [StopAt(step)] if step % 3 else [])
    resumed = run(tmp_path / "cut", resume=str(tmp_path / "cut" / f"checkpoint-{step}"))
    for (name, expected), found in zip(whole.model.named_parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(expected, found), name
    logged = [
        {entry["epoch"]: entry["train_accuracy"] for entry in trainer.state.log_history if "train_accuracy" in entry}
        for trainer in (whole, resumed)
    ]
    assert logged[0] == logged[1] and list(logged[0]) == [1, 2, 3, 4]


@pytest.mark.parametrize("step", [4, 6])  # within the second epoch of 3 steps, and at its end
def test_log_lines_go_on_with_the_trainers_own_arguments(tokenizer, tmp_path, step):
    """Which leave the states of callbacks alone: the loss of all steps since the start was that of a few."""

    def run(resume=None):
        settings = {"per_device_train_batch_size": 8, "num_train_epochs": 3, "logging_strategy": "epoch"}
        settings |= {"save_steps": step, "report_to": "none", "use_cpu": True}
        args = TrainingArguments(str(tmp_path), **settings)
        assert not args.restore_callback_states_from_checkpoint, "premise"
        trainer = RnnTrainer(make_model(), args, train_dataset=make_examples(), processing_class=tokenizer)
        trainer.train(resume)
        return [{name: entry.get(name) for name in LOGGED} for entry in trainer.state.log_history]

    whole = run()
    assert [entry["epoch"] for entry in whole] == [1, 2, 3, 3], "premise: an epoch a line, then the run"
    assert run(str(tmp_path / f"checkpoint-{step}")) == whole


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(make_examples())


class CountedStream(Stream):
    def __len__(self):
        return len(make_examples())


@pytest.mark.parametrize("stream", [Stream, CountedStream])
def test_a_stream_goes_on_in_its_place_where_it_has_a_length(tokenizer, tmp_path, caplog, stream):
    """Stopped after 4 of 9 steps, in the second epoch of 3; without a length that is told, before the first step."""
    settings = {"max_steps": 9, "save_strategy": "steps", "save_steps": 4, "train_sampling_strategy": "sequential"}

    def run(folder, resume=None):
        trainer = make_trainer(tokenizer, folder, examples=stream(), settings=settings)
        trainer.train(resume_from_checkpoint=resume)
        return trainer.model.state_dict()

    whole = run(tmp_path)
    assert not caplog.messages
    again = run(tmp_path, str(tmp_path / "checkpoint-4"))
    same = all(torch.equal(whole[name], weight) for name, weight in again.items())
    told = any("a stream that has no length" in message for message in caplog.messages)
    assert (same, told) == ((True, False) if stream is CountedStream else (False, True))


def test_a_resumed_run_is_as_patient_as_it_is_told_now(tokenizer, tmp_path):
    for patience, resume, epochs in ((1, None, 2), (3, True, 4)):
        settings = {**STALE, "early_stopping_patience": patience, "save_strategy": "epoch"}
        trainer = make_trainer(tokenizer, tmp_path, settings=settings, eval_dataset=make_examples(9))
        trainer.train(resume_from_checkpoint=resume)
        assert trainer.state.epoch == epochs


def test_a_run_that_ended_within_an_epoch_takes_no_step_more(tokenizer, tmp_path):
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    for resume in (None, True):
        trainer = make_trainer(tokenizer, tmp_path, settings=settings)
        trainer.train(resume_from_checkpoint=resume)
        assert trainer.state.global_step == 4


def test_a_last_step_within_an_epoch_is_saved_after_its_evaluation(tokenizer, tmp_path):
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "eval_strategy": "epoch"}
    make_trainer(tokenizer, tmp_path, settings=settings, eval_dataset=make_examples(9)).train()
    state = json.loads((tmp_path / "checkpoint-4" / "trainer_state.json").read_text())
    assert [entry["step"] for entry in state["log_history"] if "eval_loss" in entry] == [3, 4]


def test_the_best_checkpoint_is_found_where_the_folder_is_now(tokenizer, tmp_path):
    settings = {**STALE, "num_train_epochs": 4, "save_strategy": "epoch", "load_best_model_at_end": True}
    make_trainer(tokenizer, tmp_path / "old", settings=settings, eval_dataset=make_examples(9)).train()
    (tmp_path / "old").rename(tmp_path / "new")
    trainer = make_trainer(tokenizer, tmp_path / "new", settings=settings, eval_dataset=make_examples(9))
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.best_model_checkpoint == str(tmp_path / "new" / "checkpoint-3")


def test_a_checkpoint_has_nothing_of_one_that_was_gone_back_from(tokenizer, tmp_path):
    left = tmp_path / "checkpoint-3" / "rng_state_1.pth"
    left.parent.mkdir()
    left.write_bytes(b"of two processes")
    make_trainer(tokenizer, tmp_path, settings={"save_strategy": "epoch"}).train()
    assert (left.parent / "manifest.json").is_file() and not left.exists()


def test_a_run_goes_on_from_a_checkpoint_on_the_hub(tokenizer, tmp_path, hub):
    settings = {"push_to_hub": True, "hub_model_id": "me/run", "hub_strategy": "checkpoint", "save_strategy": "epoch"}
    first = make_trainer(tokenizer, tmp_path / "here", settings=settings)
    first.train()
    folder = snapshot_download("me/run", allow_patterns="last-checkpoint/*", local_dir=tmp_path / "there")
    second = make_trainer(tokenizer, tmp_path / "there", settings={"num_train_epochs": 2})
    second.train(resume_from_checkpoint=f"{folder}/last-checkpoint")
    assert second.state.global_step == 2 * first.state.global_step


def test_whoever_may_read_a_checkpoints_configuration_may_read_its_weights(tokenizer, tmp_path):
    """On a folder that a group shares; safetensors 0.8 writes for its user alone."""
    trainer = make_trainer(tokenizer, tmp_path, settings={"save_strategy": "epoch", "num_train_epochs": 1})
    trainer.train()
    (weights,) = tmp_path.rglob("model.safetensors")
    assert weights.stat().st_mode == weights.with_name("config.json").stat().st_mode


def test_no_pickle_of_the_arguments_is_left(tokenizer, tmp_path):
    trainer = make_trainer(tokenizer, tmp_path, settings={"save_strategy": "epoch"})
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    assert (tmp_path / "saved" / "config.json").is_file()
    assert not list(tmp_path.rglob("training_args.bin"))


# ---- whole steps ----


@pytest.mark.filterwarnings("error:.*lr_scheduler.step.*")
@pytest.mark.parametrize("max_grad_norm", [0.0, 0.05, 1e9])
def test_steps_are_those_of_a_loop_by_hand(max_grad_norm, tokenizer, tmp_path):
    """Clipping, a falling rate and AdamW, in plain torch over batches of the collator."""
    examples, model = make_examples(24), make_model(embedding_dropout=0.0, word_dropout=0.0)
    by_hand = copy.deepcopy(model).train()
    settings = {
        "optim": "adamw_torch_fused",
        "learning_rate": 0.02,
        "lr_scheduler_type": "linear",
        "max_grad_norm": max_grad_norm,
        "num_train_epochs": 2,
    }
    make_trainer(tokenizer, tmp_path, model, examples, settings).train()

    optimizer = torch.optim.AdamW(by_hand.parameters(), lr=0.02, weight_decay=0, fused=True)
    order = LengthBucketedBatchSampler([len(row["input_ids"]) for row in examples], 8, seed=42)
    norms = []
    for step in range(6):
        order.set_epoch(step // 3)
        batch = pad(tokenizer, examples, list(order)[step % 3])
        optimizer.param_groups[0]["lr"] = 0.02 * (1 - step / 6)
        optimizer.zero_grad()
        nn.functional.cross_entropy(
            by_hand(batch["input_ids"], batch["attention_mask"]).logits, batch["labels"]
        ).backward()
        norms.append(nn.utils.clip_grad_norm_(by_hand.parameters(), max_grad_norm or float("inf")))
        optimizer.step()
    assert min(norms) > 0.05, "premise: the smallest bound clips"
    for (name, ours), theirs in zip(model.named_parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4, msg=name)


def test_noise_on_the_token_vectors_is_of_the_size_asked_for(tokenizer, tmp_path):
    """NEFTune (Jain et al. 2023): uniform, at most alpha / sqrt(T * E) for texts of T tokens, whatever the batch."""
    model, largest = make_model(), []
    trainer = make_trainer(tokenizer, tmp_path, model, settings={"neftune_noise_alpha": 5.0})

    def measure(module, given, vectors):
        noise = (vectors - nn.functional.embedding(given[0], module.weight)).detach().abs().max()
        largest.append(noise.item() / (5 / vectors[0].numel() ** 0.5))

    class Measure(TrainerCallback):
        def on_train_begin(self, *args, model, **kwargs):  # by when the noise is on
            model.get_input_embeddings().register_forward_hook(measure)

    trainer.add_callback(Measure)
    trainer.train()
    assert len(largest) == trainer.state.global_step
    assert all(0.9 < share <= 1 for share in largest), largest


@pytest.mark.parametrize("settings", [{}, {"label_smoothing_factor": 0.1}])
def test_a_configuration_that_asks_for_tuples(tokenizer, tmp_path, settings):
    model = make_model(return_dict=False)
    assert isinstance(model(torch.tensor([[2, 3]])), tuple), "premise"
    trainer = make_trainer(tokenizer, tmp_path, model, settings=settings)
    trainer.train()
    assert trainer.predict(make_examples()).predictions.shape == (24, CLASSES)


class OwnForward(RnnForSequenceClassification):
    def forward(self, input_ids, attention_mask=None, labels=None):
        return super().forward(input_ids, attention_mask, labels)


@pytest.mark.parametrize("kind", [Trainer, RnnTrainer])
def test_a_subclass_whose_forward_takes_no_further_keywords(kind, tokenizer, tmp_path):
    """Its loss is the mean of a batch, so that two of 4 rows are one of 8."""
    settings = {"train_sampling_strategy": "sequential", "max_grad_norm": 0}
    own, plain = OwnForward(make_model().config), make_model()
    own.load_state_dict(plain.state_dict())
    parts = {**settings, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    make_trainer(tokenizer, tmp_path, own, settings=parts, kind=kind).train()
    make_trainer(tokenizer, tmp_path, plain, settings=settings, kind=kind).train()
    for ours, theirs in zip(own.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
