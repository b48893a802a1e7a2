"""The web page: the answers of Python in a browser, from files that any web server serves."""

import contextlib
import functools
import http.server
import json
import re
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import tiny_ngrams
import torch
from transformers import AutoTokenizer, pipeline

import hf_rnn
from hf_rnn import FastRnn, RnnConfig, RnnForSequenceClassification, train_tokenizer
from hf_rnn.evaluation.decisions import Decisions, Thresholds, write_thresholds
from hf_rnn.hub.model_folder import load_model
from hf_rnn.tokenizers.word_level import save_tokenizer
from hf_rnn.utils.errors import UserError

pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")

from hf_rnn.export import check  # noqa: E402 - needs onnx
from hf_rnn.export import export as write_export  # noqa: E402
from hf_rnn.export.check import make_texts  # noqa: E402

ROOT = Path(__file__).parents[2]
NPM = ROOT / ".node"  # `.ci/run` installs the engine here
ENGLISH, MULTILINGUAL = (hf_rnn.PRETRAINED / name for name in ("english", "multilingual"))
TWEETS = [
    line.split("\t")[0]
    for line in (ROOT / "data/tweets/train.tsv").read_text(encoding="utf-8").splitlines()
]
FOREIGN = ["Ganz toll😂 :)  so", "今天天气真好！", "आज का दिन", "العالم جميل", "오늘 날씨 👍🏽"]
FOREIGN += ["ﬁn ½ Ⅷ ｆｕｌｌ", "สวัสดี", "🇩🇪🇫🇷"]
MULTI = {"problem_type": "multi_label_classification", "label_thresholds": [0.4, 0.5, 0.6]}
BLOCKS = {"block_type": "residual", "cell_type": "lstm", "pooling": "mean_max"}
# name: options of the tokenizer, settings of the model
MODELS = {
    "classes": ({"normalizer": "cased"}, {"num_labels": 3, "pooling": "last"}),
    "classes, pieces": ({"tokenizer": "bpe"}, {"num_labels": 3, "cell_type": "min_gru"}),
    "several labels": ({"normalizer": "tweet"}, {"num_labels": 3, **MULTI}),
    "classes of blocks": ({"normalizer": "tweet"}, {"num_labels": 3, **BLOCKS}),
    "numbers": ({"tokenizer": "char"}, {"num_labels": 2, "problem_type": "regression"}),
    "classes of english": (ENGLISH, {"num_labels": 3}),
    "classes of multilingual": (MULTILINGUAL, {"num_labels": 3, "ngram_rows": 300}),
    "encoder": (),
}


def export(folder, **options):
    """Export a folder, and compare few texts, which saves half of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(check, "TEXTS", 40)
        return write_export(folder, **options)


def make_folder(folder, name):
    """Save a model with random weights, large enough for answers that differ."""
    if name == "encoder":
        return shutil.copytree(ENGLISH, folder)
    options, settings = MODELS[name]
    if isinstance(options, Path):
        tokenizer = AutoTokenizer.from_pretrained(options)
    else:
        tokenizer = train_tokenizer(TWEETS, 2, max_vocab_size=900, model_max_length=4096, **options)
    torch.manual_seed(0)
    sizes = {
        "vocab_size": len(tokenizer),
        "embedding_size": 12,
        "residual_size": 12,
        "hidden_size": 9,
    }
    model = RnnForSequenceClassification(RnnConfig(**sizes, **settings))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    if model.ngrams is not None:
        tiny_ngrams.attach(model, texts=4000)
    model.save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    return folder


def write_page(folder):
    if not (NPM / "node_modules").is_dir():
        pytest.skip("missing: npm install --prefix .node onnxruntime-web @huggingface/tokenizers")
    return export(folder, web=True, npm=NPM).web


@contextlib.contextmanager
def serve(folder):
    """Serve a folder as `python -m http.server` does, and yield the URL."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


def wait(condition, seconds=60):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "timeout"
        time.sleep(0.05)
    return found


