"""The model's contract for every cell, depth, direction and pooling, compared with plain torch."""

import itertools

import numpy as np
import pytest
import tiny_ngrams
import torch
from torch import nn
from torch.nn.utils import prune
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from hf_rnn import RnnConfig, RnnForSequenceClassification, RnnModel
from hf_rnn.models.cells_rnn import CELLS
from hf_rnn.models.pooling_rnn import POOLERS

WITH_RECURRENT_WEIGHTS = [name for name in CELLS if name != "min_gru"]
ENCODERS = list(itertools.product(WITH_RECURRENT_WEIGHTS, [1, 2], [False, True]))
# each cell with each pooling, half of them in two layers
VARIANTS = [
    (cell, 1 + (row + column) % 2, column % 3 != 0, pooling)
    for (row, cell), (column, pooling) in itertools.product(enumerate(CELLS), enumerate(POOLERS))
]
PAD = 1
TOLERANCE = {"atol": 2e-6, "rtol": 1e-5}
TEXTS = [[5, 7, 2, 9, 3], [4], [8, 8, 6], [11, 3, 2, 4, 7, 10, 5]]
LABELS = torch.tensor([0, 2, 1, 1])
IDS, HOLES = torch.tensor([[3, 4, 5, 9], [9, 6, 9, 7]]), torch.tensor([[1, 1, 1, 0], [0, 1, 0, 1]])


def make(
    cell="lstm",
    layers=1,
    bidirectional=True,
    pooling="mean_max",
    model=RnnForSequenceClassification,
    **settings,
):
    torch.manual_seed(sum(map(ord, f"{cell}{layers}{bidirectional}{pooling}")))
    sizes = {
        "vocab_size": 13,
        "embedding_size": 6,
        "hidden_size": 5,
        "num_hidden_layers": layers,
        "num_labels": 3,
    }
    return model(
        RnnConfig(**sizes, bidirectional=bidirectional, cell_type=cell, pooling=pooling, **settings)
    ).eval()


def pad_right(texts, extra=0, filler=PAD):
    time = max(map(len, texts)) + extra
    ids = torch.tensor([text + [filler] * (time - len(text)) for text in texts])
    mask = torch.tensor([[1] * len(text) + [0] * (time - len(text)) for text in texts])
    return ids, mask


def plain_rnn(encoder):
    """Return torch's multi-layer module with the weights of an `RnnModel`, as a reference."""
    config = encoder.config
    if config.cell_type == "min_gru":  # torch lacks it; test_blocks_rnn.py has its formula
        return lambda vectors: (encoder(inputs_embeds=vectors).last_hidden_state, None)
    kind = {"gru": nn.GRU, "lstm": nn.LSTM}.get(config.cell_type, nn.RNN)
    options = {"bidirectional": config.bidirectional, "batch_first": True}
    options |= {"nonlinearity": config.cell_type[4:]} if kind is nn.RNN else {}
    reference = kind(config.embedding_size, config.hidden_size, config.num_hidden_layers, **options)
    reference.load_state_dict(
        {name: weight.detach().clone() for name, weight in named_weights(encoder)}
    )
    return reference


def named_weights(encoder):
    """Yield the cells' weights under the names of torch's multi-layer modules."""
    for layer, direction in itertools.product(
        range(len(encoder.layers)), range(encoder.config.num_directions)
    ):
        for name, weight in encoder.layers[layer].directions[direction].cell.named_parameters():
            yield name.replace("_l0", f"_l{layer}") + ("_reverse" if direction else ""), weight


def initial_states(config, batch):
    generator = torch.Generator().manual_seed(0)
    shape = (config.num_hidden_layers * config.num_directions, batch, config.hidden_size)
    h_0 = torch.randn(shape, generator=generator)
    return h_0, torch.randn(shape, generator=generator) if config.cell_type == "lstm" else None


def pool_by_hand(model, states):
    """Pool states (T, S) of one text."""
    pooling, half = model.config.pooling, model.config.hidden_size
    if pooling == "last":
        return (
            torch.cat([states[-1, :half], states[0, half:]])
            if model.config.bidirectional
            else states[-1]
        )
    if pooling == "attention":
        pooler = model.pooler
        hidden = torch.tanh(states @ pooler.projection.weight.T + pooler.projection.bias)
        return torch.softmax(hidden @ pooler.context.weight[0], dim=0) @ states
    parts = {"mean": states.mean(0), "max": states.max(0).values}
    return torch.cat([parts[name] for name in pooling.split("_")])


