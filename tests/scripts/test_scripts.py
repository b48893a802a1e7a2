"""The tutorial and the Trainer script, run as a user would."""

import ast
import importlib
import json
import os
import random
import re
import runpy
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import invent_rows, run_script, write_rows

SCRIPTS = Path(__file__).parents[2] / "scripts"
TUTORIAL = SCRIPTS / "tutorial.py"
TRAIN = SCRIPTS / "train_sentiment.py"
SEARCH = SCRIPTS / "search_settings.py"

STEPS = [
    "words become vectors",
    "padding",
    "how the vectors start, and how to freeze them",
    "the data",
    "the vocabulary",
    "batches",
    "slices of the embedding tensor",
    "a recurrent layer, and why it must not read padding",
    "two layers",
    "one vector for a tweet",
    "the classifier, stage by stage",
    "the loss of one batch",
    "training",
    "checkpoint and reload",
    "GRU",
    "LSTM",
    "the same with the Trainer",
]
ROWS = [
    ("what a lovely day", "good"),
    ("lovely, lovely song 🌱", "good"),
    ("i love this song so very much today", "good"),
    ("rain again", "bad"),
    ("i hate this rain, it ruins my day", "bad"),
    ("the train is late again and i hate it", "bad"),
]


def write_tsv(path, rows):
    path.write_text("".join(f"{text}\t{label}\n" for text, label in rows), encoding="utf-8", newline="")


@pytest.fixture(autouse=True)
def hook(monkeypatch):
    """The tutorial sets one of its own, here for all tests that follow."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)


@pytest.fixture
def tiny_data(tmp_path):
    folder = tmp_path / "tiny data"
    folder.mkdir()
    write_tsv(folder / "train.tsv", 3 * ROWS)
    write_tsv(folder / "dev.tsv", ROWS)
    return folder


def run(script, *arguments, cwd):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, str(script), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, encoding="utf-8")


def run_to_refusal(script, arguments, monkeypatch, capsys):
    """In this process, which has the imports done; return the one line that says why."""
    code, out, err = run_script(script, arguments, monkeypatch, capsys)
    assert (code, out) == (2, "")
    (line,) = re.findall(rf"\A{script.name}: error: (.*)\n\Z", err)
    return line


def cells(path):
    """(kind, source) of the percent format's cells; kind is code or markdown."""
    marker = re.compile(r"^# %%(?: \[(markdown)\])?\n", flags=re.MULTILINE)
    text = path.read_text(encoding="utf-8")
    parts = marker.split(text)
    assert parts[0] == "", "the file starts with a cell"
    assert len(marker.findall(text)) == len(re.findall(r"^#\s*%%", text, flags=re.MULTILINE)), (
        "each marker is well formed"
    )
    return [(kind or "code", source) for kind, source in zip(parts[1::2], parts[2::2], strict=True)]


def test_tutorial_is_in_percent_format():
    found = cells(TUTORIAL)
    assert len(found) > 2 * len(STEPS)
    for kind, source in found:
        if kind == "code":
            compile(source, str(TUTORIAL), "exec")
            assert ast.parse(source).body, "a code cell does something"
        elif source.startswith('"""'):
            (statement,) = ast.parse(source).body
            assert isinstance(ast.literal_eval(statement.value), str)
        else:
            assert all(line.startswith("# ") for line in source.strip().split("\n"))


def test_tutorial_has_its_steps_in_order():
    text = [source for kind, source in cells(TUTORIAL) if kind == "markdown"]
    headings = re.findall(r"^# ## (\d+)\. (.*)$", "".join(text), flags=re.MULTILINE)
    assert [int(number) for number, _ in headings] == list(range(1, len(STEPS) + 1))
    assert [heading.lower() for _, heading in headings] == [step.lower() for step in STEPS]


def test_tutorial_on_other_data(tiny_data, tmp_path):
    done = run(TUTORIAL, "--data_dir", tiny_data.name, "--epochs", 1, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^--- (\d+)\. (.*) ---$", done.stdout, flags=re.MULTILINE) == [
        (str(number), step) for number, step in enumerate(STEPS, start=1)
    ]
    assert "train         18 tweets  bad 50.0% good 50.0%" in done.stdout
    assert done.stdout.count("epoch 1/1  loss") == 4
    assert os.listdir(tmp_path) == [tiny_data.name], "nothing is left behind"


@pytest.mark.slow
def test_tutorial_on_the_sample(tmp_path):
    """What its prose says of the sample comes out."""
    done = run(TUTORIAL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    ranking = dict(re.findall(r"^  (0\.\d{3})  (.*)$", done.stdout, flags=re.MULTILINE))
    accuracy = {name: float(value) for value, name in ranking.items()}
    assert set(accuracy) == {
        "tanh RNN, rate 0.3",
        "tanh RNN, rate 0.03",
        "GRU, rate 0.3",
        "LSTM, rate 0.3",
        "LSTM, rate 0.3, by the Trainer",
    }
    majority = float(re.search(r"commonest class is right for (\d+\.\d)%", done.stdout)[1]) / 100
    assert accuracy["tanh RNN, rate 0.03"] > accuracy["tanh RNN, rate 0.3"] + 0.05
    assert min(accuracy[name] for name in accuracy if name != "tanh RNN, rate 0.3") > majority + 0.2
    alone, read = re.search(r"validation accuracy (\S+); with padding read as text (\S+)", done.stdout).groups()
    assert float(read) < float(alone) - 0.1
    assert int(re.search(r"(\d+) of 169 tweets change their class", done.stdout)[1]) > 20
    assert os.listdir(tmp_path) == []


def test_tutorial_starts_as_a_notebook(monkeypatch):
    """A kernel has no __file__ and a command line of its own; the notebook's folder is where it starts."""
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    monkeypatch.setattr(sys, "argv", ["ipykernel_launcher.py", "-f", "kernel.json"])
    monkeypatch.chdir(SCRIPTS)
    first = next(source for kind, source in cells(TUTORIAL) if kind == "code")
    namespace = {"__name__": "__main__"}
    exec(compile(first, "cell", "exec"), namespace)
    namespace["workspace"].cleanup()
    namespace["datasets"].enable_progress_bars()  # the cell turns them off, here for all tests that follow
    namespace["transformers"].logging.enable_progress_bar()
    assert len(namespace["data"]["train"]) >= 900


@pytest.mark.parametrize("script", [TUTORIAL, TRAIN], ids=lambda path: path.name)
def test_bad_data_is_one_line(script, tiny_data, tmp_path, monkeypatch, capsys):
    output = ["--output_dir", tmp_path / "new"] if script == TRAIN else []
    line = run_to_refusal(script, ["--data_dir", tmp_path / "absent", *output], monkeypatch, capsys)
    assert "absent" in line
    with (tiny_data / "train.tsv").open("a", encoding="utf-8", newline="") as file:
        file.write("no label here\n")
    line = run_to_refusal(script, ["--data_dir", tiny_data, *output], monkeypatch, capsys)
    assert re.search(r"train\.tsv\D+19\b", line)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("script", "arguments", "reason"),
    [
        (TUTORIAL, ["--epochs", "0"], "--epochs must be 1 or more, found 0"),
        (TUTORIAL, ["--data_dri", "x"], "unrecognized arguments: --data_dri x"),
        (TRAIN, [], "the following arguments are required: --output_dir"),
        (TRAIN, ["--output_dir", "new", "--cell_type", "lstn"], "invalid choice: 'lstn'"),
        (TRAIN, ["--output_dir", "new", "--learning_rate", "-1"], "must be greater than 0, found -1"),
        (TRAIN, ["--output_dir", "new", "--num_train_epochs", "nan"], "must be greater than 0, found nan"),
        (TRAIN, ["--output_dir", str(SCRIPTS)], "is there already and not empty"),
        (SEARCH, ["--data_dir", "x", "--trials", "0"], "--trials must be at least 1, found 0"),
        (SEARCH, ["--data_dir", "x", "--epochs", "-1"], "--epochs must be at least 1, found -1"),
        (SEARCH, ["--data_dir", "x", "--output_file", "best"], "must be a .yaml file in a folder that is there"),
        (SEARCH, ["--data_dir", "x", "--output_file", "new/best.yaml"], "must be a .yaml file in a folder that is"),
        (SEARCH, ["--data_dir", "x"], "x"),
    ],
)
def test_bad_flags_are_one_line(script, arguments, reason, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert reason in run_to_refusal(script, arguments, monkeypatch, capsys)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "script", ["linear_baseline", "measure_tables", "reproduce_results", "search_settings", "tutorial"]
)
def test_the_flag_of_the_loaders_hint_is_there(script, monkeypatch, capsys):
    """It says: to go on without such rows, --max_bad_rows N."""
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(SCRIPTS / f"{script}.py"), run_name="__main__")
    assert "--max_bad_rows" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("script", "lacking"),
    [
        ("linear_baseline.py", "--header"),
        ("benchmark.py", "--header, --max_bad_rows"),
        ("reproduce_results.py", "--header"),
        ("finetune_teacher.py", "--header"),
        ("collect_unlabeled.py", "--header"),
        ("tutorial_ablation.py", "--header"),
        ("search_settings.py", "--header"),
        ("measure_tables.py", "--header"),
    ],
)
def test_a_flag_that_a_hint_names_and_a_script_lacks(script, lacking, trained, tmp_path, monkeypatch, capsys):
    """Such as --header, which collect_unlabeled.py has for something else."""
    folder = tmp_path / "data"
    folder.mkdir()
    for split in ("train", "dev"):
        write_rows(folder / f"{split}.tsv", [("text", "label"), *invent_rows(30, seed=1)])
    more = {
        "finetune_teacher.py": ["--model", "x", "--output_dir", tmp_path / "new"],
        "collect_unlabeled.py": ["--output_file", tmp_path / "new", folder / "dev.tsv"],
        "measure_tables.py": ["--model", trained.folder],
        "benchmark.py": ["latency"],
        "reproduce_results.py": ["--output_dir", tmp_path / "new"],
        "search_settings.py": ["--output_file", tmp_path / "new.yaml"],
    }.get(script, [])
    line = run_to_refusal(SCRIPTS / script, ["--data_dir", folder, *more], monkeypatch, capsys)
    assert "tsv:1: header where none was declared" in line and "declare it: --header" in line, "premise"
    assert line.endswith(f" ({script} has no {lacking}: its rows are text<TAB>label, without a header)")
    for split in ("train", "dev"):
        write_rows(folder / f"{split}.tsv", [*invent_rows(30, seed=1), ("no label", "")])
    line = run_to_refusal(SCRIPTS / script, ["--data_dir", folder, *more], monkeypatch, capsys)
    assert "tsv:31: " in line and "To go on without such rows: --max_bad_rows N" in line, "premise"
    assert ("has no" in line) == ("--max_bad_rows" in lacking)


