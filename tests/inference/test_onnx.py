"""ONNX files: the graph against torch for every kind of model and mask, the gate, the verb, and the folder."""

import ast
import builtins
import contextlib
import io
import itertools
import json
import logging
import pickle
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from hf_rnn import RnnClassifier, RnnConfig, RnnForSequenceClassification
from hf_rnn.hub import loading as model_loading
from hf_rnn.hub.card import render
from hf_rnn.hub.card.files import read_facts
from hf_rnn.hub.leak_scan import list_shared_files
from hf_rnn.hub.model_folder import FinishedFolder
from hf_rnn.inference import reference as plain_inference
from hf_rnn.inference.onnx import export
from hf_rnn.inference.onnx.parity import TEXTS, Parity, make_texts, measure_parity
from hf_rnn.training import output_dir
from hf_rnn.utils.errors import UserError

onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")

from hf_rnn.inference.onnx import graph as onnx_graph  # noqa: E402 - imports onnx
from hf_rnn.inference.onnx.graph import build_graph  # noqa: E402
from hf_rnn.inference.onnx.runtime import OnnxClassifier, open_session, run_session  # noqa: E402

CELLS = ["rnn_tanh", "rnn_relu", "gru", "lstm", "min_gru"]
POOLINGS = ["last", "mean", "max", "mean_max", "attention"]
ACTIVATIONS = itertools.cycle(["linear", "relu", "tanh", "gelu"])
VARIANTS = [(*kind, next(ACTIVATIONS)) for kind in itertools.product(CELLS, [True, False], [1, 2], POOLINGS)]
VOCABULARY = 23


def make(**given):
    torch.manual_seed(0)
    fields = {"vocab_size": VOCABULARY, "embedding_size": 6, "hidden_size": 5, "num_labels": 3, **given}
    model = RnnForSequenceClassification(RnnConfig(**fields)).eval()
    model.classifier.weight.data *= 10  # so that small differences show
    return model


def session_of(model):
    return open_session(build_graph(model, {}).SerializeToString())


@torch.inference_mode()
def torch_logits(model, ids, mask):
    return model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).logits.numpy()


def draw(batch, time, seed=0):
    """Ids, and a mask in which any place may be a hole."""
    chance = np.random.default_rng(seed)
    return chance.integers(0, VOCABULARY, (batch, time)), (chance.random((batch, time)) > 0.4).astype(np.int64)


# ---- the graph ----


@pytest.mark.parametrize(("cell_type", "bidirectional", "layers", "pooling", "activation"), VARIANTS)
def test_the_graph_is_the_model(cell_type, bidirectional, layers, pooling, activation):
    """One session serves every batch and time, masks with holes, texts without a token, no time at all, and no text.

    (Without a text the operators of ONNX Runtime that the graph is made of end the process.)
    """
    model = make(
        cell_type=cell_type,
        bidirectional=bidirectional,
        num_hidden_layers=layers,
        pooling=pooling,
        classifier_activation=activation,
    )
    session = session_of(model)
    for batch, time in ((1, 1), (4, 9), (3, 2), (2, 0), (0, 4), (0, 0)):
        ids, mask = draw(batch, time)
        mask[-1:] = 0
        np.testing.assert_allclose(run_session(session, ids, mask), torch_logits(model, ids, mask), atol=1e-5)


@pytest.mark.parametrize("cell_type", CELLS)
def test_the_graph_avoids_the_operands_that_openvino_misreads(cell_type):
    """Its recurrent operators return wrong states for a batch with `sequence_lens`."""
    nodes = build_graph(make(cell_type=cell_type), {}).graph.node
    assert not [node.name for node in nodes if node.op_type in ("RNN", "GRU", "LSTM") and len(node.input) > 4]


