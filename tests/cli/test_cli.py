"""The command as a user types it: results on stdout, one line and code 2 for a mistake."""

import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys

import pandas
import pytest
from conftest import invent_rows, run_python, write_rows
from transformers import pipeline

from hf_rnn.cli.main import main

VERBS = ["train", "evaluate", "predict", "audit", "push", "export", "distill", "pretrain", "demo"]
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def mistake(result):
    """Return the message of a user's mistake, after checking that there is nothing else."""
    code, out, err = result
    assert (code, out) == (2, "") and "Traceback" not in err, err
    *_, last = err.splitlines()
    assert last.startswith("hf-rnn ") and ": error: " in last
    return last


def records(out):
    return [json.loads(line) for line in out.split("\n")[:-1]]


@pytest.fixture(scope="module")
def folder(trained):
    return str(trained.folder)


# ---- the command itself ----


HEAVY = {"torch", "transformers", "datasets", "evaluate", "pandas", "sklearn"}
PROGRAM = """
import contextlib, io, json, sys
from hf_rnn.cli.main import main
stdout = io.TextIOWrapper(io.BytesIO())
with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(io.StringIO()):
    codes = [main(line) for line in json.loads(sys.argv[1])]
print(json.dumps([codes, sorted(sys.modules)]))
"""


def run_lines(*lines):
    """Return the exit codes of command lines in one new process, and the modules loaded."""
    codes, modules = json.loads(run_python(PROGRAM, json.dumps(lines), env=ENVIRONMENT))
    return codes, set(modules)


def test_helps_and_mistakes_load_nothing_heavy(texts_dir, tmp_path):
    helps = [["--help"], *([verb, "--help"] for verb in VERBS), ["train", "--help_all"]]
    mistakes = [["train", str(texts_dir), "--learning_rat", "1"], ["train", "nowhere", "out"]]
    mistakes += [["train", str(texts_dir), "out", "--model_name_or_path", "no/such/folder"]]
    mistakes += [
        ["predict", str(tmp_path / "nowhere"), "x"],
        ["evaluate", str(tmp_path), str(texts_dir)],
    ]
    mistakes += [["push", str(tmp_path), "me/x"], ["audit", "nowhere"]]
    (typo := tmp_path / "typo.yaml").write_text("hiden_size: 7\n")
    wrong = (
        "--learning_rate=-1",
        "--hidden_size=many",
        "--unheard_of=1",
        "--recipe=scrach",
        f"--recipe={typo}",
    )
    mistakes += [["train", str(texts_dir), "out", flag] for flag in wrong]
    codes, modules = run_lines(*helps, *mistakes)
    assert codes == [0] * len(helps) + [2] * len(mistakes)
    assert not HEAVY & modules


@pytest.mark.slow
def test_a_prediction_loads_no_training_library(folder, tmp_path):
    """For a table pyarrow imports pandas, where it is installed."""
    table = tmp_path / "in.csv"
    table.write_text("text\nso happy\n")
    heavy = {*HEAVY - {"torch", "transformers"}, "torch._dynamo", "transformers.modeling_utils"}
    for arguments, expected in (("so happy",), set()), (("--input", str(table)), {"pandas"}):
        codes, modules = run_lines(["predict", folder, *arguments])
        assert codes == [0]
        assert heavy & modules <= expected


