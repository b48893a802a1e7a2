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
from tokenizers.pre_tokenizers import Split, UnicodeScripts
from transformers import AutoTokenizer

import hf_rnn
from hf_rnn import (
    OnnxModel,
    RnnConfig,
    RnnForCausalLM,
    RnnForSequenceClassification,
    RnnForTokenClassification,
    train_tokenizer,
)
from hf_rnn.hub.loading import load_model
from hf_rnn.hub.model_folder import FinishedFolder
from hf_rnn.inference.onnx.parity import make_texts
from hf_rnn.inference.reference import compute_logits, tokenize
from hf_rnn.inference.web.page import find_engine, make_page
from hf_rnn.tasks.answers import compute_scores
from hf_rnn.tokenizers.word_level import add_separator, mark_capitals, save_tokenizer
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


TAGS = dict(enumerate(("O", "B-name", "I-name", "B-place", "I-place")))
EXACT = {"exact": True, "model_max_length": 10**30, "lowercase": False}
# head: class, options of the tokenizer, settings of the model
HEADS = {
    "pairs": (RnnForSequenceClassification, {"model_max_length": 21}, {"pair_encoding": "siamese"}),
    "tagger of english": (RnnForTokenClassification, None, {"id2label": TAGS, "word_forms": 64, "crf": True}),
    "tagger of pieces": (RnnForTokenClassification, {"tokenizer": "bpe", "normalizer": "cased"}, {"id2label": TAGS}),
    "tagger of words": (RnnForTokenClassification, {"normalizer": "tweet"}, {"id2label": {0: "noun", 1: "verb"}}),
    "writer of pieces": (RnnForCausalLM, {"tokenizer": "bpe", **EXACT}, {"block_type": "residual"}),
    "writer of words": (RnnForCausalLM, {"normalizer": "cased", **EXACT}, {"cell_type": "lstm"}),
    "encoder": (),
}


def make_head(folder, name):
    """Save a model with random weights, large enough for answers that differ."""
    if name == "encoder":
        return shutil.copytree(ENGLISH, folder)
    kind, options, settings = HEADS[name]
    if options is None:
        tokenizer = AutoTokenizer.from_pretrained(ENGLISH)
        mark_capitals(tokenizer)
    else:
        tokenizer = train_tokenizer(TWEETS, 2, **{"max_vocab_size": 900, **options})
    if name == "pairs":
        add_separator(tokenizer)
        settings = {**settings, "sep_token_id": tokenizer.sep_token_id}
    torch.manual_seed(0)
    ends = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    sizes = {"vocab_size": len(tokenizer), "embedding_size": 12, "residual_size": 12, "hidden_size": 9}
    model = kind(RnnConfig(**sizes, **ends, bidirectional=kind is not RnnForCausalLM, **settings))
    if settings.get("word_forms"):
        model.words.read(tokenizer.convert_ids_to_tokens(range(len(tokenizer))))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    model.save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    return folder


def find_npm():
    try:
        return find_engine(NPM)
    except UserError:
        pytest.skip("missing: npm install --prefix .node onnxruntime-web @huggingface/tokenizers")


def write_page(folder, **options):
    """Return the folder of the page of a model."""
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    from hf_rnn.inference.onnx import export

    find_npm()
    return export(folder, web=True, npm=NPM, **options).web


def answer(folder, count=500):
    """Return texts and their scores by Python."""
    model, tokenizer = load_model(folder, device="cpu")
    texts = [*make_texts(tokenizer, TWEETS[:100]), " ".join(TWEETS)[:20000], *TWEETS[100:]][:count]
    ids = tokenize(tokenizer, texts)
    assert len(texts) == count and max(map(len, ids)) > 600 and [] in ids, "premise"
    return texts, compute_scores(compute_logits(model, tokenizer, ids).numpy(), model.config)


def run_page(browser, page, texts):
    """Return the answers of a page: scores in batches of unequal lengths, other answers one by one."""
    browser.get((page / "index.html").as_uri())
    browser.set_script_timeout(300)
    found = browser.execute_async_script(
        """
        const [texts, done] = arguments, all = [];
        const write = async (story) => {
          for await (const _ of network.write(story, 0)) if (story.made.length >= 20) break;
          return network.decode(story.made);
        };
        (async () => {
          await ready;
          const {tag, encode, begin} = network;
          const answer = tag ?? (encode ? (text) => encode([text]) : (text) => write(begin(text)));
          if (network.score)
            for (let i = 0; i < texts.length; i += 4) all.push(...await network.score(texts.slice(i, i + 4)));
          else for (const [text] of texts) all.push(await answer(text));
          return all;
        })().then(done, (error) => done(String(error)));
        """,
        texts,
    )
    assert isinstance(found, list), found
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", HEADS)
def test_a_browser_gives_the_answers_of_every_head(browser, tmp_path, name):
    folder = make_head(tmp_path / "model", name)
    page, model = write_page(folder), OnnxModel.from_pretrained(folder)
    texts = [
        *make_texts(load_model(folder, allow_encoder=True)[1], TWEETS[:100]),
        "<sep> <eos> [SEP]",
        "Pi\u00f1a " * 2000,
    ]
    given = (
        [[text] for text in texts]
        if name != "pairs"
        else [list(pair) for pair in zip(texts, texts[::-1], strict=True)]
    )
    found = run_page(browser, page, given)
    if name == "pairs":
        np.testing.assert_allclose(found, model.predict_proba(given), atol=1e-4)
    elif name == "encoder":
        np.testing.assert_allclose([vectors[0] for vectors in found], model.encode(texts), atol=1e-4)
    elif name.startswith("writer"):
        expected = [
            model.generate(text, 20, temperature=0) if model.tokenizer([text])["input_ids"][0] else ""
            for text in texts
        ]
        assert found == expected and len(set(expected)) > 1
    else:
        for text, answer, expected in zip(texts, found, model.predict(texts), strict=True):
            units = text.encode("utf-16-le")  # JavaScript counts them
            for span, wanted in zip(answer, expected["entities"], strict=True):
                shown = units[2 * span["start"] : 2 * span["end"]].decode("utf-16-le")
                before = len(units[: 2 * span["start"]].decode("utf-16-le"))
                assert (shown, before, span["label"]) == (wanted["text"], wanted["start"], wanted["label"])
                assert span["score"] == pytest.approx(wanted["score"], abs=1e-4)
        assert len({span["label"] for answer in found for span in answer}) > 1, "premise"


