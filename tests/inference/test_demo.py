"""The page: what its buttons answer, and the whole of it in a real browser, which asks nobody else for anything."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import types
import urllib.request
from collections import deque
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from conftest import run_script

from hf_rnn import FastRnn
from hf_rnn.hub.model_folder import FinishedFolder
from hf_rnn.inference import demo
from hf_rnn.inference.predict_file import Answer
from hf_rnn.utils.errors import UserError

RIGHT_TO_LEFT = "\u05e9\u05dc\u05d5\u05dd miro \u05e2\u05d5\u05dc\u05dd"
HOSTILE = (
    '<script>window.hacked = 1</script><img src=x onerror="window.hacked = 1"> ${window.hacked = 1} {{hacked}} miro'
)

# What needs no Gradio


@pytest.fixture
def answers(trained):
    """The page's buttons, with updates as plain dictionaries."""
    return demo._Answers(types.SimpleNamespace(update=dict), FastRnn.from_pretrained(trained.folder))


def test_without_gradio_the_message_says_what_to_install(trained, command, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)  # as if it were not installed
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "as it was")
    code, out, err = command("demo", "--model", trained.folder)
    assert (code, out) == (2, "")
    assert err == "hf-rnn demo: error: the page needs Gradio: pip install 'hf-rnn[demo]'\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--model is missing"),
        (["--model", "x", "--port", "0"], "--port must be from 1 to 65535, found 0"),
        (["--model", "x", "--port", "65536"], "--port must be from 1 to 65535, found 65536"),
        (["--model", "x", "--share"], "unknown option '--share'"),
    ],
)
def test_mistakes(command, arguments, message):
    code, _, err = command("demo", *arguments)
    assert (code, err.count("\n")) == (2, 1)
    assert message in err


def test_gradio_is_told_to_send_nothing(monkeypatch):
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "True")
    monkeypatch.setitem(sys.modules, "gradio", types.ModuleType("gradio"))
    demo._import_gradio()
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"


@pytest.mark.parametrize("as_app", [False, True])
def test_a_page_is_of_the_revision_asked_for(command, monkeypatch, capfd, as_app):
    """By the command, and as the app of a Space."""
    asked = []

    def find(*args):
        asked.append(args)
        raise UserError("it is not there")

    monkeypatch.setitem(sys.modules, "gradio", types.ModuleType("gradio"))
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "as it was")
    if as_app:
        monkeypatch.setattr("hf_rnn.hub.loading.find_folder", find)
        monkeypatch.setenv("MODEL_ID", "me/films")
        monkeypatch.setenv("MODEL_REVISION", "v1")
        code, out, err = run_script(demo.__file__, [], monkeypatch, capfd)
        assert (code, out, err) == ("hf-rnn demo: error: it is not there", "", "")
    else:
        monkeypatch.setattr(demo, "find_folder", find)
        told = command("demo", "--model", "me/films", "--revision", "v1")
        assert told == (2, "", "hf-rnn demo: error: it is not there\n")
    assert asked == [("me/films", "v1")]


def test_an_app_of_no_model(monkeypatch, capfd):
    monkeypatch.delenv("MODEL_ID", raising=False)
    code, _, _ = run_script(demo.__file__, [], monkeypatch, capfd)
    assert code == "MODEL_ID is not set: give the id of a model on the Hub, owner/name"


@pytest.mark.parametrize(
    ("flags", "where"),
    [((), ("127.0.0.1", None)), (("--host", "0.0.0.0", "--port", "7861"), ("0.0.0.0", 7861))],
)
def test_the_command_serves_where_it_is_told_until_ctrl_c(command, monkeypatch, flags, where):
    told, page = [], types.SimpleNamespace(close=lambda verbose: told.append("closed"))

    def wait():
        raise KeyboardInterrupt

    def serve(served, host, port):
        assert served is page
        told.append((host, port))
        return "http://here:1/"

    monkeypatch.setattr("hf_rnn.cli.demo.build", lambda model, revision: page)
    monkeypatch.setattr("hf_rnn.cli.demo.serve", serve)
    waiting = types.SimpleNamespace(Event=lambda: types.SimpleNamespace(wait=wait))
    monkeypatch.setattr("hf_rnn.cli.demo.threading", waiting)
    assert command("demo", "--model", "x", *flags) == (130, "http://here:1/ (Ctrl-C ends it)\n", "")
    assert told == [where, "closed"]


class Launched:
    """A page that is not served, and keeps what it was launched with."""

    local_url = "http://127.0.0.1:7861/"
    error = None

    def launch(self, **settings):
        self.settings = settings
        if self.error:
            raise self.error