@pytest.mark.skipif(sys.platform != "linux", reason="a device and limits of Linux")
@pytest.mark.parametrize(
    ("line", "code", "err"),
    [
        ("run --help > /dev/full", 2, "hf-rnn: error: [Errno 28] No space left on device"),
        # 0: it wrote before
        ("run --help | false; code=${PIPESTATUS[0]}; exit $((code == 0 ? 141 : code))", 141, ""),
        (
            "ulimit -f 1; run predict MODEL --input t.csv > o",
            2,
            "hf-rnn predict: error: [Errno 27] File too large: 'standard output'",
        ),
    ],
    ids=["full", "closed", "cut"],
)
def test_an_output_that_cannot_be_written(folder, tmp_path, line, code, err):
    (tmp_path / "t.csv").write_text("text\n" + "miro\n" * 200)
    run = (
        f'run() {{ env --unset PYTHONUNBUFFERED {shlex.quote(sys.executable)} -m hf_rnn "$@"; }}; '
    )
    command = ["bash", "-c", run + line.replace("MODEL", shlex.quote(folder))]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, cwd=tmp_path)
    assert (done.returncode, done.stderr.splitlines()[-1:]) == (code, [err] if err else [])


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb(command, verb):
    assert f"\n  {verb} " in command("--help")[1]
    short, whole = (command(verb, flag)[1] for flag in ("--help", "--help_all"))
    for out in (short, whole):
        assert out.startswith(f"usage: hf-rnn {verb}") and f"\nexample: hf-rnn {verb} " in out
        trains = verb in ("train", "distill", "pretrain")
        assert ("--hidden_size" in out, "--teacher" in out) == (
            trains,
            verb in ("distill", "pretrain"),
        )
    assert ("--crf" in whole) == (verb == "train"), "it does nothing elsewhere"
    assert len(short.splitlines()) <= 65 and short.index("essentials:") < short.index("\n  --")


@pytest.mark.slow
def test_output_is_utf8_in_any_locale(copy, monkeypatch):
    config = copy / "config.json"
    config.write_text(
        config.read_text(encoding="utf-8").replace('"good"', '"gut 🙂"'), encoding="utf-8"
    )
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    assert main(["predict", "--model", str(copy), "--text", "miro"]) == 0
    assert '"gut 🙂"' in out.buffer.getvalue().decode("utf-8")


# ---- train ----


def test_train_then_evaluate(command, texts_dir, tmp_path):
    flags = ["--num_train_epochs", 2, "--use_cpu"]
    code, out, err = command(
        "train", "--data_dir", texts_dir, "--output_dir", tmp_path / "out", *flags
    )
    assert code == 0, err
    printed = json.loads(out)
    assert printed["output_dir"] == str(tmp_path / "out")
    assert {"accuracy", "macro_f1", "macro_recall", "loss", "rows"} <= printed["validation"].keys()
    assert 0 < printed["linear_model"]["test"]["macro_f1"] <= 1
    assert [line[:9] for line in err.splitlines() if line.startswith("epoch ")] == [
        "epoch 1/2",
        "epoch 2/2",
    ]
    code, out, _ = command(
        "evaluate", "--model", tmp_path / "out", "--data_dir", texts_dir, "--split", "test"
    )
    measured = json.loads(out)
    assert {name: measured[name] for name in printed["test"]} == pytest.approx(
        printed["test"], abs=1e-6
    )


# ---- evaluate ----


def test_evaluate_needs_a_label_map_for_integers(command, folder, texts_dir, trained, tmp_path):
    number = {"plain": "0", "bad": "1", "good": "2"}
    rows = [line.split("\t") for line in (texts_dir / "test.tsv").read_text().splitlines()]
    write_rows(tmp_path / "test.tsv", [(text, number[label]) for text, label in rows])
    call = ("evaluate", "--model", folder, "--data_dir", tmp_path)
    assert "--label_map 0=NAME 1=NAME 2=NAME" in mistake(command(*call))
    assert "label_map" in mistake(command(*call, "--label_map", "0=plain", "0=bad"))
    code, out, err = command(*call, "--label_map", "0=plain", "1=bad", "2=good")
    assert code == 0, err
    assert json.loads(out)["confusion_matrix"] == trained.metrics["test"]["confusion_matrix"]


# ---- predict ----


def test_predict_agrees_with_the_pipeline(command, folder):
    texts = [text for text, _ in invent_rows(20, seed=9)] + ["two\nlines", "long " * 600]
    arguments = [part for text in texts for part in ("--text", text)]
    code, out, err = command("predict", "--model", folder, *arguments, "--tokens_per_batch", 40)
    assert (code, err) == (0, "")
    words = records(command("predict", folder, *texts[:5])[1])  # as words without a flag
    assert [record["label"] for record in words] == [record["label"] for record in records(out)[:5]]
    expected = pipeline("text-classification", folder, device="cpu")(texts, truncation=True)
    assert [record["label"] for record in records(out)] == [answer["label"] for answer in expected]
    scores = [answer["score"] for answer in expected]
    assert [record["score"] for record in records(out)] == pytest.approx(scores, abs=1e-6)
    assert all(list(record) == ["label", "score"] for record in records(out))


