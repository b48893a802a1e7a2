"""Write `onnx/model.onnx` of a trained model, if ONNX Runtime gives the model's numbers with it."""

from __future__ import annotations

import json
import logging
import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import normalize

from ... import __version__
from ...data.tokens import TokenizerFile
from ...hub.card import amend_card
from ...hub.model_folder import FinishedFolder, check_name, find_built_in, find_folder, load_model
from ...models.auto import ENCODER
from ...utils.errors import UserError, install_hint
from ...utils.process import write_whole
from ..engines import CLASSIFIER, Source, TokenIds, pad_ids
from ..engines.onnx import WEIGHTS_KEY, open_session, run_session
from ..engines.stored import PROJECTION, fingerprint_folder
from ..engines.torch import load_sentence_model
from ..stream import HOSTILE
from ..web.page import ExportSource, write_page, write_transformers_js

if TYPE_CHECKING:
    from onnxruntime import InferenceSession
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

MAX_DIFFERENCE = 1e-4  # between two numbers of the output
_RELATIVE_DIFFERENCE = 1e-5  # the same for numbers above 10, whose last digits float32 rounds
_LARGEST_HALF = 6e4  # in float16
TEXTS = 200
_BATCH = 16  # texts
_LONGEST = 60  # words of a random text
_CHECKED = 60  # texts that a page checks
_LONGEST_CHECKED = 300  # their characters


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
    difference = measure_difference(source, open_session(graph), _encode(source, texts))

    target = source.folder.onnx_model
    root = source.folder.root  # has the folders for JavaScript
    if output_dir is not None:
        root = Path(os.path.expanduser(output_dir))
        target = root / target.name
    if not difference <= MAX_DIFFERENCE:  # NaN too
        raise UserError(
            f"{target} was not written: over {TEXTS} texts its numbers differ by up to "
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


def _encode(source: ExportSource, texts: list[str]) -> list[list[int]]:
    """Return the token ids of texts; refuse a tokenizer whose file gives others."""
    file = source.folder.tokenizer
    ids = source.tokenizer(texts, truncation=True)["input_ids"]
    if file.is_file() and TokenizerFile(source.folder)(texts, truncation=True)["input_ids"] != ids:
        raise UserError(
            f"{file} gives other ids than transformers with tokenizer_config.json: "
            "save both again with tokenizer.save_pretrained"
        )
    return ids


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


def load_source(name: str, revision: str | None) -> ExportSource:
    """Load a model, and refuse one that the graph does not support."""
    try:
        from .graph import ONNX_CELLS, ONNX_POOLINGS
    except ImportError as error:
        raise UserError(
            f"export needs onnx and onnxruntime. Type: {install_hint('onnx')}"
        ) from error

    folder = FinishedFolder(find_folder(name, revision))
    model, tokenizer = load_model(folder.root, allow_encoder=True)
    config = model.config
    head = type(model).__name__
    refused = f"{name} cannot be exported to ONNX"
    if head not in (CLASSIFIER, ENCODER):
        raise UserError(
            f"{refused}: found the head {head}, the export knows {CLASSIFIER}, {ENCODER}; "
            "use hf_rnn.FastRnn"
        )
    if config.sep_token_id is not None:
        raise UserError(
            f"{refused}: it reads pairs of texts, and the export knows single ones; "
            "use hf_rnn.FastRnn"
        )
    for setting, supported in (("cell_type", ONNX_CELLS), ("pooling", ONNX_POOLINGS)):
        value = getattr(config, setting)
        if value not in supported:
            raise UserError(
                f"{refused}: found {setting} {value!r}; train with one of {', '.join(supported)}"
            )
    gives_vectors = head == ENCODER and (folder.root / PROJECTION).is_file()
    if gives_vectors:
        model, _ = load_sentence_model(Source(name, folder, is_encoder=True))
    return ExportSource(folder, model, tokenizer, gives_vectors, fingerprint_folder(folder))


# ---- the comparison ----


def make_texts(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return `TEXTS` texts: hostile ones, and random words of the vocabulary.

    The first entries of the vocabulary are drawn more often, as they are more frequent in texts.
    """
    chance = random.Random(0)
    size = len(tokenizer)
    texts = ["", " \t ", *HOSTILE, "the " * 600, "a" * 3000]
    while len(texts) < TEXTS:
        ids = [int(size * chance.random() ** 3) for _ in range(chance.randint(1, _LONGEST))]
        texts.append(str(tokenizer.decode(ids)))
    return texts


@torch.inference_mode()
def measure_difference(
    source: ExportSource, session: InferenceSession, input_ids: TokenIds
) -> float:
    """Return the largest difference between two numbers, less where they exceed 10, or NaN."""
    differences = [0.0]
    model = source.model
    for start in range(0, len(input_ids), _BATCH):
        ids, mask = pad_ids(input_ids[start : start + _BATCH])
        batch = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
        outputs = model(**batch)
        if source.gives_vectors:
            states = model.classifier(model.rnn(**batch).last_hidden_state)
            outputs = {
                "last_hidden_state": states * batch["attention_mask"][:, :, None],
                "sentence_embedding": normalize(outputs.logits, dim=-1),
            }
        for name, numbers in run_session(session, ids, mask).items():
            expected = outputs[name].numpy()
            allowed = max(1.0, _RELATIVE_DIFFERENCE / MAX_DIFFERENCE * np.abs(expected).max())
            differences.append(np.abs(expected - numbers).max() / allowed)
    return float(np.max(differences))
