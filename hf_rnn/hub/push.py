"""Check a finished folder and send it to a repo of the Hub as one commit."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import CommitOperationAdd, ModelCardData, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..utils.errors import UserError, reason_of
from .card.files import card_for_repo
from .client import connect, explain_errors, token_advice
from .leak_scan import SharedFile, check_shareable, list_shared_files
from .loading import load_model
from .model_folder import FinishedFolder


@dataclass(frozen=True)
class PushResult:
    """The result of a push, or the plan of a dry run."""

    repo_id: str
    url: str  # page of the repo, its branch, or the pull request
    files: tuple[SharedFile, ...]  # those of the commit, unchanged ones included
    commit: str | None = None  # its hash; None after a dry run


def push(
    folder: str | Path,
    repo_id: str,
    *,
    space: bool = False,
    model_id: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    card_examples: bool = True,
    allow_contacts: bool = False,
    dry_run: bool = False,
    token: str | None = None,
    commit_message: str = "Upload a recurrent text classifier",
) -> PushResult:
    """Share a finished folder, or its web page, on the Hub, in one commit.

    The folder is checked first: training is complete, the model loads here and, as far as files show, without this
    package, and no file contains a secret, an e-mail address, a phone number or a path of this machine. The repo is
    created if it does not exist; its other files stay unchanged. In the repo the card names the repo in place of the
    folder, unless the card was edited by hand.

    Args:
        folder: The output folder of a training.
        repo_id: `owner/name`.
        space: Share `web/`, the page of `hf-rnn export --web`, as a static Space.
        model_id: Repo of the model, which the card of the Space names.
        private: Whether a new repo is private. None takes the owner's default, and leaves an existing repo unchanged.
        revision: The branch to commit to; created from `main` if missing. None is `main`.
        create_pr: Propose the commit as a pull request to `main` instead.
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
    check_request(repo_id, revision, create_pr)
    token = find_token(token)
    finished = FinishedFolder(Path(os.path.expanduser(folder)))
    finished.check_finished()
    model, tokenizer = load_model(finished.root, allow_encoder=True)
    files = list_shared_files(finished, tokenizer.vocab_files_names.values())
    card = card_for_repo(finished, repo_id, card_examples) if not space else {}
    files = tuple(
        replace(file, size=len(card[file.name]), content=card[file.name]) if file.name in card else file
        for file in files
    )
    check_shareable(finished, files, model.config, token, allow_contacts)
    if space:
        files = _list_page(finished, model_id)
    kind = "space" if space else "model"
    api, branch = connect(token), None if revision == "main" else revision
    page = f"{api.endpoint}/{'spaces/' if space else ''}{repo_id}"
    plan = PushResult(repo_id, page + (f"/tree/{branch}" if branch else ""), files)
    if dry_run:
        return plan
    if token is None:
        raise UserError(f"there is no token to push with: {token_advice()}")
    with explain_errors(f"the push to {repo_id} failed", repo_id, branch):
        sdk = "static" if space else None
        api.create_repo(repo_id, repo_type=kind, space_sdk=sdk, private=private, exist_ok=True)
        if private is not None and bool(api.repo_info(repo_id, repo_type=kind).private) != private:
            found, wanted = ("public", "private") if private else ("private", "public")
            raise UserError(
                f"{repo_id} exists already and is {found}, not {wanted}: change that at "
                f"{page}/settings, or push without private={private}"
            )
        if branch and not branch.startswith("refs/"):
            api.create_branch(repo_id, repo_type=kind, branch=branch, exist_ok=True)
        additions = [CommitOperationAdd(file.name, file.content or file.path) for file in files]
        commit = api.create_commit(
            repo_id,
            additions,
            repo_type=kind,
            commit_message=commit_message,
            revision=branch,
            create_pr=create_pr,
        )
    return replace(plan, url=commit.pr_url or plan.url, commit=commit.oid)


def _list_page(folder: FinishedFolder, model_id: str | None) -> tuple[SharedFile, ...]:
    """Return the files of a static Space: the exported page, and a card that names the model."""
    if not (folder.web / "index.html").is_file():
        raise UserError(f"{folder.root} has no web/: make it with hf-rnn export --model {folder.root} --web")
    title = folder.root.resolve().name
    data = ModelCardData(title=title, sdk="static", app_file="index.html", models=[model_id] if model_id else None)
    about = "A recurrent text classifier that runs in the visitor's browser: texts are not sent to a server."
    card = f"---\n{data.to_yaml()}\n---\n\n# {title}\n\n{about}\n".encode()
    files = [SharedFile(folder.card, folder.card.name, len(card), card)]
    files += [SharedFile(path, path.name, path.stat().st_size) for path in sorted(folder.web.iterdir())]
    return tuple(files)


def find_token(token: str | None = None) -> str | None:
    """Return the given token, else `HF_TOKEN`, or the one stored by `hf auth login`; None without any."""
    return (token or get_token() or "").strip() or None


def check_request(repo_id: str, revision: str | None, create_pr: bool) -> None:
    """Check what needs neither folder nor network: the repo id, and that a pull request goes to `main`."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UserError(f"invalid repo id: found {repo_id!r}; {reason_of(error)}") from error
    if repo_id.count("/") != 1:
        raise UserError(f"invalid repo id: found {repo_id!r}; give owner/name")
    if create_pr and revision not in (None, "main"):
        raise UserError(f"a pull request goes to main: leave out either create_pr or revision {revision!r}")
