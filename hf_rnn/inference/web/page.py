"""Write a web page of a model that needs no server and asks nobody for anything.

The page is `index.html` with `model.js`, which has the ONNX graph and the tokenizer's file, and `engine.js`: ONNX
Runtime and the tokenizers of transformers.js, which a user has installed with npm. A browser reads them as scripts, so
the page also opens from a folder.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...hub.model_folder import FinishedFolder
from ...tasks import task_of
from ...tasks.answers import score_kind
from ...tokenizers.word_level import save_tokenizer
from ...utils.errors import UserError
from ..demo import read_examples

_ENGINE = {  # in node_modules
    "ort": "onnxruntime-web/dist/ort.wasm.bundle.min.mjs",
    "wasm": "onnxruntime-web/dist/ort-wasm-simd-threaded.wasm",
    "tokenizers": "@huggingface/tokenizers/dist/tokenizers.min.mjs",
}
_INSTALL = "npm install --prefix npm onnxruntime-web @huggingface/tokenizers"
_SPACE = r"\p{White_Space}"


def find_engine(npm: str | Path | None = None) -> dict[str, Path]:
    """Return the files of the engine, from a folder of npm or, without one, from here or a folder above.

    Raises:
        UserError: With the command that installs them.
    """
    here = Path.cwd()
    for folder in [Path(os.path.expanduser(npm))] if npm is not None else [here, *here.parents]:
        files = {name: folder / "node_modules" / file for name, file in _ENGINE.items()}
        if all(file.is_file() for file in files.values()):
            return files
    where = f"{npm} has no" if npm is not None else "no folder from here upwards has a"
    raise UserError(
        f"the page needs onnxruntime-web and @huggingface/tokenizers: {where} node_modules with them. "
        f"Type: {_INSTALL}; and export with --npm npm"
    )


def check_page(name: str | Path, config: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a model that the page cannot run.

    Raises:
        UserError: With the name of the model.
    """
    if task_of(config).architecture != "RnnForSequenceClassification":
        raise UserError(f"{name} has no web page: its task is {task_of(config).name}")
    if config.sep_token_id is not None:
        raise UserError(f"{name} reads pairs of texts, and the page has one: use hf-rnn predict")
    if not tokenizer.is_fast:
        raise UserError(f"{name} has no web page: its tokenizer has no tokenizer.json")


def write_web(
    target: Path,
    onnx_file: Path,
    engine: dict[str, Path],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: FinishedFolder,
) -> Path:
    """Write a folder with the page of a model; return the folder.

    Args:
        target: The folder; the files of an earlier export are replaced.
        onnx_file: The exported graph.
        engine: The result of [`find_engine`].
        model: The model.
        tokenizer: Its tokenizer.
        folder: The finished folder of the model, for its name and examples.

    Raises:
        UserError: If the folder cannot be written.
    """
    config: Any = model.config
    whole, bare = tokenizer("a")["input_ids"], tokenizer("a", add_special_tokens=False)["input_ids"]
    start = next(place for place in range(len(whole) + 1) if whole[place : place + len(bare)] == bare)
    with tempfile.TemporaryDirectory(prefix="hf-rnn-") as place:
        save_tokenizer(tokenizer, Path(place))
        tokenizer_file = json.loads((Path(place) / "tokenizer.json").read_bytes())
    content = {
        "name": folder.root.resolve().name,
        "examples": read_examples(folder),
        "labels": list(config.id2label.values()),
        "kind": score_kind(config),
        "thresholds": config.label_thresholds,
        "maxLength": tokenizer.model_max_length,
        "truncationSide": tokenizer.truncation_side,
        "before": whole[:start],
        "after": whole[start + len(bare) :],
        "tokenizer": _write_out(tokenizer_file),
        "specialTokens": tokenizer.special_tokens_map,
    }
    # a string of JSON: in a literal of JavaScript, a word `__proto__` would not be a key
    model_script = f"const hfRnnModel = JSON.parse({_dump(_dump(content))});\n"
    model_script += f'hfRnnModel.graph = "{base64.b64encode(onnx_file.read_bytes()).decode()}";\n'
    scripts = {name: engine[name].read_text(encoding="utf-8") for name in ("ort", "tokenizers")}
    wasm = base64.b64encode(gzip.compress(engine["wasm"].read_bytes(), mtime=0)).decode()
    engine_script = f"const hfRnnEngine = {_dump({**scripts, 'wasm': wasm})};\n"
    try:
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        shutil.copyfile(Path(__file__).parent / "index.html", target / "index.html")
        (target / "model.js").write_text(model_script, encoding="utf-8")
        (target / "engine.js").write_text(engine_script, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{target} cannot be written: {error.strerror}; make room there") from error
    return target


def _write_out(part: Any) -> Any:
    """Return parts of a `tokenizer.json` with white space as a class that means the same in JavaScript."""
    if isinstance(part, list):
        return [_write_out(entry) for entry in part]
    if not isinstance(part, dict):
        return part
    if part.get("type") == "WhitespaceSplit":
        return {"type": "Split", "pattern": {"Regex": _SPACE + "+"}, "behavior": "Removed", "invert": False}
    if isinstance(pattern := part.get("Regex"), str):
        classes = {r"\s": _SPACE, r"\S": _SPACE.replace("p{", "P{")}
        return {"Regex": re.sub(r"\\.", lambda match: classes.get(match[0], match[0]), pattern, flags=re.S)}
    return {key: value if key in ("vocab", "merges") else _write_out(value) for key, value in part.items()}


def _dump(content: Any) -> str:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))
