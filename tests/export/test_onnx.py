"""ONNX files: the graph against torch for every model and mask, parity, the verb, the runtime."""

import json
import shutil
from functools import partial

import numpy as np
import pytest
import tiny_ngrams
import torch
from transformers import AutoTokenizer

from hf_rnn import (
    RnnConfig,
    RnnForCausalLM,
    RnnForSequenceClassification,
    RnnForTokenClassification,
    RnnModel,
)
from hf_rnn.export import export
from hf_rnn.hub.card import read_facts
from hf_rnn.hub.model_folder import FinishedFolder, load_model
from hf_rnn.utils.errors import UserError

onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")

from hf_rnn.export.check import open_session, run_session  # noqa: E402
from hf_rnn.export.graph import ONNX_CELLS, build_graph  # noqa: E402 - imports onnx

CELLS = ["rnn_tanh", "rnn_relu", "gru", "lstm", "min_gru"]
VOCABULARY = 23
BLOCK = {"block_type": "residual", "residual_size": 8, "num_hidden_layers": 2}


def make(head=RnnForSequenceClassification, **given):
    torch.manual_seed(0)
    fields = {
        "vocab_size": VOCABULARY,
        "embedding_size": 6,
        "hidden_size": 5,
        "num_labels": 3,
        **given,
    }
    model = head(RnnConfig(**fields)).eval()
    if fields.get("ngram_rows"):
        tiny_ngrams.attach(model, texts=60)
    if head is RnnForSequenceClassification:
        model.classifier.weight.data *= 10  # so that small differences show
    return model


def session_of(model):
    return open_session(build_graph(model, {}).SerializeToString())


def logits_of(session, ids, mask):
    return run_session(session, ids, mask)["logits"]


@torch.inference_mode()
def torch_logits(model, ids, mask):
    return model(
        input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)
    ).logits.numpy()


def draw(batch, time, seed=0):
    """Ids, and a mask with holes at any place."""
    chance = np.random.default_rng(seed)
    return chance.integers(0, VOCABULARY, (batch, time)), (
        chance.random((batch, time)) > 0.4
    ).astype(np.int64)


# ---- the graph ----


POOLINGS = [
    "last",
    "mean",
    "max",
    "mean_max",
    "attention",
    "mean",
    "max",
    "last",
    "attention",
    "mean_max",
]
PLAIN = [
    {"cell_type": cell, "bidirectional": both, "num_hidden_layers": layers, "pooling": pooling}
    for cell, both, layers, pooling in zip(
        CELLS * 2, [True, False] * 5, [1, 2] * 5, POOLINGS, strict=True
    )
]
BLOCKS = [
    {"cell_type": cell, "bidirectional": both, "conv_kernel": kernel, "pooling": pooling, **BLOCK}
    for cell, both, kernel, pooling in (
        ("rnn_relu", False, 3, "max"),
        ("gru", True, 4, "attention"),
        ("lstm", False, 1, "last"),
        ("min_gru", True, 3, "mean_max"),
    )
]
ACTIVATIONS = [{"classifier_activation": name} for name in ("relu", "tanh", "gelu")]
STANDARDISED = {
    "problem_type": "regression",
    "target_scale": [2.0, 1.0, 0.5],
    "target_mean": [9.0, 0.0, -1.0],
}
NUMBERS = [STANDARDISED, {"ngram_rows": 60}, {**STANDARDISED, "ngram_rows": 60}]
MODELS = [
    *(
        (RnnForSequenceClassification, settings)
        for settings in (*PLAIN, *BLOCKS, *ACTIVATIONS, *NUMBERS)
    ),
    *((RnnModel, settings) for settings in ({}, BLOCK)),
]


@pytest.mark.parametrize(("head", "settings"), MODELS, ids=str)
@torch.inference_mode()
def test_the_graph_is_the_model(head, settings):
    """One session serves any batch and time, holes, texts without tokens, no time, no texts."""
    model = make(head, **settings)
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.2)
    session = session_of(model)
    for batch, time in ((1, 1), (4, 9), (3, 2), (5, 30), (2, 0), (0, 4), (0, 0)):
        ids, mask = draw(batch, time)
        mask[-1:] = 0
        (outputs,) = run_session(session, ids, mask).values()
        np.testing.assert_allclose(
            outputs, model(torch.from_numpy(ids), torch.from_numpy(mask))[0], atol=3e-5
        )


@pytest.mark.parametrize("cell_type", CELLS)
def test_only_the_mask_decides_where_tokens_are(cell_type):
    """Against the same text alone: padding on either side, holes, invalid ids, other masks."""
    model = make(cell_type=cell_type)
    session = session_of(model)
    text = np.array([[3, 1, 4, 1, 5]])
    alone = logits_of(session, text, np.ones_like(text))
    assert (
        np.abs(alone - logits_of(session, text[:, ::-1].copy(), np.ones_like(text))).max() > 1e-2
    ), "premise"
    ids = np.full((4, 9), -100)
    mask = np.zeros_like(ids)
    for row, places in enumerate([range(5), range(4, 9), (0, 2, 3, 6, 8)]):
        ids[row, list(places)], mask[row, list(places)] = text[0], (1, -1, 7, 1, 2)
    padded = logits_of(session, ids, mask)
    np.testing.assert_allclose(padded[:3], alone.repeat(3, axis=0), atol=1e-6)
    np.testing.assert_allclose(
        padded[3], torch_logits(model, text, np.zeros_like(text))[0], atol=1e-6
    )


