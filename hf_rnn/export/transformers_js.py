"""Write the folder of an exported model that the pipelines of transformers.js read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from ..models.auto import ENCODER
from ..tasks import score_kind
from ..utils.process import write_whole
from .check import ExportSource

_NMT = (  # the normaliser Nmt as patterns and what replaces them
    (r"[\x01-\x08\x0B\x0E-\x1F\x7F\u008F\u009F]", ""),
    (r"[\t\n\f\r\u1680\u200B-\u200F\u2028\u2029\u2581\uFEFF\uFFFD]", " "),
)


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
