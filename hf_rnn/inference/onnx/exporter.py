"""Write `onnx/model.onnx` or `onnx/model_int8.onnx` of a trained model, if it gives the model's answers to 200 texts.

Legend: B batch, T time.
"""

from __future__ import annotations

import itertools
import logging
import os
import random
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import normalize

from ... import __version__
from ...hub.card import CardFacts, amend_card, read_facts
from ...hub.model_folder import FinishedFolder, check_name, find_built_in, find_folder, load_model
from ...models.auto import ENCODER
from ...tasks import compute_scores, score_kind
from ...utils.errors import UserError, install_hint, list_texts
from ...utils.process import write_whole
from ..engines import CLASSIFIER
from ..engines.onnx import (
    HEADS,
    LABELS_KEY,
    STREAM_KEY,
    WEIGHTS_KEY,
    hash_weights,
    open_session,
    run_session,
    write_labels,
)
from ..engines.stored import PROJECTION
from ..engines.torch import TorchEngine, load_sentence_model, tokenize
from ..tokens import TokenizerFile
from ..web.page import ExportSource, write_page, write_transformers_js

if TYPE_CHECKING:
    import onnx
    from onnxruntime import InferenceSession
    from transformers import PreTrainedTokenizerBase

    from ...models.configuration_rnn import RnnConfig

logger = logging.getLogger(__name__)

MAX_DIFFERENCE = 1e-4  # between two logits in float32
_RELATIVE_DIFFERENCE = 1e-5  # the same for logits above 10, whose last digits float32 rounds
MIN_AGREEMENT = 0.99  # share of equal answers in int8
_SAME_SCORE, _LEAST_COSINE = 0.03, 0.99  # answers are equal within these: an undecided model has either
_LARGEST_HALF = 6e4  # in float16
TEXTS, MOST_EXAMPLES = 200, 100
_BATCHES = (1, 2, 5, 16)  # texts per batch, in turn
_LONGEST = 60  # words of a random text
_LONGEST_CHECKED = 300  # characters of a text that a page checks
# Texts that have broken text programs before. The first is a batch of its own, without any token.
HOSTILE = (
    "",
    " \t ",
    "a",
    "the " * 600,
    "a" * 3000,
    "qxzjv vqxzj",
    "<unk>",
    "<pad> <pad>",
    "[PAD] [UNK] [CLS] </s>",
    "\U0001f600 \U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645",
    "\u05e9\u05dc\u05d5\u05dd hello \u05e2\u05d5\u05dc\u05dd",
    "\u4eca\u5929\u7684\u5929\u6c14\u5f88\u597d",
    "\u039f\u0394\u039f\u03a3 \u03a3\u039f\u03a6\u039f\u03a3",
    "n\u0303o\u0301 e\u0301 \u00e9 \ufb01ne",
    "\u202eback\u202c \u200b\u200b \ufeffmark",
    "one\ttwo\nthree\r\nfour",
    "\x00\x01\x7f",
    "!!! ??? ... ;;; ---",
    "\"quoted\" 'twice' \\n <b>bold</b> &amp;",
    "https://example.org/a?b=c @someone #tag 12,345.67 50%",
    "WHY ARE YOU SHOUTING",
    "not good not bad not good not bad",
)


@dataclass(frozen=True)
class ExportResult:
    """The file that an export wrote, and its agreement with the model."""

    file: Path
    bytes: int  # its size
    max_difference: float  # between its logits and the model's
    agreement: float  # share of equal answers, from 0 to 1
    texts: int  # compared; each is padded on the right, on the left, and with holes
    web: Path | None = None  # folder of the page


