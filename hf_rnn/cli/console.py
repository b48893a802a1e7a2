"""Shared by the verbs: the flags that name a model, and output for a terminal."""

from __future__ import annotations

import io
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ..data import Location
from ..hub.model_folder import FinishedFolder, check_name, find_built_in
from ..models.settings_rnn import setting

INTERRUPTED = 130  # exit code after Ctrl-C, as a shell reports it

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # except tab and line feed


@dataclass
class ModelFlags:
    """Flags that name a model. A subclass has the other flags of a verb."""

    group: ClassVar[str] = "flags"  # in the help

    model: Location = setting("", "finished folder, or id on the Hub")
    revision: str | None = setting(None, "branch, tag or commit of an id on the Hub")

    def check_model(self) -> None:
        """Raise a [`ModelError`] for a missing or incomplete folder, before a heavy import."""
        path = Path(self.model)
        if find_built_in(self.model) is None:
            check_name(str(path), "a trained model")
            if path.is_dir():
                FinishedFolder(path).check()


def print_note(line: str) -> None:
    """Print a line on stderr, with control characters escaped, which a terminal would execute."""
    print(
        _CONTROLS.sub(lambda control: ascii(control.group())[1:-1], line),
        file=sys.stderr,
        flush=True,
    )


class StandardOutput(io.RawIOBase):
    """The standard output as a file, for content in pieces; see [`write_out`]."""

    def writable(self) -> bool:
        """Return that it takes content."""
        return True

    def write(self, content: Any) -> int:
        """Write all of the content."""
        write_out(content)
        return len(content)


def write_out(content: bytes) -> None:
    """Write to the standard output, at once: an interrupted output ends with a whole line.

    Raises:
        OSError: When it cannot be written; it names the output.
    """
    try:
        rest = memoryview(content)
        while rest:  # without buffers, a part may be written
            rest = rest[sys.stdout.buffer.write(rest) :]
        sys.stdout.buffer.flush()
    except OSError as error:
        raise type(error)(error.errno, error.strerror, "standard output") from error
