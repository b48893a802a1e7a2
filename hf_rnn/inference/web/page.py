"""Write what JavaScript reads: a folder for any web server, and one for transformers.js."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...data.tokens import find_around
from ...evaluation.decisions import parse_thresholds
from ...hub.model_folder import FinishedFolder
from ...models.auto import ENCODER
from ...tasks import score_kind
from ...utils.errors import UserError
from ...utils.process import write_whole
from ..demo import read_examples

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_NMT = (  # the normaliser Nmt as patterns and what replaces them
    (r"[\x01-\x08\x0B\x0E-\x1F\x7F\u008F\u009F]", ""),
    (r"[\t\n\f\r\u1680\u200B-\u200F\u2028\u2029\u2581\uFEFF\uFFFD]", " "),
)
_CDN = "https://cdn.jsdelivr.net/npm"
# package, version, file
_ENGINE = {
    "ort": ("onnxruntime-web", "1.30.0", "dist/ort.wasm.bundle.min.mjs"),
    "wasm": ("onnxruntime-web", "1.30.0", "dist/ort-wasm-simd-threaded.wasm"),
    "tokenizers": ("@huggingface/tokenizers", "0.2.0", "dist/tokenizers.min.mjs"),
}


@dataclass(frozen=True)
class ExportSource:
    """A model to export; a sentence encoder is a classifier of vectors, see `Source`."""

    folder: FinishedFolder
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    gives_vectors: bool  # whether it is a sentence encoder
    fingerprint: str  # a hash of its weights


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
    content = _describe(source, texts) | {"decides": decides}
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


def _describe(source: ExportSource, texts: list[str]) -> dict[str, object]:
    """Return what the page knows of a model."""
    folder = source.folder
    config = source.model.config
    tokenizer = source.tokenizer
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    around = find_around(tokenizer("a")["input_ids"], bare)
    examples = read_examples(folder)
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


# ---- transformers.js ----


def write_transformers_js(target: Path, source: ExportSource, graph: Path) -> None:
    """Write the folder of transformers.js with the `graph`, where the model is a BERT by name.

    The pipelines of transformers.js load this name, and read inputs and outputs of the graph.
    Nothing is written for a model of numbers, as the pipelines compute probabilities, nor without a
    `tokenizer.json`.
    """
    config = source.model.config
    folder = source.folder
    if not folder.tokenizer.is_file() or score_kind(config) == "values":
        return
    (target / "onnx").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(graph, target / "onnx" / graph.name)
    is_encoder = source.gives_vectors or type(source.model).__name__ == ENCODER
    head = "BertModel"
    names = ["pad_token_id", "vocab_size"]
    if not is_encoder:
        head = "BertForSequenceClassification"
        names += ["id2label", "label2id", "problem_type"]
    settings = {name: value for name, value in config.to_dict().items() if name in names}
    settings |= {"model_type": "bert", "architectures": [head]}
    settings["transformers.js_config"] = {"dtype": "fp32"}
    tokenizer = folder.read_tokenizer_config()
    tokenizer["tokenizer_class"] = "PreTrainedTokenizerFast"
    contents = {
        folder.config.name: settings,
        folder.tokenizer_config.name: tokenizer,
        folder.tokenizer.name: _adapt_tokenizer(json.loads(folder.tokenizer.read_bytes())),
    }
    for name, content in contents.items():
        write_whole(target / name, json.dumps(content, indent=2, ensure_ascii=False).encode())


def _adapt_tokenizer(content: dict[str, Any]) -> dict[str, Any]:
    """Return `tokenizer.json` without two parts that transformers.js lacks, for the same ids."""
    steps = (content["normalizer"] or {}).get("normalizers", [])
    nmt = {"type": "Nmt"}
    if nmt in steps:
        place = steps.index(nmt)
        steps[place : place + 1] = [
            {"type": "Replace", "pattern": {"Regex": old}, "content": new} for old, new in _NMT
        ]
    # marks of capitals, which a normaliser writes: transformers.js looks for added tokens before it
    # normalises
    marks = [
        token for token in content["added_tokens"] if token["normalized"] and not token["special"]
    ]
    if marks:
        first = content["pre_tokenizer"]
        cuts = first["pretokenizers"] if first["type"] == "Sequence" else [first]
        ids = {mark["content"]: mark["id"] for mark in marks}
        pattern = {"Regex": f"[{''.join(ids)}]"}
        split = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
        steps = [cuts[0], split, *cuts[1:]]
        content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
        content["added_tokens"] = [token for token in content["added_tokens"] if token not in marks]
        content["model"]["vocab"] |= ids
    return content
