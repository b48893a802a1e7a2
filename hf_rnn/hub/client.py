"""One repo of the Hub, the calls to it, and what to tell when they fail. The only file that speaks to the network.

Where a repo goes and what of it is shared is decided elsewhere.
"""

from __future__ import annotations

import email.utils
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi, constants, get_token
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import parse_ratelimit_headers

from .. import __version__
from ..utils.errors import UserError, reason_of
from .leak_scan import SharedFile

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")

_WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds before each new try, where the Hub does not say how long
_LONGEST_WAIT = 300.0  # seconds: the Hub counts calls in windows of five minutes
_BUSY = (429, 503)  # the call was not carried out
_TRANSIENT = (408, 500, 502, 504, *_BUSY)  # it may have been
# What is worth having of a repo: a finished folder, and the files of other tokenizers.
_PULLED = ("*.json", "*.safetensors", "*.py", "*.md", "*.png", "*.txt", "*.model", "*.jinja")


@dataclass(frozen=True)
class HubRepo:
    """One repo and the calls that a push needs, each repeated where that helps.

    Attributes:
        api: The client, with the token to go by.
        repo_id: `owner/name`; empty where only the user is asked for.
    """

    api: HfApi
    repo_id: str

    @classmethod
    def connect(cls, repo_id: str, token: str | None = None) -> Self:
        """Prepare to call; nothing is sent yet.

        Args:
            repo_id: `owner/name`.
            token: None takes the one that is stored, if any.
        """
        return cls(HfApi(token=token, library_name="hf_rnn", library_version=__version__), repo_id)

    @property
    def url(self) -> str:
        """The repo's page."""
        return f"{self.api.endpoint}/{self.repo_id}"

    @property
    def at_tokens(self) -> str:
        """Where tokens are made and how they are stored, for messages."""
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
        """Make a branch from `main`, unless it is there."""
        self._call(lambda: self.api.create_branch(self.repo_id, branch=revision, exist_ok=True))

    def commit(self, files: tuple[SharedFile, ...], message: str, revision: str | None, create_pr: bool) -> CommitInfo:
        """Send the files. A second try after a lost answer finds them there, and makes no second commit."""

        def send() -> CommitInfo:
            additions = [CommitOperationAdd(file.name, file.content or file.path) for file in files]
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
                    raise UserError(self._without_token(self._explain(cause, once))) from error
                logger.warning("%s: trying again in %.0f s", _reason(cause), wait)
                time.sleep(wait)
        raise AssertionError("the last round returns or raises")

    def _without_token(self, message: str) -> str:
        token = self.api.token or get_token()
        return message.replace(token, "hf_...") if isinstance(token, str) else message

    def _explain(self, error: BaseException, once: bool) -> str:
        """What happened, and what to do."""
        status, reason = _status(error), _reason(error)
        if isinstance(error, OfflineModeIsEnabled):
            return "HF_HUB_OFFLINE keeps this process off the network: unset it to push"
        if status == 401:
            return f"the Hub does not accept the token: get one with write access {self.at_tokens}"
        if status == 403 and not self.repo_id:  # see `find_user`
            return f"the token may not tell whose it is ({reason}): get one with write access {self.at_tokens}"
        if status == 403:
            return f"the token may not write to {self.repo_id} ({reason}): get one that may {self.at_tokens}"
        if status == 404 and self.repo_id:
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


def fetch(repo_id: str, revision: str | None = None, token: str | None = None, only: Sequence[str] = _PULLED) -> Path:
    """Return the folder of the cache that holds a finished folder of the Hub; what is new there is got first.

    It is named after the commit. Where the Hub does not answer it is what was got last time.

    Args:
        repo_id: `owner/name`.
        revision: Branch, tag or commit; None is `main`.
        token: For a private repo; None takes `HF_TOKEN`, or what `hf auth login` stored.
        only: Names or patterns (`*.json`) of the files to get.

    Raises:
        UserError: When it is not there, cannot be reached and is not in the cache either.
    """
    repo = HubRepo.connect(repo_id, token)
    try:
        found = repo.api.snapshot_download(repo_id, revision=revision, allow_patterns=list(only))
    except (OSError, ValueError, RuntimeError, HTTPError) as error:
        reason = repo._without_token(_why_unreadable(error, repo, revision))
        raise UserError(f"there is no folder {repo_id}, nor can it be had from the Hub: {reason}") from error
    return Path(found)


def _why_unreadable(error: BaseException, repo: HubRepo, revision: str | None) -> str:
    """What to tell whoever wanted a repo and got this from the client."""
    causes = list(_causes(error))
    asked = repo.repo_id if revision is None else f"revision {revision!r} of {repo.repo_id}"
    # the client tells of the cache first, where the network is the reason
    answers = (cause for cause in causes if isinstance(cause, HfHubHTTPError))
    answer = next((cause for cause in answers if not isinstance(cause, LocalEntryNotFoundError)), None)
    if answer is None:
        if not any(isinstance(cause, HTTPError | ConnectionError | LocalEntryNotFoundError) for cause in causes):
            return reason_of(error)
        if constants.HF_HUB_OFFLINE:
            return f"HF_HUB_OFFLINE keeps this process off the network, and {asked} is not in the cache: unset it"
        reason = _reason(causes[-1])
        return f"it cannot be reached at {repo.api.endpoint} ({reason}), and {asked} is not in the cache"
    status, reason = _status(answer), _reason(answer)
    if isinstance(answer, RevisionNotFoundError):
        return f"{repo.repo_id} has no revision {revision!r}: look at {repo.url}/tree/main for those it has"
    if isinstance(answer, GatedRepoError):
        return f"{repo.repo_id} is gated: ask for access at {repo.url}, then type: hf auth login"
    if isinstance(answer, RepositoryNotFoundError):
        return (
            f"{repo.repo_id} is not there, or is private and not yours: look at {repo.url}; "
            "to be known there, type: hf auth login"
        )
    if status == 401:
        return f"it does not accept the token: get one {repo.at_tokens}"
    if status in _TRANSIENT:
        return f"it takes no more calls or fails for now ({reason}): try again later"
    return f"it refuses ({reason})"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what led to it, the last first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def find_user(token: str) -> str:
    """Return the name of the user that a token belongs to.

    Raises:
        UserError: When the Hub does not know the token, or cannot be reached.
    """
    hub = HubRepo.connect("", token)
    return str(hub._call(hub.api.whoami)["name"])


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
