"""The exceptions for a user's mistakes, parts of their messages, and checks of texts.

    UserError
        SettingError    a flag, a keyword or an entry of a recipe
        DataError       a file or a row of texts
        ModelError      the folder of a model
        HubError        an answer of the Hub

[`explain`] makes one of them of a library's error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from typing import Any, TypeVar

Values = TypeVar("Values")

PACKAGE = "."  # for pip: the clone; its name once it is on the index
NO_TEXT = "no text"  # why an empty or blank cell or line has no answer, as training rejects it


class UserError(ValueError):
    """A mistake in data, flags, paths or files that the user can correct.

    The message says what was found, where, and what to do. The command line prints it in one line
    and exits with 2; any other exception is a bug and keeps its traceback.
    """


class SettingError(UserError):
    """A flag, keyword or entry of a recipe that is unknown, out of range or against another."""


class DataError(UserError):
    """Unusable data.

    Attributes:
        path: The file, or the name of a data set.
        reason: A [`~hf_rnn.data.errors.Reason`], or empty.
        line: The line or row of the file, as of [`~hf_rnn.data.errors.BadRow`]; None for a whole
            file.
    """

    def __init__(
        self, message: str, path: str = "", reason: str = "", line: int | None = None
    ) -> None:
        super().__init__(message)
        self.path = path
        self.reason = reason
        self.line = line


class ModelError(UserError):
    """The folder of a model that is missing, incomplete or damaged, or that a verb cannot use."""


class HubError(UserError):
    """The Hub is out of reach, or refuses a repo or a token."""


@contextmanager
def explain(
    problem: str,
    error_type: Callable[[str], UserError] = ModelError,
    expected: tuple[type[BaseException], ...] = (BaseException,),
    reason: Callable[[BaseException], str] | None = None,
) -> Iterator[None]:
    """Raise the errors of a library inside a `with` block as one of this package, in one line.

    Args:
        problem: The start of the message: what could not be done with what.
        error_type: The error to raise, or a function that makes it of the message.
        expected: The errors of the library. By default any, as damaged files make libraries raise
            anything, such as a panic of Rust.
        reason: Returns the rest of the message; by default the library's message.

    Raises:
        UserError: One of `error_type`. An error of this package passes as it is.

    Example:
        >>> with explain(f"{name} cannot be loaded, because of its tokenizer", ModelError):
        ...     tokenizer = AutoTokenizer.from_pretrained(folder)
    """
    try:
        yield
    except (UserError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except expected as error:
        cause = (reason or reason_of)(error)
        raise error_type(f"{problem}: {cause:.1000}") from error


def is_write_error(error: Exception) -> bool:
    """Return whether a library raised this because a file could not be written."""
    # not at import: a service with ONNX Runtime has no safetensors
    from safetensors import SafetensorError

    is_bare = type(error) is Exception  # as tokenizers raises
    return is_bare or isinstance(error, OSError | SafetensorError)


def reason_of(error: BaseException) -> str:
    """Return the message of a library's error in one line, or its type if the message is empty."""
    return " ".join(str(error).split()) or type(error).__name__


def install_hint(extra: str) -> str:
    """Return the command that installs the package with an extra."""
    return f"pip install '{PACKAGE}[{extra}]'"


# ---- texts ----


def find_text_fault(text: object) -> str:
    """Return why something is not a str of valid Unicode, or an empty string."""
    if not isinstance(text, str):
        return f"is not a str: found {text!r:.80}; give '' for an empty text"
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:  # for example from a terminal with another encoding
            return f"is not UTF-8 at character {error.start}: found {text!r:.80}"
    return ""


def find_text_error(text: object) -> str:
    """Return why a cell or line has no answer, such as [`NO_TEXT`]; an empty string for a text."""
    is_nan = type(text).__name__ == "NAType" or text != text
    if text is None or is_nan or (isinstance(text, str) and not text.strip()):
        return NO_TEXT
    fault = find_text_fault(text)
    return fault and f"not a text: it {fault}"


def check_text(text: str) -> None:
    """Raise a [`UserError`] for a text that is not a str of valid Unicode."""
    fault = find_text_fault(text)
    if fault:
        raise DataError(f"the text {fault}")


def check_texts(texts: Iterable[object], where: str = "texts", first: int = 0) -> None:
    """Raise a [`UserError`] for the first invalid text, with its position from `first` on."""
    for position, text in enumerate(texts, first):
        fault = find_text_fault(text)
        if fault:
            raise DataError(f"{where}[{position}] {fault}")


def list_texts(texts: Iterable[str]) -> list[str]:
    """Return texts as a list; refuse other things than a list of valid texts, by position."""
    if isinstance(texts, str | bytes):
        raise DataError("texts must be a list of str, found one text: put it into a list, [text]")
    if isinstance(texts, Mapping | Set) or getattr(texts, "ndim", 1) != 1:
        found = f"found a {type(texts).__name__}"
        raise DataError(f"texts must be a list of str, {found}: give its texts as a list")
    listed = texts if type(texts) is list else list(out_of_arrow(texts))
    check_texts(listed)
    return listed


def out_of_arrow(values: Values) -> Values | list[Any]:
    """Return a column of Arrow as a list of Python objects; return anything else unchanged."""
    return values.to_pylist() if hasattr(values, "to_pylist") else values
