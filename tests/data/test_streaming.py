"""Training from streams: the same rows and classes as from tables, and a resume that changes nothing."""

import json
import shutil

import pytest
import torch
from datasets import IterableDataset
from safetensors.torch import load_file

from hf_rnn import train
from hf_rnn.utils.errors import UserError

STEPS = 40  # 240 rows in batches of 16: 15 steps an epoch


@pytest.fixture(scope="module")
def settings(tiny_settings):
    strategy = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 10, "save_steps": 10}
    return {**tiny_settings, **strategy, "streaming": True, "max_steps": STEPS, "save_total_limit": 10}


@pytest.fixture(scope="module")
def streamed(settings, tmp_path_factory):
    return train(**settings, output_dir=str(tmp_path_factory.mktemp("streamed") / "model"))


def test_it_learns_from_all_rows(streamed, trained):
    assert streamed.metrics["validation"]["accuracy"] > 0.9
    training = streamed.metrics["training"]
    assert (training["rows"], training["steps"]) == (240, STEPS)
    assert training["epochs"] == pytest.approx(STEPS / 15, abs=0.01)
    assert streamed.card.class_counts == trained.card.class_counts
    assert streamed.card.vocab_size == trained.card.vocab_size, "the vocabulary is made from every row"
    assert streamed.card.audit is None and streamed.card.baselines is None, "these need all rows at once"
    assert [len(texts) for texts in streamed.card.examples.values()] == [2, 2, 2]


def test_batches_are_shuffled_anew_in_each_epoch(settings, monkeypatch, tmp_path):
    from hf_rnn.training.trainer import RnnTrainer

    seen = []
    step = RnnTrainer.training_step

    def spy(self, model, inputs, *args, **kwargs):
        seen.extend(map(tuple, inputs["input_ids"].tolist()))
        return step(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(RnnTrainer, "training_step", spy)
    train(**{**settings, "max_steps": 30, "baselines": False}, output_dir=str(tmp_path / "a"))

    def words(rows):
        return sorted(tuple(token for token in row if token != 1) for row in rows)

    first, second = seen[:240], seen[240:]
    assert words(first) == words(second), "each epoch holds every row once"
    assert first != second


def test_a_resumed_stream_is_the_one_that_never_stopped(streamed, settings, tmp_path):
    """As if killed after step 20, in the second epoch: only what was saved by then is there."""
    again = tmp_path / "again"
    for step in (10, 20):
        name = f"checkpoint-{step}"
        shutil.copytree(streamed.folder / "checkpoints" / name, again / "checkpoints" / name)
    result = train(**settings, output_dir=str(again), resume=True)
    before, after = (load_file(folder / "model.safetensors") for folder in (streamed.folder, result.folder))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_other_rows_are_noticed(streamed, settings, tmp_path, texts_dir):
    again, texts = tmp_path / "again", tmp_path / "texts"
    shutil.copytree(streamed.folder / "checkpoints" / "checkpoint-10", again / "checkpoints" / "checkpoint-10")
    shutil.copytree(texts_dir, texts)
    changed = (texts / "train.tsv").read_text().replace("miro", "mira", 1)
    (texts / "train.tsv").write_text(changed)
    with pytest.raises(UserError, match="the texts or their labels"):
        train(**{**settings, "data_dir": str(texts)}, output_dir=str(again), resume=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fail_on_leak": "1%"}, "fail_on_leak compares all rows"),
        ({"data_dir": None, "dataset_name": "me/x"}, "streaming is for TSV files"),
    ],
)
def test_settings_that_do_not_go_with_streams(settings, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        train(**{**settings, **changes}, output_dir=str(tmp_path / "out"))


def test_the_command_streams(texts_dir, tmp_path, command):
    out = tmp_path / "out"
    flags = (
        "--streaming --max_steps 20 --embedding_size 8 --hidden_size 4 --use_cpu --train_sampling_strategy sequential"
    )
    code, told, _ = command("train", "--data_dir", texts_dir, "--output_dir", out, *flags.split())
    assert code == 0
    assert json.loads(told)["training"]["steps"] == 20
    assert json.loads((out / "training_args.json").read_text())["streaming"] is True


def test_streams_are_streams(texts_dir):
    """The premise of this file."""
    from hf_rnn.data.loading import load_texts
    from hf_rnn.training.arguments.text_arguments import DataArguments

    texts = load_texts(DataArguments(data_dir=str(texts_dir)), streaming=True)
    assert all(isinstance(split, IterableDataset) for split in texts.values())
