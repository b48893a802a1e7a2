"""The contract of the model, held for every cell, depth, direction and pooling against plain torch.

minGRU, which torch does not have, is held against its formula, step by step.
"""

import itertools

import pytest
import torch
from torch import nn
from torch.nn.utils import prune, spectral_norm
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence, pad_packed_sequence

from hf_rnn import RnnConfig, RnnForSequenceClassification, RnnModel

CELLS = ["rnn_tanh", "rnn_relu", "gru", "lstm", "min_gru"]
WITH_RECURRENT_WEIGHTS = CELLS[:-1]
POOLINGS = ["last", "mean", "max", "mean_max", "attention"]
VARIANTS = list(itertools.product(CELLS, [1, 2], [False, True], POOLINGS))
ENCODERS = list(itertools.product(CELLS, [1, 2], [False, True]))
PAD = 1
TOLERANCE = {"atol": 2e-6, "rtol": 1e-5}
TEXTS = [[5, 7, 2, 9, 3], [4], [8, 8, 6], [11, 3, 2, 4, 7, 10, 5]]
IDS, HOLES = torch.tensor([[3, 4, 5, 9], [9, 6, 9, 7]]), torch.tensor([[1, 1, 1, 0], [0, 1, 0, 1]])


def make(
    cell="lstm", layers=1, bidirectional=True, pooling="mean_max", model=RnnForSequenceClassification, **settings
):
    torch.manual_seed(sum(map(ord, f"{cell}{layers}{bidirectional}{pooling}")))
    config = RnnConfig(
        vocab_size=13,
        embedding_size=6,
        hidden_size=5,
        num_hidden_layers=layers,
        bidirectional=bidirectional,
        cell_type=cell,
        pooling=pooling,
        num_labels=3,
        **settings,
    )
    return model(config).eval()


def pad_right(texts, extra=0, filler=PAD):
    time = max(map(len, texts)) + extra
    ids = torch.tensor([text + [filler] * (time - len(text)) for text in texts])
    mask = torch.tensor([[1] * len(text) + [0] * (time - len(text)) for text in texts])
    return ids, mask


class MinGruByHand(nn.Module):
    """minGRU by the formula of its paper, text by text and step by step, called as torch's own modules are."""

    def __init__(self, input_size, hidden_size, num_layers, bidirectional, batch_first):
        super().__init__()
        assert batch_first
        self.layers, self.suffixes = range(num_layers), ["", "_reverse"] if bidirectional else [""]
        for layer, suffix in itertools.product(self.layers, self.suffixes):
            width = input_size if layer == 0 else hidden_size * len(self.suffixes)
            self.register_parameter(f"weight_ih_l{layer}{suffix}", nn.Parameter(torch.zeros(2 * hidden_size, width)))
            self.register_parameter(f"bias_ih_l{layer}{suffix}", nn.Parameter(torch.zeros(2 * hidden_size)))

    def forward(self, texts, state=None):
        packed = isinstance(texts, PackedSequence)
        if packed:
            padded, lengths = pad_packed_sequence(texts, batch_first=True)
            texts = [text[:length] for text, length in zip(padded, lengths, strict=True)]
        outputs, final = zip(*(self.read(text, number, state) for number, text in enumerate(texts)), strict=True)
        output = pack_sequence(outputs, enforce_sorted=False) if packed else torch.stack(outputs)
        return output, torch.stack(final, dim=1)

    def read(self, vectors, number, state):
        final = []
        for layer in self.layers:
            directions = []
            for suffix in self.suffixes:
                weight = getattr(self, f"weight_ih_l{layer}{suffix}")
                w_z, w_h = weight.chunk(2)
                b_z, b_h = getattr(self, f"bias_ih_l{layer}{suffix}").chunk(2)
                hidden = weight.new_zeros(len(w_z)) if state is None else state[len(final), number]
                states = []
                for x in vectors.flip(0) if suffix else vectors:
                    z = torch.sigmoid(w_z @ x + b_z)
                    hidden = (1 - z) * hidden + z * (w_h @ x + b_h)
                    states.append(hidden)
                final.append(hidden)
                directions.append(torch.stack(states[::-1] if suffix else states))
            vectors = torch.cat(directions, dim=-1)
        return vectors, torch.stack(final)


def plain_rnn(model):
    """torch's own multi-layer module with the weights of `model`: the independent reference."""
    encoder = model if isinstance(model, RnnModel) else model.rnn
    config = encoder.config
    kind = {"gru": nn.GRU, "lstm": nn.LSTM, "min_gru": MinGruByHand}.get(config.cell_type, nn.RNN)
    extra = {"nonlinearity": config.cell_type[4:]} if kind is nn.RNN else {}
    reference = kind(
        config.embedding_size,
        config.hidden_size,
        config.num_hidden_layers,
        bidirectional=config.bidirectional,
        batch_first=True,
        **extra,
    )
    state = {}
    for layer, direction in itertools.product(range(config.num_hidden_layers), range(config.num_directions)):
        for name, weight in encoder.layers[layer].directions[direction].cell.named_parameters():
            state[name.replace("_l0", f"_l{layer}") + ("_reverse" if direction else "")] = weight.detach().clone()
    reference.load_state_dict(state)
    return reference


