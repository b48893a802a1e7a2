"""Fingerprints: whatever changes the steps of a run changes a fingerprint, and nothing else does."""

import pytest
from datasets import Dataset

from hf_rnn import RnnConfig
from hf_rnn.tokenizers.word_level import train_tokenizer
from hf_rnn.training.checkpointing.fingerprints import compare, take_fingerprints
from hf_rnn.training.settings import parse_settings
from hf_rnn.utils.errors import UserError

TRAIN, VALIDATION = [([2, 3, 4], 0), ([5], 1)], [([6, 2], 0)]


def table(rows):
    return Dataset.from_dict({"input_ids": [ids for ids, _ in rows], "labels": [label for _, label in rows]})


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["a b c d"] * 3)


@pytest.fixture
def take(tokenizer, tiny_settings):
    """Take the fingerprints of a run that is like any other, except for the arguments."""

    def taken(examples=None, config=None, given=tokenizer, settings=None, **further):
        arguments = parse_settings({**tiny_settings, "output_dir": "out", **(settings or {})})
        examples = {"train": table(TRAIN), "validation": table(VALIDATION)} if examples is None else examples
        return take_fingerprints(examples, given, config or RnnConfig(vocab_size=7), arguments.training, **further)

    return taken


@pytest.fixture
def changes(take, tmp_path):
    return lambda *given, **named: compare(tmp_path, take(), take(*given, **named))


@pytest.mark.parametrize(
    ("train", "validation"),
    [
        ([([2, 3, 4], 0), ([5], 0)], VALIDATION),
        ([([2, 3, 5], 0), ([5], 1)], VALIDATION),
        ([([2, 3], 0), ([4, 5], 1)], VALIDATION),
        ([([5], 1), ([2, 3, 4], 0)], VALIDATION),
        (TRAIN, None),
    ],
    ids=["label", "token", "border", "order", "no validation"],
)
def test_every_row_counts(changes, train, validation):
    examples = {"train": table(train)} | ({} if validation is None else {"validation": table(validation)})
    assert changes(examples) == ["the texts or their labels"]


def test_a_stream_counts_by_its_fingerprint_and_its_workers(take, tmp_path):
    examples = {"train": table(TRAIN).to_iterable_dataset(), "validation": table(VALIDATION)}
    one, same, other = (take(examples, stream=name) for name in ("1", "1", "2"))
    assert compare(tmp_path, one, same) == []
    assert compare(tmp_path, one, other) == ["the texts or their labels"]
    workers = take(examples, stream="1", settings={"dataloader_num_workers": 2})
    assert compare(tmp_path, one, workers) == ["dataloader_num_workers (was 0, now 2)"]


WITHOUT_EFFECT = {
    "output_dir": "elsewhere", "overwrite_output_dir": True, "save_total_limit": 9, "run_name": "second",
    "disable_tqdm": True, "log_level": "error", "push_to_hub": True, "hub_model_id": "me/films", "language": ["en"],
    "license": "mit", "tags": ["films"], "card_examples": False, "baselines": False, "calibrate": True,
    "dataloader_num_workers": 2, "ddp_timeout": 9,
    "accelerator_config": {"non_blocking": True},
}  # fmt: skip


def test_settings_without_effect_on_the_steps_do_not_count(take, changes, tiny_settings, tmp_path):
    base = parse_settings({**tiny_settings, "output_dir": "out"}).training
    assert all(getattr(base, name) != value for name, value in WITHOUT_EFFECT.items()), "premise"
    assert changes(settings=WITHOUT_EFFECT) == changes(settings={"resume": True}) == []
    one, other = (take(further_settings={"temperature": value}) for value in (1.0, 2.0))
    assert compare(tmp_path, one, other) == ["temperature (was 1.0, now 2.0)"]


def test_architecture_counts_and_versions_do_not(take, changes, monkeypatch, tmp_path):
    assert changes(config=RnnConfig(vocab_size=7, word_dropout=0.25)) == ["word_dropout (was 0.0, now 0.25)"]
    before, now = take(), take()
    monkeypatch.setattr("transformers.configuration_utils.__version__", "4.0.0")
    assert compare(tmp_path, before, take()) == []
    del before["settings"]["weight_decay"], before["config"]["word_dropout"]
    now["settings"]["of_the_next_version"] = now["config"]["of_the_next_version"] = 1
    assert compare(tmp_path, before, now) == []
    with pytest.raises(UserError, match="no fingerprints"):
        compare(tmp_path, {}, now)
