"""Texts named by settings: a data set of the library gives what the same rows in TSV files give, in every command."""

import json
import random

import pandas as pd
import polars as pl
import pytest
import torch
from conftest import invent_rows
from datasets import Dataset, DatasetDict
from safetensors.torch import load_file

from hf_rnn import FastRnn, distill, load_tsv, train
from hf_rnn.data import DataReport
from hf_rnn.data.loading import find_origins, load_texts
from hf_rnn.training.arguments.text_arguments import TableArguments
from hf_rnn.utils.errors import UserError


@pytest.fixture(scope="module")
def saved(texts_dir, tmp_path_factory):
    """The rows of `texts_dir` as other libraries keep them, with other column names."""
    folder = tmp_path_factory.mktemp("saved") / "moods"
    tables = load_tsv(texts_dir)
    DatasetDict({split: table.rename_columns({"text": "tweet", "label": "mood"}) for split, table in tables.items()}
    ).save_to_disk(folder)  # fmt: skip
    return folder


def test_a_data_set_trains_the_very_model_of_the_files(saved, tiny_settings, tmp_path, trained):
    settings = {**tiny_settings, "data_dir": None, "dataset_name": str(saved)}
    result = train(**settings, text_column="tweet", label_column="mood", output_dir=str(tmp_path / "out"))
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (result.folder, trained.folder))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert result.metrics["test"] == trained.metrics["test"]
    assert result.card.dataset_name == "moods"
    assert result.card.dataset_id is None, "a local path is no id of the Hub"
    assert "--dataset_name moods" in result.card.command
    assert str(saved) not in (result.folder / "training_args.json").read_text()


def test_evaluate_and_audit_take_it_too(saved, texts_dir, trained, command):
    columns = ("--text_column", "tweet", "--label_column", "mood")
    code, told, _ = command("evaluate", "--model", trained.folder, "--dataset_name", saved, *columns)
    assert code == 0
    _, expected, _ = command("evaluate", "--model", trained.folder, "--data_dir", texts_dir)
    assert json.loads(told) == json.loads(expected)
    code, told, _ = command("audit", "--dataset_name", saved, *columns, "--json")
    assert code == 0
    _, expected, _ = command("audit", "--data_dir", texts_dir, "--json")
    assert json.loads(told)["summary"] == json.loads(expected)["summary"]


def test_evaluate_shows_the_labels_of_a_data_set_that_has_others(tmp_path, trained, command):
    for split in ("train", "test"):
        (tmp_path / f"{split}.csv").write_text("text,label\na,good\nb,awful\n")
    code, out, err = command("evaluate", "--model", trained.folder, "--dataset_name", tmp_path)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "known are 'bad', 'good', 'plain'" in err and err.endswith("All labels in test: 'awful', 'good'\n")


def test_csv_files_in_a_folder(tmp_path):
    for split in ("train", "test"):
        (tmp_path / f"{split}.csv").write_text('text,label\n"a, b",good\nc,bad\nNA,good\nd,bad\n')
    with pytest.raises(UserError, match="train.*2.*"):  # the library reads NA as no text at all: refused, not lost
        load_texts(TableArguments(dataset_name=str(tmp_path)))
    texts = load_texts(TableArguments(dataset_name=str(tmp_path), max_bad_rows="2"), validation_share=0)
    assert texts["train"]["text"][:] == ["a, b", "c", "d"]
    assert texts["train"].features["label"].names == ["bad", "good"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--dataset_name", "{saved}"), "'text'.*tweet"),
        (("--dataset_name", "{saved}", "--text_column", "tweet", "--label_column", "moods"), "'moods'"),
        (("--dataset_name", "{saved}/nowhere/at-all"), "cannot be loaded"),
        (("--dataset_name", "{saved}", "--data_dir", "."), "both set"),
        (("--dataset_name", ""), "the name of the data set is empty"),
        ((), "data_dir is not set"),
    ],
)
def test_mistakes_are_one_line(saved, tmp_path, command, flags, message):
    import re

    code, out, err = command("train", *(flag.format(saved=saved) for flag in flags), "--output_dir", tmp_path / "o")
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1 and re.search(message, err), err
    assert not (tmp_path / "o").exists()


def test_lines_are_known_only_where_no_row_is_missing(tmp_path):
    (tmp_path / "train.tsv").write_text("a\tx\nb\ty\n\tx\nc\tx\nd\ty\n")
    (tmp_path / "dev.tsv").write_text("text\tlabel\ne\tx\n")
    arguments, report = TableArguments(data_dir=str(tmp_path), max_bad_rows="2"), DataReport()
    load_texts(arguments, report=report)
    assert report.rows_rejected == 2
    assert find_origins(arguments, report) == {}
    (tmp_path / "dev.tsv").write_text("e\tx\nf\ty\n")
    load_texts(arguments, report=report)
    origins = find_origins(arguments, report)
    assert {name: (origin.file, list(origin.lines)) for name, origin in origins.items()} == {
        "validation": (str(tmp_path / "dev.tsv"), [1, 2])
    }


def columns_of(splits):
    return {split: [rows["text"][:], rows["label"][:], rows.features["label"].names] for split, rows in splits.items()}


FORMS = {
    "dict": lambda rows: [{"text": text, "label": label, "more": None} for text, label in rows],
    "dataset": lambda rows: Dataset.from_list(FORMS["dict"](rows)),
    "pandas": lambda rows: pd.DataFrame(rows, columns=["text", "label"]).sample(frac=1, random_state=0).sort_index(),
    "categories": lambda rows: pd.DataFrame(rows, columns=["text", "label"]).astype({"label": "category"}),
    "polars": lambda rows: pl.DataFrame(rows, schema=["text", "label"], orient="row"),
    "polars categories": lambda rows: FORMS["polars"](rows).with_columns(pl.col("label").cast(pl.Categorical)),
    "pairs": list,
}


