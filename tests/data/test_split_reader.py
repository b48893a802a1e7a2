"""Files and folders → splits, a validation held out, and fingerprints."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tsv_files import GOOD, NAMES, load_train, write

from hf_rnn.data import DataError, DataReport, Reason, load_tsv
from hf_rnn.data.stratified_split import Holdout
from hf_rnn.utils.errors import UserError


@pytest.mark.parametrize("dev", ["dev.tsv", "validation.tsv"])
def test_a_folder_has_its_splits_by_name(tmp_path, dev, caplog):
    for name, rows in (("train.tsv", 3), (dev, 2), ("test.tsv", 1), ("notes.tsv", 1)):
        write(tmp_path / name, GOOD * rows)
    read = load_tsv(tmp_path)
    assert {split: len(rows) for split, rows in read.items()} == {"train": 6, "validation": 4, "test": 2}
    assert list(read) == ["train", "validation", "test"] and "notes.tsv" in caplog.text
    assert load_tsv(tmp_path, splits=["dev"], class_names=NAMES).keys() == {"validation"}
    with pytest.raises(UserError, match="class names"):
        load_tsv(tmp_path, splits="test")
    write(tmp_path / ("dev.tsv" if dev == "validation.tsv" else "validation.tsv"), GOOD)
    with pytest.raises(UserError, match="both 'dev' and 'validation'"):
        load_tsv(tmp_path)


@pytest.mark.parametrize("name", ["val", "valid", "Val"])
def test_a_validation_file_of_another_name_is_told(tmp_path, caplog, name):
    for file in ("train.tsv", f"{name}.tsv"):
        write(tmp_path / file, GOOD * 9)
    load_tsv(tmp_path)
    assert f"not read: {name}.tsv. Rename {name}.tsv to dev.tsv, if it is one" in caplog.text
    caplog.clear()
    write(tmp_path / "dev.tsv", GOOD)
    load_tsv(tmp_path)
    assert f"not read: {name}.tsv" in caplog.text and "Rename" not in caplog.text


def test_one_file_of_a_folder_is_read_alone_and_said(tmp_path, caplog):
    for file in ("train.tsv", "dev.tsv", "test.tsv"):
        write(tmp_path / file, GOOD * 9)
    load_tsv(tmp_path / "train.tsv", splits="train")
    assert f"train.tsv is read alone; give the folder {tmp_path} to read dev.tsv and test.tsv too" in caplog.text
    caplog.clear()
    load_tsv({"train": tmp_path / "train.tsv"})
    assert "read alone" not in caplog.text, "what is mapped is meant"


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    write(tmp_path / "train.tsv", GOOD * 9)
    assert load_tsv("~/train.tsv")["train"] and load_tsv({"train": "~/train.tsv"})["train"]


def test_several_files_make_one_split_in_order(tmp_path):
    one, two = write(tmp_path / "1.tsv", GOOD), write(tmp_path / "2.tsv", b"x\tneutral\n")
    assert [text for text, _ in load_train([one, two])] == ["good day", "bad day", "x"]
    assert [text for text, _ in load_train([two, one])] == ["x", "good day", "bad day"]


def test_one_split_is_read_without_train(tmp_path):
    path = write(tmp_path / "held_back.tsv", GOOD)
    (split,) = load_tsv(path, splits=iter(["test"]), class_names=NAMES).items()
    assert split[0] == "test" and split[1]["label"][:] == [1, 0]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "does not exist"),
        ({"trian": "a.tsv"}, "nearest is 'train'"),
        ({"train": []}, "no file"),
        ({"train": "train.tsv", "test": "./train.tsv"}, "train and test"),
        ({"train": ["train.tsv", "train.tsv"]}, "train twice"),
        ({"train": "."}, "not a regular file"),
    ],
)
def test_sources_that_cannot_be_meant(tmp_path, monkeypatch, source, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "train.tsv", GOOD)
    with pytest.raises(UserError, match=message):
        load_tsv(source)


@pytest.mark.parametrize("source", [".", "train.tsv"])
def test_no_split_at_all_cannot_be_meant(tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "train.tsv", GOOD)
    with pytest.raises(UserError, match="splits names none: take train, validation"):
        load_tsv(source, splits=[], class_names=NAMES)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("TRAIN.TSV", "Rename TRAIN.TSV to train.tsv"),
        ("train.txt", "Rename train.txt to train.tsv"),
        ("train.tsv.gz", "Unpack train.tsv.gz to train.tsv"),
        ("train.parquet", "type --dataset_name .* in place of --data_dir"),
        ("train.CSV", "type --dataset_name .* in place of --data_dir"),
        ("config.json", "in the split named train$"),
    ],
)
def test_what_to_do_without_a_train_file(tmp_path, name, advice):
    write(tmp_path / name, GOOD)
    write(tmp_path / "notes.json", b"{}")
    with pytest.raises(DataError, match=advice):
        load_tsv(tmp_path)


def test_the_folder_below_that_is_meant(tmp_path):
    for name in ("notes", "tweets"):
        (tmp_path / name).mkdir()
    write(tmp_path / "tweets" / "train.tsv", GOOD)
    with pytest.raises(DataError, match=re.escape(f". Did you mean {tmp_path / 'tweets'}?")):
        load_tsv(tmp_path)


def test_class_names_may_be_an_array(tmp_path):
    path = write(tmp_path / "train.tsv", GOOD)
    assert load_tsv(path, class_names=np.array(NAMES), splits=["train"])["train"].features["label"].names == NAMES


def test_no_train_split(tmp_path):
    write(tmp_path / "dev.tsv", GOOD)
    write(tmp_path / "train.csv", GOOD)
    with pytest.raises(DataError, match="validation, the files: dev.tsv, train.csv.*type --dataset_name") as caught:
        load_tsv(tmp_path)
    assert caught.value.reason == Reason.NO_TRAIN_SPLIT
    with pytest.raises(UserError, match="no split test"):
        write(tmp_path / "train.tsv", GOOD)
        load_tsv(tmp_path, splits=["train", "test"])


@given(
    st.lists(st.integers(0, 60), min_size=2, max_size=5),
    st.sampled_from([0.1, 0.25, 0.5]),
    st.integers(-5, 5),
    st.data(),
)
def test_the_held_out_rows_are_a_stratified_share_in_any_cut(counts, share, seed, data):
    order = data.draw(st.permutations(np.repeat(np.arange(len(counts)), counts).tolist()))
    if max(counts) < 2:
        with pytest.raises(UserError, match="too few"):
            Holdout(tuple(counts), share, seed)
        return
    holdout = Holdout(tuple(counts), share, seed)
    rows = np.array(order)
    whole = holdout.select(rows, np.zeros(len(counts), dtype=np.int64))
    for label, count in enumerate(counts):
        held = int((rows[whole] == label).sum())
        assert abs(held - share * count) <= 0.5 or held in (1, count // 2), "the nearest number of rows"
        assert count < 2 or 1 <= held < count
    assert whole.sum() == holdout.rows
    cut, seen = data.draw(st.integers(0, len(rows))), np.zeros(len(counts), dtype=np.int64)
    assert (np.concatenate([holdout.select(part, seen) for part in (rows[:cut], rows[cut:])]) == whole).all()


def test_held_out_rows_are_spread_evenly_over_the_file_and_over_seeds():
    """Drawn uniformly: over many seeds each row is held out a tenth of the time, first and last ones included."""
    often = np.zeros(200)
    for seed in range(2000):
        often += Holdout((200,), 0.1, seed).select(np.zeros(200, dtype=int), np.zeros(1, dtype=int))
    assert np.abs(often / 2000 - 0.1).max() < 0.03  # 4.5 standard deviations


def test_a_negative_seed_is_another_seed():
    rows, draws = np.zeros(100, dtype=int), []
    for seed in (1, -1):
        draws.append(Holdout((100,), 0.1, seed).select(rows, np.zeros(1, dtype=int)))
    assert (draws[0] != draws[1]).any()


def test_no_more_than_half_of_a_class_is_held_out():
    assert Holdout((3,), 0.5, 0).quota(0) == 1, "where the share alone rounds to 2"


def test_validation_is_held_out_of_train_and_said(tmp_path, caplog):
    content = "".join(f"text {number}\t{'aab'[number % 3]}\n" for number in range(300)).encode()
    path, report = write(tmp_path / "train.tsv", content), DataReport()
    read = load_tsv(path, report=report)
    assert {split: np.bincount(rows["label"]).tolist() for split, rows in read.items()} == {
        "train": [180, 90],
        "validation": [20, 10],
    }
    both = [row["text"] for split in read.values() for row in split]
    assert sorted(both) == sorted(f"text {number}" for number in range(300)), "each row once"
    assert "30 of 300 rows of train are held out" in caplog.text and "30 rows held out" in str(report)
    assert load_tsv(path)["validation"][:] == read["validation"][:] != load_tsv(path, seed=1)["validation"][:]
    assert load_tsv(tmp_path, validation_share=0).keys() == {"train"}
    with pytest.raises(UserError, match="at most 0.5"):
        load_tsv(path, validation_share=0.9)
    write(tmp_path / "dev.tsv", content)  # with which nothing would be held out
    with pytest.raises(UserError, match="validation_share is -5: give a share above 0"):
        load_tsv(tmp_path, validation_share=-5)


def fingerprints(source, **options):
    report = DataReport()
    read = load_tsv(source, report=report, **options)
    return report.fingerprint, *(split._fingerprint for split in read.values())


def test_fingerprints_change_with_the_rows_and_with_nothing_else(tmp_path):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    one, other = write(tmp_path / "a" / "train.tsv", GOOD * 5), write(tmp_path / "b" / "train.tsv", GOOD * 5)
    first = fingerprints(one)
    assert len(set(first)) == 3 and fingerprints(other) == first
    assert fingerprints(tmp_path / "a") == first
    different = [
        fingerprints(one, seed=1),
        fingerprints(one, class_names=NAMES[::-1]),
        fingerprints(write(tmp_path / "c.tsv", GOOD * 4 + b"good day\tpositive\nbad dey\tnegative\n")),
    ]
    assert len({first, *different}) == 4


@pytest.mark.parametrize("further", [b"", b"bad\n"], ids=["one pass", "two passes"])
def test_fingerprints_change_with_the_columns(tmp_path, further):
    """The bytes that are read are the same. Where a row is bad, they are read again when the labels are known."""
    path = write(tmp_path / "train.tsv", b"a\tb\nb\ta\n" * 5 + further)
    first = fingerprints(path, max_bad_rows=1)
    assert not set(first) & set(fingerprints(path, max_bad_rows=1, text_column=1, label_column=0))