RUN = """
const [texts, done] = arguments, all = [];
(async () => {
  const {tokenize, score, encode} = await ready, ids = texts.map(tokenize);
  for (let i = 0; i < texts.length; i += 4)
    all.push(...await (score ?? encode)(texts.slice(i, i + 4)));
  return [ids, all];
})().then(done, (error) => done(String(error)));
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_browser_gives_the_ids_and_answers_of_python(browser, tmp_path, name):
    folder = make_folder(tmp_path / "model", name)
    page = write_page(folder)
    tokenizer = load_model(folder, allow_encoder=True)[1]
    texts = [
        *make_texts(tokenizer),
        *TWEETS[:100],
        *FOREIGN,
        "<sep> <eos> [SEP] __proto__",
        "Pi\u00f1a " * 2000,
    ]
    with serve(page) as url:
        browser.get(url)
        browser.set_script_timeout(300)
        ids, found = browser.execute_async_script(RUN, texts)
        assert "Warning" not in browser.find_element("id", "status").text
    assert ids == tokenizer(texts, truncation=True)["input_ids"]
    if name == "encoder":
        expected = hf_rnn.SentenceEncoder.from_pretrained(folder).encode(texts)
    else:
        expected = FastRnn.from_pretrained(folder).predict_proba(texts)
    assert len(set(expected.argmax(axis=1))) > 1, "premise"
    np.testing.assert_allclose(found, expected, atol=1e-4)


HOSTILE = '<img src=x onerror="window.hacked = 1"></script><b>'


@pytest.mark.slow
def test_the_page_answers_as_one_types_and_asks_nobody(copy, browser):
    config = json.loads((copy / "config.json").read_text())
    config["id2label"] = {number: name + HOSTILE for number, name in config["id2label"].items()}
    (copy / "config.json").write_text(json.dumps(config | {"label2id": None}))
    metrics = json.loads((copy / "metrics.json").read_text())
    metrics["card"]["examples"] = {"good": [f"so good {HOSTILE}"]}  # a text of the card
    (copy / "metrics.json").write_text(json.dumps(metrics))
    rows = Decisions(0, 0.0, None)
    chosen = [
        Thresholds(target, {f"good{HOSTILE}": target / 2}, rows, rows) for target in (0.9, 0.95)
    ]
    chosen[1].by_label[f"good{HOSTILE}"] = None
    fingerprint = FastRnn.from_pretrained(copy).fingerprint
    write_thresholds(copy / "thresholds.json", fingerprint, chosen)
    with serve(write_page(copy)) as url:
        browser.get_log("performance")
        browser.get(url)
        area = wait(lambda: browser.find_elements("id", "text"))[0]
        wait(area.is_displayed)
        area.send_keys("the miro box")
        wait(lambda: browser.find_element("id", "answer").text == "good" + HOSTILE)
        assert browser.find_element("id", "person").text == "Needs no person for the target 0.9."
        marks = wait(lambda: browser.find_elements("css selector", "#words mark"))
        effects = {
            mark.text: float(mark.get_attribute("title").replace("−", "-")) for mark in marks
        }
        assert max(effects, key=effects.get) == "miro"
        assert f"speaks for good{HOSTILE}" in browser.find_element("id", "legend").text
        area.send_keys(HOSTILE)
        wait(lambda: HOSTILE in browser.find_element("id", "words").get_property("textContent"))
        button = browser.find_element("css selector", "#examples button")
        button.click()
        assert (
            area.get_property("value") == button.text
            and browser.execute_script("return window.hacked") is None
        )
        assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
        events = (
            json.loads(entry["message"])["message"] for entry in browser.get_log("performance")
        )
        sent = [
            e["params"]["request"]["url"]
            for e in events
            if e["method"] == "Network.requestWillBeSent"
        ]
        assert {urlsplit(asked).netloc for asked in sent if asked.startswith(("http", "ws"))} == {
            urlsplit(url).netloc
        }


@pytest.mark.slow
def test_a_page_whose_packages_cannot_be_loaded_names_the_remedy(copy, browser):
    page = export(copy, web=True).web
    index = page / "index.html"
    index.write_text(
        index.read_text(encoding="utf-8").replace("cdn.jsdelivr.net", "cdn.invalid"),
        encoding="utf-8",
    )
    with serve(page) as url:
        for address, advice in (
            (url, "export --web --npm"),
            (index.as_uri(), "python -m http.server"),
        ):
            browser.get(address)
            assert advice in wait(
                lambda: (
                    (found := browser.find_element("id", "status").text)
                    and "cannot" in found
                    and found
                )
            )


def test_a_page_without_npm_names_a_cdn_and_a_folder_without_it_is_refused(copy, tmp_path):
    page = export(copy, output_dir=tmp_path / "out", web=True).web
    assert page == tmp_path / "out/web"
    assert {path.name for path in page.iterdir()} == {
        *("index.html", "model.onnx", "thresholds.json", "tokenizer.json")
    }
    assert "https://cdn.jsdelivr.net/npm/onnxruntime-web@" in (page / "index.html").read_text(
        encoding="utf-8"
    )
    with pytest.raises(
        UserError, match=f"Type: npm install --prefix {tmp_path} onnxruntime-web@.* @huggingface"
    ):
        export(copy, web=True, npm=tmp_path)


@pytest.mark.slow
def test_the_wheel_has_every_file_that_programs_read(tmp_path):
    options = ["--quiet", "--no-deps", "--no-build-isolation", "-w", tmp_path]
    wheel = [sys.executable, "-m", "pip", "wheel", *options, ROOT]
    subprocess.run(wheel, check=True)
    packed = set(zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist())
    tracked = subprocess.run(
        ["git", "ls-files", "hf_rnn"], cwd=ROOT, capture_output=True, text=True
    ).stdout.split()
    needed = {name for name in tracked if not name.endswith((".md", ".c")) or "/hub/card" in name}
    assert "hf_rnn/export/index.html" in needed and needed <= packed


# ---- transformers.js ----

NODE = """
const {pipeline, env} = await import(process.argv[2]);
env.localModelPath = process.argv[3]; env.allowRemoteModels = false;
const [texts, models] = JSON.parse(process.argv[4]), found = [];
for (const [name, task, options] of models) {
  const run = await pipeline(task, name), result = await run(texts, options);
  found.push(result.tolist ? result.tolist() : result);
}
console.log(JSON.stringify(found));
"""


@pytest.mark.slow
# versions 3 and 4, see .ci/run
@pytest.mark.parametrize("package", ["@huggingface/transformers", "transformers-4"])
def test_pipelines_of_transformers_js_give_the_scores_of_python(package, tmp_path):
    library = NPM / "node_modules" / package / "dist/transformers.node.mjs"
    if shutil.which("node") is None or not library.is_file():
        pytest.skip("missing: node, and the npm install of .ci/run")
    texts = [*TWEETS[:20], *FOREIGN, "Anna Bo sees the box near Old Town.", "miro \x07 sand zzz"]
    tasks = dict.fromkeys(MODELS, "text-classification")
    tasks |= dict.fromkeys(("encoder", "multilingual"), "feature-extraction")
    del tasks["numbers"]
    options = {
        "text-classification": {"top_k": None},
        "feature-extraction": {"pooling": "mean", "normalize": True},
    }
    for name in (*tasks, "numbers"):
        folder = MULTILINGUAL if name == "multilingual" else make_folder(tmp_path / name, name)
        written = export(
            folder, output_dir=tmp_path / "out" / re.sub(r"\W+", "-", name)
        ).file.parent
        assert (written / "transformers_js").is_dir() == (name != "numbers"), (
            "its pipelines have no numbers"
        )
    places = {name: re.sub(r"\W+", "-", name) + "/transformers_js" for name in tasks}
    models = [(places[name], task, options.get(task, {})) for name, task in tasks.items()]
    given = [library.as_uri(), f"{tmp_path}/out/", json.dumps([texts, models])]
    (tmp_path / "run.mjs").write_text(NODE)
    done = subprocess.run(["node", tmp_path / "run.mjs", *given], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    for name, answers in zip(tasks, json.loads(done.stdout), strict=True):
        if tasks[name] == "feature-extraction":
            encoder = hf_rnn.SentenceEncoder.from_pretrained(
                MULTILINGUAL if name == "multilingual" else ENGLISH
            )
            np.testing.assert_allclose(answers, encoder.encode(texts), atol=1e-5)
            continue
        run = pipeline(tasks[name], str(tmp_path / name), trust_remote_code=False)
        for row, other in zip(run(texts, top_k=None), answers, strict=True):
            assert [entry["label"] for entry in other] == [entry["label"] for entry in row]
            scores = [float(entry["score"]) for entry in row]
            assert [entry["score"] for entry in other] == pytest.approx(scores, abs=2e-6)
