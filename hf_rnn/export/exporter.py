"""Write `onnx/model.onnx` of a trained model, if ONNX Runtime gives the model's numbers with it."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from .. import __version__
from ..hub.card import amend_card
from ..hub.model_folder import FinishedFolder, check_name, find_built_in
from ..models.auto import ENCODER
from ..utils.errors import UserError
from ..utils.process import write_whole
from .check import (
    MAX_DIFFERENCE,
    ExportSource,
    encode_as_file,
    load_source,
    make_texts,
    measure_difference,
    open_session,
)
from .page import write_page
from .transformers_js import write_transformers_js

logger = logging.getLogger(__name__)

_LARGEST_HALF = 6e4  # in float16
_CHECKED = 60  # texts that a page checks
_LONGEST_CHECKED = 300  # their characters
WEIGHTS_KEY = "weights"  # in the metadata of the file: the fingerprint of its weights


@dataclass(frozen=True)
class ExportResult:
    """The file that an export wrote, and its agreement with the model."""

    file: Path
    bytes: int  # its size
    max_difference: float  # between its numbers and the model's
    texts: int  # compared
    web: Path | None = None  # folder of the page


def export(
    name_or_path: str | Path,
    output_dir: str | Path | None = None,
    revision: str | None = None,
    web: bool = False,
    npm: str | Path | None = None,
) -> ExportResult:
    """Write a classifier or an encoder for ONNX Runtime; OpenVINO reads classifiers too.

    Each number for 200 texts, hostile ones and random words of the vocabulary, must be within 1e-4
    of the model's (within 1e-5 of the largest one if that is above 10). An embedding table whose
    values have 8 significant bits, as that of the package's encoders, is stored in float16. The
    folder `transformers_js/` beside `onnx/` (or in `output_dir`) has the same for the pipelines of
    transformers.js.

    Args:
        name_or_path: A finished folder, a repo id of the Hub, or the name of an encoder of this
            package.
        output_dir: Folder of the file; None is `onnx/` in the finished folder, whose card then
            lists the file.
        revision: Branch, tag or commit, for a repo id.
        web: Whether to write a page for browsers too, into `web/`.
        npm: For the page: folder whose `node_modules` has its two packages; None takes them from a
            CDN.

    Raises:
        UserError: If the model cannot be loaded or exported, packages are missing, or the file does
            not give the model's answers.
    """
    name = os.path.expanduser(name_or_path)
    if find_built_in(name) is None:
        check_name(name, "a trained model")
    if output_dir is None and not Path(name).is_dir():
        raise UserError(f"{name} is not a local folder: set output_dir to the folder of the file")
    source = load_source(name, revision)
    if web and type(source.model).__name__ == ENCODER:
        raise UserError(
            f"{name} has no web page: it has no sentence vectors to show; leave out --web"
        )
    texts = make_texts(source.tokenizer)
    graph = _write_graph(source)
    difference = measure_difference(source, open_session(graph), encode_as_file(source, texts))

    target = source.folder.onnx_model
    root = source.folder.root  # has the folders for JavaScript
    if output_dir is not None:
        root = Path(os.path.expanduser(output_dir))
        target = root / target.name
    if not difference <= MAX_DIFFERENCE:  # NaN too
        raise UserError(
            f"{target} was not written: over {len(texts)} texts its numbers differ by up to "
            f"{difference:.2g}, more than {MAX_DIFFERENCE:.2g}. Please report this model"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    write_whole(target, graph)
    write_transformers_js(root / "transformers_js", source, target)
    if web:
        checked = [text for text in texts[:_CHECKED] if len(text) < _LONGEST_CHECKED]
        write_page(root / "web", source, target, checked, npm)

    logger.info(
        "%s: %s bytes; over %d texts its numbers differ by at most %.1e",
        target,
        f"{len(graph):,}",
        len(texts),
        difference,
    )
    result = ExportResult(target, len(graph), difference, len(texts), root / "web" if web else None)
    if output_dir is None:
        name = target.relative_to(root).as_posix()
        facts = {"bytes": len(graph), "max_difference": difference, "texts": len(texts)}
        if not amend_card(source.folder, onnx={name: facts}):
            message = "%s was edited by hand and stays as it is: add a line on %s yourself"
            logger.info(message, source.folder.card, name)
    elif source.folder.thresholds.is_file():
        write_whole(FinishedFolder(root).thresholds, source.folder.thresholds.read_bytes())
    return result


def _write_graph(source: ExportSource) -> bytes:
    """Return the content of the file."""
    from .graph import build_graph

    config = source.model.config
    metadata = {
        "model_type": config.model_type,
        "id2label": json.dumps(config.id2label, ensure_ascii=False),
        "problem_type": config.problem_type or "single_label_classification",
        "version": __version__,
        WEIGHTS_KEY: source.fingerprint,
    }
    table = source.model.get_input_embeddings().weight.detach()
    has_short_numbers = torch.equal(table, table.bfloat16().to(table.dtype))
    fits_half = has_short_numbers and float(table.abs().max()) < _LARGEST_HALF
    return build_graph(source.model, metadata, source.gives_vectors, fits_half).SerializeToString()
