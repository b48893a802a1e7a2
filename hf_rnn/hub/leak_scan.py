"""Select the files of a finished folder that go to the Hub, and check that they contain nothing private.

Other files are never sent. A pushed file can be read for good, so a secret, an e-mail address, a phone number or a
path of this machine stops the push.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import ModelCard
from transformers import PreTrainedConfig
from transformers.dynamic_module_utils import get_relative_import_files

from ..models.auto import HEADS, head_name
from ..utils.errors import UserError, reason_of
from ..utils.private_text import find_contacts, find_secrets
from .model_folder import MODELLING_FILES, FinishedFolder, read_mapping

_TOKENIZER = ("special_tokens_map.json", "added_tokens.json", "chat_template.jinja")
_BINARY = (".safetensors", ".png", ".onnx", ".model")
_VOCABULARY = re.compile(r"tokenizer\.json|vocab.*|merges.*")  # its words may look like paths

_READABLE = re.compile(rb"(?:[ -~]|[\xc3-\xf4][\x80-\xbf]+){8,}")  # strings in a binary file
_IN_CARD = "remove it, or set --no_card_examples"
_REMEDIES = {
    "README.md": _IN_CARD,
    "card_facts.json": _IN_CARD,
    "tokenizer.json": "train again, as new vocabularies leave it out",
}
_PATH = re.compile(r"(?<![\w.~>-])/[\w.@+-]+(?:/[\w.@+-]+)+|\b[A-Za-z]:(?:\\{1,2}|/(?=[Uu]sers))[\w.@+-]+")


@dataclass(frozen=True)
class SharedFile:
    """A file that goes to the Hub."""

    path: Path  # the local file
    name: str  # in the repo, with `/` between the parts
    size: int  # bytes
    content: bytes | None = field(default=None, repr=False)  # sent in place of the file's own, unless None

    def read(self) -> bytes:
        """Return what is sent."""
        return self.path.read_bytes() if self.content is None else self.content


def list_shared_files(folder: FinishedFolder, tokenizer_files: Iterable[str] = ()) -> tuple[SharedFile, ...]:
    """Return the files of a finished folder that are shared, sorted by name, those of its tokenizer included."""
    names = {*_TOKENIZER, *tokenizer_files, *MODELLING_FILES, *_modelling_files(folder)}
    named = {*folder.named_files(), *folder.weight_files(), *(folder.root / name for name in names)}
    files = ((path.relative_to(folder.root).as_posix(), path) for path in named if path.is_file())
    return tuple(SharedFile(path, name, path.stat().st_size) for name, path in sorted(files))


def check_shareable(
    folder: FinishedFolder,
    shared: Iterable[SharedFile],
    config: PreTrainedConfig,
    token: str | None = None,
    allow_contacts: bool = False,
) -> None:
    """Check that the files load without this package and contain nothing private.

    Private are the given token, secrets, absolute paths of this machine and, unless `allow_contacts`, e-mail addresses
    and phone numbers.
    """
    missing = [name for name in sorted(_modelling_files(folder)) if not (folder.root / name).is_file()]
    if not {"AutoConfig", HEADS[head_name(config)][1]} <= _auto_map(folder).keys():
        missing.append('entry "auto_map" in config.json')
    if missing:
        raise UserError(
            f"{folder.root} has no {', '.join(missing)}, so the model cannot be loaded without this package: load the "
            "model and call its save_pretrained with this folder"
        )
    try:
        ModelCard.load(folder.card)
    except Exception as error:  # YAML's own errors among others
        raise UserError(f"the metadata of {folder.card} cannot be read: {reason_of(error)}") from error
    leaks = [leak for file in shared for leak in _find_leaks(file, folder.root, token, allow_contacts)]
    if leaks:
        more = f" (and {len(leaks) - 1} more)" if len(leaks) > 1 else ""
        place, problem, remedy = leaks[0]
        raise UserError(f"{place} holds {problem}{more}: {remedy}. Others could read it")


def _auto_map(folder: FinishedFolder) -> dict[str, str]:
    """Return the classes that load the model without this package, as `config.json` names them."""
    return read_mapping(folder.config, folder.config.read_bytes()).get("auto_map") or {}


def _modelling_files(folder: FinishedFolder) -> set[str]:
    """Return the files that load the model without this package, including those of other versions."""
    names = {f"{target.split('.')[0]}.py" for target in _auto_map(folder).values()}
    for path in [folder.root / name for name in names]:
        try:
            names |= {Path(file).name for file in get_relative_import_files(str(path))}
        except FileNotFoundError as error:
            names.add(Path(error.filename).name)
    return names


def _find_leaks(
    file: SharedFile, root: Path, token: str | None, allow_contacts: bool
) -> Iterator[tuple[str, str, str]]:
    """Yield the place of private content, what it is, and what to do."""
    content, is_binary = file.read(), file.path.suffix in _BINARY
    if is_binary:
        lines = ["\n".join(match.decode(errors="replace") for match in _READABLE.findall(content))]
    elif file.path.suffix == ".json":  # without escapes, which can hide a slash or an underscore
        lines = json.dumps(json.loads(content), ensure_ascii=False, indent=2).splitlines()
    else:
        lines = content.decode("utf-8", errors="replace").splitlines()
    folders = {str(Path.home()), str(root.resolve())} - {"/"}
    below = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, folders)) or '$.'})(?=[/\\])")
    remedy = _REMEDIES.get(file.name, "remove it")
    for number, line in enumerate(lines, 1):
        place = str(file.path) if is_binary else f"{file.path}:{number}"
        paths = below.findall(line)
        if not is_binary and not _VOCABULARY.fullmatch(file.name):
            paths += filter(_is_local, _PATH.findall(line))
        if paths:
            yield place, f"a path of this machine ({max(paths, key=len)})", "remove it"
        if secret := next(find_secrets(line), None):
            yield place, f"a secret ({secret[:6]}...)", remedy
        elif token and token in line:
            yield place, "your token", "remove it"
        elif not is_binary and not allow_contacts and (contact := next(find_contacts(line), None)):
            yield place, f"an e-mail address or phone number ({contact})", f"{remedy}, or set --allow_contacts"


def _is_local(path: str) -> bool:
    """Return whether an absolute path may be local: a Windows path, a home, or below an existing root folder."""
    first = "/".join(path.split("/")[:2])
    return not path.startswith("/") or first in ("/home", "/Users") or Path(first).is_dir()
