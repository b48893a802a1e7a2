"""Texts named by settings: a data set of the library gives what the same rows in TSV files give, in every command."""

import json

import pytest
import torch
from datasets import DatasetDict
from safetensors.torch import load_file

from hf_rnn import load_tsv, train
from hf_rnn.arguments.text_arguments import TableArguments
from hf_rnn.data import DataReport
from hf_rnn.errors import UserError
from hf_rnn.run.text_loading import find_origins, load_texts


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
