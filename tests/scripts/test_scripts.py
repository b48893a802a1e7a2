"""Each script runs; the scripts that users copy say what they promise."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import run_script

SCRIPTS = Path(__file__).parents[2] / "scripts"
DATA = SCRIPTS.parent / "data" / "tweets"
COURSE = [SCRIPTS / "tutorial.py", SCRIPTS / "tutorial_further.py"]
TRAIN, SOLUTIONS = SCRIPTS / "train_sentiment.py", SCRIPTS / "tutorial_solutions.py"
RUNNABLE = sorted(path for path in SCRIPTS.rglob("*.py") if 'if __name__ == "__main__"' in path.read_text("utf-8"))


@pytest.fixture
def start(tmp_path):
    """Run a script in a process of its own, from another folder."""

    def start_script(script, *arguments, code=0):
        command = [sys.executable, str(script), *map(str, arguments)]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, encoding="utf-8", timeout=1500
        )
        assert done.returncode == code, done.stderr
        return done.stdout

    return start_script


def test_help_is_there_without_heavy_imports(tmp_path):
    """In one process without the paths that pytest sets, each script after the other."""
    names = [str(path) for path in RUNNABLE if path not in COURSE and not path.name.startswith(("build_", "decode_"))]
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
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("show this help message") == len(names) and done.stdout.endswith("\nset()\n")


def cells(path):
    """Return (kind, source) of the cells in percent format; text without its comment signs or quotes."""
    parts = re.split(r"^# %%(?: \[(markdown)\])?\n", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert parts[0] == "", "the file starts with a cell"
    found = []
    for kind, source in zip(parts[1::2], parts[2::2], strict=True):
        text = source.strip()
        if kind == "markdown":
            quoted = text.startswith('"""')
            text = text.strip('"').strip() if quoted else re.sub(r"^# ?", "", text, flags=re.MULTILINE)
        found.append((kind or "code", text))
    return found


@pytest.mark.parametrize("path", [*COURSE, SOLUTIONS], ids=lambda path: path.name)
def test_the_course_has_valid_cells_and_no_heading_twice(path):
    found = cells(path)
    assert all(ast.parse(source).body for kind, source in found if kind == "code")
    headings = re.findall(
        r"^#+ (.+)$", "\n".join(source for kind, source in found if kind == "markdown"), re.MULTILINE
    )
    assert len(headings) == len(set(headings)) > 3


def test_each_exercise_has_a_solution():
    exercises = re.findall(r"^# (\d+\.\d) ", "".join(path.read_text("utf-8") for path in COURSE), re.MULTILINE)
    solutions = re.findall(r"^# ## (\d+\.\d) ", SOLUTIONS.read_text(encoding="utf-8"), re.MULTILINE)
    assert exercises == solutions and len(exercises) >= 9


@pytest.mark.parametrize("path", COURSE, ids=lambda path: path.stem)
def test_the_notebook_is_built_from_the_script(path):
    """Cells are those of the script, all ran without an error, and the pictures are in it."""
    stored = path.with_suffix(".ipynb").read_text(encoding="utf-8")
    notebook = json.loads(stored)["cells"]
    found = [(cell["cell_type"], "".join(cell["source"]).strip()) for cell in notebook]
    assert found == cells(path), "stale: python scripts/build_tutorial.py"
    code = [cell for cell in notebook if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert sum("image/png" in output.get("data", ()) for output in outputs) >= 3
    assert len(stored) < 1_500_000


def test_the_installed_course_finds_its_tweets(tmp_path):
    """The files that the package installs beside it are enough, without a clone."""
    installed = tomllib.loads((SCRIPTS.parent / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"][
        "data-files"
    ]
    for folder, patterns in installed.items():
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        for file in (file for pattern in patterns for file in SCRIPTS.parent.glob(pattern)):
            shutil.copy(file, tmp_path / folder)
    code = "import tutorial_helpers; print(sorted(file.name for file in tutorial_helpers.DATA.glob('*.tsv')))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "share" / "hf_rnn", capture_output=True, text=True
    )
    assert done.stdout == "['dev.tsv', 'test.tsv', 'train.tsv']\n", done.stderr


@pytest.mark.slow(minutes=3)
@pytest.mark.parametrize("path", [*COURSE, SOLUTIONS], ids=lambda path: path.name)
def test_the_course_runs(path, start):
    """Each claim in it is an assertion."""
    assert start(path)


def test_train_sentiment(texts_dir, tmp_path, monkeypatch, capsys):
    """The printed answer is that of the saved model."""
    from transformers import pipeline

    flags = ["--data_dir", texts_dir, "--output_dir", tmp_path / "gru", "--cell_type", "gru", "--num_train_epochs", 1]
    code, out, err = run_script(TRAIN, [*flags, "--text", "lovely 🌱"], monkeypatch, capsys)
    assert code == 0, err
    answer = ast.literal_eval(out.strip().splitlines()[-1].removeprefix("lovely 🌱 "))
    assert answer == pipeline("text-classification", str(tmp_path / "gru"))("lovely 🌱")
    assert "validation_macro_recall" in out and "test_macro_recall" in out


def test_scores_of_a_recipe_and_a_peer(tmp_path, monkeypatch, capsys):
    """The table is the mean over the lines of the output file, and a second run measures nothing again."""
    output = tmp_path / "scores.jsonl"
    flags = ["--data_dir", DATA, "--model", "linear", "scratch --num_train_epochs 1", "--output_file", output]
    for _ in range(2):
        code, out, err = run_script(SCRIPTS / "benchmarks" / "scores.py", flags, monkeypatch, capsys)
        assert code == 0, err
        results = [json.loads(line) for line in output.read_text("utf-8").splitlines()]
        assert [result["model"] for result in results] == ["linear", "scratch --num_train_epochs 1"]
    row = next(line for line in out.splitlines() if line.startswith("| linear"))
    assert f"{results[0]['accuracy']:.3f} / {results[0]['macro_f1']:.3f}" in row


def test_finetune_teacher(bert, texts_dir, tmp_path, monkeypatch, capfd):
    """One object on stdout; a teacher with the data's labels, which `distill` opens."""
    from hf_rnn.training.distill import Classifier

    flags = ["--model", bert[0], "--data_dir", texts_dir, "--output_dir", tmp_path / "out", "--max_length", 16]
    flags += ["--epochs", 1, "--use_cpu"]
    code, out, err = run_script(SCRIPTS / "finetune_teacher.py", flags, monkeypatch, capfd)
    assert code == 0, err
    assert Classifier.open(str(tmp_path / "out"), None, None).align(["bad", "good", "plain"]) == [0, 1, 2]
    assert "validation_macro_recall" in json.loads(out)["validation"]
    code, _, err = run_script(SCRIPTS / "finetune_teacher.py", flags, monkeypatch, capfd)
    assert code == 2 and "not empty" in err