def initial_states(config, batch, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (config.num_hidden_layers * config.num_directions, batch, config.hidden_size)
    h_0 = torch.randn(shape, generator=generator)
    return h_0, torch.randn(shape, generator=generator) if config.cell_type == "lstm" else None


def pooled_by_hand(model, states):
    """states: (T, S) of one text, all real."""
    pooling, half = model.config.pooling, model.config.hidden_size
    if pooling == "last":
        return torch.cat([states[-1, :half], states[0, half:]]) if model.config.bidirectional else states[-1]
    if pooling == "attention":
        pooler = model.pooler
        hidden = torch.tanh(states @ pooler.projection.weight.T + pooler.projection.bias)
        weights = torch.softmax(hidden @ pooler.context.weight[0], dim=0)
        return weights @ states
    parts = {
        "mean": [states.mean(0)],
        "max": [states.max(0).values],
        "mean_max": [states.mean(0), states.max(0).values],
    }
    return torch.cat(parts[pooling])


@pytest.mark.parametrize(("cell", "layers", "bidirectional", "pooling"), VARIANTS)
class TestPaddingNeverChangesANumber:
    def test_a_text_alone_equals_plain_torch(self, cell, layers, bidirectional, pooling):
        model = make(cell, layers, bidirectional, pooling)
        reference = plain_rnn(model)
        for text in TEXTS:
            states = reference(model.rnn.embedding(torch.tensor([text])))[0][0]
            expected = pooled_by_hand(model, states) @ model.classifier.weight.T + model.classifier.bias
            torch.testing.assert_close(model(torch.tensor([text])).logits[0], expected, **TOLERANCE)

    def test_batch_left_right_extra_padding_and_holes(self, cell, layers, bidirectional, pooling):
        model = make(cell, layers, bidirectional, pooling)
        alone = torch.cat([model(torch.tensor([text])).logits for text in TEXTS])
        assert alone.std(dim=0).max() > 1e-3, "premise: the texts have different answers"
        ids, mask = pad_right(TEXTS)
        torch.testing.assert_close(model(ids, mask).logits, alone, **TOLERANCE)
        torch.testing.assert_close(model(ids).logits, alone, **TOLERANCE)  # no mask: the one that the pad ids give
        for filler in (
            PAD,
            0,
            7,
            -100,
            10**6,
        ):  # whatever ids fill the padding, even ids that are no rows of the table
            more_ids, more_mask = pad_right(TEXTS, extra=6, filler=filler)
            torch.testing.assert_close(model(more_ids, more_mask).logits, alone, **TOLERANCE)
            torch.testing.assert_close(model(more_ids.roll(6, 1), more_mask.roll(6, 1)).logits, alone, **TOLERANCE)
        holes = torch.full((len(TEXTS), 15), 9)
        holes_mask = torch.zeros_like(holes)
        for row, text in enumerate(TEXTS):
            places = torch.randperm(15, generator=torch.Generator().manual_seed(row))[: len(text)].sort().values
            holes[row, places] = torch.tensor(text)
            holes_mask[row, places] = 1
        torch.testing.assert_close(model(holes, holes_mask).logits, alone, **TOLERANCE)
        torch.testing.assert_close(model(holes, holes_mask.bool()).logits, alone, **TOLERANCE)

    def test_no_token_and_no_time_are_the_same_finite_answer(self, cell, layers, bidirectional, pooling):
        model = make(cell, layers, bidirectional, pooling)
        ids, mask = pad_right([*TEXTS, []])
        logits = model(ids, mask, labels=torch.tensor([0, 1, 2, 0, 1])).logits
        torch.testing.assert_close(logits[-1], model.classifier.bias, **TOLERANCE)
        empty = model(torch.zeros(2, 0, dtype=torch.long), output_final_states=True)
        torch.testing.assert_close(empty.logits, model.classifier.bias.expand(2, 3), **TOLERANCE)
        assert not empty.final_hidden_state.any()
        model.train()
        loss = model(ids, mask, labels=torch.tensor([0, 1, 2, 0, 1])).loss
        loss.backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())

    def test_gradients_do_not_see_padding(self, cell, layers, bidirectional, pooling):
        model = make(cell, layers, bidirectional, pooling)
        labels = torch.tensor([0, 2, 1, 1])
        sum(model(torch.tensor([t]), labels=labels[i : i + 1]).loss / 4 for i, t in enumerate(TEXTS)).backward()
        alone = {name: p.grad.clone() for name, p in model.named_parameters()}
        model.zero_grad()
        ids, mask = pad_right(TEXTS, extra=3, filler=12)
        assert 12 not in itertools.chain(*TEXTS), "premise: the filler is a word of no text"
        model(ids, mask, labels=labels).loss.backward()
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameter.grad, alone[name], atol=1e-6, rtol=1e-4, msg=name)
        assert not model.rnn.embedding.weight.grad[12].any()


