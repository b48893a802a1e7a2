"""`Graph`: nodes and constants of an ONNX file; `Texts`: the tokens of its inputs; `State`: that of a stream.

Legend: B batch, T time, S width of a state, K numbers of the state of a stream.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from ...models.modeling_rnn import RnnForSequenceClassification
from ..engines.torch import state_shapes

_OPSET, _IR_VERSION = 17, 8  # ONNX Runtime reads these since 1.12
END = 2**62  # beyond any axis


class Graph:
    """Nodes and constants: `graph.Add(value, 1)` adds a node and returns the name of its output.

    Arguments are names of values, numbers and lists in Python's types (stored once), or weights of torch and NumPy.
    The inputs are padded so that B and T are at least 1: operators of ONNX Runtime crash on an empty batch.
    """

    def __init__(self, half_table: bool = False) -> None:
        self.half_table = half_table
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._outputs: list[onnx.ValueInfoProto] = []
        names = ("input_ids", "attention_mask")
        self._inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "time"]) for name in names]
        self._count, self._time = (self.Shape("input_ids", start=axis, end=axis + 1) for axis in (0, 1))  # as given
        behind_all = self.Concat([0, 0], self.Sub([1], self.Min(self._count, [1])), [1], axis=0)
        self.ids, mask = (self.Pad(name, behind_all) for name in names)  # (B, T), int64
        self.mask = self.cast(mask, TensorProto.BOOL)  # (B, T)

    def __getattr__(self, operator: str) -> Callable[..., Any]:
        if not operator[0].isupper():
            raise AttributeError(operator)
        return partial(self._add, operator)

    def _add(self, operator: str, *inputs: Any, outputs: int | list[str] = 1, **attributes: Any) -> Any:
        """Return the name of the output, or a list if there are several."""
        name = f"{operator}_{len(self._nodes)}"
        names = [f"{name}_{number}" for number in range(outputs)] if isinstance(outputs, int) else outputs
        given = [value if isinstance(value, str) else self.constant(value) for value in inputs]
        self._nodes.append(helper.make_node(operator, given, names, name=name, **attributes))
        return names[0] if len(names) == 1 else names

    def constant(self, value: object) -> str:
        """Store a constant and return its name."""
        is_weight = isinstance(value, torch.Tensor | np.ndarray)
        if isinstance(value, torch.Tensor):
            value = (value.detach().float() if value.dtype == torch.bfloat16 else value.detach()).cpu().numpy()
        array = np.ascontiguousarray(value) if is_weight else np.asarray(value)
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        name = f"weight_{len(self._constants)}" if is_weight else f"constant_{array.dtype}_{array.tolist()}"
        if name not in self._constants:
            self._constants[name] = numpy_helper.from_array(array, name)
        return name

    def read_state(self, width: int) -> str:
        """Declare `initial_state`, an optional input in float32 of one row or one per text, and return its name."""
        self._inputs.append(helper.make_tensor_value_info("initial_state", TensorProto.FLOAT, ["states", width]))
        self._constants["initial_state"] = numpy_helper.from_array(np.zeros((1, width), np.float32), "initial_state")
        return "initial_state"

    def answer(self, name: str, value: str, width: int, per_token: bool = False) -> None:
        """Declare an output in float32, (B, width) or (B, T, width), and cut it to the shape of the inputs."""
        value = self.slice(value, 0, self._count)
        self.Identity(self.slice(value, 0, self._time, 1) if per_token else value, outputs=[name])
        shape = ["batch", *(["time"] if per_token else []), width]
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))

    def linear(self, inputs: str, layer: nn.Linear) -> str:
        """Add a linear layer along the last axis."""
        return self.Add(self.MatMul(inputs, layer.weight.t()), layer.bias)

    def slice(self, value: str, start: int | str, end: int | str, axis: int = 0) -> str:
        """Cut an axis; a place is a number or the name of a value `(1,)`."""
        places = (place if isinstance(place, str) else [place] for place in (start, end))
        return self.Slice(value, *places, [axis])

    def count(self, end: str) -> str:
        """Return the numbers from 0 to below a value `(1,)`."""
        return self.Range(0, self.Squeeze(end, [0]), 1)

    def cast(self, flags: str, to: int = TensorProto.INT64) -> str:
        """Cast flags to 0 and 1, or numbers to another type."""
        return self.Cast(flags, to=to)

    def scan(self, steps: Sequence[Sequence[str]], values: Sequence[str], names: Sequence[str], backward: int) -> str:
        """Add a scan along time from the first of the values, and return all its states.

        Each step is an operator, its inputs and its output. The last two make the next state and the one to show.
        """
        flags = {"ReduceMax": {"axes": [-1]}}
        nodes = [helper.make_node(op, given, [made], **flags.get(op, {})) for op, *given, made in steps]
        kinds = [TensorProto.BOOL if name == "valid" else TensorProto.FLOAT for name in names]
        inputs = [helper.make_tensor_value_info(name, kind, None) for name, kind in zip(names, kinds, strict=True)]
        results = [helper.make_tensor_value_info(step[-1], TensorProto.FLOAT, None) for step in steps[-2:]]
        body = helper.make_graph(nodes, "step", inputs, results)
        count = len(values) - 1
        directions = {"scan_input_directions": [backward] * count, "scan_output_directions": [backward]}
        return self.Scan(*values, outputs=2, body=body, num_scan_inputs=count, **directions)[1]

    def finish(self, metadata: Mapping[str, str]) -> onnx.ModelProto:
        """Return the complete model."""
        graph = helper.make_graph(self._nodes, "hf_rnn", self._inputs, self._outputs, list(self._constants.values()))
        opset = [helper.make_opsetid("", _OPSET)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=_IR_VERSION, producer_name="hf-rnn")
        helper.set_model_props(model, dict(metadata))
        return model


class State:
    """The state of a streaming model before and after the tokens of a batch, (B, K) as in `TorchEngine.advance`."""

    def __init__(self, graph: Graph, lengths: str, model: RnnForSequenceClassification) -> None:
        self._graph, shapes, start = graph, state_shapes(model), 0
        self.width = sum(map(math.prod, shapes.values()))
        rows = graph.Concat(graph.Shape(lengths), [self.width], axis=0)
        state = graph.Expand(graph.read_state(self.width), rows)
        self._before: dict[str, list[str]] = {}
        self._after: dict[str, list[str]] = {name: [] for name in shapes}
        for name, shape in shapes.items():
            count = 1 if name == "pooling" else shape[0]  # layers
            size = math.prod(shape) // count
            places = range(start, start + count * size, size)
            self._before[name] = [graph.slice(state, place, place + size, 1) for place in places]
            start += count * size

    def take(self, name: str) -> str:
        """Return what the next layer carried so far, (B, numbers)."""
        return self._before[name].pop(0)

    def keep(self, name: str, value: str) -> None:
        """Set what the next layer carries from here."""
        self._after[name].append(self._graph.Flatten(value, axis=1))

    def finish(self) -> str:
        """Return the state after the tokens."""
        return self._graph.Concat(*(value for values in self._after.values() for value in values), axis=1)


class Texts:
    """The real tokens of a batch, moved to the front of each text, time first: from ids (B, T) and a mask of bool."""

    state: State | None = None

    def __init__(self, graph: Graph, ids: str, mask: str) -> None:
        count = graph.cast(mask)
        self._graph, self._mask, self.lengths = graph, mask, graph.ReduceSum(count, [1], keepdims=0)  # (B,)
        self.longest = graph.Max(graph.ReduceMax(self.lengths, axes=[0]), [1])  # (1,), T
        self.steps_read = graph.Max(self.lengths, [1])  # (B,): an empty text has one step, which is masked later
        self.rows = graph.count(graph.Shape(self.lengths))  # (B,): 0 to B - 1
        self.steps = graph.Unsqueeze(graph.count(self.longest), [1])  # (T, 1): 0 to T - 1
        self.valid = graph.Unsqueeze(graph.Less(self.steps, self.lengths), [2])  # (T, B, 1), whether there is a token
        self.real = graph.cast(self.valid, TensorProto.FLOAT)  # the same as 0 and 1
        self.some = graph.Unsqueeze(graph.Greater(self.lengths, 0), [1])  # (B, 1), whether the text has a token
        # A token goes to the place that counts the tokens before it; padding keeps its order behind all of them.
        self._before = graph.CumSum(count, 1, exclusive=1)
        padding = graph.CumSum(graph.Sub(1, count), 1, exclusive=1)
        behind = graph.Add(padding, graph.Unsqueeze(self.lengths, [1]))
        ids = graph.Where(mask, ids, 0)
        ids = graph.ScatterElements(ids, graph.Where(mask, self._before, behind), ids, axis=1)
        self.ids = graph.Transpose(graph.slice(ids, 0, self.longest, 1), perm=[1, 0])  # (T, B), 0 without a token

    def reverse(self, values: str) -> str:
        """Reverse the steps of each text in (T, B, ...), padding left where it is."""
        return self._graph.ReverseSequence(values, self.steps_read, time_axis=0, batch_axis=1)

    def take(self, values: str, steps: str) -> str:
        """Take values (T, B, ...) at steps (..., B) of each text."""
        graph = self._graph
        rows = graph.Add(self.rows, graph.Mul(steps, 0))
        return graph.GatherND(values, graph.Concat(*(graph.Unsqueeze(i, [-1]) for i in (steps, rows)), axis=-1))

    def keep_last(self, states: str, before: str) -> None:
        """Carry the last of a layer's states (T, B, H) from here; `before` (B, H) for a text without tokens."""
        if self.state is not None:
            last = self.take(states, self._graph.Sub(self.steps_read, [1]))
            self.state.keep("hidden", self._graph.Where(self.some, last, before))

    def restore(self, values: str) -> str:
        """Return values (T, B, S) in the places of the inputs (B, T, S), zero where the mask is zero."""
        graph = self._graph
        places = graph.Min(self._before, graph.Sub(self.longest, [1]))
        values = self.take(values, graph.Transpose(places, perm=[1, 0]))
        real = graph.Unsqueeze(graph.cast(self._mask, TensorProto.FLOAT), [2])
        return graph.Mul(graph.Transpose(values, perm=[1, 0, 2]), real)
