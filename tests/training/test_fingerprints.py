"""What a run was made from: whatever changes its steps changes a fingerprint, and nothing else does."""

import copy
import hashlib
import json

import datasets
import pytest
import torch
from datasets import Dataset
from transformers import ByT5Tokenizer

from hf_rnn import RnnConfig
from hf_rnn.tokenizers.word_level import train_tokenizer
from hf_rnn.training.arguments.run_arguments import parse_settings
from hf_rnn.training.arguments.training_arguments import RnnTrainingArguments
from hf_rnn.training.checkpointing.fingerprints import compare, hash_tokenizer, take_fingerprints
from hf_rnn.utils.errors import UserError

TRAIN, VALIDATION = [([2, 3, 4], 0), ([5], 1)], [([6, 2], 0)]


def table(rows):
    return Dataset.from_dict({"input_ids": [ids for ids, _ in rows], "labels": [label for _, label in rows]})


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["a b c d"] * 3)


@pytest.fixture
def take(tokenizer, tiny_settings):
    """Fingerprints of a run like any other, but for what is given."""

    def taken(examples=None, config=None, given=tokenizer, settings=None, **further):
        arguments = parse_settings({**tiny_settings, "output_dir": "out", **(settings or {})})
        examples = {"train": table(TRAIN), "validation": table(VALIDATION)} if examples is None else examples
        return take_fingerprints(examples, given, config or RnnConfig(vocab_size=7), arguments.training, **further)

    return taken


@pytest.fixture
def changes(take, tmp_path):
    """What differs from a run like any other, in words."""
    return lambda *given, **named: compare(tmp_path, take(), take(*given, **named))


def test_a_tokenizer_has_the_hash_that_earlier_checkpoints_keep(tokenizer):
    """Spelt out as it was when they were written: another one would keep all of them from being gone on from."""
    used = copy.deepcopy(tokenizer)
    used(["a b", "c"], padding=True, truncation=True, max_length=1)
    rules = json.loads(used.backend_tokenizer.to_str())
    assert rules.pop("padding") and rules.pop("truncation"), "premise: the call leaves how it cut and padded"
    rules["split_special_tokens"] = True
    expected = hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()
    assert hash_tokenizer(used) == hash_tokenizer(tokenizer) == expected


@pytest.mark.parametrize(
    ("train", "validation"),
    [
        ([([2, 3, 4], 0), ([5], 0)], VALIDATION),
        ([([2, 3, 5], 0), ([5], 1)], VALIDATION),
        ([([2, 3], 0), ([4, 5], 1)], VALIDATION),
        ([([5], 1), ([2, 3, 4], 0)], VALIDATION),
        (TRAIN, [([6, 2], 1)]),
        (TRAIN, [([2, 6], 0)]),
        (TRAIN, None),
    ],
    ids=["label", "token", "border", "order", "label to validate", "token to validate", "none to validate"],
)
def test_every_row_counts(changes, train, validation):
    examples = {"train": table(train)} | ({} if validation is None else {"validation": table(validation)})
    assert changes(examples) == ["the texts or their labels"]


def test_it_is_the_rows_that_count_and_not_how_they_lie(changes):
    """In pieces, behind indices, with another column."""
    train = datasets.concatenate_datasets([table(TRAIN[:1]), table(TRAIN[1:])])
    validation = table([([9], 1), *VALIDATION]).select([1]).add_column("text", ["x"])
    assert changes({"train": train, "validation": validation}) == []


def test_test_rows_count(take, tmp_path):
    """But not against a checkpoint of an earlier version, which does not keep them."""
    splits = {"train": table(TRAIN), "validation": table(VALIDATION)}
    before = take({**splits, "test": table(TRAIN)})
    same, other, none = (take({**splits, **test}) for test in ({"test": table(TRAIN)}, {"test": table(TRAIN[:1])}, {}))
    assert compare(tmp_path, before, same) == []
    assert compare(tmp_path, before, other) == compare(tmp_path, before, none) == ["the test texts or their labels"]
    del before["test"]
    assert compare(tmp_path, before, other) == []


