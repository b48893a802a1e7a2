"""The exception for a user's mistakes, and parts of its messages."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "."  # for pip: the clone; its name once it is on the index


class UserError(ValueError):
    """A mistake in data, flags, paths or files that the user can correct.

    The message says what was found, where, and what to do. The command line prints it in one line and exits with 2;
    any other exception is a bug and keeps its traceback.
    """


def is_write_error(error: Exception) -> bool:
    """Return whether a library raised this because a file could not be written; tokenizers raises a bare Exception."""
    from safetensors import SafetensorError  # not at import: a service with ONNX Runtime has no safetensors

    return isinstance(error, OSError | SafetensorError) or type(error) is Exception


def reason_of(error: BaseException) -> str:
    """Return the message of a library's error in one line, or the error's type if the message is empty."""
    return " ".join(str(error).split()) or type(error).__name__


@contextlib.contextmanager
def name_errors(path: str | Path, kind: type[Exception] = Exception) -> Iterator[None]:
    """Raise a [`UserError`] that names a file for any error in reading or writing it, as libraries raise any."""
    try:
        yield
    except kind as error:
        if isinstance(error, UserError) and str(path) in str(error):
            raise
        raise UserError(f"{path}: {reason_of(error):.300}") from error


def install_hint(extra: str) -> str:
    """Return the command that installs the package with an extra."""
    return f"pip install '{PACKAGE}[{extra}]'"