@pytest.fixture
def launched(monkeypatch):
    gradio = types.SimpleNamespace(themes=types.SimpleNamespace(Default=dict))
    monkeypatch.setattr(demo, "_import_gradio", lambda: gradio)
    return Launched()


def test_a_page_is_served_at_one_address_and_shared_with_nobody(launched):
    assert demo.serve(launched, "0.0.0.0", 7861) == launched.local_url
    settings = launched.settings
    assert (settings["server_name"], settings["server_port"], settings["share"]) == ("0.0.0.0", 7861, False)
    demo.serve(launched)
    assert (launched.settings["server_name"], launched.settings["server_port"]) == ("127.0.0.1", None)


def test_a_page_that_cannot_be_served(launched):
    launched.error = OSError("Cannot find empty port")
    with pytest.raises(UserError, match="served at port 7861 of 127.0.0.1: is it taken"):
        demo.serve(launched, port=7861)
    with pytest.raises(UserError, match="served at 127.0.0.1: is it taken"):
        demo.serve(launched)


def heading(name, labels):
    config = types.SimpleNamespace(id2label=dict(enumerate(labels)), num_labels=len(labels))
    return demo._heading(name, types.SimpleNamespace(config=config))


def test_the_heading_names_model_and_labels_as_text():
    html = heading("<i>me</i>", ["<u>bad</u>", "good", "plain"])
    assert "&lt;i&gt;me&lt;/i&gt;</h1>" in html
    assert "whether a text is <b>&lt;u&gt;bad&lt;/u&gt;</b>, <b>good</b> or <b>plain</b>." in html
    assert "whether a text is <b>good</b>." in heading("x", ["good"])
    assert "<b>l8</b> or <b>l9</b>." in heading("x", [f"l{number}" for number in range(10)])
    many = heading("x", [f"l{number}" for number in range(11)])
    assert "is one of 11 things, such as <b>l0</b>, <b>l1</b>, <b>l2</b>." in many


@pytest.mark.parametrize("host", ["203.0.113.9", "no such host", "a" * 80 + ".b", ""])
def test_an_address_of_no_machine_here(host):
    with pytest.raises(UserError, match="is no address of this machine: leave out --host"):
        demo.serve(None, host)


@pytest.mark.parametrize("port", [0, 65536])
def test_a_port_that_is_none(port):
    with pytest.raises(UserError, match=f"port must be from 1 to 65535, found {port}"):
        demo.serve(None, port=port)


def test_a_text_gets_scores_and_colours(answers):
    scores, html = answers.for_text("the miro box")
    assert max(scores, key=scores.get) == "good"
    assert list(scores) == ["bad", "good", "plain"]
    assert "speaks for <b>good</b>" in html


@pytest.mark.parametrize("text", ["", " \n ", None])
def test_an_empty_box(answers, text):
    assert answers.for_text(text) == (None, "<p>Type a text first.</p>")


def test_what_a_browser_should_not_send(answers):
    scores, html = answers.for_text("a \ud800 <b>")
    assert scores is None
    assert "not UTF-8" in html and "<b>" not in html


def test_a_file_gets_a_file(answers, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "MAX_LINES", 3)
    monkeypatch.setattr(demo, "_SHOWN_LINES", 2)
    (tmp_path / "texts.txt").write_text("miro\nselk <b>\nsand\nbox\n")
    said, file, table = answers.for_file(str(tmp_path / "texts.txt"), "tsv")
    with Path(file["value"]).open(newline="") as stream:
        rows = list(csv.DictReader(stream, dialect="excel-tab"))
    assert [row["text"] for row in rows] == ["miro", "selk <b>", "sand"]
    assert [row["label"] for row in rows] == ["good", "bad", "plain"]
    assert [row[:2] for row in table["value"]] == [["miro", "good"], ["selk <b>", "bad"]]
    assert "3 lines" in said and "only the first 3 are labelled here" in said and "shows the first 2" in said


def test_two_people_get_their_own_files(answers, tmp_path, monkeypatch):
    theirs = []

    class Rooms(deque):
        def append(self, room):
            super().append(room)
            if not theirs:  # another request comes in between
                theirs.append(None)
                theirs.append(answers.for_file(str(tmp_path / "other.txt"), "csv"))

    monkeypatch.setattr(answers, "_rooms", Rooms(maxlen=16))
    (tmp_path / "texts.txt").write_text("miro\n")
    (tmp_path / "other.txt").write_text("selk\n")
    _, mine, _ = answers.for_file(str(tmp_path / "texts.txt"), "csv")
    read = [Path(file["value"]).read_text().splitlines()[1].split(",")[0] for file in (mine, theirs[1][1])]
    assert read == ["miro", "selk"]


