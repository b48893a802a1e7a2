"""`NativeEngine`: the weights of a model in the order of `kernel.c`, and its logits for token ids.

Every weight must have the shape that the configuration says, and every id a row of the table, before C sees them.

Legend: V vocabulary, E embedding, R residual stream, H hidden per direction, D directions, S = D * H, G parts of a
cell, C classes, N texts, T tokens.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from ..native import Block, Layer, Model, Norm, load_library
from . import CLASSIFIER, DEFAULTS, TAGGER, Engine, InferenceOptions, Precision, pad_tokens

if TYPE_CHECKING:
    from ...tasks import Config

# In the order of the enums of the kernel.
CELLS = {"min_gru": 2, "lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}  # number of parts
POOLINGS = (None, "last", "mean", "max", "mean_max", "attention")
ACTIVATIONS = ("linear", "relu", "tanh", "gelu")
_STORE, _SIGMOID, _ADDEND = range(3)
_COLUMNS = 16  # per panel
_TOKENS, _TOKENS_OF_STEPS = 512, 2048  # per call: more leave the cache, but each step of a cell needs many texts
_LARGEST_TABLE = 1 << 28  # bytes
_NGRAMS, _NGRAM_FACTOR, _NGRAM_PRIME = 3, 1_000_003, 2**31 - 1  # as in models/modeling_rnn.py
_ROWS_AT_ONCE, _LARGEST = 4096, 1 << 31
_SHORT_NORM, _MOST_SHORT = 65500, 4096  # int16: the norm of an output's weights, see `kernel.c`; most inputs

MISSING = "the kernel is not built"
TABLE = "rnn.embedding.weight"
Matrix = tuple[np.ndarray, np.ndarray]  # weights (outputs, inputs) and biases


class Unsupported(ValueError):
    """The kernel does not compute a model; the message is the reason."""


def _make_float8() -> np.ndarray:
    """Return the 256 numbers of float8 (e4m3fn): a sign, 4 bits of exponent and 3 of fraction, without infinity."""
    exponents, fractions = np.divmod(np.arange(128, dtype=np.float32), 8)
    values = np.where(exponents > 0, (8 + fractions) * 2 ** (exponents - 10), fractions * 2.0**-9)
    values[-1] = np.nan
    return np.concatenate([values, -values]).astype(np.float32)


_FLOAT8 = _make_float8()


def to_float(values: np.ndarray) -> np.ndarray:
    """Return weights as float32; uint16 are bfloat16, uint8 are float8."""
    if values.dtype == np.uint8:
        return _FLOAT8[values]
    if values.dtype == np.uint16:
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32, copy=False)


def count_threads() -> int:
    """Return the threads to use: `OMP_NUM_THREADS`, or the processors of this process."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    affinity = getattr(os, "sched_getaffinity", None)  # not on all systems
    return int(given) if given.isdigit() and int(given) else len(affinity(0)) if affinity else os.cpu_count() or 1


def find_unsupported_setting(config: Config, head: str) -> str | None:
    """Return the first setting that the kernel does not compute, in words; None if it computes all."""
    residual = config.block_type == "residual"
    sizes = [config.vocab_size, config.embedding_size, config.hidden_size, config.num_hidden_layers, config.num_labels]
    sizes += [size for size in (config.residual_size, config.intermediate_size) if residual and size is not None]
    sizes += [config.conv_kernel] if residual else []
    if not all(type(size) is int and 0 < size < _LARGEST for size in sizes) or type(config.bidirectional) is not bool:
        return "a size is not a number of the kernel"
    known: list[tuple[str, Any, Sequence[Any]]] = [
        ("the head", head, (CLASSIFIER, TAGGER)),
        ("block_type", config.block_type, ("plain", "residual")),
        ("cell_type", config.cell_type, ("min_gru",) if residual else tuple(CELLS)),
        ("target_scale", getattr(config, "target_scale", None), (None,)),
    ]
    if residual:
        known.append(("hidden_act", getattr(config, "hidden_act", "silu"), ("silu",)))
        known.append(("the rest of the stream by 16", (config.residual_size or config.hidden_size) % _COLUMNS, (0,)))
    if head == TAGGER:
        known += [(name, bool(getattr(config, name, False)), (False,)) for name in ("crf", "word_forms")]
    else:
        known.append(("pooling", config.pooling, POOLINGS[1:]))
        known.append(("classifier_activation", config.classifier_activation, ACTIVATIONS))
        known.append(("sep_token_id", getattr(config, "sep_token_id", None), (None,)))
    return next((f"{name} is {found!r}" for name, found, values in known if found not in values), None)


