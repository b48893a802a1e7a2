"""A finished folder to a repo of the Hub: checked, then sent as one commit. The only file that speaks to the network.

Reading needs nothing of ours: `from_pretrained("owner/name")` does it, and finds again offline what it once got.
"""

from __future__ import annotations

import email.utils
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import parse_ratelimit_headers, validate_repo_id

from . import __version__
from .errors import UserError
from .folder import FinishedFolder
from .inference import load_model
from .sharing import SharedFile, check_shareable, list_left_files, list_shared_files

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")

_WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds before each new try, where the Hub does not say how long
_LONGEST_WAIT = 300.0  # seconds: the Hub counts calls in windows of five minutes
_BUSY = (429, 503)  # the call was not carried out
_TRANSIENT = (408, 500, 502, 504, *_BUSY)  # it may have been


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

    The folder is checked first: that training came to its end, that the model loads here and, as far as files can
    tell, without this package, and that no file holds a pickle, a token, or a path or user of this machine. Only then
    the repo is made, if it is not there. Files of the repo that the folder does not have stay as they are. Calls that
    fail for a reason that may pass are repeated, as late as the Hub asks for.

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
    _check_request(repo_id, revision, create_pr)
    token = (token or get_token() or "").strip() or None
    finished = FinishedFolder(Path(folder))
    finished.check_finished()
    _, tokenizer = load_model(finished.root)
    files = list_shared_files(finished, tokenizer.vocab_files_names.values())
    check_shareable(finished, files, repo_id, token)
    left = list_left_files(finished, files)
    hub = _Hub(HfApi(token=token, library_name="hf_rnn", library_version=__version__), repo_id)
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


def _check_request(repo_id: str, revision: str | None, create_pr: bool) -> None:
    """Find mistakes that need neither folder nor network to be found."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UserError(f"{repo_id!r} is no id of the Hub: {' '.join(str(error).split())}") from error
    if repo_id.count("/") != 1:
        raise UserError(f"{repo_id!r} is no id of the Hub: give owner/name")
    if create_pr and revision not in (None, "main"):
        raise UserError(f"a pull request goes to main: leave out either create_pr or revision {revision!r}")


@dataclass(frozen=True)
class _Hub:
    """One repo and the calls that a push needs, each repeated where that helps."""

    api: HfApi
    repo_id: str

    @property
    def url(self) -> str:
        return f"{self.api.endpoint}/{self.repo_id}"

    @property
    def at_tokens(self) -> str:
        return f"at {self.api.endpoint}/settings/tokens, then type: hf auth login"

    def make_repo(self, private: bool | None) -> None:
        """Make the repo; if it is there already, make sure that as many see it as are meant to."""
        self._call(lambda: self.api.create_repo(self.repo_id, private=private, exist_ok=True))
        if private is None:
            return
        found = bool(self._call(lambda: self.api.model_info(self.repo_id)).private)
        if found != private:
            names = {True: "private", False: "public"}
            raise UserError(
                f"{self.repo_id} is there already and {names[found]}, not {names[private]}: "
                f"change that at {self.url}/settings first, or push without saying so"
            )

    def make_branch(self, revision: str) -> None:
        self._call(lambda: self.api.create_branch(self.repo_id, branch=revision, exist_ok=True))

    def commit(self, files: tuple[SharedFile, ...], message: str, revision: str | None, create_pr: bool) -> CommitInfo:
        """Send the files. A second try after a lost answer finds them there, and makes no second commit."""

        def send() -> CommitInfo:
            additions = [CommitOperationAdd(path_in_repo=file.name, path_or_fileobj=file.path) for file in files]
            return self.api.create_commit(
                self.repo_id, additions, commit_message=message, revision=revision, create_pr=create_pr
            )

        return self._call(send, once=create_pr)

    def _call(self, function: Callable[[], Answer], once: bool = False) -> Answer:
        """Call until it works, or there is no hope that it will.

        Args:
            function: Calls the Hub.
            once: Whether it must not be carried out twice: it is repeated only when the Hub says that it was not.

        Raises:
            UserError: When the Hub refuses, is not there, or fails to the end.
        """
        for planned in (*_WAITS, None):
            try:
                return function()
            except (HTTPError, OSError, RuntimeError, ValueError) as error:
                cause = error.__cause__ if type(error) is RuntimeError and error.__cause__ else error  # of an upload
                if not isinstance(cause, HTTPError | ConnectionError | TimeoutError | ValueError):
                    raise  # not of the network
                wait = None if planned is None else _wait(cause, planned)
                if wait is None or (once and _status(cause) not in _BUSY):
                    raise UserError(self._explain(cause, once).replace(str(self.api.token), "hf_...")) from error
                logger.warning("%s: trying again in %.0f s", _reason(cause), wait)
                time.sleep(wait)
        raise AssertionError("the last round returns or raises")

    def _explain(self, error: BaseException, once: bool) -> str:
        """What happened, and what to do."""
        status, reason = _status(error), _reason(error)
        if isinstance(error, OfflineModeIsEnabled):
            return "HF_HUB_OFFLINE keeps this process off the network: unset it to push"
        if status == 401:
            return f"the Hub does not accept the token: get one with write access {self.at_tokens}"
        if status == 403:
            return f"the token may not write to {self.repo_id} ({reason}): get one that may {self.at_tokens}"
        if status == 404:
            return f"{self.repo_id} is not there, or the token may not see it ({reason}): look at {self.url}"
        if status in (409, 412):
            return f"{self.repo_id} was changed by somebody else at the same time ({reason}): push again"
        if once and (status is None or status in _TRANSIENT):
            return f"the answer got lost ({reason}): look at {self.url}/discussions before you push again"
        if status == 429:
            return f"the Hub takes no more calls for now ({reason}): push again later"
        if status is not None and status >= 500:
            return f"the Hub fails ({reason}): push again later"
        if status is not None or isinstance(error, ValueError):
            return f"the Hub refuses: {reason}"
        if "xet" in reason:
            return f"the Hub's storage fails ({reason}): set HF_HUB_DISABLE_XET=1 to do without it, and push again"
        return f"the Hub cannot be reached at {self.api.endpoint} ({reason}): look at the connection and push again"


def _wait(error: BaseException, planned: float) -> float | None:
    """Seconds until the next try: what the Hub asks for, else as planned; None when there is no use in one."""
    if isinstance(error, OfflineModeIsEnabled):
        return None
    if not isinstance(error, HfHubHTTPError):
        # a connection that failed, or a page that is none of the Hub's
        passing = isinstance(error, HTTPError | ConnectionError | TimeoutError | json.JSONDecodeError)
        return planned if passing else None
    if _status(error) not in _TRANSIENT:
        return None
    headers = error.response.headers
    limit, asked = parse_ratelimit_headers(headers), headers.get("Retry-After", "").strip()
    if asked.isdigit():
        wait = float(asked)
    elif date := email.utils.parsedate_tz(asked):
        wait = max(email.utils.mktime_tz(date) - time.time(), planned)
    elif limit is not None and limit.remaining == 0:
        wait = float(limit.reset_in_seconds)
    else:
        wait = planned
    return wait if wait <= _LONGEST_WAIT else None


def _status(error: BaseException) -> int | None:
    return error.response.status_code if isinstance(error, HfHubHTTPError) else None


def _reason(error: BaseException) -> str:
    """The Hub's own words on one line, or those of the exception."""
    words = " ".join(str(getattr(error, "server_message", None) or error).split()) or type(error).__name__
    status = _status(error)
    return words if status is None or str(status) in words else f"{status}: {words}"
