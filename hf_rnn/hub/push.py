"""Check a finished folder and send it to a repo of the Hub as one commit.

Other files are never sent. A pushed file can be read for good, so a secret, an e-mail address, a phone number or a
path of this machine stops the push.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import CommitOperationAdd, ModelCard, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers import PreTrainedConfig
from transformers.dynamic_module_utils import get_relative_import_files

from ..models.auto import HEADS, head_name
from ..utils.errors import UserError, reason_of
from ..utils.private_text import find_contacts, find_secrets
from .card import card_for_repo
from .client import connect, explain_errors, token_advice
from .loading import load_model
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

    name: str  # in the repo, with `/` between the parts
    source: Path | bytes  # the local file, or the content that is sent in its place

    @property
    def size(self) -> int:
        """Number of bytes."""
        return len(self.source) if isinstance(self.source, bytes) else self.source.stat().st_size

    def read(self) -> bytes:
        """Return the content."""
        return self.source if isinstance(self.source, bytes) else self.source.read_bytes()


@dataclass(frozen=True)
class PushResult:
    """The result of a push, or the plan of a dry run."""

    repo_id: str
    url: str  # page of the repo, or of its branch
    files: tuple[SharedFile, ...]  # those of the commit, unchanged ones included
    commit: str | None = None  # its hash; None after a dry run


def push(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    card_examples: bool = True,
    allow_contacts: bool = False,
    dry_run: bool = False,
    token: str | None = None,
    commit_message: str = "Upload a recurrent text classifier",
) -> PushResult:
    """Share a finished folder on the Hub, in one commit.

    The folder is checked first: training is complete, the model loads here and, as far as files show, without this
    package, and no file contains a secret, an e-mail address, a phone number or a path of this machine. The repo is
    created if it does not exist; its other files stay unchanged. In the repo the card names the repo in place of the
    folder, unless the card was edited by hand.

    Args:
        folder: The output folder of a training.
        repo_id: `owner/name`.
        private: Whether a new repo is private. None takes the owner's default, and leaves an existing repo unchanged.
        revision: The branch to commit to; created from `main` if missing. None is `main`.
        card_examples: Whether the card shows texts of the training data.
        allow_contacts: Share e-mail addresses and phone numbers too.
        dry_run: Only check; nothing is sent and no token is needed.
        token: A token with write access. None takes `HF_TOKEN`, or the one stored by `hf auth login`.
        commit_message: The commit's first line.

    Raises:
        UserError: If the folder cannot be shared, the Hub refuses, or cannot be reached.

    Example:
        >>> push("out", "me/film-reviews", private=True).url
        'https://huggingface.co/me/film-reviews'
    """
    check_repo_id(repo_id)
    token = find_token(token)
    finished = FinishedFolder(Path(os.path.expanduser(folder)))
    finished.check_finished()
    model, tokenizer = load_model(finished.root, allow_encoder=True)
    card = card_for_repo(finished, repo_id, card_examples)
    files = list_shared_files(finished, tokenizer.vocab_files_names.values(), card)
    check_shareable(finished, files, model.config, token, allow_contacts)
    api, branch = connect(token), None if revision == "main" else revision
    page = f"{api.endpoint}/{repo_id}"
    plan = PushResult(repo_id, page + (f"/tree/{branch}" if branch else ""), files)
    if dry_run:
        return plan
    if token is None:
        raise UserError(f"there is no token to push with: {token_advice()}")
    with explain_errors(f"the push to {repo_id} failed", repo_id, branch):
        api.create_repo(repo_id, private=private, exist_ok=True)
        if private is not None and bool(api.repo_info(repo_id).private) != private:
            visible, wanted = ("public", "private") if private else ("private", "public")
            raise UserError(
                f"{repo_id} exists already and is {visible}, not {wanted}: change that at "
                f"{page}/settings, or push without private={private}"
            )
        if branch and not branch.startswith("refs/"):
            api.create_branch(repo_id, branch=branch, exist_ok=True)
        additions = [CommitOperationAdd(file.name, file.source) for file in files]
        commit = api.create_commit(repo_id, additions, commit_message=commit_message, revision=branch)
    return replace(plan, commit=commit.oid)


def find_token(token: str | None = None) -> str | None:
    """Return the given token, else `HF_TOKEN`, or the one stored by `hf auth login`; None without any."""
    return (token or get_token() or "").strip() or None


def check_repo_id(repo_id: str) -> None:
    """Check that a repo id is `owner/name`."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UserError(f"invalid repo id: found {repo_id!r}; {reason_of(error)}") from error
    if repo_id.count("/") != 1:
        raise UserError(f"invalid repo id: found {repo_id!r}; give owner/name")


def list_shared_files(
    folder: FinishedFolder, tokenizer_files: Iterable[str] = (), replaced: Mapping[str, bytes] | None = None
) -> tuple[SharedFile, ...]:
    """Return the files of a finished folder that are shared, sorted by name, those of its tokenizer included.

    `replaced` has the content of files that are sent with another one.
    """
    names = {*_TOKENIZER, *tokenizer_files, *MODELLING_FILES, *_modelling_files(folder)}
    paths = {*folder.named_files(), *folder.weight_files(), *(folder.root / name for name in names)}
    sources: dict[str, Path | bytes] = {
        path.relative_to(folder.root).as_posix(): path for path in paths if path.is_file()
    }
    return tuple(SharedFile(*entry) for entry in sorted((sources | dict(replaced or {})).items()))


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
        raise UserError(f"{folder.root / place} holds {problem}{more}: {remedy}. Others could read it")


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
    content, suffix = file.read(), Path(file.name).suffix
    is_binary = suffix in _BINARY
    if is_binary:
        lines = ["\n".join(match.decode(errors="replace") for match in _READABLE.findall(content))]
    elif suffix == ".json":  # without escapes, which can hide a slash or an underscore
        lines = json.dumps(json.loads(content), ensure_ascii=False, indent=2).splitlines()
    else:
        lines = content.decode("utf-8", errors="replace").splitlines()
    folders = {str(Path.home()), str(root.resolve())} - {"/"}
    below = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, folders)) or '$.'})(?=[/\\])")
    remedy = _REMEDIES.get(file.name, "remove it")
    for number, line in enumerate(lines, 1):
        place = file.name if is_binary else f"{file.name}:{number}"
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
