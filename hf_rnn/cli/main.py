"""`hf-rnn VERB`: finds the verb, and turns a user's mistake into one line on stderr and exit code 2.

Nothing heavy is imported before the verb is known, so that `hf-rnn --help` answers at once.
"""

from __future__ import annotations

import difflib
import errno
import importlib
import io
import logging
import os
import sys
from collections.abc import Sequence
from typing import TextIO

from .. import __version__
from ..utils.errors import UserError
from .console import tell, without_controls

# verb: module of this package, and what it does
_VERBS = {
    "train": "train a classifier from TSV files",
    "evaluate": "measure a trained model on a split",
    "predict": "label texts with a trained model",
    "inspect": "show what a model does to one text, stage by stage",
    "audit": "look for leaks, duplicates and conflicting labels in data",
    "push": "share a trained model on the Hub",
    "export": "write a trained model for ONNX Runtime",
    "distill": "train a classifier from a teacher's answers",
    "demo": "try a trained model on a page in your browser",
}

_USAGE = "usage: hf-rnn [--help] [--version] VERB [flags]"

_INTERRUPTED, _BROKEN_PIPE = 130, 141  # what a shell reports for a process ended by these signals


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Arguments without the program's name; those of the process by default.

    Returns:
        The exit code: 0, or what the verb gives in its place; 2 after a user's mistake, 130 after Ctrl-C.
    """
    if sys.stderr is None:  # closed: what is printed there would come among the results
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - until the end
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = f"hf-rnn {arguments[0]}" if arguments and arguments[0] in _VERBS else "hf-rnn"
    try:
        code = _answer(arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except UserError as error:
        return _complain(command, error)
    except OSError as error:  # no permission, no space, no such file: the machine's, not ours
        _give_up(sys.stdout)
        if isinstance(error, BrokenPipeError) or (os.name == "nt" and error.errno == errno.EINVAL):
            return _BROKEN_PIPE  # whoever read our output has left; Windows has another name for it
        return _complain(command, error)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except SystemExit as error:  # argparse leaves after --help
        if error.code is None or isinstance(error.code, int):
            return error.code or 0
        print(error.code, file=sys.stderr)  # as Python does
        return 1
    finally:
        _give_up(sys.stderr)


def _answer(arguments: list[str]) -> int:
    """Run a verb, or tell what there is."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help(), file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"hf-rnn {__version__}")
        return 0
    verb = arguments[0]
    if verb not in _VERBS:
        near = difflib.get_close_matches(verb, _VERBS, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"There are {', '.join(_VERBS)}."
        raise UserError(f"there is no verb {verb!r}. {hint}")
    _log_to_stderr()
    try:
        os.getcwd()
    except OSError as error:  # libraries ask for it while they are imported, and name nothing
        raise UserError("the folder that this runs in is gone: go to one that is there, then repeat it") from error
    if sys.stdout is None:
        raise UserError("standard output is closed: redirect it to a file, or to /dev/null")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")  # results are JSON and texts, whatever the locale
    from .. import register

    try:
        register()
    except ImportError as error:  # such as an old transformers, which the message names
        raise UserError(str(error)) from error
    return importlib.import_module(f".{verb}", __package__).run(arguments[1:]) or 0


def _help() -> str:
    width = max(map(len, _VERBS)) + 2
    verbs = "\n".join(f"  {verb:<{width}}{meaning}" for verb, meaning in _VERBS.items())
    return (
        f"{_USAGE}\n\nRecurrent text classifiers: trained from TSV files, loaded with transformers.\n\n"
        f"verbs:\n{verbs}\n\nhf-rnn VERB --help lists a verb's flags."
    )


def _complain(command: str, error: Exception) -> int:
    tell(f"{command}: error: {' '.join(str(error).splitlines())}")
    return 2


def _give_up(stream: TextIO | None) -> None:
    """Where what stands in its buffer cannot be written, let the interpreter's last try go nowhere."""
    if stream is None:
        return
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class _Stderr(logging.StreamHandler):
    """Writes to what `sys.stderr` is at the time."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)

    def format(self, record: logging.LogRecord) -> str:
        return without_controls(super().format(record))


def _log_to_stderr() -> None:
    """Show what our own modules tell, of several processes the first's; other libraries keep their own settings."""
    logger = logging.getLogger("hf_rnn")
    if not any(isinstance(handler, _Stderr) for handler in logger.handlers):
        logger.addHandler(_Stderr())
        logger.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.ERROR)


if __name__ == "__main__":
    sys.exit(main())