@pytest.mark.parametrize("pooling", ["last", "mean_max"])
@pytest.mark.parametrize("cell_type", CELLS)
def test_openvino_gives_the_answers_of_the_model_for_a_batch(cell_type, pooling):
    openvino = pytest.importorskip("openvino", reason="openvino is not installed")
    model, core = make(cell_type=cell_type, pooling=pooling, num_hidden_layers=2), openvino.Core()
    read = core.read_model(build_graph(model, {}).SerializeToString(), b"")
    compiled = core.compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    ids, _ = draw(4, 9)
    mask = (np.arange(9) < np.array([[9], [5], [1], [0]])).astype(np.int64)
    logits = compiled({"input_ids": ids, "attention_mask": mask})[compiled.output("logits")]
    np.testing.assert_allclose(logits, torch_logits(model, ids, mask), atol=1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("cell_type", ["rnn_tanh", "gru", "lstm"])
def test_torchs_own_exporter_takes_the_model(cell_type):
    """As somebody would try it who has not read of `hf-rnn export`: any batch, any length, holes too."""

    class Logits(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, ids, mask):
            return self.model(input_ids=ids, attention_mask=mask).logits

    model, file = make(cell_type=cell_type), io.BytesIO()
    like = tuple(map(torch.from_numpy, draw(2, 7)))
    names = {"input_names": ["input_ids", "attention_mask"], "output_names": ["logits"]}
    axes = {name: {0: "batch", 1: "time"} for name in names["input_names"]}
    torch.onnx.export(Logits(model), like, file, dynamo=False, dynamic_axes=axes, **names)
    session = open_session(file.getvalue())
    for batch, time in ((1, 1), (4, 9), (3, 2)):
        ids, mask = draw(batch, time)
        assert (np.diff(mask) > 0).any() or time < 9, "premise: holes"
        np.testing.assert_allclose(run_session(session, ids, mask), torch_logits(model, ids, mask), atol=1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("cell_type", ["rnn_relu", "lstm"])
def test_torchs_own_exporter_takes_what_lies_in_the_places_of_the_tokens(cell_type):
    """The encoder's states, and the weights of attention."""
    classifier = make(cell_type=cell_type, pooling="attention")
    like = tuple(map(torch.from_numpy, draw(2, 7)))
    names = {"input_names": ["input_ids", "attention_mask"], "output_names": ["first", "second"]}
    axes = {name: {0: "batch", 1: "time"} for name in names["input_names"]}
    for model, count in ((classifier, 2), (classifier.rnn, 1)):
        file, names["output_names"] = io.BytesIO(), ["first", "second"][:count]
        torch.onnx.export(model, like, file, dynamo=False, dynamic_axes=axes, **names)
        session = open_session(file.getvalue())
        for batch, time in ((1, 1), (4, 9)):
            ids, mask = draw(batch, time)
            with torch.no_grad():
                expected = model(torch.from_numpy(ids), torch.from_numpy(mask)).to_tuple()
            found = session.run(None, {"input_ids": ids, "attention_mask": mask})
            for one, other in zip(found, expected, strict=True):
                np.testing.assert_allclose(one, other.numpy(), atol=1e-5)


@pytest.mark.parametrize("cell_type", CELLS)
def test_a_mask_is_where_the_tokens_are_and_nothing_else(cell_type):
    """Against the same text alone: padding on either side, holes, ids that are none and masks that are not 1."""
    model = make(cell_type=cell_type)
    session = session_of(model)
    text = np.array([[3, 1, 4, 1, 5]])
    alone = run_session(session, text, np.ones_like(text))
    assert np.abs(alone - run_session(session, text[:, ::-1].copy(), np.ones_like(text))).max() > 1e-2, "premise"
    ids = np.full((4, 9), -100)
    mask = np.zeros_like(ids)
    for row, places in enumerate([range(5), range(4, 9), (0, 2, 3, 6, 8)]):
        ids[row, list(places)], mask[row, list(places)] = text[0], (1, -1, 7, 1, 2)
    padded = run_session(session, ids, mask)
    np.testing.assert_allclose(padded[:3], alone.repeat(3, axis=0), atol=1e-6)
    np.testing.assert_allclose(padded[3], torch_logits(model, text, np.zeros_like(text))[0], atol=1e-6)


def test_the_graph_is_valid_and_says_what_it_is():
    graph = build_graph(make(cell_type="min_gru", num_hidden_layers=2), {"version": "1"})
    onnx.checker.check_model(graph, full_check=True)
    kinds = {
        value.name: (value.type.tensor_type.elem_type, [side.dim_param or side.dim_value for side in shape.dim])
        for value in (*graph.graph.input, *graph.graph.output)
        for shape in (value.type.tensor_type.shape,)
    }
    assert kinds == {
        "input_ids": (onnx.TensorProto.INT64, ["batch", "time"]),
        "attention_mask": (onnx.TensorProto.INT64, ["batch", "time"]),
        "logits": (onnx.TensorProto.FLOAT, ["batch", 3]),
    }
    assert {entry.key: entry.value for entry in graph.metadata_props} == {"version": "1"}
    opsets = [(opset.domain, opset.version) for opset in graph.opset_import]
    assert (opsets, graph.ir_version) == ([("", 17)], 8), "what ONNX Runtime reads since 1.12"


def test_weights_in_half_precision_are_written_as_they_are():
    model = make().to(torch.bfloat16)
    ids, mask = draw(3, 5)
    np.testing.assert_allclose(
        run_session(session_of(model), ids, mask), torch_logits(model.float(), ids, mask), atol=1e-5
    )


# ---- the gate ----


@pytest.fixture(scope="module")
def tokenizer(trained):
    return AutoTokenizer.from_pretrained(trained.folder)


def test_the_texts_are_200_always_the_same_and_hostile(tokenizer):
    texts = make_texts(tokenizer, ["a real text"])
    assert len(texts) == TEXTS == 200
    assert texts == make_texts(tokenizer, ["a real text"])
    assert {"", "a real text", "<unk>"} <= set(texts)
    vocabulary = set(tokenizer.get_vocab())
    assert sum(set(text.split()) <= vocabulary for text in texts) > 100
    assert len(make_texts(tokenizer, map(str, range(1000)))) == TEXTS


def test_parity_tries_every_layout_and_finds_what_one_of_them_breaks(trained):
    model, tokenizer = model_loading.load_model(trained.folder)
    shapes, seen = set(), set()

    def honest(ids, mask):
        shapes.add(ids.shape)
        lengths = mask.sum(axis=1)
        left = [not row[0] and row[-length:].all() for row, length in zip(mask, lengths, strict=True) if length]
        holes = [not row[row.argmax() : row.nonzero()[0][-1]].all() for row in mask if row.any()]
        seen.update(["left"] * any(left), ["holes"] * any(holes), ["empty"] * (not lengths.all()))
        return torch_logits(model, ids, mask)

    parity = measure_parity(model, tokenizer, honest, ["a real text"])
    assert (parity.texts, parity.max_difference, parity.agreement) == (TEXTS, 0, 1)
    assert seen == {"left", "holes", "empty"}
    assert {time for _, time in shapes} >= {0} and {batch for batch, _ in shapes} >= {1, 2, 5, 16}

    def reads_padding(ids, mask):
        return torch_logits(model, ids, np.ones_like(mask))

    parity = measure_parity(model, tokenizer, reads_padding)
    assert parity.max_difference > 0.1 and parity.agreement < 0.99

    def gives_no_number(ids, mask):
        logits = honest(ids, mask)
        logits[:1, 0] = np.nan
        return logits

    assert np.isnan(measure_parity(model, tokenizer, gives_no_number).max_difference)


def test_texts_that_are_made_up_are_of_frequent_words_and_of_up_to_60(tokenizer):
    texts = make_texts(tokenizer)[-100:]
    lengths = sorted(len(text.split()) for text in texts)
    assert lengths[0] < 5 and 50 < lengths[-1] <= 60
    ids = [number for text in texts for number in tokenizer.convert_tokens_to_ids(text.split())]
    assert sum(number < len(tokenizer) / 2 for number in ids) > 0.7 * len(ids), "the first entries are frequent"


def test_a_hundred_of_the_texts_that_are_given_are_among_those_that_are_run(tokenizer):
    texts = make_texts(tokenizer, map(str, range(1000)))
    assert [text for text in texts if text.isdigit()] == list(map(str, range(100)))


def test_each_text_stands_three_times_on_the_right_on_the_left_and_with_holes(tokenizer):
    batches, examples = [], ["a real text"]

    def run(ids, mask):
        batches.append((ids, mask))
        return np.zeros((len(ids), 3), np.float32)

    measure_parity(make(vocab_size=len(tokenizer)), tokenizer, run, examples)
    expected = plain_inference.tokenize(tokenizer, make_texts(tokenizer, examples))
    for layout in range(3):
        rows = [row for batch in batches[layout::3] for row in zip(*batch, strict=True)]
        assert [ids[mask == 1].tolist() for ids, mask in rows] == expected
    assert batches[0][0].shape == (1, 0), "no token at all"
    inner = 0
    for (_, right), (_, left), (_, holes) in zip(batches[::3], batches[1::3], batches[2::3], strict=True):
        assert (right == -np.sort(-right, axis=1)).all()
        assert (left == np.sort(left, axis=1)).all() and not left[:, 0].any(), "also the longest text"
        inner += (holes != np.sort(holes, axis=1)).any(axis=1).sum()
    assert inner > len(expected) / 2


@pytest.mark.parametrize("shift", [1, -1])
def test_a_difference_is_one_in_either_direction(tokenizer, shift):
    """All logits are negative, so that the largest one is not the largest in size."""
    own = [-30.0, -1.0, -2.0]
    model = make(vocab_size=len(tokenizer))
    model.classifier.weight.data.zero_()
    model.classifier.bias.data = torch.tensor(own)
    parity = measure_parity(model, tokenizer, lambda ids, mask: np.array([own] * len(ids), np.float32) + shift)
    assert (parity.max_difference, parity.largest_logit, parity.agreement) == (1, 30, 1)


def test_one_logit_alone_is_an_answer_by_its_sign(tokenizer):
    model = make(vocab_size=len(tokenizer), num_labels=1, problem_type="multi_label_classification")
    model.config.problem_type = None
    model.classifier.weight.data.zero_()
    model.classifier.bias.data.fill_(0.5)
    for logit, agreement in ((0.1, 1), (-0.1, 0)):
        parity = measure_parity(model, tokenizer, lambda ids, mask, logit=logit: np.full((len(ids), 1), logit))
        assert parity.agreement == agreement


def test_labels_that_stand_alone_agree_when_each_does(tokenizer):
    """One logit of three changes its sign, and is not the largest: for classes that is the same answer."""

    def run(ids, mask):
        return np.array([[2.0, -0.5, -1.0]] * len(ids), np.float32)

    for problem, agreement in (("multi_label_classification", 0), ("single_label_classification", 1)):
        model = make(vocab_size=len(tokenizer), problem_type=problem)
        model.classifier.weight.data.zero_()
        model.classifier.bias.data = torch.tensor([2.0, 0.5, -1.0])
        assert measure_parity(model, tokenizer, run).agreement == agreement


@pytest.fixture
def folder(trained, tmp_path):
    """A finished folder that a test may change."""
    return shutil.copytree(trained.folder, tmp_path / "model", ignore=shutil.ignore_patterns("checkpoints"))


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("quantize", [None, "int8"])
def test_a_file_that_disagrees_is_not_written(folder, monkeypatch, quantize):
    """Gates in wrong places: the graph is sound, and its answers are others."""
    monkeypatch.setitem(onnx_graph._GATES, "lstm", (2, 1, 3, 0))
    before = contents(folder)
    with pytest.raises(UserError, match=r"model(_int8)?.onnx was not written: over 200 texts logits differ by up to"):
        export(folder, quantize)
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("quantize", "difference", "largest_logit", "agreement", "written"),
    [
        (None, 2e-4, 1.0, 1.0, False),
        (None, 2e-4, 30.0, 1.0, True),  # of so large logits float32 has no more digits
        (None, float("nan"), 1.0, 1.0, False),
        ("int8", 0.1, 1.0, 0.99, True),
        ("int8", 0.1, 1.0, 0.985, False),
        ("int8", float("nan"), 1.0, 1.0, False),
    ],
)
def test_how_far_a_file_may_disagree(folder, monkeypatch, quantize, difference, largest_logit, agreement, written):
    parity = Parity(200, difference, largest_logit, agreement)
    monkeypatch.setitem(export.__globals__, "measure_parity", lambda *given: parity)
    with contextlib.nullcontext() if written else pytest.raises(UserError, match="was not written"):
        export(folder, quantize)
    assert (folder / "onnx").exists() == written


def test_a_model_in_half_precision_is_exported_in_float32(folder):
    RnnForSequenceClassification.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)
    assert export(folder).max_difference < 1e-4


