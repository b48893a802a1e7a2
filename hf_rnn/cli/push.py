"""`hf-rnn push`: send a finished folder to the Hub; print its files and its URL. `--space` sends a web page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..hub.model_folder import FinishedFolder
from ..training.arguments.parser import SettingsParser, setting
from .console import format_columns, print_note

if TYPE_CHECKING:
    from ..hub.push import PushResult


@dataclass
class PushArguments:
    """Flags of this verb."""

    model: str = setting("", "finished folder", required=True)
    repo_id: str = setting("", "repo on the Hub: owner/name", required="space")
    space: str | None = setting(None, "owner/name of a static Space for web/, the page of export --web")
    private: bool = setting(False, "make a new repo visible to its owner only")
    revision: str | None = setting(None, "branch to commit to (default: main)")
    card_examples: bool = setting(True, "send the texts that the card shows")
    allow_contacts: bool = setting(False, "send e-mail addresses and phone numbers too")
    dry_run: bool = setting(False, "check and list the files, send nothing")


def run(argv: Sequence[str]) -> None:
    """Check a folder, print its files, send them, and print the URL."""
    (arguments,) = SettingsParser(
        PushArguments,
        prog="hf-rnn push",
        description="Send a finished folder to the Hub in one commit, after a check for secrets and local paths.",
        example="my-model me/tweets --private",
    ).parse(argv)
    FinishedFolder(Path(arguments.model).expanduser()).check_finished()
    from ..hub import loading as model_loading
    from ..hub.push import push

    model_loading.quiet()
    names = ("revision", "card_examples", "allow_contacts")
    settings: dict[str, Any] = {name: getattr(arguments, name) for name in names}
    settings["private"] = arguments.private or None  # without the flag, the default of the owner
    pushes: list[Callable[..., PushResult]] = []
    if arguments.repo_id:
        pushes.append(partial(push, arguments.model, arguments.repo_id, **settings))
    if arguments.space is not None:
        settings |= {"space": True, "model_id": arguments.repo_id or None}
        pushes.append(partial(push, arguments.model, arguments.space, **settings))
    for planned in [send(dry_run=True) for send in pushes]:  # all checks before anything is sent
        rows = [(file.name, f"{file.size:,} bytes") for file in planned.files]
        rows.append((f"{len(rows)} files", f"{sum(file.size for file in planned.files):,} bytes"))
        print(format_columns(rows, right=[1]), flush=True)
        if arguments.dry_run:
            print_note("dry run: nothing was sent")
            print(planned.url)
    if not arguments.dry_run:
        for send in pushes:
            print(send().url, flush=True)