@pytest.mark.parametrize(
    ("form", "integers"), [*((form, False) for form in FORMS), ("dict", True), ("categories", True), ("polars", True)]
)
def test_rows_in_memory_are_read_like_files(form, integers, tmp_path):
    rows = invent_rows(60, seed=5)
    numbers = {label: number for number, label in enumerate(sorted({label for _, label in rows}), start=3)}
    rows = [(text, numbers[label] if integers else label) for text, label in rows]
    (tmp_path / "train.tsv").write_text("".join(f"{text}\t{label}\n" for text, label in rows), encoding="utf-8")
    memory, file, rejected = DataReport(), DataReport(), tmp_path / "rejected.jsonl"
    bad = ("", rows[0][1])
    data = {"train": FORMS[form](rows), "validation": FORMS[form]([*rows[:9], bad])}
    found = load_texts(TableArguments(max_bad_rows="1"), data=data, report=memory, rejected_path=rejected)
    expected = load_texts(TableArguments(data_dir=str(tmp_path)), report=file, validation_share=0)
    assert columns_of({"train": found["train"]}) == columns_of(expected)
    assert memory.splits["train"].label_counts == file.splits["train"].label_counts
    assert (memory.splits["validation"].rows_kept, memory.rows_rejected) == (9, 1)
    assert json.loads(rejected.read_text(encoding="utf-8"))["line"] == 9
    again = DataReport()
    load_texts(TableArguments(max_bad_rows="1"), data=data, report=again)
    assert again.fingerprint == memory.fingerprint


@pytest.mark.parametrize(("suffix", "split"), [("csv", "train"), ("jsonl", "test"), ("parquet", "train")])
@pytest.mark.parametrize("setting", ["data_dir", "dataset_name"])
def test_a_single_file_of_records(suffix, split, setting, tmp_path):
    rows = [("NA", "good"), ("none, too", "bad"), ("null", "good")]
    frame = pl.DataFrame(rows, schema=["text", "label"], orient="row")
    path = tmp_path / f"moods.{suffix}"
    {"csv": frame.write_csv, "jsonl": frame.write_ndjson, "parquet": frame.write_parquet}[suffix](path)
    found = load_texts(
        TableArguments(**{setting: str(path)}), class_names=["bad", "good"], splits=[split], validation_share=0
    )
    assert columns_of(found) == {split: [[text for text, _ in rows], [1, 0, 1], ["bad", "good"]]}
    with pytest.raises(UserError, match="header"):
        load_texts(TableArguments(**{setting: str(path)}, header=True))


def test_columns_of_nested_records_have_dots(tmp_path):
    rows = [{"id": 1, "fields": {"text": text, "mood": {"name": mood}}} for text, mood in invent_rows(30, seed=6)]
    (tmp_path / "moods.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    names = {"text_column": "fields.text", "label_column": "fields.mood.name"}
    expected = load_texts(TableArguments(), data={"train": invent_rows(30, seed=6)}, validation_share=0)
    file = load_texts(TableArguments(data_dir=str(tmp_path / "moods.jsonl"), **names), validation_share=0)
    memory = load_texts(TableArguments(**names), data={"train": rows}, validation_share=0)
    assert columns_of(file) == columns_of(memory) == columns_of(expected)
    with pytest.raises(UserError, match="'fields.mood.name'"):
        load_texts(TableArguments(text_column="fields.words", label_column="fields.mood.name"), data={"train": rows})


def test_rows_in_memory_train_the_very_model_of_the_files(texts_dir, tiny_settings, tmp_path, trained, teacher):
    tables = load_tsv(texts_dir)
    frames = {split: table.map(lambda row: row).to_pandas() for split, table in tables.items()}
    names = tables["train"].features["label"].names
    for frame in frames.values():
        frame["label"] = [names[number] for number in frame["label"]]
    settings = {**tiny_settings, "data_dir": None}
    result = train(**frames, **settings, output_dir=str(tmp_path / "out"))
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (result.folder, trained.folder))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    few = {"num_train_epochs": 1, "baselines": False, "output_dir": str(tmp_path / "student")}
    student = distill(train=tables, **{**settings, **few}, teacher=str(teacher))
    assert student.metrics["teacher"]["rows"]["train"] == len(tables["train"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"validation": [("a", "x")]}, "validation in memory without train"),
        ({"train": DatasetDict(), "test": []}, "put test there"),
        ({"train": [("a", "x"), ("b", "y")], "data_dir": "moods"}, "give one of them"),
        ({"train": ["only texts"]}, "pairs"),
        ({"train": [("a", "x"), ("b", 1)]}, "pairs"),
    ],
)
def test_rows_in_memory_that_make_no_data_set(given, message, tmp_path):
    with pytest.raises(UserError, match=message):
        train(**given, output_dir=str(tmp_path))


def test_characters_learn_what_words_cannot(tmp_path):
    draw = random.Random(0)
    signs, rows = [chr(0x4E00 + number) for number in range(40)], []
    for number in range(300):
        text = draw.choices(signs, k=12)
        text.insert(draw.randrange(12), "喜欢" if number % 2 else "讨厌")
        rows.append(("".join(text), number % 2))
    settings = {"tokenizer": "char", "hidden_size": 16, "embedding_size": 16, "learning_rate": 0.01, "use_cpu": True}
    result = train(train=rows, **settings, num_train_epochs=6, output_dir=str(tmp_path), baselines=False)
    assert result.metrics["validation"]["accuracy"] > 0.9
    assert FastRnn.from_pretrained(result.folder).predict(["天地喜欢。", "讨厌天地"])[0]["label"] == "1"
