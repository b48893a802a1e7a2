"""FastRnn gives the plain model's own answers, whatever the lengths, in the order of the texts."""

import copy
import itertools
import logging
import pickle
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from conftest import import_anew
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import pipeline

from hf_rnn import RnnConfig, RnnForSequenceClassification, load_tsv, train_tokenizer
from hf_rnn.hub import loading as model_loading
from hf_rnn.inference import FastRnn, predictor
from hf_rnn.inference import reference as plain_inference
from hf_rnn.inference.fused import FoldedClassifier, cells, padded_layers, table_bytes
from hf_rnn.inference.fused.lstm_kernel import LstmKernel
from hf_rnn.inference.fused.packing import PackedTexts, TokenIds, pack_batches
from hf_rnn.inference.fused.padded_layers import PaddedLayers
from hf_rnn.inference.fused.single_text import few_texts
from hf_rnn.utils.errors import UserError

CELLS = ["rnn_tanh", "rnn_relu", "gru", "lstm", "min_gru"]
POOLINGS = ["last", "mean", "max", "mean_max", "attention"]
ACTIVATIONS = itertools.cycle(["linear", "relu", "tanh", "gelu"])
VARIANTS = [(*variant, next(ACTIVATIONS)) for variant in itertools.product(CELLS, [1, 2, 3], [False, True], POOLINGS)]
VOCABULARY = 23
REAL = Path(__file__).parents[3] / "shared" / "data" / "semeval2016"
TEXTS = ["a good day", "", "bad bad bad", "a", "<unk> <pad> a", "   ", "so many new words here", "a good day"]

token_ids = st.lists(
    st.lists(st.integers(0, VOCABULARY - 1), max_size=12) | st.just([3, 1, 4]) | st.just([]), max_size=12
)


def make(**given):
    torch.manual_seed(0)
    fields = {"vocab_size": VOCABULARY, "embedding_size": 6, "hidden_size": 5, "num_labels": 3, **given}
    model = RnnForSequenceClassification(RnnConfig(**fields)).eval()
    for direction in (d for layer in model.rnn.layers for d in layer.directions):
        for parameter in direction.parameters():
            parameter.data *= 1.5  # so that states matter
    return model


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["a good day", "a bad day"], min_frequency=1, model_max_length=6)


@pytest.fixture(scope="module")
def pair(tokenizer):
    """A model and its tokenizer."""
    return make(vocab_size=len(tokenizer)), tokenizer


def plain_logits(model, ids):
    """Each text alone through the plain model."""
    with torch.no_grad():
        return torch.cat(
            [model(torch.tensor([text], dtype=torch.long), torch.ones(1, len(text))).logits for text in ids]
        )


def folded_logits(folded, ids, budget):
    """In batches of so many tokens; with 0 each text by the way of a text alone."""
    logits = torch.full((len(ids), folded.config.num_labels), float("nan"))
    if budget == 0:
        return torch.from_numpy(np.concatenate([folded.logits_of_one(text) for text in ids]))
    with torch.inference_mode():
        for positions, texts in pack_batches(TokenIds.of_lists(ids), budget):
            assert logits[positions].isnan().all(), "a text came twice"
            logits[positions] = folded.logits(texts)
    return logits


class Doubling(torch.nn.Module):
    """Stands around a module, as an adapter does: its weights can be seen, and what it gives is another thing."""

    def __init__(self, base):
        super().__init__()
        self.base_layer = base

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base_layer"), name)

    def forward(self, *given):
        found = self.base_layer(*given)
        return (2 * found[0], found[1]) if isinstance(found, tuple) else 2 * found


class Own(RnnForSequenceClassification):
    def forward(self, *given, **named):
        output = super().forward(*given, **named)
        output.logits = -output.logits
        return output


class Inherited(RnnForSequenceClassification):
    """As it is."""


def with_hook(place):
    def change(model):
        model.get_submodule(place).register_forward_hook(lambda module, given, found: found * 2)
        return model

    return change


def with_wrapper(place):
    def change(model):
        above, _, name = place.rpartition(".")
        model.get_submodule(above).__setattr__(name, Doubling(model.get_submodule(place)))
        return model

    return change


def with_head(model):
    model.classifier = torch.nn.Sequential(torch.nn.Linear(model.pooler.output_size, 4), torch.nn.Linear(4, 3))
    return model


def with_another_forward(model):
    pool = model.pooler.forward
    model.pooler.forward = lambda *given: (2 * pool(*given)[0], None)
    return model


class Quantised(torch.Tensor):
    """A weight whose numbers are not what a product with it takes, as a quantised one's are not."""

    @classmethod
    def __torch_function__(cls, function, kinds, given=(), named=None):
        found = super().__torch_function__(function, kinds, given, named or {})
        return 2 * found.as_subclass(torch.Tensor) if function is torch.nn.functional.linear else found

    def __deepcopy__(self, memo):
        return torch.nn.Parameter(self.detach().clone(), requires_grad=False)


def with_a_weight_of_another_kind(model):
    weight = model.classifier.weight.detach().as_subclass(Quantised)
    model.classifier.weight = torch.nn.Parameter(weight, requires_grad=False)
    return model


def of_class(kind):
    def change(model):
        changed = kind(model.config).eval()
        changed.load_state_dict(model.state_dict())
        return changed

    return change


