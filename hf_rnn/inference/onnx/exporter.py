"""A finished folder → `onnx/model.onnx` or `onnx/model_int8.onnx` in it, once ONNX Runtime gives the model's answers.

The graph is made in `onnx_graph.py` and tried in `parity.py`; a file that disagrees is never written. The card tells
what was made.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ... import __version__
from ...hub.card import CardFacts
from ...hub.card.files import amend_card, read_facts
from ...hub.loading import check_name, find_folder, load_model
from ...hub.model_folder import FinishedFolder
from ...models.configuration_rnn import RnnConfig
from ...models.modeling_rnn import RnnForSequenceClassification
from ...training.output_dir import find_obstacle
from ...utils.atomic_write import write_whole
from ...utils.errors import UserError
from ..reference import list_texts
from .parity import MOST_EXAMPLES, Parity, measure_parity
from .runtime import LABELS_KEY, WEIGHTS_KEY, hash_weights, open_session, run_session, write_labels

if TYPE_CHECKING:
    import onnx

logger = logging.getLogger(__name__)

MAX_DIFFERENCE = 1e-4  # of two logits in float32
_RELATIVE_DIFFERENCE = 1e-5  # the same of logits above 10, of which float32 has no more digits
MIN_AGREEMENT = 0.99  # of the answers in int8
_LARGEST_FILE = 2**31 - 2**20  # bytes: protobuf's limit, less what is not weights


@dataclass(frozen=True)
class ExportResult:
    """What an export wrote, and how it was found to agree.

    Attributes:
        file: The file.
        bytes: Its size.
        max_difference: The largest difference of its logits from the model's.
        agreement: Share of its answers that are the model's, from 0 to 1.
        texts: On how many texts; each padded on the right, on the left, and with holes.
    """

    file: Path
    bytes: int
    max_difference: float
    agreement: float
    texts: int


def export(
    name_or_path: str | Path,
    quantize: str | None = None,
    output_dir: str | Path | None = None,
    revision: str | None = None,
    texts: Iterable[str] = (),
) -> ExportResult:
    """Write a trained model for ONNX Runtime (OpenVINO reads the float32 file too).

    The file takes `input_ids` and `attention_mask`, int64 `(batch, time)`, and gives `logits`, float32 `(batch,
    classes)`. It holds `id2label`, `model_type`, `version` and the hash of the weights in its metadata. Before it is
    written, it runs on 200 texts: hostile ones, up to a hundred real ones, which are those given here and the card's
    examples, and else words of the vocabulary at random. In float32 each logit must be within 1e-4 of the model's
    (within 1e-5 of the largest, where that is above 10), in int8 99 % of the answers must be the same.

    Args:
        name_or_path: A finished folder, or a repo id of the Hub.
        quantize: `"int8"` stores weights in 8 bits, and computes in them where ONNX Runtime can: embedding, LSTM and
            matrix products; the other cells stay in float32.
        output_dir: Where the file goes; None is `onnx/` in the finished folder, whose card then tells of it.
        revision: Branch, tag or commit, for a repo id.
        texts: Real ones, such as the model will meet; the first hundred are taken.

    Raises:
        UserError: For something that is no text; when the model cannot be loaded, the packages are missing, or the
            file would be too large or does not give the model's answers.

    Example:
        >>> export("out/tweets", quantize="int8").file
        PosixPath('out/tweets/onnx/model_int8.onnx')
    """
    if quantize not in (None, "int8"):
        raise UserError(f"quantize must be int8, or be left out, found {quantize!r}")
    _check_packages()
    examples = list_texts(list(islice(texts, MOST_EXAMPLES)))
    name_or_path = os.path.expanduser(name_or_path)
    output_dir = None if output_dir is None else os.path.expanduser(output_dir)
    check_name(name_or_path, "a trained model")
    own = Path(name_or_path).is_dir()
    if output_dir is None and not own:
        raise UserError(f"{name_or_path} is not a folder here: say with output_dir where the file is to go")
    if output_dir is not None and not str(output_dir):
        raise UserError("output_dir is empty: give the folder where the file is to go, or leave it out")
    if output_dir is not None and Path(output_dir).exists() and not Path(output_dir).is_dir():
        raise UserError(f"output_dir {output_dir} is a file: give a folder")
    if output_dir is not None:
        _check_writable(Path(output_dir))
    folder = FinishedFolder(find_folder(name_or_path, revision))
    if output_dir is None and folder.onnx_model.parent.is_file():
        raise UserError(f"{folder.onnx_model.parent} is a file, where a folder must be: move it away")
    facts = read_facts(folder)
    if output_dir is None:
        _check_writable(folder.onnx_model.parent)
        if facts is not None:
            _check_writable(folder.root)  # its card tells of the file
    model, tokenizer = load_model(folder.root)
    model = model.float()
    _check_kind(model.config, quantize, str(name_or_path))
    content = _make(model, _metadata(model.config, folder), quantize)
    examples += [text for shown in (facts.examples if facts and facts.examples else {}).values() for text in shown]
    parity = measure_parity(model, tokenizer, partial(run_session, open_session(content)), examples)
    named = folder.onnx_model if quantize is None else folder.onnx_model_int8
    target = named if output_dir is None else Path(output_dir) / named.name
    _check_parity(parity, quantize, target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(target, content)
    except OSError as error:
        raise UserError(
            f"{target} cannot be written: {error.strerror}. Make room there, or name another folder with output_dir"
        ) from error
    logger.info(
        "%s: %s bytes; over %d texts logits differ by at most %.1e, and %.2f %% of the answers are the same",
        target,
        f"{len(content):,}",
        parity.texts,
        parity.max_difference,
        100 * parity.agreement,
    )
    result = ExportResult(target, len(content), parity.max_difference, parity.agreement, parity.texts)
    if output_dir is None:
        _tell_card(folder, facts, result)
    return result


def _check_writable(folder: Path) -> None:
    """Refuse a folder that cannot be made or written to, before the work."""
    if (there := find_obstacle(folder)) is not None:
        raise UserError(
            f"{folder} cannot be written to: {there} is no folder that you may write in. Give another with output_dir"
        )


def _check_packages() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime.quantization  # noqa: F401
    except ImportError as error:
        raise UserError("export needs onnx and onnxruntime. Type: pip install 'hf-rnn[onnx]'") from error


def _check_kind(config: RnnConfig, quantize: str | None, name: str) -> None:
    """Refuse what cannot be written, or not checked."""
    if quantize is not None and config.problem_type == "regression":
        raise UserError(f"{name} answers with numbers, no labels, of which int8 could keep 99 %: leave out quantize")
    size = 4 * config.vocab_size * config.embedding_size
    if size > _LARGEST_FILE:
        raise UserError(f"{name} has an embedding of {size:,} bytes: an ONNX file holds {_LARGEST_FILE:,} at most")


def _metadata(config: RnnConfig, folder: FinishedFolder) -> dict[str, str]:
    return {
        "model_type": config.model_type,
        LABELS_KEY: write_labels(config),
        "problem_type": config.problem_type or "single_label_classification",
        "version": __version__,
        WEIGHTS_KEY: hash_weights(folder),
    }


def _make(model: RnnForSequenceClassification, metadata: dict[str, str], quantize: str | None) -> bytes:
    """Return the content of the file."""
    from .graph import build_graph

    graph = build_graph(model, metadata)
    return graph.SerializeToString() if quantize is None else _quantize(graph)


def _quantize(graph: onnx.ModelProto) -> bytes:
    """Return a graph with its weights in int8, as ONNX Runtime's own tool makes it."""
    from onnxruntime.quantization import quantize_dynamic

    with tempfile.TemporaryDirectory(prefix="hf-rnn-") as room, _root_logger_quiet():
        path = Path(room) / "quantized.onnx"
        # weights of 7 bits: a processor without VNNI adds two products in 16 bits, which those of 8 bits overflow
        quantize_dynamic(graph, path, reduce_range=True)
        return path.read_bytes()


