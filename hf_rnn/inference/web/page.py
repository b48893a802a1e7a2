"""Write a web page of a model that needs no server and asks nobody for anything.

The page is `index.html` with `network.js`, from texts to answers; `model.js`, which has the ONNX graph and the
tokenizer's file; and `engine.js`: ONNX Runtime and the tokenizers of transformers.js, which a user has installed with
npm. A browser reads them as scripts, so the page also opens from a folder. A head is an entry of `_HEADS` here, of
`HEADS` in `network.js` and of `VIEWS` in `index.html`.
"""

from __future__ import annotations

import base64
import gzip
import json
import logging
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from ...evaluation.scores import entity_types
from ...hub.model_folder import FinishedFolder
from ...models.auto import ENCODER
from ...tasks.answers import score_kind
from ...tokenizers.word_level import save_tokenizer
from ...utils.errors import UserError
from ..demo import read_examples

logger = logging.getLogger(__name__)

_HERE = Path(__file__).parent
_HEADS = {
    "RnnForSequenceClassification": "classifier",
    "RnnForTokenClassification": "tagger",
    "RnnForCausalLM": "writer",
    ENCODER: "encoder",
}
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


def make_page(
    name: str | Path,
    head: str,
    config: Any,
    tokenizer: PreTrainedTokenizerBase,
    folder: FinishedFolder,
    engine: dict[str, Path],
    texts: Sequence[str],
) -> dict[str, Any]:
    """Return what the page knows of a model, except its graph.

    Args:
        name: Names the model in messages.
        head: Name of its class, or that of an encoder without a head.
        config: Its configuration.
        tokenizer: Its tokenizer.
        folder: Its finished folder, for name and examples.
        engine: The result of [`find_engine`].
        texts: The tokenizer must cut them in JavaScript as here.

    Raises:
        UserError: For a tokenizer that JavaScript cannot run.
    """
    if not tokenizer.is_fast:
        raise UserError(f"{name} has no web page: its tokenizer has no tokenizer.json")
    with tempfile.TemporaryDirectory(prefix="hf-rnn-") as place:
        save_tokenizer(tokenizer, Path(place))
        tokenizer_file = json.loads((Path(place) / "tokenizer.json").read_bytes())
    if tokenizer.split_special_tokens:  # a special token typed in a text is text
        tokenizer_file["added_tokens"] = [token for token in tokenizer_file["added_tokens"] if not token["special"]]
    examples, labels, ends = read_examples(folder), list(config.id2label.values()), config.eos_token_id
    if config.sep_token_id is not None:
        shown = [pair for pair in (example.split(" | ") for example in examples) if len(pair) == 2]
    else:
        shown = {"writer": [], "encoder": [["\n".join(examples)]]}.get(_HEADS[head], [[text] for text in examples])
    content = {
        "name": folder.root.resolve().name,
        "head": _HEADS[head],
        "examples": shown,
        "labels": labels,
        "kind": score_kind(config),
        "thresholds": config.label_thresholds,
        "entities": bool(entity_types(labels)),
        "ends": ends if isinstance(ends, list) else [ends],
        "unknown": tokenizer.unk_token_id,
        "maxLength": tokenizer.model_max_length,
        "truncationSide": tokenizer.truncation_side,
        "around": _find_around(tokenizer, 1 if config.sep_token_id is None else 2),
        "tokenizer": _write_out(tokenizer_file),
        "specialTokens": tokenizer.special_tokens_map,
    }
    _check_tokens(name, content, tokenizer, Tokenizer.from_str(_dump(tokenizer_file)), engine, texts)
    return content


def _find_around(tokenizer: PreTrainedTokenizerBase, count: int) -> list[list[int]]:
    """Return the ids before, between and after a number of texts."""
    texts, around = ("a", "b")[:count], []
    whole: list[int] = tokenizer(*texts)["input_ids"]
    for text in texts:
        bare = tokenizer(text, add_special_tokens=False)["input_ids"]
        start = next(place for place in range(len(whole) + 1) if whole[place : place + len(bare)] == bare)
        around.append(whole[:start])
        whole = whole[start + len(bare) :]
    return [*around, whole]


_CHECK = """
const {tokenize, split, decode} = makeReader(Tokenizer, model);
const write = ([text, ...second]) => {
  if (model.head === "tagger") return split(text).map(({start, end, ids}) => [start, end, ids]);
  const ids = tokenize([text, ...second]);
  return model.head === "writer" ? [ids, decode(ids.filter((id) => id !== model.unknown))] : ids;
};
console.log(JSON.stringify(texts.map(write)));
"""


