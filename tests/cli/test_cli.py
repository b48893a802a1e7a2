"""The commands as a user types them: results on stdout, all else on stderr, one clear line and exit 2 on a mistake."""

import errno
import gzip
import io
import json
import logging
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import LABELS, invent_rows, write_rows
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast, pipeline

import hf_rnn
from hf_rnn import FastRnn, RnnConfig, RnnForSequenceClassification, train_tokenizer
from hf_rnn.cli.main import main
from hf_rnn.cli.train import run_training
from hf_rnn.hub import loading as model_loading
from hf_rnn.inference.onnx.runtime import OnnxClassifier
from hf_rnn.utils.process_state import contained

HF_RNN = [str(Path(sys.executable).with_name("hf-rnn"))]
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def mistake(result):
    """The message of a user's mistake, after checking that it is nothing but that."""
    code, out, err = result
    assert code == 2, err
    assert out == ""
    assert "Traceback" not in err
    *_, last = err.splitlines()
    assert last.startswith("hf-rnn ") and ": error: " in last
    return last


@pytest.fixture(scope="module")
def folder(trained):
    return str(trained.folder)


# ---- the command itself ----


def test_help_is_quick_and_loads_nothing_heavy():
    code = "import sys; __file__ = 'hf-rnn'; from hf_rnn.cli.main import main; main(['--help']); print(*sys.modules)"
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 2
    listed = [line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")]
    assert listed == ["train", "evaluate", "predict", "inspect", "audit", "push", "export", "distill", "demo"]
    assert not {"torch", "transformers", "datasets", "numpy"} & set(done.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "closed", "message"),
    [
        (["--input", "-"], "<&-", "standard input is closed: pipe texts in"),
        (["--text", "x"], ">&-", "standard output is closed: redirect it"),
    ],
)
def test_a_stream_that_is_closed(folder, arguments, closed, message):
    command = [sys.executable, "-m", "hf_rnn", "predict", "--model", folder, *arguments]
    done = subprocess.run(
        ["sh", "-c", f"{shlex.join(command)} {closed}"], capture_output=True, text=True, env=ENVIRONMENT, timeout=120
    )
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [[], ["predct"]])
def test_a_mistake_does_not_come_among_results_where_there_is_no_standard_error(arguments):
    code = f"import sys; __file__ = 'hf-rnn'; from hf_rnn.cli.main import main; sys.exit(main({arguments}))"
    command = f"{shlex.join([sys.executable, '-c', code])} 2>&-"
    done = subprocess.run(["sh", "-c", command], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_help_that_cannot_be_written(unbuffered):
    code = "import sys; __file__ = 'hf-rnn'; from hf_rnn.cli.main import main; sys.exit(main(['--help']))"
    command = shlex.join([sys.executable, "-c", code])
    environment = {**ENVIRONMENT, "PYTHONUNBUFFERED": unbuffered}
    full = subprocess.run(["sh", "-c", f"{command} > /dev/full"], capture_output=True, text=True, env=environment)
    assert (full.returncode, full.stderr) == (2, "hf-rnn: error: [Errno 28] No space left on device\n")
    left = subprocess.run(
        ["bash", "-c", f"{command} | true; exit ${{PIPESTATUS[0]}}"], capture_output=True, text=True, env=environment
    )
    assert (left.returncode, left.stderr) in ((141, ""), (0, ""))  # 0: it had written before the reader left


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
def test_a_mistake_that_cannot_be_told_has_its_exit_code():
    code = "import sys; __file__ = 'hf-rnn'; from hf_rnn.cli.main import main; sys.exit(main(['predct']))"
    command = f"{shlex.join([sys.executable, '-c', code])} 2>/dev/full"
    assert subprocess.run(["sh", "-c", command], env=ENVIRONMENT).returncode == 2


def test_what_cannot_be_told_on_stderr_costs_no_results(command, folder, texts_dir, tmp_path, monkeypatch):
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "lines").write_bytes(b"one\n\xff\n")
    rare = tmp_path / "rare"
    rare.mkdir()
    (rare / "train.tsv").write_text("".join(f"word{row}\t{'ab'[row % 2]}\n" for row in range(40)), encoding="utf-8")
    out = tmp_path / "out"
    small = ["--num_train_epochs", 1, "--hidden_size", 4, "--embedding_size", 4, "--use_cpu"]
    for code, ending, arguments in (
        (0, "https://huggingface.co/me/x\n", ["push", "--model", folder, "--repo_id", "me/x", "--dry_run"]),
        (1, "}}\n", ["predict", "--model", folder, "--input", tmp_path / "lines"]),
        (0, "\n", ["audit", "--data_dir", rare, "--min_frequency", 9]),
        (0, "}}\n", ["train", "--data_dir", texts_dir, "--output_dir", out, *small]),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", Full())
            told = command(*arguments)
        assert told[0] == code and told[1].endswith(ending), arguments
    assert (out / "config.json").is_file()


@pytest.mark.skipif(sys.platform == "win32", reason="there a folder that is in use stays")
def test_a_folder_that_is_gone(monkeypatch, tmp_path, command):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    code, out, err = command("predict", "--model", "x", "--text", "y")
    assert (code, out) == (2, "") and "error: the folder that this runs in is gone: go to one that is there" in err


def test_only_models_of_one_label_a_text_are_measured(folder, texts_dir, command, tmp_path):
    for problem, outputs in (("multi_label_classification", 3), ("regression", 3), (None, 1)):
        other = tmp_path / f"{problem}"
        config = RnnConfig(vocab_size=50, embedding_size=4, hidden_size=3, num_labels=outputs, problem_type=problem)
        RnnForSequenceClassification(config).save_pretrained(other)
        train_tokenizer(["miro selk"], min_frequency=1).save_pretrained(other)
        told = mistake(command("evaluate", "--model", other, "--data_dir", texts_dir))
        assert (
            f"gives no text exactly one label: it is a model of {outputs} outputs, {problem or 'regression'}" in told
        )


def test_the_installed_command():
    if not Path(HF_RNN[0]).exists():
        pytest.skip(f"{HF_RNN[0]} is not installed")
    done = subprocess.run([*HF_RNN, "--version"], capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stdout.split()[0]) == (0, "hf-rnn")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "usage: hf-rnn"),
        (["predct"], 2, "there is no verb 'predct'. Did you mean 'predict'?"),
        (["--hidden_size", "3"], 2, "there is no verb '--hidden_size'"),
        (["qqqq"], 2, "There are train, evaluate, predict, inspect, audit, push, export, distill, demo."),
    ],
)
def test_no_verb(command, arguments, code, message):
    found, out, err = command(*arguments)
    assert (found, out) == (code, "")
    assert message in err