@pytest.mark.parametrize(("cell", "layers", "bidirectional", "pooling"), VARIANTS)
class TestPaddingNeverChangesANumber:
    def test_logits(self, cell, layers, bidirectional, pooling):
        model = make(cell, layers, bidirectional, pooling)
        reference = plain_rnn(model.rnn)
        expected = []
        for text in TEXTS:
            states = reference(model.rnn.embedding(torch.tensor([text])))[0][0]
            expected.append(
                pool_by_hand(model, states) @ model.classifier.weight.T + model.classifier.bias
            )
        # a text without tokens: a zero pooled vector
        expected = torch.stack([*expected, model.classifier.bias])
        assert expected.std(dim=0).max() > 1e-3, "premise: the texts have different answers"
        texts = [*TEXTS, []]
        ids, mask = pad_right(texts)
        torch.testing.assert_close(model(ids).logits, expected, **TOLERANCE)
        for filler in (PAD, 7, -100, 10**6):  # also ids that are not in the table
            ids, mask = pad_right(texts, extra=6, filler=filler)
            torch.testing.assert_close(model(ids, mask).logits, expected, **TOLERANCE)
            torch.testing.assert_close(
                model(ids.roll(6, 1), 2 * mask.roll(6, 1)).logits, expected, **TOLERANCE
            )
        holes = torch.full((len(texts), 15), 9)
        mask = torch.zeros_like(holes, dtype=torch.bool)
        for row, text in enumerate(texts):
            places = (
                torch.randperm(15, generator=torch.Generator().manual_seed(row))[: len(text)]
                .sort()
                .values
            )
            holes[row, places], mask[row, places] = torch.tensor(text, dtype=torch.long), True
        torch.testing.assert_close(model(holes, mask).logits, expected, **TOLERANCE)
        no_time = model(torch.zeros(2, 0, dtype=torch.long)).logits
        torch.testing.assert_close(no_time, expected[-1:].expand(2, 3), **TOLERANCE)
        assert model(torch.zeros(0, 4, dtype=torch.long)).logits.shape == (0, 3)

    def test_gradients(self, cell, layers, bidirectional, pooling):
        model = make(cell, layers, bidirectional, pooling).train()
        sum(
            model(torch.tensor([t]), labels=LABELS[i : i + 1]).loss / 4 for i, t in enumerate(TEXTS)
        ).backward()
        alone = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
        ids, mask = pad_right(TEXTS, extra=3, filler=12)
        for shift in (0, 3):
            model.zero_grad()
            model(ids.roll(shift, 1), mask.roll(shift, 1), labels=LABELS).loss.backward()
            for name, parameter in model.named_parameters():
                torch.testing.assert_close(
                    parameter.grad, alone[name], atol=1e-6, rtol=1e-4, msg=name
                )
            assert not model.rnn.embedding.weight.grad[12].any()