@pytest.mark.parametrize("script", [TUTORIAL, TRAIN], ids=lambda path: path.name)
def test_a_flag_that_a_script_to_be_copied_lacks(script, tiny_data, tmp_path, monkeypatch, capsys):
    output = ["--output_dir", tmp_path / "new"] if script == TRAIN else []
    write_tsv(tiny_data / "train.tsv", [("text", "label"), *ROWS])
    line = run_to_refusal(script, ["--data_dir", tiny_data, *output], monkeypatch, capsys)
    assert "declare it: --header" in line
    assert line.endswith("(flags that --help does not list are those of hf-rnn train)")


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [("KeyboardInterrupt", 130, "stopped"), ("ZeroDivisionError", 1, "ZeroDivisionError: on purpose")],
)
def test_the_script_to_be_copied_when_it_is_stopped(error, code, told, tiny_data, tmp_path):
    """One line after Ctrl-C; an error keeps its traceback."""
    source = f"""
import runpy, sys
import hf_rnn

def fail(*_, **__):
    raise {error}("on purpose")

hf_rnn.encode = fail
runpy.run_path({str(TRAIN)!r}, run_name="__main__")
"""
    command = [sys.executable, "-c", source, "--data_dir", str(tiny_data), "--output_dir", str(tmp_path / "new")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == code, done.stderr
    assert done.stderr.splitlines()[-1] == told
    assert ("Traceback" in done.stderr) == (code == 1)
    assert code == 1 or len(done.stderr.split("\n")) <= 3


@pytest.mark.skipif(os.name == "nt", reason="pipes end otherwise there")
@pytest.mark.parametrize("size", [10, 1_000_000], ids=["at the end", "before it"])
def test_a_script_whose_output_nobody_reads(size):
    source = f"import sys; sys.path.insert(0, {str(SCRIPTS)!r}); import command_line\n"
    source += f"command_line.run(lambda: print('x' * {size}))"
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([sys.executable, "-c", source], stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no disk that is always full")
@pytest.mark.parametrize("size", [10, 1_000_000], ids=["at the end", "before it"])
def test_a_script_whose_output_finds_no_space(size):
    source = f"import sys; sys.path.insert(0, {str(SCRIPTS)!r}); import command_line\n"
    source += f"sys.argv[0] = 'some/script.py'; command_line.run(lambda: print('x' * {size}))"
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", source], stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (2, "script.py: error: [Errno 28] No space left on device\n")


@pytest.mark.skipif(os.name == "nt", reason="there is no shell that closes them")
@pytest.mark.parametrize(
    ("closed", "code", "out", "err"),
    [
        (">&-", 2, "", "script.py: error: standard output is closed: redirect it to a file, or to /dev/null\n"),
        ("2>&-", 0, "a result\n", ""),
        (">&- 2>&-", 2, "", ""),
    ],
)
def test_a_script_whose_output_is_closed(closed, code, out, err):
    """Closed stdout is told before anything is measured; with stderr closed only results stand in stdout."""
    source = f"""
import sys; sys.path.insert(0, {str(SCRIPTS)!r}); import command_line
sys.argv[0] = "some/script.py"
command_line.run(lambda: print("progress", file=sys.stderr) or print("a result"))
"""
    command = ["sh", "-c", f'"$0" -c "$1" {closed}', sys.executable, source]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (code, out, err)


def test_how_a_script_ends(script, capsys):
    """With its own exit code, or that of the signal."""
    from hf_rnn.training.checkpointing.interrupt import TrainingStopped

    command_line = script("command_line")

    def stop(error):
        raise error

    for main, code, told in (
        (lambda: None, 0, ""),
        (lambda: 0, 0, ""),
        (lambda: 1, 1, ""),
        (lambda: stop(KeyboardInterrupt), 130, "that is all\n"),
        (lambda: stop(TrainingStopped(signal.SIGTERM, None)), 143, "that is all\n"),
    ):
        left = 0
        try:
            command_line.run(main, "that is all")
        except SystemExit as leaving:
            left = leaving.code
        assert (left, capsys.readouterr().err) == (code, told)


def test_all_scripts_end_alike():
    """Those to be copied stand alone."""
    for path in SCRIPTS.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        if 'if __name__ == "__main__":' in text and path != TRAIN:
            assert "\n    command_line.run(main" in text and "argparse.ArgumentParser(" not in text, path


def test_train_sentiment_is_short_and_public():
    text = TRAIN.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 100
    import transformers

    import hf_rnn

    public = {"hf_rnn": set(hf_rnn.__all__), "transformers": {name for name in dir(transformers) if name[0] != "_"}}
    used = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            used |= {(node.module, alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            used |= {(alias.name, None) for alias in node.names}
        elif isinstance(node, ast.Attribute):
            assert not node.attr.startswith("_")
            if isinstance(node.value, ast.Name) and node.value.id in public:
                used.add((node.value.id, node.attr))
    for module, name in used:
        if module in public:
            assert name is None or name in public[module]
        else:
            assert module in sys.stdlib_module_names
    assert {("hf_rnn", "RnnForSequenceClassification"), ("transformers", "Trainer")} <= used, "premise: it uses both"


def test_train_sentiment_help_loads_nothing_heavy(tmp_path):
    code = f"import runpy, sys; sys.argv = ['t', '--help']; runpy.run_path({str(TRAIN)!r}, run_name='__main__')"
    command = [sys.executable, "-X", "importtime", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0
    assert "python scripts/train_sentiment.py --output_dir" in done.stdout
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "argparse" in imported, "premise: imports are listed"
    assert not imported & {"torch", "transformers", "datasets", "hf_rnn"}


def check_finished(folder, stdout, text):
    """The folder holds the model that gave the printed answer."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    import hf_rnn  # noqa: F401 - the classes know its models

    model = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        shares = model(**tokenizer(text, return_tensors="pt")).logits.softmax(-1)[0]
    answer = ast.literal_eval(stdout.strip().splitlines()[-1].removeprefix(text + " "))
    assert answer == [
        {"label": model.config.id2label[shares.argmax().item()], "score": pytest.approx(shares.max().item())}
    ]


def test_train_sentiment_on_other_data(tiny_data, tmp_path):
    arguments = ["--data_dir", tiny_data, "--output_dir", "out/gru", "--cell_type", "gru", "--num_train_epochs", 1]
    done = run(TRAIN, *arguments, "--text", "lovely 🌱", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    check_finished(tmp_path / "out" / "gru", done.stdout, "lovely 🌱")
    assert "'validation_macro_recall'" in done.stdout
    assert "'test_" not in done.stdout, "there is no test.tsv"


def test_search_settings_finds_a_recipe_that_trains_the_same(texts_dir, tmp_path):
    folder = tmp_path / "my texts"
    folder.mkdir()
    for name, times in {"train.tsv": 8, "dev.tsv": 1}.items():
        (folder / name).write_bytes(times * (texts_dir / name).read_bytes())
    (folder / "test.tsv").write_text("not a row\n")  # would be refused if it were read
    arguments = ["--data_dir", folder.name, "--trials", 2, "--epochs", 1, "--output_file", "found.yaml", "--seed", 3]
    done = run(SEARCH, *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(os.listdir(tmp_path)) == ["found.yaml", "my texts"], "no checkpoints"
    from hf_rnn import train
    from hf_rnn.training.recipes import load_recipe

    start, best = (float(score) for score in re.findall(r" macro_f1 (\S+)$", done.stdout, flags=re.MULTILINE))
    settings, usual = load_recipe(tmp_path / "found.yaml"), load_recipe("default")
    assert (settings["num_train_epochs"], settings["seed"]) == (1, 3) and settings["cell_type"] == usual["cell_type"]
    assert f"\nlearning_rate: {settings['learning_rate']}\n" in done.stdout
    assert done.stdout.endswith("hf-rnn train --recipe found.yaml --data_dir 'my texts' --output_dir out/found\n")
    (folder / "test.tsv").unlink()
    recipes = {str(tmp_path / "found.yaml"): (best, {}), "default": (start, {"num_train_epochs": 1, "seed": 3})}
    for number, (recipe, (score, changes)) in enumerate(recipes.items()):
        output = tmp_path / f"trained {number}"
        result = train(recipe=recipe, data_dir=str(folder), output_dir=str(output), baselines=False, **changes)
        assert result.metrics["validation"]["macro_f1"] == pytest.approx(score, abs=1e-4), recipe
    assert best > start, "premise: the two are different trials"


def test_search_settings_that_is_stopped_keeps_what_it_found(tiny_data, tmp_path):
    """Ctrl-C in the second trial, and in the first."""
    code = f"""
import os, runpy, signal, sys
from transformers import TrainerCallback
from hf_rnn.training.checkpointing.interrupt import SavePoints

sys.path.insert(0, {str(SCRIPTS)!r})
stop_in, begun = int(sys.argv.pop(1)), 0
begin = SavePoints.on_train_begin

def count(self, *args, **kwargs):
    global begun
    begun += 1
    if begun == stop_in:
        os.kill(os.getpid(), signal.SIGINT)
    begin(self, *args, **kwargs)

SavePoints.on_train_begin = count
sys.argv[0] = {str(SEARCH)!r}
runpy.run_path({str(SEARCH)!r}, run_name="__main__")
"""
    for stop_in, told in ((2, "stopped after 1 of 4 trials"), (1, "stopped before a trial was complete: nothing was")):
        arguments = ["--data_dir", tiny_data, "--trials", 4, "--epochs", 1, "--output_file", f"found{stop_in}.yaml"]
        done = subprocess.run(
            [sys.executable, "-c", code, str(stop_in), *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's jobs ignore it
        )
        assert done.returncode == 130, done.stderr
        assert "Traceback" not in done.stderr
        assert told in done.stderr.splitlines()[-1]
        assert (tmp_path / f"found{stop_in}.yaml").exists() == (stop_in == 2)
    assert (tmp_path / "found2.yaml").read_text().startswith("# best is trial 0 of 1 (0 ended early): macro_f1 ")


def test_search_settings_needs_a_validation_split(tiny_data, tmp_path, monkeypatch, capsys):
    (tiny_data / "dev.tsv").unlink()
    monkeypatch.chdir(tmp_path)
    assert "no split validation" in run_to_refusal(SEARCH, ["--data_dir", tiny_data], monkeypatch, capsys)
    write_tsv(tiny_data / "dev.tsv", ROWS)
    line = run_to_refusal(SEARCH, ["--data_dir", tiny_data, "--normalizer", "twet"], monkeypatch, capsys)
    assert "'twet'" in line
    (tmp_path / "found.yaml").write_text("")
    assert "found.yaml is there already" in run_to_refusal(SEARCH, ["--data_dir", tiny_data], monkeypatch, capsys)
    monkeypatch.setitem(sys.modules, "optuna", None)
    line = run_to_refusal(SEARCH, ["--data_dir", tiny_data, "--output_file", "new.yaml"], monkeypatch, capsys)
    assert "pip install '.[search]'" in line
    assert sorted(os.listdir(tmp_path)) == ["found.yaml", tiny_data.name]


def test_trials_train_as_trainers_of_their_own(tmp_path):
    """Weights of classes, smoothing, patience and accumulated batches in a search are those that each trial sets."""
    import optuna
    import torch
    from transformers import set_seed

    from hf_rnn import RnnConfig, RnnForSequenceClassification, RnnTrainer, RnnTrainingArguments

    rows = [{"input_ids": [2 + number % 5, 2 + number % 3], "labels": int(number % 4 == 0)} for number in range(32)]
    config = RnnConfig(vocab_size=8, embedding_size=4, hidden_size=4, id2label={0: "a", 1: "b"})
    trials = [(0.0, 0.0, 1), (1.0, 0.2, 2), (0.0, 0.2, 2), (1.0, 0.0, 1), (0.0, 0.0, 2)]
    names = ("class_weight_power", "label_smoothing_factor", "gradient_accumulation_steps")

    def collate(batch):
        return {name: torch.tensor([row[name] for row in batch]) for name in batch[0]}

    parts = {"train_dataset": rows, "eval_dataset": rows, "data_collator": collate}

    def make_model():
        model = RnnForSequenceClassification(config)
        set_seed(0)
        return model

    def arguments(values):
        return RnnTrainingArguments(
            output_dir=str(tmp_path),
            num_train_epochs=3,
            eval_strategy="epoch",
            save_strategy="no",
            metric_for_best_model="loss",
            early_stopping_patience=1,
            learning_rate=0.1,
            seed=0,
            use_cpu=True,
            **dict(zip(names, values, strict=True)),
        )

    alone = []
    for values in trials:
        trainer = RnnTrainer(model_init=make_model, args=arguments(values), **parts)
        trainer.train()
        alone.append((trainer.state.global_step, trainer.state.log_history[-2]["eval_loss"]))
    assert len({loss for _, loss in alone}) == len(trials), "premise: the settings matter"
    assert any(steps < 3 * 4 for steps, _ in alone), "premise: some stop early"

    for first in (trials[0], trials[1]):  # what the Trainer of the search was made with must not matter
        trainer = RnnTrainer(model_init=make_model, args=arguments(first), **parts)
        found = []

        def last_loss(metrics, trainer=trainer, found=found):
            found.append((trainer.state.global_step, metrics["eval_loss"]))
            return metrics["eval_loss"]

        ends = []
        for values in trials:
            trainer.hyperparameter_search(
                backend="optuna",
                hp_space=lambda trial, values=values: dict(zip(names, values, strict=True)),
                compute_objective=last_loss,
                n_trials=1,
                pruner=optuna.pruners.NopPruner(),
            )
            ends.append(found[-1])
        assert [steps for steps, _ in ends] == [steps for steps, _ in alone]
        assert [loss for _, loss in ends] == pytest.approx([loss for _, loss in alone], rel=1e-6)


def test_the_sides_of_the_data_benchmark_read_the_same(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    import benchmark_data

    written = benchmark_data.write_tsv(tmp_path / "rows.tsv", 3_000)
    lines = (tmp_path / "rows.tsv").read_text(encoding="utf-8").split("\n")[:-1]
    assert Counter(line.split("\t")[1] for line in lines) == written
    assert set(benchmark_data.SIDES) == {"pyarrow", "stream", "table"}
    for side, read in benchmark_data.SIDES.items():
        assert read(str(tmp_path / "rows.tsv")) == written, side


@pytest.mark.slow
def test_the_data_benchmark(tmp_path):
    done = run(SCRIPTS / "benchmark.py", "data", "--rows", 2_000, "--repeats", 3, "--json", "out.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    stream, table = done.stdout.splitlines()
    assert stream.startswith("2,000 rows, load_tsv as a stream / pyarrow.csv streaming (goal: at most 3, under 400 MB")
    assert "load_tsv as a table" in table
    for result in json.loads((tmp_path / "out.json").read_text())["results"]:
        assert result["repeats"] == 3 and 0 < result["ratio_quartiles"][0] <= result["ratio"]
        assert 20 < result["peer_peak_mb"] < result["ours_peak_mb"], "each in a process of its own"
        assert result["ours_peak_mb"] - result["ours_import_mb"] < 100
    assert os.listdir(tmp_path) == ["out.json"]


def test_the_training_benchmark_compares_like_with_like(monkeypatch):
    """The invented texts are as its docstring says, and both sides of a comparison see each text once an epoch."""
    monkeypatch.syspath_prepend(SCRIPTS)
    import benchmark_loops
    import torch

    texts = benchmark_loops.Texts(None)
    lengths = [len(ids) for ids, _ in texts.rows]
    assert len(lengths) == 6000 and 18 < sum(lengths) / 6000 < 20 and (min(lengths), max(lengths)) == (5, 32)
    batches = [texts.rows[start : start + 64] for start in range(0, 6000, 64)]
    shares = [len(torch.cat([ids for ids, _ in rows]).unique()) / sum(len(ids) for ids, _ in rows) for rows in batches]
    assert 0.33 < sum(shares) / len(shares) < 0.47
    assert 0.45 < texts.majority < 0.55
    alike = [lengths[row] for row in texts.of_one_length(256)]
    assert len(alike) == 256 and set(alike) == {max(set(lengths), key=lengths.count)}

    few = benchmark_loops.Texts(None, rows=30)
    seen = []
    pad = few.pad
    monkeypatch.setattr(few, "pad", lambda indices: (seen.extend(indices), pad(indices))[1])
    for both in (False, True):
        plain = benchmark_loops.make_plain(few, "RNN", hidden=4, layers=1, both=both, sparse=False)
        before = [weight.clone() for weight in plain.parameters()]
        threads = torch.get_num_threads()
        best = benchmark_loops.best_threads(few, plain, 4)
        assert best in (1, threads) and torch.get_num_threads() == threads
        assert all(weight.grad is None for weight in plain.parameters()), "nothing is left of the trial"
        if both:
            epochs = benchmark_loops.plain_epochs(few, plain, 7)
        else:
            epochs = benchmark_loops.tutorial_epochs(few, plain, best)
        seen.clear()
        next(epochs)
        assert torch.get_num_threads() == threads
        assert sorted(seen) == list(range(30))
        assert all(not torch.equal(old, new) for old, new in zip(before, plain.parameters(), strict=True))
        assert 0 <= few.accuracy(plain.eval(), 4) <= 1


@pytest.mark.parametrize(
    ("kind", "layers", "both"), [("RNN", 2, False), ("GRU", 2, False), ("LSTM", 2, False), ("LSTM", 1, True)]
)
def test_the_training_benchmark_asserts_its_networks(kind, layers, both, monkeypatch, tmp_path):
    """That they are the same: a wrong answer is found in the loss, a gradient that alone is wrong by its name."""
    monkeypatch.syspath_prepend(SCRIPTS)
    import benchmark_loops
    import benchmark_same
    import benchmark_train

    texts = benchmark_loops.Texts(None, rows=60)
    cell = {"RNN": "rnn_tanh", "GRU": "gru", "LSTM": "lstm"}[kind]
    sizes = {"cell_type": cell, "embedding_size": 300, "hidden_size": 5, "num_hidden_layers": layers}
    head = {} if both else {"bidirectional": False, "pooling": "last", "classifier_activation": "relu"}
    plain = benchmark_loops.make_plain(texts, kind, hidden=5, layers=layers, both=both, sparse=not both)
    model = benchmark_train.make_trainer(texts, str(tmp_path), {**sizes, **head}).model
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    benchmark_same.check_same_network(texts, plain, model, 20)
    assert all(weight.equal(before[name]) for name, weight in model.state_dict().items()), "a copy was compared"

    other = benchmark_train.make_trainer(texts, str(tmp_path), {**sizes, **head, "pooling": "max"}).model
    found = "the loss: " if not both else "linear.weight: "  # where the head has another size
    with pytest.raises(AssertionError, match=found):
        benchmark_same.check_same_network(texts, plain, other, 20)

    forward = type(model).forward

    def slanted(self, *args, **kwargs):
        output = forward(self, *args, **kwargs)
        output.loss.register_hook(lambda gradient: 1.00001 * gradient)  # more than rounding in float32 lets tell
        return output

    monkeypatch.setattr(type(model), "forward", slanted)
    with pytest.raises(AssertionError, match="the gradient of embedding.weight: "):
        benchmark_same.check_same_network(texts, plain, model, 20)


def test_the_vocabulary_benchmark_asserts_its_first_step(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    import benchmark_vocab

    from hf_rnn.training.optimizers import LazyAdamW

    monkeypatch.setattr(benchmark_vocab, "SMALL", 400)
    benchmark_vocab.check_first_step()
    update = LazyAdamW._update_rows

    def faster(self, parameter, rows, values, group):
        update(self, parameter, rows, values, {**group, "lr": 1.01 * group["lr"]})

    monkeypatch.setattr(LazyAdamW, "_update_rows", faster)
    with pytest.raises(AssertionError, match="rnn.embedding.weight: "):
        benchmark_vocab.check_first_step()


@pytest.mark.slow
def test_the_training_benchmark(tmp_path):
    done = run(SCRIPTS / "benchmark.py", "train", "--quick", "--json", "out.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "out.json").read_text())["results"]
    assert len(results) == len(done.stdout.splitlines()) in (7, 8)  # one needs a processor that computes in bf16
    for result in results:
        assert result["part"] == "train" and result["repeats"] >= 3
        assert 0 < result["ratio_quartiles"][0] <= result["ratio"] <= result["ratio_quartiles"][1]
    tutorial = [result for result in results if "tutorial" in result["what"]]
    assert [result["goal"] for result in tutorial] == [8, 8, 4]
    for result in tutorial:
        assert result["ours_per_second"] / result["peer_per_second"] == pytest.approx(
            result["peer_ms"] / result["ours_ms"]
        )
        assert 0 < result["majority"] < 1 and 0 <= result["ours_accuracy"] <= 1 and 0 <= result["peer_accuracy"] <= 1
    assert os.listdir(tmp_path) == ["out.json"]


@pytest.mark.slow
def test_train_sentiment_on_the_sample(tmp_path):
    done = run(TRAIN, "--output_dir", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    check_finished(tmp_path / "out", done.stdout, "best concert of my life, thank you!")
    assert float(re.search(r"'test_accuracy': (\S+),", done.stdout)[1]) > 0.7  # the commonest class: 0.396


@pytest.mark.slow
def test_the_steps_of_the_vocabulary_benchmark(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    import benchmark_vocab

    monkeypatch.setattr(benchmark_vocab, "LARGE", 5_000)
    rows = benchmark_vocab.compare_steps(3)
    assert ["3,330 / 5,000" in row["what"] for row in rows] == [True, False, False]
    assert all(row["ratio_quartiles"][0] <= row["ratio"] <= row["ratio_quartiles"][1] for row in rows)
    assert all(row["ours_ms"] > 0 and row["repeats"] == 3 for row in rows)


def test_seeds_with_two_settings(tiny_data, monkeypatch, capsys):
    """Each seed with both; the interval against the table of Student's t, 12.706 for one degree of freedom."""
    pytest.importorskip("scipy", reason="needs the extra baselines")
    flags = ["--data_dir", str(tiny_data), "--num_train_epochs", "1", "--min_frequency", "1", "--baselines", "false"]
    argv = ["measure_seeds.py", "--seeds", "2", *flags, "--against", "--word_dropout 0.9 --embedding_dropout 0"]
    monkeypatch.setattr(sys, "argv", argv)
    script = runpy.run_path(str(SCRIPTS / "measure_seeds.py"), run_name="measured")
    script["main"]()
    out, err = capsys.readouterr()
    told = [line for line in err.splitlines() if line.startswith("seed ")]
    assert [line.split(": ")[:2] for line in told] == [
        ["seed 0", "ours"], ["seed 0", "against"], ["seed 1", "ours"], ["seed 1", "against"]
    ]  # fmt: skip
    _, _, ours, against, last = out.splitlines()
    assert ours.startswith("| 2 | ") and against.startswith("| 2 | ") and last.startswith("| difference | ")
    assert script["difference"]([0.5, 0.6], [0.4, 0.3]) == f"+0.2000 ({0.2 - 1.2706:+.4f} to {0.2 + 1.2706:+.4f})"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--seeds", "0"], "found 0"),
        (["--threads", "0"], "--threads must be at least 1, found 0"),
        (["--seeds", "1", "--against", "--recipe fast"], "found 1"),
        (["--seed", "9"], "--seed is set here for each run"),
        (["--output-dir=x"], "--output-dir=x is set here for each run"),
        (["--against", "--recipe 'fast"], "No closing quotation"),
        (["--against", ""], "--against names no flag"),
        (["--data_dir", "x", "--against", "--foo true"], "unknown option '--foo'"),
        (["--data_dir", "x", "--against", "--foo"], "unknown option '--foo'"),
        (["--data_dir", "x", "--against"], "argument --against: expected one argument"),
    ],
)
def test_mistakes_with_seeds(flags, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["measure_seeds.py", *flags])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(SCRIPTS / "measure_seeds.py"), run_name="__main__")
    assert stopped.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--json", "FOLDER"], "is no file that can be written"),
        (["--plot", "FOLDER"], "is no file that can be written"),
        (["--plot", "speed.jpeg2"], "must end in .png, .svg or .pdf"),
        (["--json", "no folder/x.json"], "there is no folder no folder"),
        (["--data_dir", "few"], "few has 60 rows to train on: there must be 200 or more"),
        (["vocab", "--data_dir", "alike"], "train holds one label only, 'a'"),
        (["latency", "--data_dir", "broken"], "broken/train.tsv:1: "),
        (["data", "--data_dir", "few"], "--data_dir few is of no use to data: leave it out"),
        (["data", "shapes", "--data_dir", "few"], "--data_dir few is of no use to shapes and data: leave it out"),
    ],
)
def test_the_benchmark_looks_at_its_files_first(flags, message, monkeypatch, tmp_path, capsys):
    for name, count, labels in (("few", 60, "ab"), ("alike", 300, "a"), ("broken", 1, "ab")):
        (tmp_path / name).mkdir()
        rows = [f"text {row}\t{labels[row % len(labels)]}\n" for row in range(count)] if name != "broken" else ["x\n"]
        for split in ("train", "dev"):
            (tmp_path / name / f"{split}.tsv").write_text("".join(rows))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(SCRIPTS)
    argv = ["benchmark.py", *(str(tmp_path) if flag == "FOLDER" else flag for flag in flags)]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(SCRIPTS / "benchmark.py"), run_name="__main__")
    assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_what_smaller_tables_cost(trained, texts_dir, tmp_path, monkeypatch, capsys):
    folder = str(getattr(trained, "folder", trained))
    monkeypatch.setattr(sys, "argv", ["measure_tables.py", "--model", folder, "--data_dir", str(texts_dir)])
    runpy.run_path(str(SCRIPTS / "measure_tables.py"), run_name="__main__")
    _, _, *lines = capsys.readouterr().out.splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [row[0] for row in cells] == ["none: the plain model", "float32", "bfloat16", "int8"]
    metrics = json.loads((Path(folder) / "metrics.json").read_text())["validation"]
    assert cells[0][2:4] == [f"{metrics[name]:.4f}" for name in ("accuracy", "macro_recall")]
    differences = [float(row[-1]) for row in cells]
    assert differences[0] == 0 and differences[1] < 1e-5 < differences[2], "float32 is exact, the others round"
    sys.argv += ["--split", "dev"]
    from hf_rnn import FastRnn

    monkeypatch.setattr(FastRnn.__init__, "__defaults__", ("float32", 0, None))  # a limit that no table keeps to
    runpy.run_path(str(SCRIPTS / "measure_tables.py"), run_name="__main__")
    assert capsys.readouterr().out.splitlines()[2:] == lines, "those of the plain model would cost nothing"
    logits = FastRnn.logits
    monkeypatch.setattr(FastRnn, "logits", lambda self, ids: -logits(self, ids))
    swapped = shutil.copytree(texts_dir, tmp_path / "swapped")
    rows = (texts_dir / "test.tsv").read_text()
    for old, new in (("\tbad", "\t?"), ("\tgood", "\tbad"), ("\t?", "\tgood")):
        rows = rows.replace(old, new)
    (swapped / "test.tsv").write_text(rows)
    argv = ["measure_tables.py", "--model", folder, "--data_dir", str(swapped), "--split", "test"]
    monkeypatch.setattr(sys, "argv", argv)
    runpy.run_path(str(SCRIPTS / "measure_tables.py"), run_name="__main__")
    _, _, plain, *tables = (line.split(" | ") for line in capsys.readouterr().out.splitlines())
    test = np.array(json.loads((Path(folder) / "metrics.json").read_text())["test"]["confusion_matrix"])
    assert plain[2] == f"{(test[0, 1] + test[1, 0] + test[2, 2]) / test.sum():.4f}"
    assert [cells[4] for cells in tables] == 3 * ["0.00%"], "where all is turned round no answer is the same"
    monkeypatch.setattr(sys, "argv", ["measure_tables.py", "--model", folder, "--data_dir", "nowhere"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(SCRIPTS / "measure_tables.py"), run_name="__main__")
    assert stopped.value.code == 2 and "nowhere does not exist" in capsys.readouterr().err


def test_mistakes_of_the_ablation(tmp_path, monkeypatch, capsys):
    write_rows(tmp_path / "train.tsv", [*invent_rows(30, seed=1), ("no label", "")])
    write_rows(tmp_path / "dev.tsv", invent_rows(9, seed=2))
    mistakes = {
        ("--seeds", "0"): "must be at least 1, found 0",
        ("--json", "no/x"): "no file that",
        (): "train.tsv:31",
    }
    for flags, message in mistakes.items():
        monkeypatch.setattr(sys, "argv", ["tutorial_ablation.py", "--data_dir", str(tmp_path), *flags])
        with pytest.raises(SystemExit) as stopped:
            runpy.run_path(str(SCRIPTS / "tutorial_ablation.py"), run_name="__main__")
        assert stopped.value.code == 2 and message in capsys.readouterr().err


@pytest.fixture
def script(monkeypatch):
    """Import a script by its name."""
    monkeypatch.syspath_prepend(SCRIPTS)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # one of them sets it where it is not set
    return importlib.import_module


def test_seeds_that_were_complete_are_told_after_ctrl_c(script, monkeypatch, capsys):
    """All by hand; Student's t for one degree of freedom is 12.706 in the table."""
    pytest.importorskip("scipy", reason="needs the extra baselines")
    measure_seeds = script("measure_seeds")
    scores = {"fast": [0.5, 0.7, 0.9], "default": [0.4, 0.5]}

    def train_once(flags, seed):
        (recipe,) = flags[-1:]
        if seed == len(scores[recipe]):
            raise KeyboardInterrupt
        return [scores[recipe][seed], 0.25, 0.25, 7.0]

    monkeypatch.setattr(measure_seeds, "train_once", train_once)
    monkeypatch.setattr(measure_seeds, "read_flags", lambda *_: None)
    for more, told in (
        (["--seeds", "5", "--against", "--recipe default"], "stopped after 2 of 5 seeds\n"),
        (["--seeds", "1"], ""),
    ):
        monkeypatch.setattr(sys, "argv", ["measure_seeds.py", "--recipe", "fast", *more])
        if told:
            with pytest.raises(SystemExit) as stopped:
                measure_seeds.main()
            assert stopped.value.code == 130
        else:
            measure_seeds.main()
        out, err = capsys.readouterr()
        rows = [line.split(" | ")[:3] for line in out.splitlines()[2:]]
        assert err.endswith(told) and len(err.splitlines()) == (6 if told else 1)
        if told:
            ours, against, difference = rows
            assert ours == ["| 2", "0.600 ± 0.100", "0.250 ± 0.000"]
            assert against == ["| 2", "0.450 ± 0.050", "0.250 ± 0.000"]
            low, high = 0.15 - 12.706 * 0.05, 0.15 + 12.706 * 0.05  # differences 0.1 and 0.2
            assert difference[1] == f"+0.1500 ({low:+.4f} to {high:+.4f})"
        else:
            assert rows == [["| 1", "0.500", "0.250"]], "of one seed no deviation is told"


def test_each_run_has_its_own_seed_and_folder(script):
    _, data, training = script("measure_seeds").read_flags(["--data_dir", "x", "--recipe", "fast"], 7, "folder")
    assert (data.data_dir, training.seed, training.output_dir) == ("x", 7, "folder")


def test_the_ablation_tells_mean_and_range_and_loses_nothing(script, monkeypatch, tmp_path, capsys):
    ablation = script("tutorial_ablation")
    seen = []

    def train_variant(data_dir, seed, changes):
        if "max_grad_norm" in changes:
            raise KeyboardInterrupt
        seen.append((seed, changes))
        return {"accuracy": {123: 0.5, 124: 0.25, 125: 0.75}[seed], "macro_recall": 0.125}

    monkeypatch.setattr(ablation, "train_as_written", lambda data_dir, seed, rows: train_variant(data_dir, seed, {}))
    monkeypatch.setattr(ablation, "train_variant", train_variant)
    write_rows(tmp_path / "train.tsv", invent_rows(9, seed=1))
    argv = ["tutorial_ablation.py", "--data_dir", str(tmp_path), "--seeds", "3", "--json", str(tmp_path / "runs.json")]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(KeyboardInterrupt):  # of which a line is made where the script ends
        ablation.main()
    _, _, *lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[1:] for line in lines] == 3 * [["0.500 (0.250 to 0.750)", "0.125 (0.125 to 0.125) |"]]
    kept = json.loads((tmp_path / "runs.json").read_text())
    assert [[run["accuracy"] for run in runs] for runs in kept.values()] == 3 * [[0.5, 0.25, 0.75]]
    assert seen[-1] == (125, {"max_bad_rows": "0", "learning_rate": 0.03})


