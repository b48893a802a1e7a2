"""Files, memory and data sets become splits with labels, a validation split and fingerprints."""

import gzip
import json
import logging
import re

import datasets
import numpy as np
import pandas as pd
import polars as pl
import pytest
from conftest import invent_rows
from datasets import Dataset, DatasetDict
from hypothesis import given
from hypothesis import strategies as st
from tsv_files import GOOD, NAMES, load_train, write

from hf_rnn import train
from hf_rnn.data import TableArguments, splits
from hf_rnn.data.errors import Reason
from hf_rnn.data.load import load_texts, load_tsv
from hf_rnn.data.report import DataReport
from hf_rnn.data.splits import hold_out
from hf_rnn.utils.errors import DataError, UserError


@pytest.mark.parametrize("dev", ["dev.tsv", "validation.tsv"])
def test_a_folder_has_splits_by_name(tmp_path, dev, caplog):
    for name, rows in (("train.tsv", 3), (dev, 2), ("test.tsv", 1), ("more.tsv", 1)):
        write(tmp_path / name, GOOD * rows)
    read = load_tsv(tmp_path)
    assert {split: len(rows) for split, rows in read.items()} == {
        "train": 6,
        "validation": 4,
        "test": 2,
    }
    assert list(read) == ["train", "validation", "test"] and "not read: more.tsv" in caplog.text
    assert load_tsv(tmp_path, splits=["dev"], class_names=NAMES).keys() == {"validation"}
    with pytest.raises(UserError, match="class names"):
        load_tsv(tmp_path, splits="test")
    write(tmp_path / ("dev.tsv" if dev == "validation.tsv" else "validation.tsv"), GOOD)
    with pytest.raises(UserError, match="both 'dev' and 'validation'"):
        load_tsv(tmp_path)


def test_gzip_files_are_read_as_what_they_hold(tmp_path):
    write(tmp_path / "train.tsv.gz", gzip.compress(GOOD * 2_000))
    write(tmp_path / "dev.tsv", GOOD)
    plain = load_tsv(
        {"train": write(tmp_path / "plain.tsv", GOOD * 2_000), "dev": tmp_path / "dev.tsv"}
    )
    assert load_tsv(tmp_path)["train"][:] == plain["train"][:]
    write(tmp_path / "train.tsv", GOOD)
    with pytest.raises(UserError, match="keep the whole file"):
        load_tsv(tmp_path)
    one, two = write(tmp_path / "1.tsv", GOOD), write(tmp_path / "2.tsv", b"x\tneutral\n")
    assert [text for text, _ in load_train([two, one])] == ["x", "good day", "bad day"]
    cut = write(tmp_path / "cut.tsv.gz", gzip.compress(GOOD * 2_000)[:-9])
    with pytest.raises(DataError, match="damaged"):
        load_tsv(cut)


def test_a_folder_without_train(tmp_path):
    write(tmp_path / "dev.tsv", GOOD)
    with pytest.raises(
        DataError, match=r"validation in the files dev\.tsv; name .* train\.tsv"
    ) as caught:
        load_tsv(tmp_path)
    assert caught.value.reason == Reason.NO_TRAIN_SPLIT


@given(
    st.lists(st.integers(0, 60), min_size=2, max_size=5),
    st.sampled_from([0.1, 0.25, 0.5]),
    st.integers(-5, 5),
)
def test_each_class_has_rows_in_both_parts(counts, share, seed):
    classes = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    held = hold_out([f"text {row}" for row in range(len(classes))], classes, share, seed)
    for label, count in enumerate(counts if len(classes) >= 20 else ()):
        found = int(held[classes == label].sum())
        assert count < 2 or (
            1 <= found < count and share * count / 2 <= found <= max(1, 2 * share * count)
        )
    assert len(classes) >= 20 or not held.any()


