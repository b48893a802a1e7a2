"""A classifier's weights → an ONNX graph with the model's own contract: `input_ids` and `attention_mask` to `logits`.

The graph is written node by node, with no exporter: these lose the lengths of the texts, or fix the batch. It moves
real tokens to the front itself, so a mask may have any pattern. Nothing is run, checked or written here.

Legend: B batch, T time, I input width, H hidden per direction, D directions, S width of a state (D * H), V vocabulary,
E embedding, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from ...models.modeling_rnn import RnnForSequenceClassification

_OPSET, _IR_VERSION = 17, 8  # what ONNX Runtime reads since 1.12; nothing here needs more
# torch's order of the gates → ONNX's: i f g o → i o f c, and r z n → z r h
_GATES = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2), "rnn_tanh": (0,), "rnn_relu": (0,)}
_OPERATORS = {"lstm": "LSTM", "gru": "GRU", "rnn_tanh": "RNN", "rnn_relu": "RNN"}
_LOWEST = np.finfo(np.float32).min


def build_graph(model: RnnForSequenceClassification, metadata: Mapping[str, str]) -> onnx.ModelProto:
    """Write a classifier as an ONNX graph in float32, batch and time dynamic.

    Args:
        model: Weights of another type are converted.
        metadata: Goes into the file as it is, by name.

    Returns:
        The graph: `input_ids` and `attention_mask`, int64 `(B, T)`, to `logits`, float32 `(B, C)`. As in the model,
        any mask but 0 means a token to read, ids at masked places are never looked at, and T may be 0.
    """
    graph = _Graph()
    texts = _Texts(graph)
    states = graph.add("Gather", graph.weight("embedding", model.rnn.embedding.weight), texts.ids)  # (T, B, E)
    for number, layer in enumerate(list[Any](model.rnn.layers)):
        cells = [direction.cell for direction in layer.directions]
        if model.config.cell_type == "min_gru":
            states = _min_gru(graph, texts, states, cells, f"layer{number}")
        else:
            states = _recurrent(graph, texts, states, cells, model.config.cell_type, f"layer{number}")
    pooled = _activate(graph, _pool(graph, texts, states, model), model.config.classifier_activation)
    head = model.classifier
    weight, bias = graph.weight("classifier.weight", head.weight), graph.weight("classifier.bias", head.bias)
    logits = graph.add("Gemm", pooled, weight, bias, transB=1)
    graph.add("Slice", logits, graph.constant([0]), texts.count, graph.constant([0]), outputs=["logits"])
    return graph.finish(metadata, {"logits": (TensorProto.FLOAT, ["batch", model.config.num_labels])})


class _Graph:
    """Collects nodes and constants, and gives each value a name."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}

    def add(self, operator: str, *inputs: str, outputs: int | list[str] = 1, **attributes: Any) -> Any:
        """Add a node and return the name of its output, or a list of them when more than one is asked for."""
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

    def weight(self, name: str, value: torch.Tensor | np.ndarray) -> str:
        """Store a weight in float32 under a name, and return that."""
        array = value.detach().float().cpu().numpy() if isinstance(value, torch.Tensor) else value
        self._constants[name] = numpy_helper.from_array(np.ascontiguousarray(array, np.float32), name)
        return name

    def finish(self, metadata: Mapping[str, str], outputs: Mapping[str, tuple[int, list[Any]]]) -> onnx.ModelProto:
        """Return the whole, sorted and named."""
        text_shape = ["batch", "time"]
        graph = helper.make_graph(
            self._nodes,
            "hf_rnn",
            [helper.make_tensor_value_info(name, TensorProto.INT64, text_shape) for name in _Texts.INPUTS],
            [helper.make_tensor_value_info(name, *kind) for name, kind in outputs.items()],
            list(self._constants.values()),
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", _OPSET)],
            ir_version=_IR_VERSION,
            producer_name="hf-rnn",
        )
        helper.set_model_props(model, dict(metadata))
        return model


