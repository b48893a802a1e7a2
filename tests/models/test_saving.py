"""Saving and loading: exact weights, nothing lost, with and without the package."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import run_python
from safetensors import numpy
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer, pipeline

from hf_rnn import RnnConfig, RnnForSequenceClassification, RnnModel, train_tokenizer

IDS = torch.tensor([[5, 7, 2, 9], [4, 3, 1, 1]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])


def make(**settings):
    torch.manual_seed(0)
    defaults = {
        "vocab_size": 13,
        "embedding_size": 6,
        "hidden_size": 5,
        "id2label": {0: "bad", 1: "so so", 2: "good"},
    }
    return RnnForSequenceClassification(RnnConfig(**{**defaults, **settings})).eval()


@pytest.mark.parametrize(
    ("cell", "pooling"),
    [("rnn_tanh", "last"), ("gru", "mean_max"), ("lstm", "attention"), ("min_gru", "attention")],
)
def test_round_trip(tmp_path, cell, pooling):
    model = make(cell_type=cell, pooling=pooling, num_hidden_layers=2)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert type(loaded) is RnnForSequenceClassification
    assert not loaded.training
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, loaded.state_dict()[name]), name
    torch.testing.assert_close(loaded(IDS, MASK).logits, model(IDS, MASK).logits)
    assert loaded.config.id2label == {0: "bad", 1: "so so", 2: "good"}
    encoder = AutoModel.from_pretrained(tmp_path)
    assert type(encoder) is RnnModel
    torch.testing.assert_close(
        encoder(IDS, MASK).last_hidden_state, model.rnn(IDS, MASK).last_hidden_state
    )


@pytest.mark.parametrize(
    "load",
    [
        RnnForSequenceClassification.from_pretrained,
        AutoModelForSequenceClassification.from_pretrained,
    ],
)
def test_a_frozen_embedding_stays_frozen(tmp_path, load):
    model = make(freeze_embedding=True)
    model.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    frozen = [name for name, weight in loaded.named_parameters() if not weight.requires_grad]
    assert frozen == ["rnn.embedding.weight"] and not model.rnn.embedding.weight.requires_grad
    loaded.resize_token_embeddings(20, mean_resizing=False)
    assert not loaded.rnn.embedding.weight.requires_grad
    assert load(tmp_path, freeze_embedding=False).rnn.embedding.weight.requires_grad


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.bfloat16, torch.float32])
def test_a_frozen_table_is_stored_in_fewer_bytes_where_nothing_is_lost(tmp_path, dtype):
    model = make(freeze_embedding=True)
    table = model.get_input_embeddings().weight
    table.data = table.data.to(dtype).float()
    model.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")["rnn.embedding.weight"]
    assert stored.dtype == dtype
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert loaded.dtype == torch.float32
    assert torch.equal(loaded.get_input_embeddings().weight, table)
    assert torch.equal(loaded(IDS, MASK).logits, model(IDS, MASK).logits)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("frozen", [False, True])
def test_the_dtype_of_stored_weights_is_a_choice(tmp_path, dtype, frozen):
    model = make(freeze_embedding=frozen)
    model.get_input_embeddings().weight.data.round_()  # shorter dtypes hold these numbers
    model.save_pretrained(tmp_path, weights_dtype=dtype)
    stored = load_file(tmp_path / "model.safetensors")
    assert {weight.dtype for weight in stored.values()} == {getattr(torch, dtype)}
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert loaded.dtype == torch.float32, "exact products of rounded weights"
    for name, weight in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight.to(getattr(torch, dtype)).float()), (
            name
        )
    if dtype != "bfloat16":  # NumPy does not have it
        read = numpy.load_file(tmp_path / "model.safetensors")
        assert all(np.array_equal(read[name], weight.numpy()) for name, weight in stored.items())


def test_numbers_that_a_dtype_does_not_hold_are_refused(tmp_path):
    model = make()
    model.classifier.bias.data[0] = 1e5
    with pytest.raises(ValueError, match="classifier.bias has numbers that float16 does not hold"):
        model.save_pretrained(tmp_path, weights_dtype="float16")


GOLDEN = Path(__file__).parents[1] / "golden"


def test_a_checkpoint_of_the_first_version_gives_the_same_answers():
    expected = json.loads((GOLDEN / "expected.json").read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(GOLDEN / "checkpoint")
    model, info = AutoModelForSequenceClassification.from_pretrained(
        GOLDEN / "checkpoint", output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert [tokenizer(text).input_ids for text in expected["texts"]] == expected["input_ids"]
    batch = tokenizer(expected["texts"], padding=True, return_tensors="pt")
    logits = torch.tensor(expected["logits"])
    assert logits.std(dim=0).min() > 0.01, "premise: the texts have different answers"
    torch.testing.assert_close(model(**batch).logits, logits, atol=1e-5, rtol=1e-5)
    assert list(model.config.id2label.values()) == ["negative", "neutral", "positive"]


WITHOUT_THE_PACKAGE = """
import json, sys

class Hide:  # the installed package, which is beside the others
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] == 'hf_rnn':
            raise ModuleNotFoundError('No module named hf_rnn', name='hf_rnn')

sys.meta_path.insert(0, Hide())
import builtins, torch
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer, pipeline
builtins.input = None  # to ask "run the custom code?" is an error
folder, copy = sys.argv[1:3]
ids, mask = [torch.tensor(json.loads(text)) for text in sys.argv[3:]]
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)
model.save_pretrained(copy)
again = AutoModelForSequenceClassification.from_pretrained(copy, trust_remote_code=True)
encoder = AutoModel.from_pretrained(folder, trust_remote_code=True)
classify = pipeline("text-classification", folder, trust_remote_code=True, top_k=None)
print(json.dumps({
    "logits": [one(ids, mask).logits.tolist() for one in (model, again)],
    "states": encoder(ids, mask).last_hidden_state.tolist(),
    "pipeline": classify(["good film", ""]),
    "ids": tokenizer("a good film").input_ids,
    "frozen": not again.rnn.embedding.weight.requires_grad,
}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("block_type", ["plain", "residual"])
def test_remote_code_without_the_package(block_type, tmp_path):
    """Save here, load and predict where the package does not exist: same logits."""
    tokenizer = train_tokenizer(["good film", "bad film", "so so film"], min_frequency=1)
    settings = {"pooling": "attention", "num_hidden_layers": 2, "block_type": block_type}
    model = make(freeze_embedding=True, vocab_size=len(tokenizer), **settings)
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    ids = IDS.clamp(max=len(tokenizer) - 1)
    environment = {"PATH": "", "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    given = [folder, tmp_path / "again", json.dumps(ids.tolist()), json.dumps(MASK.tolist())]
    out = run_python(
        WITHOUT_THE_PACKAGE, *given, env=environment, cwd=tmp_path, stdin=subprocess.DEVNULL
    )
    there = json.loads(out.splitlines()[-1])
    torch.testing.assert_close(
        torch.tensor(there["logits"]), torch.stack([model(ids, MASK).logits] * 2)
    )
    torch.testing.assert_close(
        torch.tensor(there["states"]), model.rnn(ids, MASK).last_hidden_state
    )
    here = pipeline("text-classification", str(folder), top_k=None)(["good film", ""])
    for ours, theirs in zip(here, there["pipeline"], strict=True):
        assert [entry["label"] for entry in ours] == [entry["label"] for entry in theirs]
        assert [entry["score"] for entry in ours] == pytest.approx(
            [entry["score"] for entry in theirs]
        )
    assert there["frozen"] and there["ids"] == tokenizer("a good film").input_ids
