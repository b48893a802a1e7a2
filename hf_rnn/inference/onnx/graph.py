"""The parts of a model as nodes of an ONNX graph: texts, cells, residual blocks, poolings; `heads.py` joins them.

The graph is written node by node, because torch's exporters lose the lengths of the texts or fix the batch. It moves
real tokens to the front itself, so a mask may have any pattern.

A cell or pooling is supported if `ONNX_CELLS` or `ONNX_POOLINGS`, at the end, has a function that adds its nodes.

Legend: B batch, T time, I input width, H hidden per direction, D directions, S width of a state (D * H), L layers,
V vocabulary, E embedding, R residual stream, K kernel of the convolution, P width of a pooled vector.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

_OPSET, _IR_VERSION = 17, 8  # ONNX Runtime reads these since 1.12
_LOWEST = np.finfo(np.float32).min
Shape = Sequence[int | str]


class Graph:
    """Nodes and constants under unique names."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    def read(self, name: str, kind: int, shape: Shape) -> str:
        """Declare an input and return its name."""
        self._inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def answer(self, name: str, value: str, shape: Shape) -> None:
        """Declare an output in float32."""
        self.add("Identity", value, outputs=[name])
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))

    def add(self, operator: str, *inputs: str, outputs: int | list[str] = 1, **attributes: Any) -> Any:
        """Add a node and return the name of its output, or a list if there are several."""
        number = len(self._nodes)
        names = [f"{operator}_{number}_{i}" for i in range(outputs)] if isinstance(outputs, int) else outputs
        self._nodes.append(helper.make_node(operator, inputs, names, name=f"{operator}_{number}", **attributes))
        return names[0] if len(names) == 1 else names

    def constant(self, value: Any, dtype: Any = np.int64) -> str:
        """Return the name of a small constant; equal ones are stored once."""
        array = np.asarray(value, dtype)
        name = f"constant_{array.dtype}_{array.tolist()}"
        self._constants.setdefault(name, numpy_helper.from_array(array, name))
        return name

    def weight(self, name: str, value: Any, dtype: Any = np.float32) -> str:
        """Store a weight and return its name."""
        if isinstance(value, torch.Tensor):
            value = (value.detach().float() if value.is_floating_point() else value).cpu().numpy()
        self._constants[name] = numpy_helper.from_array(np.ascontiguousarray(value, dtype), name)
        return name

    def linear(self, inputs: str, layer: Any, name: str) -> str:
        """Add a linear layer along the last axis."""
        product = self.add("MatMul", inputs, self.weight(f"{name}.weight", layer.weight.t()))
        return self.add("Add", product, self.weight(f"{name}.bias", layer.bias))

    def slice(self, value: str, start: int | str, end: int | str, axis: int = 0) -> str:
        """Cut an axis; a place is a number or the name of a value `(1,)`."""
        places = (place if isinstance(place, str) else self.constant([place]) for place in (start, end))
        return self.add("Slice", value, *places, self.constant([axis]))

    def count(self, end: str) -> str:
        """Return the numbers from 0 to below a value `(1,)`."""
        return self.add("Range", self.constant(0), self.add("Squeeze", end, self.constant([0])), self.constant(1))

    def finish(self, metadata: Mapping[str, str]) -> onnx.ModelProto:
        """Return the complete model."""
        graph = helper.make_graph(self._nodes, "hf_rnn", self._inputs, self._outputs, list(self._constants.values()))
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", _OPSET)],
            ir_version=_IR_VERSION,
            producer_name="hf-rnn",
        )
        helper.set_model_props(model, dict(metadata))
        return model


class Batch:
    """The inputs, padded so that B and T are at least 1: operators of ONNX Runtime crash on an empty batch.

    Attributes:
        count: (1,), B as given.
        time: (1,), T as given.
        ids: (B, T), int64.
        mask: (B, T), bool.
    """

    def __init__(self, graph: Graph, past: str | None = None) -> None:
        """Declare the inputs; with `past`, a dimension, the mask may also have the tokens before these."""
        self._graph = graph
        ids = graph.read("input_ids", TensorProto.INT64, ["batch", "time"])
        mask = graph.read("attention_mask", TensorProto.INT64, ["batch", past or "time"])
        self.count, self.time = (graph.add("Shape", ids, start=axis, end=axis + 1) for axis in (0, 1))
        if past:
            length = graph.add("Shape", mask, start=1, end=2)
            mask = graph.slice(mask, graph.add("Sub", length, self.time), length, 1)
        one = graph.constant([1])
        rows = graph.add("Sub", one, graph.add("Min", self.count, one))
        behind_all = graph.add("Concat", graph.constant([0, 0]), rows, one, axis=0)
        self.ids, mask = (graph.add("Pad", value, behind_all) for value in (ids, mask))
        self.mask = graph.add("Cast", mask, to=TensorProto.BOOL)

    def cut(self, values: str) -> str:
        """Cut (B, T, ...) to the shape of the inputs."""
        return self._graph.slice(self._graph.slice(values, 0, self.count), 0, self.time, 1)


