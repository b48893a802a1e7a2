"""What the scripts' command lines have in common: one line on stderr and exit code 2 for a mistake, 130 for a stop."""

import argparse
import contextlib
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

    Ctrl-C and SIGTERM end it with one line, a pipe that nobody reads with none, what the machine refuses (no space, no
    permission) with one line and 2; what it keeps in temporary folders is removed.

    Args:
        main: The script.
        stopped: That line.
    """
    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _stop)
    if sys.stderr is None:  # closed: what is printed there would come among the results
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - until the end
    name = Path(sys.argv[0]).name
    if sys.stdout is None:  # not found out after hours of measuring
        print(f"{name}: error: standard output is closed: redirect it to a file, or to /dev/null", file=sys.stderr)
        sys.exit(2)
    try:
        code = main()
        sys.stdout.flush()
    except OSError as error:  # the machine's, not ours
        _give_up_output()
        if isinstance(error, BrokenPipeError) or (os.name == "nt" and error.errno == errno.EINVAL):
            code = 141  # whoever read our output has left, as a shell has it; Windows has another name for it
        else:
            with contextlib.suppress(OSError):  # the exit code tells, where stderr goes to a disk that is full
                print(f"{name}: error: {' '.join(str(error).splitlines())}", file=sys.stderr, flush=True)
            code = 2
    except KeyboardInterrupt as stop:
        print(stopped, file=sys.stderr)
        code = getattr(stop, "exit_code", 130)  # what a shell reports for a process ended by that signal
    if code:
        sys.exit(code)


def _give_up_output() -> None:
    """Where what stands in the buffer cannot be written, let the interpreter's last try go nowhere."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _stop(number: int, frame: Any) -> NoReturn:
    stop = KeyboardInterrupt()
    stop.exit_code = 128 + number  # type: ignore[attr-defined]
    raise stop