@pytest.mark.parametrize(("cell", "layers", "bidirectional"), ENCODERS)
@pytest.mark.parametrize("with_initial_states", [False, True])
def test_against_packed_sequences(cell, layers, bidirectional, with_initial_states):
    """Outputs, h_n, c_n and all gradients equal those of torch's module on packed sequences."""
    model = make(cell, layers, bidirectional, model=RnnModel)
    reference = plain_rnn(model)
    ids, mask = pad_right(TEXTS, extra=2)
    given = [
        state
        for state in initial_states(model.config, len(TEXTS))
        if state is not None and with_initial_states
    ]
    ours, theirs = ([state.clone().requires_grad_() for state in given] for _ in range(2))
    names = ["initial_hidden_state", "initial_cell_state"]
    found = model(ids, mask, output_final_states=True, **dict(zip(names, ours, strict=False)))
    packed = pack_padded_sequence(
        model.embedding(ids), mask.sum(1), batch_first=True, enforce_sorted=False
    )
    output, final = reference(
        packed, (tuple(theirs) if cell == "lstm" else theirs[0]) if theirs else None
    )
    output, _ = pad_packed_sequence(output, batch_first=True, total_length=ids.shape[1])
    expected = [output, *(final if cell == "lstm" else [final])]
    results = [found.last_hidden_state, found.final_hidden_state, found.final_cell_state][
        : len(expected)
    ]
    torch.testing.assert_close(results, expected, **TOLERANCE)
    assert (found.final_cell_state is None) == (cell != "lstm")

    weights, others = dict(named_weights(model)), dict(reference.named_parameters())
    gradients = []
    for tensors, inputs in (
        (results, [*ours, *weights.values()]),
        (expected, [*theirs, *map(others.get, weights)]),
    ):
        loss = sum((tensor.sin() * (1 + number)).sum() for number, tensor in enumerate(tensors))
        gradients.append(
            torch.autograd.grad(loss, [*inputs, model.embedding.weight], retain_graph=True)
        )
    torch.testing.assert_close(*gradients, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("cell", CELLS)
def test_final_states_of_a_text_without_tokens_are_the_initial_ones(cell):
    model, (ids, mask) = make(cell, layers=2, model=RnnModel), pad_right([[3, 4], []])
    h_0, c_0 = initial_states(model.config, 2)
    output = model(
        ids, mask, initial_hidden_state=h_0, initial_cell_state=c_0, output_final_states=True
    )
    torch.testing.assert_close(output.final_hidden_state[:, 1], h_0[:, 1])
    if cell == "lstm":
        torch.testing.assert_close(output.final_cell_state[:, 1], c_0[:, 1])
    assert not model(ids[:, :0], output_final_states=True).final_hidden_state.any()


@pytest.mark.parametrize("cell", CELLS)
def test_inputs_embeds(cell):
    model = make(cell)
    ids, mask = pad_right(TEXTS, extra=2)
    vectors = model.rnn.embedding(ids).detach().clone()
    vectors[mask == 0] = float("nan")  # masked places are never read
    torch.testing.assert_close(
        model(inputs_embeds=vectors, attention_mask=mask).logits, model(ids, mask).logits
    )


@pytest.mark.parametrize("pooling", POOLERS)
def test_relu_states_do_not_overflow_in_the_padding(pooling):
    """The states grow by 30 % per step: long padding would take them beyond float32."""
    model = make("rnn_relu", pooling=pooling)
    for direction in model.rnn.layers[0].directions:
        direction.cell.weight_hh_l0.data = 1.3 * torch.eye(5)
        direction.cell.bias_hh_l0.data.fill_(1.0)
    gradients = []
    for extra in (0, 600):
        model.zero_grad()
        model(*pad_right([TEXTS[0]], extra), labels=LABELS[:1]).loss.backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-4)


def test_attention_weights():
    model = make(pooling="attention")
    ids, mask = pad_right([*TEXTS, []], extra=2)
    weights = model(ids, mask).pooling_weights
    torch.testing.assert_close(weights.sum(1), torch.tensor([1.0, 1, 1, 1, 0]))
    assert not weights[mask == 0].any()
    assert model(ids[:, :0]).pooling_weights.shape == (5, 0)
    assert make(pooling="mean")(ids, mask).pooling_weights is None


@pytest.mark.parametrize("cell", CELLS)
def test_hidden_states(cell):
    """They have the places of the tokens, and gradients."""
    model = make(cell, layers=2).train()
    output = model(IDS, HOLES, labels=LABELS[:2], output_hidden_states=True)
    assert [tuple(state.shape) for state in output.hidden_states] == [
        (2, 4, 6),
        (2, 4, 10),
        (2, 4, 10),
    ]
    torch.testing.assert_close(
        output.hidden_states[0], model.rnn.embedding(IDS) * HOLES[:, :, None]
    )
    torch.testing.assert_close(output.hidden_states[-1], model.rnn(IDS, HOLES).last_hidden_state)
    torch.testing.assert_close(output.logits, model(IDS, HOLES).logits)
    gradients = torch.autograd.grad(output.loss, output.hidden_states)
    assert all(gradient.any() and not gradient[HOLES == 0].any() for gradient in gradients)
    assert model(IDS).hidden_states is None
    empty = model.rnn(IDS[:, :0], output_hidden_states=True)
    assert [tuple(state.shape) for state in empty.hidden_states] == [
        (2, 0, 6),
        (2, 0, 10),
        (2, 0, 10),
    ]
    assert empty.last_hidden_state.shape == (2, 0, 10)


