"""A finished folder to the files that may leave this machine: which ones they are, and that they give nothing away.

Only looks at files. What is not known to belong to a finished folder stays where it is; what belongs to it and names
this machine, its user or a token is refused: what is pushed once can be read for good.
"""

from __future__ import annotations

import getpass
import json
import mmap
import re
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard
from transformers.dynamic_module_utils import get_relative_import_files

from .errors import UserError, reason_of
from .folder import MODELLING_FILES, FinishedFolder

_AT_HOME = ("checkpoints", "runs")  # the Trainer's own: training states, TensorBoard logs
_TOKENIZER = ("special_tokens_map.json", "added_tokens.json", "chat_template.jinja")
_PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".joblib")
_BINARY = (".safetensors", ".png", ".onnx", ".model")
_VOCABULARY = re.compile(r"tokenizer\.json|vocab.*|merges.*")  # words of others, which may look like a path or a name

_TOKEN = re.compile(r"\b(?:hf_|hf_oauth_|api_org_)[A-Za-z0-9]{16,}")
_PATH = re.compile(
    r"(?<![\w.~>-])/[\w.@+-]+(?:/[\w.@+-]+)+"
    r"|(?:(?<=-[A-Z])|(?<=[>-]))/(?:home|Users)/[\w.@+-]+"  # behind an option's letter or the sign of a redirection
    r"|\b[A-Za-z]:(?:\\{1,2}|/(?=[Uu]sers))[\w.@+-]+"
)


@dataclass(frozen=True)
class SharedFile:
    """A file that goes to the Hub.

    Attributes:
        path: Where it is here.
        name: What it is called there, with `/` between its parts.
        size: Bytes.
        content: What goes in place of the file's own bytes; None for these.
    """

    path: Path
    name: str
    size: int
    content: bytes | None = field(default=None, repr=False)  # a card would fill a page of a notebook


def list_shared_files(folder: FinishedFolder, tokenizer_files: Iterable[str] = ()) -> tuple[SharedFile, ...]:
    """Return what of a finished folder is to be shared, by name.

    Args:
        folder: A finished folder.
        tokenizer_files: Further files that its tokenizer consists of.
    """
    named = folder.named_files()
    named += [folder.root / name for name in (*_TOKENIZER, *tokenizer_files)]
    named += [folder.root / name for name in {*MODELLING_FILES, *_modelling_files(folder)} if Path(name).name == name]
    files = {path for path in named if path.is_file() and not _is_hidden(path, folder)}
    shared = [SharedFile(path, path.relative_to(folder.root).as_posix(), path.stat().st_size) for path in files]
    return tuple(sorted(shared, key=lambda file: file.name))


def list_left_files(folder: FinishedFolder, shared: Iterable[SharedFile]) -> tuple[str, ...]:
    """Return what lies at the root of a finished folder and is not shared, folders with a `/` after their name."""
    going = {file.name.split("/")[0] for file in shared}
    left = [path for path in sorted(folder.root.iterdir()) if path.name not in going]
    return tuple(f"{path.name}/" if path.is_dir() else path.name for path in left)


def check_shareable(
    folder: FinishedFolder, shared: Iterable[SharedFile], repo_id: str, token: str | None = None
) -> None:
    """Make sure that the files load anywhere and give nothing of this machine away.

    Args:
        folder: A finished folder.
        shared: Its files that are to be shared.
        repo_id: Where they go, `owner/name`; a user who is called as the owner is no secret.
        token: A token that must not be in them, whatever it looks like.

    Raises:
        UserError: For a pickle anywhere in the folder but below `checkpoints/` and `runs/`; for a link to a file that
            lies elsewhere; for modelling files that are missing; for a card whose metadata cannot be read; and for a
            file that holds a token, an absolute path or the name of this machine's user. The message names file and
            line.
    """
    _check_pickles(folder)
    _check_links(folder, shared)
    _check_modelling_files(folder)
    try:
        ModelCard.load(folder.card)
    except Exception as error:  # YAML's own errors among others
        raise UserError(f"the metadata of {folder.card} cannot be read: {reason_of(error)}") from error
    secrets = _Secrets(
        token, _telling_user_name(repo_id, folder), {str(Path.home()), str(folder.root.resolve())} - {"/"}
    )
    found = [leak for file in shared for leak in _leaks(file, secrets)]
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise UserError(f"{found[0]}{more}: take it out before others can read it")


def _is_hidden(path: Path, folder: FinishedFolder) -> bool:
    return any(part.startswith((".", "__")) for part in path.relative_to(folder.root).parts)


def _check_pickles(folder: FinishedFolder) -> None:
    """Refuse a file that runs code when it is loaded; `torch.save` writes such ones."""
    for path in sorted(folder.root.rglob("*")):
        top = path.relative_to(folder.root).parts[0]
        if top in _AT_HOME or _is_hidden(path, folder) or not path.is_file() or not _is_pickle(path):
            continue
        raise UserError(
            f"{path} is a pickle, which can run code where it is loaded: delete it or move it out of {folder.root}"
        )


def _is_pickle(path: Path) -> bool:
    if path.suffix in _PICKLES:
        return True
    if path.suffix in _BINARY:
        return False
    with path.open("rb") as stream:
        head = stream.read(3)
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":
        return True
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("data.pkl") for name in archive.namelist())
    except zipfile.BadZipFile as error:  # other readers may be less strict, and find a pickle in it
        raise UserError(f"{path} is an archive that cannot be read: delete it or move it away") from error


