"""The web page: the answers of Python in a browser, from files only."""

import contextlib
import http.server
import json
import re
import shutil
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
from hf_rnn.hub.model_folder import FinishedFolder
from hf_rnn.inference.onnx.parity import make_texts
from hf_rnn.inference.reference import compute_logits, tokenize
from hf_rnn.inference.web.page import find_engine
from hf_rnn.tasks.answers import compute_scores
from hf_rnn.tokenizers.word_level import save_tokenizer
from hf_rnn.utils.errors import UserError

ROOT = Path(__file__).parents[2]
NPM = ROOT / ".node"  # `.ci/run` installs the engine here
ENGLISH = Path(hf_rnn.__file__).parent / "hub" / "pretrained" / "english"
TWEETS = [line.split("\t")[0] for line in (ROOT / "data/tweets/train.tsv").read_text(encoding="utf-8").splitlines()]

# name: normalizer, tokenizer, cell, layers, both directions, pooling, activation
VARIANTS = {
    "none": ("none", "word", "lstm", 2, True, "mean_max", "linear"),
    "semeval": ("semeval", "word", "gru", 1, True, "last", "relu"),
    "tweet": ("tweet", "word", "rnn_tanh", 1, False, "attention", "tanh"),
    "cased": ("cased", "word", "rnn_relu", 1, True, "max", "gelu"),
    "bpe": ("none", "bpe", "min_gru", 2, True, "mean", "linear"),
    "char": ("none", "char", "gru", 1, True, "attention", "linear"),
    "english": (),  # the encoder of the package with a head: word pieces
}
MORE = {"multi_label_classification": [0.1, 0.5, 0.9], "regression": None}  # problem type: thresholds


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


def write_page(folder, **options):
    """Return the folder of the page of a model."""
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    from hf_rnn.inference.onnx import export

    try:
        find_engine(NPM)
    except UserError:
        pytest.skip("missing: npm install --prefix .node onnxruntime-web @huggingface/tokenizers")
    return export(folder, web=True, npm=NPM, **options).web


def answer(folder, count=500):
    """Return texts and their scores by Python."""
    model, tokenizer = load_model(folder, device="cpu")
    texts = [*make_texts(tokenizer, TWEETS[:100]), " ".join(TWEETS)[:20000], *TWEETS[100:]][:count]
    ids = tokenize(tokenizer, texts)
    assert len(texts) == count and max(map(len, ids)) > 600 and [] in ids, "premise"
    return texts, compute_scores(compute_logits(model, tokenizer, ids).numpy(), model.config)


def run_page(browser, url, texts):
    """Return the scores of a page, in batches of unequal lengths."""
    browser.get(url)
    browser.set_script_timeout(120)
    return browser.execute_async_script(
        "const [texts, done] = arguments, all = [];"
        "(async () => {"
        "  await ready;"
        "  for (let i = 0; i < texts.length; i += 4) all.push(...await score(texts.slice(i, i + 4)));"
        "  return all;"
        "})().then(done, (error) => done(String(error)))",
        texts,
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", [*VARIANTS, *MORE])
def test_a_browser_gives_the_scores_of_python(browser, tmp_path, name):
    fields = {"problem_type": name, "label_thresholds": MORE[name]} if name in MORE else {}
    folder = make_folder(tmp_path / "model", "tweet" if name in MORE else name, **fields)
    page = write_page(folder)
    texts, scores = answer(folder)
    found = run_page(browser, (page / "index.html").as_uri(), texts)
    assert isinstance(found, list), found
    assert len(set(scores.argmax(axis=1))) > 1, "premise"
    np.testing.assert_allclose(found, scores, atol=1e-4)


def test_the_page_is_small_and_asks_nobody():
    content = (ROOT / "hf_rnn/inference/web/index.html").read_text(encoding="utf-8")
    assert len(content.encode()) < 15_000
    assert not re.search(r"\b(fetch|XMLHttpRequest|WebSocket|sendBeacon|innerHTML|eval|https?://\w)\b", content)


def test_an_engine_that_is_missing_or_elsewhere(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="Type: npm install --prefix npm onnxruntime-web @huggingface/tokenizers"):
        find_engine(tmp_path)
    for name in ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"):
        (tmp_path / "node_modules/onnxruntime-web/dist").mkdir(parents=True, exist_ok=True)
        (tmp_path / "node_modules/onnxruntime-web/dist" / name).write_text("")
    tokenizers = tmp_path / "node_modules/@huggingface/tokenizers/dist"
    tokenizers.mkdir(parents=True)
    (tokenizers / "tokenizers.min.mjs").write_text("")
    (tmp_path / "below/here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "below/here")
    assert find_engine()["tokenizers"] == tokenizers / "tokenizers.min.mjs"


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


HOSTILE = '<img src=x onerror="window.hacked = 1"></script><b>'


@pytest.mark.slow
@pytest.mark.parametrize("way", ["file", "http"])
def test_the_page_answers_as_one_types(trained, browser, tmp_path, way):
    folder = shutil.copytree(trained.folder, tmp_path / "model", ignore=shutil.ignore_patterns("checkpoints"))
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {number: name + HOSTILE for number, name in config["id2label"].items()}
    (folder / "config.json").write_text(json.dumps(config | {"label2id": None}))
    page = write_page(folder, output_dir=tmp_path / "out", quantize="int8")
    assert page == tmp_path / "out/web"
    assert {path.name for path in page.iterdir()} == {"index.html", "model.js", "engine.js"}
    assert FinishedFolder(folder).web in FinishedFolder(folder).named_files(), "a new training removes it"
    with serve(page) as url:
        browser.get_log("performance")
        browser.get(f"{url}/0/index.html" if way == "http" else (page / "index.html").as_uri())
        area = wait(lambda: browser.find_element("id", "text"))
        wait(area.is_displayed)
        assert not browser.find_element("id", "result").is_displayed() and "good" not in browser.page_source
        area.send_keys("the miro box")
        wait(lambda: browser.find_element("id", "answer").text == "good" + HOSTILE)
        wait(lambda: browser.find_elements("css selector", "#words mark"))
        strongest = browser.execute_script(
            "const strength = (mark) => Number(mark.style.background.match(/[\\d.]+(?=\\))/)[0]);"
            "const marks = [...document.querySelectorAll('#words mark')];"
            "return marks.sort((a, b) => strength(b) - strength(a))[0].textContent"
        )
        assert strongest == "miro"
        assert f"speaks for good{HOSTILE}" in browser.find_element("id", "legend").text
        hostile = f"{HOSTILE} \U0001f600"
        type_text(browser, hostile)
        wait(lambda: browser.find_element("id", "words").get_property("textContent") == hostile)
        wait(lambda: browser.find_elements("css selector", "#words mark"))
        assert browser.find_element("id", "words").get_property("textContent") == hostile
        assert browser.execute_script("return window.hacked") is None
        button = browser.find_element("css selector", "#examples button")
        button.click()
        assert area.get_property("value") == button.text
        type_text(browser, "")
        wait(lambda: not browser.find_element("id", "result").is_displayed())
        assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
        events = (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
        sent = [
            urlsplit(event["params"]["request"]["url"])
            for event in events
            if event["method"] == "Network.requestWillBeSent"
        ]
        hosts = {asked.netloc for asked in sent if asked.scheme in ("http", "https", "ws", "wss")}
        assert hosts == ({urlsplit(url).netloc} if way == "http" else set()), "nothing comes from elsewhere"