def test_a_text_stays_on_its_side_when_others_come_and_go(monkeypatch):
    """Copies of it too; the share of all is that of the settings; only tiny classes move a row."""
    chance = np.random.default_rng(0)
    classes = chance.choice(30, 6_000, p=chance.dirichlet(np.ones(30) / 2))
    texts = [f"ticket {number % 5_500} of {number % 5_500 // 3}" for number in range(6_000)]
    copies = [text.upper() + " " * (number % 2) for number, text in enumerate(texts)]
    large = np.bincount(classes[:4_000], minlength=30)[classes[:4_000]] >= 50
    held = hold_out(texts, classes, 0.1, 0)
    assert 0.09 < held.mean() < 0.11 and (held == hold_out(copies, classes, 0.1, 0)).all()
    assert (held[:500] == held[5_500:]).all(), "copies with other labels"
    first, kept = hold_out(texts[:4_000], classes[:4_000], 0.1, 0), chance.permutation(4_000)[1:]
    removed = hold_out([texts[row] for row in kept], classes[kept], 0.1, 0)
    for moved, rows in ((held[:4_000] != first, slice(None)), (removed != first[kept], kept)):
        assert not moved[large[rows]].any() and moved.sum() <= 5
    assert (first != hold_out(texts[:4_000], classes[:4_000], 0.1, 1)).mean() > 0.1, "another seed"
    repeated = hold_out(["one text"] * 50 + texts[:50], np.zeros(100, dtype=int), 0.1, 0)
    assert not repeated[:50].any() and repeated.any(), "a text of many rows stays in train"
    # a warning says what it means
    copies = hold_out(["one text", "another"] * 50, np.arange(100) % 2, 0.1, 0)
    assert all(0 < copies[label::2].sum() <= 10 for label in (0, 1))
    crossed = [f"text {(label + (row > 0)) % 5}" for label in range(5) for row in range(10)]
    some = hold_out(crossed, np.repeat(np.arange(5), 10), 0.1, 0)
    assert 0 < some.sum() <= 10, (
        "each text is rare in one class and frequent in another: train keeps rows"
    )
    monkeypatch.setattr(splits, "MOST_HELD_OUT", 300)
    fewer = hold_out(texts, classes, 0.1, 0)
    assert 200 < fewer.sum() < 350 and held[fewer].mean() > 0.95


def test_validation_is_held_out_of_train(tmp_path, caplog):
    content = "".join(f"text {number}\t{'aab'[number % 3]}\n" for number in range(300)).encode()
    path, report = write(tmp_path / "train.tsv", content), DataReport()
    read = load_tsv(path, report=report)
    rows = len(read["validation"])
    assert report.held_out == {"share": 0.1, "seed": 0, "rows": rows} and 15 <= rows <= 60
    counts = {split: np.bincount(rows["label"]).tolist() for split, rows in read.items()}
    assert counts == report.label_counts and np.sum(list(counts.values()), axis=0).tolist() == [
        200,
        100,
    ]
    both = [row["text"] for split in read.values() for row in split]
    assert sorted(both) == sorted(f"text {number}" for number in range(300)), "each row once"
    assert f"{rows} of 300 rows of train are held out" in caplog.text
    assert (
        load_tsv(path)["validation"][:]
        == read["validation"][:]
        != load_tsv(path, seed=1)["validation"][:]
    )
    assert load_tsv(tmp_path, validation_share=0).keys() == {"train"}
    with pytest.raises(UserError, match="validation_share"):
        load_tsv(path, validation_share=0.9)


@pytest.mark.parametrize(
    ("header", "options", "columns", "guesses"),
    [
        ("text,label", {}, ("text", "label"), 0),
        ("message,category", {}, ("message", "category"), 2),
        ("post,mood", {"text_column": "post"}, ("post", "mood"), 1),
        (
            "message,category",
            {"text_column": "message", "label_column": 1},
            ("message", "category"),
            0,
        ),
    ],
)
def test_the_chosen_columns_are_recorded_and_logged(
    tmp_path, caplog, header, options, columns, guesses
):
    (tmp_path / "a.csv").write_text(f"{header}\n" + "good day,positive\nbad day,negative\n" * 2)
    report = DataReport()
    with caplog.at_level(logging.INFO):
        load_tsv(tmp_path / "a.csv", report=report, **options)
    assert report.columns == {"text": columns[0], "label": columns[1]}
    (line,) = [message for message in caplog.messages if "from column" in message]
    assert (
        line.startswith(f"{tmp_path / 'a.csv'}: text from column {columns[0]!r}")
        and line.count("guess") == guesses
    )