@pytest.mark.parametrize(("cell", "layers", "bidirectional"), ENCODERS)
@pytest.mark.parametrize("with_initial_states", [False, True])
def test_against_packed_sequences(cell, layers, bidirectional, with_initial_states):
    """Outputs, h_n, c_n and gradients equal those of pack_padded_sequence and torch's multi-layer module."""
    model = make(cell, layers, bidirectional, model=RnnModel)
    reference = plain_rnn(model)
    ids, mask = pad_right(TEXTS, extra=2)
    h_0, c_0 = initial_states(model.config, len(TEXTS)) if with_initial_states else (None, None)
    ours = model(ids, mask, initial_hidden_state=h_0, initial_cell_state=c_0, output_final_states=True)
    packed = pack_padded_sequence(model.embedding(ids), mask.sum(1), batch_first=True, enforce_sorted=False)
    state = (h_0, c_0) if cell == "lstm" and with_initial_states else h_0
    output, final = reference(packed, state)
    output, _ = pad_packed_sequence(output, batch_first=True, total_length=ids.shape[1])
    h_n, c_n = final if cell == "lstm" else (final, None)
    torch.testing.assert_close(ours.last_hidden_state, output, **TOLERANCE)
    torch.testing.assert_close(ours.final_hidden_state, h_n, **TOLERANCE)
    if cell == "lstm":
        torch.testing.assert_close(ours.final_cell_state, c_n, **TOLERANCE)
    else:
        assert ours.final_cell_state is None

    weight = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    extra = 0 if c_n is None else (c_n.sin().sum() - ours.final_cell_state.sin().sum())
    (
        (output * weight).sum()
        + h_n.cos().sum()
        - (ours.last_hidden_state * weight).sum()
        - ours.final_hidden_state.cos().sum()
        + extra
    ).backward()
    # the difference of both objectives was differentiated: the embedding's gradients cancel, cells' are each other's
    # negative
    torch.testing.assert_close(
        model.embedding.weight.grad, torch.zeros_like(model.embedding.weight), atol=2e-5, rtol=0
    )
    for layer, direction in itertools.product(range(layers), range(model.config.num_directions)):
        for name, parameter in model.layers[layer].directions[direction].cell.named_parameters():
            other = getattr(reference, name.replace("_l0", f"_l{layer}") + ("_reverse" if direction else ""))
            assert other.grad.any()
            torch.testing.assert_close(-parameter.grad, other.grad, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(("cell", "layers", "bidirectional"), ENCODERS)
def test_final_states_of_a_text_without_tokens_are_the_initial_ones(cell, layers, bidirectional):
    model = make(cell, layers, bidirectional, model=RnnModel)
    ids, mask = pad_right([[3, 4], []])
    h_0, c_0 = initial_states(model.config, 2)
    output = model(ids, mask, initial_hidden_state=h_0, initial_cell_state=c_0, output_final_states=True)
    torch.testing.assert_close(output.final_hidden_state[:, 1], h_0[:, 1])
    if cell == "lstm":
        torch.testing.assert_close(output.final_cell_state[:, 1], c_0[:, 1])


@pytest.mark.parametrize("cell", CELLS)
def test_states_carry_over(cell):
    """A one-way text read in two parts, the second from the first's final states, is the text read at once."""
    model = make(cell, 2, bidirectional=False, model=RnnModel)
    ids = torch.tensor([TEXTS[3], TEXTS[3][::-1]])
    first = model(ids[:, :4], output_final_states=True)
    second = model(
        ids[:, 4:],
        initial_hidden_state=first.final_hidden_state,
        initial_cell_state=first.final_cell_state,
        output_final_states=True,
    )
    whole = model(ids, output_final_states=True)
    torch.testing.assert_close(
        torch.cat([first.last_hidden_state, second.last_hidden_state], 1), whole.last_hidden_state
    )
    torch.testing.assert_close(second.final_hidden_state, whole.final_hidden_state)


@pytest.mark.parametrize("cell", CELLS)
def test_inputs_embeds(cell):
    model = make(cell)
    ids, mask = pad_right(TEXTS, extra=2)
    vectors = model.rnn.embedding(ids).detach().clone()
    vectors[mask == 0] = float("nan")  # masked places are never read
    torch.testing.assert_close(model(inputs_embeds=vectors, attention_mask=mask).logits, model(ids, mask).logits)
    whole = model(inputs_embeds=vectors[3:, :7])
    torch.testing.assert_close(whole.logits, model(ids[3:, :7]).logits)


def test_whatever_is_not_zero_in_a_mask_is_a_token_to_read():
    model = make()
    expected = model(IDS, HOLES).logits
    assert not torch.allclose(expected, model.classifier.bias), "premise: something is read"
    torch.testing.assert_close(model(IDS, 2 * HOLES).logits, expected)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_units_without_bound_do_not_overflow_in_the_padding(pooling):
    """A ReLU network whose states grow by 30 % a step: long padding would take them beyond float32."""
    model = make("rnn_relu", pooling=pooling)
    for direction in model.rnn.layers[0].directions:
        direction.cell.weight_hh_l0.data = 1.3 * torch.eye(5)
        direction.cell.bias_hh_l0.data.fill_(1.0)
    assert torch.finfo(torch.float32).max < 1.3**600, "premise: 600 steps overflow"
    alone = model(torch.tensor([TEXTS[0]]), labels=torch.tensor([1]))
    alone.loss.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    ids, mask = pad_right([TEXTS[0]], extra=600)
    padded = model(ids, mask, labels=torch.tensor([1]))
    padded.loss.backward()
    torch.testing.assert_close(padded.logits, alone.logits, **TOLERANCE)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-5, rtol=1e-4, msg=name)


def test_attention_weights():
    model = make(pooling="attention")
    ids, mask = pad_right([*TEXTS, []], extra=2)
    weights = model(ids, mask).pooling_weights
    assert weights.shape == ids.shape
    torch.testing.assert_close(weights.sum(1), torch.tensor([1.0, 1, 1, 1, 0]))
    assert not weights[mask == 0].any()
    assert model(ids[:, :0]).pooling_weights.shape == (5, 0)
    assert make(pooling="mean")(ids, mask).pooling_weights is None