def test_a_stream_is_what_it_says_that_it_is(take, tmp_path):
    examples = {"train": table(TRAIN).to_iterable_dataset(), "validation": table(VALIDATION)}
    one, same, other = (take(examples, stream=name) for name in ("1", "1", "2"))
    assert compare(tmp_path, one, same) == []
    assert compare(tmp_path, one, other) == ["the texts or their labels"]
    assert compare(tmp_path, take(stream="1"), take(stream="2")) == [], "rows of a table are known themselves"


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("vectors", "the pretrained vectors"),
        ("start", "the model that it goes on from"),
        ("teacher", "the answers of the teacher"),
    ],
)
def test_what_it_starts_from_and_learns_from_counts(take, changes, tmp_path, name, meaning):
    assert changes(**{name: "one"}) == [meaning]
    assert compare(tmp_path, take(**{name: "one"}), take(**{name: "two"})) == [meaning]
    assert compare(tmp_path, take(**{name: "one"}), take(**{name: "one"})) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("data_seed", 7),
        ("learning_rate", 0.5),
        ("per_device_train_batch_size", 4),
        ("gradient_accumulation_steps", 2),
        ("num_train_epochs", 9),
        ("max_grad_norm", 0.5),
        ("train_sampling_strategy", "random"),
        ("dataloader_drop_last", True),
        ("tokens_per_batch", 100),
        ("class_weight_power", 0.25),
        ("embedding_learning_rate", 0.5),
        ("accelerator_config", {"use_seedable_sampler": False}),
    ],
)
def test_a_setting_of_the_steps_counts(changes, name, value):
    (told,) = changes(settings={name: value})
    assert told.startswith(f"{name} (was ")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("output_dir", "elsewhere"),
        ("overwrite_output_dir", True),
        ("save_total_limit", 9),
        ("run_name", "second"),
        ("disable_tqdm", True),
        ("log_level", "error"),
        ("push_to_hub", True),
        ("hub_model_id", "me/films"),
        ("language", ["en"]),
        ("license", "mit"),
        ("tags", ["films"]),
        ("card_examples", False),
        ("baselines", False),
        ("calibrate", True),
        ("dataloader_num_workers", 2),
        ("ddp_timeout", 9),
        ("accelerator_config", {"non_blocking": True}),
        ("resume", True),
    ],
)
def test_a_setting_of_no_step_does_not_count(changes, tiny_settings, name, value):
    base = parse_settings({**tiny_settings, "output_dir": "out"}).training
    assert getattr(base, name) != value, "premise"
    assert changes(settings={name: value}) == []


def test_where_it_reports_and_what_its_settings_came_from_does_not_count(tokenizer, tiny_settings, tmp_path):
    settings = parse_settings({**tiny_settings, "output_dir": "out"}).training
    given = {"train": table(TRAIN)}, tokenizer, RnnConfig(), settings
    before = take_fingerprints(*given)
    settings.report_to, settings.recipe = ["tensorboard"], "another"
    assert compare(tmp_path, before, take_fingerprints(*given)) == []


def test_workers_share_a_stream_out_each_in_its_way(tokenizer, tiny_settings, tmp_path):
    taken = []
    for workers in (0, 2):
        settings = parse_settings({**tiny_settings, "output_dir": "out", "dataloader_num_workers": workers}).training
        stream = {"train": table(TRAIN).to_iterable_dataset()}
        taken.append(take_fingerprints(stream, tokenizer, RnnConfig(), settings, stream="these"))
    assert compare(tmp_path, *taken) == ["dataloader_num_workers (was 0, now 2)"]


