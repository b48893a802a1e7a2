"""`hf-rnn export`: a trained model as a file for ONNX Runtime, which is written once it gives the model's answers."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path

from ..data import DataError
from ..data.line_reader import read_texts
from ..data.row_errors import BadRow
from ..hub import loading as model_loading
from ..inference.onnx import export
from ..inference.onnx.parity import MOST_EXAMPLES
from ..training.arguments.parser import SettingsParser, expand_home
from ..utils.errors import UserError
from .model_flags import ModelFlags


@dataclass
class ExportArguments(ModelFlags):
    """Flags of this verb."""

    quantize: str | None = field(default=None, metadata={"help": "int8: weights in 8 bits; float32 if not given"})
    output_dir: str | None = field(
        default=None, metadata={"help": "folder for the file; onnx/ in the finished folder if not given"}
    )
    input: str | None = field(
        default=None,
        metadata={"help": "file with a text a line, such as the model will meet: the first 100 are compared too"},
    )


def run(argv: Sequence[str]) -> None:
    """Write the file and print one JSON object: `file`, `bytes`, `max_difference`, `agreement`, `texts`.

    Raises:
        UserError: For a mistake in flags or model, and when the file would not give the model's answers.
    """
    (arguments,) = SettingsParser(ExportArguments, prog="hf-rnn export").parse(argv)
    name = arguments.model_name()
    expand_home(arguments, "input")
    texts = [] if arguments.input is None else _read(arguments.input)
    model_loading.quiet()
    result = export(name, arguments.quantize, arguments.output_dir, arguments.revision, texts)
    print(json.dumps({**dataclasses.asdict(result), "file": str(result.file)}, ensure_ascii=False))


def _read(name: str) -> list[str]:
    """Return the first lines of a file."""
    if not name or Path(name).is_dir() or not Path(name).exists():  # a named pipe is as good as a file
        raise UserError(f"--input {name!r} is no file: give one with a text a line")
    texts: list[str] = []
    with open(name, "rb") as stream:
        for line in islice(chain.from_iterable(read_texts(stream, name)), MOST_EXAMPLES):
            if isinstance(line, BadRow):
                raise DataError.for_row(line)
            texts.append(line)
    return texts
