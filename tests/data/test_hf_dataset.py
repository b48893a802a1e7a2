"""Data sets of the library, under the same contract as files."""

import json
import re

import datasets
import pytest

from hf_rnn.data import DataError, DataReport, Reason, load_named
from hf_rnn.data import hf_dataset as library_split
from hf_rnn.utils.errors import UserError


def library(label_feature, train, test):
    features = datasets.Features(text=datasets.Value("string"), id=datasets.Value("int32"), label=label_feature)
    return datasets.DatasetDict(
        {
            split: datasets.Dataset.from_dict(
                {"text": [text for text, _ in rows], "id": range(len(rows)), "label": [label for _, label in rows]},
                features=features,
            )
            for split, rows in (("train", train), ("dev", test), ("unsupervised", train))
        }
    )


ROWS = [(" spaces stay ", 2), ("tabs\tand\nlines too", 0), ("NA", 1)]


@pytest.mark.parametrize(
    ("feature", "convert", "names"),
    [
        (datasets.ClassLabel(names=["z", "y", "x"]), int, ["z", "y", "x"]),
        (datasets.Value("int8"), int, ["0", "1", "2"]),
        (datasets.Value("string"), "cab".__getitem__, ["a", "b", "c"]),
        (datasets.Value("large_string"), str, ["0", "1", "2"]),
        (datasets.Value("bool"), bool, ["False", "True"]),
    ],
    ids=["ClassLabel", "integers", "strings", "large strings", "bools"],
)
def test_library_data_sets_come_under_the_same_contract(tmp_path, feature, convert, names, caplog):
    rows = [(text, convert(label)) for text, label in ROWS]
    data = library(feature, rows, rows[:2])
    data.save_to_disk(tmp_path / "saved")
    for source in (data, tmp_path / "saved"):
        read = load_named(source)
        assert {split: part.column_names for split, part in read.items()} == dict.fromkeys(
            ("train", "validation"), ["text", "label"]
        )
        assert read["train"].features["label"].names == names and "unsupervised" in caplog.text
        expected = [names[label] if isinstance(feature, datasets.ClassLabel) else str(label) for _, label in rows]
        assert [(row["text"], names[row["label"]]) for row in read["train"]] == list(
            zip([t for t, _ in rows], expected, strict=True)
        )


def test_bad_rows_of_a_library_data_set(tmp_path, monkeypatch):
    monkeypatch.setattr(library_split, "BATCH_ROWS", 3)
    bad = [("a", 0), (None, 1), ("", 1), (" \t ", 1), ("a\0", 1), ("b", None), ("c", -1), ("d", 1)]
    data, report, listed = (
        library(datasets.ClassLabel(names=["n", "p"]), bad, bad[:1]),
        DataReport(),
        tmp_path / "r.jsonl",
    )
    read = load_named(data, max_bad_rows=6, rejected_path=listed, report=report)
    assert read["train"].to_list() == [{"text": "a", "label": 0}, {"text": "d", "label": 1}]
    records = [json.loads(line) for line in listed.open()]
    empty = Reason.EMPTY_TEXT.value
    assert [(record["line"], record["reason"]) for record in records] == [
        (1, empty), (2, empty), (3, Reason.BLANK_TEXT.value), (4, Reason.NUL.value), (5, Reason.EMPTY_LABEL.value),
        (6, Reason.LABEL_OUT_OF_RANGE.value),
    ]  # fmt: skip
    assert {record["file"] for record in records} == {"dataset[train]"} and records[0]["byte_offset"] is None
    with pytest.raises(DataError, match=re.escape("dataset[train] row 1: empty text")):
        load_named(data)


def test_a_split_without_labels(caplog):
    """Benchmarks publish their test split so; one that has some labels lacks those of single rows."""
    feature = datasets.ClassLabel(names=["n", "p"])
    rows = [("a", 0), ("b", 1), ("c", 1), ("d", 0)]
    splits = {"train": rows, "validation": rows, "test": [("e", -1), ("f", -1)]}
    features = datasets.Features(text=datasets.Value("string"), label=feature)

    def make():
        return datasets.DatasetDict(
            {
                name: datasets.Dataset.from_dict(
                    {"text": [text for text, _ in of], "label": [label for _, label in of]}, features=features
                )
                for name, of in splits.items()
            }
        )

    assert load_named(make()).keys() == {"train", "validation"}
    assert "dataset[test]: all labels are -1, no labels: the split is left out" in caplog.text
    with pytest.raises(DataError, match="row 0: label out of range: label -1, known are 0 to 1 .*-1 marks a row"):
        load_named(make(), splits=["train", "test"])
    splits["test"] += rows
    with pytest.raises(DataError, match="-1 marks a row without a label") as caught:
        load_named(make())
    assert "All labels" not in str(caught.value), "of which the one in question is none"
    splits["test"] = [("e", 0)]
    splits["train"] = [("e", -1), ("f", -1)]
    with pytest.raises(DataError, match="label -1"):
        load_named(make())


