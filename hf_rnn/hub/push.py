"""Check a finished folder and send it to a repo of the Hub as one commit.

Other files are never sent. A pushed file can be read for good, so a secret or a path of this
machine stops the push.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import CommitOperationAdd

from ..utils.errors import HubError, install_hint
from .card import card_for_repo
from .client import connect, explain_errors, find_token
from .model_folder import MODELLING_FILES, REPO_ID, FinishedFolder, load_model

logger = logging.getLogger(__name__)

COMMIT_MESSAGE = "Upload a recurrent text classifier"
_TOKENIZER = ("special_tokens_map.json", "added_tokens.json", "chat_template.jinja")
_BINARY = (".safetensors", ".png", ".onnx", ".model", ".npy")
# Tokens of Hugging Face, OpenAI, Anthropic, GitHub and Google that detect-secrets 1.5.0 does not
# know.
_TOKENS = (
    r"(?i)(?<![a-z0-9])(hf_[a-z0-9]{30,}|sk-[\w-]{32,}|gh[opsur]_[a-z0-9]{36}|"
    r"github_pat_\w{22,}|AIza[\w-]{35})"
)
# characters of a key of AWS, the shortest secret in a vocabulary; most of its lines have fewer
_SHORT = 20
# beginnings of the names of their files
_VOCABULARIES = ("tokenizer", "vocab", "added_tokens", "special_tokens")
# they find hashes and versions
_GUESSED = ("Base64HighEntropyString", "HexHighEntropyString", "IPPublicDetector")


@dataclass(frozen=True)
class PushResult:
    """The result of a push, or the plan of a dry run."""

    repo_id: str
    url: str  # page of the repo, or of its branch
    files: dict[str, int]  # bytes by name: those of the commit, unchanged ones included
    commit: str | None = None  # its hash; None after a dry run


def push(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    card_examples: bool = False,
    dry_run: bool = False,
    token: str | None = None,
    commit_message: str = COMMIT_MESSAGE,
) -> PushResult:
    """Share a finished folder on the Hub, in one commit.

    The folder is checked first: training is complete, the model loads, and no file contains a
    secret or a path of this machine. The repo is created if it does not exist; its other files stay
    unchanged. In the repo the card names the repo in place of the folder, unless the card was
    edited by hand.

    Args:
        folder: The output folder of a training.
        repo_id: `owner/name`.
        private: Whether a new repo is private. None takes the owner's default, and leaves an
            existing repo unchanged.
        revision: The branch to commit to; created from `main` if missing. None is `main`.
        card_examples: Whether the card keeps its texts of the training data, if it has any.
        dry_run: Only check; nothing is sent and no token is needed.
        token: A token with write access. None takes `HF_TOKEN`, or the one stored by `hf auth
            login`.
        commit_message: The commit's first line.

    Raises:
        UserError: If the folder cannot be shared, the Hub refuses, or cannot be reached.

    Example:
        >>> push("out", "me/film-reviews", private=True).url
        'https://huggingface.co/me/film-reviews'
    """
    check_repo_id(repo_id)
    if not dry_run:
        token = find_token(token)
    finished = FinishedFolder(Path(folder).expanduser())
    finished.check_finished()
    _, tokenizer = load_model(finished.root)
    paths = list_shared_files(finished, tokenizer.vocab_files_names.values())
    contents = {name: path.read_bytes() for name, path in paths.items()}
    contents |= card_for_repo(finished, repo_id, card_examples)
    check_shareable(finished, contents)

    branch = None if revision == "main" else revision
    api = connect(token)
    url = f"{api.endpoint}/{repo_id}"
    if branch is not None:
        url += f"/tree/{branch}"
    sizes = {name: len(content) for name, content in sorted(contents.items())}
    result = PushResult(repo_id, url, sizes)
    if dry_run:
        return result

    with explain_errors(f"the push to {repo_id} failed"):
        api.create_repo(repo_id, private=private, exist_ok=True)
        if private is not None and bool(api.repo_info(repo_id).private) != private:
            state = "public" if private else "private"
            page = f"{api.endpoint}/{repo_id}/settings"
            raise HubError(f"{repo_id} exists already and is {state}: change that at {page}")
        if branch is not None:
            api.create_branch(repo_id, branch=branch, exist_ok=True)
        additions = [CommitOperationAdd(*file) for file in contents.items()]
        commit = api.create_commit(
            repo_id, additions, commit_message=commit_message, revision=branch
        )
    return replace(result, commit=commit.oid)


def check_repo_id(repo_id: str) -> None:
    """Check that a repo id is `owner/name`."""
    if not REPO_ID.fullmatch(repo_id):
        raise HubError(f"invalid repo id: found {repo_id!r}; give owner/name")


def list_shared_files(
    folder: FinishedFolder, tokenizer_files: Iterable[str] = ()
) -> dict[str, Path]:
    """Return the files of a finished folder that are shared, by their name in the repo.

    The hashes of the training rows are not shared: a hash confirms a text that somebody guesses.
    """
    names = {*_TOKENIZER, *tokenizer_files, *MODELLING_FILES}
    paths = {*folder.named_files(), *folder.weight_files(), *(folder.root / name for name in names)}
    paths.discard(folder.training_rows)
    files = sorted(path for path in paths if path.is_file())
    return {path.relative_to(folder.root).as_posix(): path for path in files}


def check_shareable(folder: FinishedFolder, contents: Mapping[str, bytes]) -> None:
    """Check that text files contain neither secrets nor paths of this machine."""
    lines: dict[str, str] = {}  # by place
    for name, content in contents.items():
        if not name.endswith(_BINARY):
            lines |= _read_lines(name, content)
    leaks = [*_find_patterns(folder, lines), *_find_secrets(lines)]
    if leaks:
        more = f" (and {len(leaks) - 1} more)" if len(leaks) > 1 else ""
        raise HubError(f"{folder.root / leaks[0]}{more}: remove it. Others could read it")


def _read_lines(name: str, content: bytes) -> dict[str, str]:
    """Return the lines of a file by place, of a vocabulary only those that can hold a secret."""
    least = _SHORT if name.startswith(_VOCABULARIES) else 0
    lines = content.decode(errors="replace").splitlines()
    return {f"{name}:{number}": line for number, line in enumerate(lines, 1) if len(line) >= least}


def _find_patterns(folder: FinishedFolder, lines: Mapping[str, str]) -> list[str]:
    """Return the places of tokens, and of the home and the model's folder on this machine."""
    spellings: list[str] = []
    for path in {str(Path.home()), str(folder.root.resolve())} - {"/"}:
        spellings += [re.escape(path), re.escape(json.dumps(path)[1:-1])]
    paths = rf"(?<!\w)({'|'.join(spellings)})(?=[/\\])"
    leaks = [f"{place} has a secret" for place in lines if re.search(_TOKENS, lines[place])]
    leaks += [
        f"{place} has a path of this machine" for place in lines if re.search(paths, lines[place])
    ]
    return leaks


def _find_secrets(lines: Mapping[str, str]) -> list[str]:
    """Return the places of further kinds of secrets, if detect-secrets is installed."""
    try:
        from detect_secrets.core.scan import scan_line
        from detect_secrets.settings import default_settings, transient_settings
    except ImportError:
        logger.warning(
            "only some kinds of secrets were looked for; for more of them, %s", install_hint("push")
        )
        return []
    with default_settings() as settings:
        plugins = [{"name": name} for name in settings.plugins if name not in _GUESSED]
    leaks: list[str] = []
    with transient_settings({"plugins_used": plugins}):
        for place, line in lines.items():
            if any(map(str.isalpha, line)):
                leaks += [f"{place} has a secret ({secret.type})" for secret in scan_line(line)]
    return leaks
