"""Data sets of the library, under the same contract as files."""

import json
import re

import datasets
import pytest

from hf_rnn.data import loading
from hf_rnn.data.loading import load_tsv
from hf_rnn.data.row_errors import DataError, DataReport, Reason
from hf_rnn.utils.errors import UserError

ROWS = [(" spaces stay ", 2), ("tabs\tand\nlines too", 0), ("NA", 1)]


def make_splits(label_feature, **splits):
    features = datasets.Features(text=datasets.Value("string"), id=datasets.Value("int32"), label=label_feature)
    return datasets.DatasetDict(
        {
            split: datasets.Dataset.from_list(
                [{"text": text, "id": number, "label": label} for number, (text, label) in enumerate(rows)], features
            )
            for split, rows in splits.items()
        }
    )


@pytest.mark.parametrize(
    ("feature", "convert", "names"),
    [
        (datasets.ClassLabel(names=["z", "y", "x"]), int, ["z", "y", "x"]),
        (datasets.Value("int8"), int, ["0", "1", "2"]),
        (datasets.Value("string"), "cab".__getitem__, ["a", "b", "c"]),
    ],
    ids=["ClassLabel", "integers", "strings"],
)
def test_types_of_labels(tmp_path, feature, convert, names, caplog):
    rows = [(text, convert(label)) for text, label in ROWS]
    data = make_splits(feature, train=rows, dev=rows[:2], unsupervised=rows)
    data.save_to_disk(tmp_path / "saved")
    for source in (data, tmp_path / "saved"):
        read = load_tsv(source)
        assert set(read) == {"train", "validation"} and "unsupervised" in caplog.text
        assert read["train"].features["label"].names == names
        expected = [names[label] if isinstance(feature, datasets.ClassLabel) else str(label) for _, label in rows]
        assert [row["text"] for row in read["train"]] == [text for text, _ in rows]
        assert [names[row["label"]] for row in read["train"]] == expected


def test_bad_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "BATCH_ROWS", 3)
    bad = [("a", 0), (None, 1), ("", 1), (" \t ", 1), ("a\0", 1), ("b", None), ("c", -1), ("d", 1)]
    data = make_splits(datasets.ClassLabel(names=["n", "p"]), train=bad, dev=bad[:1])
    report, listed = DataReport(), tmp_path / "rejected.jsonl"
    read = load_tsv(data, max_bad_rows=6, rejected_path=listed, report=report)
    assert read["train"].to_list() == [{"text": "a", "label": 0}, {"text": "d", "label": 1}]
    records = [json.loads(line) for line in listed.open()]
    reasons = [Reason.EMPTY_TEXT] * 2 + [Reason.BLANK_TEXT, Reason.NUL, Reason.EMPTY_LABEL, Reason.UNKNOWN_LABEL]
    assert [(record["line"], record["reason"]) for record in records] == list(enumerate(reasons, 1))
    assert {record["file"] for record in records} == {"dataset[train]"}
    with pytest.raises(DataError, match=re.escape("dataset[train] row 1: empty text")):
        load_tsv(data)


def test_a_split_without_labels_is_left_out(caplog):
    """Benchmarks publish their test split so; with some labels, it lacks those of single rows."""
    rows, blank = [("a", 0), ("b", 1), ("c", 1), ("d", 0)], [("e", -1), ("f", -1)]
    feature = datasets.ClassLabel(names=["n", "p"])
    data = make_splits(feature, train=rows, validation=rows, test=blank)
    assert set(load_tsv(data)) == {"train", "validation"} and "dataset[test] is left out" in caplog.text
    for source, options in (
        (data, {"splits": ["train", "test"]}),
        (make_splits(feature, train=rows, validation=rows, test=blank + rows), {}),
        (make_splits(feature, train=blank, validation=rows), {}),
    ):
        with pytest.raises(DataError, match="row 0: unknown label: label '-1'"):
            load_tsv(source, **options)


def test_unusable_columns_and_sources(tmp_path):
    data = make_splits(datasets.Value("float32"), train=ROWS, dev=ROWS)
    with pytest.raises(DataError, match="'txt': found 'text', 'id', 'label'"):
        load_tsv(data, text_column="txt")
    with pytest.raises(DataError, match="strings"):
        load_tsv(data, text_column="id")
    labels = load_tsv(data)["train"].features["label"].names
    assert labels == ["0", "1", "2"], "frames make 1.0 of 1 beside a missing label"
    (tmp_path / "README").write_bytes(b"")
    with pytest.raises(UserError, match="cannot be loaded"):
        load_tsv(tmp_path)
    with pytest.raises(UserError, match="found IterableDataset"):
        load_tsv(data["train"].to_iterable_dataset())
    del data["train"]
    with pytest.raises(DataError) as caught:
        load_tsv(data, label_column="id")
    assert caught.value.reason == Reason.NO_TRAIN_SPLIT
