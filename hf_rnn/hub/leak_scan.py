"""Select the files of a finished folder that go to the Hub, and check that they contain nothing private.

Files that do not belong to a finished folder are never sent. Whatever is pushed once can be read for good, so a token,
a private key, a path of this machine or a pickle is refused.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard
from transformers.dynamic_module_utils import get_relative_import_files

from ..utils.errors import UserError, reason_of
from .model_folder import MODELLING_FILES, FinishedFolder

_NOT_SENT = ("checkpoints", "runs")  # the Trainer's: training states and TensorBoard logs
_TOKENIZER = ("special_tokens_map.json", "added_tokens.json", "chat_template.jinja")
_PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".joblib")
_BINARY = (".safetensors", ".png", ".onnx", ".model")
_VOCABULARY = re.compile(r"tokenizer\.json|vocab.*|merges.*")  # its words may look like paths

# Formats that their providers publish. An underscore may precede a token, as in `run_hf_...`, so `\b` does not serve.
_TOKENS = {
    "Hugging Face": r"(?:hf_(?:oauth_|jwt_)?|api_org_)[A-Za-z0-9]{16,}",
    "GitHub": r"(?:gh[opsur]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{22,})",
    "AWS": r"(?:(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])|aws_secret_access_key\W{1,5}[A-Za-z0-9/+]{40})",
    "OpenAI": r"sk-[A-Za-z0-9_-]{32,}",
    "PEM": r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY",
}
_TOKEN = re.compile(rf"(?<![A-Za-z0-9])(?:{'|'.join(_TOKENS.values())})")
_TOKEN_IN_BYTES = re.compile(_TOKEN.pattern.encode())
_PATH = re.compile(
    r"(?<![\w.~>-])/[\w.@+-]+(?:/[\w.@+-]+)+"
    r"|(?:(?<=-[A-Z])|(?<=[>-]))/(?:home|Users)/[\w.@+-]+"  # after an option's letter or a redirection
    r"|\b[A-Za-z]:(?:\\{1,2}|/(?=[Uu]sers))[\w.@+-]+"
)


@dataclass(frozen=True)
class SharedFile:
    """A file that goes to the Hub.

    Attributes:
        path: The local file.
        name: Its name in the repo, with `/` between the parts.
        size: Bytes.
        content: Bytes sent in place of the file's own; None sends the file.
    """

    path: Path
    name: str
    size: int
    content: bytes | None = field(default=None, repr=False)  # a card would fill a page of a notebook


def list_shared_files(folder: FinishedFolder, tokenizer_files: Iterable[str] = ()) -> tuple[SharedFile, ...]:
    """Return the files of a finished folder that are shared, sorted by name.

    Args:
        folder: A finished folder.
        tokenizer_files: Further files of its tokenizer.
    """
    names = {*_TOKENIZER, *tokenizer_files, *MODELLING_FILES, *_modelling_files(folder)}
    named = [*folder.named_files(), *(folder.root / name for name in names if Path(name).name == name)]
    files = {path for path in named if path.is_file() and not _is_hidden(path, folder)}
    shared = [SharedFile(path, path.relative_to(folder.root).as_posix(), path.stat().st_size) for path in files]
    return tuple(sorted(shared, key=lambda file: file.name))


def list_left_files(folder: FinishedFolder, shared: Iterable[SharedFile]) -> tuple[str, ...]:
    """Return the top-level entries of a finished folder that are not shared; folders end with `/`."""
    going = {file.name.split("/")[0] for file in shared}
    left = [path for path in sorted(folder.root.iterdir()) if path.name not in going]
    return tuple(f"{path.name}/" if path.is_dir() else path.name for path in left)


def check_shareable(folder: FinishedFolder, shared: Iterable[SharedFile], token: str | None = None) -> None:
    """Check that the files load without this package and contain nothing private.

    Args:
        folder: A finished folder.
        shared: Its files that are shared.
        token: A token that must not be in them, whatever its format.

    Raises:
        UserError: For a pickle anywhere but in `checkpoints/` and `runs/`; for a link to a file outside the folder;
            for missing modelling files; for a card with damaged metadata; and for a file with a token, a private key
            or an absolute path of this machine.
    """
    for path in sorted(folder.root.rglob("*")):
        kept = path.relative_to(folder.root).parts[0] in _NOT_SENT or _is_hidden(path, folder)
        if not kept and path.is_file() and _is_pickle(path):
            raise UserError(f"{path} is a pickle, which can run code when loaded: delete or move it")
    for file in shared:
        if not file.path.resolve().is_relative_to(folder.root.resolve()):
            raise UserError(f"{file.path} is a link to {file.path.resolve()}, outside the folder: put a copy there")
    _check_modelling_files(folder)
    try:
        ModelCard.load(folder.card)
    except Exception as error:  # YAML's own errors among others
        raise UserError(f"the metadata of {folder.card} cannot be read: {reason_of(error)}") from error
    folders = {str(Path.home()), str(folder.root.resolve())} - {"/"}
    found = [leak for file in shared for leak in _leaks(file, folders, token)]
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise UserError(f"{found[0]}{more}: remove it before others can read it")


def _is_hidden(path: Path, folder: FinishedFolder) -> bool:
    return any(part.startswith((".", "__")) for part in path.relative_to(folder.root).parts)


def _is_pickle(path: Path) -> bool:
    """Whether loading a file can run code, as with files of `torch.save`."""
    if path.suffix in _PICKLES or path.suffix in _BINARY:
        return path.suffix in _PICKLES
    with path.open("rb") as stream:
        if re.match(rb"\x80[\x02-\x05]", stream.read(2)):
            return True
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("data.pkl") for name in archive.namelist())


def _auto_map(folder: FinishedFolder) -> dict[str, Any]:
    """Return the classes that load the model without this package, as `config.json` names them."""
    found = json.loads(folder.config.read_text(encoding="utf-8")).get("auto_map") if folder.config.is_file() else None
    return found if isinstance(found, dict) else {}


def _modelling_files(folder: FinishedFolder) -> set[str]:
    """Return the files that load the model without this package, including those of other versions."""
    named = {f"{target.split('.')[0]}.py" for target in _auto_map(folder).values() if isinstance(target, str)}
    there = [name for name in named if (folder.root / name).is_file()]
    return named | {Path(file).name for name in there for file in _relative_imports(folder.root / name)}


def _check_modelling_files(folder: FinishedFolder) -> None:
    missing = sorted(name for name in _modelling_files(folder) if not (folder.root / name).is_file())
    if missing or not {"AutoConfig", "AutoModelForSequenceClassification"} <= _auto_map(folder).keys():
        lacks = ", ".join(missing) if missing else 'entry "auto_map" in its config.json'
        save = (
            "import hf_rnn; model = hf_rnn.RnnForSequenceClassification; "
            f"model.from_pretrained({str(folder.root)!r}).save_pretrained({str(folder.root)!r})"
        )
        raise UserError(
            f"{folder.root} has no {lacks}, so nobody could load it without this package. "
            f'To write what is missing, type: python -c "{save}"'
        )


def _relative_imports(path: Path) -> list[str]:
    try:
        return get_relative_import_files(str(path))
    except FileNotFoundError as error:
        return [error.filename]
    except ValueError:  # not a text
        return []


def _leaks(file: SharedFile, folders: set[str], token: str | None) -> Iterator[str]:
    """Yield what a file gives away, with its line."""
    content = file.path.read_bytes()
    if file.path.suffix in _BINARY:
        yield from (f"{file.path} holds {leak}" for leak in _leaks_of_bytes(content, folders, token))
        return
    original = Path(__file__).parents[1] / "models" / file.path.name
    if file.path.suffix == ".py" and original.is_file() and original.read_bytes() == content:
        return
    text = content.decode("utf-8", errors="replace")
    if file.path.suffix == ".json":  # without escapes, which can hide a slash or an underscore
        try:
            text = json.dumps(json.loads(content), ensure_ascii=False, indent=2)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{file.path} is not JSON in UTF-8: {error}") from error
    below = re.compile("|".join(rf"(?<!\w){re.escape(folder)}(?=[/\\])" for folder in folders) or r"\Z.")
    for number, line in enumerate(text.splitlines(), 1):
        paths = [match.group() for match in below.finditer(line)]
        if not _VOCABULARY.fullmatch(file.name):
            paths += filter(_is_of_this_machine, _PATH.findall(line))
        if found := _TOKEN.search(line):
            yield f"{file.path}:{number} holds a token ({found.group()[:6]}...)"
        elif token and token in line:
            yield f"{file.path}:{number} holds your token"
        if paths:
            yield f"{file.path}:{number} holds a path of this machine ({max(paths, key=len)})"


def _leaks_of_bytes(content: bytes, folders: set[str], token: str | None) -> Iterator[str]:
    if found := _TOKEN_IN_BYTES.search(content):
        yield f"a token ({found.group()[:6].decode()}...)"
    elif token and token.encode() in content:
        yield "your token"
    for folder in sorted(folders):
        if f"{folder}/".encode() in content or f"{folder}\\".encode() in content:
            yield f"a path of this machine ({folder})"


def _is_of_this_machine(path: str) -> bool:
    """Whether an absolute path may be local: a Windows path, someone's home, or below an existing root folder."""
    first = "/".join(path.split("/")[:2])
    return not path.startswith("/") or first in ("/home", "/Users") or Path(first).is_dir()
