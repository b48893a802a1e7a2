"""The one exception that stands for a user's mistake, and what other libraries' say in its message.

Everything that a user can put right (a bad row, a typo in a flag, a folder that is not a model) raises this or a
subclass with a message that says what was found, where, and what to do. The command line prints the message in one
line and exits with 2; anything else is a bug of ours and keeps its traceback.
"""

from safetensors import SafetensorError


class UserError(ValueError):
    """A mistake in what the user gave: data, flags, paths or files."""


def is_write_error(error: Exception) -> bool:
    """Return whether a library raised this because a file could not be written; tokenizers raises a bare Exception."""
    return isinstance(error, OSError | SafetensorError) or type(error) is Exception


def reason_of(error: BaseException) -> str:
    """Return what an error of a library says, in one line, and of which kind it is where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__
