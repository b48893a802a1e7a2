"""`hf-rnn export`: write a trained model for ONNX Runtime, if it gives the same answers."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass

from ..models.settings_rnn import setting
from ..settings.flags import Flags
from ..utils.errors import UserError
from .console import ModelFlags


@dataclass
class ExportArguments(ModelFlags):
    """Flags of this verb."""

    output_dir: str | None = setting(
        None, "folder for the file (default: onnx/ in the finished folder)"
    )
    web: bool = setting(
        False,
        "also write web/: a page that runs the model in a browser; any web server can serve it",
    )
    npm: str | None = setting(
        None,
        "for the page: folder with node_modules, whose two packages are copied (default: a CDN)",
    )


_MEANING = "Write a model for ONNX Runtime or browsers, and compare its answers with the model's."
FLAGS = Flags("export", ExportArguments, _MEANING, "my-model --web", ("model",))


def run(argv: Sequence[str]) -> None:
    """Write the file; print `file`, `bytes`, `max_difference`, `texts`, perhaps `web`, as JSON."""
    arguments: ExportArguments = FLAGS.build(argv)
    arguments.check_model()
    if arguments.npm is not None and not arguments.web:
        raise UserError("--npm is for the page: add --web, or leave it out")
    from ..export import export
    from ..hub import model_folder

    model_folder.quiet()
    result = export(
        arguments.model, arguments.output_dir, arguments.revision, arguments.web, arguments.npm
    )
    fields = {
        name: value for name, value in dataclasses.asdict(result).items() if value is not None
    }
    print(json.dumps(fields, ensure_ascii=False, default=str))
