"""Streams of rows, against the tables of the same files."""

import os
import pickle
from io import FileIO
from pathlib import Path

import datasets
import pyarrow as pa
import pytest
from tsv_files import GOOD, write

from hf_rnn.data import DataError, DataReport, Reason, load_tsv
from hf_rnn.data import tsv_reader as reading
from hf_rnn.data.tsv_file import TsvFile
from hf_rnn.data.tsv_file import TsvFormat


@pytest.fixture
def two_files(tmp_path):
    lines = [f"text {number}\t{'abc'[number * number % 3]}" if number % 50 else "bad" for number in range(1, 2001)]
    return [write(tmp_path / f"{part}.tsv", "\n".join(lines[part::2]).encode()) for part in (0, 1)]


def test_streams_deliver_what_tables_do(two_files, monkeypatch):
    monkeypatch.setattr(reading, "BLOCK_BYTES", 1000)
    reports = [DataReport(), DataReport()]
    table, stream = (
        load_tsv({"train": two_files}, max_bad_rows="2%", streaming=streaming, report=report)
        for streaming, report in zip((False, True), reports, strict=True)
    )
    assert isinstance(stream, datasets.IterableDatasetDict) and isinstance(table, datasets.DatasetDict)
    for split in ("train", "validation"):
        assert stream[split].features == table[split].features
        assert list(stream[split]) == list(table[split]) == list(stream[split]), "in a second epoch too"
        (batch,) = stream[split].with_format("arrow").iter(batch_size=10_000)
        assert batch.to_pylist() == table[split].to_list()
    reports[1].rejected_path = reports[0].rejected_path
    assert reports[0] == reports[1] and reports[0].rows_rejected == 40


def test_a_stream_divides_its_files_among_workers_and_resumes(two_files):
    train = load_tsv({"train": two_files}, max_bad_rows=40, streaming=True)["train"]
    whole = list(train)
    assert train.num_shards == 2
    assert [row for index in (0, 1) for row in train.shard(num_shards=2, index=index)] == whole
    assert list(pickle.loads(pickle.dumps(train))) == whole
    rows = iter(train)
    first = [next(rows) for _ in range(700)]
    state = train.state_dict()
    again = load_tsv({"train": two_files}, max_bad_rows=40, streaming=True)["train"]
    again.load_state_dict(state)
    assert first + list(again) == whole


def test_a_stream_stops_at_a_bad_row_before_its_first_batch(two_files):
    with pytest.raises(DataError):
        load_tsv({"train": two_files}, streaming=True)


def test_a_stream_notices_a_file_that_changed(tmp_path):
    path = write(tmp_path / "train.tsv", GOOD * 10)
    train = load_tsv(path, streaming=True)["train"]
    assert len(list(train)) == 18
    write(tmp_path / "train.tsv", GOOD * 11)
    with pytest.raises(DataError) as caught:
        list(train)
    assert caught.value.reason == Reason.FILE_CHANGED
    reader = TsvFile.open(path, TsvFormat()).rows(None, pytest.fail)
    assert next(reader).lines == 22
    with open(path, "ab") as stream:
        stream.write(GOOD)
    with pytest.raises(DataError) as caught:
        list(reader)
    assert caught.value.reason == Reason.FILE_CHANGED
    (tmp_path / "train.tsv").unlink()
    with pytest.raises(DataError) as caught:
        list(train)
    assert caught.value.reason == Reason.FILE_CHANGED


def test_a_file_that_was_written_to_has_changed_whatever_its_size(tmp_path, monkeypatch):
    streams = []

    class Recorded(FileIO):
        def __init__(self, *given):
            super().__init__(*given)
            streams.append(self)

    monkeypatch.setattr("hf_rnn.data.tsv_file.FileIO", Recorded)
    path = write(tmp_path / "train.tsv", GOOD)
    opened = TsvFile.open(path, TsvFormat())
    write(tmp_path / "train.tsv", GOOD.replace(b"good", b"evil"))
    os.utime(path, (0, 0))  # another time on any clock
    with pytest.raises(DataError) as caught:
        list(opened.rows(None, pytest.fail))
    assert caught.value.reason == Reason.FILE_CHANGED
    assert [stream.closed for stream in streams] == [True], "also while the error is kept"


def test_a_stream_holds_a_block_and_not_the_file(tmp_path):
    path = write(tmp_path / "train.tsv", GOOD * 1_000_000)
    before, most = pa.total_allocated_bytes(), 0
    for batch in load_tsv(path, streaming=True)["train"].with_format("arrow").iter(batch_size=1000):
        most = max(most, pa.total_allocated_bytes() - before)
        assert len(batch) <= 1000
    assert most < 8_000_000 < Path(path).stat().st_size
