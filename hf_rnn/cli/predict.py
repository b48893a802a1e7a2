"""`hf-rnn predict`: texts in, one JSON line each out, in the order of the texts and as soon as they are known.

Input is read in blocks of what has arrived, so that a person at a terminal gets an answer a line and a file of any
size never lies in memory as a whole. A text is what stands between two line feeds.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from .. import inference
from ..errors import UserError
from ..parsing import SettingsParser

_BLOCK_BYTES = 1 << 18  # read at once at most: some 2,500 tweets, sorted by length among themselves
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass
class PredictArguments:
    """Flags of this verb."""

    model: str | None = field(default=None, metadata={"help": "finished folder, or id on the Hub"})
    input: str | None = field(default=None, metadata={"help": "file with one text a line; - reads what is piped in"})
    batch_size: int = field(default=64, metadata={"help": "texts run at once"})


def run(argv: Sequence[str]) -> None:
    """Print `{"label": ..., "score": ...}` for each text.

    Raises:
        UserError: For a mistake in flags or model, or a line that is not UTF-8; earlier lines are answered by then.
    """
    parser = SettingsParser(PredictArguments, prog="hf-rnn predict")
    parser.add_argument("--text", action="append", help="a text; may be given several times")
    arguments, namespace = parser.parse(argv)
    if arguments.model is None:
        raise UserError("--model is missing: give a finished folder")
    if (namespace.text is None) == (arguments.input is None):
        raise UserError("give either --text (several times if you like) or --input FILE (- for what is piped in)")
    if arguments.batch_size < 1:
        raise UserError(f"--batch_size must be at least 1, found {arguments.batch_size}")
    if arguments.input not in (None, "-"):
        if Path(arguments.input).is_dir():
            raise UserError(f"{arguments.input} is a folder: give a file with one text a line")
        if not Path(arguments.input).exists():  # a named pipe is as good as a file
            raise UserError(f"there is no file {arguments.input}")
    for text in namespace.text or ():
        inference.check_text(text)
    inference.quiet()
    model, tokenizer = inference.load_model(arguments.model)
    for texts in [namespace.text] if namespace.text is not None else _read(arguments.input):
        logits = inference.compute_logits(model, tokenizer, inference.tokenize(tokenizer, texts), arguments.batch_size)
        scores, labels = inference.compute_scores(model, logits).max(dim=-1)
        for score, label in zip(scores.tolist(), labels.tolist(), strict=True):
            sys.stdout.write(
                json.dumps({"label": model.config.id2label[label], "score": score}, ensure_ascii=False) + "\n"
            )
        sys.stdout.flush()


def _read(name: str) -> Iterator[list[str]]:
    """Yield the texts of a file, or of standard input for `-`, in blocks."""
    if name == "-":
        yield from _blocks(sys.stdin.buffer, "standard input")
        return
    with open(name, "rb") as stream:
        yield from _blocks(stream, name)


def _blocks(stream: BinaryIO, name: str) -> Iterator[list[str]]:
    """Yield the texts of the whole lines that each read completes; the last line needs no line feed."""
    number, rest = 1, b""
    while arrived := stream.read1(_BLOCK_BYTES):  # type: ignore[attr-defined] # of buffered streams, which both are
        *lines, rest = (rest + arrived).split(b"\n")
        if lines:
            yield from _texts(lines, name, number)
            number += len(lines)
    if rest:
        yield from _texts([rest], name, number)


def _texts(lines: list[bytes], name: str, number: int) -> Iterator[list[str]]:
    """Decode lines, the first of which has this number; those before a bad one are yielded before it is refused."""
    texts: list[str] = []
    for offset, line in enumerate(lines):
        if number + offset == 1:
            line = line.removeprefix(_BYTE_ORDER_MARK)
        try:
            texts.append(line.removesuffix(b"\r").decode("utf-8"))
        except UnicodeDecodeError as error:
            yield texts
            raise UserError(f"{name}:{number + offset}: not UTF-8 at byte {error.start} of the line") from error
    yield texts
