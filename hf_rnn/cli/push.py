"""`hf-rnn push`: a finished folder to the Hub; prints what goes and, last, the page where it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..hub import loading as model_loading
from ..hub.push import PushResult, push
from ..training.arguments.parser import SettingsParser
from ..utils.errors import UserError
from .console import tell, without_controls


@dataclass
class PushArguments:
    """Flags of this verb."""

    model: str | None = field(default=None, metadata={"help": "finished folder"})
    repo_id: str | None = field(default=None, metadata={"help": "where it goes on the Hub: owner/name"})
    private: bool = field(default=False, metadata={"help": "a new repo is seen by its owner only"})
    revision: str | None = field(default=None, metadata={"help": "branch to commit to; main if not given"})
    create_pr: bool = field(default=False, metadata={"help": "propose it as a pull request"})
    dry_run: bool = field(default=False, metadata={"help": "check and list the files, send nothing"})


def run(argv: Sequence[str]) -> None:
    """Check a folder, print its files, send them, and print the URL.

    Raises:
        UserError: For a mistake in flags or folder, and when the Hub refuses or cannot be reached.
    """
    (arguments,) = SettingsParser(PushArguments, prog="hf-rnn push").parse(argv)
    if arguments.model is None:
        raise UserError("--model is missing: give a finished folder")
    if arguments.repo_id is None:
        raise UserError("--repo_id is missing: give owner/name")
    model_loading.quiet()
    private = arguments.private or None  # without the flag, whatever a new repo of this owner is
    settings = {"private": private, "revision": arguments.revision, "create_pr": arguments.create_pr}
    planned = push(arguments.model, arguments.repo_id, **settings, dry_run=True)
    print(without_controls(_tell(planned)), flush=True)
    if arguments.dry_run:
        tell("dry run: nothing was sent")
        print(planned.url)
    else:
        print(push(arguments.model, arguments.repo_id, **settings).url)


def _tell(planned: PushResult) -> str:
    """One line a file, and one on what stays."""
    sizes = [(file.name, f"{file.size:,}") for file in planned.files]
    sizes.append((f"{len(sizes)} files", f"{sum(file.size for file in planned.files):,} bytes"))
    name, size = (max(len(row[column]) for row in sizes) for column in (0, 1))
    unit = len(" bytes")
    lines = [f"{row[0]:<{name}}  {row[1]:>{size - unit}}" for row in sizes[:-1]]
    lines.append(f"{sizes[-1][0]:<{name}}  {sizes[-1][1]:>{size}}")
    if planned.left:
        lines.append(f"not sent: {', '.join(planned.left)}")
    return "\n".join(lines)
