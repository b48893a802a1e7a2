"""`hf-rnn push`: send a finished folder to the Hub; print its files and, last, its page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..training.arguments.parser import SettingsParser, setting
from .console import escape_controls, format_columns, print_note


@dataclass
class PushArguments:
    """Flags of this verb."""

    model: str = setting("", "finished folder", required=True)
    repo_id: str = setting("", "repo on the Hub: owner/name", required=True)
    private: bool = setting(False, "make a new repo visible to its owner only")
    revision: str | None = setting(None, "branch to commit to (default: main)")
    create_pr: bool = setting(False, "open a pull request")
    dry_run: bool = setting(False, "check and list the files, send nothing")


def run(argv: Sequence[str]) -> None:
    """Check a folder, print its files, send them, and print the URL."""
    (arguments,) = SettingsParser(
        PushArguments,
        prog="hf-rnn push",
        description="Send a finished folder to the Hub in one commit, after a check for secrets and local paths.",
        example="my-model me/tweets --private",
    ).parse(argv)
    from ..hub import loading as model_loading
    from ..hub.push import push

    model_loading.quiet()
    private = arguments.private or None  # without the flag, the default of the owner
    settings = {"private": private, "revision": arguments.revision, "create_pr": arguments.create_pr}
    planned = push(arguments.model, arguments.repo_id, **settings, dry_run=True)
    rows = [(file.name, f"{file.size:,} bytes") for file in planned.files]
    rows.append((f"{len(rows)} files", f"{sum(file.size for file in planned.files):,} bytes"))
    print(format_columns(rows, right=[1]), flush=True)
    if planned.left:
        print(escape_controls(f"not sent: {', '.join(planned.left)}"), flush=True)
    if arguments.dry_run:
        print_note("dry run: nothing was sent")
        print(planned.url)
    else:
        print(push(arguments.model, arguments.repo_id, **settings).url)
