"""The page: its answers, and the whole page in a real browser, which asks nobody else for anything."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import types
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from hf_rnn.hub.loading import load_model
from hf_rnn.hub.model_folder import FinishedFolder
from hf_rnn.inference import demo
from hf_rnn.tasks import DEFAULT_TASK, get_task
from hf_rnn.utils.errors import UserError

HOSTILE = '<script>window.hacked = 1</script><img src=x onerror="window.hacked = 1"> ${window.hacked = 1} {{x}} miro'


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--model is missing"),
        (["--model", "x", "--share"], "unknown option '--share'"),
        (["--model", "x"], "pip install '.[demo]'"),
    ],
)
def test_mistakes(command, monkeypatch, arguments, message):
    monkeypatch.setitem(sys.modules, "gradio", None)  # as if it were not installed
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "True")
    code, _, err = command("demo", *arguments)
    assert (code, err.count("\n")) == (2, 1)
    assert message in err


def test_the_revision_is_loaded_without_analytics(command, monkeypatch):
    asked = []

    def find(*args):
        asked.append((*args, os.environ["GRADIO_ANALYTICS_ENABLED"]))
        raise UserError("it is missing")

    monkeypatch.setitem(sys.modules, "gradio", types.ModuleType("gradio"))
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "True")
    monkeypatch.setattr(demo, "find_folder", find)
    result = command("demo", "--model", "me/films", "--revision", "v1")
    assert result == (2, "", "hf-rnn demo: error: it is missing\n")
    assert asked == [("me/films", "v1", "False")]


def test_a_page_is_served_at_one_address_and_not_shared(monkeypatch):
    gradio = types.SimpleNamespace(themes=types.SimpleNamespace(Default=dict))
    monkeypatch.setattr(demo, "_import_gradio", lambda: gradio)
    launched = []
    page = types.SimpleNamespace(local_url="http://here/", launch=lambda **settings: launched.append(settings))
    assert demo.serve(page) == demo.serve(page, "0.0.0.0", 7861) == "http://here/"
    found = [(settings["server_name"], settings["server_port"], settings["share"]) for settings in launched]
    assert found == [("127.0.0.1", None, False), ("0.0.0.0", 7861, False)]

    def fail(**settings):
        raise OSError("Cannot find empty port")

    page.launch = fail
    with pytest.raises(UserError, match="served at port 7861 of 127.0.0.1: set --port"):
        demo.serve(page, port=7861)
    for host in ("203.0.113.9", "no such host", "a" * 80 + ".b", ""):
        with pytest.raises(UserError, match="leave out --host"):
            demo.serve(page, host)


def test_the_heading_has_name_and_labels_as_text():
    html = demo._heading("<i>me</i>", ["<u>bad</u>", "good", "plain"], get_task(DEFAULT_TASK))
    assert "&lt;i&gt;me&lt;/i&gt;</h1>" in html
    assert "whether a text is <b>&lt;u&gt;bad&lt;/u&gt;</b>, <b>good</b> or <b>plain</b>." in html
    many = demo._heading("x", [f"l{number}" for number in range(11)], get_task(DEFAULT_TASK))
    assert "<b>l9</b> or another label." in many and "l10" not in many


def test_examples_are_those_of_the_card_in_turns(trained, tmp_path):
    folder = FinishedFolder(shutil.copytree(trained.folder, tmp_path / "model"))
    facts = json.loads(folder.card_facts.read_text())
    facts["examples"] = {"bad": ["b1", "b2", "b3"], "good": ["g1"], "plain": ["p1", "p2", "p3"]}
    folder.card_facts.write_text(json.dumps(facts))
    assert demo.read_examples(folder) == ["b1", "g1", "p1", "b2", "p2", "b3"]
    for content in ("{", "[]", "{}"):
        folder.card_facts.write_text(content)
        assert demo.read_examples(folder) == list(demo._EXAMPLES)


def test_a_text_gets_scores_and_colours(trained):
    model = load_model(trained.folder)
    scores, html = demo.label_text(*model, "the miro box")
    assert list(scores) == ["bad", "good", "plain"] and max(scores, key=scores.get) == "good"
    assert ">miro<" in html and "<b>good</b>" in html
    for text in ("", " \n "):
        assert demo.label_text(*model, text) == (None, "<p>Type a text first.</p>")
    scores, html = demo.label_text(*model, "a \ud800 <b>")
    assert scores is None and "not UTF-8" in html and "<b>" not in html


# In a browser

# Records each look-up of another machine by the page's own process.
WATCH = """
import os, socket
real = socket.getaddrinfo
def watched(host, *arguments, **settings):
    if str(host) not in ("127.0.0.1", "localhost", "None"):
        with open(os.environ["LOOKED_UP"], "a") as stream:
            stream.write(f"{host}\\n")
        raise socket.gaierror("there is no network in this test")
    return real(host, *arguments, **settings)