@pytest.mark.parametrize("there", [False, True], ids=["no space", "another search was quicker"])
def test_a_recipe_that_cannot_be_written_is_printed(there, tiny_data, tmp_path, monkeypatch, capsys):
    pytest.importorskip("optuna", reason="needs the extra search")
    opened = Path.open

    def fail(self, *args, **kwargs):
        if self.name == "found.yaml":
            if not there:
                raise OSError(28, "No space left on device")
            os.close(os.open(self, os.O_CREAT))
        return opened(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", fail)
    target = tmp_path / "found.yaml"
    argv = ["--data_dir", tiny_data, "--trials", 1, "--epochs", 1, "--output_file", target]
    code, out, err = run_script(SEARCH, argv, monkeypatch, capsys)
    why = "File exists" if there else "No space left on device"
    assert code == 2 and err.endswith(f"found.yaml cannot be written: {why}\n")
    assert not there or target.stat().st_size == 0
    assert "\nlearning_rate: " in out


def test_when_trials_end_early_and_what_they_are_judged_by(tiny_data, tmp_path, monkeypatch, capsys):
    """From the third epoch on, below the median of five; by the best epoch until then. An epoch is one step here."""
    optuna = pytest.importorskip("optuna", reason="needs the extra search")
    import hf_rnn

    pruned = {}

    def search(trainer, compute_objective, pruner, **_):
        study = optuna.create_study(direction="maximize", pruner=pruner)
        for _ in range(5):
            values = dict.fromkeys((1, 2, 3), 0.5)
            study.add_trial(optuna.trial.create_trial(value=0.5, intermediate_values=values))
        trial = study.ask()
        for epoch in (1, 2, 3):
            trial.report(0.1, step=epoch)
            pruned[epoch] = trial.should_prune()
        trainer.state.log_history = [{"eval_macro_f1": score} for score in (0.25, 0.75, 0.5)] + [{"loss": 9.0}]
        pruned["objective"] = compute_objective({"eval_macro_f1": 0.5})
        raise KeyboardInterrupt

    monkeypatch.setattr(hf_rnn.RnnTrainer, "hyperparameter_search", search)
    argv = ["--data_dir", tiny_data, "--epochs", 3, "--output_file", tmp_path / "found.yaml"]
    code, out, err = run_script(SEARCH, argv, monkeypatch, capsys)
    assert code == 130 and err.endswith("stopped before a trial was complete: nothing was written\n")
    assert pruned == {1: False, 2: False, 3: True, "objective": 0.75}


@pytest.mark.parametrize(
    ("parts", "expected"),
    [([], ["infer", "vocab", "data"]), (["all", "data"], ["infer", "vocab", "data"]), (["data"], ["data"])],
)
def test_the_parts_of_the_benchmark(script, parts, expected, monkeypatch, tmp_path, capsys):
    """What is measured is printed, and kept when a later part fails."""
    benchmark = script("benchmark")
    result = {"what": "x / y", "ratio": 2.0, "ratio_quartiles": [1.0, 3.0], "ours_ms": 4.0, "peer_ms": 8.0}
    measured = dict.fromkeys(("infer", "vocab"), lambda *_, **__: [result])
    monkeypatch.setattr(benchmark, "PARTS", {**measured, "data": lambda *_, **__: 1 / 0})
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *parts, "--json", str(tmp_path / "out.json")])
    with pytest.raises(ZeroDivisionError):
        benchmark.main()
    out, err = capsys.readouterr()
    assert [line.split(":")[0] for line in err.splitlines()] == expected
    *done, _ = expected
    assert out == len(done) * "x / y: ratio 2.000 (quartiles 1.000 to 3.000), ours 4 ms, peer 8 ms\n"
    if done:
        kept = json.loads((tmp_path / "out.json").read_text())["results"]
        assert kept == [{"part": name, **result} for name in done]


