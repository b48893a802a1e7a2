"""A model's weights → an ONNX graph with the model's own contract and transformers' names of inputs and outputs.

Every graph reads `input_ids` and `attention_mask`, int64 `(B, T)`, B and T dynamic. As in the model, any mask but 0
means a token to read, in any pattern, and ids at masked places are ignored. Outputs are float32:

| head | outputs |
|---|---|
| classifier | `logits` `(B, C)` |
| tagger | `logits` `(B, T, C)`, zero at masked places |
| language model | `logits` `(B, T, V)`, and a state after the tokens for each state before them |
| encoder | `last_hidden_state` `(B, T, S)`, and `sentence_embedding` `(B, P)` of a sentence encoder |

The states `(L, B, ...)` of a language model are `past_hidden_state`, for an LSTM `past_cell_state` and for residual
blocks `past_conv_state`, zero at first; the outputs are named `present_hidden_state` and so on. Its mask may also have
the tokens before these.

Legend: as in `graph.py`, and C classes or tags, W words.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper

from ...models.auto import ENCODER
from ...models.cells_rnn import CELLS
from ...models.crf_rnn import forbidden
from ...models.token_classification_rnn import FIRST_FORMS, MARK
from .graph import ONNX_POOLINGS, Batch, Graph, Lengths, Memory, Texts, activate, add_layer, encode


def build_graph(model: Any, metadata: Mapping[str, str], is_encoder: bool = False) -> onnx.ModelProto:
    """Write a model as an ONNX graph in float32; `metadata` are stored in the file.

    Args:
        model: A model of this package.
        metadata: Names and values.
        is_encoder: Whether a classifier is a sentence encoder, whose logits are its vectors before normalisation.
    """
    graph = Graph()
    _HEADS[ENCODER if is_encoder else type(model).__name__](graph, model)
    return graph.finish(metadata)


def _add_classifier(graph: Graph, model: Any) -> None:
    batch = Batch(graph)
    logits = _classify(graph, batch, model)[0]
    graph.answer("logits", graph.slice(logits, 0, batch.count), ["batch", model.config.num_labels])


def _classify(graph: Graph, batch: Batch, model: Any) -> tuple[str, Texts, str]:
    """Return the logits (B, C), the texts, and their states (T, B, S)."""
    config, add, masks, pooled = model.config, graph.add, [batch.mask], []
    if config.siamese:  # the tokens before and after the first separator, see `_split_pair`
        found = add("And", add("Equal", batch.ids, graph.constant(config.sep_token_id)), batch.mask)
        passed = add("CumSum", add("Cast", found, to=TensorProto.INT64), graph.constant(1))
        is_first = add("And", found, add("Equal", passed, graph.constant(1)))
        after = add("Greater", passed, graph.constant(0))
        second = add("And", after, add("Not", is_first))
        masks = [add("And", batch.mask, side) for side in (add("Not", after), second)]
    for mask in masks:
        texts = Texts(graph, batch.ids, mask)
        states = encode(graph, texts, model.rnn)
        pooled.append(ONNX_POOLINGS[config.pooling](graph, texts, states, model))
    if config.siamese:
        pooled += [add("Abs", add("Sub", *pooled)), add("Mul", *pooled)]
    vectors = activate(graph, add("Concat", *pooled, axis=1), config.classifier_activation)
    weight, bias = model.classifier.weight.double(), model.classifier.bias.double()
    if config.target_scale is not None:  # a model whose training did not end
        scale = torch.tensor(config.target_scale, dtype=torch.float64)
        weight, bias = weight * scale[:, None], bias * scale + torch.tensor(config.target_mean, dtype=torch.float64)
    weights = graph.weight("classifier.weight", weight), graph.weight("classifier.bias", bias)
    return add("Gemm", vectors, *weights, transB=1), texts, states


def _add_encoder(graph: Graph, model: Any) -> None:
    batch, add = Batch(graph), graph.add
    if type(model).__name__ == ENCODER:
        texts = Texts(graph, batch.ids, batch.mask)
        states = encode(graph, texts, model)
    else:
        vectors, texts, states = _classify(graph, batch, model)
        norm = add("Max", add("ReduceL2", vectors, axes=[1]), graph.constant(1e-12, np.float32))
        vectors = graph.slice(add("Div", vectors, norm), 0, batch.count)
        graph.answer("sentence_embedding", vectors, ["batch", model.config.num_labels])
    graph.answer("last_hidden_state", batch.cut(texts.restore(states)), ["batch", "time", model.config.output_size])


def _add_language_model(graph: Graph, model: Any) -> None:
    config, batch = model.config, Batch(graph, past="past_time")
    shapes = {"hidden": [config.num_hidden_layers, "batch", config.hidden_size]}
    if CELLS[config.cell_type].has_cell_state:
        shapes["cell"] = shapes["hidden"]
    if config.block_type == "residual" and config.conv_kernel > 1:
        shapes["conv"] = [config.num_hidden_layers, "batch", config.conv_kernel - 1, config.stream_size]
    memory = Memory(graph, shapes)
    texts = Texts(graph, batch.ids, batch.mask)
    states = texts.restore(encode(graph, texts, model.rnn, memory))
    if isinstance(model.projection, torch.nn.Linear):
        states = graph.linear(states, model.projection, "lm_projection")
    head, width = model.lm_head, model.lm_head.in_features
    tied = head.weight is model.rnn.embedding.weight
    bias = head.bias.detach().clone()
    if config.pad_token_id is not None:  # padding is never the next token
        bias[config.pad_token_id] = torch.finfo(bias.dtype).min
    weights = "embedding" if tied else graph.weight("lm_head.weight", head.weight), graph.weight("lm_head.bias", bias)
    rows = graph.add("Gemm", graph.add("Reshape", states, graph.constant([-1, width])), *weights, transB=1)
    shape = graph.add("Concat", graph.add("Shape", states, end=2), graph.constant([config.vocab_size]), axis=0)
    logits = batch.cut(graph.add("Reshape", rows, shape))
    graph.answer("logits", logits, ["batch", "time", config.vocab_size])
    memory.answer()


def _add_tagger(graph: Graph, model: Any) -> None:
    config, batch = model.config, Batch(graph)
    texts = Texts(graph, batch.ids, batch.mask)
    if model.words is None:
        scores = graph.linear(encode(graph, texts, model.rnn), model.classifier, "classifier")
        logits = _find_best_tags(graph, texts, scores, model)
    else:
        logits = _tag_words(graph, batch, texts, model)
    graph.answer("logits", batch.cut(texts.restore(logits)), ["batch", "time", config.num_labels])


def _tag_words(graph: Graph, batch: Batch, texts: Texts, model: Any) -> str:
    """Return the logits of tokens (T, B, C) by those of their words; see `WordReader`.

    A word is marks of capitals, if any, and other tokens; the encoder does not read the marks.
    """
    reader, add, zero, one = model.words, graph.add, graph.constant(0), graph.constant(1)
    kinds = reader.kinds.cpu()
    is_mark, is_start = (
        graph.weight(name, flags, np.bool_) for name, flags in (("marks", kinds == MARK), ("starts", kinds > 0))
    )

    def number(flags: str) -> str:
        return add("Cast", flags, to=TensorProto.INT64)

    def shift(flags: str, distance: int) -> str:
        """Return the flags of the token before (1) or after (-1), 0 beyond the ends."""
        ends = [1, 0, 0, 0] if distance > 0 else [0, 0, 1, 0]
        wide = add("Pad", number(flags), graph.constant(ends))
        cut = graph.slice(wide, 0, texts.longest) if distance > 0 else graph.slice(wide, 1, 2**62)
        return add("Cast", cut, to=TensorProto.BOOL)

    given = add("Where", batch.mask, batch.ids, zero)
    read = Texts(graph, batch.ids, add("And", batch.mask, add("Not", add("Gather", is_mark, given))))
    states = encode(graph, read, model.rnn)
    valid = add("Squeeze", texts.valid, graph.constant([2]))  # (T, B), as all that follows
    marks = add("And", add("Gather", is_mark, texts.ids), valid)
    plain, before = add("And", add("Not", marks), valid), shift(marks, 1)
    begins = add("And", add("Gather", is_start, texts.ids), add("Not", before))
    begins = add("And", add("Or", begins, add("Equal", texts.steps, zero)), valid)
    ends = add("Or", shift(begins, -1), add("Not", shift(valid, -1)))
    counts = add("ReduceSum", number(begins), graph.constant([0]), keepdims=0)
    words = Lengths(graph, counts)
    places = add("Where", valid, add("Sub", add("CumSum", number(begins), zero), one), words.longest)
    order = add("Add", texts.steps, add("Mul", number(valid), zero))
    empty = add("Expand", zero, add("Concat", add("Add", words.longest, one), add("Shape", texts.lengths), axis=0))

    def find(flags: str, otherwise: str) -> str:
        """Return the place of the one token of each word with this flag (W + 1, B)."""
        return add("ScatterElements", otherwise, add("Where", flags, places, words.longest), order, axis=0)

    def cut(tokens: str) -> str:
        return graph.slice(tokens, 0, words.longest)

    begin = find(begins, empty)
    first = cut(find(add("And", plain, add("Or", begins, before)), begin))  # after the marks
    last = cut(find(add("And", plain, ends), begin))
    begin, word = cut(begin), add("Min", places, add("Sub", words.longest, one))
    distance = add("Sub", order, add("GatherElements", first, word, axis=0))
    codes = add("Gather", graph.weight("codes", reader.codes, np.int64), texts.ids)
    codes = add("Mul", codes, add("Add", add("Mul", distance, graph.constant(2)), one))
    codes = add("Mul", codes, number(plain))
    whole = cut(add("ScatterElements", empty, places, codes, axis=0, reduction="add"))
    forms = graph.weight("forms", reader.forms, np.int32)

    def list_rows(tokens: str, start: int, end: int) -> str:
        found = add("Gather", forms, add("GatherElements", texts.ids, tokens, axis=0))
        return graph.slice(add("Cast", found, to=TensorProto.INT64), start, end, 2)

    parts = [list_rows(first, 0, FIRST_FORMS), list_rows(last, FIRST_FORMS, 2**62), list_rows(begin, 0, 1)]
    whole = add("Mod", whole, graph.constant(reader.table.num_embeddings))
    rows = add("Concat", *parts, add("Unsqueeze", whole, graph.constant([2])), axis=2)
    vectors = add("Gather", graph.weight("words.table", reader.table.weight), rows)  # (W, B, forms, H)
    vectors = add("ReduceSum", vectors, graph.constant([2]), keepdims=0)
    # states are those of the tokens that the encoder reads
    seen = add("Min", add("CumSum", number(plain), zero, exclusive=1), add("Sub", read.longest, one))
    sides = []
    for side, tokens in zip(range(0, model.config.output_size, reader.size), (last, first), strict=False):
        state = read.take(states, add("GatherElements", seen, tokens, axis=0))
        is_read = add("Cast", add("GatherElements", number(plain), tokens, axis=0), to=TensorProto.FLOAT)
        state = graph.slice(state, side, side + reader.size, 2)
        sides.append(add("Mul", state, add("Unsqueeze", is_read, graph.constant([2]))))
    states = add_layer(graph, words, add("Concat", *sides, vectors, axis=2), reader.layer, "lstm", "words")
    scores = _find_best_tags(graph, words, graph.linear(states, model.classifier, "classifier"), model)
    scores = texts.take(scores, word)
    # the further tokens of a word with B-X have I-X
    names, label2id = model.config.id2label, model.config.label2id
    partner, is_begin, is_inside = list(range(len(names))), [False] * len(names), [False] * len(names)
    for name, tag in label2id.items():
        inside = label2id.get(f"I-{name[2:]}") if name.startswith("B-") else None
        if inside is not None:
            partner[tag], partner[inside], is_begin[tag], is_inside[inside] = inside, tag, True, True
    other = add("Gather", scores, graph.constant(partner), axis=2)
    further = add("Where", graph.constant(is_inside, np.bool_), add("Max", scores, other), scores)
    further = add("Where", graph.constant(is_begin, np.bool_), add("Min", scores, other), further)
    return add("Where", add("Unsqueeze", begins, graph.constant([2])), scores, further)


def _find_best_tags(graph: Graph, texts: Lengths, emissions: str, model: Any) -> str:
    """Return the scores of a conditional random field (T, B, C), see `Crf.best_scores`; without one, the emissions.

    Two scans: the best score of the tags before each token, and of those after it.
    """
    if model.crf is None:
        return emissions
    names = tuple(model.config.id2label[index] for index in range(model.config.num_labels))
    add, crf = graph.add, model.crf
    first, pairs = map(crf.transitions.new_tensor, forbidden(names))
    step = (crf.transitions + pairs).detach()
    shape = add("Concat", add("Shape", texts.lengths), graph.constant([len(names)]), axis=0)
    start = add("Expand", graph.weight("crf.first", crf.first + first), shape)
    end = add("Expand", graph.weight("crf.last", crf.last), shape)
    emissions = add("Mul", emissions, texts.real)
    graph.weight("crf.into", step.t())
    graph.weight("crf.from", step)
    forward = _step_tags("crf.into", shown="sum")
    _, before = add("Scan", start, emissions, outputs=2, body=forward, num_scan_inputs=1)
    backward = _step_tags("crf.from", shown="state", valid="valid")
    options = {"scan_input_directions": [1, 1], "scan_output_directions": [1], "num_scan_inputs": 2}
    _, after = add("Scan", end, emissions, texts.valid, outputs=2, body=backward, **options)
    best = add("Add", before, after)
    return add("Sub", best, add("ReduceMax", best, axes=[2]))


def _step_tags(step: str, shown: str, valid: str | None = None) -> onnx.GraphProto:
    """Return the body of a Scan: state and score of a token (B, C) → the best state of the next, and one to show."""
    node, names = helper.make_node, ["state", "score", *([valid] if valid else [])]
    nodes = [
        node("Add", ["state", "score"], ["sum"]),
        node("ReduceMax", ["sum"], ["most"], axes=[1]),  # without it, sums over long texts lose digits
        node("Sub", ["sum", "most"], ["less"]),
        node("Unsqueeze", ["less", "constant_int64_[1]"], ["column"]),
        node("Add", ["column", step], ["all"]),
        node("ReduceMax", ["all"], ["best"], axes=[2], keepdims=0),
        node("Where", [valid, "best", "state"], ["next"]) if valid else node("Identity", ["best"], ["next"]),
        node("Identity", [shown], ["shown"]),
    ]
    kinds = {valid: TensorProto.BOOL}
    inputs, outputs = (
        [helper.make_tensor_value_info(name, kinds.get(name, TensorProto.FLOAT), None) for name in group]
        for group in (names, ["next", "shown"])
    )
    return helper.make_graph(nodes, "tags", inputs, outputs)


_HEADS = {
    "RnnForSequenceClassification": _add_classifier,
    "RnnForTokenClassification": _add_tagger,
    "RnnForCausalLM": _add_language_model,
    ENCODER: _add_encoder,
}
