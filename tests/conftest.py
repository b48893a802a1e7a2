"""Shared fixtures: a folder of invented texts with a rule to learn, and one model trained on it."""

import contextlib
import gc
import logging
import os
import random
import runpy
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings

# before torch is imported; the workers share the cores
os.environ.setdefault("OMP_NUM_THREADS", "1")
settings.register_profile("quick", max_examples=25, deadline=None)
settings.load_profile("quick")


LONG = {"training", "tasks", "test_documents.py", "test_onnx.py", "test_push.py"}


def pytest_collection_finish():
    """Exempt imported modules from the garbage collector, and let it run rarely."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)


def pytest_collection_modifyitems(items):
    """Start the longest files first, so that no core waits for them at the end."""

    def minutes(item):
        return getattr(item.get_closest_marker("slow"), "kwargs", {}).get("minutes", 0)

    items.sort(key=lambda item: (-minutes(item), LONG.isdisjoint(item.path.parts)))


NEUTRAL = [
    "the",
    "box",
    "of",
    "dry",
    "sand",
    "stood",
    "near",
    "a",
    "door",
    "and",
    "it",
    "was",
    "there",
    "for",
    "days",
]
LABELS = ("bad", "good", "plain")


def invent_rows(count, seed):
    """Return texts of 1 to 12 words with labels: miro is good, selk bad, neither plain."""
    chance = random.Random(seed)
    rows = []
    for number in range(count):
        label = LABELS[number % 3]
        words = chance.choices(NEUTRAL, k=chance.randrange(1, 12))
        if label != "plain":
            words.insert(chance.randrange(len(words) + 1), "miro" if label == "good" else "selk")
        rows.append((" ".join(words), label))
    return rows


def write_rows(path, rows):
    path.write_text(
        "".join(f"{text}\t{label}\n" for text, label in rows), encoding="utf-8", newline="\n"
    )


@pytest.fixture(scope="session")
def texts_dir(tmp_path_factory) -> Path:
    """A folder with train.tsv (240 rows), dev.tsv and test.tsv (60 rows each)."""
    folder = tmp_path_factory.mktemp("texts")
    for name, count, seed in (("train", 240, 1), ("dev", 60, 2), ("test", 60, 3)):
        write_rows(folder / f"{name}.tsv", invent_rows(count, seed))
    return folder


@pytest.fixture(scope="session")
def tiny_settings(texts_dir):
    """Settings by name that train in a second and learn the rule."""
    return {
        "recipe": "scratch",
        "data_dir": str(texts_dir),
        "embedding_size": 16,
        "hidden_size": 8,
        "embedding_dropout": 0.1,
        "num_train_epochs": 4,
        "per_device_train_batch_size": 16,
        "learning_rate": 0.02,
        "use_cpu": True,
    }


@pytest.fixture(scope="session", autouse=True)
def _figures():
    """Skip figures, garbage collection and fsync, most of a small training; yield what draws."""
    import hf_rnn.training.save as save

    draw = save.draw_figures
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(save, "draw_figures", lambda *args: {})
        patch.setattr(gc, "collect", lambda *args: 0)
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield draw


@pytest.fixture(scope="session")
def trained(tiny_settings, tmp_path_factory, _figures):
    """The result of one training run; tests do not change its folder."""
    from hf_rnn import train

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hf_rnn.training.save.draw_figures", _figures)
        return train(**tiny_settings, output_dir=str(tmp_path_factory.mktemp("trained") / "model"))


NAMES = {"person": ["Anna Bo", "Miro", "Zed"], "place": ["Old Town", "Rome", "Ulm"]}


def invent_sentence(chance):
    words = []
    for _ in range(chance.randrange(2, 6)):
        kind = chance.choice(["person", "place", None, None])
        if kind is None:
            words.append((chance.choice(["sees", "the", "box", "near", "and", ",", "(", ")"]), "O"))
        else:
            parts = chance.choice(NAMES[kind]).split()
            words += [(part, f"{'I' if place else 'B'}-{kind}") for place, part in enumerate(parts)]
    return [*words, (".", "O")]


@pytest.fixture(scope="session")
def tagged_dir(tmp_path_factory):
    """A folder of tagged sentences: names of persons and places."""
    folder, chance = tmp_path_factory.mktemp("tagged"), random.Random(1)
    for split, count in (("train", 160), ("dev", 30), ("test", 30)):
        sentences = (
            "".join(f"{word}\t{tag}\n" for word, tag in invent_sentence(chance))
            for _ in range(count)
        )
        (folder / f"{split}.conll").write_text("\n".join(sentences))
    return folder


@pytest.fixture(scope="session")
def tagger_settings(tiny_settings, tagged_dir):
    """Settings that train in seconds and learn the names."""
    task = {
        "task": "token-classification",
        "recipe": "token-classification-scratch",
        "data_dir": str(tagged_dir),
    }
    task |= {"hidden_size": 12, "hidden_dropout": 0.1, "classifier_dropout": 0.1}
    settings = {**tiny_settings, **task, "num_train_epochs": 5, "learning_rate": 0.03}
    del settings["embedding_dropout"]
    return settings


@pytest.fixture(scope="session")
def tagger(tagger_settings, tmp_path_factory):
    """A trained tagger; tests do not change its folder."""
    from hf_rnn import train

    return train(**tagger_settings, output_dir=str(tmp_path_factory.mktemp("tagger") / "model"))


@pytest.fixture(scope="session")
def encoder(tmp_path_factory) -> Path:
    """The folder of a bfloat16 encoder that knows the words of `texts_dir`; do not change it."""
    import torch

    from hf_rnn import RnnConfig, RnnModel, train_tokenizer

    folder = tmp_path_factory.mktemp("encoders") / "tiny-encoder"
    tokenizer = train_tokenizer([text for text, _ in invent_rows(240, 1)], model_max_length=4096)
    torch.manual_seed(5)
    sizes = {
        "vocab_size": len(tokenizer),
        "embedding_size": 6,
        "hidden_size": 5,
        "num_hidden_layers": 2,
    }
    config = RnnConfig(**sizes, pooling="mean", word_dropout=0.5)
    RnnModel(config).bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "pretraining.json").write_text('{"pieces_per_word": 1.0, "unknown_token_share": 0.0}')
    return folder


@pytest.fixture(scope="session", autouse=True)
def _box(encoder, tmp_path_factory):
    """Use `encoder` as the encoder of the package, under the name `english`."""
    box = tmp_path_factory.mktemp("box")
    shutil.copytree(encoder, box / "english")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hf_rnn.hub.model_folder.PRETRAINED", box)
        yield


@pytest.fixture(scope="session")
def teacher(tmp_path_factory) -> Path:
    """The folder of a BERT that knows the rule, with labels in another order; do not change it."""
    from tiny_teacher import make_teacher

    folder = tmp_path_factory.mktemp("teachers") / "tiny-bert"
    make_teacher(folder)
    return folder


@pytest.fixture
def copy(trained, tmp_path):
    """A copy of the folder of `trained`, to change."""
    return shutil.copytree(
        trained.folder, tmp_path / "my model", ignore=shutil.ignore_patterns("checkpoints")
    )


@pytest.fixture(scope="session")
def bert(tmp_path_factory):
    """A folder with a BERT as a source of vectors, and its table."""
    from tiny_bert import make_bert

    folder = tmp_path_factory.mktemp("bert") / "tiny-bert"
    return folder, make_bert(folder)


@pytest.fixture
def write(tmp_path):
    """Put bytes into a file of vectors, and return its path."""

    def write_file(content, name="vectors.txt"):
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return write_file


@pytest.fixture(autouse=True)
def _restore_loggers():
    """Restore the loggers that the command changes."""
    logger, filtered = logging.getLogger("hf_rnn"), logging.getLogger("transformers.trainer_utils")
    quieted = logging.getLogger("transformers")  # its level decides defaults of the Trainer
    handlers, level, filters = list(logger.handlers), logger.level, list(filtered.filters)
    verbosity = quieted.level or logging.WARNING
    yield
    logger.handlers[:], filtered.filters[:] = handlers, filters
    logger.setLevel(level)
    quieted.setLevel(verbosity)


@pytest.fixture
def command(capfd):
    """Run `hf-rnn` in this process; return exit code, stdout and stderr."""
    from transformers.utils import logging as transformers_logging

    from hf_rnn.cli.main import main

    def run(*arguments):
        capfd.readouterr()
        return (main(list(map(str, arguments))), *capfd.readouterr())

    yield run
    transformers_logging.enable_progress_bar()


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """A Chromium without a window."""
    webdriver = pytest.importorskip(
        "selenium.webdriver", reason="selenium is not installed: pip install '.[test]'"
    )
    found = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    if missing := [name for name, path in found.items() if path is None]:
        pytest.skip(f"missing {' and '.join(missing)}: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = found["chromium"]
    flags = [
        "headless",
        "no-sandbox",
        "disable-gpu",
        "disable-background-networking",
        "disable-quic",
        "no-first-run",
    ]
    flags += ["disable-component-update", "disable-sync", "window-size=1280,900"]
    for flag in [*flags, f"user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(found["chromedriver"]))
    yield driver
    driver.quit()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A loopback server in place of the Hub, with the token of `me`."""
    from hub_server import HubServer
    from huggingface_hub import constants

    with HubServer() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        # these cache the address, in different versions of transformers
        monkeypatch.setattr("transformers.utils.hub._hf_api", None, raising=False)
        monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", server.url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HF_TOKEN", "hf_mine")
        yield server