def test_columns_of_a_library_data_set(tmp_path):
    data = library(datasets.Value("float32"), ROWS, ROWS)
    with pytest.raises(DataError, match="no column 'txt'; there are 'text', 'id', 'label'; the nearest is 'text'"):
        load_named(data, text_column="txt")
    with pytest.raises(DataError, match="holds no strings"):
        load_named(data, text_column="id")
    with pytest.raises(DataError, match="labels are ClassLabel, strings, integers or bools"):
        load_named(data)
    with pytest.raises(UserError, match="cannot be loaded"):
        load_named(str(tmp_path / "nowhere"))
    del data["train"]
    with pytest.raises(DataError) as caught:
        load_named(data, label_column="id")
    assert caught.value.reason == Reason.NO_TRAIN_SPLIT


@pytest.mark.parametrize(
    ("content", "remedy"),
    [
        (
            "text;label\na;x\n",
            "Fields of a CSV file stand apart by commas, not ';': save it so, or with tabs as train.tsv",
        ),
        ("a fine day,x\nb,y\n", "a CSV file that begins with a row needs a line before that names them"),
    ],
)
def test_a_csv_file_of_another_kind(tmp_path, content, remedy):
    (tmp_path / "train.csv").write_text(content)
    with pytest.raises(DataError, match=f"no column 'text'.*{remedy}"):
        load_named(str(tmp_path))


def test_a_library_data_set_by_path_with_one_split_and_a_validation_held_out(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "named").mkdir()
    lines = [json.dumps({"words": f"text {number}", "kind": "ab"[number % 2]}) for number in range(100)]
    (tmp_path / "named" / "train.jsonl").write_text("\n".join(lines), encoding="utf-8")
    read = load_named(tmp_path / "named", text_column="words", label_column="kind")
    assert (len(read["train"]), len(read["validation"])) == (90, 10)
    only = load_named(
        tmp_path / "named", text_column="words", label_column="kind", splits="train", class_names=["b", "a"]
    )
    assert only["train"]["label"][:4] == [1, 0, 1, 0]


def test_what_the_library_cannot_load_is_one_line(tmp_path, command):
    """A last line that is cut, files of other columns, a file in place of its folder; and one split saved alone."""
    broken, tables = tmp_path / "broken", tmp_path / "tables"
    broken.mkdir()
    tables.mkdir()
    (broken / "train.jsonl").write_text('{"text": "a", "label": "x"}\n{"text": "b"')
    archives = {"tar": b"x" * 600, "zip": b"PK", "jsonl": b""}
    for kind, content in archives.items():
        (tmp_path / kind).mkdir()
        (tmp_path / kind / f"train.{kind}").write_bytes(content)
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "dataset_dict.json").write_text("{}")
    (tables / "train.tsv").write_text("good day\tpositive\n")
    (tables / "test.tsv").write_text("bad\tday\tnegative\n")
    for name, told in (
        (broken, "cannot be loaded"),
        (tmp_path / "saved", "cannot be loaded"),
        *((tmp_path / kind, "cannot be loaded") for kind in archives),
        (tables, "Give a folder with train.tsv as data_dir"),
        (broken / "train.jsonl", "cannot be loaded"),
        (tables / "train.tsv", "give a TSV file as data_dir"),
    ):
        code, out, err = command("train", "--dataset_name", name, "--output_dir", tmp_path / "out")
        assert (code, out) == (2, "") and told in err.splitlines()[-1], err
        assert "Traceback" not in err
    rows = {"text": [f"good day {number}" for number in range(20)], "label": ["x", "y"] * 10}
    datasets.Dataset.from_dict(rows).save_to_disk(tmp_path / "alone")
    assert len(load_named(tmp_path / "alone", validation_share=0)["train"]) == 20


@pytest.mark.parametrize("name", ["~", "/", "link", "."])
def test_all_that_there_is_makes_no_data_set(name, tmp_path, monkeypatch):
    """The library looks for tables in each folder of it, for as long as that takes."""

    def refuse(*args):
        raise AssertionError("somebody looks")

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path)
    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(UserError, match="is all that you have here: give a folder that holds a data set alone"):
        load_named(name)


def test_what_is_no_data_set_of_two_columns():
    rows = datasets.Dataset.from_dict({"text": ["a", "b"] * 20, "label": ["x", "y"] * 20})
    assert set(load_named(rows)) == {"train", "validation"}
    with pytest.raises(UserError, match="text and label are both column 'label'"):
        load_named(datasets.DatasetDict(train=rows), text_column="label")
    with pytest.raises(UserError, match="must be a Dataset, a DatasetDict, a name or a folder, found IterableDataset"):
        load_named(rows.to_iterable_dataset())


def test_every_seed_holds_out_rows_of_its_own():
    rows = datasets.Dataset.from_dict({"text": [f"text {n}" for n in range(200)], "label": ["x", "y"] * 100})
    held_out = {tuple(load_named(rows, seed=seed)["validation"]["text"]) for seed in (-2, -1, 0, 1, 2)}
    assert len(held_out) == 5