def _check_tokens(
    name: str | Path,
    content: dict[str, Any],
    tokenizer: Any,
    plain: Tokenizer,
    engine: dict[str, Path],
    texts: Sequence[str],
) -> None:
    """Refuse a tokenizer that cuts texts otherwise in JavaScript, by a run in Node."""
    if (node := shutil.which("node")) is None:
        logger.warning("node is missing: the page's tokens were not compared with the model's")
        return
    second = [texts[::-1]] if len(content["around"]) == 3 else []
    library = engine["tokenizers"].resolve().as_uri()
    script = f"import {{Tokenizer}} from {json.dumps(library)};\n" + (_HERE / "network.js").read_text("utf-8")
    script += f"const [model, texts] = JSON.parse({_dump(_dump([content, list(zip(texts, *second, strict=True))]))});"
    run = subprocess.run(
        [node, "--input-type=module", "-"], input=script + _CHECK, capture_output=True, encoding="utf-8", check=False
    )
    if run.returncode:
        reason = next((line for line in run.stderr.splitlines() if "Error: " in line), run.stderr)
        raise UserError(f"{name} has no web page: @huggingface/tokenizers cannot run its tokenizer: {reason:.300}")
    expected: list[Any] = tokenizer(texts, *second, truncation=True, verbose=False)["input_ids"]
    if content["head"] == "tagger":
        expected = _find_words(tokenizer, texts)
    elif content["head"] == "writer":
        known = [[token for token in ids if token != content["unknown"]] for ids in expected]
        expected = list(map(list, zip(expected, map(plain.decode, known), strict=True)))
    for text, here, there in zip(texts, expected, json.loads(run.stdout), strict=True):
        if here != there:
            raise UserError(f"{name} has no web page: in JavaScript its tokenizer cuts {text!r:.60} otherwise")


def _find_words(tokenizer: Any, texts: Sequence[str]) -> list[list[list[Any]]]:
    """Return the words of texts: start and end in units of UTF-16, as JavaScript counts, and ids."""
    encoded, found = tokenizer(list(texts), return_offsets_mapping=True, verbose=False), []
    for row, text in enumerate(texts):
        words: list[list[Any]] = []
        units = [len(text[:place].encode("utf-16-le")) // 2 for place in range(len(text) + 1)]
        tokens = zip(encoded.word_ids(row), encoded["offset_mapping"][row], encoded["input_ids"][row], strict=True)
        for word, group in groupby(tokens, key=lambda token: token[0]):
            if word is not None:
                _, places, ids = zip(*group, strict=True)
                words.append([units[places[0][0]], units[max(places)[1]], list(ids)])
        found.append(words)
    return found


def write_web(target: Path, onnx_file: Path, engine: dict[str, Path], content: dict[str, Any]) -> Path:
    """Write a folder with the page of a model; return the folder.

    Args:
        target: The folder; the files of an earlier export are replaced.
        onnx_file: The exported graph.
        engine: The result of [`find_engine`].
        content: The result of [`make_page`].

    Raises:
        UserError: If the folder cannot be written.
    """
    # a string of JSON: in a literal of JavaScript, a word `__proto__` would not be a key
    model_script = f"const hfRnnModel = JSON.parse({_dump(_dump(content))});\n"
    model_script += f'hfRnnModel.graph = "{base64.b64encode(onnx_file.read_bytes()).decode()}";\n'
    scripts = {name: engine[name].read_text(encoding="utf-8") for name in ("ort", "tokenizers")}
    wasm = base64.b64encode(gzip.compress(engine["wasm"].read_bytes(), mtime=0)).decode()
    engine_script = f"const hfRnnEngine = {_dump({**scripts, 'wasm': wasm})};\n"
    try:
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for file in ("index.html", "network.js"):
            shutil.copyfile(_HERE / file, target / file)
        (target / "model.js").write_text(model_script, encoding="utf-8")
        (target / "engine.js").write_text(engine_script, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{target} cannot be written: {error.strerror}; make room there") from error
    return target


def _write_out(part: Any) -> Any:
    """Return parts of a `tokenizer.json` with white space and lower case that mean the same in JavaScript."""
    if isinstance(part, list):
        return [_write_out(entry) for entry in part]
    if not isinstance(part, dict):
        return part
    if part.get("type") == "WhitespaceSplit":
        return {"type": "Split", "pattern": {"Regex": _SPACE + "+"}, "behavior": "Removed", "invert": False}
    if part.get("type") == "Lowercase" or (part.get("type") == "BertNormalizer" and part["lowercase"]):
        sigma = {"type": "Replace", "pattern": {"String": "Σ"}, "content": "σ"}  # not ς at the end of a word
        return {"type": "Sequence", "normalizers": [sigma, part]}
    if isinstance(pattern := part.get("Regex"), str):
        classes = {r"\s": _SPACE, r"\S": _SPACE.replace("p{", "P{")}
        return {"Regex": re.sub(r"\\.", lambda match: classes.get(match[0], match[0]), pattern, flags=re.S)}
    return {key: value if key in ("vocab", "merges") else _write_out(value) for key, value in part.items()}


def _dump(content: Any) -> str:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))
