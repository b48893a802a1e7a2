"""A classifier's weights → an ONNX graph with the model's own contract: `input_ids` and `attention_mask` to `logits`.

The graph is written node by node, because torch's exporters lose the lengths of the texts or fix the batch. It moves
real tokens to the front itself, so a mask may have any pattern.

A cell or pooling is supported if `ONNX_CELLS` or `ONNX_POOLINGS`, at the end, has a function that adds its nodes.

Legend: B batch, T time, I input width, H hidden per direction, D directions, S width of a state (D * H), V vocabulary,
E embedding, P width of a pooled vector, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from transformers import PreTrainedModel

ONNX_HEAD = "RnnForSequenceClassification"
_OPSET, _IR_VERSION = 17, 8  # ONNX Runtime reads these since 1.12
_LOWEST = np.finfo(np.float32).min


def build_graph(model: PreTrainedModel, metadata: Mapping[str, str]) -> onnx.ModelProto:
    """Write a classifier as an ONNX graph in float32, batch and time dynamic.

    It maps `input_ids` and `attention_mask`, int64 `(B, T)`, to `logits`, float32 `(B, C)`. As in the model, any mask
    but 0 means a token to read, ids at masked places are ignored, and T may be 0. `metadata` are stored in the file.
    """
    classifier: Any = model
    config, graph = classifier.config, Graph()
    texts = Texts(graph)
    states = graph.add("Gather", graph.weight("embedding", classifier.rnn.embedding.weight), texts.ids)  # (T, B, E)
    if config.block_type == "residual":
        states = _add_blocks(graph, texts, states, classifier.rnn)
    else:
        for number, layer in enumerate(classifier.rnn.layers):
            cells = [direction.cell for direction in layer.directions]
            states = ONNX_CELLS[config.cell_type](graph, texts, states, cells, f"layer{number}")
    pooled = _activate(
        graph, ONNX_POOLINGS[config.pooling](graph, texts, states, classifier), config.classifier_activation
    )
    head = classifier.classifier
    weight, bias = graph.weight("classifier.weight", head.weight), graph.weight("classifier.bias", head.bias)
    logits = graph.add("Gemm", pooled, weight, bias, transB=1)
    graph.add("Slice", logits, graph.constant([0]), texts.count, graph.constant([0]), outputs=["logits"])
    return graph.finish(metadata, config.num_labels)


class Graph:
    """Nodes and constants under unique names."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}

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

    def weight(self, name: str, value: torch.Tensor | np.ndarray) -> str:
        """Store a weight in float32 and return its name."""
        array = value.detach().float().cpu().numpy() if isinstance(value, torch.Tensor) else value
        self._constants[name] = numpy_helper.from_array(np.ascontiguousarray(array, np.float32), name)
        return name

    def finish(self, metadata: Mapping[str, str], classes: int) -> onnx.ModelProto:
        """Return the complete model."""
        graph = helper.make_graph(
            self._nodes,
            "hf_rnn",
            [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "time"]) for name in Texts.INPUTS],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes])],
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


class Texts:
    """The texts of a batch, real tokens moved to the front, and the places of these.

    Attributes:
        count: (1,), the number of texts. An empty batch gets one text here, which the end removes again, because
            operators of ONNX Runtime crash on an empty batch.
        ids: (T, B), T that of the longest text and at least 1.
        longest: (1,), T.
        lengths: (B,), int64.
        steps_read: (B,), int64: `lengths`, at least 1. An empty text has one step, which is masked later.
        valid: (T, B, 1), whether there is a token.
        real: (T, B, 1), the same as 0 and 1 in float32.
        some: (B, 1), whether the text has a token.
    """

    INPUTS = ("input_ids", "attention_mask")

    def __init__(self, graph: Graph) -> None:
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
        self.ids, self.longest = graph.add("Transpose", ids, perm=[1, 0]), longest
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


# Each function of a cell adds a layer: inputs (T, B, I), one cell per direction → states (T, B, S).


def _add_operator(
    graph: Graph,
    texts: Texts,
    inputs: str,
    cells: list[Any],
    name: str,
    *,
    operator: str,
    gates: tuple[int, ...],
    **attributes: Any,
) -> str:
    """Add a layer of one of ONNX's own recurrent operators; `gates` is their order in torch's weights.

    Each direction reads forward and padding comes last, so no `sequence_lens` is needed, with which OpenVINO computes
    wrong states for batches. The backward direction reads each text reversed.
    """
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
        read = graph.add(operator, read, *weights, hidden_size=cell.hidden_size, **attributes)  # (T, 1, B, H)
        read = graph.add("Squeeze", read, graph.constant([1]))
        states.append(texts.reverse(read) if number else read)
    return states[0] if len(states) == 1 else graph.add("Concat", *states, axis=2)


def _add_min_gru(graph: Graph, texts: Texts, inputs: str, cells: list[Any], name: str) -> str:
    """Add a layer of minGRU as a scan of h = decay * h + addend, both directions in one scan.

    The gate is 0 at padding, which leaves the state unchanged, so the backward direction starts at the end of it.
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


def _add_blocks(graph: Graph, texts: Texts, vectors: str, encoder: Any) -> str:
    """Add residual blocks: token vectors (T, B, E) → normalised stream (T, B, R); see `ResidualBlock`."""
    config, add = encoder.config, graph.add

    def linear(inputs: str, layer: Any, name: str) -> str:
        product = add("MatMul", inputs, graph.weight(f"{name}.weight", layer.weight.t()))
        return add("Add", product, graph.weight(f"{name}.bias", layer.bias))

    def norm(inputs: str, layer: Any, name: str) -> str:
        weights = graph.weight(f"{name}.weight", layer.weight), graph.weight(f"{name}.bias", layer.bias)
        return add("LayerNormalization", inputs, *weights, axis=-1, epsilon=layer.eps)

    def convolve(inputs: str, conv: Any, name: str) -> str:
        behind = conv.size - 1 - conv.ahead
        wide = add("Pad", add("Mul", inputs, texts.real), graph.constant([behind, 0, 0, conv.ahead, 0, 0]))
        sums = ""
        for place, weight in enumerate(conv.weight):
            ends = add("Add", texts.longest, graph.constant([place]))
            read = add("Slice", wide, graph.constant([place]), ends, graph.constant([0]))
            term = add("Mul", read, graph.weight(f"{name}.{place}", weight))
            sums = add("Add", sums, term) if sums else term
        return sums

    stream = linear(norm(vectors, encoder.projection.norm, "norm"), encoder.projection.projection, "projection")
    for number, block in enumerate(encoder.layers):
        name = f"block{number}"
        inputs = norm(stream, block.input_norm, f"{name}.input_norm")
        if block.conv is not None:
            inputs = convolve(inputs, block.conv, f"{name}.conv")
        cells = [direction.cell for direction in block.mixer.directions]
        states = ONNX_CELLS[config.cell_type](graph, texts, inputs, cells, name)
        gate = _activate(graph, linear(inputs, block.gate_proj, f"{name}.gate"), config.hidden_act)
        stream = add("Add", stream, linear(add("Mul", states, gate), block.out_proj, f"{name}.out"))
        inner = linear(norm(stream, block.mlp_norm, f"{name}.mlp_norm"), block.up_proj, f"{name}.up")
        inner = _activate(graph, inner, config.hidden_act)
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


def _activate(graph: Graph, inputs: str, activation: str) -> str:
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
ONNX_CELLS: dict[str, Callable[[Graph, Texts, str, list[Any], str], str]] = {
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
