"""`backend="onnx"` without torch and transformers: answers, memory, ids of any tokenizer."""

import json
import pickle
import sys

import numpy as np
import pytest
import torch
from conftest import run_python
from tiny_bert import make_bert
from transformers import AutoTokenizer

from hf_rnn import FastRnn, RnnConfig, RnnForSequenceClassification, train_tokenizer
from hf_rnn.hub.model_folder import FinishedFolder

pytest.importorskip("onnx", reason="the extra onnx is not installed")
pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")

from hf_rnn.data.tokens import TokenizerFile  # noqa: E402
from hf_rnn.inference.onnx import export  # noqa: E402 - needs onnx

TEXTS = [
    "miro the box!",
    "",
    "SELK @you near a door",
    "sand \U0001f600 <unk> https://a.org/b?c=1",
    "the box " * 60,
]
KINDS = {
    "classes": {"num_labels": 3},
    "numbers": {"num_labels": 2, "problem_type": "regression"},
    "blocks": {"num_labels": 2, "block_type": "residual", "cell_type": "min_gru"},
}
# In a fresh interpreter, after torch, transformers and whatever else an image may lack were made
# unimportable.
ALONE = """
import json, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "datasets", "safetensors",
                                  "huggingface_hub", "evaluate", "accelerate", "pyarrow",
                                  "pandas", "jinja2", "yaml"):
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Absent())
from hf_rnn import FastRnn

found, kilobytes = {}, None
for kind, (folder, texts) in json.loads(sys.argv[1]).items():
    found[kind] = FastRnn.from_pretrained(folder, backend="onnx").predict_proba(texts).tolist()
    if kilobytes is None:
        with open("/proc/self/status") as status:
            kilobytes = int(status.read().split("VmRSS:")[1].split()[0])
print(json.dumps([found, kilobytes]))
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder with an ONNX file for each kind of model."""
    tokenizer = train_tokenizer(TEXTS, min_frequency=1, normalizer="tweet", model_max_length=100)
    folders = {}
    for kind, settings in KINDS.items():
        torch.manual_seed(0)
        folders[kind] = tmp_path_factory.mktemp("alone") / kind
        model = RnnForSequenceClassification(
            RnnConfig(vocab_size=len(tokenizer), hidden_size=8, **settings)
        )
        model.classifier.weight.data *= 10
        model.save_pretrained(folders[kind])
        tokenizer.save_pretrained(folders[kind])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("hf_rnn.inference.onnx.exporter.TEXTS", 40)  # saves half of the time
            export(folders[kind])
    return folders


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_it_needs_neither_torch_nor_transformers(folders):
    asked = {kind: (str(folder), TEXTS) for kind, folder in folders.items()}
    found, kilobytes = json.loads(run_python(ALONE, json.dumps(asked)))
    for kind, (folder, texts) in asked.items():
        np.testing.assert_allclose(
            found[kind], FastRnn.from_pretrained(folder).predict_proba(texts), atol=1e-4
        )
    assert kilobytes < 120_000


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("kind", ["none", "tweet", "bpe", "bert"])
def test_the_file_of_the_tokenizer_gives_the_ids_of_transformers(tmp_path, kind, side):
    if kind == "bert":
        make_bert(tmp_path)
    else:
        how = {"tokenizer": kind} if kind == "bpe" else {"normalizer": kind}
        train_tokenizer(TEXTS, min_frequency=1, **how).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(
        tmp_path, model_max_length=9, truncation_side=side
    ).save_pretrained(tmp_path)
    expected, found = (
        AutoTokenizer.from_pretrained(tmp_path),
        TokenizerFile(FinishedFolder(tmp_path)),
    )
    ids = expected(TEXTS, truncation=True)["input_ids"]
    for file in (found, pickle.loads(pickle.dumps(found))):
        assert file(TEXTS, truncation=True)["input_ids"] == ids
        assert file(TEXTS)["input_ids"] == expected(TEXTS)["input_ids"]
    assert (found.get_vocab(), found.model_max_length) == (expected.get_vocab(), 9)