class Clock:
    """Time that passes only when it is told to."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr("time.perf_counter", lambda: self.now)

    def takes(self, seconds, log, name):
        def run(given=None):
            log.append(name if given is None else f"{name}{given}")
            self.now += next(seconds)

        return run


def test_both_sides_take_turns(script, monkeypatch):
    """Medians and quartiles of the ratios pair by pair, each at its turn; what warms up does not count."""
    timing = script("benchmark_timing")
    clock, log = Clock(monkeypatch), []
    ours = clock.takes(iter([9.0] * 3 + [1.0, 2.0, 4.0]), log, "a")
    peer = clock.takes(iter([9.0] * 3 + [3.0, 2.0, 20.0]), log, "b")
    found = timing.interleave("what", ours, peer, 3)
    assert "".join(log) == "ababab" + "ba" + "ab" + "ba"
    assert (found["ours_ms"], found["peer_ms"]) == (2000, 3000)
    assert (found["ratio"], found["ratio_quartiles"]) == (3, [1, 5]), "of 3, 1 and 5: above 1 ours is faster"

    log.clear()
    ours = clock.takes(iter([9.0] * 3 + [1.0, 2.0, 3.0]), log, "a")
    peer = clock.takes(iter([9.0] * 3 + [2.0, 2.0, 9.0]), log, "b")
    found = timing.one_by_one("what", ours, peer, [0, 1, 2], 1, run=2)
    assert "".join(log) == 2 * ("b0b1a0a1" + "b2a2")
    assert (found["ours_ms"], found["ratio"], found["repeats"]) == (2000, 2, 3)


def test_what_a_large_vocabulary_costs(script, monkeypatch):
    vocab = script("benchmark_vocab")
    seconds = {
        (vocab.SMALL, True): 1.0,
        (vocab.LARGE, True): 1.25,
        (vocab.SMALL, False): 0.5,
        (vocab.LARGE, False): 20.0,
    }
    monkeypatch.setattr(vocab, "step_seconds", lambda *side: seconds[side])
    rows = vocab.compare_steps(16)
    assert [row["ratio"] for row in rows] == [1 / 1.25, 20 / 1.25, 0.5]
    assert {row["repeats"] for row in rows} == {4}


def test_reading_is_told_as_a_multiple_of_the_peers(script, monkeypatch):
    data = script("benchmark_data")
    seconds = {"pyarrow": iter([1.0, 2.0, 4.0]), "stream": iter([2.0, 3.0, 4.0]), "table": iter([1.0, 1.0, 1.0])}
    peaks = {"pyarrow": iter([70, 90, 80]), "stream": iter([300, 310, 305]), "table": iter([400, 400, 401])}

    def measure_apart(side, path):
        labels = [line.split("\t")[1] for line in path.read_text(encoding="utf-8").splitlines()]
        taken = {"seconds": next(seconds[side]), "peak_mb": next(peaks[side]), "import_mb": 50}
        return {**taken, "counts": dict(Counter(labels))}

    monkeypatch.setattr(data, "measure_apart", measure_apart)
    stream, table = data.compare(3, 100)
    assert (stream["ratio"], stream["ratio_quartiles"]) == (1.5, [1, 2])
    assert (stream["ours_peak_mb"], stream["peer_peak_mb"], table["ours_peak_mb"]) == (310, 90, 401)
    assert (stream["ours_ms"], stream["peer_ms"], table["ratio"]) == (3000, 2000, 0.5)


def test_a_file_that_one_side_cannot_read_is_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "rows.tsv").write_text("no label\n")
    for name, reason in (("absent.tsv", "absent.tsv does not exist"), ("rows.tsv", "rows.tsv:1: too few fields")):
        line = run_to_refusal(SCRIPTS / "benchmark_data.py", ["table", tmp_path / name], monkeypatch, capsys)
        assert reason in line


def test_the_linear_baseline_is_the_best_of_its_strengths(tmp_path, monkeypatch, capsys):
    """By scikit-learn alone; the strengths are told apart by macro-F1 on the validation rows."""
    pytest.importorskip("sklearn", reason="needs the extra baselines")
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import accuracy_score, f1_score, recall_score

    chance = random.Random(3)
    splits = {"train": invent_rows(60, seed=1)[:-18], "dev": invent_rows(45, seed=2)}
    splits = {
        name: [(text, label if chance.random() < 0.7 else chance.choice("aab")) for text, label in rows]
        for name, rows in splits.items()
    }
    for name, rows in splits.items():
        write_rows(tmp_path / f"{name}.tsv", rows)
    code, out, err = run_script(SCRIPTS / "linear_baseline.py", ["--data_dir", tmp_path], monkeypatch, capsys)
    assert code == 0, err
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\S+", sublinear_tf=True)
    (texts, labels), (dev, true) = (zip(*rows, strict=True) for rows in splits.values())
    matrix = vectorizer.fit_transform(texts)
    lines = []
    for weights in (None, "balanced"):
        found = []
        for strength in (0.1, 0.3, 1.0, 3.0, 10.0):
            model = LogisticRegression(C=strength, class_weight=weights, max_iter=1000).fit(matrix, labels)
            said = model.predict(vectorizer.transform(dev))
            rest = {"average": "macro", "labels": sorted(set(labels)), "zero_division": 0}
            scores = accuracy_score(true, said), recall_score(true, said, **rest), f1_score(true, said, **rest)
            found.append((scores[-1], strength, scores))
        most_accurate = max(found, key=lambda one: one[-1][0])
        assert max(found) != most_accurate, "premise: accuracy would choose another"
        _, strength, scores = max(found, key=lambda one: one[0])
        lines.append(f"| {weights or 'none'} | {strength} | {' | '.join(f'{score:.3f}' for score in scores)} |")
    assert out.splitlines()[2:] == lines


def test_what_sparse_rows_are_said_to_gain(script, monkeypatch):
    """Ratio, scores and means of the whole training, sparse against dense."""
    import hf_rnn

    vocab = script("benchmark_vocab")
    now, settings = [0.0], []
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    def train(**given):
        settings.append(given)
        now[0] += 1.0 if given["sparse_embedding"] else 3.0
        scores = {"macro_recall": given["seed"] / 10 + (0.25 if given["sparse_embedding"] else 0.5)}
        return SimpleNamespace(metrics={"validation": scores})

    monkeypatch.setattr(hf_rnn, "train", train)
    (row,) = vocab.compare_quality(Path("texts"))
    assert row["ratio"] == 3
    assert row["macro_recall"]["sparse"] == pytest.approx([0.25, 0.35, 0.45])
    assert row["macro_recall"]["dense"] == pytest.approx([0.5, 0.6, 0.7])
    assert row["note"].endswith("mean of 3 seeds: sparse 0.350, dense 0.600")
    assert {given["data_dir"] for given in settings} == {"texts"}
    pairs = {(given["seed"], given["data_seed"], given["sparse_embedding"]) for given in settings}
    assert pairs == {(seed, seed, sparse) for seed in range(3) for sparse in (False, True)}


@pytest.mark.parametrize("by_step", [False, True])
def test_whose_turn_the_training_benchmark_times(script, by_step, monkeypatch):
    """An epoch of ours is 2 steps of 4 s, the peer's turn 10 s; the first step of an epoch only warms up."""
    train = script("benchmark_train")
    now = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    class Trainer:
        def add_callback(self, callback):
            self.callback = callback

        def wait(self, seconds):
            now[0] += seconds

        def train(self):
            self.wait(50)
            for _ in range(3):
                self.callback.on_epoch_begin()
                for _ in range(2):
                    self.wait(4)
                    self.callback.on_step_end()
                self.callback.on_epoch_end()

    seconds = train.take_turns(Trainer(), lambda: now.__setitem__(0, now[0] + 10), by_step)
    assert seconds == {"ours": 3 * [4 if by_step else 8], "peer": 3 * [10]}