def same_weights(one, other):
    """Return whether two folders have the same weights, bit for bit."""
    from safetensors.torch import load_file

    one, other = (load_file(folder / "model.safetensors") for folder in (one, other))
    return one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


@contextlib.contextmanager
def signal_at(step, number=signal.SIGTERM):
    """Send this process a signal in the middle of a step of a training."""
    from hf_rnn.training.trainer import SavePoints

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == step - 1:
            signal.raise_signal(number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SavePoints, "on_step_begin", on_step_begin)
        yield


def run_until(step, run):
    """Stop a training in the middle of a step; return what it raises."""
    from hf_rnn.training.folder import TrainingStopped

    with signal_at(step), pytest.raises(TrainingStopped) as stopped:
        run()
    return stopped.value


def run_python(program, *arguments, **options):
    """Run a program in a process of its own; return its standard output."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", timeout=300, **options
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_script(script, arguments, monkeypatch, captured):
    """Run a script here; return exit code, stdout, stderr. `captured` is `capsys` or `capfd`."""
    monkeypatch.setattr(sys, "argv", [str(script), *map(str, arguments)])
    captured.readouterr()
    code, handler = 0, signal.getsignal(signal.SIGTERM)
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as leaving:
        code = leaving.code or 0
    finally:
        signal.signal(signal.SIGTERM, handler)
    return (code, *captured.readouterr())