def test_hidden_states():
    model = make(layers=2)
    ids, mask = pad_right(TEXTS)
    output = model(ids, mask, output_hidden_states=True)
    assert [tuple(state.shape) for state in output.hidden_states] == [(4, 7, 6), (4, 7, 10), (4, 7, 10)]
    torch.testing.assert_close(output.hidden_states[0], model.rnn.embedding(ids) * mask[:, :, None])
    torch.testing.assert_close(output.hidden_states[-1], model.rnn(ids, mask).last_hidden_state)
    assert model(ids, mask).hidden_states is None
    model.config.output_hidden_states = True
    assert len(model(ids, mask).hidden_states) == 3


@pytest.mark.parametrize("hidden", [True, False])
def test_states_of_no_time_have_none(hidden):
    model = make(layers=2, model=RnnModel)
    for inputs in ({"input_ids": IDS[:, :0]}, {"inputs_embeds": torch.zeros(2, 0, 6)}):
        output = model(**inputs, output_hidden_states=hidden)
        assert output.last_hidden_state.shape == (2, 0, 10)
        shapes = [tuple(state.shape) for state in output.hidden_states or ()]
        assert shapes == ([(2, 0, 6), (2, 0, 10), (2, 0, 10)] if hidden else [])


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_hidden_states_have_gradients(cell, pooling):
    """They are what the answer was made of, not copies of it."""
    model = make(cell, layers=2, pooling=pooling).train()
    labels = torch.tensor([0, 2])
    output = model(IDS, HOLES, labels=labels, output_hidden_states=True)
    torch.testing.assert_close(output.logits, model(IDS, HOLES).logits)
    gradients = torch.autograd.grad(output.loss, output.hidden_states)
    for state, gradient in zip(output.hidden_states, gradients, strict=True):
        assert gradient.shape == state.shape
        assert (gradient != 0).any()
        assert not gradient[HOLES == 0].any()
    tokens = output.hidden_states[0].detach().requires_grad_()
    (expected,) = torch.autograd.grad(model(inputs_embeds=tokens, attention_mask=HOLES, labels=labels).loss, tokens)
    torch.testing.assert_close(gradients[0], expected)
    encoded = model.rnn(IDS, HOLES, output_hidden_states=True)
    assert encoded.last_hidden_state is encoded.hidden_states[-1]


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("hidden", [True, False])
def test_hooks_on_the_base_model_fire(cell, hidden):
    model, seen = make(cell), []
    model.base_model.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    model.base_model.register_forward_hook(lambda module, given, output: seen.append(output.last_hidden_state))
    model(IDS, HOLES, output_hidden_states=hidden)
    assert seen[0] is IDS
    torch.testing.assert_close(seen[1], make(cell).rnn(IDS, HOLES).last_hidden_state)


@pytest.mark.parametrize("training", [True, False])
def test_a_hook_on_the_embedding_sees_the_batch_as_it_came(training):
    """As the noise of NEFTune and integrated gradients need it: (B, T, E), each vector in the place of its token."""
    model, seen = make().train(training), []
    expected = model(IDS, HOLES).logits

    def halve(module, given, vectors):
        seen.append(vectors)
        return vectors / 2

    with model.get_input_embeddings().register_forward_hook(halve):
        found = model(IDS.int(), HOLES).logits
    vectors = model.rnn.embedding.weight[IDS.masked_fill(HOLES == 0, PAD)]
    torch.testing.assert_close(seen, [vectors])
    torch.testing.assert_close(found, model(inputs_embeds=vectors / 2, attention_mask=HOLES).logits)
    assert not torch.allclose(found, expected)
    torch.testing.assert_close(model(IDS, HOLES).logits, expected)


@pytest.mark.parametrize("training", [True, False])
def test_an_embedding_of_another_kind_sees_the_batch_as_it_came(training):
    """It may look at places, as one that adds positions does."""

    class Places(torch.nn.Embedding):
        def forward(self, ids):
            seen.append(ids)
            return super().forward(ids) * torch.arange(1, ids.shape[1] + 1)[None, :, None]

    model, seen = make(embedding_dropout=0.0).train(training), []
    alone = Places.from_pretrained(model.get_input_embeddings().weight.detach().clone(), padding_idx=PAD)
    model.set_input_embeddings(alone)
    mask = torch.ones_like(HOLES)
    logits = model(IDS, mask).logits
    torch.testing.assert_close(seen, [IDS])
    vectors = torch.nn.functional.embedding(IDS, alone.weight) * torch.arange(1, IDS.shape[1] + 1)[None, :, None]
    torch.testing.assert_close(logits, model(inputs_embeds=vectors, attention_mask=mask).logits)


@pytest.mark.parametrize("training", [True, False])
def test_a_hook_before_the_embedding_sees_the_batch_as_it_came(training):
    model, seen = make().train(training), []
    expected = model(IDS, HOLES).logits
    model.get_input_embeddings().register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    torch.testing.assert_close(model(IDS, HOLES).logits, expected)
    torch.testing.assert_close(seen, [IDS.masked_fill(HOLES == 0, PAD)])


@pytest.mark.parametrize("cell", CELLS)
def test_hooks_see_gradients_in_training_too(cell):
    """Though loops of our own train some cells, and distinct tokens others."""
    labels = torch.tensor([0, 1])
    vectors = make(cell).rnn.embedding(IDS.masked_fill(HOLES == 0, PAD)).detach().requires_grad_()
    by_hand = make(cell)(inputs_embeds=vectors, attention_mask=HOLES, labels=labels)
    (expected,) = torch.autograd.grad(by_hand.loss, vectors)
    seen, cells = [], {}
    for training in (True, False):
        model = make(cell).train(training)
        model.rnn.embedding.register_full_backward_hook(lambda module, given, gradients: seen.append(gradients[0]))
        model(IDS, HOLES, labels=labels).loss.backward()
        if cell == "rnn_relu":  # it reads packed texts, of which torch's hooks see no gradients
            continue
        model = make(cell).train(training)
        model.rnn.layers[0].directions[1].cell.register_full_backward_hook(
            lambda module, given, gradients, training=training: cells.update({training: gradients[0]})
        )
        model(IDS, HOLES, labels=labels).loss.backward()
    torch.testing.assert_close(seen, [expected, expected], **TOLERANCE)
    if cell != "rnn_relu":
        torch.testing.assert_close(cells[True], cells[False], **TOLERANCE)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("final", [True, False])
