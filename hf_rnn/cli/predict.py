"""`hf-rnn predict`: a table is written back with its answers; of other input each line is answered by a line of JSON.

Lines are read in blocks of those that have arrived: at a terminal each is answered at once, and a
file of any size needs little memory.
"""

from __future__ import annotations

import codecs
import contextlib
import glob
import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..data import Location
from ..models.settings_rnn import setting
from ..settings.flags import Flags
from ..utils.errors import NO_TEXT, UserError, check_text
from .console import ModelFlags, print_note

if TYPE_CHECKING:
    from ..inference.predictor import Predictor

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
that was rejected has the reason in a column error. With --output_dir each file
of --input, a folder or a quoted pattern such as 'texts/*.csv', is written
there; one that is there is not answered again.

Other files have a text per line, or `first<TAB>second` for a model of pairs:
  {"label": ..., "score": ...}; with --top_k 2 also label_2 and score_2, with
  --target 0.95 also "for_a_person": true or false
  {"labels": [...], "scores": {...}} of multi-label
  {"values": {...}} of regression
  {"entities": [{"text", "label", "start", "end", "score"}, ...]} of a tagger
  {"error": {"line": 3, "reason": "not UTF-8", "detail": ...}}
  {..., "stop": {"label", "score", "tokens", "characters"}} with --stop, once

exit code: 0, or 1 if some lines, rows or files were rejected and all others are
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
    output_dir: Location | None = setting(
        None, "folder for the answers to many files", shown="common"
    )
    stream: bool = setting(
        False,
        "read standard input as it comes, by a streaming model; a line when the answer changes",
        shown="common",
    )
    every: Literal["change", "token"] = setting(
        "change", "with --stream: a line per change, or per token"
    )
    stop: str | None = setting(
        None, "with --stream: a label; the first answer that must stop the text has `stop`"
    )
    threshold: float = setting(0.9, "with --stop: the least score of the label", least=0, most=1)
    in_a_row: int = setting(1, "with --stop: after how many tokens in a row", least=1)
    target: float | None = setting(
        None, "mark the answers that a person must check, for this accuracy of the others", above=0, below=1,
        shown="common",
    )  # fmt: skip
    top_k: int = setting(1, "labels per text, the most likely first", least=1, shown="common")
    all_scores: bool = setting(False, "add the score of each class", shown="common")
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
    backend: Literal["torch", "onnx"] = setting("torch", "torch, or the file of hf-rnn export")
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
        if self.stream and (self.text is not None or self.output_file or self.output_dir):
            source = "from standard input, or from --input FILE"
            raise UserError(f"--stream reads one text {source}, and writes lines of JSON")
        if self.stop is not None and not self.stream:
            raise UserError("--stop is for a text that is still being written: add --stream")
        if self.stream and self.input is None:
            self.input = "-"
        if (self.text is None) == (self.input is None):
            raise UserError(
                "give either --text (several times if you like) or --input FILE (- for standard input)"
            )
        if self.text_pair is not None and len(self.text or ()) != 1:
            raise UserError(
                "--text_pair belongs to one --text: give many pairs as lines `first<TAB>second`"
            )
        for text in filter(None, (*(self.text or ()), self.text_pair)):
            check_text(text)
            if "." in text and os.path.isfile(text):
                raise UserError(f"{text} is a file: give --input {text} for the texts in it")

    def list_files(self) -> dict[Path | None, Path]:
        """Return the tables to answer, by the file of the answers, None for the standard output; none for lines."""
        from ..data.lines import PACKED, is_table

        pattern, target = (
            str(self.input),
            None if self.output_file is None else Path(self.output_file),
        )
        if (
            self.output_dir is None
            and self.input not in (None, "-")
            and not os.path.isfile(pattern)
        ):
            raise UserError(
                f"there is no file {pattern!r}: give a table, a file with one text per line, or -"
            )
        if (
            self.input in (None, "-")
            or self.stream
            or not (target or self.output_dir or is_table(pattern))
        ):
            if named := [name for name in _TABLES if getattr(self, name) is not None]:
                raise UserError(
                    f"--{named[0]} is for tables: give --input a file such as texts.csv"
                )
            return {}
        from ..inference.tables import OUTPUT_SUFFIXES, find_suffix

        if self.output_dir is None:
            if target is not None:
                find_suffix(str(target))
                if target.exists() and target.samefile(pattern):
                    raise UserError(f"--output_file {target} is the input: give another name")
            return {target: Path(pattern)}
        if target is not None:
            raise UserError("give either --output_file, for one file, or --output_dir, for many")
        names = glob.glob(
            f"{glob.escape(pattern)}/*" if os.path.isdir(pattern) else pattern, recursive=True
        )
        files, folder = (
            sorted(Path(name) for name in names if os.path.isfile(name)),
            Path(self.output_dir),
        )
        if not files:
            raise UserError(
                f"--input has no files: found {pattern!r}; give a folder or a pattern as 'texts/*.csv'"
            )
        if any(path.resolve().parent == folder.resolve() for path in files):
            raise UserError(f"the texts are in {folder}: choose another --output_dir")
        targets: dict[Path | None, Path] = {}
        for path in files:
            bare = path.stem if path.suffix in PACKED else path.name
            target = folder / (path.name if bare.endswith(OUTPUT_SUFFIXES) else f"{bare}.csv")
            if target in targets:
                raise UserError(f"{path} and {targets[target]} would both be {target}: rename one")
            targets[target] = path
        return targets