class _Texts:
    """The texts of a batch moved to the front, and where their tokens are.

    Attributes:
        count: (1,), how many texts were given. Without any there is one here, which the end cuts off again: operators
            of ONNX Runtime crash on none.
        ids: (T, B), T that of the longest text and at least 1.
        lengths: (B,), int64.
        steps_read: (B,), int64: `lengths`, at least 1. What an empty text's one step gives is masked later.
        valid: (T, B, 1), whether there is a token.
        real: (T, B, 1), the same as 0 and 1 in float32.
        some: (B, 1), whether the text has a token.
    """

    INPUTS = ("input_ids", "attention_mask")

    def __init__(self, graph: _Graph) -> None:
        self._graph = graph
        one, time = graph.constant(1), graph.constant([1])
        self.count = graph.add("Shape", self.INPUTS[0], start=0, end=1)
        rows = graph.add("Sub", time, graph.add("Min", self.count, time))
        behind_all = graph.add("Concat", graph.constant([0, 0]), rows, time, axis=0)
        given, mask = (graph.add("Pad", name, behind_all) for name in self.INPUTS)  # so that B and T are at least 1
        mask = graph.add("Cast", mask, to=TensorProto.BOOL)
        count = graph.add("Cast", mask, to=TensorProto.INT64)
        self.lengths = graph.add("ReduceSum", count, time, keepdims=0)
        # A token goes to the place that counts the tokens before it; padding keeps its order behind all of them.
        before = graph.add("CumSum", count, one, exclusive=1)
        padding = graph.add("CumSum", graph.add("Sub", one, count), one, exclusive=1)
        behind = graph.add("Add", padding, graph.add("Unsqueeze", self.lengths, time))
        places = graph.add("Where", mask, before, behind)
        ids = graph.add("Where", mask, given, graph.constant(0))
        ids = graph.add("ScatterElements", ids, places, ids, axis=1)
        longest = graph.add("Max", graph.add("ReduceMax", self.lengths, axes=[0]), time)  # (1,)
        ids = graph.add("Slice", ids, graph.constant([0]), longest, time)
        self.ids = graph.add("Transpose", ids, perm=[1, 0])
        self.steps_read = graph.add("Max", self.lengths, time)
        steps = graph.add("Range", graph.constant(0), graph.add("Squeeze", longest, graph.constant([0])), one)
        valid = graph.add("Less", graph.add("Unsqueeze", steps, time), self.lengths)
        self.valid = graph.add("Unsqueeze", valid, graph.constant([2]))
        self.real = graph.add("Cast", self.valid, to=TensorProto.FLOAT)
        self.some = graph.add("Unsqueeze", graph.add("Greater", self.lengths, graph.constant(0)), time)

    def reverse(self, values: str) -> str:
        """Reverse the steps of each text in (T, B, ...), padding left where it is."""
        return self._graph.add("ReverseSequence", values, self.steps_read, time_axis=0, batch_axis=1)

    def last_read(self, states: str, hidden_size: int, directions: int) -> str:
        """Take the last state that each direction reads: (T, B, S) → (B, S)."""
        add, constant = self._graph.add, self._graph.constant
        steps = add("Sub", self.steps_read, constant([1]))
        rows = add("Range", constant(0), add("Squeeze", add("Shape", steps), constant([0])), constant(1))
        places = [add("Unsqueeze", index, constant([1])) for index in (steps, rows)]
        last = add("GatherND", states, add("Concat", *places, axis=1))
        if directions == 1:
            return last
        first = add("Gather", states, constant(0), axis=0)
        width = constant([hidden_size])
        forward = add("Slice", last, constant([0]), width, constant([1]))
        backward = add("Slice", first, width, constant([2 * hidden_size]), constant([1]))
        return add("Concat", forward, backward, axis=1)


def _recurrent(graph: _Graph, texts: _Texts, inputs: str, cells: list[Any], cell_type: str, name: str) -> str:
    """Add a layer of one of ONNX's own operators: (T, B, I) → states (T, B, S).

    Each direction reads forward, and padding comes last, so it needs no `sequence_lens`, with which OpenVINO gives
    wrong states in batches. The backward direction reads each text reversed.
    """
    gates, states = _GATES[cell_type], []
    attributes: dict[str, Any] = {"hidden_size": cells[0].hidden_size}
    if cell_type == "gru":
        attributes["linear_before_reset"] = 1  # as torch and cuDNN have it
    elif cell_type == "rnn_relu":
        attributes["activations"] = ["Relu"]
    for number, cell in enumerate(cells):

        def stacked(*kinds: str, cell: Any = cell) -> np.ndarray:
            """(1, gates * H, ...), the gates in ONNX's order; several kinds one after the other."""
            return np.concatenate([_reordered(getattr(cell, kind), gates) for kind in kinds])[None]

        weights = [
            graph.weight(f"{name}.{number}.W", stacked("weight_ih_l0")),
            graph.weight(f"{name}.{number}.R", stacked("weight_hh_l0")),
            graph.weight(f"{name}.{number}.B", stacked("bias_ih_l0", "bias_hh_l0")),
        ]
        read = texts.reverse(inputs) if number else inputs
        read = graph.add(_OPERATORS[cell_type], read, *weights, **attributes)  # (T, 1, B, H)
        read = graph.add("Squeeze", read, graph.constant([1]))
        states.append(texts.reverse(read) if number else read)
    return states[0] if len(states) == 1 else graph.add("Concat", *states, axis=2)