# a byte order mark, CRLF, an empty line, U+2028 and a lone CR within a text, a blank line, no line
# feed at the end
LINES = b"\xef\xbb\xbfmiro sand\r\n\nselk\xe2\x80\xa8selk\rselk\n \nmiro"


def test_predict_reads_lines(command, folder, tmp_path, monkeypatch):
    (tmp_path / "texts.txt").write_bytes(LINES)
    code, from_file, err = command(
        "predict", "--model", folder, "--input", tmp_path / "texts.txt", "--strict"
    )
    assert (code, err) == (0, "hf-rnn predict: 2 of 5 lines have no text, and no answer\n")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(LINES)))
    assert command("predict", "--model", folder, "--input", "-")[1] == from_file
    texts = ["miro sand", "selk\u2028selk\rselk", "miro"]
    expected = records(command("predict", "--model", folder, *texts)[1])
    for line, answer in zip(records(from_file)[::2], expected, strict=True):
        assert line == {"label": answer["label"], "score": pytest.approx(answer["score"], abs=1e-6)}
    empty = [{"error": {"line": line, "reason": "no text", "detail": ""}} for line in (2, 4)]
    assert records(from_file)[1::2] == empty


# valid, not UTF-8, empty, NUL, over the cap of 1 MiB, valid
BAD_LINES = b"miro\nsand \xff\n\nsa\0nd\n" + b"x" * ((1 << 20) + 1) + b"\nselk\n"


def test_predict_answers_a_bad_line_with_an_error_in_its_place(command, folder, tmp_path):
    (tmp_path / "texts.txt").write_bytes(BAD_LINES)
    code, out, err = command("predict", "--model", folder, "--input", tmp_path / "texts.txt")
    assert code == 1 and err.endswith(
        "hf-rnn predict: 3 of 6 lines were rejected: see their error records\n"
    )
    found = records(out)
    assert [record.get("label") for record in found[::5]] == ["good", "bad"]
    errors = [record["error"] for record in (found[1], found[3], found[4])]
    reasons = [(2, "not UTF-8"), (4, "NUL character"), (5, "line over the cap")]
    assert [(error["line"], error["reason"]) for error in errors] == reasons
    assert "byte 0xff at byte 6" in errors[0]["detail"]


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_terminal_gets_an_answer_per_line_until_ctrl_c(folder):
    command = [sys.executable, "-m", "hf_rnn", "predict", "--model", folder, "--input", "-"]
    default = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731 - ignored in background jobs
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(
        command, bufsize=0, env=ENVIRONMENT, preexec_fn=default, **pipes
    ) as process:
        answers = []
        for text in (b"miro\n", b"selk\n"):
            process.stdin.write(text)
            # standard input is still open
            answers.append(json.loads(process.stdout.readline())["label"])
        process.send_signal(signal.SIGINT)
        assert (answers, process.wait(timeout=60)) == (["good", "bad"], 130)
        assert (process.stdout.read(), process.stderr.read()) == (b"", b"")


