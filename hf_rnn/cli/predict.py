"""`hf-rnn predict`: texts in, one JSON line each out, in the order of the texts and as soon as they are known.

Input is read in blocks of what has arrived, so that a person at a terminal gets an answer a line and a file of any
size never lies in memory as a whole. Whenever this ends, all that it wrote is whole lines.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from ..data import DataError
from ..data.line_reader import read_texts
from ..data.row_errors import EXCERPT_CHARACTERS, BadRow, Fault, Reason
from ..data.text_checks import check_text
from ..hub import loading as model_loading
from ..inference import FastRnn
from ..inference.fused import TABLE_DTYPES, TableDtype
from ..inference.onnx.runtime import OnnxClassifier
from ..training.arguments.parser import SettingsHelp, SettingsParser, expand_home
from ..utils.errors import UserError
from .console import tell
from .model_flags import ModelFlags

_BACKENDS = ("torch", "onnx", "onnx_int8")

# A pipe takes so many bytes at once or none of them, whatever signal comes; POSIX promises 512, Linux 4096.
_WHOLE_WRITE = 4096 if sys.platform == "linux" else 512

_EPILOG = """\
A line of the input ends at LF or CRLF; an empty one is a text too. Each has its answer in its place:
  {"label": ..., "score": ...}
  {"error": {"line": 3, "reason": "not UTF-8", "detail": ...}}
for a line that is not UTF-8, holds a NUL, or is longer than 1 MiB ("line over the cap"), and where the model gives NaN
or infinity ("score not finite").

exit code:
  0  every text has an answer
  1  the input was read to its end, and some of its lines were refused; stderr says how many
  2  it could not go on: a mistake in flags, model or input, or with --strict the first refused line;
     the lines before are answered
  130, 143, 141  Ctrl-C, SIGTERM, or whoever read the output has left; what was written is whole lines