class Lengths:
    """Texts whose tokens are in front, time first.

    Attributes:
        longest: (1,), T: the length of the longest text, at least 1.
        lengths: (B,), int64.
        steps_read: (B,), int64: `lengths`, at least 1. An empty text has one step, which is masked later.
        rows: (B,): 0 to B - 1.
        steps: (T, 1): 0 to T - 1.
        valid: (T, B, 1), whether there is a token.
        real: (T, B, 1), the same as 0 and 1 in float32.
        some: (B, 1), whether the text has a token.
    """

    def __init__(self, graph: Graph, lengths: str) -> None:
        self._graph, self.lengths, one = graph, lengths, graph.constant([1])
        self.longest = graph.add("Max", graph.add("ReduceMax", lengths, axes=[0]), one)
        self.steps_read = graph.add("Max", lengths, one)
        self.rows = graph.count(graph.add("Shape", lengths))
        self.steps = graph.add("Unsqueeze", graph.count(self.longest), one)
        self.valid = graph.add("Unsqueeze", graph.add("Less", self.steps, lengths), graph.constant([2]))
        self.real = graph.add("Cast", self.valid, to=TensorProto.FLOAT)
        self.some = graph.add("Unsqueeze", graph.add("Greater", lengths, graph.constant(0)), one)

    def reverse(self, values: str) -> str:
        """Reverse the steps of each text in (T, B, ...), padding left where it is."""
        return self._graph.add("ReverseSequence", values, self.steps_read, time_axis=0, batch_axis=1)

    def take(self, values: str, steps: str) -> str:
        """Take values (T, B, ...) at steps (..., B) of each text."""
        add, last = self._graph.add, self._graph.constant([-1])
        rows = add("Add", self.rows, add("Mul", steps, self._graph.constant(0)))
        return add("GatherND", values, add("Concat", *(add("Unsqueeze", i, last) for i in (steps, rows)), axis=-1))

    def last_read(self, states: str, hidden_size: int, directions: int) -> str:
        """Take the last state that each direction reads, the forward one of this width: (T, B, S) → (B, S)."""
        last = self.take(states, self._graph.add("Sub", self.steps_read, self._graph.constant([1])))
        if directions == 1:
            return last
        first = self._graph.add("Gather", states, self._graph.constant(0), axis=0)
        forward = self._graph.slice(last, 0, hidden_size, 1)
        return self._graph.add("Concat", forward, self._graph.slice(first, hidden_size, 2**62, 1), axis=1)


class Texts(Lengths):
    """The texts of a batch, real tokens moved to the front.

    Attributes:
        ids: (T, B); 0 where there is no token.
    """

    def __init__(self, graph: Graph, ids: str, mask: str) -> None:
        """Read ids (B, T) and a mask, bool."""
        one, count = graph.constant(1), graph.add("Cast", mask, to=TensorProto.INT64)
        super().__init__(graph, graph.add("ReduceSum", count, graph.constant([1]), keepdims=0))
        # A token goes to the place that counts the tokens before it; padding keeps its order behind all of them.
        self._before = graph.add("CumSum", count, one, exclusive=1)
        padding = graph.add("CumSum", graph.add("Sub", one, count), one, exclusive=1)
        behind = graph.add("Add", padding, graph.add("Unsqueeze", self.lengths, graph.constant([1])))
        self._mask, places = mask, graph.add("Where", mask, self._before, behind)
        ids = graph.add("Where", mask, ids, graph.constant(0))
        ids = graph.add("ScatterElements", ids, places, ids, axis=1)
        self.ids = graph.add("Transpose", graph.slice(ids, 0, self.longest, 1), perm=[1, 0])

    def restore(self, values: str) -> str:
        """Return values (T, B, S) in the places of the inputs (B, T, S), zero where the mask is zero."""
        add, one = self._graph.add, self._graph.constant([1])
        places = add("Min", self._before, add("Sub", self.longest, one))
        values = self.take(values, add("Transpose", places, perm=[1, 0]))
        real = add("Unsqueeze", add("Cast", self._mask, to=TensorProto.FLOAT), self._graph.constant([2]))
        return add("Mul", add("Transpose", values, perm=[1, 0, 2]), real)