@pytest.mark.parametrize(
    "verb", ["train", "evaluate", "predict", "inspect", "audit", "push", "export", "distill", "demo"]
)
def test_help_of_a_verb(command, verb):
    code, out, _ = command(verb, "--help")
    assert code == 0
    assert out.startswith(f"usage: hf-rnn {verb}")
    assert ("--hidden_size" in out) == (verb in ("train", "distill"))
    assert ("--teacher" in out) == (verb == "distill")
    assert "default: None" not in " ".join(out.split()), "where there is none, words say what happens"


def test_the_help_of_audit_shows_what_its_recipe_sets(command, tmp_path):
    (tmp_path / "mine.yaml").write_text("normalizer: tweet\nmin_frequency: 7\nhidden_size: 9\n")
    code, out, _ = command("audit", "--recipe", tmp_path / "mine.yaml", "--help")
    told = " ".join(out.split())
    assert code == 0 and "semeval or tweet (default: tweet)" in told and "unknown token (default: 7)" in told
    assert told.endswith("mine.yaml)")


def test_results_are_utf8_in_any_locale(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "model", ignore=shutil.ignore_patterns("checkpoints"))
    config = copy / "config.json"
    config.write_text(config.read_text(encoding="utf-8").replace('"good"', '"gut 🙂"'), encoding="utf-8")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    command = [*HF_RNN, "predict", "--model", str(copy), "--text", "the miro door"]
    done = subprocess.run(command, capture_output=True, env=environment, timeout=60, check=True)
    assert json.loads(done.stdout.decode("utf-8"))["label"] == "gut 🙂"
    assert "gut 🙂".encode() in done.stdout, "a person can read it"


def test_short_help_and_the_version(command):
    assert command("-h") == command("--help")
    assert command("--help")[0] == 0
    assert command("--version") == (0, f"hf-rnn {hf_rnn.__version__}\n", "")


def test_a_mistake_is_one_line_whatever_is_typed(command, folder):
    told = command("predict", "--model", folder, "--input", "no such\nfile")
    advice = "give one with one text a line, or - for what is piped in"
    assert told == (2, "", f"hf-rnn predict: error: there is no file no such file: {advice}\n")


def test_a_verb_that_leaves_with_words(command, monkeypatch):
    monkeypatch.setattr("hf_rnn.cli.inspect.run", lambda arguments: sys.exit("it leaves"))
    assert command("inspect") == (1, "", "it leaves\n"), "as Python does"


