"""`hf-rnn predict`: a table is written back with its answers; of other input each line is answered by a line of JSON.

Lines are read in blocks of those that have arrived: at a terminal each is answered at once, and a file of any size
needs little memory.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.row_errors import EXCERPT_CHARACTERS, BadRow, DataError, Fault, Reason
from ..training.arguments.parser import SettingsParser, expand_home, setting
from ..utils.atomic_write import write_whole
from ..utils.errors import UserError
from ..utils.text_checks import check_text
from .console import ModelFlags, print_note

if TYPE_CHECKING:
    from ..inference.tables import TableSettings

_TABLES = ("output_file", "text_column", "text_pair_column", "separator", "encoding", "prefix")  # flags
_ATOMIC_BYTES = 4096  # a pipe takes these at once on Linux: an interrupted output ends with a whole line

_EPILOG = """\
A table (.csv .tsv .jsonl .parquet .arrow .xlsx, also .gz or .zst) is written
back with the columns label and score: to --output_file, or as CSV or JSON
lines to the standard output. A row without an answer has the reason in a column
error. If the table has a column with the name of an answer, the names of
answers begin with predicted_.

Other files have a text per line, which ends with LF or CRLF; an empty one is a
text too. For a model of text pairs it is `first<TAB>second`. Each line is
answered in order by
  {"label": ..., "score": ...}
  {"labels": [...], "scores": {...}} of multi-label
  {"values": {...}} of regression
  {"entities": [{"text": ..., "label": ..., "start": ..., "end": ...,
  "score": ...}, ...]} of a tagger
  {"error": {"line": 3, "reason": "not UTF-8", "detail": ...}}
For tags that mark no entities a tagger lists all words. The last is for a line
that is not UTF-8, has a NUL, or is longer than 1 MiB ("line over the cap"),
and for NaN or infinity from the model ("score not finite").

With --output_dir the answers are Parquet, or JSON lines for JSON lines, with
the column error. A killed run is resumed by the same command.

exit code:
  0  every text has an answer
  1  some lines or rows were refused, and all others are answered
  2  a mistake in flags, model or input, or the first refused line (--strict);
     the lines before it are answered
  130, 143, 141  Ctrl-C, SIGTERM, or a closed output; written lines are whole