class Weights:
    """Weights by name: checked, padded, and moved to memory that C reads."""

    def __init__(self, weights: Mapping[str, np.ndarray], shortened: int = 0) -> None:
        self._weights, self._unread, self._shortened = weights, set(weights), shortened
        self._kept: list[np.ndarray] = []

    def read_stored(self, name: str, *shape: int) -> np.ndarray:
        """Return a weight of this shape in its own dtype."""
        self._unread.discard(name)
        values = self._weights.get(name)
        if values is None:
            raise Unsupported(f"it has no weights {name}")
        if values.shape != shape:
            raise Unsupported(f"{name} has the shape {values.shape}, where its settings say {shape}")
        infinite = {np.dtype(np.uint16): 0x7F80, np.dtype(np.uint8): 0x7F}.get(values.dtype)
        finite = np.isfinite(values) if infinite is None else (values & infinite) != infinite
        if not finite.all():
            raise Unsupported(f"{name} has NaN or infinite weights")
        return values

    def read(self, name: str, *shape: int) -> np.ndarray:
        """Return a weight of this shape as float32."""
        return to_float(self.read_stored(name, *shape))

    def check_read(self) -> None:
        """Refuse weights that were not read."""
        if self._unread:
            raise Unsupported(f"{min(self._unread)} is not of this model")

    def linear(self, name: str, outputs: int, inputs: int) -> Matrix:
        """Return the weights and biases of a linear layer."""
        return self.read(f"{name}.weight", outputs, inputs), self.read(f"{name}.bias", outputs)

    def keep(self, values: np.ndarray) -> int:
        """Copy an array to aligned memory, and return its address."""
        room = np.empty(values.nbytes + 64, np.uint8)
        start = -room.ctypes.data % 64
        copy = room[start : start + values.nbytes].view(values.dtype)
        copy[:] = values.reshape(-1)
        self._kept.append(copy)
        return copy.ctypes.data

    def norm(self, name: str, size: int) -> Norm:
        """Return a layer normalisation."""
        return Norm(*(self.keep(self.read(f"{name}.{part}", size)) for part in ("weight", "bias")))

    def layer(self, given: Matrix, exact: bool = False, most: int = 2) -> Layer:
        """Return a linear layer; its products are in float32 if `exact`, in int16 at least with a `most` of 1."""
        weight, scale = pad(given[0], 0, 1), None
        panels = weight.reshape(-1, _COLUMNS, weight.shape[1])
        short = 0 if exact or weight.shape[1] > _MOST_SHORT else min(self._shortened, most)
        start = None
        if short == 2:
            factor = np.maximum(np.abs(panels).max(axis=2, keepdims=True) / 127, 1e-30)
            rounded = np.rint(panels / factor).astype(np.int8)
            start = self.keep(-128 * rounded.sum(axis=2, dtype=np.int32))
            panels = rounded.reshape(*rounded.shape[:2], -1, 4)
            scale = self.keep(factor.astype(np.float32))
        elif short:
            norms, tops = np.sqrt((panels**2).sum(axis=2, keepdims=True)), np.abs(panels).max(axis=2, keepdims=True)
            factor = np.maximum(np.maximum(norms / _SHORT_NORM, tops / 32767), 1e-30)
            panels = np.rint(panels / factor).astype(np.int16).reshape(*panels.shape[:2], -1, 2)
            scale = self.keep(factor.astype(np.float32))
        address = self.keep(panels.transpose(0, 2, 1, 3) if short else panels.transpose(0, 2, 1))
        return Layer(address, self.keep(pad(given[1], 0, 1)), scale, start, *weight.shape[::-1], short)


