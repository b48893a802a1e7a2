"""`NativeEngine`: the weights of a model in the order of `kernel.c`, and its logits for token ids.

Every weight must have the shape that the configuration says, and every id a row of the table,
before C sees them.

Legend: V vocabulary, E embedding, R residual stream, H hidden per direction, D directions, S = D *
H, G parts of a cell, C classes, N texts, T tokens.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from ..linear.ngrams import ROWS_PER_BUCKET, NgramTable
from .engine import (
    CLASSIFIER,
    DEFAULTS,
    TAGGER,
    Arrays,
    Engine,
    InferenceOptions,
    Precision,
    TokenIds,
    Unsupported,
    check_ids,
    find_lengths,
    hash_weights,
    join_ids,
    pad_tokens,
)
from .kernel import Block, Layer, Model, NgramPart, Norm, load_library

if TYPE_CHECKING:
    from ..tasks import Config

# In the order of the enums of the kernel.
CELLS = {"min_gru": 2, "lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}  # number of parts
POOLINGS = (None, "last", "mean", "max", "mean_max", "attention")
ACTIVATIONS = ("linear", "relu", "tanh", "gelu")
_STORE, _SIGMOID, _ADDEND = range(3)
_COLUMNS = 16  # per panel
# per call: more leave the cache, but each step of a cell needs many texts
_TOKENS = 512
_TOKENS_OF_STEPS = 2048
_LARGEST_TABLE = 1 << 28  # bytes
_ROWS_AT_ONCE = 4096
_LARGEST_SIZE = 1 << 31
_SHORT_NORM = 65500  # int16: the norm of an output's weights, see `kernel.c`
_MOST_SHORT = 4096  # inputs
_NOT_FINITE = {np.dtype(np.uint16): 0x7F80, np.dtype(np.uint8): 0x7F}  # bits of bfloat16 and float8

MISSING = "the kernel is not built"
TABLE = "rnn.embedding.weight"
Matrix = tuple[np.ndarray, np.ndarray]  # weights (outputs, inputs) and biases

# The 256 numbers of float8 (e4m3fn): a sign, 4 bits of exponent and 3 of fraction, without
# infinity.
_EXPONENTS, _FRACTIONS = np.divmod(np.arange(128, dtype=np.float32), 8)
_POSITIVE = np.where(
    _EXPONENTS > 0, (8 + _FRACTIONS) * 2 ** (_EXPONENTS - 10), _FRACTIONS * 2.0**-9
)
_POSITIVE[-1] = np.nan
_FLOAT8 = np.concatenate([_POSITIVE, -_POSITIVE]).astype(np.float32)


def to_float(values: np.ndarray) -> np.ndarray:
    """Return weights as float32; uint16 are bfloat16, uint8 are float8."""
    if values.dtype == np.uint8:
        return _FLOAT8[values]
    if values.dtype == np.uint16:
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32, copy=False)


def read_ngrams(weights: Arrays) -> NgramTable | None:
    """Return the linear part of weights by name; None for those without one."""
    if "ngrams.weight" not in weights:
        return None
    stored = {field.name: weights[f"ngrams.{field.name}"] for field in fields(NgramTable)}
    stored["scale"] = to_float(stored["scale"])
    return NgramTable(**stored)


def pad(values: np.ndarray, axis: int, parts: int) -> np.ndarray:
    """Add zeros to each of the equal parts of an axis, so that their sizes are multiples of 16."""
    shape = list(values.shape)
    missing = -(shape[axis] // parts) % _COLUMNS
    if not missing:
        return values
    split = values.reshape(*shape[:axis], parts, -1, *shape[axis + 1 :])
    wide = np.pad(split, [(0, missing if place == axis + 1 else 0) for place in range(split.ndim)])
    return wide.reshape(*shape[:axis], -1, *shape[axis + 1 :])


def find_unsupported_setting(config: Config, head: str) -> str | None:
    """Return the first setting that the kernel does not compute, in words; None without one."""
    residual = config.block_type == "residual"
    sizes = ["vocab_size", "embedding_size", "hidden_size", "num_hidden_layers", "num_labels"]
    supported: dict[str, Sequence[object]] = {
        "block_type": ("plain", "residual"),
        "bidirectional": (False, True),
        "cell_type": ("min_gru",) if residual else tuple(CELLS),
        "target_scale": (None,),
    }
    if residual:
        optional = ("residual_size", "intermediate_size")
        sizes += ["conv_kernel", *(name for name in optional if getattr(config, name) is not None)]
        supported["hidden_act"] = ("silu", None)
    if head == TAGGER:
        supported |= {"crf": (False, None), "word_forms": (0, None)}
    else:  # a model of pairs has a separator
        supported |= {"sep_token_id": (None,), "pooling": POOLINGS[1:]}
        supported["classifier_activation"] = ACTIVATIONS

    is_right = {name: _is_size(getattr(config, name)) for name in sizes}
    is_right |= {name: getattr(config, name, None) in supported[name] for name in supported}
    for name, right in is_right.items():
        if not right:
            return f"{name} is {getattr(config, name, None)!r}"
    if head not in (CLASSIFIER, TAGGER):
        return f"the head {head} is unknown"
    if residual and (config.residual_size or config.hidden_size) % _COLUMNS:
        return f"{_COLUMNS} does not divide the size of the stream"
    return None


def _is_size(value: object) -> bool:
    return type(value) is int and 0 < value < _LARGEST_SIZE


class Weights:
    """Weights by name: checked, padded, and moved to memory that C reads."""

    def __init__(self, weights: Arrays, shortened: int = 0) -> None:
        self._weights = weights
        self._unread = set(weights)
        self._shortened = shortened
        self._memory: list[np.ndarray] = []

    def read_stored(self, name: str, *shape: int) -> np.ndarray:
        """Return a weight of this shape in its own dtype."""
        self._unread.discard(name)
        values = self._weights.get(name)
        if values is None or values.shape != shape:
            stored = "none" if values is None else str(values.shape)
            raise Unsupported(f"the settings say that {name} has the shape {shape}: found {stored}")
        bits = _NOT_FINITE.get(values.dtype)
        if not (np.isfinite(values) if bits is None else (values & bits) != bits).all():
            raise Unsupported(f"{name} has NaN or infinite weights")
        return values

    def read(self, name: str, *shape: int) -> np.ndarray:
        """Return a weight of this shape as float32."""
        return to_float(self.read_stored(name, *shape))

    def linear(self, name: str, outputs: int, inputs: int) -> Matrix:
        """Return the weights and biases of a linear layer."""
        return self.read(f"{name}.weight", outputs, inputs), self.read(f"{name}.bias", outputs)

    def check_read(self) -> None:
        """Refuse weights that were not read."""
        if self._unread:
            raise Unsupported(f"{min(self._unread)} is not of this model")

    def keep(self, values: np.ndarray) -> int:
        """Copy an array to aligned memory, and return its address."""
        room = np.empty(values.nbytes + 64, np.uint8)
        start = -room.ctypes.data % 64
        copy = room[start : start + values.nbytes].view(values.dtype)
        copy[:] = values.reshape(-1)
        self._memory.append(copy)
        return copy.ctypes.data

    def norm(self, name: str, size: int) -> Norm:
        """Return a layer normalisation."""
        return Norm(*(self.keep(self.read(f"{name}.{part}", size)) for part in ("weight", "bias")))

    def layer(self, matrix: Matrix, exact: bool = False, most: int = 2) -> Layer:
        """Return a linear layer.

        Its products are in float32 if `exact`, and not below int16 with a `most` of 1.
        """
        weight = pad(matrix[0], 0, 1)
        bias = self.keep(pad(matrix[1], 0, 1))
        panels = weight.reshape(-1, _COLUMNS, weight.shape[1])
        short = 0 if exact or weight.shape[1] > _MOST_SHORT else min(self._shortened, most)
        if not short:
            return Layer(
                self.keep(panels.transpose(0, 2, 1)), bias, None, None, *weight.shape[::-1], 0
            )
        start = None
        largest = np.abs(panels).max(axis=2, keepdims=True)
        if short == 2:
            factor = (largest / 127).clip(1e-30)
            rounded = np.rint(panels / factor).astype(np.int8)
            start = self.keep(-128 * rounded.sum(axis=2, dtype=np.int32))
        else:
            norms = np.sqrt((panels**2).sum(axis=2, keepdims=True))
            factor = np.maximum(norms / _SHORT_NORM, largest / 32767).clip(1e-30)
            rounded = np.rint(panels / factor).astype(np.int16)
        rounded = rounded.reshape(*rounded.shape[:2], -1, 2 * short).transpose(0, 2, 1, 3)
        scale = self.keep(factor.astype(np.float32))
        return Layer(self.keep(rounded), bias, scale, start, *weight.shape[::-1], short)


class StoredEngine(Engine):
    """An engine of settings and weights by name, which it is pickled as."""

    def __init__(self, config: Config, weights: Arrays, *others: object) -> None:
        self.config = config
        self.weights = weights
        self._source = (config, weights, *others)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), self._source

    @cached_property
    def fingerprint(self) -> str:
        """As in [`Engine`]."""
        return hash_weights(self.weights)

    def read_ngrams(self) -> NgramTable | None:
        """As in [`Engine`]."""
        return read_ngrams(self.weights)


class NativeEngine(StoredEngine):
    """A recurrent network in C, from settings, and weights by name, as [`to_float`] reads them.

    The products inside have the `precision` where the processor has instructions for it: int8 needs
    AVX-512 with VNNI, and is int16 without; int16 needs AVX2 or AVX-512, so that both are float32
    on ARM and on older processors. Raises [`Unsupported`] if the kernel is not there or does not
    compute the model.
    """

    def __init__(
        self,
        config: Config,
        weights: Arrays,
        precision: Precision = "float32",
        head: str = CLASSIFIER,
    ) -> None:
        library = load_library()
        if library is None:
            raise Unsupported(MISSING)
        reason = find_unsupported_setting(config, head)
        if reason is not None:
            raise Unsupported(reason)
        super().__init__(config, weights, precision, head)
        self._library = library
        self.per_token = head == TAGGER
        self._units = config.hidden_size
        self._directions = 2 if config.bidirectional else 1
        self._stream = 0
        if config.block_type == "residual":
            self._stream = config.residual_size or self._units
        shortened = {"float32": 0, "int16": 1, "int8": 2}[precision]
        self._weights = Weights(weights, min(shortened, library.hf_rnn_level(-1)))
        self._embedding = self._weights.read_stored(TABLE, config.vocab_size, config.embedding_size)
        self._model = Model(directions=self._directions, residual=self._stream > 0)
        self._model.cell = [*CELLS].index(config.cell_type)
        self._ngrams = self._read_ngrams() if head == CLASSIFIER else None
        self._read_encoder()
        self._read_head()
        self._weights.check_read()
        rows = config.vocab_size if 4 * config.vocab_size * self._model.row <= _LARGEST_TABLE else 0
        # a row is computed when a text first needs it
        self._table = np.empty((rows, self._model.row), np.float32)
        self._filled = np.zeros(rows, bool)
        self._filling = threading.Lock()

    # ---- weights ----

    def _read_ngrams(self) -> NgramPart | None:
        """Read the linear part of a classifier, if it has one."""
        rows = getattr(self.config, "ngram_rows", 0)
        if not rows:
            return None
        labels = self.config.num_labels
        buckets = -(-rows // ROWS_PER_BUCKET)
        weights = self._weights
        table = NgramTable(
            weights.read_stored("ngrams.weight", rows, labels),
            weights.read_stored("ngrams.check", rows),
            weights.read_stored("ngrams.shift", buckets),
            weights.read("ngrams.scale", labels),
        )
        return NgramPart(*map(weights.keep, vars(table).values()), rows, buckets, labels)

    def _add_ngrams(self, logits: np.ndarray, input_ids: TokenIds, lengths: np.ndarray) -> None:
        """Add the scores of n-grams to logits `(N, C)`, whose rows may have further columns."""
        assert self._ngrams is not None
        ends = np.cumsum(lengths)
        ids = join_ids(input_ids, lengths)
        failed = self._library.hf_rnn_ngrams(
            ctypes.addressof(self._ngrams),
            ids.ctypes.data,
            ends.ctypes.data,
            len(lengths),
            logits.strides[0] // logits.itemsize,
            logits.ctypes.data,
        )
        if failed:
            raise MemoryError(f"not enough memory for the n-grams of {lengths.max()} tokens")

    def _read_encoder(self) -> None:
        """Read the blocks or layers, and what computes a row of the table."""
        config = self.config
        model = self._model
        model.hidden = -(-self._units // _COLUMNS) * _COLUMNS
        read = self._read_residual if self._stream else self._read_layer
        blocks = [read(number) for number in range(config.num_hidden_layers)]
        self._blocks = (Block * len(blocks))(*blocks)
        model.blocks = ctypes.addressof(self._blocks)
        model.count = len(blocks)
        if self._stream:
            self._read_stream(blocks[0])
            return
        self._rows = [blocks[0].input]
        if config.cell_type == "min_gru":
            self._rows = [blocks[0].keep, blocks[0].candidate]
        model.row = self._directions * model.hidden * CELLS[config.cell_type]

    def _read_stream(self, first: Block) -> None:
        """Read what leads into and out of residual blocks."""
        config = self.config
        model = self._model
        weights = self._weights
        size = self._stream
        projection = weights.linear("rnn.projection.projection", size, config.embedding_size)
        self._rows = [weights.layer(projection, exact=True)]
        norms = ("rnn.projection.norm.weight", "rnn.projection.norm.bias")
        self._norm = [weights.read(name, config.embedding_size) for name in norms]
        model.norm = weights.norm("rnn.norm", size)
        model.stream = size
        model.row = size
        model.inner = first.up.outputs
        model.taps = config.conv_kernel
        model.ahead = config.conv_kernel // 2 if config.bidirectional else 0
        model.epsilon = getattr(config, "layer_norm_eps", 1e-5)

    def _read_residual(self, number: int) -> Block:
        """Read a residual block, numbered from 0."""
        weights = self._weights
        name = f"rnn.layers.{number}"
        stream = self._stream
        sides = self._directions
        states = sides * self._units
        inner = self.config.intermediate_size or 2 * stream
        gate = weights.linear(f"{name}.gate_proj", states, stream)
        out = weights.linear(f"{name}.out_proj", stream, states)
        up = weights.linear(f"{name}.up_proj", inner, stream)
        down = weights.linear(f"{name}.down_proj", stream, inner)
        block = Block(
            weights.norm(f"{name}.input_norm", stream), weights.norm(f"{name}.mlp_norm", stream)
        )
        taps = self.config.conv_kernel
        if taps > 1:
            block.conv = weights.keep(weights.read(f"{name}.conv.weight", taps, stream))
        keep, candidate = self._read_min_gru(f"{name}.mixer", stream)
        block.keep = weights.layer(keep)
        block.candidate = weights.layer(candidate)
        block.gate = weights.layer((pad(gate[0], 0, sides), pad(gate[1], 0, sides)))
        # int8 here changes twice as many labels
        block.out = weights.layer((pad(out[0], 1, sides), out[1]), most=1)
        block.up = weights.layer(up)
        block.down = weights.layer((pad(down[0], 1, 1), down[1]))
        return block

    def _read_layer(self, number: int) -> Block:
        """Read a plain layer, numbered from 0; the first one fills the table, and so is exact."""
        block = Block()
        name = f"rnn.layers.{number}"
        inputs = self._directions * self._units if number else self.config.embedding_size

        def make_layer(weight: np.ndarray, bias: np.ndarray) -> Layer:
            if number:
                weight = pad(weight, 1, self._directions)
            return self._weights.layer((weight, bias), exact=not number)

        if self.config.cell_type == "min_gru":
            keep, candidate = self._read_min_gru(name, inputs)
            block.keep = make_layer(*keep)
            block.candidate = make_layer(*candidate)
            return block
        cells = [f"{name}.directions.{side}.cell" for side in range(self._directions)]
        sums = [self._read_cell(cell, "ih", inputs) for cell in cells]
        weight = np.concatenate([cell[0] for cell in sums])
        block.input = make_layer(weight, np.concatenate([cell[1] for cell in sums]))
        for side, cell in enumerate(cells):
            weight, bias = self._read_cell(cell, "hh", self._units)
            block.hidden[side] = self._weights.layer((pad(weight, 1, 1), bias))
        return block

    def _read_min_gru(self, name: str, inputs: int) -> list[Matrix]:
        """Read the layers of what is kept, 1 - sigmoid(z) = sigmoid(-z), and of what is added."""
        cells = [
            self._read_cell(f"{name}.directions.{side}.cell", "ih", inputs)
            for side in range(self._directions)
        ]
        weight = np.concatenate([cell[0].reshape(2, -1, inputs) for cell in cells], axis=1)
        bias = np.concatenate([cell[1].reshape(2, -1) for cell in cells], axis=1)
        return [(-weight[0], -bias[0]), (weight[1], bias[1])]

    def _read_cell(self, name: str, source: str, inputs: int) -> Matrix:
        """Read the weights of a cell from its inputs (`ih`) or its state (`hh`), units padded."""
        parts = CELLS[self.config.cell_type]
        weight = self._weights.read(f"{name}.weight_{source}_l0", parts * self._units, inputs)
        bias = self._weights.read(f"{name}.bias_{source}_l0", parts * self._units)
        return pad(weight, 0, parts), pad(bias, 0, parts)

    def _read_head(self) -> None:
        """Read the pooling and the last layer."""
        config = self.config
        model = self._model
        weights = self._weights
        sides = 1 if self._stream else self._directions  # parts of a state
        states = self._stream or self._directions * self._units
        model.pooling = 0 if self.per_token else POOLINGS.index(config.pooling)
        model.activation = 0 if self.per_token else ACTIVATIONS.index(config.classifier_activation)
        if POOLINGS[model.pooling] == "attention":
            weight, bias = weights.linear("pooler.projection", states, states)
            square = pad(pad(weight, 0, sides), 1, sides)
            model.attention = weights.layer((square, pad(bias, 0, sides)), exact=True)
            context = weights.read("pooler.context.weight", 1, states)
            model.context = weights.keep(pad(context, 1, sides))
        copies = 2 if POOLINGS[model.pooling] == "mean_max" else 1
        self.outputs = int(config.num_labels)
        weight, bias = weights.linear("classifier", self.outputs, copies * states)
        model.head = weights.layer((pad(weight, 1, copies * sides), bias), exact=True)
        model.pooled = model.head.inputs
        width = self._stream or self._directions * model.hidden
        more = (model.taps - 1) * width if self._stream else model.hidden
        model.carried = model.count * (model.hidden + more)
        if not self.per_token:
            model.carried += 3 * width + 2

    # ---- the table ----

    def _project(self, vectors: np.ndarray) -> np.ndarray:
        """Return the rows of token vectors `(N, E)`."""
        if self._stream:
            centred = vectors - vectors.mean(axis=1, keepdims=True)
            variance = (centred**2).mean(axis=1, keepdims=True)
            deviation = np.sqrt(variance + np.float32(self._model.epsilon))
            vectors = centred / deviation * self._norm[0] + self._norm[1]
        vectors = np.ascontiguousarray(vectors)
        products = (_SIGMOID, _ADDEND) if len(self._rows) == 2 else (_STORE,)
        parts: list[np.ndarray] = []
        for product, layer in zip(products, self._rows, strict=True):
            parts.append(np.empty((len(vectors), layer.outputs), np.float32))
            self._library.hf_rnn_linear(
                product,
                ctypes.addressof(layer),
                vectors.ctypes.data,
                len(vectors),
                parts[-1].ctypes.data,
                parts[0].ctypes.data,
            )
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def _look_up(self, texts: TokenIds, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return a table, and the ids of its rows, for the token ids of texts of these lengths."""
        ids = join_ids(texts, lengths)
        check_ids(ids, len(self._embedding))
        if not len(self._table):  # too large: one for these ids
            used, rows = np.unique(ids, return_inverse=True)
            table = np.empty((len(used), self._model.row), np.float32)
            self._fill(table, np.arange(len(used)), used)
            return table, rows.astype(np.int32)
        with self._filling:  # threads share the table
            missing = ids[~self._filled[ids]]
            if len(missing):
                new = np.array(sorted(set(missing.tolist())))  # np.unique imports numpy.ma
                self._fill(self._table, new, new)
                self._filled[new] = True
        return self._table, ids.astype(np.int32)

    def _fill(self, table: np.ndarray, rows: np.ndarray, ids: np.ndarray) -> None:
        """Write the rows of token ids to a table."""
        for start in range(0, len(ids), _ROWS_AT_ONCE):
            vectors = to_float(self._embedding[ids[start : start + _ROWS_AT_ONCE]])
            table[rows[start : start + _ROWS_AT_ONCE]] = self._project(vectors)

    # ---- answers ----

    def run(self, input_ids: TokenIds, options: InferenceOptions = DEFAULTS) -> np.ndarray:
        """As in [`Engine`]; `threads` of the options does not change the logits."""
        logits = self.compute(input_ids, options.threads)
        return pad_tokens(logits, input_ids) if self.per_token else logits

    def compute(self, input_ids: TokenIds, threads: int | None) -> np.ndarray:
        """Return the logits `(N, C)` of texts; of a tagger, those of all tokens `(T, C)`."""
        lengths = find_lengths(input_ids)
        logits = self._run(*self._look_up(input_ids, lengths), lengths, threads)
        if self._ngrams is not None:
            self._add_ngrams(logits, input_ids, lengths)
        return logits

    def advance(
        self, input_ids: TokenIds, states: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the logits `(N, C)` of texts after further tokens, if any, and their states.

        The `states` `(N, K)` are those before these tokens, None at the start.
        """
        shape = (len(input_ids), self._model.carried)
        states = np.zeros(shape, np.float32) if states is None else states.copy()
        if self._directions > 1 or (states.shape, states.dtype) != (shape, np.float32):
            raise ValueError(f"states are float32 of shape {shape}, of a model in one direction")
        lengths = find_lengths(input_ids)
        return self._run(*self._look_up(input_ids, lengths), lengths, None, states), states

    def run_vectors(
        self, vectors: np.ndarray, lengths: np.ndarray, threads: int | None = None
    ) -> np.ndarray:
        """Return what `compute` returns for texts of these numbers of token vectors."""
        rows = np.arange(len(vectors), dtype=np.int32)
        return self._run(self._project(vectors), rows, lengths, threads)

    def _run(
        self,
        table: np.ndarray,
        rows: np.ndarray,
        lengths: np.ndarray,
        threads: int | None,
        states: np.ndarray | None = None,
    ) -> np.ndarray:
        """Return the logits of texts whose tokens have these rows of the table, in order.

        The `states` of the texts change to those after them.
        """
        if self.config.cell_type == "min_gru" or len(lengths) < 2:
            return self._run_in_order(table, rows, np.cumsum(lengths), threads, states, _TOKENS)
        order = np.argsort(-lengths, kind="stable")  # longest first
        ends = np.cumsum(lengths[order])
        shifts = np.cumsum(lengths)[order] - ends
        places = np.repeat(shifts, lengths[order]) + np.arange(len(rows))
        ordered = None if states is None else states[order]
        most = _TOKENS_OF_STEPS
        logits = self._run_in_order(table, rows[places], ends, threads, ordered, most)
        if states is not None:
            states[order] = ordered
        sorted_back = np.empty_like(logits)
        sorted_back[places if self.per_token else order] = logits
        return sorted_back

    def _run_in_order(
        self,
        table: np.ndarray,
        rows: np.ndarray,
        ends: np.ndarray,
        threads: int | None,
        states: np.ndarray | None,
        most: int,
    ) -> np.ndarray:
        """Return the logits of texts in batches of about `most` tokens; `ends` are their ends."""
        count = len(rows) if self.per_token else len(ends)
        logits = np.empty((count, self._model.head.outputs), np.float32)

        def run_batch(batch: tuple[int, int]) -> None:
            first, last = batch
            model = Model.from_buffer_copy(self._model)
            model.table = table.ctypes.data
            if states is not None:
                model.state = states[first:].ctypes.data
            before = int(ends[first - 1]) if first else 0
            places = ends[first:last] - before
            failed = self._library.hf_rnn_run(
                ctypes.addressof(model),
                rows[before:].ctypes.data,
                places.ctypes.data,
                last - first,
                logits[before if self.per_token else first :].ctypes.data,
            )
            if failed:
                raise MemoryError(f"not enough memory for {places[-1]} tokens")

        batches = list(_batch_texts(ends, most))
        threads = min(threads or count_threads(), len(batches)) if len(batches) > 1 else 1
        if threads > 1:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(run_batch, batches))
        else:
            for batch in batches:
                run_batch(batch)
        return logits[:, : self.outputs]


def _batch_texts(ends: np.ndarray, tokens: int) -> Iterator[tuple[int, int]]:
    """Yield the first text of each batch and the one after its last; a longer text is alone."""
    first = 0
    while first < len(ends):
        before = ends[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + tokens, side="right")))
        yield first, last
        first = last


def count_threads() -> int:
    """Return the threads to use: `OMP_NUM_THREADS`, or the processors of this process."""
    number = os.environ.get("OMP_NUM_THREADS", "")
    if number.isdigit() and int(number):
        return int(number)
    affinity = getattr(os, "sched_getaffinity", None)  # not on all systems
    return len(affinity(0)) if affinity else os.cpu_count() or 1
