"""The web page and the folder for transformers.js: the answers of Python in Node and in a browser, from files only."""

import contextlib
import functools
import http.server
import json
import re
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
from hf_rnn import FastRnn, RnnConfig, RnnForSequenceClassification, train_tokenizer
from hf_rnn.hub.loading import load_model
from hf_rnn.hub.model_folder import FinishedFolder
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
            TWEETS,
            2,
            model_max_length=4096,
            normalizer=normalizer,
            tokenizer=kind,
            lowercase=name != "cased",
            max_vocab_size=900,
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
    texts = [*make_texts(tokenizer, TWEETS[:100]), " ".join(TWEETS)[:20000], *TWEETS[100:]][:count]
    ids = tokenize(tokenizer, texts)
    return texts, ids, compute_scores(model, compute_logits(model, tokenizer, ids)).numpy()


PLAIN = """
import {createRequire} from "node:module";
import {readFileSync} from "node:fs";
const require = createRequire("file:///"), [folder] = process.argv.slice(1);
const hfRnn = require(`${folder}/hf_rnn.js`), model = hfRnn.load(require(`${folder}/model.js`));
const found = JSON.parse(readFileSync(0)).map((text) => (
  {ids: model.tokenize(text), scores: model.scores(text), answer: model.predict(text), words: model.explain(text, 3)}
));
console.log(JSON.stringify({found, labels: model.labels}));
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_plain_javascript_gives_the_answers_of_python(folders, tmp_path, name):
    texts, ids, scores = answer(folders(name))
    read = run_node(PLAIN, texts, write_page(folders(name), tmp_path / "page"))
    assert len(texts) == 500 and max(map(len, ids)) > 2000 and [] in ids, "premise"
    assert [row["ids"] for row in read["found"]] == ids
    found = np.array([row["scores"] for row in read["found"]])
    assert len({row["answer"]["label"] for row in read["found"]}) > 1, "premise"
    assert [row["answer"]["label"] for row in read["found"]] == [
        read["labels"][best] for best in scores.argmax(axis=1)
    ]
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
    compare(read["found"], scores)
    compare(read["batch"], scores[:8])


def compare(answers, scores):
    """Compare lists of `{label, score}` with scores."""
    byname = [{entry["label"]: entry["score"] for entry in row} for row in answers]
    found = np.array([[row[label] for label in ("bad", "good", "plain")] for row in byname])
    np.testing.assert_array_equal(found.argmax(axis=1), scores.argmax(axis=1))
    np.testing.assert_allclose(found, scores, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "caption"),
    [
        ({"problem_type": "multi_label_classification", "label_thresholds": [0.1, 0.5, 0.9]}, "bad"),
        ({"problem_type": "regression"}, "0."),
    ],
)
def test_sets_of_labels_and_numbers(tmp_path, fields, caption):
    folder = make_folder(tmp_path / "model", "tweet", **fields)
    texts, _, scores = answer(folder, 50)
    read = run_node(PLAIN, texts, write_page(folder, tmp_path / "page"))
    np.testing.assert_allclose([row["scores"] for row in read["found"]], scores, atol=1e-4)
    expected = FastRnn.from_pretrained(folder, device="cpu").predict(texts)
    for row, answered in zip(read["found"], expected, strict=True):
        assert row["answer"].keys() == answered.keys()
        assert row["answer"].get("labels") == answered.get("labels")


def test_the_page_is_small_and_asks_nobody():
    page = {
        name: (ROOT / "hf_rnn/inference/web" / name).read_text(encoding="utf-8")
        for name in ("index.html", "hf_rnn.js")
    }
    assert sum(len(content.encode()) for content in page.values()) < 50_000
    for content in page.values():
        assert not re.search(r"\b(fetch|XMLHttpRequest|WebSocket|sendBeacon|innerHTML|eval)\b", content)


def test_models_that_a_page_cannot_run(tagger, tmp_path):
    with pytest.raises(UserError, match="has no web page: its task is token-classification"):
        build_page(tagger.folder)
    folder = make_folder(tmp_path / "model", "none")
    content = json.loads((folder / "tokenizer.json").read_text())
    content["pre_tokenizer"] = {"type": "Digits", "individual_digits": True}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="its tokenizer has Digits, which the page lacks"):
        build_page(folder)


@pytest.mark.slow
def test_export_writes_both_and_training_again_removes_them(trained, tmp_path, command):
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    folder = shutil.copytree(trained.folder, tmp_path / "model", ignore=shutil.ignore_patterns("checkpoints"))
    code, out, err = command("export", "--model", folder, "--web", "--quantize", "int8")
    assert code == 0, err
    assert json.loads(out)["web"] == str(folder / "web")
    names = {path.relative_to(folder / "web").as_posix() for path in (folder / "web").rglob("*") if path.is_file()}
    page = {"index.html", "hf_rnn.js", "model.js"}
    assert names == page | {"config.json", "tokenizer.json", "tokenizer_config.json", "onnx/model_int8.onnx"}
    assert json.loads((folder / "web/config.json").read_text())["transformers.js_config"] == {"dtype": "int8"}
    assert FinishedFolder(folder).web in FinishedFolder(folder).named_files(), "a new training removes them"


# ---- in a browser ----


@contextlib.contextmanager
def serve(*folders):
    """Serve folders as /0/, /1/ ... and yield the URL."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def translate_path(self, path):
            number, _, rest = urlsplit(path).path.lstrip("/").partition("/")
            return str(Path(folders[int(number)], rest)) if number.isdigit() else "/nowhere"

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def wait(condition, seconds=60):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "timeout"
        time.sleep(0.05)
    return found