def test_hooks_on_a_cell_fire_and_change_no_number(cell, training, final):
    model, calls = make(cell).train(training), []
    ids, mask = torch.cat([IDS, IDS]), torch.cat([HOLES, torch.zeros_like(HOLES)])  # two texts without a token
    expected = model(ids, mask, output_final_states=final)
    for direction in model.rnn.layers[0].directions:
        direction.cell.register_forward_hook(lambda *_: calls.append("after"))
        direction.cell.register_forward_pre_hook(lambda *_: calls.append("before"))
    found = model(ids, mask, output_final_states=final)
    assert calls == ["before", "after"] * 2
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], **TOLERANCE)


@pytest.mark.parametrize("cell", CELLS)
def test_pruned_and_normed_cells_train_as_long_as_one_likes(cell):
    """Torch makes their weights anew in a hook, from others that are trained."""
    model = make(cell, layers=2).train()
    direction = model.rnn.layers[0].directions[0]
    name = "weight_ih_l0" if cell != "min_gru" else next(name for name, _ in direction.cell.named_parameters())
    prune.l1_unstructured(direction.cell, name, amount=0.5)
    spectral_norm(model.rnn.layers[1].directions[0].cell, name)
    for _ in range(2):
        model(IDS, HOLES, labels=torch.zeros(len(IDS), dtype=torch.long)).loss.backward()
    mask = direction.cell.get_buffer(f"{name}_mask")
    gradient = direction.cell.get_parameter(f"{name}_orig").grad
    assert gradient[mask == 1].any()
    assert not gradient[mask == 0].any()
    assert model.rnn.layers[1].directions[0].cell.get_parameter(f"{name}_orig").grad.any()


class Around(torch.nn.Module):
    """Stands in a cell's place without its attributes, as an adapter of some of its weights does."""

    def __init__(self, cell):
        super().__init__()
        self.base_layer = cell

    def forward(self, *given):
        return self.base_layer(*given)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("states", ["none", "final", "initial"])
@pytest.mark.parametrize("batch", [2, 300], ids=["small", "distinct tokens"])
def test_a_module_in_a_cells_place_is_called(cell, training, states, batch):
    model = make(cell, layers=2, embedding_dropout=0.0).train(training)
    ids, mask = torch.cat([IDS] * batch), torch.cat([HOLES] * batch)
    given = {"output_final_states": states == "final"}
    if states == "initial":
        torch.manual_seed(1)
        given["initial_hidden_state"] = torch.randn(4, len(ids), model.config.hidden_size)
    expected = model(ids, mask, **given)
    for layer in model.rnn.layers:
        for direction in layer.directions:
            direction.cell = Around(direction.cell)
    found = model(ids, mask, **given)
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], **TOLERANCE)
    if training:
        found.logits.sum().backward()
        assert model.rnn.layers[0].directions[1].cell.base_layer.get_parameter("weight_ih_l0").grad.any()


def test_dropped_recurrent_weights_refuse_hooks():
    model = make("gru", recurrent_dropout=0.5).train()
    model.rnn.layers[0].directions[0].cell.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="recurrent_dropout=0, or remove the hooks"):
        model(IDS, HOLES)
    model.eval()(IDS, HOLES)


@pytest.mark.parametrize("cell", CELLS)
def test_weights_that_lie_on_the_disk(cell, tmp_path):
    model = make(cell)
    model.save_pretrained(tmp_path / "model")
    places = {name: "cpu" for name, _ in model.named_children()} | {"rnn": "disk"}
    loaded = RnnForSequenceClassification.from_pretrained(
        tmp_path / "model", device_map=places, offload_folder=tmp_path / "disk"
    )
    assert next(loaded.rnn.layers.parameters()).is_meta, "premise"
    with torch.no_grad():
        expected, found = (each(IDS, HOLES, output_final_states=True) for each in (model, loaded))
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], **TOLERANCE)


def test_a_subclass_has_a_loss_whatever_its_name():
    class Sorter(RnnForSequenceClassification):
        pass

    labels, plain = torch.tensor([0, 2]), make()
    model = Sorter(plain.config)
    model.load_state_dict(plain.state_dict())
    torch.testing.assert_close(model.eval()(IDS, labels=labels).loss, plain(IDS, labels=labels).loss)


def test_a_new_table_is_frozen_where_the_configuration_says_so():
    for freeze in (True, False):
        model = make(freeze_embedding=freeze)
        model.set_input_embeddings(nn.Embedding(*model.rnn.embedding.weight.shape))
        assert model.rnn.embedding.weight.requires_grad is not freeze


