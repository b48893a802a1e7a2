"""`hf-rnn VERB`: run a verb, and report a user's mistake in one line on stderr with exit code 2.

Nothing heavy is imported before the verb is known: `hf-rnn --help` is fast.
"""

from __future__ import annotations

import atexit
import difflib
import gc
import importlib
import io
import logging
import os
import sys
from collections.abc import Sequence

from .. import __version__
from ..utils.errors import UserError
from .console import INTERRUPTED, print_note

_VERBS = {
    "train": "train a classifier, tagger or language model from your texts",
    "evaluate": "measure a trained model on a split",
    "predict": "label texts with a trained model",
    "audit": "look for leaks, duplicates and conflicting labels in data",
    "push": "share a trained model on the Hub",
    "export": "write a trained model for ONNX Runtime",
    "distill": "train a classifier from a teacher's answers",
    "pretrain": "teach an encoder the states of another one, as a start for training",
    "demo": "try a trained model on a page in your browser",
}

_HELP = """\
usage: hf-rnn [--help] [--version] VERB [flags]

Recurrent networks for texts, as models of transformers.

verbs:
{}

hf-rnn VERB --help shows an example and the common flags, --help_all all of them.
Start with: hf-rnn train tickets.csv, a table of texts and labels"""

_BROKEN_PIPE = 141  # as a shell reports this signal


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with `argv`, by default the arguments of the process, and return the exit code.

    It is 0, or the verb's own; 2 after a user's mistake, 130 after Ctrl-C, 141 for a closed output.
    """
    # torch and transformers make a million objects that stay: do not search them for garbage
    if argv is None:
        gc.set_threshold(50_000)
        atexit.register(gc.freeze)
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = f"hf-rnn {arguments[0]}" if arguments and arguments[0] in _VERBS else "hf-rnn"
    try:
        try:
            code = _run(arguments)
        except SystemExit as leaving:  # after the help of a verb, and after a stopped training
            code = int(leaving.code or 0)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return INTERRUPTED
    except (UserError, OSError) as error:  # OSError: a full disk, a missing permission
        # discard the output: the interpreter's flush at exit would fail again
        if isinstance(error, OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return _BROKEN_PIPE
        print_note(f"{command}: error: {' '.join(str(error).splitlines())}")
        return 2


def _run(arguments: list[str]) -> int:
    """Run a verb, or print the help."""
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:2], "--help"]
    if not arguments or arguments[0] in ("-h", "--help", "--help_all"):
        verbs = "\n".join(f"  {verb:<10}{meaning}" for verb, meaning in _VERBS.items())
        print(_HELP.format(verbs), file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    if (verb := arguments[0]) == "--version":
        print(f"hf-rnn {__version__}")
        return 0
    if verb not in _VERBS:
        near = difflib.get_close_matches(verb, [*_VERBS, "--help", "--version"], n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"Take one of {', '.join(_VERBS)}"
        raise UserError(f"there is no verb {verb!r}. {hint}")
    logger = logging.getLogger("hf_rnn")
    # only the log of this package, and of several processes that of the first
    if not logger.handlers:
        logger.addHandler(logging.StreamHandler())
        logger.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.ERROR)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")  # in any locale
    return importlib.import_module(f".{verb}", __package__).run(arguments[1:]) or 0


if __name__ == "__main__":
    sys.exit(main())
