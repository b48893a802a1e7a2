"""Streams deliver the rows of the tables of the same files; training from them can be resumed."""

import os
import pickle
import shutil
from pathlib import Path

import datasets
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file
from tsv_files import GOOD, write

from hf_rnn import train
from hf_rnn.data import delimited
from hf_rnn.data.loading import load_tsv
from hf_rnn.data.row_errors import DataError, DataReport, Reason
from hf_rnn.data.samplers import CountedStream
from hf_rnn.data.tables import read_table


@pytest.fixture
def two_files(tmp_path):
    lines = [f"text {number}\t{'abc'[number * number % 3]}" if number % 50 else "bad" for number in range(1, 2001)]
    return [write(tmp_path / f"{part}.tsv", "\n".join(lines[part::2]).encode()) for part in (0, 1)]


def test_streams_deliver_the_rows_of_tables(two_files, monkeypatch):
    monkeypatch.setattr(delimited, "BLOCK_BYTES", 1000)
    reports = [DataReport(), DataReport()]
    table, stream = (
        load_tsv({"train": two_files}, max_bad_rows="2%", streaming=streaming, report=report, validation_share=0)
        for streaming, report in zip((False, True), reports, strict=True)
    )
    assert isinstance(stream, datasets.IterableDatasetDict) and isinstance(table, datasets.DatasetDict)
    assert stream["train"].features == table["train"].features
    assert list(stream["train"]) == list(table["train"]) == list(stream["train"]), "in a second epoch too"
    assert reports[0] == reports[1] and reports[0].rows_rejected == 40
    with pytest.raises(DataError):  # before the first batch
        load_tsv({"train": two_files}, streaming=True)


def test_a_stream_divides_its_files_among_workers_and_resumes(two_files):
    train_rows = load_tsv({"train": two_files}, max_bad_rows=40, streaming=True)["train"]
    whole = list(train_rows)
    assert train_rows.num_shards == 2
    assert [row for index in (0, 1) for row in train_rows.shard(num_shards=2, index=index)] == whole
    assert list(pickle.loads(pickle.dumps(train_rows))) == whole
    rows = iter(train_rows)
    first = [next(rows) for _ in range(700)]
    again = load_tsv({"train": two_files}, max_bad_rows=40, streaming=True)["train"]
    again.load_state_dict(train_rows.state_dict())
    assert first + list(again) == whole


def test_a_stream_notices_a_changed_file(tmp_path):
    path = write(tmp_path / "train.tsv", GOOD * 10)
    opened, stream = read_table(path, header=False), load_tsv(path, streaming=True)["train"]
    assert len(list(stream)) == 20
    write(tmp_path / "train.tsv", GOOD.replace(b"good", b"evil") * 10)
    os.utime(path, (0, 0))  # the same size; another time on any clock
    for rows in (stream, opened):
        with pytest.raises(DataError) as caught:
            list(rows)
        assert caught.value.reason == Reason.FILE_CHANGED
    (tmp_path / "train.tsv").unlink()
    with pytest.raises(DataError, match="No such file"):
        list(stream)


def test_a_stream_holds_a_block_in_memory(tmp_path):
    path = write(tmp_path / "train.tsv", GOOD * 400_000)
    before, most = pa.total_allocated_bytes(), 0
    for batch in load_tsv(path, streaming=True)["train"].with_format("arrow").iter(batch_size=1000):
        most = max(most, pa.total_allocated_bytes() - before)
        assert len(batch) <= 1000
    assert most < 4_000_000 < Path(path).stat().st_size


def test_a_counted_stream_has_every_row_in_each_epoch_in_another_order(two_files):
    rows = load_tsv({"train": two_files}, max_bad_rows=40, streaming=True, splits="train")["train"]
    stream = CountedStream(rows, 1960, shuffle_seed=3)
    epochs = []
    for epoch in (0, 1, 0):
        stream.set_epoch(epoch)
        epochs.append([row["text"] for row in stream])
    assert epochs[0] == epochs[2] != epochs[1]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(row["text"] for row in rows)
    assert len(stream) == len(epochs[0])


@pytest.fixture(scope="module")
def streaming(tiny_settings):
    """240 rows in batches of 32: 8 steps per epoch."""
    strategy = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 10, "save_steps": 10}
    return {**tiny_settings, **strategy, "per_device_train_batch_size": 32, "streaming": True, "max_steps": 20}


@pytest.fixture(scope="module")
def streamed(streaming, tmp_path_factory):
    return train(**streaming, output_dir=str(tmp_path_factory.mktemp("streamed") / "model"))


def resume(streamed, settings, folder):
    """Resume after step 10, in the second epoch, with only the files that were saved by then."""
    shutil.copytree(streamed.folder / "checkpoints" / "checkpoint-10", folder / "checkpoints" / "checkpoint-10")
    return train(**settings, output_dir=str(folder), resume=True)


def test_training_uses_all_rows_and_resumes_bit_for_bit(streamed, streaming, tmp_path):
    training = streamed.metrics["training"]
    assert (training["rows"], training["steps"], training["epochs"]) == (240, 20, pytest.approx(2.5, abs=0.01))
    resumed = resume(streamed, streaming, tmp_path / "resumed")
    before, after = (load_file(result.folder / "model.safetensors") for result in (streamed, resumed))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
