"""Write a model as an ONNX graph, node by node, in less than a second.

`torch.onnx.export(dynamo=True)` of torch 2.13 fixes the number of tokens of an LSTM and a GRU, errs by 3e-3 with
minGRU in texts that are longer than its example, and takes 12 seconds to minutes.

The guide in `inference/README.md` lists inputs and outputs. `ONNX_CELLS` and `ONNX_POOLINGS` list what is supported.

Legend: B batch, T time, I input width, H hidden per direction, D directions, S width of a state (D * H), E embedding,
R residual stream, P width of a pooled vector, C classes or tags, W words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import numpy as np
import onnx
import torch
from onnx import TensorProto
from torch import nn
from transformers import PreTrainedModel

from ...models.auto import ENCODER
from ...models.blocks_rnn import ResidualBlock, ShortConvolution
from ...models.cells_rnn import RnnLayer
from ...models.crf_rnn import forbidden
from ...models.modeling_rnn import NGRAM_FACTOR, NGRAM_PRIME, NGRAMS, RnnForSequenceClassification, RnnModel
from ...models.token_classification_rnn import FIRST_FORMS, MARK, RnnForTokenClassification, WordReader
from ..engines import CLASSIFIER
from ..engines.heads import pair_tags
from .nodes import END, Graph, State, Texts

_LOWEST = float(np.finfo(np.float32).min)


# Each function of a cell adds a layer: inputs (T, B, I), one cell per direction → states (T, B, S).


def _add_operator(
    graph: Graph,
    texts: Texts,
    inputs: str,
    cells: list[Any],
    *,
    operator: str,
    gates: tuple[int, ...],
    **attributes: Any,
) -> str:
    """Add a layer of one of ONNX's own recurrent operators; `gates` is their order in torch's weights.

    Each direction reads forward and padding comes last, so none needs `sequence_lens`, with which OpenVINO computes
    wrong states for batches. The backward direction reads each text reversed.
    """
    states = []
    for number, cell in enumerate(cells):

        def stack(*kinds: str, cell: Any = cell) -> np.ndarray:
            """Return weights `(1, kinds * gates * H, ...)`, the gates in ONNX's order."""
            parts = [getattr(cell, kind).detach().float().cpu().chunk(len(gates)) for kind in kinds]
            return torch.cat([part[gate] for part in parts for gate in gates]).numpy()[None]

        weights = [stack("weight_ih_l0"), stack("weight_hh_l0"), stack("bias_ih_l0", "bias_hh_l0")]
        read = texts.reverse(inputs) if number else inputs
        before = [] if texts.state is None else [texts.state.take("hidden")]
        if texts.state is not None and cell.has_cell_state:  # one more input sets the gates that keep c in padding
            before.append(texts.state.take("cell"))
            column = np.repeat([cell.padding_gates[gate] for gate in gates], cell.hidden_size)[None, :, None]
            weights[0] = np.concatenate([weights[0], column.astype(np.float32)], axis=2)
            read = graph.Concat(read, graph.Sub(1.0, texts.real), axis=2)
        initial = ["", *(graph.Unsqueeze(value, [0]) for value in before)] if before else []
        add = partial(getattr(graph, operator), hidden_size=cell.hidden_size, **attributes)
        read, *ends = add(read, *weights, *initial, outputs=3) if len(before) == 2 else [add(read, *weights, *initial)]
        read = graph.Squeeze(read, [1])  # of (T, 1, B, H)
        if texts.state is not None:
            texts.keep_last(read, before[0])
            for value in ends[1:]:
                texts.state.keep("cell", graph.Squeeze(value, [0]))
        if attributes:  # ReLU is unbounded: its states can overflow in long padding, and infinity times 0 is NaN
            read = graph.Where(texts.valid, read, 0.0)
        states.append(texts.reverse(read) if number else read)
    return states[0] if len(states) == 1 else graph.Concat(*states, axis=2)