FOREIGN = {
    "hook on the embedding": (with_hook("rnn.embedding"), "hooks on rnn.embedding"),
    "hook on a dropout": (with_hook("dropout"), "hooks on dropout"),
    "adapter of the embedding": (with_wrapper("rnn.embedding"), "rnn.embedding is .*Doubling"),
    "adapter of a cell": (with_wrapper("rnn.layers.0.directions.1.cell"), r"rnn.layers.0.directions.1.cell is .*Doub"),
    "adapter of the pooling": (with_wrapper("pooler.context"), "pooler.context is .*Doubling"),
    "adapter of the head": (with_wrapper("classifier"), "classifier is .*Doubling"),
    "another head": (with_head, "classifier is torch.nn.modules.container.Sequential"),
    "another forward": (with_another_forward, "forward of pooler was replaced"),
    "a weight of another kind": (with_a_weight_of_another_kind, "classifier.weight is .*Quantised"),
    "a class with its own forward": (of_class(Own), "the model is .*Own"),
}


@pytest.mark.parametrize(("change", "told"), FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("cell", ["lstm", "gru", "min_gru"])
def test_what_the_weights_do_not_tell_of_comes_through(tokenizer, caplog, change, told, cell):
    """A table is made of weights alone, so there is none; the answers are the model's."""
    model = make(vocab_size=len(tokenizer), cell_type=cell, pooling="attention")
    before = plain_logits(model, [[2, 3, 4], [4]])
    model = change(model)
    expected = plain_logits(model, [[2, 3, 4], [4]])
    assert (expected - before).abs().max() > 1e-3, "premise: it has a part in the answer"
    fast = FastRnn(model, tokenizer)
    assert fast.memory == 0
    assert re.search(f"the plain model runs: .*{told}", caplog.text)
    torch.testing.assert_close(fast.logits([[2, 3, 4], [4]]), expected, atol=1e-5, rtol=0)
    with pytest.raises(UserError, match=f"table_dtype int8 is for a model as this package makes it: .*{told}"):
        FastRnn(model, tokenizer, table_dtype="int8")


def test_what_leaves_the_weights_their_meaning_keeps_its_table(tokenizer):
    model = of_class(Inherited)(make(vocab_size=len(tokenizer)))
    torch.nn.utils.parametrizations.weight_norm(model.rnn.layers[0].directions[0].cell, "weight_hh_l0")
    fast = FastRnn(model, tokenizer)
    assert fast.memory > 0
    torch.testing.assert_close(fast.logits([[2, 3], [4]]), plain_logits(model, [[2, 3], [4]]), atol=1e-5, rtol=0)
    assert FastRnn(torch.compile(model), tokenizer).memory > 0


@pytest.fixture
def in_steps(monkeypatch):
    """Nothing read by torch's kernels."""
    made = FoldedClassifier.__init__

    def make_slow(self, *arguments):
        made(self, *arguments)
        self._may_take_table = self._may_take_upper = False

    monkeypatch.setattr(FoldedClassifier, "__init__", make_slow)
    monkeypatch.setattr("hf_rnn.inference.fused.classifier.LstmKernel", lambda *_: None)


@pytest.fixture
def doubles():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("pooling", ["last", "mean_max", "attention"])
@pytest.mark.parametrize("memory_limit", [0, 1 << 28], ids=["plain", "table"])
def test_the_callers_precision_is_not_its_own(cell, layers, pooling, memory_limit, tokenizer, request):
    texts = ["a good day", "bad", ""] * 9
    model = make(vocab_size=len(tokenizer), cell_type=cell, num_hidden_layers=layers, pooling=pooling)
    expected = FastRnn(model, tokenizer, memory_limit=memory_limit).text_logits(texts)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fast = FastRnn(model, tokenizer, memory_limit=memory_limit)
        found = [fast.text_logits(texts), fast.text_logits(texts[:1])]
    request.getfixturevalue("doubles")
    fast = FastRnn(model, tokenizer, memory_limit=memory_limit)
    found += [fast.text_logits(texts), fast.text_logits(texts[:1])]
    for logits in found:
        assert logits.dtype == torch.float32
        torch.testing.assert_close(logits, expected[: len(logits)], atol=1e-5, rtol=0)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(("layers", "pooling"), [(1, "mean_max"), (2, "attention")])
@pytest.mark.parametrize("table_dtype", [None, "float32", "int8"])
def test_the_callers_default_device_is_not_its_own(cell, layers, pooling, table_dtype, tokenizer):
    texts = ["a good day", "bad", "", "a bad day " * 30] * 9
    model = make(vocab_size=len(tokenizer), cell_type=cell, num_hidden_layers=layers, pooling=pooling)
    settings = {"memory_limit": 0} if table_dtype is None else {"table_dtype": table_dtype}
    expected = FastRnn(model, tokenizer, **settings).text_logits(texts)
    with torch.device("meta"):  # where nothing can be computed
        fast = FastRnn(model, tokenizer, **settings)
        found = [fast.text_logits(texts), fast.text_logits(texts[:4]), fast.text_logits(texts[:1])]
    for logits in found:
        torch.testing.assert_close(logits, expected[: len(logits)], atol=1e-5, rtol=0)


@pytest.mark.parametrize("cell", CELLS)
def test_imported_under_another_default_device_it_is_the_same(cell, in_steps, monkeypatch):
    model, ids = make(cell_type=cell), [[3, 1, 4], [5], [9, 2, 6, 5]]
    for name, value in vars(import_anew(cells, torch.device("meta"))).items():
        if isinstance(value, torch.Tensor):  # the classes must stay those that others know
            monkeypatch.setattr(cells, name, value)
    found = folded_logits(FoldedClassifier(model), ids, 100)
    torch.testing.assert_close(found, plain_logits(model, ids), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("cell", "layers", "bidirectional", "pooling", "activation"), VARIANTS)
def test_logits_in_steps_are_the_models(cell, layers, bidirectional, pooling, activation, in_steps):
    check_logits(cell, layers, bidirectional, pooling, activation)


@pytest.mark.parametrize(
    ("cell", "layers", "bidirectional", "pooling", "activation"),
    [variant for variant in VARIANTS if variant[0] in ("lstm", "min_gru")],
)
def test_logits_are_the_models(cell, layers, bidirectional, pooling, activation):
    check_logits(cell, layers, bidirectional, pooling, activation)


def check_logits(cell, layers, bidirectional, pooling, activation):
    model = make(
        cell_type=cell,
        num_hidden_layers=layers,
        bidirectional=bidirectional,
        pooling=pooling,
        classifier_activation=activation,
    )
    folded = FoldedClassifier(model)

    @given(ids=token_ids, budget=st.integers(0, 60))
    @settings(max_examples=3, deadline=None)
    def check(ids, budget):
        if ids:
            torch.testing.assert_close(
                folded_logits(folded, ids, budget), plain_logits(model, ids), atol=2e-6, rtol=1e-5
            )

    check()
    ids = [[3, 9, 2], [5], [], [7, 7, 4, 1, 20]]
    assert plain_logits(model, ids).std(dim=0).max() > 1e-3, "premise: the texts have different answers"
    for budget in (0, 100):
        torch.testing.assert_close(folded_logits(folded, ids, budget), plain_logits(model, ids), atol=2e-6, rtol=1e-5)


@pytest.fixture
def kernel_runs(monkeypatch):
    """Steps that torch's LSTM kernel took for a text alone, layer by layer."""
    runs, run = [], LstmKernel.run

    def counted(self, inputs):
        runs.append(len(inputs))
        return run(self, inputs)

    monkeypatch.setattr(LstmKernel, "run", counted)
    return runs


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(
    ("layers", "size", "length", "by_kernel"),
    [(1, 8, 200, 1), (1, 8, 20, 0), (2, 8, 200, 2), (2, 8, 20, 1), (2, 128, 5, 0), (3, 128, 40, 2), (1, 160, 200, 0)],
)
def test_a_long_text_alone_goes_through_torchs_kernel(layers, size, length, by_kernel, bidirectional, kernel_runs):
    """And so do layers upon a layer, but for the few steps of a short text in a wide one; the answer is the same."""
    model = make(cell_type="lstm", num_hidden_layers=layers, hidden_size=size, bidirectional=bidirectional)
    text = np.random.default_rng(0).integers(0, VOCABULARY, length).tolist()
    logits = torch.from_numpy(FoldedClassifier(model).logits_of_one(text))
    assert kernel_runs == [length] * by_kernel
    torch.testing.assert_close(logits, plain_logits(model, [text]), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize(("layers", "cell"), [(2, "lstm"), (3, "lstm"), (2, "gru")])
def test_upper_layers_step_by_step_are_the_same(layers, cell, kernel_runs, in_steps):
    model = make(cell_type=cell, num_hidden_layers=layers)
    text = np.random.default_rng(0).integers(0, VOCABULARY, 30).tolist()
    logits = torch.from_numpy(FoldedClassifier(model).logits_of_one(text))
    torch.testing.assert_close(logits, plain_logits(model, [text]), atol=2e-6, rtol=1e-5)
    assert not kernel_runs


@pytest.mark.parametrize(("dtype", "by_kernel"), [("int8", 1), ("bfloat16", 1), ("float32", 2)])
def test_a_long_text_alone_reads_a_rounded_table_as_a_batch_does(dtype, by_kernel, kernel_runs):
    folded = FoldedClassifier(make(cell_type="lstm", num_hidden_layers=2), dtype)
    text = np.random.default_rng(0).integers(0, VOCABULARY, 200).tolist()
    alone = torch.from_numpy(folded.logits_of_one(text))
    assert len(kernel_runs) == by_kernel
    torch.testing.assert_close(alone.expand(2, -1), folded_logits(folded, [text, text], 1000), atol=2e-6, rtol=1e-5)


@pytest.fixture
def padded_runs(monkeypatch):
    """Lengths of the texts that the model's own layers read together, and whether the first layer was among them."""
    runs, run = [], PaddedLayers._pool

    def counted(self, texts, group, states, layers):
        if layers < len(self._layers):  # else they are pooled together
            runs.append((texts.lengths[group].tolist(), layers == 0))
        return run(self, texts, group, states, layers)

    monkeypatch.setattr(PaddedLayers, "_pool", counted)
    return runs


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(
    ("cell", "layers", "lengths", "groups", "from_the_first"),
    [
        ("lstm", 1, [30] * 5, [5], True),
        ("lstm", 2, [36, 33, 30, 30, 11], [5], True),
        ("lstm", 3, [12, 12, 11, 7, 0], [5], True),
        ("lstm", 2, [90] + [2] * 20, [2, 19], True),  # together they would be padding, nearly all of it
        ("lstm", 2, [8, 3] + [0] * 4, [2, 4], False),
        ("lstm", 1, [9] * 6, [], False),  # a few steps of the table
        ("lstm", 2, [9] * 6, [6], False),
        ("gru", 2, [30] * 5, [5], True),
        ("rnn_relu", 1, [30] * 5, [5], True),
        ("lstm", 1, [2] * 9 + [0], [], False),
        ("min_gru", 2, [30] * 5, [], False),
        ("gru", 2, [2] * 300, [], False),  # a step has too much work
    ],
    ids=str,
)
def test_batches_through_layers_as_they_are(
    cell, layers, lengths, groups, from_the_first, bidirectional, pooling, padded_runs
):
    """Where steps would have little to do, and in an LSTM's layers upon a layer."""
    model = make(cell_type=cell, num_hidden_layers=layers, bidirectional=bidirectional, pooling=pooling)
    chance = np.random.default_rng(0)
    ids = [chance.integers(0, VOCABULARY, length).tolist() for length in lengths]
    logits = folded_logits(FoldedClassifier(model), ids, 1000)
    assert [(len(read), first) for read, first in padded_runs] == [(size, from_the_first) for size in groups]
    torch.testing.assert_close(logits, plain_logits(model, ids), atol=2e-6, rtol=1e-5)


def test_a_group_has_few_places(padded_runs):
    """And at least one text, however long."""
    folded = FoldedClassifier(make(cell_type="lstm", num_hidden_layers=2))
    lengths = [4000, 1100, 1000, 1000, 900, 600, 590]
    chance = np.random.default_rng(0)
    folded_logits(folded, [chance.integers(0, VOCABULARY, length).tolist() for length in lengths], 10_000)
    assert [read for read, _ in padded_runs] == [[4000], [1100, 1000], [1000, 900, 600], [590]]


@pytest.mark.parametrize(
    ("settings", "texts", "places"),
    [
        ({"cell_type": "gru"}, 3, 32_768),  # the fewer groups, the fewer calls
        ({"cell_type": "gru", "pooling": "attention"}, 300, 3_072),  # pooled only
        ({"cell_type": "min_gru", "pooling": "attention", "num_hidden_layers": 2}, 3, 3_072),
        ({"cell_type": "lstm"}, 3, 3_072),
    ],
    ids=str,
)
def test_groups_are_as_large_as_serves(settings, texts, places, monkeypatch):
    cut, limits = padded_layers._group, []
    monkeypatch.setattr(
        padded_layers, "_group", lambda lengths, most: limits.append(most) or cut(lengths, most_places=most)
    )
    folded_logits(FoldedClassifier(make(**settings)), [[3] * 12] * texts, 10_000)
    assert limits == [places]


@pytest.mark.parametrize(("dtype", "first"), [("float32", True), ("int8", False), ("bfloat16", False)])
def test_layers_as_they_are_do_not_stand_in_for_a_rounded_table(dtype, first, padded_runs):
    folded = FoldedClassifier(make(cell_type="lstm", num_hidden_layers=2), dtype)
    folded_logits(folded, [[3, 9, 2] * 10] * 4, 1000)
    assert padded_runs == [([30] * 4, first)]


@pytest.mark.parametrize(
    ("settings", "length", "few"),
    [
        ({"cell_type": "gru"}, 3, 8),
        ({"cell_type": "gru", "num_hidden_layers": 2, "bidirectional": False}, 3, 2),
        ({"cell_type": "min_gru", "num_hidden_layers": 2}, 3, 4),
        ({"cell_type": "min_gru", "num_hidden_layers": 2}, 100, 8),
        ({"cell_type": "rnn_tanh", "num_hidden_layers": 2}, 3, 8),
        ({"cell_type": "lstm"}, 40, 4),
        ({"cell_type": "lstm"}, 41, 0),
        ({"cell_type": "lstm", "num_hidden_layers": 3}, 3, 1),
    ],
    ids=str,
)
def test_a_few_texts_are_read_one_after_the_other(settings, length, few, tokenizer, monkeypatch):
    model = make(vocab_size=VOCABULARY, **settings)
    assert few_texts(model.config, length) == few
    alone, read = [], FoldedClassifier.logits_of_one
    monkeypatch.setattr(FoldedClassifier, "logits_of_one", lambda self, ids: alone.append(len(ids)) or read(self, ids))
    chance, fast = np.random.default_rng(0), FastRnn(model, tokenizer)
    for count in {few - 1, few, few + 1} - {-1, 0}:
        texts = [chance.integers(0, VOCABULARY, size).tolist() for size in [length, 0, *[length - 1] * few][:count]]
        alone.clear()
        torch.testing.assert_close(fast.logits(texts), plain_logits(model, texts), atol=2e-6, rtol=1e-5)
        assert alone == (list(map(len, texts)) if count <= max(few, 1) else []), texts


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
@pytest.mark.parametrize(
    ("cell", "layers", "few"), [("lstm", 1, 8), ("lstm", 2, 4), ("gru", 2, 4), ("rnn_tanh", 2, 8)]
)
def test_a_few_long_texts_from_a_rounded_table_too(cell, layers, few, dtype, tokenizer, monkeypatch):
    """For which torch's kernels, faster in float32, do not stand in."""
    fast = FastRnn(make(vocab_size=VOCABULARY, cell_type=cell, num_hidden_layers=layers), tokenizer, dtype)
    alone, read = [], FoldedClassifier.logits_of_one
    monkeypatch.setattr(FoldedClassifier, "logits_of_one", lambda self, ids: alone.append(len(ids)) or read(self, ids))
    chance = np.random.default_rng(0)
    texts = chance.integers(0, VOCABULARY, (few, 200)).tolist()
    one_by_one = fast.logits(texts)
    assert alone == [200] * few
    together = fast.logits([*texts, texts[0]])
    assert alone == [200] * few
    torch.testing.assert_close(together[:-1], one_by_one, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("cell", CELLS)
def test_rows_looked_up_a_step_at_a_time_are_the_same(cell, monkeypatch):
    """A large batch reuses the memory of its rows."""
    folded = FoldedClassifier(make(cell_type=cell))
    ids = np.random.default_rng(0).integers(0, VOCABULARY, (9, 11)).tolist() + [[4], []]
    at_once = folded_logits(folded, ids, 1000)
    monkeypatch.setattr("hf_rnn.inference.fused.table._NUMBERS_AT_ONCE", 0)
    torch.testing.assert_close(folded_logits(folded, ids, 1000), at_once)


@given(ids=token_ids, budget=st.integers(1, 30), long_texts=st.tuples(st.integers(1, 6), st.integers(0, 60)))
def test_batches_hold_every_text_once_and_keep_to_the_budget(ids, budget, long_texts):
    def fit(lengths):
        count, tokens = len(lengths), sum(lengths)
        return count == 1 or tokens <= budget or (count <= long_texts[0] and tokens <= long_texts[1])

    seen, before = [], []
    for positions, texts in pack_batches(TokenIds.of_lists(ids), budget, *long_texts):
        lengths = texts.lengths.tolist()
        assert lengths == sorted(lengths, reverse=True)
        assert sum(texts.sizes) == sum(lengths)
        assert fit(lengths)
        assert not (before and fit([*before, lengths[0]])), "the batch before had no room for one more"
        before = lengths
        assert [len(ids[position]) for position in positions] == lengths
        for text, position in enumerate(positions.tolist()):
            steps = np.cumsum([0, *texts.sizes])[: lengths[text]]  # a text's place in each of its steps
            assert texts.forward[steps + text].tolist() == ids[position]
            padded = texts.padded_places(slice(text, text + 2)).reshape(lengths[text], len(lengths[text : text + 2]))
            assert padded[:, 0].tolist() == (steps + text).tolist()
            assert texts.backward[steps + text].tolist() == ids[position][::-1]
        seen += positions.tolist()
    assert sorted(seen) == list(range(len(ids)))


def test_one_long_text_among_short_ones_takes_no_memory_for_their_padding():
    lengths = np.array([100_000] + [1] * 5_000)
    starts = np.cumsum(lengths) - lengths
    tracemalloc.start()
    packed = PackedTexts.pack(np.arange(lengths.sum()), starts, lengths)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 30 * 8 * lengths.sum()
    assert packed.sizes[:3] == [5_001, 1, 1] and len(packed.sizes) == 100_000
    assert packed.forward[:2].tolist() == [0, 100_000] and packed.backward[0] == 99_999


class TestAnswers:
    def test_are_those_of_pipeline_in_order(self, pair):
        model, tokenizer = pair
        classifier = pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")
        answers = FastRnn(model, tokenizer, tokens_per_batch=4).predict(TEXTS)
        expected = classifier(TEXTS, truncation=True)
        assert [answer["label"] for answer in answers] == [answer["label"] for answer in expected]
        for answer, other in zip(answers, expected, strict=True):
            assert answer.keys() == {"label", "score"}
            assert answer["score"] == pytest.approx(other["score"], abs=1e-6)
        assert len({answer["score"] for answer in answers}) > 3, "premise: answers differ, so that order shows"

    def test_one_at_a_time_is_the_same(self, pair):
        fast = FastRnn(*pair)
        together = fast.predict_proba(TEXTS)
        assert together.dtype == np.float32
        np.testing.assert_allclose(np.concatenate([fast.predict_proba([text]) for text in TEXTS]), together, atol=1e-6)

    @pytest.mark.parametrize(
        ("settings", "tokens"),
        [
            ({"cell_type": "min_gru", "hidden_size": 64}, 32768),  # 2 * 2 * 64 * 4 bytes a token, of 32 MiB
            ({"cell_type": "lstm", "hidden_size": 64}, 16384),  # 2 * 4 * 64 * 4
            ({"cell_type": "lstm", "hidden_size": 400}, 8192),
            ({"cell_type": "lstm", "hidden_size": 64, "num_hidden_layers": 2}, 16384),
            ({"cell_type": "rnn_tanh", "hidden_size": 3, "bidirectional": False}, 32768),
        ],
    )
    def test_narrow_models_read_more_at_once(self, pair, settings, tokens):
        assert FastRnn(make(**settings), pair[1]).tokens_per_batch == tokens

    @pytest.mark.parametrize(
        ("settings", "given", "length", "texts"),
        [
            ({}, None, 100, 409),  # as many as tweets of 20 tokens are in 8,192 tokens
            ({"hidden_size": 64}, None, 100, 819),  # in 16,384
            ({}, None, 3000, (1 << 18) // 3000),  # never more than 262,144 tokens
            ({}, 8192, 1000, 8),
            ({"num_hidden_layers": 2, "cell_type": "gru"}, None, 1000, (1 << 25) // (2 * 3 * 128 * 4) // 1000),  # rows
            ({"num_hidden_layers": 2}, None, 100, (1 << 24) // (2 * 128 * 4) // 100),  # states
            ({"pooling": "attention", "bidirectional": False}, None, 1000, (1 << 24) // (128 * 4) // 1000),
            ({"num_hidden_layers": 2}, None, 100_000, 1),
        ],
        ids=str,
    )
    def test_long_texts_share_their_steps(self, pair, settings, given, length, texts, monkeypatch):
        """Else a step would be one of few texts; but memory that grows with tokens stays within bounds."""
        fast = FastRnn(make(**{"hidden_size": 128, "cell_type": "lstm"} | settings), pair[1], tokens_per_batch=given)
        sizes = []
        monkeypatch.setattr(fast._folded, "logits", lambda batch: sizes.append(len(batch.lengths)) or torch.zeros(1))
        fast.logits([[5] * length] * 900)
        assert sizes[0] == texts and sum(sizes) == 900

    def test_many_blocks_are_the_same(self, pair, monkeypatch):
        fast = FastRnn(*pair)
        expected = fast.predict(TEXTS)
        monkeypatch.setattr("hf_rnn.inference.predictor._BLOCK", 3)
        for answer, other in zip(fast.predict(TEXTS), expected, strict=True):
            assert answer["label"] == other["label"]
            assert answer["score"] == pytest.approx(other["score"], abs=1e-6)

    def test_nothing_is_answered_with_nothing(self, pair):
        fast = FastRnn(*pair)
        assert fast.predict([]) == []
        assert fast.predict_proba([]).shape == (0, 3)

    @pytest.mark.parametrize(
        ("problem", "num_labels"),
        [
            ("regression", 1),
            ("regression", 3),
            ("multi_label_classification", 1),
            ("multi_label_classification", 3),
            ("single_label_classification", 3),
            (None, 1),
        ],
    )
    def test_of_every_kind_of_problem(self, tokenizer, problem, num_labels):
        model = make(vocab_size=len(tokenizer), problem_type=problem, num_labels=num_labels)
        ids = tokenizer(TEXTS, truncation=True)["input_ids"]
        expected = plain_inference.compute_scores(model, plain_logits(model, ids))
        fast = FastRnn(model, tokenizer)
        np.testing.assert_allclose(fast.predict_proba(TEXTS), expected, atol=1e-6)
        assert [answer["score"] for answer in fast.predict(TEXTS)] == pytest.approx(
            expected.max(dim=1).values.tolist(), abs=1e-6
        )

    @pytest.mark.parametrize("cell", CELLS)
    def test_of_a_model_in_bfloat16_are_those_of_its_weights_in_float32(self, tokenizer, cell):
        model = make(vocab_size=len(tokenizer), cell_type=cell).bfloat16()
        ids = tokenizer(TEXTS, truncation=True)["input_ids"]
        torch.testing.assert_close(FastRnn(model, tokenizer).logits(ids), plain_logits(model.float(), ids))

    def test_of_one_in_bfloat16_by_torchs_kernel_too(self, tokenizer, kernel_runs, padded_runs):
        model = make(cell_type="lstm", num_hidden_layers=2).bfloat16()
        fast, (short, *batch) = FastRnn(model, tokenizer), [[3, 9, 2] * times for times in (40, 50, 50, 48)]
        alone, together = fast.logits([short]), fast.logits(batch)
        assert (kernel_runs, padded_runs) == ([120, 120], [([150, 150, 144], True)])
        expected = plain_logits(model.float(), [short, *batch])
        torch.testing.assert_close(torch.cat([alone, together]), expected, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "mean_max", "attention"])
@pytest.mark.parametrize("cell", ["gru", "lstm", "min_gru"])
def test_a_very_long_text_loses_no_digits(cell, pooling):
    """Sums of 20,000 states; the reference is the model itself in float64."""
    words = [f"w{number}" for number in range(3)]
    tokenizer = train_tokenizer(words, min_frequency=1, model_max_length=10**6)
    model = make(vocab_size=len(tokenizer), cell_type=cell, pooling=pooling)
    ids = [number % 3 + 2 for number in range(20_000)]
    fast, long = FastRnn(model, tokenizer), [ids]
    expected = plain_logits(copy.deepcopy(model).double(), long)
    for found in (fast.logits(long), fast.logits([*long, *[[2]] * 9])[:1]):  # alone and in a batch
        torch.testing.assert_close(found.double(), expected.double(), rtol=0, atol=5e-6)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (pd.DataFrame({"text": ["a", "b"], "label": [1, 2]}), "found a DataFrame: give the texts of it as a list"),
        ({"text": ["a"]}, "found a dict"),
        ({"a", "b"}, "found a set"),
        (np.array("hello"), "found a ndarray"),
        (np.array([["a", "b"]]), "found a ndarray"),
        ("a good day", r"found one text: put it into a list"),
        (["a", None], r"texts\[1\] is not a str: found None"),
        (["a", "b", b"c"], r"texts\[2\] is not a str: found b'c'"),
        (["ok", "\ud800"], r"texts\[1\] is not valid Unicode: a lone surrogate at character 0"),
        (None, "texts must be a list of str, found None"),
        (3, "texts must be a list of str, found 3"),
        (["a"] * 8500 + [None], r"texts\[8500\] is not a str"),
        (["a"] * 8500 + ["bc\ud800"], r"texts\[8500\] is not valid Unicode: a lone surrogate at character 2"),
    ],
    ids=[
        "frame",
        "dict",
        "set",
        "array of none",
        "array of two",
        "one_text",
        "none",
        "bytes",
        "surrogate",
        "nothing",
        "number",
        "far_behind",
        "surrogate_far_behind",
    ],
)
def test_what_is_no_list_of_texts_is_refused(pair, texts, message):
    for call in (FastRnn(*pair).predict, FastRnn(*pair).predict_proba):
        with pytest.raises(UserError, match=message):
            call(texts)


@pytest.mark.parametrize(
    "make_texts",
    [iter, tuple, np.array, pd.Series, pa.array, lambda texts: pa.table({"text": texts})["text"]],
    ids=["iterator", "tuple", "array", "series", "arrow", "arrow column"],
)
def test_any_collection_of_texts_will_do(pair, make_texts):
    fast = FastRnn(*pair)
    assert fast.predict(make_texts(TEXTS)) == fast.predict(TEXTS)


@pytest.mark.parametrize("settings", [{}, {"table_dtype": "int8", "tokens_per_batch": 7}, {"memory_limit": 0}])
def test_it_goes_to_other_processes(pair, settings):
    fast = FastRnn(*pair, **settings)
    other = pickle.loads(pickle.dumps(fast))
    assert (other.memory, other.tokens_per_batch) == (fast.memory, fast.tokens_per_batch)
    assert other.predict(TEXTS) == fast.predict(TEXTS)


class TestTable:
    @pytest.mark.parametrize("cell", CELLS)
    @pytest.mark.parametrize("bidirectional", [False, True])
    def test_its_size_is_as_stated(self, cell, bidirectional):
        model = make(cell_type=cell, bidirectional=bidirectional)
        parts = {"rnn_tanh": 1, "rnn_relu": 1, "min_gru": 2, "gru": 3, "lstm": 4}[cell]
        for dtype, width in (("float32", 4), ("bfloat16", 2), ("int8", 1)):
            folded = FoldedClassifier(model, dtype)
            assert folded.memory == folded.table.stored.numel() * folded.table.stored.element_size()
            assert folded.memory == VOCABULARY * parts * 5 * (2 if bidirectional else 1) * width
            assert folded.memory == table_bytes(model.config, dtype)

    def test_beyond_the_limit_the_plain_model_answers_and_the_log_says_so(self, pair, caplog):
        fast = FastRnn(*pair)
        with caplog.at_level(logging.WARNING, "hf_rnn"):
            plain = FastRnn(*pair, memory_limit=fast.memory - 1)
        assert len(caplog.records) == 1
        assert "passes the limit" in caplog.text
        assert "take the table_dtype bfloat16 or int8, or in Python a larger" in caplog.text
        assert plain.memory == 0 < fast.memory
        np.testing.assert_allclose(plain.predict_proba(TEXTS), fast.predict_proba(TEXTS), atol=1e-6)
        assert FastRnn(*pair, memory_limit=fast.memory).memory == fast.memory

    @pytest.mark.parametrize(
        ("limit", "advice"),
        [
            (2, "take the table_dtype int8, or in Python a larger"),
            (4, "take in Python a larger"),
        ],
    )
    def test_only_tables_within_the_limit_are_advised(self, pair, caplog, limit, advice):
        FastRnn(*pair, memory_limit=FastRnn(*pair).memory // limit - 1)
        assert advice in caplog.text

    def test_nor_is_one_built_that_takes_too_long(self, pair, caplog, monkeypatch):
        """Multiplications: a vector's width for each number, and twice as many in int8, whose scale is found first."""
        model, tokenizer = pair
        config = model.config
        work = len(tokenizer) * config.embedding_size * 2 * 4 * config.hidden_size
        assert (config.cell_type, config.bidirectional) == ("lstm", True), "premise"
        monkeypatch.setattr(predictor, "_WORK_LIMIT", work)
        assert FastRnn(*pair, "bfloat16").memory and FastRnn(*pair).memory and not caplog.records
        assert FastRnn(*pair, memory_limit=FastRnn(*pair).memory).memory, "less memory is no less work"
        assert not FastRnn(*pair, "int8").memory
        assert f"takes {2 * work:.1e} multiplications, which passes the limit of {work:.1e}" in caplog.text
        assert "take the table_dtype float32 or bfloat16, or in Python a larger" in caplog.text
        monkeypatch.setattr(predictor, "_WORK_LIMIT", work - 1)
        plain = FastRnn(*pair)
        assert not plain.memory
        larger = FastRnn(*pair, memory_limit=2 * predictor.MEMORY_LIMIT)
        assert larger.memory
        np.testing.assert_allclose(plain.predict_proba(TEXTS), larger.predict_proba(TEXTS), atol=1e-6)

    def test_beyond_the_limit_batches_keep_to_the_budget_too(self, pair, monkeypatch):
        model, tokenizer = pair
        plain = FastRnn(model, tokenizer, memory_limit=0, tokens_per_batch=10)
        ids = [[3] * length for length in (1, 12, 5, 2, 0, 5, 1)]
        expected = plain_logits(model, ids)
        sizes, forward = [], plain.model.forward
        monkeypatch.setattr(
            plain.model, "forward", lambda **given: sizes.append(given["input_ids"].numel()) or forward(**given)
        )
        torch.testing.assert_close(plain.logits(ids), expected, rtol=0, atol=1e-6)
        assert sorted(sizes)[-2:] == [10, 12], "a text that is longer is run alone"

    @pytest.mark.parametrize("cell", CELLS)
    @pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
    @pytest.mark.parametrize("recurrent", [torch.float32, torch.bfloat16])
    def test_smaller_ones_round(self, cell, dtype, recurrent, monkeypatch, kernel_runs, padded_runs):
        """With several pieces of the vocabulary; recurrent products in bfloat16 as on a chip that has them."""
        monkeypatch.setattr("hf_rnn.inference.fused.table._COMPUTED_AT_ONCE", 3 * 2 * 5)
        monkeypatch.setattr("hf_rnn.inference.fused.classifier._BFLOAT16_FROM", 1)
        monkeypatch.setattr(
            "hf_rnn.inference.fused.classifier.multiplies_bfloat16", lambda: recurrent == torch.bfloat16
        )
        model = make(cell_type=cell, num_hidden_layers=2)
        ids = [[3, 9, 2, 22], [5], [], [7, 7, 4, 1, 20], list(range(20))]
        expected = plain_logits(model, ids)
        folded = FoldedClassifier(model, dtype)
        if cell != "min_gru":
            assert folded.cells[0].recurrent.dtype == recurrent
        for budget in (0, 1, 100):
            error = (folded_logits(folded, ids, budget) - expected).abs().max()
            assert 0 < error < 0.03, "it rounds, and not by more than its digits"
        assert expected.std(dim=0).max() > 0.03, "premise: answers differ by more than the bound"
        if cell == "lstm":
            rounds = recurrent == torch.bfloat16
            assert (not kernel_runs, not padded_runs) == (rounds, rounds), "torch's kernels are in float32"

    @pytest.mark.parametrize("cell", CELLS)
    def test_each_column_of_int8_has_a_scale_of_its_own_and_is_rounded_to_the_nearest(self, cell):
        model = make(cell_type=cell)
        exact, small = FoldedClassifier(model).table, FoldedClassifier(model, "int8").table
        table = small.stored.view(VOCABULARY, *small.scale.shape)
        assert (table.abs().amax(dim=0) == 127).all()
        error = (table * small.scale - exact.stored.view_as(table)).abs()
        assert (error <= 0.501 * small.scale).all()

    @pytest.mark.parametrize("settings", [{}, {"memory_limit": 0}], ids=["table", "plain"])
    def test_training_goes_on_without_it(self, tokenizer, settings):
        model = make(vocab_size=len(tokenizer), pooling="attention", embedding_dropout=0.5)
        fast = FastRnn(model, tokenizer, **settings)
        before = fast.predict_proba(TEXTS)
        for parameter in model.train().parameters():
            parameter.data.add_(1)
        np.testing.assert_array_equal(fast.predict_proba(TEXTS), before)
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(fast)).predict_proba(TEXTS), before)


class TestRefusals:
    def test_training_mode(self, tokenizer):
        with pytest.raises(ValueError, match=r"call model.eval\(\)"):
            FastRnn(make(vocab_size=len(tokenizer)).train(), tokenizer)

    @pytest.mark.parametrize(
        "wrong", [{"table_dtype": "int4"}, {"tokens_per_batch": 0}, {"memory_limit": -1}], ids=lambda w: next(iter(w))
    )
    def test_settings(self, pair, wrong):
        with pytest.raises(UserError, match=next(iter(wrong))):
            FastRnn(*pair, **wrong)

    @pytest.mark.parametrize("cell", ["lstm", "gru"])
    @pytest.mark.parametrize("wrong", ["negative", "too large"])
    @pytest.mark.parametrize("lengths", [[1], [200], [1, 2], [12] * 6, [200, 190], [3] * 20], ids=str)
    def test_ids_that_are_no_entries(self, tokenizer, cell, wrong, lengths):
        """By whatever way texts are read."""
        ids = [[1] * length for length in lengths]
        ids[-1][-1] = -1 if wrong == "negative" else len(tokenizer)
        with pytest.raises(IndexError):
            FastRnn(make(vocab_size=len(tokenizer), cell_type=cell), tokenizer).logits(ids)


def test_from_a_finished_folder(trained):
    root = trained.folder
    fast = FastRnn.from_pretrained(root)
    assert type(fast) is FastRnn
    assert fast.memory > 0
    model, tokenizer = model_loading.load_model(root)
    logits = plain_inference.compute_logits(model, tokenizer, plain_inference.tokenize(tokenizer, TEXTS))
    np.testing.assert_allclose(fast.predict_proba(TEXTS), logits.softmax(dim=1), atol=1e-6)
    with pytest.raises(UserError, match="there is no folder"):
        FastRnn.from_pretrained("no/such/folder")


def test_a_tilde_is_the_home_folder(trained, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "model").symlink_to(trained.folder)
    assert FastRnn.from_pretrained("~/model").predict(["miro"])


def test_from_a_finished_folder_with_settings_of_the_class(trained):
    whole = FastRnn.from_pretrained(trained.folder)
    small = FastRnn.from_pretrained(trained.folder, table_dtype="int8", tokens_per_batch=7)
    assert (small.tokens_per_batch, 4 * small.memory) == (7, whole.memory)
    assert FastRnn.from_pretrained(trained.folder, memory_limit=0).memory == 0


def test_from_a_revision_of_a_repo(pair, monkeypatch):
    asked = []
    monkeypatch.setattr("hf_rnn.inference.predictor.load_model", lambda *given: asked.append(given[:2]) or pair)
    FastRnn.from_pretrained("me/films", revision="v1")
    assert asked == [("me/films", "v1")]


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no real tweets at {REAL}")
@pytest.mark.parametrize("cell", ["lstm", "min_gru"])
def test_on_all_real_tweets_the_answers_are_the_models(cell):
    texts = load_tsv(REAL)
    tokenizer = train_tokenizer(texts["train"]["text"])
    model = make(vocab_size=len(tokenizer), embedding_size=50, hidden_size=32, cell_type=cell)
    ids = tokenizer(list(texts["validation"]["text"]))["input_ids"]
    expected = plain_inference.compute_logits(model, tokenizer, ids)
    logits = FastRnn(model, tokenizer).logits(ids)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
    assert torch.equal(logits.argmax(dim=1), expected.argmax(dim=1))