def test_the_embedding_sees_the_batch_as_it_came():
    """NEFTune, integrated gradients and adapters need (B, T, E), each vector at its token."""
    model, seen = make().train(), []
    table = model.get_input_embeddings()
    table.register_forward_hook(lambda module, given, vectors: seen.append(vectors) or vectors / 2)
    found = model(IDS.int(), HOLES, token_type_ids=IDS).logits  # made by some tokenizers
    vectors = table.weight[IDS.masked_fill(HOLES == 0, PAD)]
    torch.testing.assert_close(seen, [vectors])
    torch.testing.assert_close(found, model(inputs_embeds=vectors / 2, attention_mask=HOLES).logits)


class Adapter(nn.Module):
    """Replaces a cell without having its attributes."""

    def __init__(self, cell):
        super().__init__()
        self.base_layer = cell

    def forward(self, *given):
        return self.base_layer(*given)


@pytest.mark.parametrize("cell", [name for name in CELLS if name != "rnn_relu"])
@pytest.mark.parametrize("way", ["hook", "adapter", "pruned"])
def test_hooks_and_adapters_on_cells(cell, way):
    model, calls = make(cell, layers=2).train(), []
    expected = model(IDS, HOLES).logits
    directions = [direction for layer in model.rnn.layers for direction in layer.directions]
    for direction in directions:
        if way == "adapter":
            direction.cell = Adapter(direction.cell)
        elif way == "pruned":
            prune.l1_unstructured(direction.cell, "weight_ih_l0", amount=0.5)
        direction.cell.register_forward_hook(lambda *_: calls.append(1))
    found = model(IDS, HOLES, labels=LABELS[:2])
    found.loss.backward()
    assert len(calls) == 4
    if way == "pruned":
        gradient, mask = (
            directions[0].cell.weight_ih_l0_orig.grad,
            directions[0].cell.weight_ih_l0_mask,
        )
        assert gradient.any() and not gradient[mask == 0].any()
    else:
        torch.testing.assert_close(found.logits, expected, **TOLERANCE)
    if cell == "lstm":
        with pytest.raises(ValueError, match="need a cell without hooks"):
            model(IDS, HOLES, output_final_states=True)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtypes(cell, dtype):
    model = make(cell, 2, pooling="attention")
    ids, mask = pad_right([*TEXTS, []], extra=2)
    h_0, c_0 = initial_states(model.config, 5)
    given = {"initial_hidden_state": h_0, "initial_cell_state": c_0, "output_final_states": True}
    expected = model(ids, mask, **given)
    output = model.to(dtype)(ids, mask, **given)
    assert output.logits.dtype == dtype
    tolerance = {"atol": 3e-2, "rtol": 3e-2} if dtype.itemsize == 2 else TOLERANCE
    for name in ("logits", "final_hidden_state", "final_cell_state"):
        if name in expected:
            torch.testing.assert_close(output[name].float(), expected[name], **tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["gru", "lstm", "min_gru"])
def test_compile_gives_the_same_numbers(cell):
    model = make(cell, pooling="attention")
    ids, mask = pad_right([*TEXTS, []], extra=2)
    torch.compiler.reset()
    # torch's cells break the graph
    compiled = torch.compile(model, backend="eager", fullgraph=cell == "min_gru")
    torch.testing.assert_close(compiled(ids, mask).logits, model(ids, mask).logits, **TOLERANCE)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The tensor attributes .*_flat_weights:UserWarning")
@pytest.mark.parametrize(
    ("cell", "settings"),
    [
        ("gru", {"pooling": "attention"}),
        ("lstm", {"ngram_rows": 30}),
        ("min_gru", {"ngram_rows": 30}),
    ],
)
def test_export_with_dynamic_batch(cell, settings):
    model = make(cell, **settings)
    ids, mask = pad_right(TEXTS)
    inputs, batch = {"input_ids": ids, "attention_mask": mask}, {0: torch.export.Dim("batch")}
    shapes = dict.fromkeys(inputs, batch)
    program = torch.export.export(model, (), inputs, dynamic_shapes=shapes, strict=False)
    generator = torch.Generator().manual_seed(0)
    other_ids = torch.randint(2, 13, (9, ids.shape[1]), generator=generator)
    other_mask = torch.randint(0, 2, other_ids.shape, generator=generator)
    exported = program.module()(input_ids=other_ids, attention_mask=other_mask)
    torch.testing.assert_close(exported["logits"], model(other_ids, other_mask).logits, **TOLERANCE)