def test_the_sides_of_the_inference_benchmark(script, texts_dir, monkeypatch):
    """Ours is what runs FastRnn, the peer is what does not."""
    pytest.importorskip("sklearn", reason="needs the extra baselines")
    from hf_rnn import FastRnn

    infer = script("benchmark_infer")
    calls = []
    for name in ("logits", "predict"):
        method = getattr(FastRnn, name)
        monkeypatch.setattr(FastRnn, name, lambda *args, method=method: (calls.append(1), method(*args))[1])

    def check_sides(what, ours, peer, *_):
        sides = ours, peer
        if isinstance(_[0], list):  # one by one
            sides = tuple(lambda side=side: side(_[0][0]) for side in sides)
        calls.clear()
        sides[1]()
        assert not calls, what
        sides[0]()
        assert calls, what
        return {"what": what, "ours_ms": 50.0, "peer_ms": 200.0}

    monkeypatch.setattr(infer, "interleave", check_sides)
    monkeypatch.setattr(infer, "one_by_one", check_sides)
    monkeypatch.setattr(infer, "installed", lambda *names: names == ("sklearn",))
    monkeypatch.setattr(infer, "ONE_BY_ONE", 5)
    rows = infer.infer(3, texts_dir)
    assert len(rows) == 4
    for row in rows:  # dev and test have 60 texts each
        assert (row["ours_per_second"], row["peer_per_second"]) == (2400, 600)
    assert len(infer.latency(3, texts_dir)) == 9