def test_a_file_of_just_as_many_lines_as_are_labelled_and_shown(answers, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "MAX_LINES", 3)
    monkeypatch.setattr(demo, "_SHOWN_LINES", 3)
    (tmp_path / "texts.txt").write_text("miro\nselk\nmiro\n")
    said, _, table = answers.for_file(str(tmp_path / "texts.txt"), "csv")
    assert said == "<p><b>3 lines</b>: 2 good, 1 bad.</p>"
    assert len(table["value"]) == 3


def test_a_line_that_is_no_text_is_shown_and_counted(answers, tmp_path):
    (tmp_path / "texts.txt").write_bytes(b"miro\nsand \xff\nmiro\n")
    said, _, table = answers.for_file(str(tmp_path / "texts.txt"), "csv")
    text, error, score = table["value"][1]
    assert (text, score) == ("sand \\xff", None)
    assert error.startswith("line 2: not UTF-8: byte 0xff")
    assert said == "<p><b>3 lines</b>: 2 good, 1 refused (the file says why).</p>"


def test_labels_and_names_of_files_are_text(answers, tmp_path):
    assert ": 1 &lt;b&gt;." in demo._tell([Answer("x", "<b>", 1.0)], more=False)
    (tmp_path / "<b>.txt").write_bytes(b"\x1f\x8b\x08\x00")
    said, *_ = answers.for_file(str(tmp_path / "<b>.txt"), "csv")
    assert "&lt;b&gt;.txt" in said


def test_of_many_labels_the_most_frequent_are_counted():
    found = [Answer("x", f"l{number}", 1.0) for number in range(12) for _ in range(number + 1)]
    said = demo._tell(found, more=False)
    assert ": 12 l11, 11 l10, " in said and said.endswith(", 3 l2.</p>")


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "The file is empty"), (b"\x1f\x8b\x08\x00", "texts.txt"), (None, "Choose a file")]
)
def test_no_file_to_label(answers, tmp_path, content, message):
    path = tmp_path / "texts.txt"
    path.write_bytes(content or b"")
    said, *hidden = answers.for_file(None if content is None else str(path), "csv")
    assert message in said
    assert hidden == [{"value": None, "visible": False}] * 2


@pytest.mark.parametrize("content", [None, "{", "[]", '{"examples": 3}', '{"examples": {"a": "text", "b": [1]}}'])
def test_a_folder_without_examples_of_its_own(tmp_path, content):
    if content is not None:
        (tmp_path / "card_facts.json").write_text(content)
    assert demo._read_card(FinishedFolder(tmp_path), "me/films") == ("me/films", list(demo._EXAMPLES))


def test_examples_of_a_folder_are_taken_in_turns(tmp_path):
    examples = {"bad": ["b1", "b2", "b3"], "good": ["g1"], "plain": ["p1", "p2", "p3"]}
    (tmp_path / "card_facts.json").write_text(json.dumps({"examples": examples}))
    found = demo._read_card(FinishedFolder(tmp_path), str(tmp_path))
    assert found == (tmp_path.name, ["b1", "g1", "p1", "b2", "p2", "b3"])


# In a browser

# Where the page's own process looks up anybody but this machine, it leaves a trace.
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


def environment(tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(WATCH)
    own = {"PYTHONPATH": str(tmp_path / "site"), "LOOKED_UP": str(tmp_path / "looked_up"), "HOME": str(tmp_path)}
    own |= {"GRADIO_TEMP_DIR": str(tmp_path / "gradio"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return {"PATH": os.environ["PATH"], **own}


def start(arguments, env):
    """Run Python and return its process and the first line that it prints."""
    # whoever runs the tests in the background may have Ctrl-C ignored
    options = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)} if os.name == "posix" else {}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, *map(str, arguments)], env=env, **pipes, **options)
    line = process.stdout.readline()
    if not line:
        process.wait(timeout=10)
        pytest.fail(process.stderr.read())
    return process, line


