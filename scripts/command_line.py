"""What the scripts' command lines have in common: one line on stderr and exit code 2 for a mistake, 130 for a stop."""

import argparse
import errno
import os
import re
import signal
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NoReturn

SAMPLE = Path(__file__).parents[1] / "data" / "tweets"  # what most scripts read where no --data_dir is given

# What hints of the loader name; `hf-rnn train` has them all.
_OF_THE_LOADER = "header|text_column|label_column|class_names|dataset_name|max_bad_rows"


class Parser(argparse.ArgumentParser):
    """Says of a mistake why, without the usage before it, and shows its description as it is written.

    Args:
        description: Of the script.
        more: As for `argparse.ArgumentParser`.
    """

    def __init__(self, description: str | None, **more: Any) -> None:
        super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter, **more)

    def error(self, message: str) -> NoReturn:
        """Tell why in one line, and leave."""
        self.exit(2, f"{self.prog}: error: {' '.join(message.splitlines())}\n")

    def add_max_bad_rows(self) -> None:
        """Declare `--max_bad_rows`, for the loader."""
        self.add_argument(
            "--max_bad_rows", default="0", help="go on without so many: a count, or a share such as 0.1%%"
        )

    def check_writable(self, *paths: Path | None) -> None:
        """Refuse a file that cannot be written, before what is to stand in it is measured; None is no file."""
        for path in filter(None, paths):
            if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
                self.error(f"{path} is no file that can be written")

    def refuse(self, why: str | Exception, others: Collection[str] = ()) -> NoReturn:
        """Tell what the package says of the data; where that names flags which this script lacks, say so.

        Args:
            why: What it says.
            others: Flags of this script that mean something else.
        """
        message = str(why)
        named = dict.fromkeys(re.findall(rf"--(?:{_OF_THE_LOADER})\b", message))
        if lacking := [flag for flag in named if flag in others or flag not in self._option_string_actions]:
            message += f" ({self.prog} has no {', '.join(lacking)}: its rows are text<TAB>label, without a header)"
        self.error(message)


def run(main: Callable[[], int | None], stopped: str = "stopped") -> None:
    """Run a script, and leave with its exit code if it gives one.

    Ctrl-C and SIGTERM end it with one line, a pipe that nobody reads with none; what it keeps in temporary folders is
    removed.

    Args:
        main: The script.
        stopped: That line.
    """
    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _stop)
    try:
        code = main()
        sys.stdout.flush()
    except OSError as error:  # whoever read our output has left; Windows has another name for it
        if not isinstance(error, BrokenPipeError) and (os.name != "nt" or error.errno != errno.EINVAL):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141  # as a shell has it
    except KeyboardInterrupt as stop:
        print(stopped, file=sys.stderr)
        code = getattr(stop, "exit_code", 130)  # what a shell reports for a process ended by that signal
    if code:
        sys.exit(code)


def _stop(number: int, frame: Any) -> NoReturn:
    stop = KeyboardInterrupt()
    stop.exit_code = 128 + number  # type: ignore[attr-defined]
    raise stop
