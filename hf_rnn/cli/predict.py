"""`hf-rnn predict`: a table is written back with its answers; of other input each line is answered by a line of JSON.

Lines are read in blocks of those that have arrived: at a terminal each is answered at once, and a file of any size
needs little memory.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.row_errors import BadRow, Reason
from ..training.settings import SettingsParser, expand_home, setting
from ..utils.atomic_write import write_whole
from ..utils.errors import UserError
from ..utils.text_checks import check_text
from .console import ModelFlags, print_note

if TYPE_CHECKING:
    from ..inference.tables import TableSettings

_TABLES = ("output_file", "text_column", "text_pair_column", "separator", "encoding", "prefix")  # flags

_EPILOG = """\
A table (.csv .tsv .jsonl .parquet .arrow .xlsx, also .gz or .zst) is written
back with the columns label and score: to --output_file, or as CSV or JSON
lines to the standard output. A row without an answer has the reason in a column
error. If the table has a column with the name of an answer, the names of
answers begin with predicted_.

Other files have a text per line; an empty one is a text too. For a model of
text pairs it is `first<TAB>second`. Each line is answered in order by
  {"label": ..., "score": ...}
  {"labels": [...], "scores": {...}} of multi-label
  {"values": {...}} of regression
  {"entities": [{"text": ..., "label": ..., "start": ..., "end": ...,
  "score": ...}, ...]} of a tagger; all words if no tag marks an entity
  {"error": {"line": 3, "reason": "not UTF-8", "detail": ...}}

exit code:
  0  every text has an answer
  1  some lines or rows were refused, and all others are answered
  2  a mistake in flags, model or input, or the first refused line (--strict)
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

    def check(self) -> None:
        """Raise a [`UserError`] for mistakes that are visible without the model."""
        if (self.text is None) == (self.input is None):
            raise UserError("give either --text (several times if you like) or --input FILE (- for standard input)")
        if self.text_pair is not None and len(self.text or ()) != 1:
            raise UserError(
                "--text_pair belongs to one --text: give many pairs as lines `first<TAB>second` of --input"
            )
        if self.backend != "torch" and (self.table_dtype, self.device) != ("float32", "cpu"):
            raise UserError(f"--table_dtype and --device are for --backend torch: leave them out with {self.backend}")
        for text in filter(None, (*(self.text or ()), self.text_pair)):
            check_text(text)
            if "." in text and os.path.isfile(text):
                raise UserError(f"{text} is a file: give --input {text} for the texts in it")
        if self.input not in (None, "-") and (not os.path.exists(self.input) or os.path.isdir(self.input)):
            raise UserError(f"there is no file {self.input!r}: give a table, a file with one text per line, or -")
        if not self.is_table and (given := [name for name in _TABLES if getattr(self, name) is not None]):
            raise UserError(f"--{given[0]} is for tables: give --input a file such as texts.csv")
        if self.output_file is not None:
            from ..inference.tables import find_suffix

            find_suffix(self.output_file)
            if os.path.exists(self.output_file) and os.path.samefile(self.output_file, str(self.input)):
                raise UserError(f"--output_file {self.output_file} is the input: give another name")


def run(argv: Sequence[str]) -> int:
    """Answer texts, lines, a table or many files; return 0, or 1 if some were refused."""
    (arguments,) = SettingsParser(
        PredictArguments,
        prog="hf-rnn predict",
        description="Answer texts by lines of JSON, and tables by further columns.",
        example="my-model 'so good'",
        epilog=_EPILOG,
    ).parse(argv)
    expand_home(arguments, "input", "output_file")
    arguments.check()
    if arguments.backend == "torch":
        arguments.check_model()
    from ..hub.loading import quiet  # not before the flags are checked: loads torch
    from ..inference.predictor import load_predictor

    quiet()
    names = ("revision", "backend", "table_dtype", "device", "tokens_per_batch")
    loading = {name: getattr(arguments, name) for name in names}
    classifier = load_predictor(arguments.model, **loading)
    return _predict_table(arguments, classifier) if arguments.is_table else _predict_lines(arguments, classifier)