def pad(values: np.ndarray, axis: int, parts: int) -> np.ndarray:
    """Add zeros to each of the equal parts of an axis, so that their sizes are multiples of 16."""
    shape = list(values.shape)
    missing = -(shape[axis] // parts) % _COLUMNS
    if not missing:
        return values
    split = values.reshape(*shape[:axis], parts, -1, *shape[axis + 1 :])
    wide = np.pad(split, [(0, missing if place == axis + 1 else 0) for place in range(split.ndim)])
    return wide.reshape(*shape[:axis], -1, *shape[axis + 1 :])


class NativeEngine(Engine):
    """A recurrent network in C. It is pickled as its weights.

    Args:
        config: The settings of the model as attributes.
        weights: Arrays by their names in the model; uint16 is bfloat16, uint8 float8.
        precision: `float32`, or `int16` or `int8` for the products inside, where the processor has instructions for
            it; int8 needs AVX-512 with VNNI, and is int16 elsewhere.
        head: Name of the head's class.

    Raises:
        Unsupported: If the kernel is not there or does not compute the model.
    """

    def __init__(
        self,
        config: Config,
        weights: Mapping[str, np.ndarray],
        precision: Precision = "float32",
        head: str = CLASSIFIER,
    ) -> None:
        self._source, self._library = (config, weights, precision, head), load_library()
        if self._library is None:
            raise Unsupported(MISSING)
        if (reason := find_unsupported_setting(config, head)) is not None:
            raise Unsupported(reason)
        self.config, self._units, self.per_token = config, config.hidden_size, head == TAGGER
        self._directions = 2 if config.bidirectional else 1
        self._stream = (config.residual_size or self._units) if config.block_type == "residual" else 0
        level = self._library.hf_rnn_level(-1)
        short = 2 if precision == "int8" and level > 1 else int(precision != "float32" and level > 0)
        self._weights = Weights(weights, short)
        self._embedding = self._weights.read_stored(TABLE, config.vocab_size, config.embedding_size)
        self._model = Model(directions=self._directions, residual=self._stream > 0)
        self._model.cell = [*CELLS].index(config.cell_type)
        numbers = getattr(config, "token_ngrams", 0) if head == CLASSIFIER else 0
        shape = config.num_labels, max(1, numbers // config.num_labels)
        self._ngrams = np.ascontiguousarray(self._weights.read("ngrams.weight", *shape).T) if numbers else None
        self._read_encoder()
        self._read_head()
        self._weights.check_read()
        rows = config.vocab_size if 4 * config.vocab_size * self._model.row <= _LARGEST_TABLE else 0
        self._table = np.empty((rows, self._model.row), np.float32)  # a row is computed when a text first needs it
        self._known, self._filling = np.zeros(rows, bool), threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._source, {"folder": self.folder}

    # ---- weights ----

    def _read_encoder(self) -> None:
        """Read the blocks or layers, and what computes a row of the table."""
        config, model, weights, stream = self.config, self._model, self._weights, self._stream
        states = self._directions * self._units
        model.hidden = -(-self._units // _COLUMNS) * _COLUMNS
        if stream:
            blocks = [self._read_residual(f"rnn.layers.{number}") for number in range(config.num_hidden_layers)]
            projection = weights.linear("rnn.projection.projection", stream, config.embedding_size)
            self._rows = [weights.layer(projection, exact=True)]
            names = [f"rnn.projection.norm.{part}" for part in ("weight", "bias")]
            self._norm = [weights.read(name, config.embedding_size) for name in names]
            model.norm, model.stream, model.row = weights.norm("rnn.norm", stream), stream, stream
            model.inner, model.taps = blocks[0].up.outputs, config.conv_kernel
            model.ahead = config.conv_kernel // 2 if config.bidirectional else 0
            model.epsilon = getattr(config, "layer_norm_eps", 1e-5)
        else:
            sizes = [config.embedding_size] + [states] * (config.num_hidden_layers - 1)
            blocks = [self._read_layer(f"rnn.layers.{number}", size, number) for number, size in enumerate(sizes)]
            first, is_min_gru = blocks[0], config.cell_type == "min_gru"
            self._rows = [first.keep, first.candidate] if is_min_gru else [first.input]
            model.row = self._directions * model.hidden * CELLS[config.cell_type]
        self._blocks = (Block * len(blocks))(*blocks)
        model.blocks, model.count = ctypes.addressof(self._blocks), len(blocks)

    def _read_residual(self, name: str) -> Block:
        """Read a residual block."""
        weights, stream, sides = self._weights, self._stream, self._directions
        states, inner = sides * self._units, self.config.intermediate_size or 2 * stream
        gate = weights.linear(f"{name}.gate_proj", states, stream)
        out = weights.linear(f"{name}.out_proj", stream, states)
        up, down = weights.linear(f"{name}.up_proj", inner, stream), weights.linear(f"{name}.down_proj", stream, inner)
        block = Block(weights.norm(f"{name}.input_norm", stream), weights.norm(f"{name}.mlp_norm", stream))
        if (taps := self.config.conv_kernel) > 1:
            block.conv = weights.keep(weights.read(f"{name}.conv.weight", taps, stream))
        read = [*self._read_min_gru(f"{name}.mixer", stream), (pad(gate[0], 0, sides), pad(gate[1], 0, sides))]
        block.keep, block.candidate, block.gate = map(weights.layer, read)
        block.out = weights.layer((pad(out[0], 1, sides), out[1]), most=1)  # int8 here changes twice as many labels
        block.up = weights.layer(up)
        block.down = weights.layer((pad(down[0], 1, 1), down[1]))
        return block

    def _read_min_gru(self, name: str, inputs: int) -> list[Matrix]:
        """Read the layers whose sums say what is kept, 1 - sigmoid(z) = sigmoid(-z), and what is added."""
        cells = [self._read_cell(f"{name}.directions.{side}.cell", "ih", inputs) for side in range(self._directions)]
        halves = [[np.split(part, 2) for part in cell] for cell in cells]

        def join(part: int, number: int) -> np.ndarray:
            return np.concatenate([half[part][number] for half in halves])

        return [(-join(0, 0), -join(1, 0)), (join(0, 1), join(1, 1))]

    def _read_cell(self, name: str, kind: str, inputs: int) -> Matrix:
        """Read the weights of a cell in one direction from its inputs (`ih`) or its state (`hh`), its units padded."""
        parts = CELLS[self.config.cell_type]
        weight = self._weights.read(f"{name}.weight_{kind}_l0", parts * self._units, inputs)
        bias = self._weights.read(f"{name}.bias_{kind}_l0", parts * self._units)
        return pad(weight, 0, parts), pad(bias, 0, parts)

    def _read_layer(self, name: str, inputs: int, number: int) -> Block:
        """Read a plain layer, numbered from 0; the first one fills the table, and so is exact."""
        block, columns = Block(), self._directions if number else 0
        if self.config.cell_type == "min_gru":
            read = self._read_min_gru(name, inputs)
        else:
            cells = [f"{name}.directions.{side}.cell" for side in range(self._directions)]
            sums = [self._read_cell(cell, "ih", inputs) for cell in cells]
            read = [(np.concatenate([cell[0] for cell in sums]), np.concatenate([cell[1] for cell in sums]))]
            for side, cell in enumerate(cells):
                weight, bias = self._read_cell(cell, "hh", self._units)
                block.hidden[side] = self._weights.layer((pad(weight, 1, 1), bias))
        read = [(pad(weight, 1, columns) if columns else weight, bias) for weight, bias in read]
        layers = [self._weights.layer(matrix, exact=not number) for matrix in read]
        if self.config.cell_type == "min_gru":
            block.keep, block.candidate = layers
        else:
            (block.input,) = layers
        return block

    def _read_head(self) -> None:
        """Read the pooling and the last layer."""
        config, model, weights = self.config, self._model, self._weights
        sides = 1 if self._stream else self._directions  # parts of a state
        states = self._stream or self._directions * self._units
        model.pooling = 0 if self.per_token else POOLINGS.index(config.pooling)
        model.activation = 0 if self.per_token else ACTIVATIONS.index(config.classifier_activation)
        if POOLINGS[model.pooling] == "attention":
            weight, bias = weights.linear("pooler.projection", states, states)
            square = pad(pad(weight, 0, sides), 1, sides), pad(bias, 0, sides)
            model.attention = weights.layer(square, exact=True)
            model.context = weights.keep(pad(weights.read("pooler.context.weight", 1, states), 1, sides))
        copies = 2 if POOLINGS[model.pooling] == "mean_max" else 1
        self.outputs = int(config.num_labels)
        weight, bias = weights.linear("classifier", self.outputs, copies * states)
        model.head = weights.layer((pad(weight, 1, copies * sides), bias), exact=True)
        model.pooled = model.head.inputs
        width = self._stream or self._directions * model.hidden
        more = (model.taps - 1) * width if self._stream else model.hidden
        model.carried = model.count * (model.hidden + more) + (0 if self.per_token else 3 * width + 2)

    def read_classifier(self) -> Matrix:
        """As in [`Engine`]."""
        weights = self._source[1]
        return to_float(weights["classifier.weight"]), to_float(weights["classifier.bias"])

    # ---- the table ----

    def _project(self, vectors: np.ndarray) -> np.ndarray:
        """Return the rows of token vectors `(N, E)`."""
        if self._stream:
            centred = vectors - vectors.mean(axis=1, keepdims=True)
            deviation = np.sqrt((centred**2).mean(axis=1, keepdims=True) + np.float32(self._model.epsilon))
            vectors = centred / deviation * self._norm[0] + self._norm[1]
        vectors = np.ascontiguousarray(vectors)
        parts: list[np.ndarray] = []
        kinds = (_SIGMOID, _ADDEND) if len(self._rows) == 2 else (_STORE,)
        for kind, layer in zip(kinds, self._rows, strict=True):
            out = np.empty((len(vectors), layer.outputs), np.float32)
            other = parts[0].ctypes.data if parts else None
            places = ctypes.addressof(layer), vectors.ctypes.data, len(vectors), out.ctypes.data, other
            self._library.hf_rnn_linear(kind, *places)
            parts.append(out)
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def _look_up(self, texts: Sequence[Sequence[int]], lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return a table, and the ids of its rows, for the token ids of texts of these lengths."""
        one = len(texts) == 1
        ids = np.array(texts[0], np.int64) if one else np.fromiter(chain.from_iterable(texts), np.int64, lengths.sum())
        if len(ids) and ids.view(np.uint64).max() >= len(self._embedding):  # a negative id is a large one
            most = len(self._embedding) - 1
            raise IndexError(f"token ids must be from 0 to {most}: found {ids.min()} and {ids.max()}")
        if not len(self._table):  # too large: one for these ids
            used, rows = np.unique(ids, return_inverse=True)
            table = np.concatenate([self._project(to_float(self._embedding[part])) for part in _split(used)])
            return table, rows.astype(np.int32)
        with self._filling:  # threads share the table
            missing = ids[~self._known[ids]]
            if len(missing):
                new = np.array(sorted({*missing.tolist()}))  # np.unique imports numpy.ma
                for part in _split(new):
                    self._table[part] = self._project(to_float(self._embedding[part]))
                self._known[new] = True
        return self._table, ids.astype(np.int32)

    # ---- answers ----

    def run(self, input_ids: Sequence[Sequence[int]], options: InferenceOptions = DEFAULTS) -> np.ndarray:
        """As in [`Engine`]; `threads` of the options does not change the logits."""
        logits = self.compute(input_ids, options.threads)
        return pad_tokens(logits, input_ids) if self.per_token else logits

    def compute(self, input_ids: Sequence[Sequence[int]], threads: int | None) -> np.ndarray:
        """Return the logits `(N, C)` in the order of `input_ids`; of a tagger, those of all tokens `(T, C)`."""
        lengths = np.fromiter(map(len, input_ids), np.int64, len(input_ids))
        logits = self._run(*self._look_up(input_ids, lengths), lengths, threads)
        return logits if self._ngrams is None else logits + self._score_ngrams(self._ngrams, input_ids, lengths)

    @staticmethod
    def _score_ngrams(table: np.ndarray, texts: Sequence[Sequence[int]], lengths: np.ndarray) -> np.ndarray:
        """Return the scores `(N, C)` of one to three tokens in a row, as `TokenNgrams` of the model does."""
        ids = np.fromiter(chain.from_iterable(texts), np.int64, int(lengths.sum()))
        left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(ids))  # tokens from here to the end of the text
        hashes, scores = np.zeros_like(ids), np.zeros((len(ids), table.shape[1]), np.float32)
        for number in range(min(_NGRAMS, len(ids))):
            hashes = (hashes[: len(ids) - number] * _NGRAM_FACTOR + ids[number:] + 1) % _NGRAM_PRIME
            valid = left[: len(hashes)] > number
            scores[: len(hashes)][valid] += table[hashes[valid] % len(table)]
        sums, some = np.zeros((len(lengths), table.shape[1]), np.float32), lengths > 0
        if some.any():
            sums[some] = np.add.reduceat(scores, (np.cumsum(lengths) - lengths)[some])
        return sums / np.sqrt(np.maximum(lengths, 1), dtype=np.float32)[:, None]

    def advance(self, input_ids: Sequence[Sequence[int]], states: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """As in [`Engine`]; a text may get no token."""
        size = self._model.carried
        states = np.zeros((len(input_ids), size), np.float32) if states is None else states.copy()
        if self._directions > 1 or (states.shape, states.dtype) != ((len(input_ids), size), np.float32):
            raise ValueError(f"states are float32 of shape {(len(input_ids), size)}, of a model in one direction")
        lengths = np.array([*map(len, input_ids)], np.int64)
        return self._run(*self._look_up(input_ids, lengths), lengths, None, states), states

    def run_vectors(self, vectors: np.ndarray, lengths: np.ndarray, threads: int | None = None) -> np.ndarray:
        """Return what `compute` returns for texts of these numbers of token vectors."""
        rows = self._project(vectors) if len(vectors) else np.empty((0, self._model.row), np.float32)
        return self._run(rows, np.arange(len(vectors), dtype=np.int32), lengths, threads)

    def _run(
        self,
        table: np.ndarray,
        rows: np.ndarray,
        lengths: np.ndarray,
        threads: int | None,
        states: np.ndarray | None = None,
    ) -> np.ndarray:
        """Return the logits of texts whose tokens have these rows of the table, in the order of the texts.

        The `states` of the texts change to those after them.
        """
        steps, tokens = self.config.cell_type != "min_gru" and len(lengths) > 1, len(rows)
        order = np.argsort(-lengths, kind="stable") if steps else np.arange(len(lengths))
        ends = np.cumsum(lengths[order])
        if steps:  # the place of each token among the texts as given
            starts = np.cumsum(lengths) - lengths
            places_given = np.repeat(starts[order] - ends + lengths[order], lengths[order]) + np.arange(tokens)
            rows = rows[places_given]
        logits = np.empty((tokens if self.per_token else len(lengths), self._model.head.outputs), np.float32)
        ordered = states if states is None or not steps else states[order]

        def run_batch(batch: tuple[int, int]) -> None:
            first, last = batch
            model = Model.from_buffer_copy(self._model)
            model.table, model.state = table.ctypes.data, None if ordered is None else ordered[first:].ctypes.data
            before = int(ends[first - 1]) if first else 0
            places, out = ends[first:last] - before, logits[before if self.per_token else first :]
            given = rows[before:].ctypes.data, places.ctypes.data, last - first, out.ctypes.data
            if self._library.hf_rnn_run(ctypes.addressof(model), *given):
                raise MemoryError(f"not enough memory for {places[-1]} tokens")

        batches = list(_cut(ends, _TOKENS_OF_STEPS if steps else _TOKENS)) if len(ends) != 1 else [(0, 1)]
        threads = min(threads or count_threads(), len(batches)) if len(batches) > 1 else 1
        if threads > 1:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(run_batch, batches))
        else:
            list(map(run_batch, batches))
        logits = logits[:, : self.outputs]
        if states is not None and steps:
            states[order] = ordered
        if not steps:
            return logits
        sorted_back = np.empty_like(logits)
        sorted_back[places_given if self.per_token else order] = logits
        return sorted_back


def _split(ids: np.ndarray) -> list[np.ndarray]:
    return np.split(ids, range(_ROWS_AT_ONCE, len(ids), _ROWS_AT_ONCE))


def _cut(ends: np.ndarray, most: int) -> Iterator[tuple[int, int]]:
    """Yield the first and the last text of each batch; a longer text is alone."""
    first = 0
    while first < len(ends):
        before = ends[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + most, side="right")))
        yield first, last
        first = last