def _reordered(weight: torch.Tensor, gates: tuple[int, ...]) -> np.ndarray:
    """(gates * H, ...) in another order of the gates."""
    parts = weight.detach().float().cpu().chunk(len(gates))
    return torch.cat([parts[gate] for gate in gates]).numpy()


def _min_gru(graph: _Graph, texts: _Texts, inputs: str, cells: list[Any], name: str) -> str:
    """Add a layer of minGRU as a scan of h = decay * h + addend, the directions side by side.

    The gate is 0 in padding, which leaves the state unchanged, so the backward direction starts at the end of it.
    """
    width = cells[0].hidden_size
    weight = torch.cat([cell.weight_ih_l0 for cell in cells]).t()
    projected = graph.add("MatMul", inputs, graph.weight(f"{name}.W", weight))
    bias = graph.weight(f"{name}.B", torch.cat([cell.bias_ih_l0 for cell in cells]))
    parts = graph.add("Split", graph.add("Add", projected, bias), axis=2, outputs=2 * len(cells))
    batch = graph.add("Shape", inputs, start=1, end=2)
    start = graph.add("ConstantOfShape", graph.add("Concat", batch, graph.constant([width]), axis=0))
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
    return graph.add("Concat", *scanned[len(cells) :], axis=2)


def _linear_step(directions: int) -> onnx.GraphProto:
    """Return one step of h = decay * h + addend in each direction, the body of a Scan."""
    nodes, states, read, new, told = [], [], [], [], []
    for number in range(directions):
        state, decay, addend = f"h{number}", f"decay{number}", f"addend{number}"
        states.append(state)
        read += [decay, addend]
        new.append(f"next{number}")
        told.append(f"state{number}")
        nodes.append(helper.make_node("Mul", [decay, state], [f"kept{number}"]))
        nodes.append(helper.make_node("Add", [f"kept{number}", addend], [new[-1]]))
        nodes.append(helper.make_node("Identity", [new[-1]], [told[-1]]))

    def declared(names: list[str]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]

    return helper.make_graph(nodes, "linear_step", declared(states + read), declared(new + told))


def _pool(graph: _Graph, texts: _Texts, states: str, model: RnnForSequenceClassification) -> str:
    """Add the pooling: (T, B, S) → (B, P), zero for a text without tokens; see [`RnnPooler`]."""
    kind, first = model.config.pooling, graph.constant([0])
    if kind == "last":
        last = texts.last_read(states, model.config.hidden_size, 1 + model.config.bidirectional)
        return graph.add("Where", texts.some, last, graph.constant(0, np.float32))
    if kind == "attention":
        projection, context = model.pooler.projection, model.pooler.context
        seen = graph.add("MatMul", states, graph.weight("attention.projection", projection.weight.t()))
        seen = graph.add("Tanh", graph.add("Add", seen, graph.weight("attention.bias", projection.bias)))
        scores = graph.add("MatMul", seen, graph.weight("attention.context", context.weight.t()))  # (T, B, 1)
        scores = graph.add("Where", texts.valid, scores, graph.constant(_LOWEST, np.float32))
        shares = graph.add("Mul", graph.add("Softmax", scores, axis=0), texts.real)
        return graph.add("ReduceSum", graph.add("Mul", states, shares), first, keepdims=0)
    parts = []
    if kind in ("mean", "mean_max"):
        total = graph.add("ReduceSum", graph.add("Mul", states, texts.real), first, keepdims=0)
        count = graph.add("Cast", graph.add("Max", texts.lengths, graph.constant([1])), to=TensorProto.FLOAT)
        parts.append(graph.add("Div", total, graph.add("Unsqueeze", count, graph.constant([1]))))
    if kind in ("max", "mean_max"):
        barred = graph.add("Where", texts.valid, states, graph.constant(_LOWEST, np.float32))
        highest = graph.add("ReduceMax", barred, axes=[0], keepdims=0)
        parts.append(graph.add("Where", texts.some, highest, graph.constant(0, np.float32)))
    return parts[0] if len(parts) == 1 else graph.add("Concat", *parts, axis=1)


def _activate(graph: _Graph, pooled: str, activation: str) -> str:
    """Add the function before the classifier; GELU is x/2 * (1 + erf(x / sqrt 2)) (Hendrycks and Gimpel 2016)."""
    if activation == "linear":
        return pooled
    if activation in ("relu", "tanh"):
        return graph.add(activation.capitalize(), pooled)
    half, root, one = (graph.constant(value, np.float32) for value in (0.5, 0.5**0.5, 1))
    error = graph.add("Erf", graph.add("Mul", pooled, root))
    return graph.add("Mul", graph.add("Mul", pooled, half), graph.add("Add", error, one))