"""


@dataclass
class PredictArguments(ModelFlags):
    """Flags of this verb."""

    text: list[str] | None = setting(None, "a text; may be given several times", word=True)
    text_pair: str | None = setting(None, "the second text of --text, for a model of text pairs")
    input: str | None = setting(
        None, "a table, or a file with one text per line; - reads lines of standard input. With --output_dir a quoted "
        "pattern such as 's3://bucket/*.parquet' too", common=True)  # fmt: skip
    output_file: str | None = setting(
        None,
        "file for the answers: .csv, .tsv, .jsonl or .parquet, also .gz or .zst (default: standard output)",
        common=True,
    )
    all_scores: bool = setting(False, "add the score of each class", common=True)
    text_column: str | None = setting(None, "column of the texts (default: text, or another usual name)", common=True)
    text_pair_column: str | None = setting(None, "column of the second texts (default: text_pair)")
    separator: str | None = setting(None, "separates the fields of CSV (default: found in the file)")
    encoding: str | None = setting(None, "encoding of a table (default: found in the file)")
    prefix: str | None = setting(None, "begins the names of the columns of answers")
    output_dir: str | None = setting(
        None, "folder or address for the answers to files; finished blocks are kept", common=True
    )
    engine: str | None = setting(
        None, "runs the processes for --output_dir: local, or on a cluster ray (default: local)",
        choices=["local", "ray"],
    )  # fmt: skip
    workers: int | None = setting(None, "processes for --output_dir (default: one per CPU)", least=1)
    backend: str = setting(
        "torch", "torch, or ONNX Runtime with a file of hf-rnn export", choices=["torch", "onnx", "onnx_int8"]
    )
    table_dtype: str = setting(
        "float32",
        "type of torch's table: float32 is exact, bfloat16 and int8 are smaller",
        choices=["float32", "bfloat16", "int8"],
    )
    device: str = setting("cpu", "device of torch: cpu has the fast tables, cuda, mps ... run the plain model")
    strict: bool = setting(False, "stop at the first line or row that is refused", common=True)
    tokens_per_batch: int | None = setting(
        None, "approximate tokens per batch (default: 8192, with torch more for narrow models)"
    )

    def table_settings(self) -> TableSettings:
        """Return the flags of tables."""
        from ..inference.tables import TableSettings

        columns = self.text_column, self.text_pair_column, self.separator, self.encoding
        return TableSettings(*columns, self.prefix, self.all_scores)

    @property
    def is_table(self) -> bool:
        """Whether the answers are columns of a table."""
        if self.input in (None, "-"):
            return False
        from ..data.tables import is_table  # not for single texts: loads pyarrow

        return self.output_file is not None or is_table(str(self.input))

    def check(self, texts: Sequence[str] | None) -> None:
        """Raise a [`UserError`] for mistakes that are visible without the model."""
        if (texts is None) == (self.input is None):
            raise UserError("give either --text (several times if you like) or --input FILE (- for standard input)")
        if self.text_pair is not None and len(texts or ()) != 1:
            raise UserError(
                "--text_pair belongs to one --text: give many pairs as lines `first<TAB>second` of --input"
            )
        if self.backend != "torch" and (self.table_dtype, self.device) != ("float32", "cpu"):
            raise UserError(f"--table_dtype and --device are for --backend torch: leave them out with {self.backend}")
        if self.output_dir is not None:
            if self.input in (None, "-") or self.strict or self.output_file:
                raise UserError("--output_dir is for files: give --input a path or a pattern, without --output_file "
                                "and --strict")  # fmt: skip
            return
        if self.engine or self.workers:
            raise UserError("--engine and --workers are for many files: give --output_dir too")
        if self.input not in (None, "-") and not os.path.exists(self.input):
            raise UserError(f"there is no file {self.input!r}: give a table, a file with one text per line, or -")
        if not self.is_table and (given := [name for name in _TABLES if getattr(self, name) is not None]):
            raise UserError(f"--{given[0]} is for tables: give --input a file such as texts.csv")
        if self.output_file is not None:
            from ..inference.tables import find_suffix

            find_suffix(self.output_file)
            if not Path(self.output_file).absolute().parent.is_dir():
                raise UserError(f"there is no folder for --output_file {self.output_file}: make it first")
            if os.path.exists(self.output_file) and os.path.samefile(self.output_file, str(self.input)):
                raise UserError(f"--output_file {self.output_file} is the input: give another name")
        for text in (*(texts or ()), *([] if self.text_pair is None else [self.text_pair])):
            check_text(text)


def run(argv: Sequence[str]) -> int:
    """Print `{"label": ..., "score": ...}` for each text, and `{"error": ...}` for each invalid line.

    Return the exit code: 0, or 1 when lines were refused.
    """
    (arguments,) = SettingsParser(
        PredictArguments,
        prog="hf-rnn predict",
        description="Answer texts by lines of JSON, and tables by further columns.",
        example="my-model 'so good'",
        epilog=_EPILOG,
    ).parse(argv)
    texts = arguments.text
    expand_home(arguments, "input", "output_file")
    arguments.check(texts)
    if arguments.backend == "torch":
        arguments.check_model()
    from ..hub.loading import quiet  # not before the flags are checked: loads torch
    from ..inference.predictor import load_predictor

    quiet()
    names = ("revision", "backend", "table_dtype", "device", "tokens_per_batch")
    settings = {name: getattr(arguments, name) for name in names}
    if arguments.output_dir is not None:
        return _predict_files(arguments, settings)
    classifier = load_predictor(arguments.model, **settings)
    if arguments.is_table:
        return _predict_table(arguments, classifier)
    paired = classifier.config.sep_token_id is not None
    if texts is not None and paired != (arguments.text_pair is not None):
        raise UserError("--text_pair is missing: give the second text" if paired else "--text_pair is for models of "
                        "text pairs: leave it out")  # fmt: skip
    given: Any = texts if texts is None or not paired else [(text, arguments.text_pair) for text in texts]
    lines = refused = 0
    for block in _read(arguments.input) if given is None else [given]:
        answers = _answer(classifier, block, arguments, lines + 1)
        bad = next((row for row in answers if isinstance(row, BadRow)), None) if arguments.strict else None
        _write(answers[: answers.index(bad)] if bad else answers)
        if bad is not None:
            raise DataError.for_row(bad, "Without --strict this line gets an error record and the others are answered")
        lines += len(block)
        refused += sum(isinstance(row, BadRow) for row in answers)
    if refused:
        print_note(f"hf-rnn predict: {refused} of {lines} lines were refused: see their error records")
    return 1 if refused else 0


def _predict_table(arguments: PredictArguments, classifier: Any) -> int:
    """Write a table back with its answers."""
    from ..inference.tables import answer_rows, format_answers, open_texts

    path = str(arguments.input)
    settings = arguments.table_settings()
    table = open_texts(path, settings)
    answers = [answer_rows(classifier, table, rows, settings) for rows in table.rows]
    reasons = [reason for answer in answers for reason in answer.column(-1).to_pylist()]
    if not (refused := [reason for reason in reasons if reason]):
        answers = [answer.drop_columns(answer.schema.names[-1:]) for answer in answers]
    elif arguments.strict:
        raise UserError(f"{path}: {refused[0]}. Without --strict the row has this reason in a column, and others are "
                        "answered")  # fmt: skip
    shown = {None: "answers.jsonl", "\t": "answers.tsv"}.get(table.separator, "answers.csv")
    content = format_answers(answers, arguments.output_file or shown, table.separator)
    if arguments.output_file is None:
        sys.stdout.buffer.write(content)
    else:
        write_whole(Path(arguments.output_file), content)
    if refused:
        print_note(f"hf-rnn predict: {len(refused)} of {len(reasons)} rows were refused: see the column error")
    return 1 if refused else 0


def _predict_files(arguments: PredictArguments, loading: dict[str, Any]) -> int:
    """Answer files into a folder, and print the counts of each file."""
    from ..inference.batch_predictor import BatchPredictor
    from ..inference.cluster import predict_files

    predictor = BatchPredictor(arguments.model, **loading)
    assert arguments.input is not None and arguments.output_dir is not None
    settings, engine = arguments.table_settings(), arguments.engine or "local"
    with contextlib.redirect_stdout(sys.stderr):  # Ray prints on stdout
        files = predict_files(predictor, arguments.input, arguments.output_dir, settings, engine, arguments.workers)
    for file in files:
        counts = {"file": file.path, "rows": file.rows, "answered": file.rows - file.errors, "errors": file.errors}
        print(json.dumps(counts, ensure_ascii=False))
    unread = [reason for file in files for reason in file.unread]
    for reason in unread:
        print_note(f"hf-rnn predict: not read: {reason}")
    rows, errors = sum(file.rows for file in files), sum(file.errors for file in files)
    print_note(f"hf-rnn predict: {rows:,} rows of {len(files)} files: {rows - errors:,} answered, {errors:,} in error")
    return 1 if errors or unread else 0


def _read(name: str) -> Iterator[list[str | BadRow]]:
    """Yield the lines of a file, or of standard input for `-`, in blocks."""
    from ..data.line_reader import read_texts

    if name == "-":
        yield from read_texts(sys.stdin.buffer, "standard input")
        return
    with open(name, "rb") as stream:
        yield from read_texts(stream, name)


def _answer(
    classifier: Any, block: Sequence[str | BadRow], arguments: PredictArguments, first: int
) -> list[dict[str, Any] | BadRow]:
    """Return the answer to each line of a block, with `first` as the number of its first line."""
    from ..inference.text_classifier import find_broken_number

    name, options = arguments.input or "--text", {"all_scores": True} if arguments.all_scores else {}
    if classifier.config.sep_token_id is not None:
        block = [_split_pair(line, name, number) for number, line in enumerate(block, first)]
    answers = iter(classifier.predict([text for text in block if not isinstance(text, BadRow)], **options))
    answered: list[dict[str, Any] | BadRow] = []
    for number, line in enumerate(block, first):
        answer = line if isinstance(line, BadRow) else next(answers)
        if isinstance(answer, dict) and (score := find_broken_number(answer)) is not None:
            fault = Fault(Reason.SCORE_NOT_FINITE, f"the model gives {score}; did its training diverge?")
            answer = BadRow(name, number, None, fault, str(line)[:EXCERPT_CHARACTERS])
        answered.append(answer)
    return answered


def _split_pair(line: Any, name: str, number: int) -> Any:
    """Return the two texts of a line, or the reason why it has not two."""
    if not isinstance(line, str) or len(texts := line.split("\t")) == 2:
        return line if not isinstance(line, str) else tuple(texts)
    reason = Reason.TOO_FEW_FIELDS if len(texts) < 2 else Reason.TOO_MANY_FIELDS
    fault = Fault(reason, f"found {len(texts)} of 2 texts", "Put one tab between the two texts")
    return BadRow(name, number, None, fault, line[:EXCERPT_CHARACTERS])


def _write(answers: Iterable[dict[str, Any] | BadRow]) -> None:
    """Write JSON lines to standard output, whole lines at a time."""
    piece = b""
    for answer in answers:
        if isinstance(answer, BadRow):
            fault = answer.fault
            answer = {"error": {"line": answer.line, "reason": fault.reason.value, "detail": fault.detail}}
        line = json.dumps(answer, ensure_ascii=False).encode() + b"\n"
        if len(piece) + len(line) > _ATOMIC_BYTES:
            _write_piece(piece)
            piece = b""
        piece += line
    _write_piece(piece)


def _write_piece(piece: bytes) -> None:
    sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()
