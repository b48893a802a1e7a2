"""`hf-rnn export`: a trained model as a file for ONNX Runtime, which is written once it gives the model's answers."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from .. import model_loading
from ..arguments.parsing import SettingsParser
from ..export import export
from .model_flags import ModelFlags


@dataclass
class ExportArguments(ModelFlags):
    """Flags of this verb."""

    quantize: str | None = field(default=None, metadata={"help": "int8: weights in 8 bits; float32 if not given"})
    output_dir: str | None = field(
        default=None, metadata={"help": "folder for the file; onnx/ in the finished folder if not given"}
    )


def run(argv: Sequence[str]) -> None:
    """Write the file and print one JSON object: `file`, `bytes`, `max_difference`, `agreement`, `texts`.

    Raises:
        UserError: For a mistake in flags or model, and when the file would not give the model's answers.
    """
    (arguments,) = SettingsParser(ExportArguments, prog="hf-rnn export").parse(argv)
    name = arguments.model_name()
    model_loading.quiet()
    result = export(name, arguments.quantize, arguments.output_dir, arguments.revision)
    print(json.dumps({**dataclasses.asdict(result), "file": str(result.file)}, ensure_ascii=False))
