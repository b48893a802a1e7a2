"""Write a web page of a model that needs no server, and the files that transformers.js loads.

The page is `index.html` with `hf_rnn.js`, network and tokenizer in plain JavaScript, and `model.js`, the model. A
browser reads them as scripts, so the page also opens from a folder, without a web server.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...hub.loading import find_folder, load_model
from ...hub.model_folder import FinishedFolder
from ...tasks import task_of
from ...tokenizers.word_level import save_tokenizer
from ...utils.atomic_write import write_whole
from ...utils.errors import UserError
from ..demo import describe, read_examples

_FILES = ("index.html", "hf_rnn.js")
# Parts that `hf_rnn.js` has, of the network and of `tokenizer.json`.
_CELLS = ("rnn_tanh", "rnn_relu", "gru", "lstm", "min_gru")
_POOLINGS = ("last", "mean", "max", "mean_max", "attention")
_TOKENIZER_PARTS = {
    "normalizer": ("BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Replace", "Strip", "StripAccents"),
    "pre_tokenizer": ("BertPreTokenizer", "Metaspace", "Split", "WhitespaceSplit"),
    "model": ("BPE", "Unigram", "WordLevel", "WordPiece"),
    "post_processor": ("TemplateProcessing",),
}
_SPACE = r"\p{White_Space}"
_SPLITS = ("Isolated", "Removed")
_BPE_OPTIONS = ("byte_fallback", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", "ignore_merges")


def build_page(name_or_path: str | Path, revision: str | None = None) -> dict[str, bytes]:
    """Return the files of the page of a model, by name.

    Args:
        name_or_path: A finished folder, or a repo id of the Hub.
        revision: Branch, tag or commit, for a repo id.

    Raises:
        UserError: For a model that the page cannot run.
    """
    folder = FinishedFolder(find_folder(name_or_path, revision))
    model, tokenizer = load_model(folder.root)
    name = folder.root.resolve().name if Path(name_or_path).is_dir() else str(name_or_path)
    with tempfile.TemporaryDirectory(prefix="hf-rnn-") as place:
        save_tokenizer(tokenizer, Path(place))
        return _page(model, tokenizer, Path(place), name, read_examples(folder))


def write_web(
    target: Path, onnx_file: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: FinishedFolder
) -> Path:
    """Write a folder with the page and what transformers.js loads; return the folder.

    Args:
        target: The folder; the files of an earlier export are replaced.
        onnx_file: The exported graph, which transformers.js runs.
        model: Its model.
        tokenizer: Its tokenizer.
        folder: The finished folder of the model, for its name and examples.

    Raises:
        UserError: For a model that the page cannot run.
    """
    with tempfile.TemporaryDirectory(prefix="hf-rnn-") as place:
        new = Path(place)
        save_tokenizer(tokenizer, new)
        page = _page(model, tokenizer, new, folder.root.resolve().name, read_examples(folder))
        config = model.config.to_dict()
        config.pop("auto_map", None)
        # transformers.js knows no other types; this one passes ids and mask to the graph and reads its logits
        config |= {"model_type": "distilbert", "architectures": ["DistilBertForSequenceClassification"]}
        config["transformers.js_config"] = {"dtype": "int8" if onnx_file.stem.endswith("_int8") else "fp32"}
        settings = json.loads((new / "tokenizer_config.json").read_bytes()) | {
            "tokenizer_class": "PreTrainedTokenizer"
        }
        files = {
            **page,
            "config.json": _dump(config).encode(),
            "tokenizer.json": _dump(_write_out(json.loads((new / "tokenizer.json").read_bytes()))).encode(),
            "tokenizer_config.json": _dump(settings).encode(),
        }
    try:
        shutil.rmtree(target, ignore_errors=True)
        (target / "onnx").mkdir(parents=True)
        shutil.copyfile(onnx_file, target / "onnx" / onnx_file.name)
        for name, content in files.items():
            write_whole(target / name, content)
    except OSError as error:
        raise UserError(f"{target} cannot be written: {error.strerror}; make room there") from error
    return target


def check_page(name: str | Path, config: Any) -> None:
    """Refuse a model that the page cannot run.

    Raises:
        UserError: With the name of the model.
    """
    task = task_of(config)
    if task.architecture != "RnnForSequenceClassification":
        raise UserError(f"{name} has no web page: its task is {task.name}")
    if config.sep_token_id is not None:
        raise UserError(f"{name} reads pairs of texts, and the page has one: use hf-rnn predict")
    for setting, known in (("cell_type", _CELLS), ("pooling", _POOLINGS)):
        if (found := getattr(config, setting)) not in known:
            raise UserError(f"{name} has no web page: found {setting} {found!r}; supported are {', '.join(known)}")


def _page(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, saved: Path, name: str, examples: list[str]
) -> dict[str, bytes]:
    """Return the files of the page; `saved` is the folder of the saved tokenizer."""
    config: Any = model.config
    check_page(name, config)
    file = saved / "tokenizer.json"
    parts = json.loads(file.read_bytes()) if file.is_file() else {"model": {"type": type(tokenizer).__name__}}
    if unknown := sorted(set(_find_unknown_parts(parts))):
        raise UserError(f"{name} has no web page: its tokenizer has {', '.join(unknown)}, which the page lacks")
    keys = ["cell_type", "embedding_size", "hidden_size", "num_hidden_layers", "bidirectional", "pooling"]
    keys += ["classifier_activation", "problem_type", "label_thresholds", "id2label"]
    settings = ("model_max_length", "truncation_side", "split_special_tokens")
    content = {
        "name": name,
        "purpose": f"{describe(list(config.id2label.values()), config)} "
        "Type a text: the colours show which words count.",
        "examples": examples,
        "config": {key: getattr(config, key) for key in keys},
        "tokenizer": {key: parts.get(key) for key in (*_TOKENIZER_PARTS, "added_tokens")},
        "tokenizer_config": {key: getattr(tokenizer, key) for key in settings},
    }
    weights = save({key: value.detach().float().cpu().contiguous() for key, value in model.state_dict().items()})
    script = (  # a string of JSON: in a literal of JavaScript, a word `__proto__` would not be a key
        f"const hfRnnModel = JSON.parse({_dump(_dump(content))});\n"
        f'hfRnnModel.weights = "{base64.b64encode(weights).decode()}";\n'
        'if (typeof module !== "undefined") module.exports = hfRnnModel;\n'
    )
    here = Path(__file__).parent
    return {**{file: (here / file).read_bytes() for file in _FILES}, "model.js": script.encode()}


def _write_out(part: Any) -> Any:
    """Return parts of a `tokenizer.json` with white space as a class that means the same in JavaScript."""
    if isinstance(part, list):
        return [_write_out(each) for each in part]
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


def _find_unknown_parts(parts: Mapping[str, Any]) -> Iterator[str]:
    """Yield the parts of a `tokenizer.json` that `hf_rnn.js` does not have."""
    for stage, known in _TOKENIZER_PARTS.items():
        waiting = [parts.get(stage)]
        while waiting:
            part = waiting.pop() or {"type": known[0]}
            kind = part["type"]
            if kind == "Sequence":
                waiting += part.get("normalizers") or part.get("pretokenizers") or []
            elif kind not in known:
                yield kind
            elif kind == "Split" and part["behavior"] not in _SPLITS:
                yield f"{kind} with {part['behavior']}"
            elif kind == "BPE":
                yield from (f"{kind} with {option}" for option in _BPE_OPTIONS if part.get(option))
