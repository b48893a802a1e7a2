"""`push_to_hub` as part of a training run: found out before it whether it can work, done once at its end."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from ..hub.client import HubRepo, find_user
from ..hub.push import PushResult, check_request, find_token, push
from ..utils.errors import UserError
from .arguments.training_arguments import RnnTrainingArguments


@dataclass(frozen=True)
class Destination:
    """Where a finished folder goes.

    Attributes:
        repo_id: `owner/name`.
        private: See [`push`].
        revision: See [`push`].
        token: See [`push`].
    """

    repo_id: str
    private: bool | None
    revision: str | None
    token: str


def find_destination(arguments: RnnTrainingArguments) -> Destination | None:
    """Return where a run is to be pushed, None when it is not.

    The settings are those of transformers: `push_to_hub`, `hub_model_id` (by default the name of `output_dir`, and
    the user's own), `hub_private_repo`, `hub_revision` and `hub_token`. What is pushed is the finished folder, in one
    commit at the end; checkpoints stay here whatever `hub_strategy` says.

    Raises:
        UserError: When there is no token or the Hub refuses it, or the name is none of a repo.
    """
    if not arguments.push_to_hub:
        return None
    name = arguments.hub_model_id or Path(str(arguments.output_dir)).resolve().name
    token = find_token(arguments.hub_token)
    if token is None:
        raise UserError(f"push_to_hub: there is no token to push with: get one {HubRepo.connect(name).at_tokens}")
    user = find_user(token)  # asked for in any case: a token that is refused is better known now
    repo_id = name if "/" in name else f"{user}/{name}"
    check_request(repo_id, arguments.hub_revision, create_pr=False)
    return Destination(repo_id, arguments.hub_private_repo, arguments.hub_revision, token)


def push_run(folder: Path, destination: Destination) -> PushResult:
    """Push what a run left.

    Raises:
        UserError: When it cannot be pushed; the message says how to try again without training.
    """
    try:
        return push(
            folder,
            destination.repo_id,
            private=destination.private,
            revision=destination.revision,
            token=destination.token,
        )
    except UserError as error:
        again = ["hf-rnn", "push", "--model", str(folder), "--repo_id", destination.repo_id]
        again += ["--private"] if destination.private else []
        again += [] if destination.revision is None else ["--revision", destination.revision]
        raise UserError(
            f"the finished model is in {folder}, but {error}. To push it later: {shlex.join(again)}"
        ) from error