def test_relu_states_do_not_overflow_in_the_padding():
    """They grow by 30 % per step, beyond float32 beside a text of 600 tokens."""
    model = make(cell_type="rnn_relu", pooling="mean")
    for direction in model.rnn.layers[0].directions:
        direction.cell.weight_hh_l0.data = 1.3 * torch.eye(5)
        direction.cell.bias_hh_l0.data.fill_(1.0)
    ids, mask = draw(2, 600)
    mask[0], mask[1] = np.arange(600) < 4, 1
    found = logits_of(session_of(model), ids, mask)[0]
    np.testing.assert_allclose(found, torch_logits(model, ids[:1, :4], mask[:1, :4])[0], rtol=1e-5)


def test_the_graph_is_valid_and_has_named_inputs():
    graph = build_graph(make(cell_type="min_gru", num_hidden_layers=2), {"version": "1"})
    onnx.checker.check_model(graph, full_check=True)
    session = open_session(graph.SerializeToString())
    kinds = [
        (value.name, value.type, value.shape)
        for value in (*session.get_inputs(), *session.get_outputs())
    ]
    inputs = [
        (name, "tensor(int64)", ["batch", "time"]) for name in ("input_ids", "attention_mask")
    ]
    assert kinds == [*inputs, ("logits", "tensor(float)", ["batch", 3])]
    assert {entry.key: entry.value for entry in graph.metadata_props} == {"version": "1"}
    opsets = [(opset.domain, opset.version) for opset in graph.opset_import]
    assert (opsets, graph.ir_version) == ([("", 17)], 8), "ONNX Runtime 1.12 reads these"
    nodes = build_graph(make(), {}).graph.node
    lengths = [node.name for node in nodes if node.op_type == "LSTM" and len(node.input) > 4]
    assert not lengths, "OpenVINO computes wrong states for batches with `sequence_lens`"


# ---- parity ----


@pytest.fixture(scope="module")
def tokenizer(trained):
    return AutoTokenizer.from_pretrained(trained.folder)


@pytest.fixture
def folder(copy, monkeypatch):
    """A finished folder that a test may change; exports compare few texts."""
    monkeypatch.setattr("hf_rnn.export.check.TEXTS", 40)
    return copy


def contents(folder):
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_a_file_that_disagrees_is_not_written(folder, monkeypatch):
    """Gates in the wrong order make a valid graph with other answers."""
    monkeypatch.setitem(ONNX_CELLS, "lstm", partial(ONNX_CELLS["lstm"], gates=(2, 1, 3, 0)))
    before = contents(folder)
    with pytest.raises(
        UserError, match=r"model.onnx was not written: over 40 texts its numbers differ by up to"
    ):
        export(folder)
    assert contents(folder) == before


# ---- the file ----


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """A folder with the file; nobody changes it."""
    target = tmp_path_factory.mktemp("exported") / "model"
    shutil.copytree(trained.folder, target, ignore=shutil.ignore_patterns("checkpoints"))
    export(target)
    return FinishedFolder(target)


def test_a_table_with_8_significant_bits_is_stored_in_float16(folder):
    exact = export(folder)
    RnnForSequenceClassification.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(
        folder
    )
    short = export(folder)
    table = load_model(folder)[0].get_input_embeddings().weight
    assert (
        exact.bytes - short.bytes == pytest.approx(2 * table.numel(), abs=500)
        and short.max_difference < 1e-4
    )


@pytest.mark.parametrize(
    ("head", "settings", "message"),
    [
        (
            RnnForCausalLM,
            {"bidirectional": False},
            "found the head RnnForCausalLM, the export knows RnnForSeq",
        ),
        (
            RnnForTokenClassification,
            {},
            "found the head RnnForTokenClassification, the export knows RnnForSeq",
        ),
        (RnnForSequenceClassification, {"sep_token_id": 0}, "it reads pairs of texts"),
    ],
)
def test_language_models_taggers_and_pairs_are_refused_in_one_line(
    folder, tokenizer, command, head, settings, message
):
    make(head, vocab_size=len(tokenizer), **settings).save_pretrained(folder)
    code, out, err = command("export", folder)
    assert (code, out, err.count("\n")) == (2, "", 1) and message in err


# ---- the verb ----


def test_the_verb_prints_the_result_and_the_card_lists_the_file(command, folder):
    code, out, err = command("export", "--model", folder)
    assert code == 0, err
    result, file = json.loads(out), folder / "onnx/model.onnx"
    assert (result.pop("file"), result["bytes"], result["texts"]) == (
        str(file),
        file.stat().st_size,
        40,
    )
    assert 0 < result["max_difference"] < 1e-4
    assert len(err.splitlines()) == 1 and "over 40 texts" in err, "no lines of other libraries"
    assert read_facts(FinishedFolder(folder))["onnx"]["onnx/model.onnx"] == result
    assert (
        f"- `onnx/model.onnx` for ONNX Runtime: {result['bytes']:,} bytes"
        in (folder / "README.md").read_text()
    )
    metadata = {entry.key: entry.value for entry in onnx.load(file).metadata_props}
    assert json.loads(metadata["id2label"]) == {"0": "bad", "1": "good", "2": "plain"}


def test_mistakes_are_one_line(command, folder, tmp_path):
    (tmp_path / "file").write_text("")
    cases = [
        (("--model", folder, "--output_dir", tmp_path / "file"), "File exists"),
        (("--model", "me/films"), "set output_dir"),
        (("--model", folder), "has no model.safetensors"),
    ]
    for arguments, message in cases:
        if arguments == cases[-1][0]:
            (folder / "model.safetensors").unlink()
        code, out, err = command("export", *arguments)
        assert (code, out, err.count("\n")) == (2, "", 1) and message in err