def export(
    name_or_path: str | Path,
    quantize: str | None = None,
    output_dir: str | Path | None = None,
    revision: str | None = None,
    texts: Iterable[str] = (),
    web: bool = False,
    npm: str | Path | None = None,
) -> ExportResult:
    """Write a classifier, tagger or encoder for ONNX Runtime (OpenVINO reads the float32 file of a classifier too).

    Before the file is written, it runs on 200 texts: hostile ones, up to a hundred real ones, and random words of the
    vocabulary. In float32 each number must be within 1e-4 of the model's (within 1e-5 of the largest one if that is
    above 10); in int8 99 % of the answers must be equal, or their scores within 0.03. An embedding table whose values
    have 8 significant bits, as that of the package's encoders, is stored in float16. The folder `transformers_js/`
    beside `onnx/` (or in `output_dir`) has the same for the pipelines of transformers.js.

    Args:
        name_or_path: A finished folder, a repo id of the Hub, or the name of an encoder of this package.
        quantize: `"int8"` stores weights in 8 bits, and computes in 8 bits where ONNX Runtime can.
        output_dir: Folder of the file; None is `onnx/` in the finished folder, whose card then lists the file.
        revision: Branch, tag or commit, for a repo id.
        texts: Real texts, such as the model will meet; the first hundred are used.
        web: Whether to write a page for browsers too, into `web/`.
        npm: For the page: folder whose `node_modules` has its two packages; None takes them from a CDN.

    Raises:
        UserError: For an invalid text; if the model cannot be loaded or exported, packages are missing, or the file
            does not give the model's answers.
    """
    _check_request(quantize, name_or_path, output_dir)
    examples = list_texts(list(islice(texts, MOST_EXAMPLES)))
    source = _load(os.path.expanduser(name_or_path), revision, quantize, web)
    folder, compared = source.folder, make_texts(source.tokenizer, examples)
    _check_tokenizer(source, compared)
    target = folder.onnx_model if quantize is None else folder.onnx_model_int8
    if output_dir is not None:
        target = Path(os.path.expanduser(output_dir)) / target.name
    root = target.parent.parent if output_dir is None else target.parent  # has the folders for JavaScript
    graph = _make_graph(source, quantize)
    difference, agreement = _measure_parity(source, open_session(graph), compared)
    _check_parity(difference, agreement, quantize, target)
    page = root / "web" if web else None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(target, graph)
        projected = _make_graph(source, quantize, project_tokens=True) if source.is_encoder else None
        write_transformers_js(root / "transformers_js", source, target, projected)
        if page is not None:
            known = (*HOSTILE, *compared[len(HOSTILE) + len(examples) :][-20:])  # not the user's
            short = [text for text in known if len(text) < _LONGEST_CHECKED]
            write_page(page, source, graph, short, npm)
    except OSError as error:
        advice = "make room there, or set output_dir to another folder"
        raise UserError(f"{target} cannot be written: {error.strerror}; {advice}") from error
    measured = f"its numbers differ by at most {difference:.1e}, and {agreement:.2%} of the answers are equal"
    logger.info("%s: %s bytes; over %d texts %s", target, f"{len(graph):,}", len(compared), measured)
    result = ExportResult(target, len(graph), difference, agreement, len(compared), page)
    if output_dir is None and (facts := read_facts(folder)) is not None:
        _add_to_card(folder, facts, result)
    return result


def _check_request(quantize: str | None, name_or_path: str | Path, output_dir: str | Path | None) -> None:
    """Check what needs no model."""
    if quantize not in (None, "int8"):
        raise UserError(f"quantize must be int8, or be left out, found {quantize!r}")
    try:
        import onnx  # noqa: F401
        import onnxruntime.quantization  # noqa: F401
    except ImportError as error:
        raise UserError(f"export needs onnx and onnxruntime. Type: {install_hint('onnx')}") from error
    name = os.path.expanduser(name_or_path)
    if find_built_in(name) is None:
        check_name(name, "a trained model")
    if output_dir is None and not Path(name).is_dir():
        raise UserError(f"{name} is not a local folder: set output_dir to the folder of the file")


