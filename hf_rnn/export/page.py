"""Write a page that runs an exported model in a browser: a folder for any web server."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from ..data.tokens import find_around
from ..evaluation.decisions import parse_thresholds
from ..tasks import score_kind
from ..utils.errors import UserError
from .check import ExportSource

_CDN = "https://cdn.jsdelivr.net/npm"
# package, version, file
_ENGINE = {
    "ort": ("onnxruntime-web", "1.30.0", "dist/ort.wasm.bundle.min.mjs"),
    "wasm": ("onnxruntime-web", "1.30.0", "dist/ort-wasm-simd-threaded.wasm"),
    "tokenizers": ("@huggingface/tokenizers", "0.2.0", "dist/tokenizers.min.mjs"),
}


def write_page(
    target: Path,
    source: ExportSource,
    graph: Path,
    texts: list[str],
    npm: str | os.PathLike[str] | None = None,
) -> None:
    """Write the page of a model and its `graph` into `target`, in place of an earlier one.

    The page compares the token ids of `texts` with those of Python, and shows a warning where they
    differ. The folder `npm` has packages in `node_modules`, which are copied; None takes them from
    a CDN.

    Raises:
        UserError: For a tokenizer without a `tokenizer.json`, and for missing packages.
    """
    folder = source.folder
    if not folder.tokenizer.is_file():
        raise UserError(f"{folder.root} has no web page: its tokenizer has no tokenizer.json")
    packages = {} if npm is None else _find_packages(npm)
    thresholds = folder.read_thresholds()
    decides = bool(parse_thresholds(thresholds, folder.thresholds, source.fingerprint))
    content = _describe_model(source, texts) | {"decides": decides}
    if packages:
        content["engine"] = {key: f"./{path.name}" for key, path in packages.items()}

    copied = [graph, folder.tokenizer, *packages.values()]
    if decides:
        copied.append(folder.thresholds)
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for path in copied:
        shutil.copyfile(path, target / path.name)
    page = (Path(__file__).parent / "index.html").read_text(encoding="utf-8")
    page = page.replace("{{model}}", json.dumps(content).replace("<", "\\u003c"))
    (target / "index.html").write_text(page, encoding="utf-8")


def _find_packages(npm: str | os.PathLike[str]) -> dict[str, Path]:
    """Return the files of the packages in `node_modules` of a folder."""
    root = Path(os.path.expanduser(npm), "node_modules")
    files = {}
    for key, (name, _, file) in _ENGINE.items():
        files[key] = root / name / file
        if not files[key].is_file():
            packages = [f"{name}@{version}" for name, version, _ in _ENGINE.values()]
            command = f"npm install --prefix {npm} {' '.join(dict.fromkeys(packages))}"
            raise UserError(f"--npm: {files[key]} is missing. Type: {command}")
    return files


def _describe_model(source: ExportSource, texts: list[str]) -> dict[str, object]:
    """Return what the page knows of a model."""
    folder = source.folder
    config = source.model.config
    tokenizer = source.tokenizer
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    around = find_around(tokenizer("a")["input_ids"], bare)
    examples = folder.read_examples()
    if source.gives_vectors and examples:  # each line is a text
        examples = ["\n".join(examples)]
    return {
        "name": folder.root.resolve().name,
        "head": "encoder" if source.gives_vectors else "classifier",
        "examples": examples,
        "labels": list(config.id2label.values()),
        "kind": score_kind(config),
        "thresholds": config.label_thresholds,
        "weights": source.fingerprint,
        "maxLength": tokenizer.model_max_length,
        "truncationSide": tokenizer.truncation_side,
        "around": around,
        "splitSpecialTokens": tokenizer.split_special_tokens,  # one that is typed in a text is text
        "specialTokens": tokenizer.special_tokens_map,
        "engine": {
            key: f"{_CDN}/{name}@{version}/{file}" for key, (name, version, file) in _ENGINE.items()
        },
        "check": list(zip(texts, tokenizer(texts, truncation=True)["input_ids"], strict=True)),
    }