def test_bars_are_utf8_in_any_locale(folder, monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    assert main(["inspect", "--model", folder, "--text", "miro"]) == 0
    assert "█" in out.buffer.getvalue().decode("utf-8")


# ---- train ----


def test_train_then_everything_else(command, texts_dir, tmp_path):
    flags = ["--embedding_size", 8, "--hidden_size", 4, "--num_train_epochs", 2, "--use_cpu"]
    code, out, err = command("train", "--data_dir", texts_dir, "--output_dir", tmp_path / "out", *flags)
    assert code == 0, err
    told = json.loads(out)  # one object, and nothing else on stdout
    assert told["output_dir"] == str(tmp_path / "out")
    assert {"accuracy", "macro_f1", "macro_recall", "loss", "rows"} <= told["validation"].keys() & told["test"].keys()
    assert [line.split("  ")[0] for line in err.splitlines() if line.startswith("epoch ")] == [
        "epoch 1/2",
        "epoch 2/2",
    ]
    assert "train accuracy" in err and "validation accuracy" in err
    code, out, _ = command("evaluate", "--model", tmp_path / "out", "--data_dir", texts_dir, "--split", "test")
    measured = json.loads(out)
    assert {name: measured[name] for name in told["test"]} == pytest.approx(told["test"], abs=1e-6)


def test_train_mistakes(command, texts_dir, folder, tmp_path):
    def train(*more, data_dir=texts_dir, output_dir=tmp_path / "out"):
        return mistake(command("train", "--data_dir", data_dir, "--output_dir", output_dir, *more))

    assert "Did you mean --hidden_size?" in train("--hiden_size", 3)
    assert "is not empty" in train(output_dir=folder)
    assert "data_dir nowhere does not exist" in train(data_dir="nowhere")
    assert "train.tsv" in train(data_dir=tmp_path)
    assert "hidden_size must be at least 1, found 0" in train("--hidden_size", 0)
    (tmp_path / "mine.yaml").write_text("hidden_size: 3\nhiden_size: 4\n")
    assert "mine.yaml:2: there is no setting 'hiden_size'" in train("--recipe", tmp_path / "mine.yaml")
    assert not (tmp_path / "out").exists()
    assert "data_dir is not set" in mistake(command("train", "--output_dir", tmp_path / "out"))


def test_a_bad_row_is_shown(command, tmp_path):
    write_rows(tmp_path / "train.tsv", [*invent_rows(20, seed=1), ("this row has no label", "")])
    message = mistake(command("train", "--data_dir", tmp_path, "--output_dir", tmp_path / "out"))
    assert "train.tsv:21" in message and "this row has no label" in message and "--max_bad_rows" in message


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_folder_that_may_not_be_written(command, texts_dir, tmp_path):
    tmp_path.chmod(0o500)
    assert "Permission denied" in mistake(command("train", "--data_dir", texts_dir, "--output_dir", tmp_path / "out"))


def test_trainings_one_after_the_other_leave_one_filter():
    logger = logging.getLogger("transformers.trainer_utils")
    before = len(logger.filters)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            run_training("train", [], None, lambda: 1 / 0)
    assert not logger.filter(logging.makeLogRecord({"msg": "mtime may not be reliable on this disk"}))
    assert len(logger.filters) == before + 1
    with contained(quiet=True):
        pass
    assert len(logger.filters) == before + 1, "what was left out before stays so"


@pytest.mark.parametrize(("rank", "told"), [(None, True), ("0", True), ("1", False)])
def test_of_several_processes_the_first_tells(command, tmp_path, monkeypatch, rank, told):
    if rank is not None:
        monkeypatch.setenv("RANK", rank)  # as torchrun does
    flags = ["--num_hidden_layers", 1, "--hidden_dropout", 0.3]
    code, _, err = command("train", "--data_dir", tmp_path, "--output_dir", tmp_path / "out", *flags)
    assert code == 2 and ("no effect of hidden_dropout" in err) is told
    assert "hf-rnn train: error: " in err, "a mistake may be that of one process alone"


# ---- evaluate ----


def test_evaluate(command, folder, texts_dir, trained):
    for split, name in (("test", "test"), ("dev", "validation"), ("validation", "validation")):
        code, out, err = command("evaluate", "--model", folder, "--data_dir", texts_dir, "--split", split)
        assert code == 0, err
        measured = json.loads(out)
        assert (measured.pop("model"), measured.pop("split")) == (folder, split)
        expected = trained.metrics[name]
        assert measured.pop("loss") == pytest.approx(expected["loss"], abs=1e-6)
        assert measured == {key: value for key, value in expected.items() if key != "loss"}


def test_evaluate_asks_what_integers_mean(command, folder, texts_dir, trained, tmp_path):
    number = {"plain": "0", "bad": "1", "good": "2"}
    rows = [line.split("\t") for line in (texts_dir / "test.tsv").read_text().splitlines()]
    write_rows(tmp_path / "test.tsv", [(text, number[label]) for text, label in rows])
    call = ("evaluate", "--model", folder, "--data_dir", tmp_path)
    assert "--label_map 0=NAME 1=NAME 2=NAME" in mistake(command(*call))
    assert "label_map" in mistake(command(*call, "--label_map", "0=plain", "1=bad", "2=great"))
    code, out, err = command(*call, "--label_map", "0=plain", "1=bad", "2=good")
    assert code == 0, err
    assert json.loads(out)["confusion_matrix"] == trained.metrics["test"]["confusion_matrix"]


@pytest.mark.parametrize(
    ("names", "certain"),
    [
        (["LABEL_0", "LABEL_1"], True),  # as transformers numbers integer labels
        (["0", "1"], True),
        (["1", "0"], True),
        (["RANK_0", "RANK_1"], False),  # an imported checkpoint of the tutorial
    ],
)
def test_evaluate_takes_integers_only_where_their_classes_are_certain(command, tmp_path, names, certain):
    tokenizer = train_tokenizer(["miro selk"], min_frequency=1)
    tokenizer.save_pretrained(tmp_path)
    config = RnnConfig(vocab_size=len(tokenizer), embedding_size=4, hidden_size=3, id2label=dict(enumerate(names)))
    RnnForSequenceClassification(config).save_pretrained(tmp_path)
    write_rows(tmp_path / "test.tsv", [("miro", "0"), ("selk", "1"), ("miro selk", "0")])
    result = command("evaluate", "--model", tmp_path, "--data_dir", tmp_path)
    if certain:
        rows = [sum(row) for row in json.loads(result[1])["confusion_matrix"]]
        assert rows == ([1, 2] if names[0] == "1" else [2, 1])
    else:
        assert "--label_map" in mistake(result)


def test_evaluate_a_folder_with_the_test_split_only(command, folder, texts_dir, tmp_path, trained):
    shutil.copy(texts_dir / "test.tsv", tmp_path)
    code, out, err = command("evaluate", "--model", folder, "--data_dir", tmp_path)
    assert code == 0, err
    assert json.loads(out)["confusion_matrix"] == trained.metrics["test"]["confusion_matrix"]


def test_evaluate_refuses_other_labels_and_shows_both_lists(command, folder, tmp_path):
    write_rows(tmp_path / "test.tsv", [("miro", "good"), ("selk", "awful"), ("sand", "plain")])
    message = mistake(command("evaluate", "--model", folder, "--data_dir", tmp_path))
    assert (
        ", ".join(map(repr, LABELS)) in message and "'awful', 'good', 'plain'" in message and "test.tsv:2" in message
    )
    write_rows(tmp_path / "test.tsv", [("miro", "yes"), ("selk", "no")])
    message = mistake(command("evaluate", "--model", folder, "--data_dir", tmp_path))
    assert ", ".join(map(repr, LABELS)) in message and "'no', 'yes'" in message


def test_evaluate_shows_the_labels_of_named_columns(command, folder, tmp_path):
    (tmp_path / "test.tsv").write_text("mood\ttweet\ngood\tmiro\nawful\tselk\n")
    columns = ("--header", "--text_column", "tweet", "--label_column", "mood")
    message = mistake(command("evaluate", "--model", folder, "--data_dir", tmp_path, *columns))
    assert message.endswith("All labels in test: 'awful', 'good'")


def test_evaluate_tells_of_labels_only_where_they_are_the_mistake(command, folder, tmp_path):
    (tmp_path / "test.tsv").write_text("miro\tgood\nno label\n")
    message = mistake(command("evaluate", "--model", folder, "--data_dir", tmp_path))
    assert "test.tsv:2: too few fields" in message and "labels in" not in message
    (tmp_path / "test.tsv").write_text("miro\tgood\nselk\tawful\nsand\t\n")
    message = mistake(command("evaluate", "--model", folder, "--data_dir", tmp_path))
    assert "known are 'bad', 'good', 'plain'" in message


def test_evaluate_runs_as_many_texts_at_once_as_it_is_told(command, folder, texts_dir, monkeypatch):
    sizes, forward = [], RnnForSequenceClassification.forward

    def seen(self, input_ids=None, *args, **kwargs):
        sizes.append(len(input_ids))
        return forward(self, input_ids, *args, **kwargs)

    monkeypatch.setattr(RnnForSequenceClassification, "forward", seen)
    assert command("evaluate", "--model", folder, "--data_dir", texts_dir, "--batch_size", 7)[0] == 0
    assert max(sizes) == 7 and sum(sizes) >= 60


def test_evaluate_mistakes(command, folder, texts_dir, tmp_path):
    assert "--model is missing" in mistake(command("evaluate", "--data_dir", texts_dir))
    assert "data_dir is not set" in mistake(command("evaluate", "--model", folder))
    assert "data_dir is not set" in mistake(command("evaluate", "--model", "nowhere")), "before a model is loaded"
    assert "no split named exam" in mistake(
        command("evaluate", "--model", folder, "--data_dir", texts_dir, "--split", "exam")
    )
    assert "unknown option '--hidden_size'" in mistake(command("evaluate", "--model", folder, "--hidden_size", 3))
    assert "--batch_size must be at least 1" in mistake(
        command("evaluate", "--model", folder, "--data_dir", texts_dir, "--batch_size", 0)
    )


# ---- predict ----


def records(out):
    return [json.loads(line) for line in out.split("\n")[:-1]]


def test_predict_says_what_the_pipeline_says(command, folder):
    texts = [text for text, _ in invent_rows(20, seed=9)] + ["", "two\nlines", "long " * 600]
    assert len({len(text.split()) for text in texts}) > 5, "batches by length must have something to restore"
    arguments = [part for text in texts for part in ("--text", text)]
    code, out, err = command("predict", "--model", folder, *arguments, "--tokens_per_batch", 40)
    assert (code, err) == (0, "")
    expected = pipeline("text-classification", folder, device="cpu")(texts, truncation=True)
    assert [record["label"] for record in records(out)] == [answer["label"] for answer in expected]
    assert [record["score"] for record in records(out)] == pytest.approx(
        [answer["score"] for answer in expected], abs=1e-6
    )
    assert all(list(record) == ["label", "score"] for record in records(out))


# a byte order mark, CRLF, an empty line, U+2028 and a lone CR within a text, a blank line, no line feed at the end
LINES = b"\xef\xbb\xbfmiro sand\r\n\nselk\xe2\x80\xa8selk\rselk\n \nmiro"
TEXTS = ["miro sand", "", "selk\u2028selk\rselk", " ", "miro"]


def test_predict_reads_lines(command, folder, tmp_path, monkeypatch):
    (tmp_path / "texts.txt").write_bytes(LINES)
    code, from_file, err = command("predict", "--model", folder, "--input", tmp_path / "texts.txt")
    assert (code, err) == (0, "")
    _, by_text, _ = command("predict", "--model", folder, *[part for text in TEXTS for part in ("--text", text)])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(LINES)))
    _, from_stdin, _ = command("predict", "--model", folder, "--input", "-")
    assert from_file == from_stdin
    from_file, by_text = records(from_file), records(by_text)  # which are read in other batches
    assert [record["label"] for record in from_file] == [record["label"] for record in by_text]
    scores = [record["score"] for record in by_text]
    assert [record["score"] for record in from_file] == pytest.approx(scores, abs=1e-6)
    assert len(scores) == len(TEXTS)


