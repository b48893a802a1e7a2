"""The calls to the Hub, with the client's own retries and words."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalEntryNotFoundError

from .. import __version__
from ..utils.errors import HubError, explain, reason_of

# The files that are read: weights, settings and tokenizers, no code, card or pictures.
_PULLED = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")


def connect(token: str | None = None) -> HfApi:
    """Return a client; None takes `HF_TOKEN` or the stored token, if any. Nothing is sent yet."""
    return HfApi(token=token, library_name="hf_rnn", library_version=__version__)


def find_token(token: str | None = None) -> str:
    """Return `token`, else `HF_TOKEN`, or the token stored by `hf auth login`.

    Raises:
        HubError: Without any.
    """
    found = (token or get_token() or "").strip()
    if not found:
        raise HubError(
            "there is no token to push with: get one with write access, then type: hf auth login"
        )
    return found


def fetch(
    repo_id: str,
    revision: str | None = None,
    token: str | None = None,
    only: Sequence[str] = _PULLED,
) -> Path:
    """Download a finished folder; return its place in the cache, named after the commit.

    Without a connection it is the folder of the last download. `revision` None is `main`, and
    `only` has names or patterns of files.
    """
    with explain_errors(f"there is no folder {repo_id}, and the Hub cannot provide it"):
        folder = connect(token).snapshot_download(
            repo_id, revision=revision, allow_patterns=list(only)
        )
        return Path(folder)


def explain_errors(action: str) -> AbstractContextManager[None]:
    """Turn an error of the client into a [`HubError`] that starts with the failed `action`."""
    expected = (OSError, ValueError, RuntimeError, HTTPError)
    return explain(f"{action} ({constants.ENDPOINT})", HubError, expected, _find_reason)


def _find_reason(error: BaseException) -> str:
    """Return the Hub's answer, if there is one: the client reports the missing cache before it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, HfHubHTTPError) and not isinstance(cause, LocalEntryNotFoundError):
            reason = reason_of(cause)
            if cause.response.status_code in (401, 403):
                reason += "; for another token type: hf auth login"
            return reason
        cause = cause.__cause__ or cause.__context__
    return reason_of(error)
