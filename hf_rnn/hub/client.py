"""The calls to the Hub and the messages of their failures. The client repeats its own calls where that helps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import (
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from .. import __version__
from ..utils.errors import UserError, reason_of

# The files worth a download: a finished folder, and the files of other tokenizers.
_PULLED = ("*.json", "*.safetensors", "*.py", "*.md", "*.png", "*.txt", "*.model", "*.jinja")


def connect(token: str | None = None) -> HfApi:
    """Return a client; None takes the stored token, if any. Nothing is sent yet."""
    return HfApi(token=token, library_name="hf_rnn", library_version=__version__)


def token_advice() -> str:
    """Return for a message how to get a token with write access."""
    return f"get one with write access at {constants.ENDPOINT}/settings/tokens, then type: hf auth login"


def fetch(repo_id: str, revision: str | None = None, token: str | None = None, only: Sequence[str] = _PULLED) -> Path:
    """Download a finished folder and return its folder in the cache, which is named after the commit.

    Without a connection it is the folder of the last download. `revision` None is `main`, `token` None takes
    `HF_TOKEN` or the stored one, and `only` has names or patterns of files.
    """
    with explain_errors(f"there is no folder {repo_id}, and the Hub cannot provide it", repo_id, revision):
        return Path(connect(token).snapshot_download(repo_id, revision=revision, allow_patterns=list(only)))


def find_user(token: str) -> str:
    """Return the name of the user that a token belongs to."""
    with explain_errors("the Hub cannot check the token"):
        return str(connect(token).whoami()["name"])


@contextmanager
def explain_errors(action: str, repo_id: str = "", revision: str | None = None) -> Iterator[None]:
    """Turn an error of the client into a `UserError` that starts with the failed `action` and has a remedy."""
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError, RuntimeError, HTTPError) as error:
        raise UserError(f"{action}: {_explain(error, repo_id, revision)}") from error


def _explain(error: BaseException, repo_id: str, revision: str | None) -> str:
    causes = list(_causes(error))
    # the client reports the missing cache before the cause of a failed download
    answers = (cause for cause in causes if isinstance(cause, HfHubHTTPError))
    answer = next((cause for cause in answers if not isinstance(cause, LocalEntryNotFoundError)), None)
    url = f"{constants.ENDPOINT}/{repo_id}"
    if answer is None:
        offline = isinstance(causes[-1], HTTPError | ConnectionError | LocalEntryNotFoundError)
        if offline and constants.HF_HUB_OFFLINE:
            return "HF_HUB_OFFLINE=1 blocks the network, and the cache does not have it; unset it"
        if offline:
            return f"{constants.ENDPOINT} cannot be reached ({reason_of(causes[-1])}); check the connection"
        return reason_of(error)
    status = answer.response.status_code
    reason = f"{status}: {reason_of(UserError(answer.server_message or answer))}"
    if isinstance(answer, RevisionNotFoundError):
        return f"{repo_id} has no revision {revision!r}; see {url}/tree/main"
    if isinstance(answer, RepositoryNotFoundError):
        return f"{repo_id} does not exist, or is private or gated; see {url}, or type: hf auth login"
    if status in (401, 403):
        return f"the token does not allow this ({reason}); {token_advice()}"
    return f"the Hub refuses ({reason}); try again later"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its causes, the last one first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
