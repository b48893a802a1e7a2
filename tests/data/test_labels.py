"""Labels as they stand in a file → classes."""

import logging

import pytest
from tsv_files import GOOD, NAMES, load_train, write

from hf_rnn.data import DataError, Reason, load_tsv
from hf_rnn.data import split_reader as splits
from hf_rnn.data.labels import LabelMap
from hf_rnn.data.row_errors import Ledger
from hf_rnn.utils.errors import UserError


@pytest.mark.parametrize(
    ("found", "names"),
    [
        (["b", "a", "c"], ["a", "b", "c"]),
        (["10", "9", "-1"], ["-1", "9", "10"]),
        (["2", "1", "x"], ["1", "2", "x"]),
        (["10", "02", "01"], ["01", "02", "10"]),
        (["mixed feelings", "Ärger", "Zorn"], ["Zorn", "mixed feelings", "Ärger"]),
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
    (told,) = [message for message in caplog.messages if "integers" in message]
    assert told == "labels are integers, and mean 0 = positive, 1 = neutral, 2 = negative", "not where names stand"
    numbers = write(tmp_path / "o.tsv", b"a\t2\nb\t1\n")  # here integers are the names themselves
    assert load_tsv({"train": numbers}, splits="train", class_names=["2", "1"])["train"]["label"][:] == [0, 1]


@pytest.mark.parametrize(
    ("label", "reason"), [("3", "out of range"), ("-1", "out of range"), ("01", "unknown"), ("x", "unknown")]
)
@pytest.mark.parametrize("names", [None, ["a", "b", "c"]])
def test_integer_labels_have_a_range(tmp_path, label, reason, names):
    train = write(tmp_path / "train.tsv", b"a\t0\nb\t1\nc\t2\nd\t1\n")
    dev = write(tmp_path / "dev.tsv", f"a\t0\nb\t{label}\n".encode())
    with pytest.raises(DataError, match=reason) as caught:
        load_tsv({"train": train, "dev": dev}, class_names=names)
    assert (caught.value.path, caught.value.line) == (dev, 2)
    assert f"All labels in validation: {', '.join(map(repr, sorted(['0', label])))}" in str(caught.value)


def test_a_file_that_changes_while_its_labels_are_listed_is_told_as_such(tmp_path, monkeypatch):
    write(tmp_path / "train.tsv", GOOD)
    write(tmp_path / "dev.tsv", b"a day\tneutral\n")
    reject = Ledger.reject

    def reject_later(self, split, row):
        write(tmp_path / "dev.tsv", b"a day\tneutral\nanother\tneutral\n")
        reject(self, split, row)

    monkeypatch.setattr(Ledger, "reject", reject_later)
    with pytest.raises(DataError, match="it had 14 bytes, has 30 now, and was written to") as caught:
        load_tsv(tmp_path)
    assert caught.value.reason == Reason.FILE_CHANGED


def test_a_label_that_train_lacks_is_refused_elsewhere(tmp_path):
    train, dev = write(tmp_path / "train.tsv", GOOD), write(tmp_path / "dev.tsv", b"a\tpositve\n")
    with pytest.raises(DataError, match="known are 'negative', 'positive'; the nearest is 'positive'") as caught:
        load_tsv({"train": train, "dev": dev})
    assert caught.value.reason == Reason.UNKNOWN_LABEL
    with pytest.raises(DataError) as caught:
        load_tsv({"train": train, "dev": write(tmp_path / "long.tsv", b"a\t" + 5000 * b"x" + b"\n")})
    assert caught.value.reason == Reason.UNKNOWN_LABEL and len(str(caught.value)) < 1000


def test_an_unknown_label_is_compared_with_the_names_once(tmp_path, monkeypatch):
    names, asked = [f"class number {number}" for number in range(3000)], []
    monkeypatch.setattr(LabelMap, "nearest", lambda self, label: asked.append(label))
    rows = b"a\tclass number 1\n" + b"b\tclas number 1\n" * 100 + b"c\tno class\n"
    with pytest.raises(DataError) as caught:
        load_tsv({"train": write(tmp_path / "train.tsv", rows)}, class_names=names, splits="train", max_bad_rows=100)
    assert sorted(set(asked)) == sorted(asked) == ["clas number 1", "no class"]
    assert len(str(caught.value)) < 700 and "and 29" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (b"a\tx\nb\tx\n", {}, "one label only"),
        (b"a\t1\nb\t01\n", {}, "the same number"),
        (b"a\t" + 5000 * b"1" + b"\n", {}, "one label only, '1{79}: a classifier"),
        (b"".join(b"x\ttext %d\n" % number for number in range(60)), {}, "columns swapped"),
        (GOOD, {"class_names": ["joy", "anger"]}, r"Data: 'negative', 'positive'\. Class names: 'joy', 'anger'"),
        (GOOD, {"class_names": ["a", "a"]}, "all different"),
        (GOOD, {"class_names": ["a"]}, "two or more"),
        (GOOD, {"class_names": []}, "two or more"),
        (GOOD, {"class_names": ["positive ", "negative"]}, "framed by spaces"),
        (b"a\tjoy\nb\tanger\nc\t1\n", {"class_names": ["x", "y"]}, "nothing in common with the class names"),
    ],
)
def test_labels_that_make_no_map(tmp_path, content, options, message):
    with pytest.raises(UserError, match=message):
        load_train(write(tmp_path / "train.tsv", content), **options)