class Memory:
    """The states of a language model before and after the tokens, `(B, ...)` per layer, by kind."""

    def __init__(self, graph: Graph, shapes: Mapping[str, Shape]) -> None:
        """Declare the inputs; shapes `(L, B, ...)` by kind: `hidden`, `cell`, `conv`."""
        self._graph, self._shapes = graph, shapes
        self._before = {kind: graph.read(f"past_{kind}_state", TensorProto.FLOAT, shapes[kind]) for kind in shapes}
        self._after: dict[str, list[str]] = {kind: [] for kind in shapes}

    def take(self, kind: str) -> str:
        """Return the state of the next layer."""
        place = self._graph.constant(len(self._after[kind]))
        return self._graph.add("Gather", self._before[kind], place, axis=0)

    def keep(self, kind: str, state: str) -> None:
        """Store the state of this layer after the tokens."""
        self._after[kind].append(self._graph.add("Unsqueeze", state, self._graph.constant([0])))

    def answer(self) -> None:
        """Declare the outputs."""
        for kind, states in self._after.items():
            after = self._graph.add("Concat", *states, axis=0)
            self._graph.answer(f"present_{kind}_state", after, self._shapes[kind])


# Each function of a cell adds a layer: inputs (T, B, I), one cell per direction → states (T, B, S). With a memory,
# which is for one direction, the layer starts from it and stores its last states.


def _add_operator(
    graph: Graph,
    texts: Lengths,
    inputs: str,
    cells: list[Any],
    name: str,
    memory: Memory | None = None,
    *,
    operator: str,
    gates: tuple[int, ...],
    **attributes: Any,
) -> str:
    """Add a layer of one of ONNX's own recurrent operators; `gates` is their order in torch's weights.

    Each direction reads forward and padding comes last, so only a memory needs `sequence_lens`, with which OpenVINO
    computes wrong states for batches. The backward direction reads each text reversed.
    """
    kinds = ("hidden", "cell") if operator == "LSTM" else ("hidden",)
    states = []
    for number, cell in enumerate(cells):

        def stack(*kinds: str, cell: Any = cell) -> np.ndarray:
            """Return weights `(1, kinds * gates * H, ...)`, the gates in ONNX's order."""
            parts = [getattr(cell, kind).detach().float().cpu().chunk(len(gates)) for kind in kinds]
            return torch.cat([part[gate] for part in parts for gate in gates]).numpy()[None]

        weights = [
            graph.weight(f"{name}.{number}.W", stack("weight_ih_l0")),
            graph.weight(f"{name}.{number}.R", stack("weight_hh_l0")),
            graph.weight(f"{name}.{number}.B", stack("bias_ih_l0", "bias_hh_l0")),
        ]
        read = texts.reverse(inputs) if number else inputs
        before = [] if memory is None else [memory.take(kind) for kind in kinds]
        if memory is not None:
            starts = [graph.add("Unsqueeze", state, graph.constant([0])) for state in before]
            weights += [graph.add("Cast", texts.steps_read, to=TensorProto.INT32), *starts]
        options = {"hidden_size": cell.hidden_size, "outputs": 1 + len(before), **attributes}
        read = graph.add(operator, read, *weights, **options)  # (T, 1, B, H) and the last states (1, B, H)
        read, last = (read[0], read[1:]) if before else (read, [])
        for kind, start, state in zip(kinds, before, last, strict=False):
            state = graph.add("Squeeze", state, graph.constant([0]))
            memory.keep(kind, graph.add("Where", texts.some, state, start))  # type: ignore[union-attr]
        read = graph.add("Squeeze", read, graph.constant([1]))
        if attributes:  # ReLU is unbounded: its states can overflow in long padding, and infinity times 0 is NaN
            read = graph.add("Where", texts.valid, read, graph.constant(0, np.float32))
        states.append(texts.reverse(read) if number else read)
    return states[0] if len(states) == 1 else graph.add("Concat", *states, axis=2)


