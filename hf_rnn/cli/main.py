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
from ..utils.errors import SettingError, UserError
from .console import INTERRUPTED, print_note

_VERBS = {
    "label": "label texts on a page in your browser, then train",
    "train": "train a classifier, tagger or language model from your texts",
    "evaluate": "measure a trained model on a split",
    "predict": "label texts with a trained model",
    "audit": "look for leaks, repeats, conflicting and wrong labels in data",
    "compare": "find out whether new texts differ from old ones",
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
    """Run the command with `argv`, by default the arguments of the process; return the exit code.

    It is 0, or the verb's own; 2 after a user's mistake, 130 after Ctrl-C, 141 for a closed output.
    """
    if argv is None:
        argv = sys.argv[1:]
        # torch and transformers make a million objects that stay: do not search them for garbage
        gc.set_threshold(50_000)
        atexit.register(gc.freeze)
    words = list(argv)
    try:
        code = _run(words)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _discard_output()
        return _BROKEN_PIPE
    except OSError as error:  # a full disk, a missing permission
        _discard_output()
        return _report(words, error)
    except UserError as error:
        return _report(words, error)


def _run(words: list[str]) -> int:
    """Run a verb, or print the help; return the exit code."""
    if words[:1] == ["help"]:
        words = [*words[1:2], "--help"]
    if not words or words[0] in ("-h", "--help", "--help_all"):
        verbs = "\n".join(f"  {verb:<10}{meaning}" for verb, meaning in _VERBS.items())
        print(_HELP.format(verbs), file=sys.stdout if words else sys.stderr)
        return 0 if words else 2
    verb = words[0]
    if verb == "--version":
        print(f"hf-rnn {__version__}")
        return 0
    _check_verb(verb)
    _set_up_output()
    try:
        code = importlib.import_module(f".{verb}", __package__).run(words[1:])
    except SystemExit as leaving:  # after the help of a verb, and after a stopped training
        code = leaving.code
    return int(code or 0)


def _check_verb(verb: str) -> None:
    """Raise a [`UserError`] for a verb that does not exist."""
    if verb in _VERBS:
        return
    near = difflib.get_close_matches(verb, [*_VERBS, "--help", "--version"], n=1)
    hint = f"Did you mean {near[0]!r}?" if near else f"Take one of {', '.join(_VERBS)}"
    raise SettingError(f"there is no verb {verb!r}. {hint}")


def _set_up_output() -> None:
    """Show the log of this package, with several processes the first one's; write UTF-8 always."""
    logger = logging.getLogger("hf_rnn")
    if not logger.handlers:
        logger.addHandler(logging.StreamHandler())
        logger.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.ERROR)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")


def _discard_output() -> None:
    """Discard what is left of the output: the interpreter's flush at exit would fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _report(words: Sequence[str], error: Exception) -> int:
    """Print a mistake in one line, and return its exit code."""
    command = "hf-rnn"
    if words and words[0] in _VERBS:
        command = f"hf-rnn {words[0]}"
    print_note(f"{command}: error: {' '.join(str(error).splitlines())}")
    return 2


if __name__ == "__main__":
    sys.exit(main())