def test_the_sides_of_the_benchmark_of_shapes(script, monkeypatch):
    """Each shape once: ours is FastRnn, and the plain model does what it does."""
    from hf_rnn import FastRnn, RnnForSequenceClassification

    shapes = script("benchmark_shapes")
    calls = []
    monkeypatch.setattr(shapes, "SIZES", (4, 5))
    monkeypatch.setattr(shapes, "LENGTHS", (3,))
    monkeypatch.setattr(shapes, "TEXTS", (1, 70))
    for kind, name in ((FastRnn, "logits"), (RnnForSequenceClassification, "forward")):
        method = getattr(kind, name)
        called = lambda *a, method=method, kind=kind, **k: (calls.append(kind), method(*a, **k))[1]  # noqa: E731
        monkeypatch.setattr(kind, name, called)

    def sides(what, ours, peer, repeats):
        calls.clear()
        assert len(ours()) == len(peer()) == (1 if ", 1 of" in what else 70)
        assert set(calls) == {FastRnn, RnnForSequenceClassification} and calls[0] is FastRnn and repeats == 2
        return {"what": what}

    monkeypatch.setattr(shapes, "interleave", sides)
    told = [row["what"] for row in shapes.compare(2)]
    assert len(set(told)) == len(told) == len(shapes.CELLS) * 2 * 2 * 2
    assert "bi-gru 5x2, 70 of 3 tokens, ids to logits, FastRnn / the plain model" in told