def test_the_columns_of_a_model_are_preferred_by_audit_and_train(copy, tmp_path, command):
    rows = [(text, label) for text, label in invent_rows(30, seed=1)]
    pd.DataFrame(
        [(f"other {n}", *row) for n, row in enumerate(rows)],
        columns=["text", "message", "category"],
    ).to_csv(tmp_path / "a.csv", index=False)
    columns = {"data": {"text_column": "message", "label_column": "category"}}
    (copy / "metrics.json").write_text(
        json.dumps(json.loads((copy / "metrics.json").read_text()) | columns)
    )
    code, _, err = command("audit", "--data_dir", tmp_path / "a.csv", "--model_name_or_path", copy)
    assert code == 0 and "text from column 'message', label from column 'category'\n" in err
    assert (
        "text from column 'text'"
        in command("audit", "--data_dir", tmp_path / "a.csv", "--recipe", "scratch")[2]
    )
    start = {"model_name_or_path": copy, "max_steps": 1, "baselines": False, "use_cpu": True}
    assert (
        train(tmp_path / "a.csv", tmp_path / "out", **start).metrics["data"]["text_column"]
        == "message"
    )


def columns_of(read):
    return {
        split: [rows["text"][:], rows["label"][:], rows.features["label"].names]
        for split, rows in read.items()
    }


FORMS = {
    "dicts": lambda rows: [{"text": text, "label": label, "more": None} for text, label in rows],
    "dataset": lambda rows: Dataset.from_list(FORMS["dicts"](rows)),
    "pandas": lambda rows: pd.DataFrame(rows, columns=["text", "label"]),
    "categories": lambda rows: pd.DataFrame(rows, columns=["text", "label"]).astype(
        {"label": "category"}
    ),
    "polars": lambda rows: pl.DataFrame(rows, schema=["text", "label"], orient="row"),
    "pairs": list,
}


@pytest.mark.parametrize(
    ("form", "integers"),
    [*((form, False) for form in FORMS), ("dicts", True), ("categories", True)],
)
def test_rows_in_memory_are_read_like_files(form, integers, tmp_path):
    rows = invent_rows(60, seed=5)
    numbers = {
        label: number for number, label in enumerate(sorted({label for _, label in rows}), start=3)
    }
    rows = [(text, numbers[label] if integers else label) for text, label in rows]
    (tmp_path / "train.tsv").write_text(
        "".join(f"{text}\t{label}\n" for text, label in rows), encoding="utf-8"
    )
    memory, rejected = DataReport(), tmp_path / "rejected.jsonl"
    data = {"train": FORMS[form](rows), "validation": FORMS[form]([*rows[:9], ("", rows[0][1])])}
    found = load_texts(
        TableArguments(max_bad_rows="1"), data=data, report=memory, rejected_path=rejected
    )
    expected = load_texts(TableArguments(data_dir=str(tmp_path)), validation_share=0)
    assert columns_of({"train": found["train"]}) == columns_of(expected)
    assert (memory.splits["validation"].rows_kept, memory.rows_rejected) == (9, 1)
    assert json.loads(rejected.read_text(encoding="utf-8"))["line"] == 9


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("split", ["", "train"])
def test_a_folder_or_a_file_for_each_label(tmp_path, whole, split):
    for label, texts in {
        "pos": ["good\nday", "fine"],
        "neg": ["bad day", "é"],
        "unsup": ["x", "y"],
    }.items():
        if whole:
            (tmp_path / split / label).mkdir(parents=True)
            for number, text in enumerate(texts):
                (tmp_path / split / label / f"{number}.txt").write_text(
                    text + "\n", encoding="utf-8"
                )
        elif label != "unsup":
            (tmp_path / split).mkdir(exist_ok=True)
            (tmp_path / split / f"{label}.txt").write_text(
                "\n".join(texts).replace("good\n", "good "), "utf-8"
            )
    train = load_tsv(tmp_path, validation_share=0)["train"]
    assert train.features["label"].names == ["neg", "pos"] and train["label"][:] == [0, 0, 1, 1]
    assert train["text"][:] == ["bad day", "é", "good\nday" if whole else "good day", "fine"]