def test_an_embedding_that_is_wrapped_need_not_say_its_size():
    """As adapters wrap one: a module with `weight` and a call."""

    class Wrapped(nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base = base

        @property
        def weight(self):
            return self.base.weight

        def forward(self, ids):
            return self.base(ids)

    model = make(word_dropout=0.3).train()
    model.rnn.embedding = Wrapped(model.rnn.embedding)
    model(IDS, HOLES, labels=torch.tensor([0, 2])).loss.backward()
    assert model.rnn.embedding.weight.grad.isfinite().all()


@pytest.mark.parametrize("pooling", POOLINGS)
def test_tuple_equals_dict(pooling):
    model = make(pooling=pooling)
    ids, mask = pad_right(TEXTS)
    labels = torch.tensor([0, 1, 2, 0])
    as_dict = model(ids, mask, labels=labels, output_final_states=True)
    as_tuple = model(ids, mask, labels=labels, output_final_states=True, return_dict=False)
    assert isinstance(as_tuple, tuple)
    for left, right in zip(as_tuple, as_dict.to_tuple(), strict=True):
        torch.testing.assert_close(left, right)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes(cell, dtype):
    model = make(cell, 2, pooling="attention")
    ids, mask = pad_right([*TEXTS, []], extra=2)
    expected = model(ids, mask, output_final_states=True)
    h_0, c_0 = initial_states(model.config, 5)
    expected_with_states = model(ids, mask, initial_hidden_state=h_0, initial_cell_state=c_0)
    model.to(dtype)
    output = model(ids, mask, labels=torch.tensor([0, 1, 2, 0, 1]), output_final_states=True)
    assert output.logits.dtype == dtype
    tolerance = {"atol": 3e-2, "rtol": 3e-2} if dtype.itemsize == 2 else TOLERANCE
    torch.testing.assert_close(output.logits.float(), expected.logits, **tolerance)
    if cell == "lstm":
        torch.testing.assert_close(output.final_cell_state.float(), expected.final_cell_state, **tolerance)
    output = model(ids, mask, initial_hidden_state=h_0, initial_cell_state=c_0)  # float32 states into another dtype
    torch.testing.assert_close(output.logits.float(), expected_with_states.logits, **tolerance)


@pytest.mark.parametrize("pooling", ["mean", "mean_max"])
def test_the_mean_in_half_precision_counts_beyond_its_largest_number(pooling):
    """float16 ends at 65,504: neither the number of tokens nor the sum of their states may be taken in it."""
    model = make("min_gru", 1, pooling=pooling)
    ids = torch.tensor([TEXTS[0]]).repeat(1, 70_000 // len(TEXTS[0]) + 1)
    assert ids.shape[1] > 65_504 + 10, "premise"
    with torch.no_grad():
        expected, found = model(ids).logits, model.half()(ids).logits
    torch.testing.assert_close(found.float(), expected, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("cell", CELLS)
def test_gradcheck(cell):
    """Numerical gradients through initial states and the exact c_n."""
    model = make(cell, 2, model=RnnModel).double()
    ids, mask = pad_right(TEXTS[:3])
    h_0, c_0 = initial_states(model.config, 3)
    states = [s.double().requires_grad_() for s in (h_0, c_0) if s is not None]

    def run(*states):
        names = ["initial_hidden_state", "initial_cell_state"]
        output = model(ids, mask, output_final_states=True, **dict(zip(names, states, strict=False)))
        return tuple(t for t in output.to_tuple() if t is not None)

    assert torch.autograd.gradcheck(run, states)


@pytest.mark.parametrize("cell", CELLS)
def test_compile_gives_the_same_numbers(cell):
    model = make(cell, 2, pooling="attention")
    ids, mask = pad_right([*TEXTS, []], extra=2)
    torch.compiler.reset()
    compiled = torch.compile(model, backend="aot_eager")
    torch.testing.assert_close(
        compiled(input_ids=ids, attention_mask=mask).logits, model(ids, mask).logits, **TOLERANCE
    )


def test_graph_breaks_are_torchs_own():
    """Every break is at the call of torch's RNN module, which dynamo does not trace; none is at a line of ours."""
    model = make("gru", 2, pooling="attention")
    ids, mask = pad_right(TEXTS)
    torch.compiler.reset()
    for direction in (d for layer in model.rnn.layers for d in layer.directions):
        direction.cell = _TraceableStandIn(direction.cell.input_size, direction.cell.hidden_size)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)  # raises at any break
    torch.testing.assert_close(
        compiled(input_ids=ids, attention_mask=mask).logits, model(ids, mask).logits, **TOLERANCE
    )


class _TraceableStandIn(nn.Module):
    """Something with a cell's signature that dynamo can trace."""

    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.linear = nn.Linear(input_size, hidden_size)

    def forward(self, inputs, state=None):
        return self.linear(inputs).cumsum(0), state


# torch's RNNs keep a list of their weights, which export warns about
@pytest.mark.filterwarnings("ignore:The tensor attributes .*_flat_weights:UserWarning")
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_export_with_dynamic_batch(cell, pooling):
    model = make(cell, 2, pooling=pooling)
    ids, mask = pad_right(TEXTS)
    batch = torch.export.Dim("batch")
    program = torch.export.export(
        model,
        (),
        {"input_ids": ids, "attention_mask": mask},
        dynamic_shapes={"input_ids": {0: batch}, "attention_mask": {0: batch}},
        strict=False,
    )
    generator = torch.Generator().manual_seed(0)
    other_ids = torch.randint(2, 13, (9, ids.shape[1]), generator=generator)
    other_mask = torch.randint(0, 2, other_ids.shape, generator=generator)
    exported = program.module()(input_ids=other_ids, attention_mask=other_mask)
    torch.testing.assert_close(exported["logits"], model(other_ids, other_mask).logits, **TOLERANCE)


class TestDropout:
    """Each dropout, alone, is active in training and silent in evaluation."""

    @pytest.mark.parametrize(
        "name", ["embedding_dropout", "word_dropout", "hidden_dropout", "recurrent_dropout", "classifier_dropout"]
    )
    @pytest.mark.parametrize("cell", CELLS)
    def test_active_only_in_training(self, name, cell):
        if name == "recurrent_dropout" and cell not in WITH_RECURRENT_WEIGHTS:
            pytest.skip("minGRU has no recurrent weights; its configuration refuses this")
        model = make(cell, 2, **{name: 0.5})
        ids, mask = pad_right(TEXTS)
        torch.testing.assert_close(model(ids, mask).logits, model(ids, mask).logits, rtol=0, atol=0)
        model.train()
        torch.manual_seed(0)
        first = model(ids, mask).logits
        assert not torch.equal(first, model(ids, mask).logits)
        torch.manual_seed(0)
        torch.testing.assert_close(model(ids, mask).logits, first, rtol=0, atol=0)

    @pytest.mark.parametrize("draw_for_all", [0, 4096], ids=["words_of_the_batch", "whole_vocabulary"])
    def test_word_dropout_drops_whole_types(self, draw_for_all, monkeypatch):
        monkeypatch.setattr("hf_rnn.models.modeling_rnn._DRAW_FOR_ALL", draw_for_all)
        model = make(model=RnnModel, word_dropout=0.5).train()
        ids = torch.arange(2, 12).repeat(3, 4)
        vectors = model(ids, output_hidden_states=True).hidden_states[0]
        dropped = vectors.abs().sum(-1) == 0
        for word in range(2, 12):
            assert len(dropped[ids == word].unique()) == 1, "all occurrences of a word share their fate"
        assert 0 < dropped.float().mean() < 1
        kept = vectors[~dropped]
        torch.testing.assert_close(kept, 2 * model.embedding(ids)[~dropped])  # scaled by 1 / (1 - p)

    def test_word_dropout_draws_no_more_for_a_large_vocabulary(self, monkeypatch):
        drawn = []
        dropout = torch.nn.functional.dropout
        monkeypatch.setattr(
            torch.nn.functional, "dropout", lambda ones, *rest: drawn.append(ones.numel()) or dropout(ones, *rest)
        )
        config = RnnConfig(vocab_size=5000, embedding_size=4, hidden_size=3, word_dropout=0.5)
        RnnModel(config).train()(torch.tensor([[7, 4999, 7, 8], [8, 8, 8, 8]]))
        assert drawn[0] == 3, "what follows are the dropouts of other names, at zero"

    def test_recurrent_dropout_thins_the_recurrent_weights(self):
        """With all recurrent weights dropped but a vanishing few, an RNN is a function of its input alone."""
        model = make("rnn_tanh", bidirectional=False, model=RnnModel, recurrent_dropout=0.999999).train()
        torch.manual_seed(0)
        cell = model.layers[0].directions[0].cell
        ids = torch.tensor([TEXTS[3]])
        alone = torch.tanh(model.embedding(ids) @ cell.weight_ih_l0.T + cell.bias_ih_l0 + cell.bias_hh_l0)
        torch.testing.assert_close(model(ids).last_hidden_state, alone, **TOLERANCE)

    def test_recurrent_dropout_keeps_the_mean_of_a_weight(self):
        """Unit vectors as first states read the weights off: each is gone, or twice as large."""
        model = make("rnn_tanh", bidirectional=False, model=RnnModel, recurrent_dropout=0.5).train()
        cell = model.layers[0].directions[0].cell
        units = torch.eye(cell.hidden_size)  # one a text
        ids = torch.tensor([TEXTS[3][:1]]).expand(len(units), 1)
        states = model(ids, initial_hidden_state=units[None]).last_hidden_state[:, 0]
        alone = model.embedding(ids[0]) @ cell.weight_ih_l0.T + cell.bias_ih_l0 + cell.bias_hh_l0
        thinned = (torch.atanh(states) - alone).T
        kept = thinned.abs() > 1e-4
        assert 0.1 < kept.float().mean() < 0.9
        torch.testing.assert_close(thinned, 2 * cell.weight_hh_l0 * kept, atol=1e-4, rtol=1e-3)

    def test_recurrent_dropout_and_exact_cell_state_agree(self):
        """c_n comes from the same thinned weights as the states: h_n = o * tanh(c_n) bounds it."""
        model = make("lstm", model=RnnModel, recurrent_dropout=0.5).train()
        ids, mask = pad_right(TEXTS, extra=4)
        torch.manual_seed(3)
        padded = model(ids, mask, output_final_states=True)
        torch.manual_seed(3)
        tight = model(*pad_right(TEXTS), output_final_states=True)
        torch.testing.assert_close(padded.final_cell_state, tight.final_cell_state, **TOLERANCE)
        assert (padded.final_hidden_state.abs() <= padded.final_cell_state.tanh().abs() + 1e-6).all()


class TestLosses:
    def test_multi_label(self):
        model = make(problem_type="multi_label_classification")
        ids, mask = pad_right(TEXTS)
        labels = torch.tensor([[0, 1, 1], [0, 0, 0], [1, 1, 1], [1, 0, 0]]).float()
        output = model(ids, mask, labels=labels)
        logits = output.logits
        by_hand = -(labels * logits.sigmoid().log() + (1 - labels) * (1 - logits.sigmoid()).log()).mean()
        torch.testing.assert_close(output.loss, by_hand)

    def test_regression(self):
        model = make(problem_type="regression")
        ids, mask = pad_right(TEXTS)
        labels = torch.arange(12.0).view(4, 3)
        output = model(ids, mask, labels=labels)
        torch.testing.assert_close(output.loss, ((output.logits - labels) ** 2).mean())

    @pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
    def test_single_label(self, dtype):
        model = make()
        ids, mask = pad_right(TEXTS)
        labels = torch.tensor([2, 0, 1, 1], dtype=dtype)
        output = model(ids, mask, labels=labels)
        by_hand = -output.logits.log_softmax(-1)[torch.arange(4), labels.long()].mean()
        torch.testing.assert_close(output.loss, by_hand)

    @pytest.mark.parametrize("problem_type", ["single_label_classification", "multi_label_classification"])
    def test_gradient_accumulation_counts_items_once(self, problem_type):
        """What the Trainer relies on: losses of parts, each over the number of all items, add up to the whole loss."""
        model = make(problem_type=problem_type)
        ids, mask = pad_right(TEXTS)
        labels = torch.tensor([2, 0, 1, 1])
        if problem_type == "multi_label_classification":
            labels = nn.functional.one_hot(labels, 3).float()
        items = labels.numel()
        parts = sum(
            model(ids[i:j], mask[i:j], labels=labels[i:j], num_items_in_batch=items).loss for i, j in [(0, 1), (1, 4)]
        )
        torch.testing.assert_close(parts, model(ids, mask, labels=labels).loss)


class TestRefusals:
    def test_shapes(self):
        model = make()
        ids, mask = pad_right(TEXTS)
        with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
            model()
        with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
            model(ids, inputs_embeds=model.rnn.embedding(ids))
        with pytest.raises(ValueError, match=r"attention_mask must be of shape \(4, 7\)"):
            model(ids, mask[:, :-1])
        with pytest.raises(ValueError, match="input_ids must be of shape"):
            model(ids[0])
        with pytest.raises(ValueError, match=r"initial_hidden_state must be of shape .* = \(2, 4, 5\)"):
            model(ids, mask, initial_hidden_state=torch.zeros(1, 4, 5))
        with pytest.raises(ValueError, match="initial_cell_state is for cell_type='lstm'"):
            make("gru")(ids, mask, initial_cell_state=torch.zeros(2, 4, 5))

    def test_an_empty_batch_has_no_rows(self):
        assert make()(torch.zeros(0, 4, dtype=torch.long)).logits.shape == (0, 3)


def test_token_type_ids_of_foreign_tokenizers_are_accepted():
    model = make()
    ids, mask = pad_right(TEXTS)
    output = model(input_ids=ids, attention_mask=mask, token_type_ids=torch.zeros_like(ids))
    torch.testing.assert_close(output.logits, model(ids, mask).logits)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("cell", CELLS)
def test_cuda_gives_the_same_numbers(cell):
    model = make(cell, 2, pooling="attention", recurrent_dropout=0.2 if cell in WITH_RECURRENT_WEIGHTS else 0.0)
    ids, mask = pad_right([*TEXTS, []], extra=2)
    expected = model(ids, mask, output_final_states=True)
    model.cuda()
    output = model(ids.cuda(), mask.cuda(), output_final_states=True)
    torch.testing.assert_close(output.logits.cpu(), expected.logits, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(output.final_hidden_state.cpu(), expected.final_hidden_state, atol=1e-4, rtol=1e-3)
    model.train()
    model(ids.cuda(), mask.cuda(), labels=torch.tensor([0, 1, 2, 0, 1]).cuda()).loss.backward()


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_a_batch_without_texts(cell, training):
    model = make(cell, layers=2).train(training)
    output = model(torch.zeros(0, 6, dtype=torch.long), torch.zeros(0, 6, dtype=torch.long))
    assert output.logits.shape == (0, 3)
    output.logits.sum().backward()


def test_a_table_may_be_exchanged_and_keeps_a_row_for_padding():
    config = RnnConfig(vocab_size=50, embedding_size=12, hidden_size=8, word_dropout=0.2, pad_token_id=40)
    model = RnnForSequenceClassification(config).train()
    for rows in (30, 40):
        with pytest.raises(ValueError, match=f"pad_token_id is 40: a table of {rows} rows has none for it"):
            model.resize_token_embeddings(rows)
    model.set_input_embeddings(torch.nn.Embedding(80, 12))
    assert model(torch.full((2, 3), 75)).logits.isfinite().all()
    assert model.resize_token_embeddings(90).num_embeddings == 90


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("filler", [0, 12])
def test_rows_that_a_sparse_gradient_holds_are_of_the_tokens_read(cell, filler):
    """Without a padding id too: an optimiser moves each row that is there, be its gradient zero."""
    model = make(cell, sparse_embedding=True, pad_token_id=None, embedding_dropout=0.0).train()
    ids, mask = pad_right(TEXTS, filler=filler)
    assert filler not in itertools.chain(*TEXTS), "premise: the filler is a word of no text"
    model(ids, mask, labels=torch.zeros(len(TEXTS), dtype=torch.long)).loss.backward()
    gradient = model.rnn.embedding.weight.grad.coalesce()
    assert gradient.indices().flatten().tolist() == sorted({token for text in TEXTS for token in text})
    dense = make(cell, pad_token_id=None, embedding_dropout=0.0).train()
    dense(ids, mask, labels=torch.zeros(len(TEXTS), dtype=torch.long)).loss.backward()
    torch.testing.assert_close(gradient.to_dense(), dense.rnn.embedding.weight.grad, **TOLERANCE)
