"""Write a model as an ONNX graph, node by node, in less than a second.

`torch.onnx.export(dynamo=True)` of torch 2.13 fixes the number of tokens of an LSTM and a GRU, errs
by 3e-3 with minGRU in texts that are longer than its example, and takes 12 seconds to minutes.

The guide in `inference/README.md` lists inputs and outputs. `ONNX_CELLS` and `ONNX_POOLINGS` list
what is supported.

Legend: B batch, T time, I input width, H hidden per direction, D directions, S width of a state (D
* H), E embedding, R residual stream, P width of a pooled vector, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper, parser
from torch import nn
from transformers import PreTrainedModel

from ..models.auto import ENCODER
from ..models.blocks_rnn import ResidualBlock, ShortConvolution
from ..models.cells_rnn import MinGru, RnnLayer, TorchCell
from ..models.modeling_rnn import RnnForSequenceClassification, RnnModel
from ..models.ngrams_rnn import (
    BUCKET_FACTOR,
    CHECK_FACTOR,
    FACTOR,
    NGRAMS,
    PRIME,
    STEP_FACTOR,
    NgramScores,
)

# ONNX Runtime reads these since 1.12
_OPSET = 17
_IR_VERSION = 8
_FLOAT = TensorProto.FLOAT
_END = 2**62  # beyond any axis
_LOWEST = float(np.finfo(np.float32).min)


class Graph:
    """Nodes and constants: `graph.Add(value, 1)` adds a node and returns the name of its output.

    Arguments are names of values, numbers and lists in Python's types (stored once), or weights of
    torch and NumPy. The inputs are padded so that B and T are at least 1: operators of ONNX Runtime
    crash on an empty batch.
    """

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._outputs: list[onnx.ValueInfoProto] = []
        names = ("input_ids", "attention_mask")
        self._inputs = [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "time"])
            for name in names
        ]
        # as given
        self._count = self.Shape("input_ids", start=0, end=1)
        self._time = self.Shape("input_ids", start=1, end=2)
        behind_all = self.Concat([0, 0], self.Sub([1], self.Min(self._count, [1])), [1], axis=0)
        self.ids, mask = (self.Pad(name, behind_all) for name in names)  # (B, T), int64
        self.mask = self.Cast(mask, to=TensorProto.BOOL)  # (B, T)

    def __getattr__(self, operator: str) -> Callable[..., Any]:
        if not operator[0].isupper():
            raise AttributeError(operator)
        return partial(self._add, operator)

    def _add(
        self, operator: str, *inputs: object, outputs: int = 1, **attributes: object
    ) -> str | list[str]:
        """Add a node; return the name of its output, or a list if there are several."""
        name = f"{operator}_{len(self._nodes)}"
        names = [f"{name}_{number}" for number in range(outputs)]
        inputs = tuple(
            value if isinstance(value, str) else self.constant(value) for value in inputs
        )
        self._nodes.append(helper.make_node(operator, inputs, names, name=name, **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, value: object) -> str:
        """Store a constant and return its name."""
        is_weight = isinstance(value, torch.Tensor | np.ndarray)
        if isinstance(value, torch.Tensor):
            if value.dtype == torch.bfloat16:
                value = value.float()
            value = value.detach().cpu().numpy()
        array = np.ascontiguousarray(value) if is_weight else np.asarray(value)
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        name = f"weight_{len(self._constants)}"
        if not is_weight:
            name = f"constant_{array.dtype}_{array.tolist()}"
        if name not in self._constants:
            self._constants[name] = numpy_helper.from_array(array, name)
        return name

    def answer(self, name: str, value: str, width: int, per_token: bool = False) -> None:
        """Declare an output in float32, (B, width) or (B, T, width), cut to the shape of inputs."""
        value = self.slice(value, 0, self._count)
        value = self.slice(value, 0, self._time, 1) if per_token else value
        self._nodes.append(helper.make_node("Identity", [value], [name]))
        shape = ["batch", *(["time"] if per_token else []), width]
        self._outputs.append(helper.make_tensor_value_info(name, _FLOAT, shape))

    def linear(self, inputs: str, layer: nn.Linear) -> str:
        """Add a linear layer along the last axis."""
        return self.Add(self.MatMul(inputs, layer.weight.t()), layer.bias)

    def norm(self, inputs: str, layer: nn.LayerNorm) -> str:
        """Add a layer normalisation along the last axis."""
        return self.LayerNormalization(inputs, layer.weight, layer.bias, axis=-1, epsilon=layer.eps)

    def slice(self, value: str, start: int | str, end: int | str, axis: int = 0) -> str:
        """Cut an axis; a place is a number or the name of a value `(1,)`."""
        places = (place if isinstance(place, str) else [place] for place in (start, end))
        return self.Slice(value, *places, [axis])

    def activate(self, inputs: str, activation: str) -> str:
        """Add an activation.

        GELU is x/2 * (1 + erf(x / sqrt 2)) (Hendrycks and Gimpel 2016), SiLU x * sigmoid(x).
        """
        if activation == "linear":
            return inputs
        if activation == "silu":
            return self.Mul(inputs, self.Sigmoid(inputs))
        if activation == "gelu":
            wide = self.Add(self.Erf(self.Mul(inputs, 0.5**0.5)), 1.0)
            return self.Mul(self.Mul(inputs, 0.5), wide)
        return getattr(self, activation.capitalize())(inputs)  # Relu, Tanh

    def finish(self, metadata: Mapping[str, str]) -> onnx.ModelProto:
        """Return the complete model."""
        graph = helper.make_graph(
            self._nodes, "hf_rnn", self._inputs, self._outputs, list(self._constants.values())
        )
        opset = [helper.make_opsetid("", _OPSET)]
        model = helper.make_model(
            graph, opset_imports=opset, ir_version=_IR_VERSION, producer_name="hf-rnn"
        )
        helper.set_model_props(model, dict(metadata))
        return model


class Texts:
    """The real tokens of a batch, moved to the front of each text, time first."""

    def __init__(self, graph: Graph) -> None:
        count = graph.Cast(graph.mask, to=TensorProto.INT64)
        self._graph = graph
        self.lengths = graph.ReduceSum(count, [1], keepdims=0)  # (B,)
        self.longest = graph.Max(graph.ReduceMax(self.lengths, axes=[0]), [1])  # (1,), T
        # (B,): an empty text has one step, which is masked later
        self.steps_read = graph.Max(self.lengths, [1])
        # (B,): 0 to B - 1
        self.rows = graph.Range(0, graph.Squeeze(graph.Shape(self.lengths), [0]), 1)
        # (T, 1): 0 to T - 1
        self.steps = graph.Unsqueeze(graph.Range(0, graph.Squeeze(self.longest, [0]), 1), [1])
        # (T, B, 1), whether there is a token
        self.valid = graph.Unsqueeze(graph.Less(self.steps, self.lengths), [2])
        self.real = graph.Cast(self.valid, to=_FLOAT)
        # (B, 1), whether the text has a token
        self.some = graph.Unsqueeze(graph.Greater(self.lengths, 0), [1])
        # A token goes to the place that counts the tokens before it; padding keeps its order behind
        # all of them.
        self._before = graph.CumSum(count, 1, exclusive=1)
        padding = graph.CumSum(graph.Sub(1, count), 1, exclusive=1)
        behind = graph.Add(padding, graph.Unsqueeze(self.lengths, [1]))
        places = graph.Where(graph.mask, self._before, behind)
        ids = graph.Where(graph.mask, graph.ids, 0)
        ids = graph.slice(graph.ScatterElements(ids, places, ids, axis=1), 0, self.longest, 1)
        self.ids = graph.Transpose(ids, perm=[1, 0])  # (T, B), 0 without a token

    def reverse(self, values: str) -> str:
        """Reverse the steps of each text in (T, B, ...), padding left where it is."""
        return self._graph.ReverseSequence(values, self.steps_read, time_axis=0, batch_axis=1)

    def take(self, values: str, steps: str) -> str:
        """Take values (T, B, ...) at steps (..., B) of each text."""
        graph = self._graph
        rows = graph.Add(self.rows, graph.Mul(steps, 0))
        places = (graph.Unsqueeze(steps, [-1]), graph.Unsqueeze(rows, [-1]))
        return graph.GatherND(values, graph.Concat(*places, axis=-1))

    def restore(self, values: str) -> str:
        """Return values (T, B, S) in the places of the inputs (B, T, S), zero without a token."""
        graph = self._graph
        places = graph.Transpose(graph.Min(self._before, graph.Sub(self.longest, [1])), perm=[1, 0])
        values = graph.Transpose(self.take(values, places), perm=[1, 0, 2])
        return graph.Mul(values, graph.Unsqueeze(graph.Cast(graph.mask, to=_FLOAT), [2]))


# ---- cells: each function adds a layer: inputs (T, B, I) → states (T, B, S) ----


def _add_operator(
    graph: Graph,
    texts: Texts,
    inputs: str,
    layer: RnnLayer,
    *,
    operator: str,
    gates: tuple[int, ...],
    **attributes: object,
) -> str:
    """Add a layer of ONNX's own recurrent operators; `gates` is their order in torch.

    Each direction reads forward and padding comes last, so none needs `sequence_lens`, with which
    OpenVINO computes wrong states for batches. The backward direction reads each text reversed.
    """
    states = []
    cells = cast("list[TorchCell]", [direction.cell for direction in layer.directions])
    for number, cell in enumerate(cells):
        vectors = texts.reverse(inputs) if number else inputs
        weights = _order_gates(cell, gates)
        hidden = getattr(graph, operator)(
            vectors, *weights, hidden_size=cell.hidden_size, **attributes
        )
        hidden = graph.Squeeze(hidden, [1])  # of (T, 1, B, H)
        # ReLU is unbounded: its states can overflow in long padding, and infinity times 0 is NaN
        if attributes:
            hidden = graph.Where(texts.valid, hidden, 0.0)
        states.append(texts.reverse(hidden) if number else hidden)
    return states[0] if len(states) == 1 else graph.Concat(*states, axis=2)


def _order_gates(cell: TorchCell, gates: Sequence[int]) -> list[torch.Tensor]:
    """Return the weights of inputs, those of states, and biases, each `(1, ...)`."""
    weights = {}
    for name, weight in cell.named_parameters():
        parts = weight.detach().float().cpu().chunk(len(gates))
        weights[name] = torch.cat([parts[gate] for gate in gates])[None]
    biases = torch.cat([weights["bias_ih_l0"], weights["bias_hh_l0"]], dim=1)
    return [weights["weight_ih_l0"], weights["weight_hh_l0"], biases]


_MIN_GRU_STEP = """
    step (float[] h, float[] decay, float[] addend) => (float[] next, float[] state) {
        product = Mul(h, decay)
        next = Add(product, addend)
        state = Identity(next)
    }"""


def _add_min_gru(graph: Graph, texts: Texts, inputs: str, layer: RnnLayer) -> str:
    """Add a layer of minGRU: a scan of h = decay * h + addend per direction.

    The gate is 0 at padding, which leaves the state unchanged, so the backward direction starts at
    the end of it.
    """
    cells = cast("list[MinGru]", [direction.cell for direction in layer.directions])
    shape = graph.Concat(graph.Shape(inputs, start=1, end=2), [cells[0].hidden_size], axis=0)
    start = graph.ConstantOfShape(shape)
    states = []
    for backward, cell in enumerate(cells):
        sums = graph.Add(graph.MatMul(inputs, cell.weight_ih_l0.t()), cell.bias_ih_l0)
        gate, candidate = graph.Split(sums, axis=2, outputs=2)
        update = graph.Mul(graph.Sigmoid(gate), texts.real)
        scanned = graph.Scan(
            start,
            graph.Sub(1.0, update),
            graph.Mul(update, candidate),
            outputs=2,
            body=parser.parse_graph(_MIN_GRU_STEP),
            num_scan_inputs=2,
            scan_input_directions=[backward, backward],
            scan_output_directions=[backward],
        )
        states.append(scanned[1])
    return states[0] if len(states) == 1 else graph.Concat(*states, axis=2)


# Gates in ONNX's order: torch's i f g o → i o f c, and r z n → z r h; reset before the product, as
# in torch and cuDNN.
ONNX_CELLS: dict[str, Callable[..., str]] = {
    "rnn_tanh": partial(_add_operator, operator="RNN", gates=(0,)),
    "rnn_relu": partial(_add_operator, operator="RNN", gates=(0,), activations=["Relu"]),
    "gru": partial(_add_operator, operator="GRU", gates=(1, 0, 2), linear_before_reset=1),
    "lstm": partial(_add_operator, operator="LSTM", gates=(0, 3, 1, 2)),
    "min_gru": _add_min_gru,
}
ONNX_POOLINGS = ("last", "mean", "max", "mean_max", "attention")


# ---- the model ----


def build_graph(
    model: PreTrainedModel,
    metadata: Mapping[str, str],
    gives_vectors: bool = False,
    half_table: bool = False,
) -> onnx.ModelProto:
    """Write a classifier or an encoder as an ONNX graph in float32, with `metadata`.

    `half_table` stores the embedding table in float16. With `gives_vectors` the classifier is a
    sentence encoder, whose logits are its vectors before normalisation; its `last_hidden_state` are
    projected too, so that their mean, normalised, is the vector.
    """
    graph = Graph()
    texts = Texts(graph)
    width = model.config.output_size
    encoder: RnnModel = model if type(model).__name__ == ENCODER else model.rnn
    table = encoder.embedding.weight.detach().cpu()
    states = graph.Gather(table.half() if half_table else table, texts.ids)  # (T, B, E)
    if half_table:
        states = graph.Cast(states, to=_FLOAT)
    if encoder.config.block_type == "residual":
        states = _add_blocks(graph, texts, states, encoder)
    else:
        for layer in encoder.layers:
            states = ONNX_CELLS[encoder.config.cell_type](graph, texts, states, layer)
    if model is not encoder:
        config = model.config
        width = config.num_labels
        pooled = graph.activate(_pool(graph, texts, states, model), config.classifier_activation)
        logits = graph.Gemm(pooled, model.classifier.weight, model.classifier.bias, transB=1)
        if model.ngrams is not None:
            logits = graph.Add(logits, _add_ngrams(graph, texts, model.ngrams))
        if config.target_scale is not None:  # a model whose training did not end
            logits = graph.Add(graph.Mul(logits, config.target_scale), config.target_mean)
        if not gives_vectors:
            graph.answer("logits", logits, width)
            return graph.finish(metadata)
        vectors = graph.Div(logits, graph.Max(graph.ReduceL2(logits, axes=[1]), 1e-12))
        graph.answer("sentence_embedding", vectors, width)
        states = graph.linear(states, model.classifier)
    graph.answer("last_hidden_state", texts.restore(states), width, per_token=True)
    return graph.finish(metadata)


def _add_blocks(graph: Graph, texts: Texts, vectors: str, encoder: RnnModel) -> str:
    """Add residual blocks: vectors (T, B, E) → normalised stream (T, B, R); see `ResidualBlock`."""
    linear = graph.linear
    activation = getattr(encoder.config, "hidden_act", "silu")
    first = graph.norm(vectors, encoder.projection.norm)
    stream = linear(first, encoder.projection.projection)
    for block in cast("list[ResidualBlock]", encoder.layers):
        inputs = graph.norm(stream, block.input_norm)
        if block.conv is not None:
            inputs = _add_convolution(graph, texts, inputs, block.conv)
        states = ONNX_CELLS[encoder.config.cell_type](graph, texts, inputs, block.mixer)
        gate = graph.activate(linear(inputs, block.gate_proj), activation)
        stream = graph.Add(stream, linear(graph.Mul(states, gate), block.out_proj))
        inner = linear(graph.norm(stream, block.mlp_norm), block.up_proj)
        stream = graph.Add(stream, linear(graph.activate(inner, activation), block.down_proj))
    return graph.norm(stream, encoder.norm)


def _add_convolution(graph: Graph, texts: Texts, inputs: str, conv: ShortConvolution) -> str:
    """Add the sum of each token and its neighbours (T, B, R), times weights by distance."""
    wide = graph.Mul(inputs, texts.real)
    wide = graph.Pad(wide, [conv.size - 1 - conv.ahead, 0, 0, conv.ahead, 0, 0])
    taps = []
    for place, weight in enumerate(conv.weight):
        tap = graph.slice(wide, place, graph.Add(texts.longest, [place]))
        taps.append(graph.Mul(tap, weight))
    return graph.Sum(*taps)


def _pool(graph: Graph, texts: Texts, states: str, model: RnnForSequenceClassification) -> str:
    """Pool states (T, B, S) → (B, P), zero for a text without tokens; see `RnnPooler`."""
    pooling = model.config.pooling
    if pooling == "last":  # the last state that each direction reads
        last = texts.take(states, graph.Sub(texts.steps_read, [1]))
        if model.config.num_directions == 2:
            half = model.config.output_size // 2
            backward = graph.slice(graph.Gather(states, 0, axis=0), half, _END, 1)
            last = graph.Concat(graph.slice(last, 0, half, 1), backward, axis=1)
        return graph.Where(texts.some, last, 0.0)
    if pooling == "attention":
        keys = graph.Tanh(graph.linear(states, model.pooler.projection))
        scores = graph.MatMul(keys, model.pooler.context.weight.t())  # (T, B, 1)
        weights = graph.Softmax(graph.Where(texts.valid, scores, _LOWEST), axis=0)
        return graph.ReduceSum(graph.Mul(states, graph.Mul(weights, texts.real)), [0], keepdims=0)
    parts = []
    if "mean" in pooling:
        total = graph.ReduceSum(graph.Mul(states, texts.real), [0], keepdims=0)
        count = graph.Unsqueeze(graph.Cast(texts.steps_read, to=_FLOAT), [1])
        parts.append(graph.Div(total, count))
    if "max" in pooling:
        highest = graph.ReduceMax(graph.Where(texts.valid, states, _LOWEST), axes=[0], keepdims=0)
        parts.append(graph.Where(texts.some, highest, 0.0))
    return parts[0] if len(parts) == 1 else graph.Concat(*parts, axis=1)


def _add_ngrams(graph: Graph, texts: Texts, ngrams: NgramScores) -> str:
    """Return the scores (B, C) of the distinct n-grams of texts; see `NgramScores`."""
    hashes = graph.Mul(texts.ids, 0)
    sums = []
    for further in range(NGRAMS):
        ids = graph.slice(graph.Pad(texts.ids, [0, 0, further, 0]), further, _END)
        hashes = graph.Mod(graph.Add(graph.Mul(hashes, FACTOR), graph.Add(ids, 1)), PRIME)
        valid = graph.Less(graph.Add(texts.steps, further), texts.lengths)
        # distinct hashes: in order, each differs from the one before
        ordered = graph.TopK(graph.Where(valid, hashes, -1), texts.longest, axis=0, outputs=2)[0]
        before = graph.slice(graph.Pad(ordered, [1, 0, 0, 0], -1), 0, texts.longest)
        differs = graph.Not(graph.Equal(ordered, before))
        is_new = graph.And(differs, graph.GreaterOrEqual(ordered, 0))
        sums.append(_add_rows(graph, ngrams, graph.Max(ordered, 0), is_new))
    root = graph.Unsqueeze(graph.Sqrt(graph.Cast(texts.steps_read, to=_FLOAT)), [1])
    return graph.Div(graph.Mul(graph.Sum(*sums), ngrams.scale.float()), root)


def _add_rows(graph: Graph, ngrams: NgramScores, hashes: str, is_new: str) -> str:
    """Return the sums (B, C) of the rows of hashes (T, B), where they are new and in the table."""
    rows = len(ngrams.weight)
    mixed = graph.Mod(graph.Mul(hashes, BUCKET_FACTOR), PRIME)
    bucket = graph.Mod(mixed, len(ngrams.shift))
    shift = graph.Gather(ngrams.shift.long(), bucket)
    step = graph.Add(graph.Mod(graph.Mul(hashes, STEP_FACTOR), PRIME), 1)
    places = graph.Mod(graph.Add(hashes, graph.Mul(shift, step)), rows)
    check = graph.Sub(graph.Mod(graph.Mod(graph.Mul(hashes, CHECK_FACTOR), PRIME), 2**16), 2**15)
    stored = graph.Cast(graph.Gather(ngrams.check, places), to=TensorProto.INT64)
    is_known = graph.And(is_new, graph.Equal(check, stored))
    weights = graph.Cast(graph.Gather(ngrams.weight, places), to=_FLOAT)  # (T, B, C)
    counted = graph.Cast(graph.Unsqueeze(is_known, [2]), to=_FLOAT)
    return graph.ReduceSum(graph.Mul(weights, counted), [0], keepdims=0)