def _add_min_gru(
    graph: Graph, texts: Lengths, inputs: str, cells: list[Any], name: str, memory: Memory | None = None
) -> str:
    """Add a layer of minGRU as a scan of h = decay * h + addend, both directions in one scan.

    The gate is 0 at padding, which leaves the state unchanged, so the backward direction starts at the end of it.
    """
    width = cells[0].hidden_size
    weight = torch.cat([cell.weight_ih_l0 for cell in cells]).t()
    projected = graph.add("MatMul", inputs, graph.weight(f"{name}.W", weight))
    bias = graph.weight(f"{name}.B", torch.cat([cell.bias_ih_l0 for cell in cells]))
    parts = graph.add("Split", graph.add("Add", projected, bias), axis=2, outputs=2 * len(cells))
    batch = graph.add("Shape", inputs, start=1, end=2)
    zeros = graph.add("ConstantOfShape", graph.add("Concat", batch, graph.constant([width]), axis=0))
    start = zeros if memory is None else memory.take("hidden")
    read = []
    for gate, candidate in zip(parts[::2], parts[1::2], strict=True):
        update = graph.add("Mul", graph.add("Sigmoid", gate), texts.real)
        decay = graph.add("Sub", graph.constant(1, np.float32), update)
        read += [decay, graph.add("Mul", update, candidate)]
    scanned = graph.add(
        "Scan",
        *[start] * len(cells),
        *read,
        outputs=2 * len(cells),
        body=_linear_step(len(cells)),
        num_scan_inputs=len(read),
        scan_input_directions=[0, 0, 1, 1][: len(read)],
        scan_output_directions=[0, 1][: len(cells)],
    )
    if memory is not None:
        memory.keep("hidden", scanned[0])
    return graph.add("Concat", *scanned[len(cells) :], axis=2)


def _linear_step(directions: int) -> onnx.GraphProto:
    """Return one step of h = decay * h + addend in each direction, the body of a Scan."""
    nodes = []
    for number in range(directions):
        nodes.append(helper.make_node("Mul", [f"h{number}", f"decay{number}"], [f"kept{number}"]))
        nodes.append(helper.make_node("Add", [f"kept{number}", f"addend{number}"], [f"next{number}"]))
        nodes.append(helper.make_node("Identity", [f"next{number}"], [f"state{number}"]))

    def declare(*groups: tuple[str, ...]) -> list[onnx.ValueInfoProto]:
        names = [f"{kind}{number}" for group in groups for number in range(directions) for kind in group]
        return [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]

    return helper.make_graph(
        nodes, "linear_step", declare(("h",), ("decay", "addend")), declare(("next",), ("state",))
    )


def encode(graph: Graph, texts: Texts, encoder: Any, memory: Memory | None = None) -> str:
    """Add an encoder: the states (T, B, S) of texts."""
    states = graph.add("Gather", graph.weight("embedding", encoder.embedding.weight), texts.ids)  # (T, B, E)
    if encoder.config.block_type == "residual":
        return _add_blocks(graph, texts, states, encoder, memory)
    for number, layer in enumerate(encoder.layers):
        states = add_layer(graph, texts, states, layer, encoder.config.cell_type, f"layer{number}", memory)
    return states


def add_layer(
    graph: Graph, texts: Lengths, inputs: str, layer: Any, cell_type: str, name: str, memory: Memory | None = None
) -> str:
    """Add an `RnnLayer`: inputs (T, B, I) → states (T, B, S)."""
    cells = [direction.cell for direction in layer.directions]
    return ONNX_CELLS[cell_type](graph, texts, inputs, cells, name, memory)


def _add_blocks(graph: Graph, texts: Texts, vectors: str, encoder: Any, memory: Memory | None) -> str:
    """Add residual blocks: token vectors (T, B, E) → normalised stream (T, B, R); see `ResidualBlock`."""
    config, add, linear = encoder.config, graph.add, graph.linear

    def norm(inputs: str, layer: Any, name: str) -> str:
        weights = graph.weight(f"{name}.weight", layer.weight), graph.weight(f"{name}.bias", layer.bias)
        return add("LayerNormalization", inputs, *weights, axis=-1, epsilon=layer.eps)

    def convolve(inputs: str, conv: Any, name: str) -> str:
        behind = conv.size - 1 - conv.ahead
        wide = add("Mul", inputs, texts.real)
        if memory is None:
            wide = add("Pad", wide, graph.constant([behind, 0, 0, conv.ahead, 0, 0]))
        else:
            wide = add("Concat", add("Transpose", memory.take("conv"), perm=[1, 0, 2]), wide, axis=0)
            ends = (add("Add", texts.lengths, graph.constant(place)) for place in range(behind))
            last = [add("Unsqueeze", texts.take(wide, end), graph.constant([1])) for end in ends]
            memory.keep("conv", add("Concat", *last, axis=1))
        sums = ""
        for place, weight in enumerate(conv.weight):
            read = graph.slice(wide, place, add("Add", texts.longest, graph.constant([place])))
            term = add("Mul", read, graph.weight(f"{name}.{place}", weight))
            sums = add("Add", sums, term) if sums else term
        return sums

    stream = linear(norm(vectors, encoder.projection.norm, "norm"), encoder.projection.projection, "projection")
    for number, block in enumerate(encoder.layers):
        name = f"block{number}"
        inputs = norm(stream, block.input_norm, f"{name}.input_norm")
        if block.conv is not None:
            inputs = convolve(inputs, block.conv, f"{name}.conv")
        states = add_layer(graph, texts, inputs, block.mixer, config.cell_type, name, memory)
        gate = activate(graph, linear(inputs, block.gate_proj, f"{name}.gate"), config.hidden_act)
        stream = add("Add", stream, linear(add("Mul", states, gate), block.out_proj, f"{name}.out"))
        inner = linear(norm(stream, block.mlp_norm, f"{name}.mlp_norm"), block.up_proj, f"{name}.up")
        inner = activate(graph, inner, config.hidden_act)
        stream = add("Add", stream, linear(inner, block.down_proj, f"{name}.down"))
    return norm(stream, encoder.norm, "final_norm")