def test_the_texts_that_are_run_are_also_those_of_the_card(folder, monkeypatch):
    given = []
    monkeypatch.setitem(
        export.__globals__, "measure_parity", lambda *parts: given.extend(parts[3]) or measure_parity(*parts)
    )
    of_card = [text for texts in read_facts(FinishedFolder(folder)).examples.values() for text in texts]
    export(folder)
    assert given == of_card != []
    given.clear()
    export(folder, texts=(f"text {number}" for number in range(3)))
    assert given == ["text 0", "text 1", "text 2", *of_card]
    given.clear()
    export(folder, texts=itertools.chain(["so good"] * 100, (1 / 0 for _ in range(1))))
    assert given[:100] == ["so good"] * 100, "no more than these are asked for"


def test_an_embedding_that_no_file_could_hold(folder, monkeypatch):
    monkeypatch.setitem(export.__globals__, "_LARGEST_FILE", 100)
    with pytest.raises(UserError, match=r"has an embedding of [\d,]+ bytes: an ONNX file holds 100 at most"):
        export(folder)


def test_an_older_file_outlives_a_refusal_and_a_full_disk(folder, monkeypatch):
    file = export(folder).file
    before = contents(folder)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hf_rnn.utils.atomic_write.os.replace", full)
    with pytest.raises(UserError, match=r"model.onnx cannot be written: No space left on device. Make room there"):
        export(folder)
    assert contents(folder) == before and file.is_file()