def _load(name: str, revision: str | None, quantize: str | None, web: bool) -> ExportSource:
    """Load a model, and refuse one that the graph does not support, or whose answers cannot be compared."""
    from .graph import ONNX_CELLS, ONNX_POOLINGS

    folder, refused = FinishedFolder(find_folder(name, revision)), f"{name} cannot be exported to ONNX"
    model, tokenizer = load_model(folder.root, allow_encoder=True)
    config, head = model.config, type(model).__name__
    if head not in HEADS:
        raise UserError(f"{refused}: found the head {head}; the export knows {', '.join(HEADS)}")
    if config.sep_token_id is not None:
        raise UserError(f"{refused}: it reads pairs of texts, and the export knows single ones; use hf_rnn.FastRnn")
    for setting, known in (("cell_type", ONNX_CELLS), ("pooling", ONNX_POOLINGS)):
        if (value := getattr(config, setting)) not in known:
            raise UserError(f"{refused}: found {setting} {value!r}; train with one of {', '.join(known)}")
    if quantize is not None and config.problem_type == "regression":
        raise UserError(f"{name} predicts numbers, and int8 is checked by labels only: leave out quantize")
    metadata = {
        "model_type": config.model_type,
        LABELS_KEY: write_labels(config),
        "problem_type": config.problem_type or "single_label_classification",
        "version": __version__,
        WEIGHTS_KEY: hash_weights(folder),
    }
    if head == CLASSIFIER and config.streaming:
        metadata[STREAM_KEY] = TorchEngine(model, tokenizer).fingerprint
    if head == ENCODER:
        if (folder.root / PROJECTION).is_file():
            model, _ = load_sentence_model(folder.root)
        elif web:
            raise UserError(f"{name} has no web page: it has no sentence vectors to show; leave out --web")
    return ExportSource(folder, model, tokenizer, head, metadata)


def _check_tokenizer(source: ExportSource, texts: Sequence[str]) -> None:
    """Refuse a `tokenizer.json` that gives other ids than the tokenizer of transformers."""
    path, expected = source.folder.tokenizer, tokenize(source.tokenizer, texts)
    if path.is_file() and TokenizerFile(source.folder)(texts, truncation=True)["input_ids"] != expected:
        other = f"{path} gives other ids than transformers with tokenizer_config.json"
        raise UserError(f"{other}: save both again with tokenizer.save_pretrained")


def _make_graph(source: ExportSource, quantize: str | None, project_tokens: bool = False) -> bytes:
    """Return the content of the file; see `build_graph`."""
    from .graph import build_graph

    table = source.model.get_input_embeddings().weight.detach()
    is_short = torch.equal(table, table.bfloat16().to(table.dtype)) and float(table.abs().max()) < _LARGEST_HALF
    half_table, streams = (flag and quantize is None for flag in (is_short, STREAM_KEY in source.metadata))
    graph = build_graph(source.model, source.metadata, source.is_encoder, half_table, project_tokens, streams)
    return graph.SerializeToString() if quantize is None else _quantize(graph)


def _quantize(graph: onnx.ModelProto) -> bytes:
    """Return a graph with its weights in int8, made by ONNX Runtime's own tool."""
    from onnxruntime.quantization import quantize_dynamic

    root, handler, level = logging.getLogger(), logging.NullHandler(), logging.root.manager.disable
    root.addHandler(handler)  # the quantiser's advice would set up logging
    logging.disable()
    try:
        with tempfile.TemporaryDirectory(prefix="hf-rnn-") as folder:
            path = Path(folder) / "quantized.onnx"
            # weights of 7 bits: without VNNI a CPU adds two products in 16 bits, which overflow with weights of 8 bits
            quantize_dynamic(graph, path, reduce_range=True)
            return path.read_bytes()
    finally:
        logging.disable(level)
        root.removeHandler(handler)


def _add_to_card(folder: FinishedFolder, facts: CardFacts, result: ExportResult) -> None:
    """Add the file to the card, unless the card was edited by hand."""
    name = result.file.relative_to(folder.root).as_posix()
    fact = {key: value for key, value in asdict(result).items() if key not in ("file", "web")}
    existing = {other: known for other, known in (facts.onnx or {}).items() if (folder.root / other).is_file()}
    if not amend_card(folder, facts, onnx=dict(sorted({**existing, name: fact}.items()))):
        logger.info("%s was edited by hand and stays as it is: add a line on %s yourself", folder.card, name)


# ---- the comparison ----


def make_texts(tokenizer: PreTrainedTokenizerBase, examples: Iterable[str] = ()) -> list[str]:
    """Return `TEXTS` texts: hostile ones, the first hundred examples, and random words of the vocabulary.

    The first entries of the vocabulary are drawn more often, as they are more frequent in texts.
    """
    chance, size = random.Random(0), len(tokenizer)
    texts = [*HOSTILE, *islice(examples, MOST_EXAMPLES)]
    while len(texts) < TEXTS:
        ids = [int(size * chance.random() ** 3) for _ in range(chance.randint(1, _LONGEST))]
        texts.append(str(tokenizer.decode(ids)))
    return texts


