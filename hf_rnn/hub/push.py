"""A finished folder to a repo of the Hub: checked, then sent as one commit.

Reading needs nothing of ours: `from_pretrained("owner/name")` does it, and finds again offline what it once got.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..utils.errors import UserError, reason_of
from .card.files import card_for_repo
from .client import HubRepo
from .leak_scan import SharedFile, check_shareable, list_left_files, list_shared_files
from .loading import load_model
from .model_folder import FinishedFolder


@dataclass(frozen=True)
class PushResult:
    """What a push did, or would do.

    Attributes:
        repo_id: `owner/name`.
        url: Page of what was pushed: the repo, its branch, or the pull request.
        files: What the commit holds, unchanged files included.
        left: What lies in the folder and was not sent; folders end with `/`.
        commit: Its hash; None after a dry run.
    """

    repo_id: str
    url: str
    files: tuple[SharedFile, ...]
    left: tuple[str, ...]
    commit: str | None = None


def push(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    dry_run: bool = False,
    token: str | None = None,
    commit_message: str = "Upload a recurrent text classifier",
) -> PushResult:
    """Share a finished folder on the Hub, in one commit.

    The folder is checked first: training is complete, the model loads here and, as far as files can tell, without
    this package, and no file holds a pickle, a token, a private key or a path of this machine. Then the repo is
    created if it does not exist. Files of the repo that the folder does not have stay as they are. Calls that
    fail for a reason that may pass are repeated, as late as the Hub asks for. In the repo the card names the repo
    where the folder's own names the folder, unless somebody has written in it.

    Args:
        folder: What training left.
        repo_id: `owner/name`.
        private: Whether only its owner sees the repo. None takes the owner's default for a new one, and leaves an old
            one as it is.
        revision: The branch to commit to; made from `main` if it is not there. None is `main`.
        create_pr: Propose the commit as a pull request to `main` instead.
        dry_run: Only check; nothing is sent and no token is needed.
        token: A token with write access. None takes `HF_TOKEN`, or what `hf auth login` stored.
        commit_message: The commit's first line.

    Raises:
        UserError: When the folder cannot be shared, the Hub refuses, or cannot be reached.

    Example:
        >>> push("out", "me/film-reviews", private=True).url
        'https://huggingface.co/me/film-reviews'
    """
    check_request(repo_id, revision, create_pr)
    token = find_token(token)
    finished = FinishedFolder(Path(os.path.expanduser(folder)))
    finished.check_finished()
    _, tokenizer = load_model(finished.root)
    files = list_shared_files(finished, tokenizer.vocab_files_names.values())
    check_shareable(finished, files, token)
    files = _with_card(files, card_for_repo(finished, repo_id))
    left = list_left_files(finished, files)
    hub = HubRepo.connect(repo_id, token)
    branch = f"/tree/{revision}" if revision not in (None, "main") else ""
    if dry_run:
        return PushResult(repo_id, hub.url + branch, files, left)
    if token is None:
        raise UserError(f"there is no token to push with: get one with write access {hub.at_tokens}")
    hub.make_repo(private)
    if revision not in (None, "main") and not revision.startswith("refs/"):
        hub.make_branch(revision)
    commit = hub.commit(files, commit_message, revision, create_pr)
    return PushResult(repo_id, commit.pr_url or hub.url + branch, files, left, commit.oid)


def _with_card(files: tuple[SharedFile, ...], card: Mapping[str, bytes]) -> tuple[SharedFile, ...]:
    """Return the files, those of the card with the contents given."""
    return tuple(
        replace(file, size=len(card[file.name]), content=card[file.name]) if file.name in card else file
        for file in files
    )


def find_token(token: str | None = None) -> str | None:
    """Return the token to go by: the one given, else `HF_TOKEN`, or what `hf auth login` stored; None without any."""
    return (token or get_token() or "").strip() or None


def check_request(repo_id: str, revision: str | None, create_pr: bool) -> None:
    """Find mistakes that need neither folder nor network to be found.

    Raises:
        UserError: For what is no id of a repo, and for a pull request to a branch.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UserError(f"{repo_id!r} is no id of the Hub: {reason_of(error)}") from error
    if repo_id.count("/") != 1:
        raise UserError(f"{repo_id!r} is no id of the Hub: give owner/name")
    if create_pr and revision not in (None, "main"):
        raise UserError(f"a pull request goes to main: leave out either create_pr or revision {revision!r}")
