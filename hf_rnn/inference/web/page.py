"""Write a folder that any web server can serve as it is: `index.html`, the ONNX graph and the tokenizer."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from ...evaluation.scores import entity_types
from ...tasks.base import score_kind
from ...utils.errors import UserError
from ..demo import read_examples
from ..engines.torch import tokenize

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ...hub.model_folder import FinishedFolder
    from ...models.configuration_rnn import RnnConfig

VIEWS = {"RnnForSequenceClassification": "classifier", "RnnForTokenClassification": "tagger", "RnnModel": "encoder"}
_CDN = "https://cdn.jsdelivr.net/npm"
# package, version, file
_ENGINE = {
    "ort": ("onnxruntime-web", "1.30.0", "dist/ort.wasm.bundle.min.mjs"),
    "wasm": ("onnxruntime-web", "1.30.0", "dist/ort-wasm-simd-threaded.wasm"),
    "tokenizers": ("@huggingface/tokenizers", "0.2.0", "dist/tokenizers.min.mjs"),
}


def write_page(
    target: Path,
    graph: bytes,
    head: str,
    config: RnnConfig,
    tokenizer: PreTrainedTokenizerBase,
    folder: FinishedFolder,
    texts: list[str],
    npm: str | os.PathLike[str] | None = None,
) -> None:
    """Write the page of a model, in place of an earlier one.

    Args:
        target: The folder of the page.
        graph: The content of its file.
        head: Name of the model's class, `RnnModel` for a sentence encoder.
        config: Its configuration.
        tokenizer: Its tokenizer.
        folder: Its finished folder, for name and examples.
        texts: The page compares their token ids with those of Python, and shows a warning where they differ.
        npm: Folder whose `node_modules` has the packages, which are copied; None takes them from a CDN.

    Raises:
        UserError: For a tokenizer without a `tokenizer.json`, and for missing packages.
    """
    if not folder.tokenizer.is_file():
        raise UserError(f"{folder.root} has no web page: its tokenizer has no tokenizer.json")
    engine = {key: f"{_CDN}/{name}@{version}/{file}" for key, (name, version, file) in _ENGINE.items()}
    files: dict[str, Path] = {}
    if npm is not None:
        root = Path(os.path.expanduser(npm), "node_modules")
        files = {key: root / name / file for key, (name, _, file) in _ENGINE.items()}
        engine = {key: f"./{path.name}" for key, path in files.items()}
    if missing := [path for path in files.values() if not path.is_file()]:
        packages = " ".join(dict.fromkeys(f"{name}@{version}" for name, version, _ in _ENGINE.values()))
        raise UserError(f"--npm: {missing[0]} is missing. Type: npm install --prefix {npm} {packages}")
    whole, bare = (tokenizer("a", add_special_tokens=flag)["input_ids"] for flag in (True, False))
    start = next(place for place in range(len(whole) + 1) if whole[place : place + len(bare)] == bare)
    examples, labels = read_examples(folder), list(config.id2label.values())
    content = {
        "name": folder.root.resolve().name,
        "head": VIEWS[head],
        "examples": ["\n".join(examples)] if VIEWS[head] == "encoder" else examples,
        "labels": labels,
        "kind": score_kind(config),
        "thresholds": config.label_thresholds,
        "entities": bool(entity_types(labels)),
        "maxLength": tokenizer.model_max_length,
        "truncationSide": tokenizer.truncation_side,
        "around": [whole[:start], whole[start + len(bare) :]],
        "splitSpecialTokens": tokenizer.split_special_tokens,  # one that is typed in a text is text
        "specialTokens": tokenizer.special_tokens_map,
        "engine": engine,
        "check": list(zip(texts, tokenize(tokenizer, texts), strict=True)),
    }
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    (target / "model.onnx").write_bytes(graph)
    for path in (folder.tokenizer, *files.values()):
        shutil.copyfile(path, target / path.name)
    page = (Path(__file__).parent / "index.html").read_text(encoding="utf-8")
    page = page.replace("{{model}}", json.dumps(content).replace("<", "\\u003c"))
    (target / "index.html").write_text(page, encoding="utf-8")
