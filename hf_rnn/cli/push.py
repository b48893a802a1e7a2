"""`hf-rnn push`: send a finished folder to the Hub; print its files and its URL."""

from __future__ import annotations

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
    """Check a folder, send its files, and print them and the URL."""
    flags: PushArguments = FLAGS.build(argv)
    FinishedFolder(Path(flags.model)).check_finished()
    from ..hub import model_folder
    from ..hub.push import push

    model_folder.quiet()
    result = push(
        flags.model,
        flags.repo_id,
        private=flags.private or None,  # or the owner's default
        revision=flags.revision,
        card_examples=flags.card_examples,
        dry_run=flags.dry_run,
    )
    sizes = result.files
    for name, size in [*sizes.items(), (f"{len(sizes)} files", sum(sizes.values()))]:
        print(f"{name:32}{size:12,} bytes")
    if flags.dry_run:
        print_note("dry run: nothing was sent")
    print(result.url)