# ---- the verb ----


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """A folder with both files, which nobody changes, and what the exports returned."""
    target = tmp_path_factory.mktemp("exported") / "model"
    shutil.copytree(trained.folder, target, ignore=shutil.ignore_patterns("checkpoints"))
    return FinishedFolder(target), {name: export(target, name) for name in (None, "int8")}


def test_the_verb_prints_what_it_found(command, folder):
    for flags, name in (((), "model.onnx"), (("--quantize", "int8"), "model_int8.onnx")):
        code, out, err = command("export", "--model", folder, *flags)
        assert code == 0, err
        told = json.loads(out)
        file = folder / "onnx" / name
        assert told.keys() == {"file", "bytes", "max_difference", "agreement", "texts"}
        assert (told["file"], told["bytes"], told["texts"]) == (str(file), file.stat().st_size, 200)
        assert told["agreement"] >= 0.99 and 0 < told["max_difference"] < (0.1 if flags else 1e-4)
        assert len(err.splitlines()) == 1 and "over 200 texts" in err, "no word of other libraries"


def test_the_verb_passes_all_its_flags_on(command, monkeypatch, tmp_path):
    asked = []

    def record(*args):
        asked.append(args)
        raise UserError("that is all")

    monkeypatch.setattr("hf_rnn.cli.export.export", record)
    (tmp_path / "texts.txt").write_text("a film\n\n" + "so good\n" * 200, encoding="utf-8")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    flags = ("--revision", "v1", "--quantize", "int8", "--output_dir", "out", "--input=~/texts.txt")
    told = command("export", "--model", "me/films", *flags)
    assert told == (2, "", "hf-rnn export: error: that is all\n")
    assert asked == [("me/films", "int8", "out", "v1", ["a film", "", *["so good"] * 98])]


def test_no_processor_overflows_in_int8(exported):
    """Two products of a weight and an activation up to 255 must fit into 16 bits, in which AVX2 adds them."""
    _, results = exported
    graph = onnx.load(results["int8"].file).graph
    weights = [onnx.numpy_helper.to_array(weight) for weight in graph.initializer]
    weights = [weight.astype(int) for weight in weights if weight.dtype == np.int8 and weight.ndim > 1]
    assert len(weights) >= 3, "premise: the table and the matrices of an LSTM"
    assert max(abs(weight).max() for weight in weights) * 2 * 255 < 2**15


def test_the_file_says_what_it_is(exported):
    folder, results = exported
    for result in results.values():
        told = {entry.key: entry.value for entry in onnx.load(result.file).metadata_props}
        assert json.loads(told["id2label"]) == {"0": "bad", "1": "good", "2": "plain"}
        assert (told["model_type"], told["problem_type"]) == ("hf_rnn", "single_label_classification")
        assert told.keys() >= {"version", "weights_sha256"}