def _measure_parity(source: ExportSource, session: InferenceSession, texts: Sequence[str]) -> tuple[float, float]:
    """Return the largest difference between two numbers, less where they exceed 10, and the share of equal answers.

    Each text runs padded on the right, on the left, and with holes; by a streaming model also in two pieces.
    """
    differences, equal = [0.0], []
    for ids, mask in _make_batches(tokenize(source.tokenizer, texts), len(source.tokenizer)):
        results = [run_session(session, ids, mask)]
        if "final_state" in results[0]:
            half = ids.shape[1] // 2
            state = run_session(session, ids[:, :half], mask[:, :half])["final_state"]
            results.append(run_session(session, ids[:, half:], mask[:, half:], initial_state=state))
        for outputs, (name, expected) in itertools.product(results, _compute(source, ids, mask).items()):
            real = mask != 0 if expected.ndim == 3 else slice(None)
            equal.append(_agree(source.model.config, name, expected[real], outputs[name][real]))
            if expected.size:
                allowed = max(1.0, _RELATIVE_DIFFERENCE / MAX_DIFFERENCE * float(np.abs(expected).max()))
                differences.append(float(np.abs(expected - outputs[name]).max()) / allowed)
    return float(np.max(differences)), float(np.concatenate(equal).mean())  # NaN is the maximum


def _check_parity(difference: float, agreement: float, quantize: str | None, target: Path) -> None:
    """Refuse a file that does not give the model's answers; NaN fails too."""
    refused = f"{target} was not written: over {TEXTS} texts its numbers differ by up to {difference:.2g}"
    if quantize is None and not difference <= MAX_DIFFERENCE:
        raise UserError(f"{refused}, more than {MAX_DIFFERENCE:.2g}. Please report this model")
    if quantize is not None and not (agreement >= MIN_AGREEMENT and difference < float("inf")):
        equal = f"only {agreement:.2%} of the answers are the model's (at least {MIN_AGREEMENT:.0%} is required)"
        raise UserError(f"{refused}, and {equal}. This model needs float32: leave out --quantize")


@torch.inference_mode()
def _compute(source: ExportSource, ids: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    """Return the outputs of the model by name."""
    batch = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
    outputs = source.model(**batch)
    if source.head != ENCODER:
        return {"logits": outputs.logits.numpy()}
    if not source.is_encoder:
        return {"last_hidden_state": outputs.last_hidden_state.numpy()}
    states = source.model.rnn(**batch).last_hidden_state.numpy()
    return {"last_hidden_state": states, "sentence_embedding": normalize(outputs.logits, dim=-1).numpy()}


def _agree(config: RnnConfig, name: str, expected: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """Return whether logits `(N, C)` have the same best class or labels, or other vectors the same direction."""
    if name != "logits":
        norms = np.linalg.norm(expected, axis=1) * np.linalg.norm(outputs, axis=1)
        return (expected * outputs).sum(axis=1) >= _LEAST_COSINE * norms
    scores, others = compute_scores(expected, config), compute_scores(outputs, config)
    close = np.abs(scores - others).max(axis=1) <= _SAME_SCORE
    if score_kind(config) != "sigmoid":
        return close | (scores.argmax(axis=1) == others.argmax(axis=1))
    limits = np.array(getattr(config, "label_thresholds", None) or [0.5])
    return close | ((scores > limits) == (others > limits)).all(axis=1)


def _make_batches(input_ids: Sequence[Sequence[int]], vocab_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield ids and masks, int64 (B, T): each text three times, with random ids at masked places."""
    chance, sizes, start = np.random.default_rng(0), itertools.cycle(_BATCHES), 0
    while rows := input_ids[start : start + next(sizes)]:
        for layout, room in (("right", 0), ("left", 5), ("holes", 7)):
            ids = chance.integers(0, vocab_size, (len(rows), max(map(len, rows)) + room))
            mask = np.zeros_like(ids)
            for row, text in enumerate(rows):
                places = np.arange(len(text))
                if layout == "left":
                    places += ids.shape[1] - len(text)
                elif layout == "holes":
                    places = np.sort(chance.permutation(ids.shape[1])[: len(text)])
                ids[row, places], mask[row, places] = text, 1
            yield ids, mask
        start += len(rows)
