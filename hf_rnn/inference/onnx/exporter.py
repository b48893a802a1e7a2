"""Write `onnx/model.onnx` or `onnx/model_int8.onnx` of a trained model.

`graph.py` makes the graph and `parity.py` compares its answers with the model's. The card lists the file.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ... import __version__
from ...hub.card import CardFacts, amend_card, read_facts
from ...hub.loading import check_name, find_folder, load_model
from ...hub.model_folder import FinishedFolder, find_built_in
from ...models.auto import ENCODER
from ...utils.atomic_write import write_whole
from ...utils.errors import UserError, install_hint
from ...utils.text_checks import list_texts
from ..reference import tokenize
from ..sentence_encoder import PROJECTION, load_sentence_model
from .parity import MOST_EXAMPLES, Parity, make_texts, measure_parity
from .runtime import LABELS_KEY, WEIGHTS_KEY, TokenizerFile, hash_weights, open_session, run_session, write_labels

if TYPE_CHECKING:
    import onnx
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

MAX_DIFFERENCE = 1e-4  # between two logits in float32
_RELATIVE_DIFFERENCE = 1e-5  # the same for logits above 10, whose last digits float32 rounds
MIN_AGREEMENT = 0.99  # share of equal answers in int8


@dataclass(frozen=True)
class ExportResult:
    """The file that an export wrote, and its agreement with the model."""

    file: Path
    bytes: int  # its size
    max_difference: float  # between its logits and the model's
    agreement: float  # share of equal answers, from 0 to 1
    texts: int  # compared; each is padded on the right, on the left, and with holes


def export(
    name_or_path: str | Path,
    quantize: str | None = None,
    output_dir: str | Path | None = None,
    revision: str | None = None,
    texts: Iterable[str] = (),
) -> ExportResult:
    """Write a trained model for ONNX Runtime (OpenVINO reads the float32 file of a classifier too).

    The file maps `input_ids` and `attention_mask`, int64 `(batch, time)`, to `logits`, or `last_hidden_state` and
    `sentence_embedding` of an encoder; a language model also reads `past_hidden_state` and returns
    `present_hidden_state`, and so on. Its metadata contain `id2label`, `model_type`, `version` and the hash of the
    weights. Before it is written, it runs on 200 texts: hostile ones, up to a hundred real ones (`texts`, then the
    card's examples), and random words of the vocabulary. In float32 each number must be within 1e-4 of the model's
    (within 1e-5 of the largest one if that is above 10); in int8 99 % of the answers must be equal, or their scores
    within 0.03.

    Args:
        name_or_path: A finished folder, a repo id of the Hub, or the name of an encoder of this package.
        quantize: `"int8"` stores weights in 8 bits, and computes in 8 bits where ONNX Runtime can: embedding, LSTM and
            matrix products; the other cells stay in float32.
        output_dir: Folder of the file; None is `onnx/` in the finished folder, whose card then lists the file.
        revision: Branch, tag or commit, for a repo id.
        texts: Real texts, such as the model will meet; the first hundred are used.

    Raises:
        UserError: For an invalid text; if the model cannot be loaded or exported, packages are missing, or the file
            does not give the model's answers.

    Example:
        >>> export("out/tweets", quantize="int8").file
        PosixPath('out/tweets/onnx/model_int8.onnx')
    """
    if quantize not in (None, "int8"):
        raise UserError(f"quantize must be int8, or be left out, found {quantize!r}")
    try:
        import onnx  # noqa: F401
        import onnxruntime.quantization  # noqa: F401
    except ImportError as error:
        raise UserError(f"export needs onnx and onnxruntime. Type: {install_hint('onnx')}") from error
    examples = list_texts(list(islice(texts, MOST_EXAMPLES)))
    name_or_path = os.path.expanduser(name_or_path)
    if find_built_in(name_or_path) is None:
        check_name(name_or_path, "a trained model")
    if output_dir is None and not Path(name_or_path).is_dir():
        raise UserError(f"{name_or_path} is not a local folder: set output_dir to the folder of the file")
    folder = FinishedFolder(find_folder(name_or_path, revision))
    facts = read_facts(folder)
    model, tokenizer = load_model(folder.root, allow_encoder=True)
    _check_model(model, quantize, str(name_or_path))
    metadata = _make_metadata(model.config, folder)
    is_encoder = type(model).__name__ == ENCODER and (folder.root / PROJECTION).is_file()
    if is_encoder:
        model, _ = load_sentence_model(folder.root)
    from .heads import build_graph

    graph = build_graph(model, metadata, is_encoder)
    content = graph.SerializeToString() if quantize is None else _quantize(graph)
    examples += [text for shown in (facts.examples if facts and facts.examples else {}).values() for text in shown]
    compared = make_texts(tokenizer, examples)
    _check_tokenizer(folder, tokenizer, compared)
    parity = measure_parity(model, tokenizer, partial(run_session, open_session(content)), examples, is_encoder)
    target = folder.onnx_model if quantize is None else folder.onnx_model_int8
    if output_dir is not None:
        target = Path(os.path.expanduser(output_dir)) / target.name
    _check_parity(parity, quantize, target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(target, content)
    except OSError as error:
        raise UserError(
            f"{target} cannot be written: {error.strerror}; make room there, or set output_dir to another folder"
        ) from error
    logger.info(
        "%s: %s bytes; over %d texts its numbers differ by at most %.1e, and %.2f %% of the answers are equal",
        target,
        f"{len(content):,}",
        parity.texts,
        parity.max_difference,
        100 * parity.agreement,
    )
    result = ExportResult(target, len(content), parity.max_difference, parity.agreement, parity.texts)
    if output_dir is None and facts is not None:
        _add_to_card(folder, facts, result)
    return result


def _check_model(model: Any, quantize: str | None, name: str) -> None:
    """Refuse a model that the graph does not support, or whose answers cannot be compared."""
    from .graph import ONNX_CELLS, ONNX_POOLINGS

    for setting, known in (("cell_type", ONNX_CELLS), ("pooling", ONNX_POOLINGS)):
        if (found := getattr(model.config, setting)) not in known:
            raise UserError(
                f"{name} cannot be exported to ONNX: found {setting} {found!r}; train with one of {', '.join(known)}"
            )
    if quantize is not None and model.config.problem_type == "regression":
        raise UserError(f"{name} predicts numbers, and int8 is checked by labels only: leave out quantize")


def _check_tokenizer(folder: FinishedFolder, tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> None:
    """Refuse a `tokenizer.json` that alone, without transformers, gives other ids."""
    if folder.tokenizer.is_file() and TokenizerFile(folder)(texts)["input_ids"] != tokenize(tokenizer, texts):
        raise UserError(
            f"{folder.tokenizer} gives other ids than transformers with tokenizer_config.json: save both again with "
            "tokenizer.save_pretrained"
        )


def _make_metadata(config: Any, folder: FinishedFolder) -> dict[str, str]:
    return {
        "model_type": config.model_type,
        LABELS_KEY: write_labels(config),
        "problem_type": config.problem_type or "single_label_classification",
        "version": __version__,
        WEIGHTS_KEY: hash_weights(folder),
    }


def _quantize(graph: onnx.ModelProto) -> bytes:
    """Return a graph with its weights in int8, made by ONNX Runtime's own tool."""
    from onnxruntime.quantization import quantize_dynamic

    with tempfile.TemporaryDirectory(prefix="hf-rnn-") as folder, _mute_root_logger():
        path = Path(folder) / "quantized.onnx"
        # weights of 7 bits: without VNNI a CPU adds two products in 16 bits, which overflow with weights of 8 bits
        quantize_dynamic(graph, path, reduce_range=True)
        return path.read_bytes()


@contextlib.contextmanager
def _mute_root_logger() -> Iterator[None]:
    """Suppress the quantiser's advice, and keep its messages from setting up logging."""
    root, handler, refuse = logging.getLogger(), logging.NullHandler(), lambda record: False
    root.addHandler(handler)
    root.addFilter(refuse)
    try:
        yield
    finally:
        root.removeFilter(refuse)
        root.removeHandler(handler)


def _check_parity(parity: Parity, quantize: str | None, target: Path) -> None:
    """Refuse a file that does not give the model's answers; NaN fails too."""
    limit = max(MAX_DIFFERENCE, _RELATIVE_DIFFERENCE * parity.largest)
    measured = f"over {parity.texts} texts its numbers differ by up to {parity.max_difference:.2g}"
    if quantize is None and not parity.max_difference <= limit:
        raise UserError(f"{target} was not written: {measured}, more than {limit:.2g}. Please report this model")
    if quantize is not None and not (parity.agreement >= MIN_AGREEMENT and parity.max_difference < float("inf")):
        raise UserError(
            f"{target} was not written: {measured}, and only {parity.agreement:.2%} of the answers are the model's "
            f"(at least {MIN_AGREEMENT:.0%} is required). This model needs float32: leave out --quantize"
        )


def _add_to_card(folder: FinishedFolder, facts: CardFacts, result: ExportResult) -> None:
    """Add the file to the card, unless the card was edited by hand."""
    name = result.file.relative_to(folder.root).as_posix()
    fact = {key: value for key, value in asdict(result).items() if key != "file"}
    existing = {other: known for other, known in (facts.onnx or {}).items() if (folder.root / other).is_file()}
    if not amend_card(folder, facts, onnx=dict(sorted({**existing, name: fact}.items()))):
        logger.info("%s was edited by hand and stays as it is: add a line on %s yourself", folder.card, name)