@contextlib.contextmanager
def _root_logger_quiet() -> Iterator[None]:
    """Keep the quantiser's advice, of no use here, off stderr, and its messages from setting up logging."""

    def refuse(record: logging.LogRecord) -> bool:
        return False

    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)
    root.addFilter(refuse)
    try:
        yield
    finally:
        root.removeFilter(refuse)
        root.removeHandler(handler)


def _check_parity(parity: Parity, quantize: str | None, target: Path) -> None:
    """Refuse what does not give the model's answers."""
    limit = max(MAX_DIFFERENCE, _RELATIVE_DIFFERENCE * parity.largest_logit)
    measured = f"over {parity.texts} texts logits differ by up to {parity.max_difference:.2g}"
    if quantize is None and not parity.max_difference <= limit:  # NaN is no agreement either
        raise UserError(f"{target} was not written: {measured}, more than {limit:.2g}. Please report this model")
    if quantize is not None and not (parity.agreement >= MIN_AGREEMENT and parity.max_difference < float("inf")):
        raise UserError(
            f"{target} was not written: {measured}, and only {parity.agreement:.2%} of the answers are the model's "
            f"({MIN_AGREEMENT:.0%} are wanted). This model needs float32: leave out --quantize"
        )


def _tell_card(folder: FinishedFolder, facts: CardFacts | None, result: ExportResult) -> None:
    """Put a line into the card, unless somebody has written in it."""
    if facts is None:
        return
    name = result.file.relative_to(folder.root).as_posix()
    fact: dict[str, Any] = {
        "bytes": result.bytes,
        "max_difference": result.max_difference,
        "agreement": result.agreement,
        "texts": result.texts,
    }
    there = {other: known for other, known in (facts.onnx or {}).items() if (folder.root / other).is_file()}
    if not amend_card(folder, facts, onnx=dict(sorted({**there, name: fact}.items()))):
        logger.info("%s was edited by hand and stays as it is: add a line on %s yourself", folder.card, name)
