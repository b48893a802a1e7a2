"""Command lines of the scripts: a mistake is one line and exit code 2, Ctrl-C is one line and exit code 130."""

import argparse
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

SAMPLE = Path(__file__).parents[2] / "data" / "tweets"


class Parser(argparse.ArgumentParser):
    """Parser that shows a script's docstring as it is written and reports a mistake in one line."""

    def __init__(self, description: str | None, **options: Any) -> None:
        super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def error(self, message: str) -> NoReturn:
        """Print the message on one line and exit with code 2."""
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}\n")

    def add_data_dir(self, **options: Any) -> None:
        """Declare `--data_dir` and `--max_bad_rows`."""
        self.add_argument("--data_dir", type=Path, help="folder with train.tsv and dev.tsv", **options)
        self.add_argument("--max_bad_rows", default="0", help="bad rows to skip: a count, or a share such as 0.1%%")


def positive(text: str) -> int:
    """Read a whole number of at least 1."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, found {text}")
    return int(text)


def run(main: Callable[[], int | None], stopped: str = "stopped") -> None:
    """Run a script and exit with the code it returns.

    Args:
        main: The script.
        stopped: Message after Ctrl-C or SIGTERM.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        print(stopped, file=sys.stderr)
        code = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more
        code = 141
    except (OSError, ValueError) as error:
        from hf_rnn.utils.errors import UserError

        if not isinstance(error, OSError | UserError):
            raise
        print(f"{Path(sys.argv[0]).name}: error: {' '.join(str(error).split())}", file=sys.stderr)
        code = 2
    sys.exit(code)