def test_columns_of_nested_records_have_dots(tmp_path):
    rows = [
        {"id": 1, "fields": {"text": text, "mood": {"name": mood}}}
        for text, mood in invent_rows(30, seed=6)
    ]
    (tmp_path / "moods.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
    )
    names = {"text_column": "fields.text", "label_column": "fields.mood.name"}
    expected = load_texts(
        TableArguments(), data={"train": invent_rows(30, seed=6)}, validation_share=0
    )
    file = load_texts(
        TableArguments(data_dir=str(tmp_path / "moods.jsonl"), **names), validation_share=0
    )
    memory = load_texts(TableArguments(**names), data={"train": rows}, validation_share=0)
    assert columns_of(file) == columns_of(memory) == columns_of(expected)
    with pytest.raises(UserError, match="'fields.words'"):
        load_texts(TableArguments(**names | {"text_column": "fields.words"}), data={"train": rows})


def test_commands_take_a_data_set_of_the_library(texts_dir, trained, tmp_path, command):
    tables = load_tsv(texts_dir)
    saved = DatasetDict(
        {
            split: table.rename_columns({"text": "tweet", "label": "mood"})
            for split, table in tables.items()
        }
    )
    saved.save_to_disk(tmp_path / "moods")
    columns = (
        "--dataset_name",
        tmp_path / "moods",
        "--text_column",
        "tweet",
        "--label_column",
        "mood",
    )
    for verb in (("evaluate", "--model", trained.folder), ("audit", "--json")):
        found, expected = (
            command(*verb, *source) for source in (columns, ("--data_dir", texts_dir))
        )
        assert (found[0], expected[0]) == (0, 0)
        found, expected = (json.loads(output) for _, output, _ in (found, expected))
        assert found.get("summary") == expected.get("summary") and found.get(
            "accuracy"
        ) == expected.get("accuracy")
    code, out, err = command("train", *columns[:5], "feeling", "--output_dir", tmp_path / "out")
    reading, error = err.splitlines()
    assert (code, out) == (2, "") and reading.startswith("reading ")
    assert "'feeling'" in error and "mood" in error


# ---- data sets of the library, under the same contract as files ----


SPACED = [(" spaces stay ", 2), ("tabs\tand\nlines too", 0), ("NA", 1)]