def _add_min_gru(graph: Graph, texts: Texts, inputs: str, cells: list[Any]) -> str:
    """Add a layer of minGRU: a scan of h = decay * h + addend per direction.

    The gate is 0 at padding, which leaves the state unchanged, so the backward direction starts at the end of it.
    """
    steps = [("Mul", "h", "decay", "kept"), ("Add", "kept", "addend", "next"), ("Identity", "next", "state")]
    states, shape = [], graph.Concat(graph.Shape(inputs, start=1, end=2), [cells[0].hidden_size], axis=0)
    for number, cell in enumerate(cells):
        sums = graph.Add(graph.MatMul(inputs, cell.weight_ih_l0.t()), cell.bias_ih_l0)
        gate, candidate = graph.Split(sums, axis=2, outputs=2)
        update = graph.Mul(graph.Sigmoid(gate), texts.real)
        before = graph.ConstantOfShape(shape) if texts.state is None else texts.state.take("hidden")
        read = before, graph.Sub(1.0, update), graph.Mul(update, candidate)
        states.append(graph.scan(steps, read, ("h", "decay", "addend"), backward=number))
        texts.keep_last(states[0], before)
    return states[0] if len(states) == 1 else graph.Concat(*states, axis=2)


def _add_layer(graph: Graph, texts: Texts, inputs: str, layer: RnnLayer, cell_type: str) -> str:
    """Add an `RnnLayer`: inputs (T, B, I) → states (T, B, S)."""
    return ONNX_CELLS[cell_type](graph, texts, inputs, [direction.cell for direction in layer.directions])


def _encode(graph: Graph, texts: Texts, encoder: RnnModel) -> str:
    """Add an encoder: the states (T, B, S) of texts."""
    table = encoder.embedding.weight.detach().cpu()
    if graph.half_table:
        states = graph.cast(graph.Gather(table.half(), texts.ids), TensorProto.FLOAT)
    else:
        states = graph.Gather(table, texts.ids)  # (T, B, E)
    if encoder.config.block_type == "residual":
        return _add_blocks(graph, texts, states, encoder)
    for layer in cast("list[RnnLayer]", encoder.layers):
        states = _add_layer(graph, texts, states, layer, encoder.config.cell_type)
    return states


def _add_blocks(graph: Graph, texts: Texts, vectors: str, encoder: RnnModel) -> str:
    """Add residual blocks: token vectors (T, B, E) → normalised stream (T, B, R); see `ResidualBlock`."""
    linear, activation = graph.linear, getattr(encoder.config, "hidden_act", "silu")

    def norm(inputs: str, layer: nn.LayerNorm) -> str:
        return graph.LayerNormalization(inputs, layer.weight, layer.bias, axis=-1, epsilon=layer.eps)

    def convolve(inputs: str, conv: ShortConvolution) -> str:
        behind = conv.size - 1 - conv.ahead
        wide = graph.Mul(inputs, texts.real)
        if texts.state is None:
            wide = graph.Pad(wide, [behind, 0, 0, conv.ahead, 0, 0])
        else:
            before = graph.Reshape(texts.state.take("conv"), [0, behind, -1])
            wide = graph.Concat(graph.Transpose(before, perm=[1, 0, 2]), wide, axis=0)
            last = texts.take(wide, graph.Add(texts.lengths, np.arange(behind)[:, None]))
            texts.state.keep("conv", graph.Transpose(last, perm=[1, 0, 2]))
        parts = (graph.slice(wide, place, graph.Add(texts.longest, [place])) for place in range(conv.size))
        return graph.Sum(*(graph.Mul(part, weight) for part, weight in zip(parts, conv.weight, strict=True)))

    stream = linear(norm(vectors, encoder.projection.norm), encoder.projection.projection)
    for block in cast("list[ResidualBlock]", encoder.layers):
        inputs = norm(stream, block.input_norm)
        if block.conv is not None:
            inputs = convolve(inputs, block.conv)
        states = _add_layer(graph, texts, inputs, block.mixer, encoder.config.cell_type)
        gate = _activate(graph, linear(inputs, block.gate_proj), activation)
        stream = graph.Add(stream, linear(graph.Mul(states, gate), block.out_proj))
        inner = _activate(graph, linear(norm(stream, block.mlp_norm), block.up_proj), activation)
        stream = graph.Add(stream, linear(inner, block.down_proj))
    return norm(stream, encoder.norm)