# Each function of a pooling pools states: (T, B, S) → (B, P), zero for a text without tokens; see `RnnPooler`.


def _add_last(graph: Graph, texts: Texts, states: str, model: Any) -> str:
    directions = model.config.num_directions
    last = texts.last_read(states, model.config.output_size // directions, directions)
    return graph.add("Where", texts.some, last, graph.constant(0, np.float32))


def _add_mean(graph: Graph, texts: Texts, states: str, model: Any) -> str:
    total = graph.add("ReduceSum", graph.add("Mul", states, texts.real), graph.constant([0]), keepdims=0)
    count = graph.add("Cast", graph.add("Max", texts.lengths, graph.constant([1])), to=TensorProto.FLOAT)
    return graph.add("Div", total, graph.add("Unsqueeze", count, graph.constant([1])))


def _add_max(graph: Graph, texts: Texts, states: str, model: Any) -> str:
    barred = graph.add("Where", texts.valid, states, graph.constant(_LOWEST, np.float32))
    highest = graph.add("ReduceMax", barred, axes=[0], keepdims=0)
    return graph.add("Where", texts.some, highest, graph.constant(0, np.float32))


def _add_mean_max(graph: Graph, texts: Texts, states: str, model: Any) -> str:
    parts = [add(graph, texts, states, model) for add in (_add_mean, _add_max)]
    return graph.add("Concat", *parts, axis=1)


def _add_attention(graph: Graph, texts: Texts, states: str, model: Any) -> str:
    projection, context = model.pooler.projection, model.pooler.context
    keys = graph.add("MatMul", states, graph.weight("attention.projection", projection.weight.t()))
    keys = graph.add("Tanh", graph.add("Add", keys, graph.weight("attention.bias", projection.bias)))
    scores = graph.add("MatMul", keys, graph.weight("attention.context", context.weight.t()))  # (T, B, 1)
    scores = graph.add("Where", texts.valid, scores, graph.constant(_LOWEST, np.float32))
    weights = graph.add("Mul", graph.add("Softmax", scores, axis=0), texts.real)
    return graph.add("ReduceSum", graph.add("Mul", states, weights), graph.constant([0]), keepdims=0)


def activate(graph: Graph, inputs: str, activation: str) -> str:
    """Add an activation; GELU is x/2 * (1 + erf(x / sqrt 2)) (Hendrycks and Gimpel 2016), SiLU x * sigmoid(x)."""
    if activation == "linear":
        return inputs
    if activation in ("relu", "tanh"):
        return graph.add(activation.capitalize(), inputs)
    if activation == "silu":
        return graph.add("Mul", inputs, graph.add("Sigmoid", inputs))
    half, root, one = (graph.constant(value, np.float32) for value in (0.5, 0.5**0.5, 1))
    error = graph.add("Erf", graph.add("Mul", inputs, root))
    return graph.add("Mul", graph.add("Mul", inputs, half), graph.add("Add", error, one))


# Gates in ONNX's order: torch's i f g o → i o f c, and r z n → z r h; reset before the product, as in torch and cuDNN.
ONNX_CELLS: dict[str, Callable[..., str]] = {
    "rnn_tanh": partial(_add_operator, operator="RNN", gates=(0,)),
    "rnn_relu": partial(_add_operator, operator="RNN", gates=(0,), activations=["Relu"]),
    "gru": partial(_add_operator, operator="GRU", gates=(1, 0, 2), linear_before_reset=1),
    "lstm": partial(_add_operator, operator="LSTM", gates=(0, 3, 1, 2)),
    "min_gru": _add_min_gru,
}
ONNX_POOLINGS: dict[str, Callable[[Graph, Texts, str, Any], str]] = {
    "last": _add_last,
    "mean": _add_mean,
    "max": _add_max,
    "mean_max": _add_mean_max,
    "attention": _add_attention,
}