def test_the_sides_of_the_padding_benchmark(script, monkeypatch):
    benchmark = script("benchmark")
    model, plain, batches = benchmark.make_sides()
    small = [{name: part[:2] for name, part in batches[0].items()}]
    monkeypatch.setattr(benchmark, "make_sides", lambda: (model, plain, small))
    calls = []
    for name, side in {"ours": model, "peer": plain}.items():
        side.register_forward_hook(lambda *_, name=name: calls.append(name))

    def sides(what, ours, peer, repeats):
        ours(), peer()
        return {}

    monkeypatch.setattr(benchmark, "interleave", sides)
    monkeypatch.setattr(benchmark.benchmark_infer, "infer", lambda *_: [])
    monkeypatch.setattr(benchmark.benchmark_train, "train", lambda *_: [])
    benchmark.infer(3, None)
    benchmark.train(3, None, True)
    assert calls == ["ours", "peer"] * 2


def test_a_variant_of_the_tutorial_is_told_of_its_last_epoch(script, monkeypatch, tmp_path):
    import hf_rnn

    ablation = script("tutorial_ablation")
    asked = []

    def train(**settings):
        asked.append(settings)
        return SimpleNamespace(metrics={"validation": {"accuracy": 0.5}, "test": {"accuracy": 0.75}})

    monkeypatch.setattr(hf_rnn, "train", train)
    assert ablation.train_variant(tmp_path, 124, {"cell_type": "gru"}) == {"accuracy": 0.5}
    for name, changes in ablation.VARIANTS.items():
        assert (changes.get("learning_rate") == 0.03) == ("rate 0.03" in name)
        assert (changes.get("train_sampling_strategy") == "random") == ("random order" in name)
        assert {"gru": "GRU", "lstm": "LSTM", None: "recipe"}[changes.get("cell_type")] in name
    (settings,) = asked
    assert (settings["recipe"], settings["seed"], settings["cell_type"]) == ("tutorial", 124, "gru")
    assert settings["data_dir"] == str(tmp_path) and not settings["load_best_model_at_end"]


