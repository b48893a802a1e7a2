"""`hf-rnn predict`: answer a table by further columns, and lines by lines of JSON.

Lines are read in blocks of those that have arrived: at a terminal each is answered at once, and a
file of any size needs little memory.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..data import Location
from ..models.settings_rnn import setting
from ..settings.flags import Flags
from ..utils.errors import NO_TEXT, UserError, check_text
from .console import ModelFlags, StandardOutput, print_note, write_out

if TYPE_CHECKING:
    from ..inference.predict import FastRnn

# flags
_TABLES = (
    "output_file",
    "text_column",
    "text_pair_column",
    "separator",
    "encoding",
    "quoting",
    "prefix",
)

_EPILOG = """\
A table (.csv .tsv .jsonl .parquet .arrow .xlsx, also .gz, .bz2, .zst) is written
back with the columns label and score. A row without a text has no answer; one
that was rejected has the reason in a column error.

Other files have a text per line, or `first<TAB>second` for a model of pairs:
  {"label": ..., "score": ...}; with --top_k 2 also label_2 and score_2, with
  --target 0.95 also "for_a_person": true or false, with --explain also
  "because": [["late again", 1.3], ...]
  {"labels": [...], "scores": {...}} of multi-label
  {"values": {...}} of regression
  {"entities": [{"text", "label", "start", "end", "score"}, ...]} of a tagger
  {"error": {"line": 3, "reason": "not UTF-8", "detail": ...}}