def _pool(graph: Graph, texts: Texts, states: str, model: RnnForSequenceClassification) -> str:
    """Pool states (T, B, S) → (B, P), zero for a text without tokens; see `RnnPooler`."""
    pooling, parts = model.config.pooling, []
    if pooling == "last":  # the last state that each direction reads
        last = texts.take(states, graph.Sub(texts.steps_read, [1]))
        if model.config.num_directions == 2:
            half = model.config.output_size // 2
            backward = graph.slice(graph.Gather(states, 0, axis=0), half, END, 1)
            last = graph.Concat(graph.slice(last, 0, half, 1), backward, axis=1)
        return graph.Where(texts.some, last, 0.0)
    if pooling == "attention":
        keys = graph.Tanh(graph.linear(states, model.pooler.projection))
        scores = graph.MatMul(keys, model.pooler.context.weight.t())  # (T, B, 1)
        weights = graph.Softmax(graph.Where(texts.valid, scores, _LOWEST), axis=0)
        return graph.ReduceSum(graph.Mul(states, graph.Mul(weights, texts.real)), [0], keepdims=0)
    if "mean" in pooling:
        total = graph.ReduceSum(graph.Mul(states, texts.real), [0], keepdims=0)
        parts.append(graph.Div(total, graph.Unsqueeze(graph.cast(texts.steps_read, TensorProto.FLOAT), [1])))
    if "max" in pooling:
        highest = graph.ReduceMax(graph.Where(texts.valid, states, _LOWEST), axes=[0], keepdims=0)
        parts.append(graph.Where(texts.some, highest, 0.0))
    return parts[0] if len(parts) == 1 else graph.Concat(*parts, axis=1)


