"""Labels of the data become class ids; labels that make no classes are refused."""

import logging

import pytest
from tsv_files import GOOD, load_train, write

from hf_rnn.data.loading import load_tsv
from hf_rnn.data.row_errors import DataError
from hf_rnn.utils.errors import UserError


@pytest.mark.parametrize(
    ("found", "names"),
    [
        (["b", "a", "c"], ["a", "b", "c"]),
        (["10", "9", "-1"], ["-1", "9", "10"]),
        (["2", "1", "x"], ["1", "2", "x"]),
    ],
)
def test_labels_are_sorted_by_value_or_by_alphabet(tmp_path, found, names):
    content = "".join(f"some words\t{label}\n" for label in found).encode()
    train = load_tsv({"train": write(tmp_path / "t.tsv", content)}, splits="train")["train"]
    assert train.features["label"].names == names
    assert [names[label] for label in train["label"]] == found


def test_given_names_order_the_labels_and_integers_index_them(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    names = ["positive", "neutral", "negative"]
    by_name, by_number = write(tmp_path / "n.tsv", GOOD), write(tmp_path / "i.tsv", b"good day\t0\nbad day\t2\n")
    for path in (by_name, by_number):
        train = load_tsv({"train": path}, splits="train", class_names=names)["train"]
        assert (train.features["label"].names, train["label"][:]) == (names, [0, 2])
    assert "0 = positive, 1 = neutral, 2 = negative" in caplog.text
    numbers = write(tmp_path / "o.tsv", b"a\t2\nb\t1\n")  # here integers are the names themselves
    assert load_tsv({"train": numbers}, splits="train", class_names=["2", "1"])["train"]["label"][:] == [0, 1]


def test_a_label_map_translates_labels(tmp_path):
    path, names = write(tmp_path / "train.tsv", b"a\t0\nb\t1\nc\tgood\n"), ["bad", "good"]
    options = {"splits": "train", "class_names": names}
    assert load_tsv(path, **options, label_map={"0": "good", "1": "bad"})["train"]["label"][:] == [1, 0, 1]
    with pytest.raises(UserError, match="'fair'"):
        load_tsv(path, **options, label_map={"0": "fair"})
    path = write(tmp_path / "train.tsv", b"a\t0\nb\t1\n")
    with pytest.raises(UserError, match="--label_map 0=NAME 1=NAME"):  # integers do not index the names here
        load_tsv(path, **options, label_map={})


@pytest.mark.parametrize("label", ["3", "-1", "01", "x"])
@pytest.mark.parametrize("names", [None, ["a", "b", "c"]])
def test_a_label_that_train_lacks_is_rejected_in_other_splits(tmp_path, label, names):
    train = write(tmp_path / "train.tsv", b"a\t0\nb\t1\nc\t2\nd\t1\n")
    dev = write(tmp_path / "dev.tsv", f"a\t0\nb\t{label}\n".encode())
    with pytest.raises(DataError, match=f"unknown label: label '{label}', known are") as caught:
        load_tsv({"train": train, "dev": dev}, class_names=names)
    assert (caught.value.path, caught.value.line) == (dev, 2)


def test_swapped_columns_are_reported(tmp_path):
    content = b"".join(b"x\ttext %d\n" % number for number in range(60))
    with pytest.raises(UserError, match="swapped"):
        load_train(write(tmp_path / "train.tsv", content))