@pytest.mark.parametrize(
    ("content", "count"), [(b"", 0), (b"\n", 1), (b"\n\n", 2), (b"miro", 1), (b"miro\n", 1), (b"\r\n", 1)]
)
def test_predict_counts_lines(command, folder, tmp_path, content, count):
    (tmp_path / "texts.txt").write_bytes(content)
    code, out, _ = command("predict", "--model", folder, "--input", tmp_path / "texts.txt")
    assert (code, len(records(out))) == (0, count)


def test_predict_in_blocks_is_predict_at_once(command, folder, tmp_path, monkeypatch):
    """Lines cut in the middle by a block's end, and characters of several bytes too."""
    texts = [text + " 😀é" * (number % 4) for number, (text, _) in enumerate(invent_rows(40, seed=5))]
    (tmp_path / "texts.txt").write_text("\n".join(texts), encoding="utf-8", newline="\n")
    _, whole, _ = command("predict", "--model", folder, "--input", tmp_path / "texts.txt")
    monkeypatch.setattr("hf_rnn.data.tsv_reader.BLOCK_BYTES", 7)
    _, pieces, _ = command("predict", "--model", folder, "--input", tmp_path / "texts.txt")
    assert [record["label"] for record in records(pieces)] == [record["label"] for record in records(whole)]
    assert len(records(whole)) == 40


# good, not UTF-8, empty, NUL, over the cap of 1 MiB, good
BAD_LINES = b"miro\nsand \xff\n\nsa\0nd\n" + b"x" * ((1 << 20) + 1) + b"\nselk\n"


def test_predict_answers_a_bad_line_with_an_error_in_its_place(command, folder, tmp_path):
    (tmp_path / "texts.txt").write_bytes(BAD_LINES)
    code, out, err = command("predict", "--model", folder, "--input", tmp_path / "texts.txt")
    assert code == 1, "it went through, and some lines were refused"
    assert err == "hf-rnn predict: 3 of 6 lines were refused: see their error records\n"
    found = records(out)
    assert [record.get("label") for record in found[::5]] == ["good", "bad"] and "label" in found[2]
    assert [record["error"] for record in (found[1], found[3], found[4])] == [
        {
            "line": 2,
            "reason": "not UTF-8",
            "detail": "byte 0xff at byte 6 of the line (offset 10); likely ISO-8859-1",
        },
        {"line": 4, "reason": "NUL character", "detail": "NUL at byte 3 of the line"},
        {"line": 5, "reason": "line over the cap", "detail": "it has 1048577 bytes, the cap is 1048576"},
    ]
    _, alone, _ = command("predict", "--model", folder, "--text", "miro", "--text", "", "--text", "selk")
    assert [found[row]["score"] for row in (0, 2, 5)] == pytest.approx(
        [record["score"] for record in records(alone)], abs=1e-6
    )


def test_predict_strictly_stops_at_a_bad_line_after_answering_those_before(command, folder, tmp_path):
    (tmp_path / "texts.txt").write_bytes(b"miro\nselk\nsand \xff\nmiro\n")
    code, out, err = command("predict", "--model", folder, "--input", tmp_path / "texts.txt", "--strict")
    assert (code, [record["label"] for record in records(out)]) == (2, ["good", "bad"])
    assert "texts.txt:3: not UTF-8: byte 0xff at byte 6 of the line" in err and "Without --strict" in err
    assert len(err.splitlines()) == 1


@pytest.fixture(scope="module")
def half_nan(folder, tmp_path_factory):
    """A model that answers NaN where it reads `selk`."""
    place = tmp_path_factory.mktemp("half") / "nan"
    shutil.copytree(folder, place, ignore=shutil.ignore_patterns("checkpoints"))
    model, tokenizer = model_loading.load_model(place)
    model.get_input_embeddings().weight.data[tokenizer.get_vocab()["selk"]] = float("nan")
    model.save_pretrained(place)
    return str(place)


