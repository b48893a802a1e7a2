"""Check a finished folder and send it to a repo of the Hub as one commit.

Other files are never sent. A pushed file can be read for good, so a secret or a path of this machine stops the push.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import CommitOperationAdd, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers.dynamic_module_utils import get_relative_import_files

from ..utils.errors import UserError, install_hint, reason_of
from .card import card_for_repo
from .client import connect, explain_errors, token_advice
from .model_folder import FinishedFolder, load_model, read_mapping

logger = logging.getLogger(__name__)

_TOKENIZER = ("special_tokens_map.json", "added_tokens.json", "chat_template.jinja")
_BINARY = (".safetensors", ".png", ".onnx", ".model")
# Tokens of Hugging Face, OpenAI, Anthropic, GitHub and Google that detect-secrets 1.5.0 does not know.
_TOKENS = rb"(?i)(?<![a-z0-9])(hf_[a-z0-9]{30,}|sk-[\w-]{32,}|gh[opsur]_[a-z0-9]{36}|github_pat_\w{22,}|AIza[\w-]{35})"
_LINE_END = b"\n"
_METADATA = 100_000  # bytes at either end of a binary file, where its texts are
_KEY = 20  # characters of a key of AWS, the shortest secret of a vocabulary; most words have fewer
_VOCABULARIES = ("tokenizer", "vocab", "added_tokens", "special_tokens")  # beginnings of the names of their files
_WHOLE = r"(?<![a-z0-9])(?:%s)(?![a-z0-9])"
_LONG_WORD = re.compile(r'(?=[^"\s]*\d)[^"\s]{20,}')  # with a digit, as secrets have
_GUESSED = ("Base64HighEntropyString", "HexHighEntropyString", "IPPublicDetector")  # they find hashes and versions


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
    commit_message: str = "Upload a recurrent text classifier",
) -> PushResult:
    """Share a finished folder on the Hub, in one commit.

    The folder is checked first: training is complete, the model loads, and no file contains a secret or a path of this
    machine. The repo is created if it does not exist; its other files stay unchanged. In the repo the card names the
    repo in place of the folder, unless the card was edited by hand.

    Args:
        folder: The output folder of a training.
        repo_id: `owner/name`.
        private: Whether a new repo is private. None takes the owner's default, and leaves an existing repo unchanged.
        revision: The branch to commit to; created from `main` if missing. None is `main`.
        card_examples: Whether the card keeps its texts of the training data, if it has any.
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
    _, tokenizer = load_model(finished.root, allow_encoder=True)
    paths = list_shared_files(finished, tokenizer.vocab_files_names.values())
    contents = {name: path.read_bytes() for name, path in paths.items()}
    contents |= card_for_repo(finished, repo_id, card_examples)
    check_shareable(finished, contents, token)
    api, branch = connect(token), None if revision == "main" else revision
    page = f"{api.endpoint}/{repo_id}"
    sizes = {name: len(content) for name, content in sorted(contents.items())}
    plan = PushResult(repo_id, page + (f"/tree/{branch}" if branch else ""), sizes)
    if dry_run:
        return plan
    if token is None:
        raise UserError(f"there is no token to push with: {token_advice()}")
    with explain_errors(f"the push to {repo_id} failed"):
        api.create_repo(repo_id, private=private, exist_ok=True)
        if private is not None and bool(api.repo_info(repo_id).private) != private:
            state, target = ("public", "private") if private else ("private", "public")
            raise UserError(
                f"{repo_id} exists already and is {state}, not {target}: change that at "
                f"{page}/settings, or push without private={private}"
            )
        if branch and not branch.startswith("refs/"):
            api.create_branch(repo_id, branch=branch, exist_ok=True)
        additions = [CommitOperationAdd(name, content) for name, content in contents.items()]
        commit = api.create_commit(repo_id, additions, commit_message=commit_message, revision=branch)
    return replace(plan, commit=commit.oid)


def find_token(token: str | None = None) -> str | None:
    """Return `token`, else `HF_TOKEN`, or the token stored by `hf auth login`; None without any."""
    return (token or get_token() or "").strip() or None