def _carry(graph: Graph, texts: Texts, state: State, pooled: str, model: RnnForSequenceClassification) -> str:
    """Return the pooled vectors of all tokens so far (B, P), which the state keeps; see `RnnPooler.carry`."""
    before, width, pooling = state.take("pooling"), model.pooler.output_size, model.config.pooling
    count, old = graph.slice(before, 0, 1, 1), graph.slice(before, 1, END, 1)
    read = graph.Unsqueeze(graph.cast(texts.lengths, TensorProto.FLOAT), [1])
    total, merged = graph.Add(count, read), pooled
    if pooling != "last":
        share = graph.Div(read, graph.Max(total, 1.0))
        mean = graph.Add(old, graph.Mul(graph.Sub(pooled, old), share))
        is_mean = np.arange(width) < {"mean": width, "max": 0, "mean_max": width // 2}[pooling]
        merged = graph.Where(graph.Greater(count, 0.0), graph.Where(is_mean, mean, graph.Max(old, pooled)), pooled)
    merged = graph.Where(texts.some, merged, old)
    state.keep("pooling", graph.Concat(total, merged, axis=1))
    return merged


def _activate(graph: Graph, inputs: str, activation: str) -> str:
    """Add an activation; GELU is x/2 * (1 + erf(x / sqrt 2)) (Hendrycks and Gimpel 2016), SiLU x * sigmoid(x)."""
    if activation == "linear":
        return inputs
    if activation == "silu":
        return graph.Mul(inputs, graph.Sigmoid(inputs))
    if activation == "gelu":
        return graph.Mul(graph.Mul(inputs, 0.5), graph.Add(graph.Erf(graph.Mul(inputs, 0.5**0.5)), 1.0))
    return getattr(graph, activation.capitalize())(inputs)  # Relu, Tanh


# Gates in ONNX's order: torch's i f g o → i o f c, and r z n → z r h; reset before the product, as in torch and cuDNN.
ONNX_CELLS: dict[str, Callable[..., str]] = {
    "rnn_tanh": partial(_add_operator, operator="RNN", gates=(0,)),
    "rnn_relu": partial(_add_operator, operator="RNN", gates=(0,), activations=["Relu"]),
    "gru": partial(_add_operator, operator="GRU", gates=(1, 0, 2), linear_before_reset=1),
    "lstm": partial(_add_operator, operator="LSTM", gates=(0, 3, 1, 2)),
    "min_gru": _add_min_gru,
}
ONNX_POOLINGS = ("last", "mean", "max", "mean_max", "attention")


# ---- heads ----


def build_graph(
    model: PreTrainedModel,
    metadata: Mapping[str, str],
    is_encoder: bool = False,
    half_table: bool = False,
    project_tokens: bool = False,
    streams: bool = False,
) -> onnx.ModelProto:
    """Write a model as an ONNX graph in float32; `metadata` are stored in the file.

    Args:
        model: A model of this package.
        metadata: Names and values.
        is_encoder: Whether a classifier is a sentence encoder, whose logits are its vectors before normalisation.
        half_table: Whether the embedding table is stored in float16.
        project_tokens: Whether `last_hidden_state` of a sentence encoder are projected: then their mean, normalised,
            is its vector.
        streams: Whether a streaming classifier has its state as an optional input and as an output.
    """
    graph = Graph(half_table)
    if is_encoder or type(model).__name__ == ENCODER:
        _add_encoder(graph, model, project_tokens)
    elif type(model).__name__ == CLASSIFIER:
        logits, texts, _ = _classify(graph, model, streams)
        graph.answer("logits", logits, model.config.num_labels)
        if texts.state is not None:
            graph.answer("final_state", texts.state.finish(), texts.state.width)
    else:
        _add_tagger(graph, model)
    return graph.finish(metadata)


def _classify(graph: Graph, model: RnnForSequenceClassification, streams: bool = False) -> tuple[str, Texts, str]:
    """Return the logits (B, C), the texts, and their states (T, B, S)."""
    config, texts = model.config, Texts(graph, graph.ids, graph.mask)
    texts.state = State(graph, texts.lengths, model) if streams else None
    states = _encode(graph, texts, model.rnn)
    pooled = _pool(graph, texts, states, model)
    if texts.state is not None:
        pooled = _carry(graph, texts, texts.state, pooled, model)
    vectors = _activate(graph, pooled, config.classifier_activation)
    logits = graph.Gemm(vectors, model.classifier.weight, model.classifier.bias, transB=1)
    if model.ngrams is not None:
        logits = graph.Add(logits, _add_ngrams(graph, texts, model.ngrams.weight))
    if config.target_scale is not None:  # a model whose training did not end
        logits = graph.Add(graph.Mul(logits, config.target_scale), config.target_mean)
    return logits, texts, states


def _add_ngrams(graph: Graph, texts: Texts, weight: torch.Tensor) -> str:
    """Return the scores (B, C) of one to three tokens in a row; see `TokenNgrams`."""
    hashes, sums, table = graph.Mul(texts.ids, 0), [], graph.constant(weight.t())
    for number in range(NGRAMS):
        ids = graph.slice(graph.Pad(texts.ids, [0, 0, number, 0]), number, END)
        hashes = graph.Mod(graph.Add(graph.Mul(hashes, NGRAM_FACTOR), graph.Add(ids, 1)), NGRAM_PRIME)
        valid = graph.Less(graph.Add(texts.steps, number), texts.lengths)
        found = graph.Gather(table, graph.Mod(hashes, weight.shape[1]))  # (T, B, C)
        sums.append(graph.Mul(found, graph.cast(graph.Unsqueeze(valid, [2]), TensorProto.FLOAT)))
    lengths = graph.cast(graph.Max(texts.lengths, [1]), TensorProto.FLOAT)
    return graph.Div(graph.ReduceSum(graph.Sum(*sums), [0], keepdims=0), graph.Unsqueeze(graph.Sqrt(lengths), [1]))


def _add_encoder(graph: Graph, model: RnnModel | RnnForSequenceClassification, project_tokens: bool) -> None:
    width = model.config.output_size
    if type(model).__name__ == ENCODER:
        texts = Texts(graph, graph.ids, graph.mask)
        states = _encode(graph, texts, model)
    else:
        vectors, texts, states = _classify(graph, model)
        vectors = graph.Div(vectors, graph.Max(graph.ReduceL2(vectors, axes=[1]), 1e-12))
        graph.answer("sentence_embedding", vectors, model.config.num_labels)
    if project_tokens:
        states, width = graph.linear(states, model.classifier), model.config.num_labels
    graph.answer("last_hidden_state", texts.restore(states), width, per_token=True)


def _add_tagger(graph: Graph, model: RnnForTokenClassification) -> None:
    texts = Texts(graph, graph.ids, graph.mask)
    if model.words is None:
        scores = graph.linear(_encode(graph, texts, model.rnn), model.classifier)
        logits = _find_best_tags(graph, texts, scores, model)
    else:
        logits = _tag_words(graph, texts, model)
    graph.answer("logits", texts.restore(logits), model.config.num_labels, per_token=True)


def _tag_words(graph: Graph, texts: Texts, model: RnnForTokenClassification) -> str:
    """Return the logits of tokens (T, B, C) by those of their words; see `WordReader`.

    A word is marks of capitals, if any, and then other tokens; the encoder does not read the marks.
    """
    reader, number = cast(WordReader, model.words), graph.cast
    is_mark, is_start = map(graph.constant, (reader.kinds == MARK, reader.kinds > 0))
    ids = graph.Where(graph.mask, graph.ids, 0)
    read = Texts(graph, graph.ids, graph.And(graph.mask, graph.Not(graph.Gather(is_mark, ids))))
    states = _encode(graph, read, model.rnn)
    valid, marks = graph.Squeeze(texts.valid, [2]), graph.Gather(is_mark, texts.ids)  # (T, B)
    after_mark = number(graph.slice(graph.Pad(number(marks), [1, 0, 0, 0]), 0, texts.longest), TensorProto.BOOL)
    begins = graph.And(graph.Gather(is_start, texts.ids), graph.Not(after_mark))
    begins = graph.And(graph.Or(begins, graph.Equal(texts.steps, 0)), valid)
    places = graph.Add(texts.steps, graph.Mul(number(valid), 0))
    words = Texts(graph, *(graph.Transpose(value, perm=[1, 0]) for value in (places, begins)))
    begin, lengths = words.ids, graph.Unsqueeze(texts.lengths, [0])  # (W, B), as all that follows
    is_last = graph.Equal(graph.Add(words.steps, 1), words.lengths)
    end = graph.Where(is_last, lengths, graph.Concat(graph.slice(begin, 1, END), lengths, axis=0))

    def count(values: str) -> tuple[str, str]:
        """Return the sums of (T, B) over the tokens before each word, and in it."""
        sums = graph.CumSum(graph.Pad(values, [0, 0, 1, 0]), 0, exclusive=1)
        before, through = (graph.GatherElements(sums, places, axis=0) for places in (begin, end))
        return before, graph.Sub(through, before)

    plain = number(graph.And(graph.Not(marks), valid))
    seen, length = count(plain)
    some = graph.Greater(length, 0)  # else the word has marks only
    first, last = graph.Where(some, graph.Sub(end, length), begin), graph.Where(some, graph.Sub(end, 1), begin)
    codes = graph.Mul(graph.Gather(reader.codes.long(), texts.ids), plain)
    weighted = count(graph.Mul(codes, graph.Add(graph.Mul(places, 2), 1)))[1]  # by the place in the text
    whole = graph.Sub(weighted, graph.Mul(count(codes)[1], graph.Mul(first, 2)))  # by the place in the word
    forms = graph.constant(reader.forms.int())

    def list_rows(tokens: str, start: int, end: int) -> str:
        rows = graph.Gather(forms, graph.GatherElements(texts.ids, tokens, axis=0))
        return graph.slice(number(rows), start, end, 2)

    parts = [list_rows(first, 0, FIRST_FORMS), list_rows(last, FIRST_FORMS, END), list_rows(begin, 0, 1)]
    whole = graph.Mod(whole, reader.table.num_embeddings)
    rows = graph.Concat(*parts, graph.Unsqueeze(whole, [2]), axis=2)
    vectors = graph.ReduceSum(graph.Gather(reader.table.weight, rows), [2], keepdims=0)  # of (W, B, forms, H)
    sides, ends = [], (graph.Sub(graph.Add(seen, length), 1), seen)  # last and first token that the encoder read
    for start, tokens in zip(range(0, model.config.output_size, reader.size), ends, strict=False):
        state = read.take(states, graph.Min(graph.Max(tokens, 0), graph.Sub(read.longest, [1])))
        state = graph.slice(state, start, start + reader.size, 2)
        sides.append(graph.Mul(state, graph.Unsqueeze(number(some, TensorProto.FLOAT), [2])))
    states = _add_layer(graph, words, graph.Concat(*sides, vectors, axis=2), reader.layer, "lstm")
    scores = _find_best_tags(graph, words, graph.linear(states, model.classifier), model)
    word = graph.Max(graph.Sub(graph.CumSum(number(begins), 0), 1), 0)
    scores = texts.take(scores, word)
    partners, is_inside = pair_tags([model.config.id2label[tag] for tag in range(model.config.num_labels)])
    other = graph.Gather(scores, partners, axis=2)
    further = graph.Where(is_inside, graph.Max(scores, other), graph.Min(scores, other))
    return graph.Where(graph.Unsqueeze(begins, [2]), scores, further)


def _find_best_tags(graph: Graph, texts: Texts, emissions: str, model: RnnForTokenClassification) -> str:
    """Return the scores of a conditional random field (T, B, C), see `Crf.best_scores`; without one, the emissions.

    The pipelines of transformers.js take the largest one, so the graph has it.
    """
    if (crf := model.crf) is None:
        return emissions
    names = tuple(model.config.id2label[tag] for tag in range(model.config.num_labels))
    first, pairs = map(crf.transitions.new_tensor, forbidden(names))
    shape = graph.Concat(graph.Shape(texts.lengths), [len(first)], axis=0)
    emissions = graph.Mul(emissions, texts.real)

    def scan(start: torch.Tensor, transitions: torch.Tensor, backward: int) -> str:
        """Return the best score of the tags before each token, or after it."""
        steps = [
            ("Add", "state", "score", "sum"),
            ("ReduceMax", "sum", "most"),  # without it, sums over long texts lose digits
            ("Sub", "sum", "most", "less"),
            ("Unsqueeze", "less", graph.constant([1]), "column"),
            ("Add", "column", graph.constant(transitions), "all"),
            ("ReduceMax", "all", "highest"),
            ("Squeeze", "highest", graph.constant([2]), "best"),
            ("Where", "valid", "best", "state", "next"),
            ("Identity", "state", "shown"),
        ]
        values = graph.Expand(start, shape), emissions, texts.valid
        return graph.scan(steps, values, ("state", "score", "valid"), backward)

    step = crf.transitions + pairs
    best = graph.Sum(scan(crf.first + first, step.t(), 0), emissions, scan(crf.last, step, 1))
    return graph.Sub(best, graph.ReduceMax(best, axes=[2]))
