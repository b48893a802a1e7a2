"""Each script runs; the scripts that users copy say what they promise."""

import ast
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import run_python, run_script

SCRIPTS = Path(__file__).parents[2] / "scripts"
DATA = SCRIPTS.parent / "data" / "tweets"
COURSE = sorted(SCRIPTS.glob("lesson_[1-5]_*.py"))
TRAIN, SOLUTIONS = SCRIPTS / "train_sentiment.py", SCRIPTS / "lesson_solutions.py"
RUNNABLE = sorted(
    path for path in SCRIPTS.rglob("*.py") if 'if __name__ == "__main__"' in path.read_text("utf-8")
)


@pytest.fixture
def start(tmp_path):
    """Run a script in a process of its own, from another folder."""

    def start_script(script):
        options = {
            "cwd": tmp_path,
            "env": {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        }
        done = subprocess.run(
            [sys.executable, script], capture_output=True, encoding="utf-8", timeout=1500, **options
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return start_script


def test_help_is_there_without_heavy_imports(tmp_path):
    """In one process without the paths that pytest sets, each script after the other."""
    names = [str(path) for path in RUNNABLE if not path.name.startswith(("build_", "decode_"))]
    assert len(names) >= 5, "premise"
    code = f"""
import contextlib, runpy, sys
path = list(sys.path)
for name in {names!r}:
    sys.path[:], sys.argv = [name.rpartition("/")[0], *path], [name, "--help"]
    with contextlib.suppress(SystemExit):
        runpy.run_path(name, run_name="__main__")
print({{"torch", "transformers", "datasets", "hf_rnn"}} & set(sys.modules))
"""
    out = run_python(code, cwd=tmp_path)
    assert out.count("show this help message") == len(names) and out.endswith("\nset()\n")


def cells(path):
    """Return (kind, source) of the cells in percent format; text without its signs or quotes."""
    parts = re.split(
        r"^# %%(?: \[(markdown)\])?\n", path.read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    assert parts[0] == "", "the file starts with a cell"
    found = []
    for kind, source in zip(parts[1::2], parts[2::2], strict=True):
        text = source.strip()
        if kind == "markdown":
            quoted = text.startswith('"""')
            text = (
                text.strip('"').strip() if quoted else re.sub(r"^# ?", "", text, flags=re.MULTILINE)
            )
        found.append((kind or "code", text))
    return found


def test_each_exercise_has_a_solution():
    exercises = re.findall(
        r"^# (\d\.\d) ", "".join(path.read_text("utf-8") for path in COURSE), re.MULTILINE
    )
    solutions = re.findall(r"^# %% (\d\.\d) ", SOLUTIONS.read_text(encoding="utf-8"), re.MULTILINE)
    assert (
        exercises
        == solutions
        == [f"{lesson}.{number}" for lesson in range(1, 6) for number in range(1, 4)]
    )


@pytest.mark.parametrize("path", COURSE, ids=lambda path: path.stem)
def test_the_notebook_is_built_from_the_script(path):
    """Cells are those of the script, all ran without an error, and the pictures are in it."""
    stored = path.with_suffix(".ipynb").read_text(encoding="utf-8")
    notebook = json.loads(stored)["cells"]
    found = [(cell["cell_type"], "".join(cell["source"]).strip()) for cell in notebook]
    assert found == cells(path), "stale: python scripts/build_tutorial.py"
    assert max(len(text.splitlines()) for kind, text in found if kind == "code") <= 40
    code = [cell for cell in notebook if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert sum("image/png" in output.get("data", ()) for output in outputs) >= 2
    assert len(stored) < 1_500_000


@pytest.mark.slow(minutes=4)
@pytest.mark.parametrize("path", [*COURSE, SOLUTIONS], ids=lambda path: path.name)
def test_the_course_runs(path, start):
    """Each statement that needs checking is an assertion."""
    assert start(path)


@pytest.mark.slow(minutes=2)
@pytest.mark.parametrize("rows", [60])  # the sample has about a thousand
def test_the_course_runs_with_other_texts(rows, start, tmp_path, monkeypatch):
    """Any number of rows, in German, with two classes; lessons 4 and 5 have tasks of their own."""
    draw = random.Random(rows)
    words = [
        "der",
        "Bus",
        "kam",
        "spät",
        "aber",
        "die",
        "Fahrerin",
        "lächelte",
        "im",
        "Café",
        "gut",
        "schlecht",
    ]
    for split, count in (("train", rows), ("dev", rows // 5), ("test", rows // 5)):
        texts = [" ".join(draw.choices(words, k=draw.randint(1, 25))) for _ in range(count)]
        lines = [f"{text}\t{'froh' if 'gut' in text else 'traurig'}\n" for text in texts]
        (tmp_path / f"{split}.tsv").write_text("".join(lines), encoding="utf-8")
    monkeypatch.setenv("COURSE_DATA", str(tmp_path))
    for path in COURSE[:3]:
        assert start(path)


@pytest.mark.slow
def test_the_live_page_answers_as_python(browser):
    """The stored page has the scores of its model, token by token, computed here with torch."""
    page = SCRIPTS / "lesson_page.html"
    model = json.loads(
        re.search(
            r'id="model" type="application/json">(.*?)</script>', page.read_text("utf-8"), re.S
        )[1]
    )
    text, size = "The bus was late AGAIN, but the driver made my day! 🌱 naïve", model["units"]
    browser.get(page.as_uri())
    box = browser.find_element("id", "text")
    browser.execute_script("arguments[0].value = arguments[1]; arguments[0].oninput()", box, text)
    rows = [row.text.split() for row in browser.find_elements("css selector", "#cells tr")]
    words = re.findall(r"[\w'’]+|[^\w\s]", text.lower())
    assert rows[0] == words
    lstm, weights = (
        torch.nn.LSTM(size, size),
        {name: torch.tensor(model[name]) for name in ("W", "U", "b", "A", "a")},
    )
    values = (weights["W"], weights["U"], weights["b"], torch.zeros(4 * size))
    lstm.load_state_dict(dict(zip(lstm.state_dict(), values, strict=True)))
    ids = [model["vocabulary"].get(word, 0) for word in words]
    with torch.no_grad():
        states = lstm(torch.tensor(model["table"])[ids])[0]
    expected = (states @ weights["A"].T + weights["a"]).softmax(-1).T
    shown = torch.tensor(
        [[float(number) for number in row[1:]] for row in rows[-len(model["labels"]) :]]
    )
    torch.testing.assert_close(shown, expected, atol=0.0051, rtol=0)
    for bias, keeps in ((0, 0.5**30), (5, 0.8178)):
        script = "const s = arguments[0]; $('bias').value = s; return drawMemory()"
        curves = browser.execute_script(script, bias)
        assert curves["rule"][-1] == pytest.approx(keeps, rel=0.05)
        assert (curves["measured"][-1] > 0.3) == (bias == 5)
    browser.execute_script("startDrift(); for (let step = 0; step < 25; step++) stepDrift();")
    assert "After 25 padding tokens 0.0 %" in browser.find_element("id", "apart").text


def test_train_sentiment(texts_dir, tmp_path, monkeypatch, capsys):
    """The printed answer is that of the saved model."""
    from transformers import pipeline

    flags = [
        "--data_dir",
        texts_dir,
        "--output_dir",
        tmp_path / "gru",
        "--cell_type",
        "gru",
        "--num_train_epochs",
        1,
    ]
    code, out, err = run_script(TRAIN, [*flags, "--text", "lovely 🌱"], monkeypatch, capsys)
    assert code == 0, err
    answer = ast.literal_eval(out.strip().splitlines()[-1].removeprefix("lovely 🌱 "))
    assert answer == pipeline("text-classification", str(tmp_path / "gru"))("lovely 🌱")
    assert "validation_macro_recall" in out and "test_macro_recall" in out


@pytest.mark.slow
def test_scores_of_a_recipe_and_a_peer(tmp_path, monkeypatch, capsys):
    """The table is the mean over the lines of the output file; a second run measures no more."""
    output = tmp_path / "scores.jsonl"
    flags = [
        "--data_dir",
        DATA,
        "--model",
        "linear",
        "scratch --num_train_epochs 1",
        "--output_file",
        output,
    ]
    for _ in range(2):
        code, out, err = run_script(
            SCRIPTS / "benchmarks" / "scores.py", flags, monkeypatch, capsys
        )
        assert code == 0, err
        results = [json.loads(line) for line in output.read_text("utf-8").splitlines()]
        assert [result["model"] for result in results] == ["linear", "scratch --num_train_epochs 1"]
    row = next(line for line in out.splitlines() if line.startswith("| linear"))
    assert f"{results[0]['accuracy']:.3f} / {results[0]['macro_f1']:.3f}" in row


def test_finetune_teacher(bert, texts_dir, tmp_path, monkeypatch, capfd):
    """One object on stdout; a teacher with the data's labels, which `distill` opens."""
    from hf_rnn.training.distill import Classifier

    flags = [
        "--model",
        bert[0],
        "--data_dir",
        texts_dir,
        "--output_dir",
        tmp_path / "out",
        "--max_length",
        16,
    ]
    flags += ["--epochs", 1, "--use_cpu"]
    code, out, err = run_script(SCRIPTS / "finetune_teacher.py", flags, monkeypatch, capfd)
    assert code == 0, err
    assert Classifier.open(str(tmp_path / "out"), None, None).align(["bad", "good", "plain"]) == [
        0,
        1,
        2,
    ]
    assert "validation_macro_recall" in json.loads(out)["validation"]
    code, _, err = run_script(SCRIPTS / "finetune_teacher.py", flags, monkeypatch, capfd)
    assert code == 2 and "not empty" in err