@pytest.mark.parametrize("name", ["rows.txt", "rows.csv"])
def test_a_slow_reader_gets_all_answers_in_pieces_and_a_closed_pipe_ends_quietly(
    folder, tmp_path, name
):
    rows = 3000
    lines = ["text"] * name.endswith("csv") + ["miro sand"] * rows
    (tmp_path / name).write_text("\n".join(lines) + "\n")
    command = [sys.executable, "-m", "hf_rnn", "predict", folder, "--input", str(tmp_path / name)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": ENVIRONMENT}
    with subprocess.Popen(command, bufsize=0, **pipes) as process:
        content = b""
        while chunk := process.stdout.read(1 << 12):  # less than a pipe holds
            content += chunk
        assert process.wait(timeout=60) == 0
    assert content.count(b"good") == rows and content.endswith(b"\n")

    with subprocess.Popen(command, bufsize=0, **pipes) as process:
        process.stdout.read(10)
        process.stdout.close()
        assert process.wait(timeout=60) == 141
        assert b"Traceback" not in process.stderr.read()


# ---- mistakes of the first hour: each message names what to type next ----


@pytest.fixture
def room(texts_dir, tmp_path, monkeypatch):
    """A folder to work in, with `texts`, and the same training rows as CSV files."""
    (tmp_path / "texts").symlink_to(texts_dir)
    (tmp_path / "no_test").mkdir()
    for name in ("train", "dev"):
        write_rows(tmp_path / "no_test" / f"{name}.tsv", invent_rows(60, seed=1))
    (tmp_path / "records").mkdir()
    rows = [("text", "label"), *invent_rows(60, seed=1)]
    (tmp_path / "records" / "train.csv").write_text("\n".join(map(",".join, rows)))
    (tmp_path / "mine.csv").write_text("\n".join(map(",".join, [("remark", "stars"), *rows[1:]])))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "train",
            "--data_dir is missing: type hf-rnn train DATA_DIR, "
            "such as: hf-rnn train tickets.csv my-model",
        ),
        ("distill texts", "--teacher is missing: type hf-rnn distill texts TEACHER"),
        (
            "train texts out --dropout 0.3",
            "Did you mean --embedding_dropout or --word_dropout or --hidden_dropout or",
        ),
        ("train mine.csv out", "found 'remark', 'stars'; name one of them with --text_column"),
    ],
)
def test_the_message_names_the_next_line(command, room, line, message):
    assert message in mistake(command(*line.split()))


SMALL = [
    "--recipe",
    "scratch",
    "--num_train_epochs",
    "1",
    "--hidden_size",
    "4",
    "--embedding_size",
    "4",
    "--use_cpu",
]


@pytest.mark.parametrize(
    "data", ["mine.csv --text_column remark --label_column stars", "--dataset_name records"]
)
def test_what_the_messages_name_works(command, room, data):
    code, out, err = command("train", *data.split(), "out", *SMALL, "--cell_type", "LSTM")
    assert code == 0, err
    assert json.loads(out)["output_dir"] == "out", "JSON, as this is no terminal"
    assert json.loads((room / "out" / "config.json").read_text())["cell_type"] == "lstm"


@pytest.mark.parametrize("suffix", [".csv", ".xlsx"])
def test_a_table_alone_trains(command, room, suffix):
    """The first line of the README: columns are found, and the folder is named after the table."""
    pytest.importorskip("openpyxl", reason="writes the sheet") if suffix == ".xlsx" else None
    table = pandas.DataFrame(invent_rows(60, seed=1), columns=["message", "category"])
    table.to_csv("tickets.csv", index=False) if suffix == ".csv" else table.to_excel(
        "tickets.xlsx", index=False
    )
    code, out, err = command("train", f"tickets{suffix}", *SMALL)
    assert code == 0 and "text from column 'message'" in err, err
    assert json.loads(out)["output_dir"].startswith("tickets-")


def test_a_split_that_is_missing_is_named_with_another(command, room, folder):
    line = ["evaluate", folder, "no_test"]
    offered = re.search("take (--split validation)", mistake(command(*line)))[1]
    assert command(*line, *offered.split())[0] == 0


# ---- the summary of a terminal ----


def test_the_summary_has_two_lines_with_simpler_models(trained):
    first, second = trained.summarize().splitlines()
    (linear,) = trained.metrics["card"]["baselines"].values()
    expected = [
        scores[name]
        for scores in (trained.metrics["test"], linear["test"])
        for name in ("accuracy", "macro_f1")
    ]
    expected.append(20 / 60)
    assert [float(number) for number in re.findall(r"\d\.\d{3}", first)] == pytest.approx(
        expected, abs=6e-4
    )
    assert (
        first.startswith("test: accuracy ") and f"hf-rnn predict {trained.folder} --text" in second
    )


def test_a_terminal_gets_the_summary_unless_it_asks_for_json(command, room, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setattr("hf_rnn.training.train.run_training", lambda settings: Result())
    assert command("train", "texts", "out", *SMALL)[1] == "two\nlines\n"
    assert json.loads(command("train", "texts", "out", *SMALL, "--json")[1]) == {"output_dir": "x"}


class Result:
    folder, url, metrics, summarize = "x", None, {}, lambda self: "two\nlines"
