"""The calls to the Hub, with the client's own retries and words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalEntryNotFoundError

from .. import __version__
from ..utils.errors import UserError, reason_of

# The files that are read: weights, settings and tokenizers, no code, card or pictures.
_PULLED = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")


def connect(token: str | None = None) -> HfApi:
    """Return a client; None takes `HF_TOKEN` or the stored token, if any. Nothing is sent yet."""
    return HfApi(token=token, library_name="hf_rnn", library_version=__version__)


def find_token(token: str | None = None) -> str:
    """Return `token`, else `HF_TOKEN`, or the token stored by `hf auth login`; a [`UserError`] without any."""
    if not (token := (token or get_token() or "").strip()):
        raise UserError(
            "there is no token to push with: get one with write access, then type: hf auth login"
        )
    return token


def fetch(
    repo_id: str,
    revision: str | None = None,
    token: str | None = None,
    only: Sequence[str] = _PULLED,
) -> Path:
    """Download a finished folder and return its folder in the cache, which is named after the commit.

    Without a connection it is the folder of the last download. `revision` None is `main`, and
    `only` has names or patterns of files.
    """
    with explain_errors(f"there is no folder {repo_id}, and the Hub cannot provide it"):
        return Path(
            connect(token).snapshot_download(repo_id, revision=revision, allow_patterns=list(only))
        )


@contextmanager
def explain_errors(action: str) -> Iterator[None]:
    """Turn an error of the client into a `UserError` in one line that starts with the failed `action`."""
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError, RuntimeError, HTTPError) as error:
        answer: BaseException | None = error
        # the client reports the missing cache before the answer of the Hub
        while answer and (
            not isinstance(answer, HfHubHTTPError) or isinstance(answer, LocalEntryNotFoundError)
        ):
            answer = answer.__cause__ or answer.__context__
        refused = isinstance(answer, HfHubHTTPError) and answer.response.status_code in (401, 403)
        advice = "; for another token type: hf auth login" if refused else ""
        raise UserError(
            f"{action} ({constants.ENDPOINT}): {reason_of(answer or error)}{advice}"
        ) from error