def make_splits(label_feature, **splits):
    features = datasets.Features(
        text=datasets.Value("string"), id=datasets.Value("int32"), label=label_feature
    )
    return datasets.DatasetDict(
        {
            split: datasets.Dataset.from_list(
                [
                    {"text": text, "id": number, "label": label}
                    for number, (text, label) in enumerate(rows)
                ],
                features,
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
    rows = [(text, convert(label)) for text, label in SPACED]
    data = make_splits(feature, train=rows, dev=rows[:2], unsupervised=rows)
    data.save_to_disk(tmp_path / "saved")
    for source in (data, tmp_path / "saved"):
        read = load_tsv(source)
        assert set(read) == {"train", "validation"} and "unsupervised" in caplog.text
        assert read["train"].features["label"].names == names
        expected = [
            names[label] if isinstance(feature, datasets.ClassLabel) else str(label)
            for _, label in rows
        ]
        assert [row["text"] for row in read["train"]] == [text for text, _ in rows]
        assert [names[row["label"]] for row in read["train"]] == expected


def test_bad_rows(tmp_path):
    bad = [("a", 0), (None, 1), ("", 1), (" \t ", 1), ("a\0", 1), ("b", None), ("c", -1), ("d", 1)]
    data = make_splits(datasets.ClassLabel(names=["n", "p"]), train=bad, dev=bad[:1])
    report, listed = DataReport(), tmp_path / "rejected.jsonl"
    read = load_tsv(data, max_bad_rows=6, rejected_path=listed, report=report)
    assert read["train"].to_list() == [{"text": "a", "label": 0}, {"text": "d", "label": 1}]
    records = [json.loads(line) for line in listed.open()]
    reasons = [Reason.EMPTY_TEXT] * 2 + [
        Reason.BLANK_TEXT,
        Reason.NUL,
        Reason.EMPTY_LABEL,
        Reason.UNKNOWN_LABEL,
    ]
    assert [(record["line"], record["reason"]) for record in records] == list(enumerate(reasons, 1))
    assert {record["file"] for record in records} == {"dataset[train]"}
    with pytest.raises(DataError, match=re.escape("dataset[train] row 1: empty text")):
        load_tsv(data)


def test_a_split_without_labels_is_left_out(caplog):
    """Benchmarks publish their test split so; with some labels, it lacks those of single rows."""
    rows, blank = [("a", 0), ("b", 1), ("c", 1), ("d", 0)], [("e", -1), ("f", -1)]
    feature = datasets.ClassLabel(names=["n", "p"])
    data = make_splits(feature, train=rows, validation=rows, test=blank)
    assert (
        set(load_tsv(data)) == {"train", "validation"}
        and "dataset[test] is left out" in caplog.text
    )
    for source, options in (
        (data, {"splits": ["train", "test"]}),
        (make_splits(feature, train=rows, validation=rows, test=blank + rows), {}),
        (make_splits(feature, train=blank, validation=rows), {}),
    ):
        with pytest.raises(DataError, match="row 0: unknown label: label '-1'"):
            load_tsv(source, **options)


def test_unusable_columns_and_sources(tmp_path):
    data = make_splits(datasets.Value("float32"), train=SPACED, dev=SPACED)
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


# ---- labels become class ids; labels that make no classes are refused ----


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
    by_name, by_number = (
        write(tmp_path / "n.tsv", GOOD),
        write(tmp_path / "i.tsv", b"good day\t0\nbad day\t2\n"),
    )
    for path in (by_name, by_number):
        train = load_tsv({"train": path}, splits="train", class_names=names)["train"]
        assert (train.features["label"].names, train["label"][:]) == (names, [0, 2])
    assert "0 = positive, 1 = neutral, 2 = negative" in caplog.text
    numbers = write(tmp_path / "o.tsv", b"a\t2\nb\t1\n")  # here integers are the names themselves
    assert load_tsv({"train": numbers}, splits="train", class_names=["2", "1"])["train"]["label"][
        :
    ] == [0, 1]


def test_a_label_map_translates_labels(tmp_path):
    path, names = write(tmp_path / "train.tsv", b"a\t0\nb\t1\nc\tgood\n"), ["bad", "good"]
    options = {"splits": "train", "class_names": names}
    assert load_tsv(path, **options, label_map={"0": "good", "1": "bad"})["train"]["label"][:] == [
        1,
        0,
        1,
    ]
    with pytest.raises(UserError, match="'fair'"):
        load_tsv(path, **options, label_map={"0": "fair"})
    path = write(tmp_path / "train.tsv", b"a\t0\nb\t1\n")
    # integers do not index the names here
    with pytest.raises(UserError, match="--label_map 0=NAME 1=NAME"):
        load_tsv(path, **options, label_map={})


@pytest.mark.parametrize("label", ["3", "-1", "01", "x"])
@pytest.mark.parametrize("names", [None, ["a", "b", "c"]])
def test_a_label_that_train_lacks_is_rejected_in_other_splits(tmp_path, label, names):
    train = write(tmp_path / "train.tsv", b"a\t0\nb\t1\nc\t2\nd\t1\n")
    dev = write(tmp_path / "dev.tsv", f"a\t0\nb\t{label}\n".encode())
    with pytest.raises(DataError, match=f"unknown label: label '{label}', known are") as caught:
        load_tsv({"train": train, "dev": dev}, class_names=names)
    assert (caught.value.path, caught.value.line) == (dev, 2)


def test_other_labels_than_classes_name_their_task(tmp_path):
    numbers = [("a text", str(number / 7)) for number in range(100)]
    with pytest.raises(UserError, match="--task regression"):
        load_tsv({"train": numbers})
    lists = [{"text": "a text", "label": ["one", "two"]}, {"text": "another", "label": ["two"]}]
    with pytest.raises(UserError, match="--task multi-label"):
        load_tsv({"train": lists})


def test_swapped_columns_are_reported(tmp_path):
    content = b"".join(b"x\ttext %d\n" % number for number in range(60))
    with pytest.raises(UserError, match="swapped"):
        load_train(write(tmp_path / "train.tsv", content))