"""


class _Help(SettingsHelp, argparse.RawDescriptionHelpFormatter):
    """Tells defaults, as of all verbs, and keeps the lines of the epilogue."""


@dataclass
class PredictArguments(ModelFlags):
    """Flags of this verb."""

    input: str | None = field(default=None, metadata={"help": "file with one text a line; - reads what is piped in"})
    backend: str = field(
        default="torch", metadata={"help": "torch, or a file that export made: onnx or onnx_int8, in ONNX Runtime"}
    )
    table_dtype: str = field(
        default="float32",
        metadata={"help": "of what torch looks up: float32, exact, or bfloat16 or int8, smaller and rounded"},
    )
    device: str = field(
        default="cpu",
        metadata={"help": "where torch runs: cpu, with tables that make it fast, or the plain model on cuda, mps ..."},
    )
    strict: bool = field(default=False, metadata={"help": "stop at the first line that is refused"})
    tokens_per_batch: int | None = field(
        default=None,
        metadata={"help": "about how many tokens run at once; unset, 8192, or with torch more for narrow models"},
    )


def run(argv: Sequence[str]) -> int:
    """Print `{"label": ..., "score": ...}` for each text, and `{"error": ...}` for each line that is none.

    Returns:
        The exit code: 0, or 1 when lines were refused.

    Raises:
        UserError: For a mistake in flags or model, for input that is no UTF-8 text at all, and with `--strict` for a
            line that is refused; earlier lines are answered by then.
    """
    parser = SettingsParser(PredictArguments, prog="hf-rnn predict", epilog=_EPILOG, formatter_class=_Help)
    parser.add_argument("--text", action="append", help="a text; may be given several times")
    arguments, namespace = parser.parse(argv)
    expand_home(arguments, "input")
    _check(arguments, namespace.text)
    model_loading.quiet()
    classifier = _load(arguments)
    lines = refused = 0
    for block in _read(arguments.input) if namespace.text is None else [namespace.text]:
        answers = _answer(classifier, block, arguments.input or "--text", lines + 1)
        bad = next((row for row in answers if isinstance(row, BadRow)), None) if arguments.strict else None
        _write(map(_record, answers[: answers.index(bad)] if bad else answers))
        if bad is not None:
            raise DataError.for_row(bad, "Without --strict this line gets an error record and the others are answered")
        lines += len(block)
        refused += sum(isinstance(row, BadRow) for row in answers)
    if refused:
        tell(f"hf-rnn predict: {refused} of {lines} lines were refused: see their error records")
    return 1 if refused else 0


def _check(arguments: PredictArguments, texts: Sequence[str] | None) -> None:
    """Find mistakes that need no model to be found."""
    arguments.model_name()
    if (texts is None) == (arguments.input is None):
        raise UserError("give either --text (several times if you like) or --input FILE (- for what is piped in)")
    if arguments.strict and texts is not None:
        raise UserError("--strict is for the lines of --input: leave it out with --text")
    if arguments.backend not in _BACKENDS:
        raise UserError(f"--backend must be one of {', '.join(_BACKENDS)}, found {arguments.backend!r}")
    if arguments.table_dtype not in TABLE_DTYPES:
        raise UserError(f"--table_dtype must be one of {', '.join(TABLE_DTYPES)}, found {arguments.table_dtype!r}")
    if arguments.table_dtype != "float32" and arguments.backend != "torch":
        raise UserError(f"--table_dtype is for --backend torch: leave it out with {arguments.backend}")
    if arguments.device != "cpu":
        if arguments.backend != "torch":
            raise UserError(f"--device is for --backend torch: leave it out with {arguments.backend}")
        if arguments.table_dtype != "float32":
            raise UserError(f"--table_dtype {arguments.table_dtype} is for a CPU: leave it or --device out")
    if arguments.tokens_per_batch is not None and arguments.tokens_per_batch < 1:
        raise UserError(f"--tokens_per_batch must be at least 1, found {arguments.tokens_per_batch}")
    if arguments.input == "-" and sys.stdin is None:
        raise UserError("standard input is closed: pipe texts in, or give a file")
    if arguments.input == "":
        raise UserError("--input is empty: give a file with one text a line, or - for what is piped in")
    if arguments.input not in (None, "-"):
        if Path(arguments.input).is_dir():
            raise UserError(f"{arguments.input} is a folder: give a file with one text a line")
        if not Path(arguments.input).exists():  # a named pipe is as good as a file
            raise UserError(
                f"there is no file {arguments.input}: give one with one text a line, or - for what is piped in"
            )
    for text in texts or ():
        check_text(text)


def _load(arguments: PredictArguments) -> FastRnn | OnnxClassifier:
    size = {} if arguments.tokens_per_batch is None else {"tokens_per_batch": arguments.tokens_per_batch}
    name = arguments.model_name()
    if arguments.backend == "torch":
        dtype = cast(TableDtype, arguments.table_dtype)
        return FastRnn.from_pretrained(name, arguments.revision, dtype, device=arguments.device, **size)
    return OnnxClassifier.from_pretrained(name, arguments.backend == "onnx_int8", arguments.revision, **size)


def _read(name: str) -> Iterator[list[str | BadRow]]:
    """Yield the lines of a file, or of standard input for `-`, in blocks."""
    if name == "-":
        yield from read_texts(sys.stdin.buffer, "standard input")
        return
    with open(name, "rb") as stream:
        yield from read_texts(stream, name)


def _answer(
    classifier: FastRnn | OnnxClassifier, block: Sequence[str | BadRow], name: str, first: int
) -> list[dict[str, Any] | BadRow]:
    """Return the answer to each line of a block, whose first line has the number `first`."""
    answers = iter(classifier.predict([text for text in block if isinstance(text, str)]))
    answered: list[dict[str, Any] | BadRow] = []
    for number, line in enumerate(block, first):
        answer = line if isinstance(line, BadRow) else next(answers)
        if isinstance(line, str) and isinstance(answer, dict) and not math.isfinite(score := answer["score"]):
            fault = Fault(Reason.SCORE_NOT_FINITE, f"the model gives {score} for it; did its training diverge?")
            answer = BadRow(name, number, None, fault, line[:EXCERPT_CHARACTERS])
        answered.append(answer)
    return answered


def _record(answer: dict[str, Any] | BadRow) -> dict[str, Any]:
    """Return what an answer's JSON line holds."""
    if isinstance(answer, BadRow):
        return {"error": {"line": answer.line, "reason": answer.fault.reason.value, "detail": answer.fault.detail}}
    return answer


def _write(records: Iterable[dict[str, Any]]) -> None:
    """Write JSON lines to standard output, past its buffers, which may be cut anywhere when the process is ended."""
    sys.stdout.flush()
    stream: Any = getattr(sys.stdout.buffer, "raw", sys.stdout.buffer)
    piece = b""
    for record in records:
        line = json.dumps(record, ensure_ascii=False).encode("utf-8") + b"\n"
        if len(piece) + len(line) > _WHOLE_WRITE:
            _write_whole(stream, piece)
            piece = b""
        piece += line
    _write_whole(stream, piece)


def _write_whole(stream: Any, piece: bytes) -> None:
    """Write whole lines; what a full disk takes of a last one is taken back."""
    done = 0
    try:
        while done < len(piece):
            written = stream.write(piece[done:])
            if written is None:
                raise BlockingIOError("standard output takes no more for now: write to a file, or to what waits")
            done += written
    except OSError:
        torn = done - (piece.rfind(b"\n", 0, done) + 1)
        if torn and stream.seekable():
            stream.truncate(stream.tell() - torn)
        raise
