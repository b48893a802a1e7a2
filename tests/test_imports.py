"""Data flows one way, and the imports show it; importing the package is cheap."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "hf_rnn"
TRAVELS = {path.stem for path in PACKAGE.glob("*_rnn.py")}


def module_name(path):
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def imports_of(path):
    """(level, module, names) of every import statement, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            yield node.level, node.module or "", [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield 0, alias.name, []


def rooms_used_by(path):
    """First-level names inside the package that a file imports."""
    depth = len(path.relative_to(PACKAGE).parts)
    for level, module, names in imports_of(path):
        if level == 0 and module.split(".")[0] == "hf_rnn":
            rest = module.split(".")[1:]
            yield from rest[:1] or names
        elif level == depth:  # relative to the package itself
            yield from module.split(".")[:1] if module else names


@pytest.mark.parametrize("name", sorted(TRAVELS))
def test_files_that_travel_import_only_what_travels(name):
    path = PACKAGE / f"{name}.py"
    assert "from __future__ import annotations" not in path.read_text(encoding="utf-8")
    for level, module, _ in imports_of(path):
        if level:
            assert (level, module) in {(1, other) for other in TRAVELS}, "relative, flat and by name"
        else:
            top = module.split(".")[0]
            assert top in {"torch", "transformers", "huggingface_hub"} or top in sys.stdlib_module_names, module


ALLOWED = {  # room: the rooms it may use
    "configuration_rnn": set(),
    "pooling_rnn": {"configuration_rnn"},
    "distinct_rnn": set(),
    "recurrence_rnn": {"distinct_rnn"},
    "min_gru_rnn": {"distinct_rnn"},
    "cells_rnn": {"configuration_rnn", "distinct_rnn", "min_gru_rnn", "recurrence_rnn"},
    "outputs_rnn": {"cells_rnn", "distinct_rnn"},
    "tutorial_rnn": set(),
    "modeling_rnn": {
        "configuration_rnn",
        "cells_rnn",
        "distinct_rnn",
        "min_gru_rnn",
        "outputs_rnn",
        "pooling_rnn",
        "recurrence_rnn",
        "tutorial_rnn",
    },
    "packing": set(),
    "class_weights": set(),
    "row_columns": {"errors"},
    "sparse_gradients": {"errors"},
    "padded_batches": set(),
    "processor": set(),
    "folding": {"cells_rnn", "configuration_rnn", "modeling_rnn", "packing", "pooling_rnn", "processor"},
    "fast_tokenization": {"errors", "packing", "plain_inference", "word_rules"},
    "word_rules": {"normalization", "word_columns"},
    "word_columns": {"packing"},
    "plain_inference": {"configuration_rnn", "errors", "modeling_rnn", "valid_texts"},
    "model_loading": {"configuration_rnn", "errors", "folder", "hub_repo", "modeling_rnn", "plain_inference"},
    "inference": {
        "configuration_rnn",
        "errors",
        "fast_tokenization",
        "folding",
        "model_loading",
        "modeling_rnn",
        "packing",
        "plain_inference",
    },
    "errors": set(),
    "markdown": set(),
    "card_facts": {"errors"},
    "model_card": {"card_facts", "markdown"},
    "whole_file": set(),
    "card_files": {"card_facts", "errors", "folder", "model_card", "whole_file"},
    "baselines": {"errors", "metrics"},
    "calibration": {"errors", "metrics"},
    "vectors": {"errors", "folder", "hub_repo"},
    "text_arguments": {"errors", "parsing"},
    "normalization": set(),
    "tokenization": {"errors", "normalization", "valid_texts"},
    "text_stream": {"data"},
    "sharing": {"errors", "folder"},
    "starting_model": {"configuration_rnn", "errors", "folder", "model_loading", "modeling_rnn"},
    "hub_repo": {"errors", "sharing"},
    "explaining": {"modeling_rnn", "plain_inference", "valid_texts"},
    "colouring": {"explaining"},
    "labelled_file": {"data", "inference", "text_stream"},
    "demo": {
        "colouring",
        "errors",
        "explaining",
        "folder",
        "inference",
        "labelled_file",
        "model_loading",
        "modeling_rnn",
    },
    "run_config": {"arguments", "configuration_rnn", "errors"},
    "run_tokenizer": {"errors", "folder", "model_loading", "starting_model", "text_arguments", "tokenization"},
    "run_trainer": {"errors", "folder", "metrics", "modeling_rnn", "streams", "trainer", "training_arguments"},
    "hub": {"card_files", "errors", "folder", "hub_repo", "model_loading", "sharing"},
}
LEAVES = {"audit", "data", "folder", "metrics", "optim", "plots", "recipes", "sampling", "valid_texts"}
NOT_FOR = {"cli"}  # nobody imports these


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=module_name)
def test_arrows(path):
    room = module_name(path).split(".")[0]
    used = {name for name in rooms_used_by(path) if name != room} - {"__version__", "register"}
    if room in ALLOWED:
        assert used <= ALLOWED[room]
    elif room in LEAVES:
        assert used <= {"errors"}, "a leaf uses no other room"
    elif room not in {"cli", "__init__"}:
        assert not used & NOT_FOR
    imported = {module.split(".")[0] for level, module, _ in imports_of(path) if level == 0}
    assert not imported & {"scripts", "tests"}


def test_there_is_no_room_for_leftovers():
    names = {path.stem for path in PACKAGE.rglob("*.py")}
    assert not names & {"utils", "helpers", "common", "misc"}


def run_python(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_importing_the_package_is_cheap():
    """On top of PreTrainedModel and the Auto classes: under 0.15 s, and neither Trainer nor datasets nor evaluate."""
    code = """
import json, sys, time
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, PreTrainedModel
before = set(sys.modules)
start = time.perf_counter()
import hf_rnn
seconds = time.perf_counter() - start
print(json.dumps({"seconds": seconds, "modules": sorted(set(sys.modules) - before)}))
"""
    runs = [run_python(code) for _ in range(3)]
    assert min(run["seconds"] for run in runs) < 0.15
    modules = set(runs[0]["modules"])
    assert "hf_rnn.modeling_rnn" in modules
    assert not modules & {
        "transformers.trainer",
        "transformers.training_args",
        "datasets",
        "evaluate",
        "accelerate",
        "matplotlib",
    }


def test_public_names_exist():
    code = """
import json, hf_rnn
print(json.dumps({name: str(getattr(hf_rnn, name)) for name in hf_rnn.__all__}))
"""
    assert len(run_python(code)) >= 10


def test_a_script_may_have_the_name_of_the_command(tmp_path):
    """Only the command itself puts off what importing the package does for the Auto classes."""
    script = tmp_path / "hf-rnn.py"
    script.write_text("import hf_rnn, transformers\nprint(transformers.AutoConfig.for_model('hf_rnn').cell_type)\n")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert done.stdout == "lstm\n"
