"""`hf-rnn push`: send a finished folder to the Hub; print its files and its URL."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..data import Location
from ..hub.model_folder import FinishedFolder
from ..models.settings_rnn import setting
from ..settings.flags import Flags
from .console import ModelFlags, print_note


@dataclass
class PushArguments(ModelFlags):
    """Flags of this verb."""

    model: Location = setting("", "finished folder")
    repo_id: str = setting("", "repo on the Hub: owner/name")
    private: bool = setting(False, "make a new repo visible to its owner only")
    revision: str | None = setting(None, "branch to commit to (default: main)")
    card_examples: bool = setting(False, "send the texts that the card shows")
    dry_run: bool = setting(False, "check and list the files, send nothing")


_MEANING = (
    "Send a finished folder to the Hub in one commit, after a check for secrets and local paths."
)
FLAGS = Flags(
    "push", PushArguments, _MEANING, "my-model me/tweets --private", ("model", "repo_id"), 2
)


def run(argv: Sequence[str]) -> None:
    """Check a folder, print its files, send them, and print the URL."""
    arguments: PushArguments = FLAGS.build(argv)
    FinishedFolder(Path(arguments.model)).check_finished()
    from ..hub import model_folder
    from ..hub.client import find_token
    from ..hub.push import push

    if not arguments.dry_run:
        find_token()  # before the checks, which take seconds

    model_folder.quiet()
    # or the owner's default
    settings = dataclasses.asdict(arguments) | {"private": arguments.private or None}
    folder, repo_id = settings.pop("model"), settings.pop("repo_id")
    plan = push(folder, repo_id, **{**settings, "dry_run": True})
    sizes = {**plan.files, f"{len(plan.files)} files": sum(plan.files.values())}
    print("\n".join(f"{name:32}{size:12,} bytes" for name, size in sizes.items()), flush=True)
    if arguments.dry_run:
        print_note("dry run: nothing was sent")
    print((plan if arguments.dry_run else push(folder, repo_id, **settings)).url)