exit code: 0, or 1 if some lines or rows were rejected and all others are
answered; 2 after a mistake, and for the first rejected line with --strict
"""


@dataclass
class PredictArguments(ModelFlags):
    """Flags of this verb."""

    text: list[str] | None = setting(None, "a text; may be given several times")
    text_pair: str | None = setting(None, "the second text of --text, for a model of text pairs")
    input: Location | None = setting(
        None, "a table, or a file with a text per line; - is standard input", shown="common"
    )
    output_file: Location | None = setting(
        None, "file for the answers (default: standard output)", shown="common"
    )
    stream: bool = setting(
        False,
        "read standard input as it comes, by a streaming model; a line when the answer changes",
        shown="common",
    )
    every: Literal["change", "token"] = setting(
        "change", "with --stream: a line per change, or per token"
    )
    target: float | None = setting(
        None,
        "mark the answers that a person must check, for this accuracy of the others",
        above=0,
        below=1,
        shown="common",
    )
    top_k: int = setting(1, "labels per text, the most likely first", least=1, shown="common")
    all_scores: bool = setting(False, "add the score of each class", shown="common")
    explain: bool = setting(
        False, "add the words that count most for the answer of each text", shown="common"
    )
    text_column: str | None = setting(
        None, "column of the texts (default: as in training)", shown="common"
    )
    text_pair_column: str | None = setting(None, "column of the second texts (default: text_pair)")
    separator: str | None = setting(
        None, "separates the fields of CSV (default: found in the file)"
    )
    encoding: str | None = setting(None, "encoding of a table (default: found in the file)")
    quoting: Literal["csv", "none"] | None = setting(
        None, 'csv: a " encloses fields of a table; none: it is a letter'
    )
    prefix: str | None = setting(None, "begins the names of the columns of answers")
    precision: Literal["float32", "int16", "int8"] = setting(
        "float32", "int16 is faster, with logits within 3e-3; int8 more so, within about 0.1"
    )
    threads: int | None = setting(
        None, "threads (default: OMP_NUM_THREADS, or all processors)", least=1
    )
    device: str = setting("cpu", "cpu is the fast path; cuda, mps ... run the plain model")
    strict: bool = setting(False, "stop at the first line or row that is rejected", shown="common")
    tokens_per_batch: int | None = setting(None, "approximate tokens per batch")

    def check(self) -> None:
        """Raise a [`UserError`] for mistakes that are visible without the model."""
        if self.stream:
            if self.text is not None or self.output_file is not None:
                source = "standard input, or from --input FILE"
                raise UserError(f"--stream reads one text from {source}, and writes lines of JSON")
            if self.explain:
                raise UserError("--explain is for whole texts: leave out --stream")
            self.input = self.input or "-"
        if (self.text is None) == (self.input is None):
            files = "--input FILE (- for standard input)"
            raise UserError(f"give either --text (several times if you like) or {files}")
        if self.text_pair is not None and len(self.text or ()) != 1:
            raise UserError(
                "--text_pair belongs to one --text: give many pairs as lines `first<TAB>second`"
            )
        for text in filter(None, (*(self.text or ()), self.text_pair)):
            check_text(text)
            if "." in text and os.path.isfile(text):
                raise UserError(f"{text} is a file: give --input {text} for the texts in it")

    def reads_table(self) -> bool:
        """Return whether the input is answered as a table, not as lines.

        Raises:
            UserError: For wrong files.
        """
        from ..data.lines import is_table

        if self.input not in (None, "-") and not os.path.isfile(self.input):
            advice = "give a table, a file with one text per line, or -"
            raise UserError(f"there is no file {self.input!r}: {advice}")
        has_file = self.input not in (None, "-") and not self.stream
        if not has_file or not (self.output_file or is_table(str(self.input))):
            for name in _TABLES:
                if getattr(self, name) is not None:
                    raise UserError(
                        f"--{name} is for tables: give --input a file such as texts.csv"
                    )
            return False
        if self.explain:
            raise UserError("--explain is for --text and for files with a text per line")
        if self.output_file is not None:
            from ..inference.tables import find_suffix

            find_suffix(self.output_file)
            target = Path(self.output_file)
            if target.exists() and target.samefile(str(self.input)):
                raise UserError(f"--output_file {target} is the input: give another name")
        return True


_MEANING = "Answer texts by lines of JSON, and tables by further columns."
FLAGS = Flags(
    "predict", PredictArguments, _MEANING, "my-model 'so good'", ("model", "text"), epilog=_EPILOG
)


def run(argv: Sequence[str]) -> int:
    """Answer texts, lines or a table; return 0, or 1 if some were rejected."""
    arguments: PredictArguments = FLAGS.build(argv)
    arguments.check()
    is_table = arguments.reads_table()
    arguments.check_model()
    from ..hub.model_folder import quiet
    from ..inference.engine import InferenceOptions
    from ..inference.predict import FastRnn

    quiet()
    options = {option.name: getattr(arguments, option.name) for option in fields(InferenceOptions)}
    model = FastRnn.from_pretrained(arguments.model, **options)
    if arguments.explain:
        from ..inference.explain import check_explains

        check_explains(model)
    if arguments.target is not None:
        limits = model.read_thresholds(arguments.target).values()
        if all(limit is None for limit in limits):
            target = f"{arguments.target:g}"
            print_note(
                f"hf-rnn predict: no threshold reaches {target}, so a person checks all answers: "
                f"hf-rnn evaluate MODEL ROWS --target {target} says why"
            )
    if arguments.stream:
        return _predict_stream(arguments, model)
    if is_table:
        return _predict_table(arguments, model)
    return _predict_lines(arguments, model)


def _predict_lines(arguments: PredictArguments, model: FastRnn) -> int:
    """Print a record for each text or line; with `strict` up to the first one that is rejected."""
    paired = model.config.sep_token_id is not None
    if arguments.text is not None and paired != (arguments.text_pair is not None):
        if paired:
            raise UserError("--text_pair is missing: give the second text")
        raise UserError("--text_pair is for models of text pairs: leave it out")
    line = 0
    errors = Counter[str]()
    for rows in _read_blocks(arguments, paired):
        answers = model.answer_each(rows, arguments.all_scores, arguments.top_k, arguments.target)
        for row, answer in zip(rows, answers, strict=True):
            line += 1
            if isinstance(answer, str):
                reason, _, detail = answer.partition(": ")
                errors[reason] += 1
                if arguments.strict and reason != NO_TEXT:
                    advice = "Without --strict this line gets an error record, others an answer"
                    raise UserError(f"{arguments.input}:{line}: {answer}. {advice}")
                answer = {"error": {"line": line, "reason": reason, "detail": detail}}
            elif arguments.explain:
                answer["because"] = model.explain(str(row))["because"]
            _write_line(answer)
    empty = errors.pop(NO_TEXT, 0)
    return _report_missing(f"{line} lines", empty, errors.total(), "see their error records")


def _read_blocks(arguments: PredictArguments, paired: bool) -> Iterator[Sequence[object]]:
    """Yield the texts, or in blocks the lines of a file, or of standard input for `-`."""
    if arguments.text is not None:
        yield [(text, arguments.text_pair) for text in arguments.text] if paired else arguments.text
        return
    from ..data.charset import read_stream
    from ..data.lines import open_unpacked

    name = str(arguments.input)
    shown = "standard input" if name == "-" else name
    with contextlib.nullcontext(sys.stdin.buffer) if name == "-" else open_unpacked(name) as stream:
        for lines in read_stream(stream, shown):
            if paired:
                yield [tuple(line.split("\t")) if isinstance(line, str) else line for line in lines]
            else:
                yield lines


def _report_missing(rows: str, empty: int, rejected: int, where: str) -> int:
    """Print how many rows have no answer; return the exit code."""
    if empty:
        print_note(f"hf-rnn predict: {empty} of {rows} have no text, and no answer")
    if rejected:
        print_note(f"hf-rnn predict: {rejected} of {rows} were rejected: {where}")
    return int(rejected > 0)


def _write_line(record: Mapping[str, Any]) -> None:
    """Write a line of JSON."""
    write_out(json.dumps(record, ensure_ascii=False).encode() + b"\n")


def _predict_stream(arguments: PredictArguments, model: FastRnn) -> int:
    """Print an answer when its label changes or after each token, and at the end."""
    stream = model.stream(target=arguments.target)
    per_token = arguments.every == "token"
    last: dict[str, Any] = {}
    pieces = _read_pieces(str(arguments.input))
    if per_token:
        pieces = chain(pieces, ["\n"])  # the last word ends here
    for piece in pieces:
        for answer in stream.feed_tokens(piece) if per_token else [stream.feed(piece)]:
            is_new = not last or next(iter(answer.values())) != next(iter(last.values()))
            if per_token or is_new:
                _write_line(answer)
                last = answer
    answer = stream.end()
    if answer["tokens"] != last.get("tokens"):
        _write_line(answer)
    return 0


def _read_pieces(name: str) -> Iterator[str]:
    """Yield a text as it arrives, from a file or for `-` from standard input."""
    with contextlib.nullcontext(sys.stdin.buffer) if name == "-" else open(name, "rb") as source:
        blocks = iter(lambda: os.read(source.fileno(), 1 << 16), b"")
        try:
            yield from codecs.iterdecode(blocks, "utf-8-sig")
        except UnicodeDecodeError as error:
            found = error.object[error.start : error.end]
            raise UserError(f"the text is not UTF-8: {error.reason}, found {found!r}") from None


def _predict_table(arguments: PredictArguments, model: FastRnn) -> int:
    """Write a table back with its answers."""
    from ..inference.tables import (
        TableSettings,
        answer_file,
        read_record,
        write_table,
    )
    from ..utils.process import replace_file

    path = str(arguments.input)
    settings = TableSettings(
        **{entry.name: getattr(arguments, entry.name) for entry in fields(TableSettings)}
    )
    answered = answer_file(model, path, settings, read_record(arguments.model, arguments.revision))
    if arguments.strict and answered.rejected:
        advice = "Without --strict this row gets an error, others an answer"
        raise UserError(f"{path}: {answered.rejected[0]}. {advice}")
    print_note(f"hf-rnn predict: {answered.note}")
    rows = f"{len(answered.table)} rows"
    code = _report_missing(rows, answered.empty, len(answered.rejected), "see the column error")

    shown = {None: "answers.jsonl", "\t": "answers.tsv"}.get(answered.separator, "answers.csv")
    name = arguments.output_file or shown
    layout = (name, answered.separator, answered.needs_mark)
    if arguments.output_file is None:
        write_table(answered.table, StandardOutput(), *layout)
    else:
        target = Path(arguments.output_file)
        target.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(target) as file:
            write_table(answered.table, file, *layout)
    return code
