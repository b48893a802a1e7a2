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


ALLOWED = {  # room, a file or a folder of files: the rooms that it may use; each stands below all that it uses
    "configuration_rnn": set(),
    "containment": set(),
    "distinct_rnn": set(),
    "errors": set(),
    "normalization": set(),
    "optim": set(),
    "processor": set(),
    "tutorial_rnn": set(),
    "whole_file": set(),
    "audit": {"errors"},
    "checkpoints": {"errors"},
    "valid_texts": {"errors"},
    "data": {"errors", "valid_texts"},
    "folder": {"errors"},
    "metrics": {"errors"},
    "min_gru_rnn": {"distinct_rnn"},
    "plots": {"errors"},
    "pooling_rnn": {"configuration_rnn"},
    "recipes": {"errors"},
    "recurrence_rnn": {"distinct_rnn"},
    "sampling": {"errors"},
    "calibration": {"errors", "metrics"},
    "cells_rnn": {"configuration_rnn", "distinct_rnn", "min_gru_rnn", "recurrence_rnn"},
    "model_card": {"errors", "folder", "whole_file"},
    "output_dir": {"checkpoints", "errors", "folder"},
    "sharing": {"errors", "folder"},
    "tokenization": {"errors", "normalization", "valid_texts"},
    "trainer": {"checkpoints", "errors", "optim", "sampling"},
    "hub_repo": {"errors", "sharing"},
    "outputs_rnn": {"cells_rnn"},
    "modeling_rnn": {
        "cells_rnn",
        "configuration_rnn",
        "distinct_rnn",
        "min_gru_rnn",
        "outputs_rnn",
        "pooling_rnn",
        "recurrence_rnn",
        "tutorial_rnn",
    },
    "vectors": {"errors", "folder", "hub_repo"},
    "plain_inference": {"configuration_rnn", "errors", "modeling_rnn", "valid_texts"},
    "explaining": {"metrics", "modeling_rnn", "plain_inference", "valid_texts"},
    "model_loading": {"configuration_rnn", "errors", "folder", "hub_repo", "modeling_rnn", "plain_inference"},
    "hub": {"errors", "folder", "hub_repo", "model_card", "model_loading", "sharing"},
    "inference": {
        "cells_rnn",
        "configuration_rnn",
        "data",
        "errors",
        "folder",
        "hub_repo",
        "min_gru_rnn",
        "model_loading",
        "modeling_rnn",
        "normalization",
        "plain_inference",
        "pooling_rnn",
        "processor",
    },
    "starting_model": {"configuration_rnn", "errors", "folder", "model_loading", "modeling_rnn"},
    "arguments": {"configuration_rnn", "errors", "recipes", "starting_model"},
    "demo": {"errors", "explaining", "folder", "inference", "model_loading", "modeling_rnn"},
    "export": {
        "configuration_rnn",
        "errors",
        "folder",
        "inference",
        "model_card",
        "model_loading",
        "modeling_rnn",
        "output_dir",
        "plain_inference",
        "whole_file",
    },
    "run": {
        "arguments",
        "audit",
        "calibration",
        "checkpoints",
        "configuration_rnn",
        "data",
        "errors",
        "folder",
        "hub",
        "hub_repo",
        "metrics",
        "model_card",
        "model_loading",
        "modeling_rnn",
        "output_dir",
        "plots",
        "processor",
        "recipes",
        "starting_model",
        "tokenization",
        "trainer",
        "vectors",
    },
    "training": {
        "arguments",
        "containment",
        "data",
        "folder",
        "model_card",
        "modeling_rnn",
        "output_dir",
        "run",
        "tokenization",
        "trainer",
    },
    "classifier": {
        "arguments",
        "containment",
        "data",
        "errors",
        "folder",
        "hub",
        "inference",
        "model_card",
        "model_loading",
        "output_dir",
        "plain_inference",
        "run",
        "sharing",
        "training",
        "valid_texts",
    },
    "distillation": {
        "arguments",
        "audit",
        "containment",
        "data",
        "errors",
        "folder",
        "hub_repo",
        "metrics",
        "model_loading",
        "output_dir",
        "run",
        "trainer",
        "training",
        "whole_file",
    },
}


def test_the_map_has_no_circle():
    seen = set()
    for room, uses in ALLOWED.items():
        assert uses <= seen, f"{room} stands above what it uses"
        seen.add(room)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=module_name)
def test_arrows(path):
    room = module_name(path).split(".")[0]
    used = {name for name in rooms_used_by(path) if name != room} - {"__version__", "register"}
    if room == "__init__":
        assert used <= {"configuration_rnn", "modeling_rnn"}
    elif room == "__main__":
        assert used == {"cli"}
    elif room != "cli":  # which may use all, and is used by none but the above
        assert used <= ALLOWED[room]
    imported = {module.split(".")[0] for level, module, _ in imports_of(path) if level == 0}
    assert not imported & {"scripts", "tests"}


def test_a_card_is_made_of_facts_alone():
    """Rendering it reads no folder and asks no model."""
    card = PACKAGE / "model_card" / "rendering.py"
    assert {(level, module) for level, module, _ in imports_of(card) if level} == {(1, "facts"), (1, "markdown")}


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
