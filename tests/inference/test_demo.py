"""The page: the answers of its buttons, and its processes, which ask no other machine for anything."""

import csv
import os
import shutil
import signal
import subprocess
import sys
import types
import urllib.request
from pathlib import Path

import pytest
from conftest import run_script

from hf_rnn import FastRnn
from hf_rnn.inference import demo
from hf_rnn.utils.errors import UserError


@pytest.fixture
def answers(trained):
    """The page's buttons, with updates as plain dictionaries."""
    return demo._Answers(types.SimpleNamespace(update=dict), FastRnn.from_pretrained(trained.folder))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--model is missing"),
        (["--model", "x"], "pip install '.[demo]'"),
    ],
)
def test_mistakes(command, monkeypatch, arguments, message):
    monkeypatch.setitem(sys.modules, "gradio", None)  # as if it were not installed
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "True")
    code, _, err = command("demo", *arguments)
    assert (code, err.count("\n")) == (2, 1)
    assert message in err


@pytest.mark.parametrize("as_app", [False, True])
def test_the_revision_is_loaded_without_analytics(command, monkeypatch, capfd, as_app):
    """By the command, and as the app of a Space."""
    asked = []

    def find(*args):
        asked.append((*args, os.environ["GRADIO_ANALYTICS_ENABLED"]))
        raise UserError("it is missing")

    monkeypatch.setitem(sys.modules, "gradio", types.ModuleType("gradio"))
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "True")
    if as_app:
        monkeypatch.setattr("hf_rnn.hub.loading.find_folder", find)
        assert "MODEL_ID is not set" in run_script(demo.__file__, [], monkeypatch, capfd)[0]
        monkeypatch.setenv("MODEL_ID", "me/films")
        monkeypatch.setenv("MODEL_REVISION", "v1")
        assert run_script(demo.__file__, [], monkeypatch, capfd)[0] == "hf-rnn demo: error: it is missing"
    else:
        monkeypatch.setattr(demo, "find_folder", find)
        result = command("demo", "--model", "me/films", "--revision", "v1")
        assert result == (2, "", "hf-rnn demo: error: it is missing\n")
    assert asked == [("me/films", "v1", "False")]


def test_a_text_gets_scores_and_colours(answers):
    scores, html = answers.for_text("the miro box")
    assert list(scores) == ["bad", "good", "plain"] and max(scores, key=scores.get) == "good"
    assert ">miro<" in html and "<b>good</b>" in html
    for text in ("", " \n ", None):
        assert answers.for_text(text) == (None, "<p>Type a text first.</p>")
    scores, html = answers.for_text("a \ud800 <b>")
    assert scores is None and "not UTF-8" in html and "<b>" not in html


def test_a_file_gets_a_file(answers, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "MAX_LINES", 3)
    monkeypatch.setattr(demo, "_SHOWN_LINES", 2)
    texts = tmp_path / "texts.txt"
    texts.write_text("miro\nselk <b>\nsand\nbox\n")
    summary, file, table = answers.for_file(str(texts), "tsv")
    texts.write_text("selk\n")
    answers.for_file(str(texts), "tsv")  # the next file leaves this one alone
    with Path(file["value"]).open(newline="") as stream:
        rows = list(csv.DictReader(stream, dialect="excel-tab"))
    assert [row["text"] for row in rows] == ["miro", "selk <b>", "sand"]
    assert [row["label"] for row in rows] == ["good", "bad", "plain"]
    assert [row[:2] for row in table["value"]] == [["miro", "good"], ["selk <b>", "bad"]]
    assert "3 lines" in summary and "only the first 3 are labelled" in summary and "shows the first 2" in summary


def test_refused_lines_are_shown_and_counted(answers, tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_bytes(b"miro\nsand \xff\nmiro\n")
    summary, _, table = answers.for_file(str(texts), "csv")
    assert summary == "<p><b>3 lines</b>: 2 good, 1 refused (the file says why).</p>"
    assert table["value"][1][0] == "sand \\xff" and table["value"][1][1].startswith("line 2: not UTF-8")
    for content, message in ((b"", "The file is empty"), (b"\x1f\x8b\x08\x00", "texts.txt"), (None, "Choose a file")):
        texts.write_bytes(content or b"")
        summary, *hidden = answers.for_file(None if content is None else str(texts), "csv")
        assert message in summary and hidden == [{"value": None, "visible": False}] * 2


# As processes

# Records each look-up of another machine by the page's own process.
WATCH = """
import os, socket
real = socket.getaddrinfo
def watched(host, *arguments, **settings):
    if str(host) not in ("127.0.0.1", "localhost", "None"):
        with open(os.environ["LOOKED_UP"], "a") as stream:
            stream.write(f"{host}\\n")
        raise socket.gaierror("there is no network in this test")
    return real(host, *arguments, **settings)
socket.getaddrinfo = watched
"""


def start(arguments, folder, **variables):
    """Run Python and return its process and the first line that it prints."""
    pytest.importorskip("gradio", reason="Gradio is not installed: pip install '.[demo]'")
    (folder / "sitecustomize.py").write_text(WATCH)
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    paths = {"PYTHONPATH": f"{folder}:{Path.cwd()}", "LOOKED_UP": str(folder / "looked_up"), **variables}
    # Ctrl-C may be ignored where tests run in the background
    options = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)} if os.name == "posix" else {}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, *map(str, arguments)], env={**env, **paths}, **pipes, **options)
    line = process.stdout.readline()
    if not line:
        pytest.fail(process.communicate(timeout=10)[1])
    return process, line


@pytest.mark.slow
@pytest.mark.parametrize("way", ["command", "copy", "two lines"])
def test_the_page_by_the_command_and_as_the_app_of_a_space(trained, tmp_path, way):
    app = tmp_path / "app.py"
    if way == "copy":
        shutil.copy(demo.__file__, app)
    else:
        app.write_text(f"from hf_rnn.inference.demo import build\nbuild({str(trained.folder)!r}).launch()\n")
    arguments = ["-m", "hf_rnn", "demo", "--model", trained.folder] if way == "command" else [app]
    process, line = start(arguments, tmp_path, MODEL_ID=str(trained.folder))
    try:
        url = next(part for part in line.split() if part.startswith("http"))
        with urllib.request.urlopen(url) as response:
            assert "This recurrent network says" in response.read().decode()
        assert not (tmp_path / "looked_up").exists()
    finally:
        process.terminate()
        process.wait(timeout=10)