def test_predict_answers_a_score_that_is_not_finite_with_an_error(command, half_nan, tmp_path):
    (tmp_path / "texts.txt").write_bytes(b"miro\nselk\nsand \xff\nmiro\n")
    code, out, err = command("predict", "--model", half_nan, "--input", tmp_path / "texts.txt")
    found = records(out)
    assert code == 1 and "2 of 4 lines were refused" in err and "NaN" not in out
    assert [record.get("label") for record in found] == ["good", None, None, "good"]
    assert (found[1]["error"]["line"], found[1]["error"]["reason"]) == (2, "score not finite")
    code, out, _ = command("predict", "--model", half_nan, "--text", "miro", "--text", "selk")
    assert (code, [[*record] for record in records(out)]) == (1, [["label", "score"], ["error"]])
    code, out, err = command("predict", "--model", half_nan, "--input", tmp_path / "texts.txt", "--strict")
    assert (code, len(records(out)), len(err.splitlines())) == (2, 1, 1)
    assert "texts.txt row 2: score not finite" in err


@pytest.mark.parametrize("verb", ["inspect", "evaluate"])
def test_logits_that_are_not_finite_are_a_mistake(command, half_nan, texts_dir, verb):
    flags = {"inspect": ["--text", "selk"], "evaluate": ["--data_dir", texts_dir]}[verb]
    assert "logits that are not finite" in mistake(command(verb, "--model", half_nan, *flags))


def test_push_refuses_metrics_that_hold_nan(command, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "model", ignore=shutil.ignore_patterns("checkpoints"))
    (tmp_path / "model" / "metrics.json").write_text('{"validation": {"loss": NaN}}')
    told = mistake(command("push", "--model", tmp_path / "model", "--repo_id", "me/name", "--dry_run"))
    assert "metrics.json is not JSON: it holds NaN" in told


def test_predict_strictly_names_standard_input(command, folder, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"miro\n\xff\n")))
    code, _, err = command("predict", "--model", folder, "--input", "-", "--strict")
    assert code == 2 and "error: standard input:2: not UTF-8" in err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("the miro door\n".encode("utf-16"), "texts.txt: UTF-16: it starts with the byte order mark ff fe"),
        (gzip.compress(b"miro\n", mtime=0), "texts.txt: compressed file: its first bytes are those of gzip"),
    ],
    ids=["UTF-16", "gzip"],  # the same in each process: pytest-xdist compares them
)
def test_predict_on_what_is_no_text(command, folder, tmp_path, content, message):
    (tmp_path / "texts.txt").write_bytes(content)
    assert message in mistake(command("predict", "--model", folder, "--input", tmp_path / "texts.txt"))


def test_predict_loads_the_revision_asked_for(command, folder, monkeypatch):
    asked, load_model = [], model_loading.load_model

    def load(name, revision=None, device="cpu"):
        asked.append((name, revision))
        return load_model(folder)

    monkeypatch.setattr("hf_rnn.inference.predictor.load_model", load)
    assert command("predict", "--model", "me/name", "--revision", "v1", "--text", "miro")[0] == 0
    assert asked == [("me/name", "v1")]


@pytest.mark.parametrize("backend", ["onnx", "onnx_int8"])
def test_predict_by_onnx_runtime(command, folder, tmp_path, backend):
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    copy = shutil.copytree(folder, tmp_path / "model", ignore=shutil.ignore_patterns("checkpoints"))
    quantize = ["--quantize", "int8"] if backend == "onnx_int8" else []
    assert command("export", "--model", copy, *quantize)[0] == 0
    (copy / "model.safetensors").unlink()  # premise: not torch answers
    (tmp_path / "texts.txt").write_bytes(BAD_LINES)
    _, expected, _ = command("predict", "--model", folder, "--input", tmp_path / "texts.txt")
    code, out, err = command("predict", "--model", copy, "--input", tmp_path / "texts.txt", "--backend", backend)
    assert (code, err) == (1, "hf-rnn predict: 3 of 6 lines were refused: see their error records\n")
    close = 0.05 if quantize else 1e-4
    for found, right in zip(records(out), records(expected), strict=True):
        assert found.get("error") == right.get("error") and found.get("label") == right.get("label")
        assert found.get("score", 0) == pytest.approx(right.get("score", 0), abs=close)


def test_predict_runs_as_its_flags_say(command, folder, monkeypatch):
    ran, predict = [], FastRnn.predict

    def seen(self, texts):
        ran.append((self.tokens_per_batch, self.memory))
        return predict(self, texts)

    monkeypatch.setattr(FastRnn, "predict", seen)
    for flags in ((), ("--table_dtype", "int8", "--tokens_per_batch", 7)):
        assert command("predict", "--model", folder, "--text", "miro", *flags)[0] == 0
    (_, whole), (tokens, quarter) = ran
    assert (tokens, 4 * quarter) == (7, whole)


def test_onnx_runtime_runs_as_the_flags_say(command, monkeypatch):
    asked = []

    def load(name, quantized=False, revision=None, tokens_per_batch=8192):
        asked.append((name, quantized, revision, tokens_per_batch))
        return SimpleNamespace(predict=lambda texts: [{"label": "good", "score": 1.0} for _ in texts])

    monkeypatch.setattr(OnnxClassifier, "from_pretrained", load)
    flags = ("--revision", "v1", "--tokens_per_batch", 7, "--backend")
    for backend in ("onnx", "onnx_int8"):
        assert command("predict", "--model", "me/films", "--text", "x", *flags, backend)[0] == 0
    assert asked == [("me/films", False, "v1", 7), ("me/films", True, "v1", 7)]


def test_help_of_predict_lists_exit_codes_and_defaults(command):
    _, out, _ = command("predict", "--help")
    told = re.findall(r"^  (\d[\d, ]*)  ", out, re.MULTILINE)
    assert told == ["0", "1", "2", "130, 143, 141"]
    assert "(default: torch)" in " ".join(out.split())