@pytest.mark.slow
@pytest.mark.parametrize("name", [*VARIANTS, *MORE])
def test_a_browser_gives_the_scores_of_python(browser, tmp_path, name):
    fields = {"problem_type": name, "label_thresholds": MORE[name]} if name in MORE else {}
    folder = make_folder(tmp_path / "model", "tweet" if name in MORE else name, **fields)
    page = write_page(folder)
    texts, scores = answer(folder)
    found = run_page(browser, page, [[text] for text in texts])
    assert len(set(scores.argmax(axis=1))) > 1, "premise"
    np.testing.assert_allclose(found, scores, atol=1e-4)


def test_the_page_is_small_and_asks_nobody():
    content = "".join(
        (ROOT / "hf_rnn/inference/web" / name).read_text("utf-8") for name in ("index.html", "network.js")
    )
    assert len(content.encode()) < 26_000
    assert not re.search(r"\b(fetch|XMLHttpRequest|WebSocket|sendBeacon|innerHTML|eval|https?://\w)\b", content)


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        (Split(",", "merged_with_previous"), "in JavaScript its tokenizer cuts 'a, b' otherwise"),
        (UnicodeScripts(), "cannot run its tokenizer: .*UnicodeScripts"),
    ],
)
def test_a_tokenizer_that_javascript_cannot_run_is_refused(tmp_path, cut, message):
    engine = find_npm()
    if shutil.which("node") is None:
        pytest.skip("missing: node")
    tokenizer = train_tokenizer(["a b c"], 1)
    tokenizer.backend_tokenizer.pre_tokenizer = cut
    config, head = RnnConfig(vocab_size=5), "RnnForSequenceClassification"
    with pytest.raises(UserError, match=f"me has no web page: .*{message}"):
        make_page("me", head, config, tokenizer, FinishedFolder(tmp_path), engine, ["a", "a, b"])


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
    assert {path.name for path in page.iterdir()} == {"index.html", "network.js", "model.js", "engine.js"}
    assert FinishedFolder(folder).web in FinishedFolder(folder).named_files(), "a new training removes it"
    with serve(page) as url:
        browser.get_log("performance")
        browser.get(f"{url}/0/index.html" if way == "http" else (page / "index.html").as_uri())
        area = wait(lambda: browser.find_elements("id", "text"))[0]
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


@pytest.mark.slow
def test_pages_of_other_heads_work_by_hand(browser, tmp_path):
    def start(name):
        folder = make_head(tmp_path / name, name)
        browser.get((write_page(folder) / "index.html").as_uri())
        wait(wait(lambda: browser.find_elements("id", "text"))[0].is_displayed)
        return folder, lambda: browser.find_element("id", "words").get_property("textContent")

    _, words = start("tagger of english")
    text = f"{HOSTILE} Anna \U0001f600 http://x.org/y"
    type_text(browser, text)
    wait(lambda: browser.find_elements("css selector", "#words mark[data-label]"))
    assert words() == text and browser.execute_script("return window.hacked") is None

    start("pairs")
    first, second = browser.find_elements("css selector", "textarea")
    first.send_keys("so good")
    assert not browser.find_element("id", "result").is_displayed()
    second.send_keys("so bad")
    wait(lambda: len(browser.find_elements("css selector", "#words mark")) == 4)

    folder, words = start("writer of pieces")
    type_text(browser, "so")
    browser.execute_script("document.getElementById('temperature').value = 0")
    button = browser.find_element("id", "write")
    button.click()
    wait(lambda: len(words()) > 10)
    button.click()  # stop
    wait(lambda: button.text == "Write on")
    stopped = words()
    button.click()
    wait(lambda: len(words()) > len(stopped))
    wait(lambda: button.text == "Write on")
    # a fast page ends before the click that stops it, which then writes on
    expected = "so" + OnnxModel.from_pretrained(folder).generate("so", len(words()), temperature=0)
    assert len(words()) > len(stopped) and expected.startswith(words()[:-4]), "the state is carried on"

    folder, _ = start("encoder")
    texts = ["where is the station?", "how do I get to the train?", "I love this film"]
    type_text(browser, "\n".join([*texts, "", " "]))
    cells = wait(lambda: browser.find_elements("css selector", "#table td"))
    vectors = OnnxModel.from_pretrained(folder).encode(texts)
    cosines = (vectors @ vectors.T)[[1, 2, 2], [0, 0, 1]]
    numbers = [cell.text for cell in cells if "." in cell.text]
    assert numbers == [f"{cosine:.2f}" for cosine in cosines]