def test_the_tutorial_as_written_learns_the_rule(script, texts_dir, monkeypatch):
    """Whatever order its rows are read in. At a tenth of its rate, for at its own a tanh RNN may learn nothing."""
    import torch

    rates, sgd = [], torch.optim.SGD
    monkeypatch.setattr(torch.optim, "SGD", lambda weights, lr: (rates.append(lr), sgd(weights, lr=lr / 10))[1])
    scores = script("tutorial_ablation").train_as_written(texts_dir, 123, "0")
    assert scores["accuracy"] > 0.6, "a third by chance"
    assert rates == [0.3] and sum(map(sum, scores["confusion_matrix"])) == 60


def test_what_becomes_of_a_fault_is_counted(script, trained, tmp_path):
    """Refused in one line is survived; another end, another model, another log or a traceback is lost."""
    bench_of = script("fault_injection_bench")
    bench = object.__new__(bench_of.Bench)
    bench.rows, bench.expected = [], {"epochs": bench_of.outcome(trained.folder)}
    refusal = "hf-rnn train: error: there is nothing to resume"
    folder = shutil.copytree(trained.folder, tmp_path / "model")

    def go_on(code, told):
        bench.start = lambda *_: SimpleNamespace(end=lambda: code, told=told)
        return bench.go_on("epochs", folder)

    assert go_on(0, "") == "same" and go_on(2, f"some log\n{refusal}\n") == "refused"
    for code, told in (
        (1, ""),
        (2, ""),
        (2, f"{refusal}\n{refusal}\n"),
        (2, f"Traceback\n{refusal}\n"),
        (-9, refusal),
    ):
        with pytest.raises(bench_of.Lost, match=f"ended with {code}"):
            go_on(code, told)

    def change(path, old, new):
        content = path.read_bytes()
        path.write_bytes(re.sub(old, new, content, count=1))
        assert path.read_bytes() != content, "premise"
        return lambda: path.write_bytes(content)

    last = max(folder.glob("checkpoints/checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    for path, old, part in (
        (folder / "model.safetensors", rb"(?s).\Z", "weights"),
        (folder / "metrics.json", rb'"accuracy": ', "metrics"),
        (last / "trainer_state.json", rb'"eval_loss": ', "log"),
        (last / "optimizer.pt", rb"(?s).\Z", "states"),
    ):
        undo = change(path, old, b"x" if old.startswith(b"(?s)") else old + b"1")
        with pytest.raises(bench_of.Lost, match=f"other {part}$"):
            go_on(0, "")
        undo()
    change(last / "trainer_state.json", rb'"eval_runtime": ', b'"eval_runtime": 1')
    assert go_on(0, "") == "same", "times differ from run to run"

    def attempts():
        yield "same"
        yield "refused"
        raise bench_of.Lost("why")

    bench.count("fault", attempts())
    assert bench.rows == [{"fault": "fault", "tried": 3, "survived": 2, "refused": 1, "lost": 1, "why": ["why"]}]


@pytest.mark.parametrize(
    ("answer", "writes", "counts"), [("same", 2, "same"), ("refused", 0, "refused"), ("refused", 1, None)]
)
def test_a_refusal_after_a_whole_checkpoint_is_lost(script, answer, writes, counts, tmp_path):
    """Also where the fault has taken all of them away: then there is nothing that could be resumed, and that is it."""
    faults = script("fault_injection")
    anew = SimpleNamespace(end=lambda: 0)
    bench = SimpleNamespace(go_on=lambda *_: answer, start=lambda *_: anew, compare=lambda *_: None)
    killed = SimpleNamespace(output=tmp_path, writes=writes)
    if counts is None:
        with pytest.raises(faults.Lost, match="had 1 whole checkpoints written, and was refused"):
            faults.after_kill(bench, "epochs", killed)
    else:
        assert faults.after_kill(bench, "epochs", killed) == counts


@pytest.mark.skipif(not hasattr(os, "fork"), reason="its runs are forked")
def test_a_damaged_checkpoint_beside_whole_ones_must_not_stop_a_run(script, tmp_path, monkeypatch):
    faults, rows = script("fault_injection"), []
    checkpoint = tmp_path / "out" / "checkpoints" / "checkpoint-1"
    checkpoint.mkdir(parents=True)
    (checkpoint / "model.safetensors").write_bytes(b"abc")
    run = SimpleNamespace(output=tmp_path / "out", watch=lambda **_: None, kill=lambda: None, end=lambda: 0)

    def count(fault, attempts):
        with pytest.raises(faults.Lost, match="without model.safetensors of the newest checkpoint it does not go on"):
            next(attempts)
        rows.append(fault)
        shutil.rmtree(tmp_path / f"damaged-{fault.split(' each')[0].replace(' ', '_')}")

    bench = SimpleNamespace(
        profiles=["epochs"], start=lambda *_: run, root=tmp_path, go_on=lambda *_: "refused", count=count
    )
    faults.damage(bench, 5)
    assert len(rows) == 3


def test_the_benchmarks_check_takes_neither_nan_nor_another_shape(script):
    check = script("benchmark_infer").check
    check("x", [[1.0, 2.0]], [[1.0, 2.0]], 1e-5)
    for ours, expected in (([[np.nan]], [[0.0]]), ([[1.0]], [[1.0 + 1e-4]]), ([[1.0, 2.0]], [[1.0, 2.0], [1.0, 2.0]])):
        with pytest.raises(SystemExit, match="x: logits"):
            check("x", ours, expected, 1e-5)


@pytest.mark.skipif(os.name == "nt", reason="SIGTERM is of other systems")
def test_sigterm_ends_a_script_as_ctrl_c_does(tmp_path):
    """With its temporary folders, which a process that dies at once would leave."""
    code = f"""
import os, signal, tempfile, time
import command_line
def main():
    with tempfile.TemporaryDirectory(dir={str(tmp_path)!r}):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(9)
command_line.run(main, "halt")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=SCRIPTS, capture_output=True, text=True)
    assert (done.returncode, done.stderr, list(tmp_path.iterdir())) == (143, "halt\n", [])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="its runs are forked")
@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_run_is_told_by_the_exit_code(script, lost, monkeypatch, capsys):
    faults = script("fault_injection")
    row = {"fault": "f", "tried": 2, "survived": 2 - lost, "lost": lost, "refused": 0, "why": lost * ["why"]}
    monkeypatch.setattr(faults, "Bench", lambda *_: SimpleNamespace(rows=[]))
    monkeypatch.setattr(faults, "FAULTS", {"kill": lambda bench, tries: bench.rows.append({**row, "tried": tries})})
    monkeypatch.setattr(sys, "argv", ["fault_injection.py", "--tries", "2"])
    assert faults.main() == lost
    out, err = capsys.readouterr()
    assert out.endswith(f"| f | 2 | {2 - lost} | {lost} | 0 |\n") and err == lost * "f: why\n"
