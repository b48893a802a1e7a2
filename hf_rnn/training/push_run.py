"""`push_to_hub` as part of a training run: checked before the training, pushed once at its end."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from ..hub.client import find_user, token_advice
from ..hub.push import PushResult, check_request, find_token, push
from ..utils.errors import UserError
from .arguments.training_arguments import RnnTrainingArguments


@dataclass(frozen=True)
class Destination:
    """The target of a finished folder; see [`push`] for all but the resolved `repo_id`, `owner/name`."""

    repo_id: str
    private: bool | None
    revision: str | None
    token: str


def find_destination(arguments: RnnTrainingArguments) -> Destination | None:
    """Return the target of a run's push, or None without `push_to_hub`.

    The settings are those of transformers: `push_to_hub`, `hub_model_id` (by default the name of `output_dir`, and
    the user's own), `hub_private_repo`, `hub_revision` and `hub_token`. The finished folder is pushed in one commit at
    the end; checkpoints are not pushed, whatever `hub_strategy` is.

    Raises:
        UserError: Without a token, for a token that the Hub refuses, and for an invalid repo id.
    """
    if not arguments.push_to_hub:
        return None
    name = arguments.hub_model_id or Path(str(arguments.output_dir)).resolve().name
    token = find_token(arguments.hub_token)
    if token is None:
        raise UserError(f"push_to_hub: there is no token to push with: {token_advice()}")
    user = find_user(token)  # also with a full name, because it finds a refused token before the training
    repo_id = name if "/" in name else f"{user}/{name}"
    check_request(repo_id, arguments.hub_revision, create_pr=False)
    return Destination(repo_id, arguments.hub_private_repo, arguments.hub_revision, token)


def push_run(folder: Path, destination: Destination) -> PushResult:
    """Push the finished folder of a run.

    Raises:
        UserError: If it cannot be pushed; the message contains the command that pushes it later.
    """
    private, revision = destination.private, destination.revision
    try:
        return push(folder, destination.repo_id, private=private, revision=revision, token=destination.token)
    except UserError as error:
        again = ["hf-rnn", "push", "--model", str(folder), "--repo_id", destination.repo_id]
        again += ["--private"] if private else []
        again += [] if revision is None else ["--revision", revision]
        raise UserError(
            f"the finished model is in {folder}, but {error}. To push it later: {shlex.join(again)}"
        ) from error