def test_predict_mistakes(command, folder, texts_dir, tmp_path):
    def predict(*arguments):
        return mistake(command("predict", *arguments))

    assert "--model is missing" in predict("--text", "x")
    assert "give either --text" in predict("--model", folder)
    assert "give either --text" in predict("--model", folder, "--text", "x", "--input", "-")
    assert "one that starts with a dash as --text=-..." in predict("--model", folder, "--text", "-x")
    assert "there is no file nowhere.txt" in predict("--model", folder, "--input", "nowhere.txt")
    assert f"{tmp_path} is a folder" in predict("--model", folder, "--input", tmp_path)
    assert "--tokens_per_batch must be at least 1" in predict(
        "--model", folder, "--text", "x", "--tokens_per_batch", 0
    )
    assert "invalid int value: 'x'" in predict("--model", folder, "--text", "x", "--tokens_per_batch", "x")
    assert "--table_dtype must be one of float32, bfloat16, int8, found 'int4'" in predict(
        "--model", folder, "--text", "x", "--table_dtype", "int4"
    )
    assert "--table_dtype is for --backend torch" in predict(
        "--model", folder, "--text", "x", "--table_dtype", "int8", "--backend", "onnx"
    )
    assert "--backend must be one of torch, onnx, onnx_int8, found 'jax'" in predict(
        "--model", folder, "--text", "x", "--backend", "jax"
    )
    assert "has no onnx/model.onnx: make it with `hf-rnn export --model" in predict(
        "--model", folder, "--text", "x", "--backend", "onnx"
    )
    assert "unknown option '--txt'. Did you mean --text?" in predict("--model", folder, "--txt", "x")
    assert "unknown option '-m'. Did you mean --model?" in predict("-m", folder, "--text", "x")
    assert "unknown option '--qqqq'. --help lists all" in predict("--model", folder, "--qqqq")
    assert "'b' belongs to no option: put a value of several words into quotes, a model as --model, a text as" in (
        predict("--model", folder, "--text", "a", "b")
    )
    assert "--input is empty" in predict("--model", folder, "--input", "")
    assert "output_dir is empty" in mistake(command("export", "--model", folder, "--output_dir", ""))
    assert "Did you mean --num_train_epochs?" in mistake(command("train", "--output_dir", "x", "--epochs", 3))
    assert "max_length must be at least 1, found 0" in mistake(
        command("train", "--output_dir", "x", "--max_length", 0)
    )
    spaced = shutil.copytree(folder, tmp_path / "my model", ignore=shutil.ignore_patterns("checkpoints"))
    assert f"make it with `hf-rnn export --model '{spaced}'`" in predict(
        "--model", spaced, "--text", "x", "--backend", "onnx"
    )


def test_an_accelerator_that_takes_no_more(command, folder, texts_dir, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))

    def refuse(*args, **kwargs):
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(RnnForSequenceClassification, "to", refuse)
    told = mistake(command("evaluate", "--model", folder, "--data_dir", texts_dir))
    assert "cannot be moved to cuda: CUDA out of memory. The device cpu is always there" in told


def test_a_device(command, folder, texts_dir):
    wrong = ("--model", folder, "--text", "x", "--device")
    assert "device must be cpu, cuda, cuda:1, mps or another of torch's, found 'gpu'" in mistake(
        command("predict", *wrong, "gpu")
    )
    assert "device meta holds no weights" in mistake(command("predict", *wrong, "meta"))
    assert "cannot be moved to hpu: " in mistake(command("predict", *wrong, "hpu"))
    if not torch.cuda.is_available():
        assert "cannot be moved to cuda: " in mistake(command("predict", *wrong, "cuda"))
    assert "--table_dtype int8 is for a CPU" in mistake(command("predict", *wrong, "cuda", "--table_dtype", "int8"))
    assert "--device is for --backend torch" in mistake(command("predict", *wrong, "cuda", "--backend", "onnx"))
    status, out, _ = command("evaluate", "--model", folder, "--data_dir", texts_dir, "--device", "cpu")
    assert status == 0 and json.loads(out)["rows"] > 0


@pytest.mark.parametrize("verb", ["train", "audit", "evaluate"])
def test_names_that_no_file_could_hold(command, folder, texts_dir, tmp_path, verb):
    name = os.fsdecode(bytes(tmp_path) + b"/caf\xe9")
    flags = {"train": ("--output_dir", tmp_path / "out"), "evaluate": ("--model", folder)}.get(verb, ())
    told = mistake(command(verb, "--data_dir", name, *flags))
    assert r"caf\udce9' is not UTF-8: rename it, or give a link to it that is" in told
    assert not (tmp_path / "out").exists()


def test_a_strict_reading_is_of_lines(command, folder):
    told = mistake(command("predict", "--model", folder, "--text", "x", "--strict"))
    assert "--strict is for the lines of --input" in told


def test_a_model_that_gives_tuples_answers_alike(command, folder, texts_dir, tmp_path):
    other = shutil.copytree(folder, tmp_path / "tuples", ignore=shutil.ignore_patterns("checkpoints"))
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "return_dict": False}))
    text, data = ["--text", "x"], ["--data_dir", texts_dir]
    for verb, flags in (("predict", text), ("inspect", text), ("evaluate", data)):
        expected, found = (command(verb, "--model", model, *flags) for model in (folder, other))
        assert found[:2] == (0, expected[1].replace(json.dumps(str(folder)), json.dumps(str(other))))


def test_predicting_keeps_to_the_cpu(command, folder, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)  # there is none: whoever asks it would fail
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    status, out, _ = command("predict", "--model", folder, "--text", "x")
    assert status == 0 and json.loads(out)["label"]