socket.getaddrinfo = watched
"""


def start(arguments, folder, **variables):
    """Run Python and return its process and the first line that it prints."""
    pytest.importorskip("gradio", reason="Gradio is not installed: pip install '.[demo]'")
    (folder / "sitecustomize.py").write_text(WATCH)
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    paths = {"PYTHONPATH": f"{folder}:{Path.cwd()}", "LOOKED_UP": str(folder / "looked_up"), **variables}
    # Ctrl-C may be ignored where tests run in the background
    options = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)} if os.name == "posix" else {}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, *map(str, arguments)], env={**env, **paths}, **pipes, **options)
    line = process.stdout.readline()
    if not line:
        pytest.fail(process.communicate(timeout=10)[1])
    return process, line


@pytest.fixture(scope="module")
def served(trained, tmp_path_factory):
    """The command, as a user starts it: its URL, and a file with its look-ups in the network."""
    folder = tmp_path_factory.mktemp("served")
    process, line = start(["-m", "hf_rnn", "demo", "--model", trained.folder], folder)
    assert line.endswith(" (Ctrl-C ends it)\n"), line
    yield line.split()[0], folder / "looked_up"
    process.send_signal(signal.SIGINT)
    try:
        _, err = process.communicate(timeout=5)
    finally:
        process.kill()
    assert (process.returncode, err) == (130, "")


class Page:
    """The actions and views of a visitor."""

    def __init__(self, browser, url):
        self.browser = browser
        browser.get_log("performance")
        browser.get(url)
        self.until(lambda: self.find("textarea") and self.button("Label it"), "the page is loaded")

    def until(self, condition, what, seconds=60):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                if found := condition():
                    return found
            except Exception as error:  # the element was drawn again meanwhile
                if type(error).__name__ != "StaleElementReferenceException":
                    raise
            time.sleep(0.05)
        raise AssertionError(f"timeout before {what}")

    def find(self, selector):
        found = [element for element in self.browser.find_elements("css selector", selector) if element.is_displayed()]
        return found[0] if found else None

    def button(self, text):
        shown = self.browser.find_elements("css selector", "button, [role=tab]")
        return next((button for button in shown if button.is_displayed() and button.text == text), None)

    def text(self):
        return self.find("body").text.replace("\n", "")

    def words(self):
        return self.browser.execute_script("return document.querySelector('#words').textContent;")

    def label(self):
        found = self.find("[data-testid=label-output-value]")
        return found.text if found else None

    def hosts(self):
        """Return the hosts that the browser asked since the page was loaded."""
        events = (json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance"))
        sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
        urls = [urlsplit(request["request"]["url"]) for request in sent]
        return {url.netloc for url in urls if url.scheme in ("http", "https", "ws", "wss")}


@pytest.mark.slow
def test_the_page_in_a_browser(served, browser, trained):
    page = Page(browser, served[0])
    page.find("textarea").send_keys("the miro box")
    page.button("Label it").click()
    page.until(lambda: page.label() == "good" and "the miro box" in page.words(), "label and words are shown")
    strongest = browser.execute_script(
        "const strength = mark => Number(getComputedStyle(mark).backgroundColor.match(/[\\d.]+/g)[3] ?? 1);"
        "return [...document.querySelectorAll('#words mark')].sort((a, b) => strength(b) - strength(a))[0].textContent"
    )
    assert strongest == "miro"
    example = demo.read_examples(FinishedFolder(trained.folder))[0]
    page.button(example).click()
    page.until(lambda: example in page.words(), "the example is labelled")
    page.find("textarea").clear()
    page.find("textarea").send_keys(HOSTILE)
    page.button("Label it").click()
    page.until(lambda: "{{x}}" in page.words(), "the text is shown as text")
    assert browser.execute_script("return window.hacked") is None
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    assert page.hosts() == {urlsplit(served[0]).netloc} and not served[1].exists(), "nothing comes from elsewhere"


@pytest.mark.slow
def test_as_the_app_of_a_space(trained, tmp_path):
    app = tmp_path / "app.py"
    app.write_text(f"from hf_rnn.inference.demo import build\nbuild({str(trained.folder)!r}).launch()\n")
    process, line = start([app], tmp_path)
    try:
        url = next(part for part in line.split() if part.startswith("http"))
        with urllib.request.urlopen(url) as response:
            assert "This recurrent network says" in response.read().decode()
    finally:
        process.terminate()
        process.wait(timeout=10)