_MEANING = "Answer texts by lines of JSON, and tables by further columns."
FLAGS = Flags(
    "predict", PredictArguments, _MEANING, "my-model 'so good'", ("model", "text"), epilog=_EPILOG
)


def run(argv: Sequence[str]) -> int:
    """Answer texts, lines, a table or many files; return 0, or 1 if some were rejected."""
    arguments: PredictArguments = FLAGS.build(argv)
    arguments.check()
    files = arguments.list_files()
    if arguments.backend == "torch":
        arguments.check_model()
    from ..hub.model_folder import quiet
    from ..inference.engines import InferenceOptions
    from ..inference.predictor import Predictor

    quiet()
    options = {option.name: getattr(arguments, option.name) for option in fields(InferenceOptions)}
    model = Predictor.from_pretrained(arguments.model, **options)
    if arguments.stream:
        return _predict_stream(arguments, model)
    return _predict_tables(arguments, model, files) if files else _predict_lines(arguments, model)


def _predict_lines(arguments: PredictArguments, model: Predictor) -> int:
    """Print a record for each text or line; with `strict` up to the first one that is rejected."""
    paired = model.config.sep_token_id is not None
    if arguments.text is not None and paired != (arguments.text_pair is not None):
        raise UserError("--text_pair is missing: give the second text" if paired else "--text_pair is for models of "
                        "text pairs: leave it out")  # fmt: skip
    line, errors = 0, Counter[str]()
    for rows in _read_rows(arguments, paired):
        for answer in model.answer_each(
            rows, arguments.all_scores, arguments.top_k, arguments.target
        ):
            line += 1
            if isinstance(answer, str):
                reason, _, detail = answer.partition(": ")
                errors[reason] += 1
                if arguments.strict and reason != NO_TEXT:
                    advice = "Without --strict this line gets an error record, others an answer"
                    raise UserError(f"{arguments.input}:{line}: {answer}. {advice}")
                answer = {"error": {"line": line, "reason": reason, "detail": detail}}
            _write_line(answer)
    empty = errors.pop(NO_TEXT, 0)
    return _count(f"{line} lines", empty, errors.total(), "see their error records")


def _read_rows(arguments: PredictArguments, paired: bool) -> Iterator[Sequence[object]]:
    """Yield the texts, or in blocks the lines of a file, or of standard input for `-`."""
    if arguments.text is not None:
        yield [(text, arguments.text_pair) for text in arguments.text] if paired else arguments.text
        return
    from ..data.charset import read_texts
    from ..data.lines import open_unpacked

    name = str(arguments.input)
    with contextlib.nullcontext(sys.stdin.buffer) if name == "-" else open_unpacked(name) as stream:
        for lines in read_texts(stream, "standard input" if name == "-" else name):
            yield [
                tuple(line.split("\t")) if paired and isinstance(line, str) else line
                for line in lines
            ]