def test_settings_beside_those_of_the_training_count(take, tmp_path):
    one, other = (take(further_settings={"temperature": value}) for value in (1.0, 2.0))
    assert compare(tmp_path, one, other) == ["temperature (was 1.0, now 2.0)"]


def test_how_many_processes_there_are_and_on_what_counts(tokenizer, tiny_settings, monkeypatch, tmp_path):
    settings = parse_settings({**tiny_settings, "output_dir": "out"}).training

    def taken():
        return take_fingerprints({"train": table(TRAIN)}, tokenizer, RnnConfig(), settings)

    before = taken()
    monkeypatch.setattr(RnnTrainingArguments, "world_size", 2)
    assert compare(tmp_path, before, taken()) == ["processes (was 1, now 2)"]
    monkeypatch.undo()
    monkeypatch.setattr(RnnTrainingArguments, "device", torch.device("meta"))
    assert compare(tmp_path, before, taken()) == ['device (was "cpu", now "meta")']


def test_the_architecture_counts_and_the_version_of_transformers_does_not(take, changes, monkeypatch, tmp_path):
    assert changes(config=RnnConfig(vocab_size=7, word_dropout=0.25)) == ["word_dropout (was 0.0, now 0.25)"]
    before = take()
    monkeypatch.setattr("transformers.configuration_utils.__version__", "4.0.0")
    assert RnnConfig().to_dict()["transformers_version"] == "4.0.0", "premise"
    assert compare(tmp_path, before, take()) == []


# ---- telling ----


def test_what_only_one_of_the_two_knows_is_not_compared(take, tmp_path):
    before, now = take(), take()
    del before["settings"]["weight_decay"], before["config"]["word_dropout"]
    now["settings"]["of_the_next_version"] = now["config"]["of_the_next_version"] = 1
    assert compare(tmp_path, before, now) == []
    del before["settings"], before["config"]
    assert compare(tmp_path, before, take(settings={"tokens_per_batch": 100})) == [], "nothing is known of them"


def test_a_checkpoint_that_knows_nothing_is_not_gone_on_from(take, tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path} does not say what it was made from: .*--overwrite_output_dir"):
        compare(tmp_path, {}, take())


def test_all_that_differs_is_told_by_name_and_shortly(take, tmp_path):
    before, now = take(), take({"train": table(VALIDATION)}, settings={"max_grad_norm": 9, "learning_rate": 0.5})
    now["config"]["id2label"] = {str(number): "label" for number in range(50)}
    data, labels, *settings = compare(tmp_path, before, now)
    assert data == "the texts or their labels"
    assert labels.startswith("id2label (was {") and labels.endswith("...)") and len(labels) < 150
    assert [told.split(" (was ")[0] for told in settings] == ["learning_rate", "max_grad_norm"]


# ---- the tokenizer ----


def test_calls_do_not_change_a_tokenizer_and_words_and_rules_do(tokenizer, changes):
    known = hash_tokenizer(tokenizer)
    used = copy.deepcopy(tokenizer)
    used(["a", "a b c d"], padding="max_length", max_length=3, truncation=True)
    assert used.backend_tokenizer.padding and used.backend_tokenizer.truncation, "premise: a call leaves them there"
    assert hash_tokenizer(used) == known
    for other in (train_tokenizer(["a b c e"] * 3), train_tokenizer(["a b c d"] * 3, lowercase=False)):
        assert hash_tokenizer(other) != known
        assert changes(given=other) == ["the tokenizer"]


def test_a_tokenizer_without_a_backend_is_its_words_and_settings():
    one, same = ByT5Tokenizer(extra_ids=1), ByT5Tokenizer(extra_ids=1)
    assert hash_tokenizer(one) == hash_tokenizer(same)
    others = [ByT5Tokenizer(extra_ids=2), ByT5Tokenizer(extra_ids=1, clean_up_tokenization_spaces=True)]
    assert len({hash_tokenizer(tokenizer) for tokenizer in (one, *others)}) == 3