class TestDropout:
    @pytest.mark.parametrize(
        "name",
        [
            "embedding_dropout",
            "word_dropout",
            "hidden_dropout",
            "recurrent_dropout",
            "classifier_dropout",
        ],
    )
    @pytest.mark.parametrize("cell", ["gru", "lstm"])
    def test_active_only_in_training(self, name, cell):
        model = make(cell, 2, **{name: 0.5})
        torch.testing.assert_close(model(IDS).logits, model(IDS).logits, rtol=0, atol=0)
        model.train()
        torch.manual_seed(0)
        first = model(IDS).logits
        assert not torch.equal(first, model(IDS).logits)
        torch.manual_seed(0)
        torch.testing.assert_close(model(IDS).logits, first, rtol=0, atol=0)

    def test_word_dropout_drops_whole_types(self):
        model = make(model=RnnModel, word_dropout=0.5).train()
        ids = torch.arange(2, 12).repeat(3, 4)
        vectors = model(ids, output_hidden_states=True).hidden_states[0]
        dropped = vectors.abs().sum(-1) == 0
        assert all(len(dropped[ids == word].unique()) == 1 for word in range(2, 12))
        assert 0 < dropped.float().mean() < 1
        # scaled by 1 / (1 - p)
        torch.testing.assert_close(vectors[~dropped], 2 * model.embedding(ids)[~dropped])


@pytest.mark.parametrize(
    "problem_type", ["single_label_classification", "multi_label_classification"]
)
def test_gradient_accumulation_counts_items_once(problem_type):
    """Losses of parts, each over the number of all items, add up, as the Trainer needs."""
    model = make(problem_type=problem_type)
    ids, mask = pad_right(TEXTS)
    labels = (
        nn.functional.one_hot(LABELS, 3).float() if problem_type.startswith("multi") else LABELS
    )
    items = labels.numel()
    parts = sum(
        model(ids[i:j], mask[i:j], labels=labels[i:j], num_items_in_batch=items).loss
        for i, j in [(0, 1), (1, 4)]
    )
    torch.testing.assert_close(parts, model(ids, mask, labels=labels).loss)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("cell", CELLS)
def test_cuda_gives_the_same_numbers(cell):
    model = make(
        cell,
        2,
        pooling="attention",
        recurrent_dropout=0.2 if cell in WITH_RECURRENT_WEIGHTS else 0.0,
    )
    ids, mask = pad_right([*TEXTS, []], extra=2)
    expected = model(ids, mask, output_final_states=True)
    output = model.cuda()(ids.cuda(), mask.cuda(), output_final_states=True)
    torch.testing.assert_close(output.logits.cpu(), expected.logits, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(
        output.final_hidden_state.cpu(), expected.final_hidden_state, atol=1e-4, rtol=1e-3
    )
    model.train()(
        ids.cuda(), mask.cuda(), labels=torch.tensor([0, 1, 2, 0, 1]).cuda()
    ).loss.backward()


def test_scores_of_ngrams():
    """Plain sums over the distinct n-grams of each text, wherever padding and holes are."""
    numbers = {
        "problem_type": "regression",
        "target_scale": [2.0, 3.0, 0.5],
        "target_mean": [1.0, 0.0, 2.0],
    }
    model, without = make(**numbers), make(**numbers)
    weights = tiny_ngrams.attach(model, texts=40)
    ids, mask = torch.randint(2, 13, (6, 9)), torch.rand(6, 9) > 0.4
    mask[0], mask[1] = False, True
    ids[1, 3:] = ids[1, 0]  # an n-gram that repeats counts once
    expected = []
    for row, kept in zip(ids, mask, strict=True):
        text = row[kept].tolist()
        spans = {tuple(text[i : i + n]) for n in (1, 2, 3) for i in range(len(text) - n + 1)}
        terms = [weights.get(tiny_ngrams.hash_of(span), np.zeros(3)) for span in spans]
        expected.append(sum(terms, np.zeros(3)) / max(1, len(text)) ** 0.5)
    expected = np.stack(expected) * numbers["target_scale"]
    logits = model(ids, mask).logits
    difference = logits - without(ids, mask).logits
    assert (difference.abs().sum(dim=1) > 0.1).sum() >= 3, "premise: the texts have known n-grams"
    np.testing.assert_allclose(difference.detach(), expected, atol=1e-5, rtol=1e-5)
    model.fold_targets()
    torch.testing.assert_close(model(ids, mask).logits, logits, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="input_ids"):
        model(inputs_embeds=model.get_input_embeddings()(ids))