def _count(rows: str, empty: int, rejected: int, where: str) -> int:
    """Print how many rows have no answer; return the exit code."""
    for count, what in (
        (empty, "have no text, and no answer"),
        (rejected, f"were rejected: {where}"),
    ):
        if count:
            print_note(f"hf-rnn predict: {count} of {rows} {what}")
    return int(rejected > 0)


def _write_line(record: Mapping[str, Any]) -> None:
    """Write a line of JSON at once: an interrupted output ends with a whole one."""
    sys.stdout.buffer.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
    sys.stdout.buffer.flush()


def _predict_stream(arguments: PredictArguments, model: Predictor) -> int:
    """Print an answer when its label changes or after each token, where the text stops, and at the end."""
    stream = model.stream(
        target=arguments.target,
        stop=arguments.stop,
        threshold=arguments.threshold,
        in_a_row=arguments.in_a_row,
    )
    per_token, last, name = arguments.every == "token", dict[str, Any](), str(arguments.input)

    def show(answers: Iterable[dict[str, Any]]) -> None:
        nonlocal last
        for answer in answers:
            is_new = not last or next(iter(answer.values())) != next(iter(last.values()))
            if per_token or is_new or "stop" in answer:
                _write_line(last := answer)

    with contextlib.nullcontext(sys.stdin.buffer) if name == "-" else open(name, "rb") as source:
        try:
            for piece in codecs.iterdecode(
                iter(lambda: os.read(source.fileno(), 1 << 16), b""), "utf-8-sig"
            ):
                show(stream.feed_tokens(piece) if per_token else [stream.feed(piece)])
        except UnicodeDecodeError as error:
            found = error.object[error.start : error.end]
            raise UserError(f"the text is not UTF-8: {error.reason}, found {found!r}") from None
    if per_token:
        show(stream.feed_tokens("\n"))  # the last word ends here
    if (answer := stream.end())["tokens"] != last.get("tokens") or "stop" in answer:
        _write_line(answer)
    return 0


def _predict_tables(
    arguments: PredictArguments, model: Predictor, files: dict[Path | None, Path]
) -> int:
    """Write tables back with their answers; of many files those that are missing, and a line of JSON for each."""
    import pyarrow as pa

    # Arrow looks for it at its first list, once: the import takes 0.2 s
    if "pandas" not in sys.modules:
        sys.modules["pandas"] = None  # type: ignore[assignment]
        for _ in range(2):  # its Python part looks first, then its part in C++
            with contextlib.suppress(ImportError, AttributeError):
                pa.array([])
        del sys.modules["pandas"]
    from ..inference.tables import TableSettings, answer_file, format_table, read_record
    from ..utils.process import write_whole

    settings = TableSettings(
        **{entry.name: getattr(arguments, entry.name) for entry in fields(TableSettings)}
    )
    record, code, many = (
        read_record(arguments.model, arguments.revision),
        0,
        arguments.output_dir is not None,
    )
    for target, path in files.items():
        if many and target is not None and target.exists():
            continue
        try:
            answered = answer_file(model, str(path), settings, record)
            if arguments.strict and answered.rejected:
                advice = "Without --strict this row gets an error, others an answer"
                raise UserError(f"{path}: {answered.rejected[0]}. {advice}")
            print_note(f"hf-rnn predict: {answered.note}")
            counts = {
                "rows": len(answered.table),
                "refused": len(answered.rejected),
                "without_text": answered.empty,
            }
            code |= _count(
                f"{counts['rows']} rows", answered.empty, counts["refused"], "see the column error"
            )
            shown = {None: "answers.jsonl", "\t": "answers.tsv"}.get(
                answered.separator, "answers.csv"
            )
            content = format_table(
                answered.table, str(target or shown), answered.separator, answered.needs_mark
            )
            if target is not None:
                target.parent.mkdir(parents=True, exist_ok=True)
                write_whole(target, content)
        except (UserError, OSError) as error:
            if arguments.strict or not many:
                raise
            print_note(f"hf-rnn predict: {error}")
            code = 1
            continue
        if target is None:
            sys.stdout.buffer.write(content)
        elif many:
            print(json.dumps({"file": str(target), **counts}, ensure_ascii=False), flush=True)
    return code