def test_int8_is_smaller(trained, tmp_path):
    """Of a model large enough that weights are most of its file."""
    tokenizer = AutoTokenizer.from_pretrained(trained.folder)
    torch.manual_seed(0)
    config = RnnConfig(vocab_size=len(tokenizer), embedding_size=128, hidden_size=64, num_labels=2)
    model = RnnForSequenceClassification(config).eval()
    model.classifier.bias.data[0] += 3  # sure of its answers
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    small, large = export(tmp_path, "int8"), export(tmp_path)
    assert small.bytes < 0.35 * large.bytes
    assert small.agreement >= 0.99


def test_elsewhere(folder, tmp_path):
    before = contents(folder)
    result = export(folder, output_dir=tmp_path / "for" / "others")
    assert result.file == tmp_path / "for" / "others" / "model.onnx"
    assert contents(folder) == before, "the card tells of no file that is not there"


def test_a_tilde_is_the_home_folder(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(folder)
    assert export("~/link", output_dir="~/onx").file == tmp_path / "onx" / "model.onnx"
    assert not (tmp_path / "~").exists()


def test_mistakes_are_one_line(command, folder, tmp_path):
    def mistake(*arguments):
        code, out, err = command("export", *arguments)
        assert (code, out, err.count("\n")) == (2, "", 1)
        return err

    assert "--model is missing" in mistake()
    assert "quantize must be int8, or be left out, found 'int4'" in mistake("--model", folder, "--quantize", "int4")
    (tmp_path / "file").write_text("")
    assert "output_dir" in mistake("--model", folder, "--output_dir", tmp_path / "file")
    below = tmp_path / "file" / "below"
    assert f"{below} cannot be written to: {tmp_path / 'file'}" in mistake("--model", folder, "--output_dir", below)
    assert "say with output_dir where the file is to go" in mistake("--model", "me/films")
    (tmp_path / "texts").write_bytes(b"a film\nb\xffad\n")
    assert "texts:2: not UTF-8" in mistake("--model", folder, "--input", tmp_path / "texts")
    for name in ("", tmp_path, tmp_path / "none"):
        assert f"--input {str(name)!r} is no file" in mistake("--model", folder, "--input", name)
    with pytest.raises(UserError, match=r"texts\[1\] is not a str: found 7"):
        export(folder, texts=["a", 7])
    assert "there is no folder nowhere" in mistake("--model", "nowhere")
    (folder / "onnx").write_text("")
    assert "onnx is a file, where a folder must be: move it away" in mistake("--model", folder)
    (folder / "model.safetensors").unlink()
    assert "has no model.safetensors" in mistake("--model", folder)


def test_missing_packages_are_named(command, folder, exported, monkeypatch):
    def without(name, *args, importing=builtins.__import__, **kwargs):
        if name.split(".")[0] == "onnxruntime":
            raise ImportError(name)
        return importing(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    code, _, err = command("export", "--model", folder)
    assert (code, err.count("\n")) == (2, 1)
    assert err.endswith("Type: pip install 'hf-rnn[onnx]'\n")
    with pytest.raises(UserError, match=r"pip install 'hf-rnn\[onnx\]'"):
        OnnxClassifier.from_pretrained(exported[0].root)


def test_onnx_is_imported_when_it_is_needed():
    """Every verb starts without it: only the file that writes the graph imports it at once; export imports that."""
    at_once = {}
    for path in Path(onnx_graph.__file__).parent.rglob("*.py"):
        names = set()
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add((node.module or "").split(".")[0])
        at_once[path.stem] = names & {"onnx", "onnxruntime", "onnx_graph"}
    assert {name: found for name, found in at_once.items() if found} == {"onnx_graph": {"onnx"}}


def test_regression_has_no_answers_to_agree_on(trained, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(trained.folder)
    config = RnnConfig(vocab_size=len(tokenizer), hidden_size=4, num_labels=1, problem_type="regression")
    RnnForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="leave out quantize"):
        export(tmp_path, "int8")
    classifier = OnnxClassifier.from_pretrained(export(tmp_path).file.parents[1])
    model, _ = model_loading.load_model(tmp_path)
    expected = plain_inference.compute_logits(model, tokenizer, plain_inference.tokenize(tokenizer, ["miro"]))
    assert classifier.predict(["miro"])[0]["score"] == pytest.approx(expected.item(), abs=1e-5)


# ---- the folder ----


def test_the_card_tells_of_both_files(exported):
    folder, results = exported
    facts = read_facts(folder)
    assert list(facts.onnx) == ["onnx/model.onnx", "onnx/model_int8.onnx"]
    for result in results.values():
        fact = facts.onnx[f"onnx/{result.file.name}"]
        assert fact == {
            "bytes": result.bytes,
            "max_difference": result.max_difference,
            "agreement": result.agreement,
            "texts": 200,
        }
    card = folder.card.read_text(encoding="utf-8")
    assert card == render(facts)
    assert f"- `onnx/model_int8.onnx` for ONNX Runtime: {results['int8'].bytes:,} bytes. On 200 texts" in card
    assert "--backend onnx --text" in card


def test_the_card_tells_of_no_file_that_was_taken_away(folder):
    export(folder, "int8").file.unlink()
    export(folder)
    assert list(read_facts(FinishedFolder(folder)).onnx) == ["onnx/model.onnx"]


def test_a_card_in_which_somebody_has_written_stays(folder, caplog):
    card = FinishedFolder(folder).card
    card.write_text(card.read_text(encoding="utf-8") + "\nMy own words.\n", encoding="utf-8")
    before = contents(folder)
    with caplog.at_level(logging.INFO, logger="hf_rnn"):
        export(folder)
    after = contents(folder)
    assert {str(name) for name in after.keys() - before.keys()} == {"onnx/model.onnx"}
    assert {name: after[name] for name in before} == before
    assert "README.md was edited by hand and stays as it is" in caplog.text


def test_both_files_are_shared(exported):
    names = [file.name for file in list_shared_files(exported[0])]
    assert {"onnx/model.onnx", "onnx/model_int8.onnx"} <= set(names)


def test_a_new_training_leaves_no_file_of_the_old_one(folder):
    finished = FinishedFolder(folder)
    export(folder)
    output_dir.fill(finished, lambda new: new.config.write_text("{}"))
    assert not finished.onnx_model.parent.exists()
    finished.onnx_model.parent.mkdir()
    (folder / "onnx" / "mine.txt").write_text("mine")
    finished.onnx_model_int8.write_text("old")
    output_dir.fill(finished, lambda new: new.config.write_text("{}"))
    assert [path.name for path in (folder / "onnx").iterdir()] == ["mine.txt"]


def test_a_classifier_carries_them_along(exported, tmp_path):
    """Its card tells of them."""
    folder, results = exported
    RnnClassifier.from_pretrained(folder.root, verbose=False).save_pretrained(tmp_path / "again")
    again = FinishedFolder(tmp_path / "again")
    assert again.onnx_model.read_bytes() == results[None].file.read_bytes()
    assert "onnx/model.onnx" in again.card.read_text(encoding="utf-8")


# ---- prediction ----

TEXTS_TO_PREDICT = ["the miro box", "", "selk", "sand near a door", "never seen words", "miro " * 50] * 3


@pytest.fixture(scope="module")
def expected(trained):
    model, tokenizer = model_loading.load_model(trained.folder)
    logits = plain_inference.compute_logits(model, tokenizer, plain_inference.tokenize(tokenizer, TEXTS_TO_PREDICT))
    return [model.config.id2label[row] for row in logits.argmax(dim=1).tolist()], logits.softmax(dim=1).numpy()


@pytest.mark.parametrize("tokens_per_batch", [1, 60, 8192])
def test_the_classifier_answers_as_the_model_in_the_order_of_the_texts(exported, expected, tokens_per_batch):
    classifier = OnnxClassifier.from_pretrained(exported[0].root)
    classifier.tokens_per_batch = tokens_per_batch
    labels, scores = expected
    assert len(set(labels)) > 1, "premise"
    np.testing.assert_allclose(classifier.predict_proba(TEXTS_TO_PREDICT), scores, atol=1e-4)
    answers = classifier.predict(TEXTS_TO_PREDICT)
    assert [answer["label"] for answer in answers] == labels
    assert [answer["score"] for answer in answers] == pytest.approx(scores.max(axis=1).tolist(), abs=1e-4)
    assert classifier.predict([]) == [] and classifier.predict_proba([]).shape == (0, 3)


def test_calls_of_its_tokenizer_elsewhere_do_not_cut_its_texts(exported, expected):
    """How a backend cuts and pads is its state, which two threads would share."""
    classifier = OnnxClassifier.from_pretrained(exported[0].root)
    classifier.tokenizer(["the miro box"], truncation=True, max_length=2, padding="max_length")
    backend = classifier.tokenizer.backend_tokenizer
    state = backend.truncation, backend.padding
    assert None not in state, "premise"
    np.testing.assert_allclose(classifier.predict_proba(TEXTS_TO_PREDICT), expected[1], atol=1e-4)
    assert (backend.truncation, backend.padding) == state


def test_int8_gives_the_same_labels(exported, expected):
    classifier = OnnxClassifier.from_pretrained(exported[0].root, quantized=True)
    assert [answer["label"] for answer in classifier.predict(TEXTS_TO_PREDICT)] == expected[0]


def test_it_takes_as_many_threads_as_torch(exported, monkeypatch):
    monkeypatch.setattr("torch.get_num_threads", lambda: 3)
    session = open_session(str(exported[0].onnx_model))
    assert session.get_session_options().intra_op_num_threads == 3


def test_the_runtime_says_nothing_but_errors(exported):
    session = open_session(str(exported[0].onnx_model))
    assert session.get_session_options().log_severity_level == 3


def test_the_weights_need_not_be_there(exported, expected, tmp_path):
    folder = shutil.copytree(exported[0].root, tmp_path / "model")
    (folder / "model.safetensors").unlink()
    answers = OnnxClassifier.from_pretrained(folder).predict(TEXTS_TO_PREDICT)
    assert [answer["label"] for answer in answers] == expected[0]


def test_what_is_no_list_of_texts_is_named(exported):
    classifier = OnnxClassifier.from_pretrained(exported[0].root)
    for texts, message in (
        ("miro", "found one text"),
        (["miro", 3], r"texts\[1\] is not a str"),
        (["miro", "\ud800"], r"texts\[1\] is not valid Unicode: a lone surrogate at character 0"),
        (None, "must be a list of str, found None"),
    ):
        with pytest.raises(UserError, match=message):
            classifier.predict(texts)
    with pytest.raises(IndexError, match="negative"):
        classifier.logits([[], [3, -1]])
    size = classifier.config.vocab_size
    assert classifier.logits([[size - 1]]).shape == (1, 3), "premise: the last id is one"
    with pytest.raises(IndexError, match=f"a token id is {size}, and vocab_size {size}"):
        classifier.logits([[], [3, size]])
    with pytest.raises(UserError, match="tokens_per_batch must be at least 1, found 0"):
        OnnxClassifier.from_pretrained(exported[0].root, tokens_per_batch=0)


@pytest.mark.parametrize("make_texts", [iter, tuple, np.array], ids=["iterator", "tuple", "array"])
def test_any_collection_of_texts_will_do(exported, make_texts):
    classifier = OnnxClassifier.from_pretrained(exported[0].root)
    assert classifier.predict(make_texts(TEXTS_TO_PREDICT)) == classifier.predict(TEXTS_TO_PREDICT)


def test_a_file_that_is_missing_broken_or_of_other_weights_is_refused(folder):
    def refusal(**options):
        with pytest.raises(UserError) as caught:
            OnnxClassifier.from_pretrained(folder, **options)
        return str(caught.value)

    assert f"has no onnx/model.onnx: make it with `hf-rnn export --model {folder}`" in refusal()
    assert refusal(quantized=True).endswith("--quantize int8`")
    assert "has no revision 'v2'" in refusal(revision="v2")
    folder = folder.rename(folder.with_name("my model"))
    assert f"`hf-rnn export --model '{folder}'`" in refusal()
    file = export(folder).file
    config, names = json.loads((folder / "config.json").read_text()), {"0": "bad", "1": "fine", "2": "plain"}
    (folder / "config.json").write_text(
        json.dumps({**config, "id2label": names, "label2id": {name: int(number) for number, name in names.items()}})
    )
    assert "was made of other labels" in refusal()
    (folder / "config.json").write_text(json.dumps(config))
    model, _ = model_loading.load_model(folder)
    model.classifier.bias.data += 1
    model.save_pretrained(folder)
    assert "was made of other weights" in refusal()
    file.write_bytes(file.read_bytes()[:1000])
    assert f"{file} cannot be read" in refusal()
    onnx.save(build_graph(model, {}), file)
    assert "was not made by hf-rnn export" in refusal()
    (folder / "tokenizer.json").unlink()
    assert "has no tokenizer.json" in refusal()


def test_the_order_in_which_labels_are_written_does_not_matter(exported, expected, tmp_path):
    folder = FinishedFolder(shutil.copytree(exported[0].root, tmp_path / "model"))
    config = json.loads(folder.config.read_text())
    names = dict(reversed(config["id2label"].items()))
    folder.config.write_text(json.dumps({**config, "id2label": names}))
    answers = OnnxClassifier.from_pretrained(folder.root).predict(TEXTS_TO_PREDICT)
    assert [answer["label"] for answer in answers] == expected[0]


FOREIGN = {  # of a graph: names of its inputs and its output, their types, classes, rows of its table, its numbers
    "other inputs": (("ids", "mask"), "logits", "INT64", "FLOAT", 3, 1000, 0, "does not run"),
    "one more input": (
        ("input_ids", "attention_mask", "types"),
        "logits",
        "INT64",
        "FLOAT",
        3,
        1000,
        0,
        "does not run",
    ),
    "another output": (("input_ids", "attention_mask"), "output", "INT64", "FLOAT", 3, 1000, 0, "does not run"),
    "other ids": (("input_ids", "attention_mask"), "logits", "INT32", "FLOAT", 3, 1000, 0, "does not run"),
    "fewer words": (("input_ids", "attention_mask"), "logits", "INT64", "FLOAT", 3, 2, 0, "does not run"),
    "one class": (
        ("input_ids", "attention_mask"),
        "logits",
        "INT64",
        "FLOAT",
        1,
        1000,
        0,
        r"\(2, 1\) .* not .* \(2, 3\)",
    ),
    "more classes": (("input_ids", "attention_mask"), "logits", "INT64", "FLOAT", 5, 1000, 0, r"\(2, 5\)"),
    "no floats": (("input_ids", "attention_mask"), "logits", "INT64", "DOUBLE", 3, 1000, 0, "float64"),
    "no numbers": (("input_ids", "attention_mask"), "logits", "INT64", "FLOAT", 3, 1000, np.nan, "NaN or infinite"),
    "nothing": (("input_ids", "attention_mask"), "logits", "INT64", "FLOAT", 3, 1000, 0, None),
}


@pytest.mark.parametrize("other", FOREIGN)
def test_a_file_of_something_else_under_our_marks_is_refused(exported, tmp_path, other):
    """A table of V rows, the rows of a text's first id being its logits."""
    inputs, output, of_ids, of_logits, classes, words, number, message = FOREIGN[other]
    folder = FinishedFolder(shutil.copytree(exported[0].root, tmp_path / "model"))
    marks = {entry.key: entry.value for entry in onnx.load(folder.onnx_model).metadata_props}
    types, make = onnx.TensorProto, onnx.helper
    table = np.full((words, classes), number, make.tensor_dtype_to_np_dtype(getattr(types, of_logits)))
    graph = make.make_graph(
        [
            make.make_node("Gather", [inputs[0], "zero"], ["first"], axis=1),
            make.make_node("Gather", ["table", "first"], [output]),
        ],
        "foreign",
        [make.make_tensor_value_info(name, getattr(types, of_ids), ["batch", "time"]) for name in inputs],
        [make.make_tensor_value_info(output, getattr(types, of_logits), ["batch", classes])],
        [onnx.numpy_helper.from_array(table, "table"), onnx.numpy_helper.from_array(np.array(0), "zero")],
    )
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=8)
    make.set_model_props(model, marks)
    onnx.save(model, folder.onnx_model)
    with contextlib.nullcontext() if message is None else pytest.raises(UserError, match=message):
        assert len(OnnxClassifier.from_pretrained(folder.root).predict(["a", "b"])) == 2


def test_it_goes_to_other_processes(exported, tmp_path):
    folder = shutil.copytree(exported[0].root, tmp_path / "model")
    first = OnnxClassifier.from_pretrained(folder, quantized=True, tokens_per_batch=7)
    second = pickle.loads(pickle.dumps(first))
    shutil.rmtree(folder)
    for other in (second, pickle.loads(pickle.dumps(second))):
        assert other.tokens_per_batch == 7
        assert other.predict(TEXTS_TO_PREDICT) == first.predict(TEXTS_TO_PREDICT)


def test_what_cannot_go_to_other_processes_is_told(exported, folder):
    file = export(folder).file
    classifier = OnnxClassifier.from_pretrained(folder)
    file.write_bytes(exported[1]["int8"].file.read_bytes())
    with pytest.raises(UserError, match=f"{file} is another file than when it was loaded"):
        pickle.dumps(classifier)
    file.unlink()
    with pytest.raises(UserError, match=f"{file}, .* cannot be read: No such file"):
        pickle.dumps(classifier)
    with pytest.raises(TypeError, match="this has another session"):
        pickle.dumps(OnnxClassifier(classifier.session, classifier.tokenizer, classifier.config))


@pytest.mark.parametrize("told", ["weights_sha256", "id2label"])
def test_a_file_that_tells_only_half_of_what_it_was_made_of_is_refused(folder, told):
    model, _ = model_loading.load_model(folder)
    file = FinishedFolder(folder).onnx_model
    file.parent.mkdir()
    onnx.save(build_graph(model, {told: ""}), file)
    with pytest.raises(UserError, match=f"{file} was not made by hf-rnn export"):
        OnnxClassifier.from_pretrained(folder)


def test_all_that_a_tokenizer_may_consist_of_is_got_from_the_hub(hub, exported, tmp_path, monkeypatch):
    from hub_server import Blob

    from hf_rnn import push

    monkeypatch.setattr("getpass.getuser", lambda: "me")
    push(exported[0].root, "me/films")
    repo, names = hub.repos["me/films"], ("vocab.txt", "spiece.model", "chat_template.jinja")
    repo.add("main", "more", {**repo.files(), **{name: Blob(b"x", lfs=False) for name in names}})
    OnnxClassifier.from_pretrained("me/films")
    assert set(names) <= {path.name for path in (tmp_path / "cache").rglob("*")}


def test_the_hub_holds_them_and_gives_only_what_is_asked_for(hub, exported, expected, tmp_path, command, monkeypatch):
    from hf_rnn import push

    monkeypatch.setattr("getpass.getuser", lambda: "me")
    pushed = push(exported[0].root, "me/films")
    assert {"onnx/model.onnx", "onnx/model_int8.onnx"} <= {file.name for file in pushed.files}
    answers = OnnxClassifier.from_pretrained("me/films", quantized=True).predict(TEXTS_TO_PREDICT)
    assert [answer["label"] for answer in answers] == expected[0]
    got = {path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    assert "model_int8.onnx" in got and not {"model.onnx", "model.safetensors"} & got
    model_loading.load_model("me/films")
    got = {path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    assert "model.safetensors" in got and "model.onnx" not in got
    code, out, err = command("export", "--model", "me/films", "--output_dir", tmp_path / "out")
    assert code == 0, err
    assert json.loads(out)["file"] == str(tmp_path / "out" / "model.onnx")
    for read in (OnnxClassifier.from_pretrained, partial(export, output_dir=tmp_path / "out")):
        with pytest.raises(UserError, match="me/films has no revision 'v1'"):
            read("me/films", revision="v1")


def test_a_repo_without_a_file_says_so(hub, folder, monkeypatch):
    from hf_rnn import push

    monkeypatch.setattr("getpass.getuser", lambda: "me")
    push(folder, "me/films")
    with pytest.raises(UserError, match=r"me/films on the Hub has no onnx/model.onnx"):
        OnnxClassifier.from_pretrained("me/films")
