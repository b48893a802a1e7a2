"""Mistakes of the first hour: each message names what to type next, and the last case of each line types it."""

import csv
import json
import re

import pytest
from conftest import invent_rows, write_rows


@pytest.fixture(scope="module")
def room(texts_dir, tmp_path_factory):
    """A folder to work in, with `texts`, and the same training rows as CSV files."""
    folder = tmp_path_factory.mktemp("room")
    (folder / "texts").symlink_to(texts_dir)
    (folder / "no_test").mkdir()
    for name in ("train", "dev"):
        write_rows(folder / "no_test" / f"{name}.tsv", invent_rows(60, seed=1))
    (folder / "records").mkdir()
    for name, header in (("records/train.csv", ("text", "label")), ("mine.csv", ("remark", "stars"))):
        with open(folder / name, "w", newline="") as file:
            csv.writer(file).writerows([header, *invent_rows(60, seed=1)])
    return folder


@pytest.fixture
def fails(command, room, monkeypatch):
    """Run a command line that fails in one line; return its message."""
    monkeypatch.chdir(room)

    def run(line):
        code, out, err = command(*line.split())
        assert (code, out) == (2, "") and "Traceback" not in err, err
        return err.splitlines()[-1]

    return run


TRAIN = "train texts out"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train", "--data_dir is missing: type hf-rnn train DATA_DIR, such as: hf-rnn train tickets.csv my-model"),
        ("distill texts", "--teacher is missing: type hf-rnn distill texts TEACHER"),
        (f"{TRAIN} --dropout 0.3", "Did you mean --embedding_dropout or --word_dropout or --hidden_dropout or"),
        ("train mine.csv out", "found 'remark', 'stars'; name one of them with --text_column"),
    ],
)
def test_the_message_names_the_next_line(fails, line, message):
    assert message in fails(line)


SMALL = "--recipe scratch --num_train_epochs 1 --hidden_size 4 --embedding_size 4 --use_cpu"


@pytest.mark.parametrize(
    "data",
    ["mine.csv --text_column remark --label_column stars", "--dataset_name records", "records"],
)
def test_what_the_messages_name_works(command, room, tmp_path, monkeypatch, data):
    monkeypatch.chdir(room)
    code, out, err = command("train", *data.split(), tmp_path / "out", *SMALL.split(), "--cell_type", "LSTM")
    assert code == 0, err
    assert json.loads(out)["output_dir"] == str(tmp_path / "out"), "JSON, as this is no terminal"
    assert json.loads((tmp_path / "out" / "config.json").read_text())["cell_type"] == "lstm"


@pytest.mark.parametrize("suffix", [".csv", ".xlsx"])
def test_a_table_alone_trains(command, tmp_path, monkeypatch, suffix):
    """The first line of the README: columns are found, and the folder is named after the table."""
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("openpyxl", reason="writes the sheet") if suffix == ".xlsx" else None
    monkeypatch.chdir(tmp_path)
    table = pandas.DataFrame(invent_rows(60, seed=1), columns=["message", "category"])
    table.to_csv("tickets.csv", index=False) if suffix == ".csv" else table.to_excel("tickets.xlsx", index=False)
    code, out, err = command("train", f"tickets{suffix}", *SMALL.split())
    assert code == 0 and "text from column 'message'" in err, err
    assert json.loads(out)["output_dir"].startswith("tickets-")


def test_a_split_that_is_missing_is_named_with_another(fails, command, trained):
    line = f"evaluate {trained.folder} no_test"
    offered = re.search("take (--split validation)", fails(line))[1]
    assert command(*line.split(), *offered.split())[0] == 0


# ---- the summary of a terminal ----


def test_the_summary_has_two_lines_with_simpler_models(trained):
    pytest.importorskip("sklearn", reason="the linear model needs scikit-learn")
    first, second = trained.summarize().splitlines()
    (linear,) = trained.card.baselines.values()
    expected = [
        scores[name] for scores in (trained.metrics["test"], linear["test"]) for name in ("accuracy", "macro_f1")
    ]
    expected.append(20 / 60)
    assert [float(number) for number in re.findall(r"\d\.\d{3}", first)] == pytest.approx(expected, abs=6e-4)
    assert first.startswith("test: accuracy ") and f"hf-rnn predict {trained.folder} --text" in second


def test_a_terminal_gets_the_summary_unless_it_asks_for_json(command, room, tmp_path, monkeypatch):
    monkeypatch.chdir(room)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setattr("hf_rnn.training.train.train", lambda **settings: Result())
    assert command("train", "texts", tmp_path / "out", *SMALL.split())[1] == "two\nlines\n"
    assert json.loads(command("train", "texts", tmp_path / "out", *SMALL.split(), "--json")[1]) == {"output_dir": "x"}


class Result:
    folder, url, metrics, summarize = "x", None, {}, lambda self: "two\nlines"


# ---- the figure of inspect ----


def test_the_figure_is_written(command, trained, tmp_path):
    pytest.importorskip("matplotlib", reason="figures need matplotlib")
    call = ("inspect", trained.folder, "--text", "miro sand", "--figure", tmp_path / "new" / "gates.png")
    assert command(*call)[0] == 0
    assert (tmp_path / "new" / "gates.png").read_bytes().startswith(b"\x89PNG")