def _predict_lines(arguments: PredictArguments, classifier: Any) -> int:
    """Print a record for each text or line; with `strict` up to the first one that is refused."""
    texts, paired = arguments.text, classifier.config.sep_token_id is not None
    if texts is not None and paired != (arguments.text_pair is not None):
        raise UserError("--text_pair is missing: give the second text" if paired else "--text_pair is for models of "
                        "text pairs: leave it out")  # fmt: skip
    given: Any = [(text, arguments.text_pair) for text in texts or ()] if paired else texts
    lines = refused = 0
    for block in _read(str(arguments.input)) if texts is None else [given]:
        for record in _answer(classifier, block, arguments.all_scores, lines + 1):
            if error := record.get("error"):
                refused += 1
                if arguments.strict:
                    found = f"{arguments.input}:{error['line']}: {error['reason']}: {error['detail']}"
                    raise UserError(f"{found}. Without --strict this line gets an error record, others an answer")
            # a line at a time: an interrupted output ends with a whole one
            sys.stdout.buffer.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
            sys.stdout.buffer.flush()
        lines += len(block)
    if refused:
        print_note(f"hf-rnn predict: {refused} of {lines} lines were refused: see their error records")
    return 1 if refused else 0


def _read(name: str) -> Iterator[list[Any]]:
    """Yield the lines of a file, or of standard input for `-`, in blocks."""
    from ..data.lines import read_texts

    with contextlib.nullcontext(sys.stdin.buffer) if name == "-" else open(name, "rb") as stream:
        yield from read_texts(stream, "standard input" if name == "-" else name)


def _answer(classifier: Any, block: Sequence[Any], all_scores: bool, first: int) -> list[dict[str, Any]]:
    """Return the record of each line of a block; `first` is the number of its first line."""
    from ..inference.text_classifier import answer_each

    inputs = [_read_line(line, classifier.config.sep_token_id is not None) for line in block]
    answers = iter(answer_each(classifier, [text for text, error in inputs if not error], all_scores))
    records = []
    for number, (_, error) in enumerate(inputs, first):
        answer = error or next(answers)
        if isinstance(answer, str):
            reason, _, detail = answer.partition(": ")
            answer = {"error": {"line": number, "reason": reason, "detail": detail}}
        records.append(answer)
    return records


def _read_line(line: Any, paired: bool) -> tuple[Any, str]:
    """Return the text of a line, or its two texts, and an error or an empty string."""
    if isinstance(line, BadRow):
        return None, f"{line.fault.reason}: {line.fault.detail}"
    if not paired or isinstance(line, tuple):
        return line, ""
    texts = tuple(line.split("\t"))
    reason = Reason.TOO_FEW_FIELDS if len(texts) < 2 else Reason.TOO_MANY_FIELDS
    return texts, "" if len(texts) == 2 else f"{reason}: found {len(texts)} of 2 texts"


def _predict_table(arguments: PredictArguments, classifier: Any) -> int:
    """Write a table back with its answers."""
    from ..inference.tables import answer_rows, format_answers, open_texts

    path, settings = str(arguments.input), arguments.table_settings()
    if arguments.output_file is not None:
        Path(arguments.output_file).parent.mkdir(parents=True, exist_ok=True)
    table = open_texts(path, settings)
    answers = [answer_rows(classifier, table, batch, settings) for batch in table.batches]
    reasons = [reason for answer in answers for reason in answer.column(-1).to_pylist()]
    if not (refused := [reason for reason in reasons if reason]):
        answers = [answer.drop_columns(answer.schema.names[-1:]) for answer in answers]
    elif arguments.strict:
        raise UserError(f"{path}: {refused[0]}. Without --strict this row gets an error, others an answer")
    shown = {None: "answers.jsonl", "\t": "answers.tsv"}.get(table.separator, "answers.csv")
    content = format_answers(answers, arguments.output_file or shown, table.separator)
    if arguments.output_file is None:
        sys.stdout.buffer.write(content)
    else:
        write_whole(Path(arguments.output_file), content)
    if refused:
        print_note(f"hf-rnn predict: {len(refused)} of {len(reasons)} rows were refused: see the column error")
    return 1 if refused else 0