def test_what_is_no_model(command, folder, texts_dir, tmp_path, monkeypatch):
    def predict(model):
        return mistake(command("predict", "--model", model, "--text", "x"))

    monkeypatch.chdir(tmp_path)
    assert "there is no folder nowhere" in predict("nowhere")
    assert "there is no folder ./a/b/c" in predict("./a/b/c")
    assert "is a file" in predict(Path(folder) / "config.json")
    assert "has no config.json" in predict(texts_dir)
    Path("out").mkdir()
    assert "there is no folder out/model" in predict("out/model"), "out is a folder here, so it is no owner on the Hub"

    broken = tmp_path / "broken"
    shutil.copytree(folder, broken, ignore=shutil.ignore_patterns("checkpoints"))
    weights = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    assert "broken cannot be loaded" in predict(broken)
    (broken / "model.safetensors").write_bytes(weights)
    settings = json.loads((broken / "config.json").read_text())
    for change, message in (
        ({"hidden_size": 9}, "has shape (3, 32) in model.safetensors and (3, 36) by config.json"),
        ({"id2label": ["a", "b", "c"]}, "id2label"),  # transformers says in its own words that it is no mapping
        ({"dtype": "float99"}, "float99"),
        ({"hidden_size": "9"}, "hidden_size"),
        ({"hiden_size": 9}, "hiden_size"),
        ({"model_type": "bert"}, "bert"),
        ({"num_hidden_layers": 2}, "no whole model"),
        ({"vocab_size": 3}, "broken"),
    ):
        (broken / "config.json").write_text(json.dumps({**settings, **change}))
        assert message in predict(broken)
    (broken / "config.json").write_text("{")
    assert "broken" in predict(broken)
    (broken / "config.json").write_text(json.dumps(settings))
    tokenizer = json.loads((broken / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    size = len(vocabulary)
    vocabulary["one-word-more"] = size  # no hole in it, of which tokenizers 0.22 prints a line on stdout
    (broken / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert f"the tokenizer has ids up to {size}, the model a table of {size} rows" in predict(broken)


def test_a_text_that_is_not_utf8(command, folder):
    text = b"miro \xff".decode("utf-8", "surrogateescape")  # how Python hands over such an argument
    for verb in ("predict", "inspect"):
        assert "not UTF-8 at character 5" in mistake(command(verb, "--model", folder, "--text", text))


def test_a_named_pipe_is_as_good_as_a_file(command, folder, tmp_path):
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no named pipes")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("the miro door\n",))
    writer.start()
    code, out, _ = command("predict", "--model", folder, "--input", pipe)
    writer.join()
    assert (code, len(out.splitlines())) == (0, 1)


def test_a_name_on_the_hub_that_cannot_be_had(command, monkeypatch):
    """Offline: one line instead of a network traceback."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    message = mistake(command("predict", "--model", "owner/name", "--text", "x"))
    assert "there is no folder owner/name, nor can it be had from the Hub" in message


# ---- as processes ----


def start(*arguments, **options):
    command = [sys.executable, "-m", "hf_rnn", *arguments]
    if os.name == "posix":  # whoever runs the tests in the background may have Ctrl-C ignored
        options["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT, **options)


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_person_at_the_terminal_gets_an_answer_a_line_and_may_press_ctrl_c(folder):
    process = start("predict", "--model", folder, "--input", "-", stdin=subprocess.PIPE, bufsize=0)
    stop = threading.Timer(300, process.kill)  # else a failure would wait for ever
    stop.start()
    try:
        answers = []
        for text in (b"miro\n", b"selk\n"):
            process.stdin.write(text)
            answers.append(json.loads(process.stdout.readline())["label"])  # while standard input is still open
        assert answers == ["good", "bad"]
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130  # of itself: its input is still open
        assert process.communicate() == (b"", b"")
    finally:
        stop.cancel()
        process.kill()


@pytest.mark.skipif(os.name != "posix", reason="signals and pipes of POSIX")
def test_a_reader_that_leaves_is_no_error(folder, tmp_path):
    (tmp_path / "texts.txt").write_text("miro\n" * 5_000)
    process = start("predict", "--model", folder, "--input", str(tmp_path / "texts.txt"))
    process.stdout.readline()
    process.stdout.close()
    err = process.stderr.read().decode()
    assert process.wait(300) == 141
    assert err == ""
    process.stderr.close()


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize(
    ("signal_number", "code"),
    [pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow), (signal.SIGTERM, -signal.SIGTERM)],
)
def test_an_interrupted_output_has_only_whole_lines(folder, tmp_path, signal_number, code):
    """It is signalled in the middle of a write, while the full pipe makes it wait."""
    (tmp_path / "texts.txt").write_text("miro\nselk\nsand\n" * 2_000)
    process = start("predict", "--model", folder, "--input", str(tmp_path / "texts.txt"), bufsize=0)
    out = process.stdout.readline()
    time.sleep(2)  # it goes on until the pipe is full
    process.send_signal(signal_number)
    rest, err = process.communicate(timeout=60)
    out += rest
    assert (process.returncode, err) == (code, b"")
    assert out.endswith(b"}\n") and 0 < len(out.splitlines()) < 6_000, "premise: it was not done"
    assert [record["label"] for record in records(out.decode())][:2] == ["good", "bad"]


class FullDisk(io.FileIO):
    """A file on a disk with room for 10,007 bytes, which takes the part of a write that fits, as disks do."""

    def write(self, data):
        room = 10_007 - self.tell()
        if room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(data[:room])


def test_a_full_disk_leaves_only_whole_lines(folder, tmp_path, monkeypatch, capfd):
    (tmp_path / "texts.txt").write_text("miro\nselk\nsand\n" * 200)
    with FullDisk(str(tmp_path / "out.jsonl"), "w") as disk:
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BufferedWriter(disk)))
        assert main(["predict", "--model", folder, "--input", str(tmp_path / "texts.txt")]) == 2
        assert "No space left on device" in capfd.readouterr().err
        monkeypatch.undo()
    out = (tmp_path / "out.jsonl").read_text()
    assert 9_900 < len(out) < 10_007, "premise: the room does not end with a line"
    assert out.endswith("}\n") and all("label" in record for record in records(out))


@pytest.mark.skipif(os.name != "posix", reason="pipes of POSIX")
def test_a_pipe_that_takes_no_more_and_does_not_wait(folder, tmp_path, monkeypatch, capfd):
    (tmp_path / "texts.txt").write_text("miro\n" * 5_000)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with open(reading, "rb") as left, open(writing, "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main(["predict", "--model", folder, "--input", str(tmp_path / "texts.txt")]) == 2
        monkeypatch.undo()
        full.close()
        out = left.read().decode()
    assert "standard output takes no more for now" in capfd.readouterr().err
    assert out.endswith("}\n") and 0 < len(records(out)) < 5_000, "premise: it was not done"


# ---- inspect ----


def test_inspect_shows_tokens_ids_and_shapes(command, folder, trained):
    code, out, err = command("inspect", "--model", folder, "--text", "miro zzz Sand")
    assert (code, err) == (0, "")
    rows = [line.split() for line in out.splitlines()]
    vocabulary = json.loads((trained.folder / "tokenizer.json").read_text())["model"]["vocab"]
    assert rows[1:4] == [
        ["miro", str(vocabulary["miro"]), "miro"],
        ["<unk>", "0", "zzz"],
        ["sand", str(vocabulary["sand"]), "sand"],
    ]
    for stage, shape in (
        ("token ids", "(1, 3)"),
        ("embedding", "(1, 3, 16)"),
        ("layer 1", "(1, 3, 16)"),
        ("pooling (mean_max)", "(1, 32)"),
        ("logits", "(1, 3)"),
    ):
        assert [shape in line for line in out.splitlines() if line.startswith(stage)] == [True], stage
    assert {row[0] for row in rows[-3:]} == set(LABELS)
    assert sum(float(row[1]) for row in rows[-3:]) == pytest.approx(1, abs=0.002)


def test_inspect_shows_each_of_several_texts(command, folder):
    """Under itself, as it is shown alone; of one text alone there is no need to say which."""
    texts = ["miro zzz", "", "sand"]
    code, out, err = command("inspect", "--model", folder, *(part for text in texts for part in ("--text", text)))
    assert (code, err) == (0, "")
    alone = [command("inspect", "--model", folder, "--text", text)[1] for text in texts]
    assert len(set(alone)) == 3, "premise"
    assert out == "\n\n\n".join(f"{text}\n\n{told.rstrip()}" for text, told in zip(texts, alone, strict=True)) + "\n"


def test_a_terminal_obeys_no_text_or_name_of_others(command, trained, tmp_path):
    """As an escape sequence in a label, which may clear the screen or name its window."""
    folder = shutil.copytree(trained.folder, tmp_path / "out")
    config = json.loads((folder / "config.json").read_text())
    labels = {**config["id2label"], "0": "a\x1b[2J\x9b31m"}
    config |= {"id2label": labels, "label2id": {label: int(index) for index, label in labels.items()}}
    (folder / "config.json").write_text(json.dumps(config))
    code, out, err = command("inspect", "--model", folder, "--text", "miro \x1b[2J", "--text", "\x07")
    assert (code, err) == (0, "")
    assert "a\\x1b[2J\\x9b31m  0." in out and "\nmiro \\x1b[2J\n" in f"\n{out}"
    assert all(character.isprintable() or character == "\n" for character in out)
    assert "there is no folder \\x1b[2J:" in mistake(command("inspect", "--model", "\x1b[2J", "--text", "miro"))
    (handler,) = (each for each in logging.getLogger("hf_rnn").handlers if type(each).__name__ == "_Stderr")
    record = logging.makeLogRecord({"msg": "%s: not read: %s", "args": ("texts", "\x1b[2J.tsv")})
    assert handler.format(record) == "texts: not read: \\x1b[2J.tsv"


def test_inspect_shows_attention_as_bars(command, texts_dir, tmp_path):
    settings = [
        "--embedding_size",
        8,
        "--hidden_size",
        4,
        "--num_hidden_layers",
        2,
        "--pooling",
        "attention",
        "--num_train_epochs",
        1,
    ]
    assert command("train", "--data_dir", texts_dir, "--output_dir", tmp_path / "out", "--use_cpu", *settings)[0] == 0
    code, out, _ = command("inspect", "--model", tmp_path / "out", "--text", "miro box sand")
    assert code == 0
    lines = out.splitlines()
    table = [line.split() for line in lines[lines.index("token  weight") + 1 :][:3]]
    assert [row[0] for row in table] == ["miro", "box", "sand"]
    assert sum(float(row[1]) for row in table) == pytest.approx(1, abs=0.003)
    assert all(len(row[2]) == round(40 * float(row[1])) or abs(40 * float(row[1]) % 1 - 0.5) < 0.05 for row in table)
    assert any(line.startswith("layer 2") for line in lines)


def test_inspect_an_empty_text(command, folder):
    code, out, _ = command("inspect", "--model", folder, "--text", "")
    assert code == 0
    assert "the text has no tokens" in out and "(1, 0)" in out


@pytest.mark.parametrize(
    ("problem", "scores", "bars"),
    [
        ("regression", [7, 0.5, -2], [40, 20, 0]),
        ("multi_label_classification", [0.999, 0.622, 0.119], [40, 25, 5]),  # 1 / (1 + exp(-score))
    ],
)
def test_inspect_scores_as_the_model_is_meant(command, tmp_path, problem, scores, bars):
    config = RnnConfig(vocab_size=50, embedding_size=4, hidden_size=3, num_labels=3, problem_type=problem)
    model = RnnForSequenceClassification(config)
    model.classifier.weight.data.zero_()
    model.classifier.bias.data = torch.tensor([7, 0.5, -2])
    model.save_pretrained(tmp_path)
    train_tokenizer(["miro selk"], min_frequency=1).save_pretrained(tmp_path)
    code, out, _ = command("inspect", "--model", tmp_path, "--text", "miro")
    rows = [line.split() for line in out.splitlines()[-3:]]
    assert code == 0
    assert [float(row[1]) for row in rows] == scores
    assert [len("".join(row[2:])) for row in rows] == bars


def test_inspect_one_direction_with_attention_and_no_tokens(command, tmp_path):
    config = RnnConfig(vocab_size=50, embedding_size=4, hidden_size=3, bidirectional=False, pooling="attention")
    RnnForSequenceClassification(config).save_pretrained(tmp_path)
    train_tokenizer(["miro selk"], min_frequency=1).save_pretrained(tmp_path)
    code, out, _ = command("inspect", "--model", tmp_path, "--text", "")
    assert code == 0 and "one direction)" in out and "both directions" not in out
    assert "weight" not in out, "no table of no tokens"


def test_inspect_reads_as_much_of_a_text_as_the_model_does(command, folder):
    code, out, _ = command("inspect", "--model", folder, "--text", "miro " * 600)
    assert code == 0 and "(1, 512)" in out and "600" not in out


def test_inspect_with_a_tokenizer_that_knows_no_words(command, tmp_path):
    backend = Tokenizer(models.WordLevel({"<unk>": 0, "miro": 1}, "<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", pad_token="<unk>").save_pretrained(tmp_path)
    RnnForSequenceClassification(RnnConfig(vocab_size=2, hidden_size=3)).save_pretrained(tmp_path)
    code, out, err = command("inspect", "--model", tmp_path, "--text", "miro")
    assert (code, err) == (0, "")
    assert out.splitlines()[1].split() == ["miro", "1", "miro"]


def test_inspect_mistakes(command, folder):
    assert "--text is missing: give the text to look at" in mistake(command("inspect", "--model", folder))
    assert "--model is missing: give a finished folder" in mistake(command("inspect", "--text", "x"))


def test_a_bug_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr("hf_rnn.cli.inspect.run", lambda arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["inspect"])