def _check_links(folder: FinishedFolder, shared: Iterable[SharedFile]) -> None:
    """Refuse to send, under a name of ours, a file of another place: whoever made the folder chose which."""
    for file in shared:
        if not (place := file.path.resolve()).is_relative_to(folder.root.resolve()):
            raise UserError(
                f"{file.path} is a link to {place}, outside the folder: put a copy in its place, if others may read it"
            )


def _auto_map(folder: FinishedFolder) -> dict[str, Any]:
    """What `config.json` says of the classes that load where this package is not installed; empty if nothing."""
    found = json.loads(folder.config.read_text(encoding="utf-8")).get("auto_map") if folder.config.is_file() else None
    return found if isinstance(found, dict) else {}


def _modelling_files(folder: FinishedFolder) -> set[str]:
    """The files that the model loads from where this package is not installed, those of another version too."""
    named = {f"{target.split('.')[0]}.py" for target in _auto_map(folder).values() if isinstance(target, str)}
    there = [name for name in named if (folder.root / name).is_file()]
    return named | {Path(file).name for name in there for file in _relative_imports(folder.root / name)}


def _check_modelling_files(folder: FinishedFolder) -> None:
    """Make sure that the model loads where this package is not installed."""
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
    except ValueError:  # no text
        return []


@dataclass(frozen=True)
class _Secrets:
    """What must not be in a file, besides what looks like a token or a path.

    Attributes:
        token: The token that the push goes by.
        user: The name of this machine's user.
        folders: Folders, below which everything is of this machine.
    """

    token: str | None
    user: str | None
    folders: set[str]


def _leaks(file: SharedFile, secrets: _Secrets) -> Iterator[str]:
    """Say what a file gives away, and where."""
    if _is_ours(file.path):
        return
    if file.path.suffix in _BINARY:
        yield from _leaks_of_bytes(file.path, secrets)
        return
    vocabulary = bool(_VOCABULARY.fullmatch(file.name))
    folders = re.compile(
        "|".join(rf"(?<!\w){re.escape(folder)}(?=[/\\])" for folder in sorted(secrets.folders)) or r"\Z."
    )
    user = re.compile(rf"(?<!\w){re.escape(secrets.user)}(?!\w)" if secrets.user else r"\Z.", re.IGNORECASE)

    def leaks_of(line: str) -> Iterator[str]:
        if token := _TOKEN.search(line):
            yield f"a token ({token.group()[:6]}...)"
        elif secrets.token and secrets.token in line:
            yield "your token"
        paths = [match.group() for match in folders.finditer(line)]
        if not vocabulary:
            paths += filter(_is_of_this_machine, _PATH.findall(line))
        if paths:
            yield f"a path of this machine ({max(paths, key=len)})"
        elif not vocabulary and user.search(line):
            yield f"the name of this machine's user ({secrets.user})"

    content = file.path.read_bytes()
    told = set()
    for number, line in enumerate(content.decode("utf-8", errors="replace").splitlines(), 1):
        for leak in leaks_of(line):
            told.add(leak)
            yield f"{file.path}:{number} holds {leak}"
    if file.path.suffix == ".json":
        hidden = (leak for line in _lines_without_escapes(file.path, content) for leak in leaks_of(line))
        yield from (f"{file.path} holds {leak}" for leak in dict.fromkeys(hidden) if leak not in told)


def _lines_without_escapes(path: Path, content: bytes) -> Iterator[str]:
    """What a JSON file says, where escapes may hide it from who looks at its lines."""
    try:
        read = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no JSON in UTF-8, so that nobody can see what it holds: {error}") from error
    yield from json.dumps(read, ensure_ascii=False, indent=0).splitlines()


def _leaks_of_bytes(path: Path, secrets: _Secrets) -> Iterator[str]:
    """Say whether weights or a picture hold a token or a folder of this machine, as text among their bytes."""
    if not path.stat().st_size:
        return
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if path.suffix == ".png" and content[:8] != b"\x89PNG\r\n\x1a\n":
            yield f"{path} is no picture"
        if token := re.search(_TOKEN.pattern.encode(), content):
            yield f"{path} holds a token ({token.group()[:6].decode()}...)"
        elif secrets.token and content.find(secrets.token.encode()) >= 0:
            yield f"{path} holds your token"
        for folder in sorted(secrets.folders):
            if any(content.find(f"{folder}{separator}".encode()) >= 0 for separator in ("/", "\\")):
                yield f"{path} holds a path of this machine ({folder})"


def _is_ours(path: Path) -> bool:
    """Whether a modelling file is the package's own, as it stands."""
    original = Path(__file__).parent / path.name
    return path.suffix == ".py" and original.is_file() and original.read_bytes() == path.read_bytes()


def _is_of_this_machine(path: str) -> bool:
    """Whether an absolute path could be one of here: it is Windows', somebody's home, or its first folder exists."""
    first = "/".join(path.split("/")[:2])
    return not path.startswith("/") or first in ("/home", "/Users") or Path(first).is_dir()


def _telling_user_name(repo_id: str, folder: FinishedFolder) -> str | None:
    """The name of this machine's user, unless it says nothing: the repo's owner, or a word of our own or the texts."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError, ImportError):  # a process without a user, as in some containers
        return None
    if name.lower() == repo_id.split("/")[0].lower():
        return None
    texts = [*Path(__file__).parent.rglob("*.py"), *Path(__file__).parent.rglob("*.md"), folder.tokenizer]
    words = re.compile(rf"(?<!\w){re.escape(name)}(?!\w)", re.IGNORECASE)
    said = any(words.search(path.read_text(encoding="utf-8")) for path in texts if path.is_file())
    return None if said else name