def type_text(browser, text):
    browser.execute_script(
        "const area = document.querySelector('textarea'); area.value = arguments[0];"
        "area.dispatchEvent(new Event('input'))",
        text,
    )


@pytest.mark.slow
@pytest.mark.parametrize("way", ["file", "http"])
def test_the_page_answers_as_one_types(trained, browser, tmp_path, way):
    page = write_page(trained.folder, tmp_path / "page")
    with serve(page) as url:
        browser.get_log("performance")
        browser.get(f"{url}/0/index.html" if way == "http" else (page / "index.html").as_uri())
        area = wait(lambda: browser.find_element("css selector", "textarea"))
        area.send_keys("the miro box")
        assert browser.find_element("id", "answer").text == "good"
        wait(lambda: browser.find_elements("css selector", "#words mark"))
        strongest = browser.execute_script(
            "const strength = (mark) => Number(mark.style.background.match(/[\\d.]+(?=\\))/)[0]);"
            "const marks = [...document.querySelectorAll('#words mark')];"
            "return marks.sort((a, b) => strength(b) - strength(a))[0].textContent"
        )
        assert strongest == "miro"
        assert "speaks for good" in browser.find_element("id", "legend").text
        hostile = '<img src=x onerror="window.hacked = 1"> <b>x</b> \U0001f600'
        type_text(browser, hostile)
        wait(lambda: browser.find_elements("css selector", "#words mark"))
        assert browser.execute_script("return document.querySelector('#words').textContent") == hostile
        assert browser.execute_script("return window.hacked") is None
        expected = FastRnn.from_pretrained(trained.folder, device="cpu")
        texts = [*make_texts(expected.tokenizer, TWEETS[:100]), *TWEETS[100:]][:500]
        script = "return arguments[0].map((text) => model.scores(text))"
        np.testing.assert_allclose(browser.execute_script(script, texts), expected.predict_proba(texts), atol=1e-4)
        button = browser.find_element("css selector", "#examples button")
        button.click()
        assert browser.execute_script("return document.querySelector('textarea').value") == button.text
        assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
        events = (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
        sent = [
            urlsplit(event["params"]["request"]["url"])
            for event in events
            if event["method"] == "Network.requestWillBeSent"
        ]
        hosts = {asked.netloc for asked in sent if asked.scheme in ("http", "https", "ws", "wss")}
        assert hosts == ({urlsplit(url).netloc} if way == "http" else set()), "nothing comes from elsewhere"


IN_A_BROWSER = """<!doctype html><meta charset="utf-8"><script src="/0/hf_rnn.js"></script><script type="module">
import {env, pipeline} from "/1/@huggingface/transformers/dist/transformers.min.js";
import * as ort from "/1/onnxruntime-web/dist/ort.wasm.min.mjs";
env.allowRemoteModels = false; env.allowLocalModels = true; env.localModelPath = "/";
env.backends.onnx.wasm.wasmPaths = "/1/onnxruntime-web/dist/";
env.backends.onnx.wasm.numThreads = ort.env.wasm.numThreads = 1;
window.run = async (texts) => {
  const classify = await pipeline("text-classification", "0", {device: "wasm"}), answers = [];
  for (const text of texts) answers.push(await classify(text, {top_k: null}));
  ort.env.wasm.wasmPaths = "/1/onnxruntime-web/dist/";
  const session = await ort.InferenceSession.create("/0/onnx/model.onnx"), logits = [];
  const read = async (name) => (await fetch(`/0/${name}.json`)).json();
  const tokenize = hfRnn.buildTokenizer(await read("tokenizer"), await read("tokenizer_config"));
  for (const text of texts) {
    const ids = BigInt64Array.from(tokenize(text), BigInt), dims = [1, ids.length];
    const [input_ids, attention_mask] = [ids, ids.map(() => 1n)].map((data) => new ort.Tensor("int64", data, dims));
    const input = {input_ids, attention_mask};
    logits.push(Array.from((await session.run(input)).logits.data));
  }
  return {answers, logits};
};
</script>"""


@pytest.mark.slow
def test_transformers_js_and_onnxruntime_web_in_a_browser(folders, browser, tmp_path):
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    from hf_rnn.inference.onnx import export

    find_node(package=True)
    web = export(folders("tweet"), output_dir=tmp_path, web=True).web
    (web / "test.html").write_text(IN_A_BROWSER)
    texts, _, scores = answer(folders("tweet"))
    with serve(web, MODULES) as url:
        browser.get(f"{url}/0/test.html")
        browser.set_script_timeout(120)
        wait(lambda: browser.execute_script("return typeof window.run") == "function")
        read = browser.execute_async_script(
            "const done = arguments[arguments.length - 1];"
            "run(arguments[0]).then(done, (error) => done(String(error)))",
            texts,
        )
    assert isinstance(read, dict), read
    compare(read["answers"], scores)
    powers = np.exp(read["logits"])
    np.testing.assert_allclose(powers / powers.sum(axis=1, keepdims=True), scores, atol=1e-4)