@pytest.fixture(scope="module")
def served(trained, tmp_path_factory):
    """The command, as a user starts it: its URL, and a file with what it looked up in the network."""
    pytest.importorskip("gradio", reason="Gradio is not installed: pip install '.[demo]'")
    tmp_path = tmp_path_factory.mktemp("served")
    process, line = start(["-m", "hf_rnn", "demo", "--model", trained.folder], environment(tmp_path))
    assert line.endswith(" (Ctrl-C ends it)\n"), line
    yield line.split()[0], tmp_path / "looked_up"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (130, ""), "Ctrl-C ends it, and nothing was complained of until then"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install '.[test]'")
    found = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    if missing := [name for name, path in found.items() if path is None]:
        pytest.skip(f"there is no {' and no '.join(missing)}: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = found["chromium"]
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    flags += [f"--user-data-dir={tmp_path_factory.mktemp('profile')}", "--window-size=1280,900"]
    for flag in flags:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(found["chromedriver"]))
    yield driver
    driver.quit()


class Page:
    """What a visitor does on the page, and sees."""

    def __init__(self, browser, url):
        self.browser = browser
        browser.get_log("performance")
        browser.get(url)
        self.until(lambda: self.find("textarea") and self.button("Label it"), "the page is there")

    def until(self, condition, what, seconds=60):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                if found := condition():
                    return found
            except Exception as error:  # of an element that was drawn anew meanwhile
                if type(error).__name__ != "StaleElementReferenceException":
                    raise
            time.sleep(0.05)
        raise AssertionError(f"it never came about that {what}")

    def find(self, selector):
        found = [element for element in self.browser.find_elements("css selector", selector) if element.is_displayed()]
        return found[0] if found else None

    def button(self, text):
        shown = self.browser.find_elements("css selector", "button")
        return next((button for button in shown if button.is_displayed() and button.text == text), None)

    def type(self, text):
        """Put a text into the box as pasting does; keys cannot be pressed for an emoji."""
        self.browser.execute_script(
            "const box = arguments[0];"
            "Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, 'value').set.call(box, arguments[1]);"
            "box.dispatchEvent(new Event('input', { bubbles: true }));",
            self.find("textarea"),
            text,
        )

    def label_it(self, text, shown):
        """Ask for the label of a text; return it once the coloured words show a part of it."""
        self.type(text)
        self.button("Label it").click()
        self.until(lambda: shown in self.words(), f"{shown!r} is shown")
        return self.label()

    def label_file(self, folder, content):
        """Have a file of three lines labelled."""
        (folder / "texts.txt").write_text(content, encoding="utf-8")
        tabs = self.browser.find_elements("css selector", "[role=tab]")
        next(tab for tab in tabs if tab.text == "A file").click()
        uploads = self.until(lambda: self.browser.find_elements("css selector", "input[type=file]"), "it takes a file")
        uploads[0].send_keys(str(folder / "texts.txt"))
        self.until(lambda: "texts.txt" in self.text(), "the file is there")
        self.button("Label all lines").click()
        self.until(lambda: "3 lines" in self.text(), "it is labelled")

    def cells(self):
        """What is to be seen of the table, its head too."""
        found = self.browser.find_elements("css selector", "[role=columnheader], [role=gridcell]")
        return [cell for cell in found if cell.is_displayed() and cell.text]

    def text(self):
        """All that is to be read on the page."""
        return self.find("body").text.replace("\n", "")

    def words(self):
        """What the browser shows of the words, without what was replaced."""
        return self.browser.execute_script(
            "const words = document.querySelector('#words .tokens')?.cloneNode(true);"
            "words?.querySelectorAll('small').forEach(small => small.remove());"
            "return words ? words.textContent : document.querySelector('#words').textContent;"
        )

    def label(self):
        found = self.find("[data-testid=label-output-value]")
        return found.text if found else None

    def hosts(self):
        """Whom the browser asked for something since the page was called."""
        events = (json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance"))
        sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
        urls = [urlsplit(request["request"]["url"]) for request in sent]
        return {url.netloc for url in urls if url.scheme in ("http", "https", "ws", "wss")}


@pytest.fixture
def page(browser, served):
    return Page(browser, served[0])


@pytest.mark.slow
def test_type_click_and_read_the_label(page, served, tmp_path):
    page.find("textarea").send_keys("the miro box")
    page.button("Label it").click()
    page.until(lambda: page.label() == "good", "the label is shown")
    page.until(lambda: page.words() == "the miro box", "the words are shown")
    strongest = page.browser.execute_script(
        "const strength = mark => Number(getComputedStyle(mark).backgroundColor.match(/[\\d.]+/g)[3] ?? 1);"
        "return [...document.querySelectorAll('#words mark')].sort((a, b) => strength(b) - strength(a))[0].textContent"
    )
    assert strongest == "miro"
    bars = page.browser.find_elements("css selector", ".label")
    assert bars, "probabilities are shown"
    page.browser.save_screenshot(str(tmp_path / "page.png"))
    assert (tmp_path / "page.png").stat().st_size > 10_000
    assert page.hosts() == {urlsplit(served[0]).netloc}, "nothing comes from elsewhere"
    assert not served[1].exists(), "its process looks nobody up"


@pytest.mark.slow
def test_an_example_is_labelled_at_a_click(page, trained):
    shown = demo._read_card(FinishedFolder(trained.folder), "")[1][0]
    page.until(lambda: page.button(shown), "the example is there").click()
    page.until(lambda: page.words() == shown and page.label(), "it is labelled")


@pytest.mark.slow
def test_whatever_stands_in_the_box(page, served):
    assert page.label_it("miro \U0001f60a\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f60a") == "good"
    assert page.label_it(RIGHT_TO_LEFT, RIGHT_TO_LEFT) == "good"
    direction = "return getComputedStyle(document.querySelector('#words .tokens')).direction"
    assert page.browser.execute_script(direction) == "rtl"
    assert page.label_it(HOSTILE, HOSTILE) == "good"
    assert page.browser.execute_script("return window.hacked") is None
    assert page.browser.execute_script("return document.querySelectorAll('#words img, #words script').length") == 0
    long = ("miro box " * 1112)[:10_000]
    assert page.label_it(long, long) == "good"
    assert "the first 256 words only" in page.find("#words").text
    assert page.label_it(" ", "Type a text first") is None
    assert page.label_it("selk", "selk") == "bad", "it still works"
    severe = [entry for entry in page.browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert severe == []
    assert page.hosts() <= {urlsplit(served[0]).netloc}


@pytest.mark.slow
@pytest.mark.parametrize(("width", "below"), [(375, True), (1280, False)])
def test_on_a_telephone_too(browser, page, trained, tmp_path, width, below):
    """The label stands before the examples there, and a word of the table in one line."""
    example = demo._read_card(FinishedFolder(trained.folder), "")[1][0]
    screen = {"width": width, "height": 740, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    try:
        assert page.label_it("miro", "miro") == "good"
        places = [page.find("[data-testid=label-output-value]").rect, page.button(example).rect]
        assert (places[0]["x"] < places[1]["x"] + places[1]["width"]) is below, "one below the other"
        assert places[0]["y"] < places[1]["y"]
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        page.label_file(tmp_path, "miro\n" * 3)
        cells = page.until(lambda: len(found := page.cells()) == 12 and found, "the table is there")
        assert {cell.text for cell in cells} > {"miro", "good", "label"}
        assert len({cell.size["height"] for cell in cells}) == 1, "none is broken into lines"
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.slow
def test_a_file_of_texts(page, tmp_path):
    page.label_file(tmp_path, "the miro box\nselk\n<b>sand</b>\n")
    link = page.until(lambda: page.find("a[href*='answers.csv']"), "the answers can be taken home")
    with urllib.request.urlopen(link.get_attribute("href")) as response:
        rows = list(csv.DictReader(io.StringIO(response.read().decode(), newline="")))
    assert [(row["text"], row["label"]) for row in rows[:2]] == [("the miro box", "good"), ("selk", "bad")]
    assert rows[2]["text"] == "<b>sand</b>"
    page.until(lambda: "<b>sand</b>" in page.text(), "the table shows the text as text")


@pytest.mark.slow
def test_a_port_that_is_taken(served, trained, tmp_path):
    port = urlsplit(served[0]).port
    done = subprocess.run(
        [sys.executable, "-m", "hf_rnn", "demo", "--model", trained.folder, "--port", str(port)],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("hf-rnn demo: error: ")
    assert f"port {port} of 127.0.0.1: is it taken? Give another with --port" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("way", ["copy", "two lines"])
def test_as_the_app_of_a_space(trained, tmp_path, way):
    pytest.importorskip("gradio", reason="Gradio is not installed: pip install '.[demo]'")
    app = tmp_path / "app.py"
    if way == "copy":
        shutil.copy(demo.__file__, app)
    else:
        app.write_text(f"from hf_rnn.inference.demo import build\nbuild({str(trained.folder)!r}).launch()\n")
    env = environment(tmp_path) | {"MODEL_ID": str(trained.folder), "PYTHONUNBUFFERED": "1"}
    process, line = start([app], env)
    try:
        url = next(part for part in line.split() if part.startswith("http"))
        with urllib.request.urlopen(url) as response:
            assert "speaks" not in (html := response.read().decode()) and "This recurrent network says" in html
    finally:
        process.terminate()
        process.wait(timeout=10)