def test_an_integer_among_names_is_an_unknown_label():
    assert LabelMap(("negative", "positive")).resolve("5").reason == Reason.UNKNOWN_LABEL
    assert LabelMap(("0", "1")).resolve("5").reason == Reason.LABEL_OUT_OF_RANGE


def test_given_names_need_no_rows():
    assert LabelMap.given(["a", "b"], {}) == LabelMap(("a", "b"))


def test_of_names_that_differ_in_case_only_the_first_is_the_nearest():
    assert LabelMap(("Yes", "yes")).nearest("YES") == "Yes"
    assert LabelMap(("yes", "Yes")).nearest("YES") == "yes"


def test_many_labels_are_classes_where_they_come_again(tmp_path):
    content = "".join(f"text {number}\tintent{number % 60}\n" for number in range(180)).encode()
    assert len(load_train(write(tmp_path / "train.tsv", content))) == 180


def test_there_is_an_end_to_the_number_of_classes(tmp_path, monkeypatch):
    monkeypatch.setattr(splits, "MAX_CLASSES", 3)
    path = write(tmp_path / "train.tsv", b"a\t0\nb\t1\nc\t2\nd\t3\n")
    with pytest.raises(UserError, match="more than 3 different labels"):
        load_train(path)


def test_labels_that_look_like_a_mistake_are_warned_of(tmp_path, caplog):
    load_train(write(tmp_path / "train.tsv", b"a\tGood\nb\tgood\nc\t1\n"))
    assert "labels 'Good' and 'good' differ in case only" in caplog.text
    assert "labels mix integers and names" in caplog.text
    caplog.clear()
    load_train(write(tmp_path / "alike.tsv", "a\tcaf\u00e9\nb\tcafe\u0301\nc\tso so\nd\tso  so\n".encode()))
    assert r"labels 'cafe\u0301' and 'caf\xe9' differ in case, spaces or Unicode form only" in caplog.text
    assert "labels 'so  so' and 'so so' differ in case, spaces or Unicode form only" in caplog.text


def test_a_label_of_one_row_may_be_a_misspelling(tmp_path, caplog):
    rows = [*["positive"] * 20, *["negative"] * 20, *["class1"] * 20, "class2", "so so", "postive"]
    load_train(write(tmp_path / "train.tsv", "".join(f"text\t{label}\n" for label in rows).encode()))
    told = [record.getMessage() for record in caplog.records if "one row" in record.getMessage()]
    assert told == ["label 'postive' has one row, and is taken as a class of its own beside 'positive'"]


def test_a_header_in_words_of_its_own_is_warned_of(tmp_path, caplog):
    rows = b"eins\tgut\nzwei\tschlecht\n" * 2
    for header, told in ((b"Nachricht\tKategorie\n", True), (b"das ist ein Text\tKategorie\n", False), (b"", False)):
        caplog.clear()
        path = write(tmp_path / "train.tsv", header + rows)
        load_train(path)
        assert (f"{path}:1: label 'Kategorie' stands there only" in caplog.text) is told
    caplog.clear()
    load_train(write(tmp_path / "train.tsv", b"a\tx\nb\ty\nc\tz\n"))
    assert "stands there only" not in caplog.text, "where other labels do so too"


def test_the_first_bad_row_is_told_before_labels_that_make_no_map(tmp_path):
    with pytest.raises(DataError) as caught:
        load_train(write(tmp_path / "train.tsv", b"a\tx\nbroken\nb\tx\n"))
    assert (caught.value.line, caught.value.reason) == (2, Reason.TOO_FEW_FIELDS)


def test_the_first_bad_row_is_the_first_whatever_is_wrong(tmp_path):
    """Labels are judged after a first pass, fields during it: the order of lines must hold all the same."""
    with pytest.raises(DataError) as caught:
        load_train(write(tmp_path / "train.tsv", GOOD + b"a\tpos\nbroken\n"), class_names=NAMES)
    assert (caught.value.line, caught.value.reason) == (3, Reason.UNKNOWN_LABEL)