def check_repo_id(repo_id: str) -> None:
    """Check that a repo id is `owner/name`."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UserError(f"invalid repo id: found {repo_id!r}; {reason_of(error)}") from error
    if repo_id.count("/") != 1:
        raise UserError(f"invalid repo id: found {repo_id!r}; give owner/name")


def list_shared_files(folder: FinishedFolder, tokenizer_files: Iterable[str] = ()) -> dict[str, Path]:
    """Return the files of a finished folder and its tokenizer that are shared, by their name in the repo.

    The hashes of the training rows are not shared: a hash confirms a text that somebody guesses.
    """
    names = {*_TOKENIZER, *tokenizer_files, *_modelling_files(folder)}
    paths = {*folder.named_files(), *folder.weight_files(), *(folder.root / name for name in names)}
    paths.discard(folder.training_rows)
    return {path.relative_to(folder.root).as_posix(): path for path in sorted(paths) if path.is_file()}


def check_shareable(folder: FinishedFolder, contents: Mapping[str, bytes], token: str | None = None) -> None:
    """Check that files contain neither secrets nor paths of this machine."""
    leaks = [*_find_patterns(contents, folder.root, token), *_find_secrets(contents)]
    if leaks:
        (place, kind), more = leaks[0], f" (and {len(leaks) - 1} more)" if len(leaks) > 1 else ""
        raise UserError(f"{folder.root / place} has {kind}{more}: remove it. Others could read it")


def _modelling_files(folder: FinishedFolder) -> set[str]:
    """Return the files that load the model without this package."""
    targets = (read_mapping(folder.config, folder.config.read_bytes()).get("auto_map") or {}).values()
    names = {f"{target.split('.')[0]}.py" for target in targets}
    return names | {Path(file).name for name in names for file in get_relative_import_files(str(folder.root / name))}


def _find_patterns(contents: Mapping[str, bytes], root: Path, token: str | None) -> Iterator[tuple[str, str]]:
    """Yield the place and the kind of paths below the home or the folder, of tokens, and of `token`."""
    folders = {str(Path.home()), str(root.resolve())} - {"/"}
    written = {os.fsencode(form) for path in folders for form in (path, json.dumps(path)[1:-1])}
    patterns = {"a path of this machine": rb"(?<!\w)(?:%s)(?=[/\\])" % b"|".join(map(re.escape, written))}
    patterns |= {"a secret": _TOKENS} | ({"your token": re.escape(token.encode())} if token else {})
    for name, content in contents.items():
        is_binary = name.endswith(_BINARY)
        read = content[:_METADATA] + content[-_METADATA:] if is_binary else content
        for what, pattern in patterns.items():
            for match in re.finditer(pattern, read):
                yield name if is_binary else f"{name}:{read.count(_LINE_END, 0, match.start()) + 1}", what


def _find_secrets(contents: Mapping[str, bytes]) -> Iterator[tuple[str, str]]:
    """Yield the place and the kind of each secret that detect-secrets finds in text files.

    In the files of the tokenizer, whose words may be lowercased, its patterns match in any case.
    """
    try:
        from detect_secrets.core.scan import get_plugins, scan_line
        from detect_secrets.settings import default_settings, transient_settings
    except ImportError:
        logger.warning("only some kinds of secrets were looked for; for more of them, %s", install_hint("push"))
        return
    with default_settings() as settings:
        plugins = [{"name": name} for name in settings.plugins if name not in _GUESSED]
    with transient_settings({"plugins_used": plugins}):
        forms = [(kind.secret_type, form) for kind in get_plugins() for form in getattr(kind, "denylist", ())]
        patterns = [(kind, re.compile(_WHOLE % form.pattern, form.flags | re.IGNORECASE)) for kind, form in forms]
        for name, content in contents.items():
            lines = [] if name.endswith(_BINARY) else content.decode(errors="replace").splitlines()
            has_words = name.startswith(_VOCABULARIES)
            for number, line in enumerate(lines, 1):
                for word in _LONG_WORD.findall(line) if has_words else ():
                    for kind in (kind for kind, pattern in patterns if pattern.search(word)):
                        yield f"{name}:{number}", f"a secret ({kind})"
                is_scanned = len(line) >= _KEY if has_words else any(map(str.isalpha, line))
                for secret in scan_line(line) if is_scanned else ():
                    yield f"{name}:{number}", f"a secret ({secret.type})"
