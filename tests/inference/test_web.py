"""The web page and the folder for transformers.js: the answers of Python, in Node and in a browser, from files only."""

import contextlib
import functools
import http.server
import json
import shutil
import subprocess
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch

import hf_rnn
from hf_rnn import RnnConfig, RnnForSequenceClassification, train_tokenizer
from hf_rnn.hub.loading import load_model
from hf_rnn.inference.onnx.parity import make_texts
from hf_rnn.inference.reference import compute_logits, compute_scores, tokenize
from hf_rnn.inference.web import build_page
from hf_rnn.tokenizers.word_level import save_tokenizer
from hf_rnn.utils.errors import UserError

ROOT = Path(__file__).parents[2]
MODULES = ROOT / ".node" / "node_modules"  # `.ci/run` installs transformers.js here
ENGLISH = Path(hf_rnn.__file__).parent / "hub" / "pretrained" / "english"
TWEETS = [line.split("\t")[0] for line in (ROOT / "data/tweets/train.tsv").read_text(encoding="utf-8").splitlines()]

# name: normalizer, tokenizer, cell, layers, both directions, pooling, activation
VARIANTS = {
    "none": ("none", "word", "lstm", 2, True, "mean_max", "linear"),
    "semeval": ("semeval", "word", "gru", 1, True, "last", "relu"),
    "tweet": ("tweet", "word", "rnn_tanh", 1, False, "attention", "tanh"),
    "cased": ("cased", "word", "rnn_relu", 1, True, "max", "gelu"),
    "bpe": ("none", "bpe", "min_gru", 2, True, "mean", "linear"),
    "unigram": ("tweet", "unigram", "lstm", 1, False, "last", "linear"),
    "char": ("none", "char", "gru", 1, True, "attention", "linear"),
    "english": (),  # the encoder of the package with a head: word pieces
}


def make_folder(folder, name, **fields):
    torch.manual_seed(0)
    labels = {"id2label": {0: "bad", 1: "good", 2: "plain"}, **fields}
    if name == "english":
        shutil.copytree(ENGLISH, folder)
        model, _ = RnnForSequenceClassification.from_pretrained(ENGLISH, **labels, output_loading_info=True)
        scale = 1.0
    else:
        normalizer, kind, cell, layers, both, pooling, activation = VARIANTS[name]
        tokenizer = train_tokenizer(
            TWEETS, 2, normalizer=normalizer, tokenizer=kind, lowercase=name != "cased", max_vocab_size=900
        )
        sizes = {"vocab_size": len(tokenizer), "embedding_size": 12, "hidden_size": 7, "num_hidden_layers": layers}
        config = RnnConfig(
            cell_type=cell, bidirectional=both, pooling=pooling, classifier_activation=activation, **sizes, **labels
        )
        model, scale = RnnForSequenceClassification(config), 5.0  # so that answers differ
        folder.mkdir()
        save_tokenizer(tokenizer, folder)
    model.classifier.weight.data *= scale
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return functools.cache(lambda name: make_folder(tmp_path_factory.mktemp("web") / name, name))


def find_node(package=False):
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    if package and not (MODULES / "@huggingface/transformers").is_dir():
        pytest.skip("transformers.js is not installed: npm install --prefix .node @huggingface/transformers")
    return node


def run_node(script, given, *arguments, package=False):
    """Run a script, which reads JSON from stdin and prints JSON."""
    command = [find_node(package), "--input-type=module", "-e", script, *map(str, arguments)]
    done = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def write_page(folder, target):
    target.mkdir()
    for name, content in build_page(folder).items():
        (target / name).write_bytes(content)
    return target


def answer(folder, count=500):
    """Return texts, their ids and scores by Python."""
    model, tokenizer = load_model(folder, device="cpu")
    texts = [*make_texts(tokenizer, TWEETS[:100]), " ".join(TWEETS)[:9000], *TWEETS[100:]][:count]
    ids = tokenize(tokenizer, texts)
    return texts, ids, compute_scores(model, compute_logits(model, tokenizer, ids)).numpy()


PLAIN = """
import {createRequire} from "node:module";
import {readFileSync} from "node:fs";
const require = createRequire("file:///"), [folder] = process.argv.slice(1);
const start = performance.now(), hfRnn = require(`${folder}/hf_rnn.js`), model = hfRnn.load(require(`${folder}/model.js`));
const texts = JSON.parse(readFileSync(0)), loaded = performance.now();
const times = [], found = texts.map((text) => {
  const before = performance.now(), answer = {ids: model.tokenize(text), scores: model.scores(text), answer: model.predict(text)};
  times.push(performance.now() - before);
  return answer;
});
console.log(JSON.stringify({found, labels: model.labels, load: loaded - start, times, words: model.explain(texts[0])}));
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_plain_javascript_gives_the_answers_of_python(folders, tmp_path, name):
    texts, ids, scores = answer(folders(name))
    read = run_node(PLAIN, texts, write_page(folders(name), tmp_path / "page"))
    assert len(texts) == 500 and max(map(len, ids)) > 400 and [] in ids, "premise"
    assert [row["ids"] for row in read["found"]] == ids
    found = np.array([row["scores"] for row in read["found"]])
    assert len({row["answer"]["label"] for row in read["found"]}) > 1, "premise"
    assert [row["answer"]["label"] for row in read["found"]] == [read["labels"][best] for best in scores.argmax(axis=1)]
    np.testing.assert_allclose(found, scores, atol=1e-4)


TRANSFORMERS_JS = """
import {readFileSync} from "node:fs";
const [modules, folder] = process.argv.slice(1);
const {pipeline, env} = await import(`${modules}/@huggingface/transformers/dist/transformers.node.mjs`);
env.allowRemoteModels = false;
const classify = await pipeline("text-classification", folder), texts = JSON.parse(readFileSync(0)), found = [];
for (const text of texts) found.push(await classify(text, {top_k: null}));
const batch = await classify(texts.slice(0, 8), {top_k: null});
console.log(JSON.stringify({found: found.map((one) => one[0].length ? one[0] : one), batch}));
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_transformers_js_gives_the_answers_of_python(folders, tmp_path, name):
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    from hf_rnn.inference.onnx import export

    find_node(package=True)
    web = export(folders(name), output_dir=tmp_path, web=True).web
    texts, _, scores = answer(folders(name))
    read = run_node(TRANSFORMERS_JS, texts, MODULES, web, package=True)
    for rows, expected in ((read["found"], scores), (read["batch"], scores[:8])):
        found = np.array([[{entry["label"]: entry["score"] for entry in row}[label] for label in ("bad", "good", "plain")] for row in rows])
        np.testing.assert_array_equal(found.argmax(axis=1), expected.argmax(axis=1))
        np.testing.assert_allclose(found, expected, atol=1e-4)
