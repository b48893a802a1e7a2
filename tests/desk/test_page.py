"""The page of `hf-rnn label`, as a process of its own, driven by Chromium or by plain requests."""

import contextlib
import http.client
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pandas as pd
import pytest
from package_encoders import encoders  # noqa: F401

pytest.importorskip("uvicorn", reason="the extra label is not installed")

ROOT = Path(__file__).parents[2]
LINES = (ROOT / "data/tweets/train.tsv").read_text(encoding="utf-8").splitlines()[:120]
LABEL_OF = dict(line.split("\t") for line in LINES)


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "texts.csv"
    pd.DataFrame({"message": list(LABEL_OF)}).to_csv(path, index=False)
    return path


@contextlib.contextmanager
def serve(table, folder, *flags):
    """Run the command until the block ends; yield the process, and the link to its page."""
    command = [sys.executable, "-m", "hf_rnn", "label", table, folder, "--browser", "no", *flags]
    process = subprocess.Popen(
        list(map(str, command)), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        lines = []
        for line in process.stderr:
            lines.append(line)
            if found := re.search(r"http://\S+", line):
                break
        else:
            pytest.fail("".join(lines))
        yield process, found[0]
    finally:
        process.kill()
        process.communicate()


def ask(link, path="/state", body=None, **headers):
    """Send a request with the token of the link; return status and content."""
    address, token = re.fullmatch(r"http://([^/]+)/\?token=(.+)", link).groups()
    connection = http.client.HTTPConnection(address, timeout=60)
    given = {"X-Token": token, **{name.replace("_", "-"): value for name, value in headers.items()}}
    given = {name: value for name, value in given.items() if value is not None}
    data = None if body is None else json.dumps(body)
    connection.request("GET" if body is None else "POST", path, data, given)
    response = connection.getresponse()
    content = response.read().decode()
    if response.getheader("content-type", "").startswith("application/json"):
        content = json.loads(content)
    return response.status, content


def send(link, content):
    """Post bytes as an answer; return status and content."""
    address, token = re.fullmatch(r"http://([^/]+)/\?token=(.+)", link).groups()
    connection = http.client.HTTPConnection(address, timeout=60)
    connection.request("POST", "/answer", content, {"X-Token": token})
    response = connection.getresponse()
    return response.status, json.loads(response.read())


@contextlib.contextmanager
def browse(link):
    """Open a link in Chromium."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    if not shutil.which("chromedriver"):
        pytest.skip("missing: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("chromium-browser") or ""
    for flag in ("--headless", "--no-sandbox", "--disable-gpu", "--window-size=1200,900"):
        options.add_argument(flag)
    browser = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        browser.get(link)
        yield browser
    finally:
        browser.quit()


def wait(condition, seconds=60):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "timeout"
        time.sleep(0.02)
    return found


def read_answers(folder):
    lines = (folder / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    standing = {}
    for record in map(json.loads, lines):
        standing.pop(record.get("undo"), None)
        if "answer" in record:
            standing[record["answer"]] = {**record, "label": record["label"] or ""}
    return pd.DataFrame(standing.values())


@pytest.mark.slow
def test_a_person_labels_in_a_browser(table, tmp_path):
    """By keys alone: new labels, those that exist, the suggestion, undo, skip, no class, finish."""
    from selenium.webdriver.common.keys import Keys

    out = tmp_path / "out"
    with serve(table, out, "--train", "no") as (process, link), browse(link) as browser:

        def find(selector):
            return browser.find_element("css selector", selector)

        def press(*keys):
            """Press keys, and wait until the page shows another text."""
            before = read_state()
            browser.switch_to.active_element.send_keys(*keys)
            wait(lambda: read_state() not in (None, before))

        def read_state():
            return browser.execute_script(
                "return busy ? null : state && [state.row, state.answers]"
            )

        def text():
            return find("#text").text

        def true_label():
            return LABEL_OF[browser.execute_script("return state.text")]

        wait(read_state)
        keys = {}
        for _ in range(30):
            label = true_label()
            if label in keys:
                press(keys[label])
            else:
                if keys:  # the field has the focus while there is no label
                    browser.switch_to.active_element.send_keys("/")
                press(label, Keys.RETURN)
                keys[label] = str(len(keys) + 1)
        assert len(keys) == 3 and len(read_answers(out)) == 30

        wait(lambda: find("#suggestion").is_displayed())
        suggested = browser.execute_script("return state.suggestion.label")
        assert suggested in find("#suggestion").text
        shown = browser.execute_script("return state.text")
        press(Keys.RETURN)
        rows = read_answers(out)
        assert rows["label"].iloc[-1] == suggested == rows["suggestion"].iloc[-1]
        assert rows["text"].iloc[-1] == shown

        press(Keys.BACKSPACE)
        assert len(read_answers(out)) == 30
        assert browser.execute_script("return state.text") == shown
        press(Keys.SPACE)
        press("0")
        assert read_answers(out)["label"].tolist()[-2:] == ["", "no class"]
        assert "88 texts left" in find("#progress").text

        first = browser.current_window_handle
        browser.switch_to.new_window("tab")
        browser.get(link)
        wait(read_state)
        press("1")
        browser.switch_to.window(first)
        press("1")  # is refused, and the window shows the text that is next
        wait(lambda: "another window" in find("#error").text)
        assert len(read_answers(out)) == 33
        press("1")
        assert find("#error").text == ""
        assert len(read_answers(out)) == 34

        find("#finish").click()
        assert process.wait(timeout=60) == 0
    rows = read_answers(out)[:30]
    assert [LABEL_OF[text] for text in rows["text"]] == rows["label"].tolist()


@pytest.mark.slow
def test_finish_trains_a_model_of_many_classes(tmp_path):
    """Twelve classes with ten rows each: the model answers its own texts, with their labels."""
    from hf_rnn import FastRnn

    things = "parcel card refund login invoice password voucher account delivery app shop phone"
    label_of = {}
    for thing in things.split():
        for number in range(10):
            label_of[f"my {thing} is late, please look at the {thing} number {number}"] = thing
    table = tmp_path / "texts.csv"
    pd.DataFrame({"text": list(label_of)}).to_csv(table, index=False)
    out = tmp_path / "out"
    with serve(table, out) as (process, link):
        _, state = ask(link)
        while state["waiting"]:
            body = {"row": state["row"], "label": label_of[state["text"]]}
            _, state = ask(link, "/answer", body)
        assert state["accuracy"]["of"] == 50 and len(state["labels"]) == 13
        assert ask(link, "/finish", {})[0] == 200
        scores, err = process.communicate(timeout=500)
    assert process.returncode == 0 and "accuracy" in scores, err
    answers = FastRnn.from_pretrained(out).predict(list(label_of))
    right = [
        answer["label"] == label_of[text] for text, answer in zip(label_of, answers, strict=True)
    ]
    assert sum(right) >= 108


@pytest.mark.slow
def test_a_text_cannot_change_the_page(tmp_path):
    table = tmp_path / "texts.csv"
    text = "<img src=x onerror=document.title='changed'><b>bold</b>"
    pd.DataFrame({"text": [text, text]}).to_csv(table, index=False)
    with serve(table, tmp_path / "out") as (_, link), browse(link) as browser:
        find = browser.find_element
        wait(lambda: find("css selector", "#text").text == text)
        browser.execute_script(
            "return call('/answer', {row: state.row, label: arguments[0]})", text
        )
        wait(lambda: text in find("css selector", "#labels").text)
        assert browser.title == "hf-rnn label"


@pytest.mark.slow
def test_no_answer_is_lost_when_the_process_is_killed(table, tmp_path):
    """Killed while answers come: all confirmed ones are there; the same command continues."""
    confirmed = []
    out = tmp_path / "out"
    for _ in range(2):
        with serve(table, out) as (process, link):

            def work(link=link):
                with contextlib.suppress(OSError, http.client.HTTPException):
                    _, state = ask(link)
                    while state.get("waiting"):
                        body = {"row": state["row"], "label": LABEL_OF[state["text"]]}
                        status, state = ask(link, "/answer", body)
                        assert status == 200
                        confirmed.append((body["row"], body["label"]))

            number = len(confirmed)
            worker = threading.Thread(target=work)
            worker.start()
            wait(lambda number=number: len(confirmed) >= number + 15)
            process.send_signal(signal.SIGKILL)
            worker.join()
    with serve(table, out) as (_, link):
        _, state = ask(link)
        rows = read_answers(out)
        found = list(zip(rows["row"], rows["label"], strict=True))
        assert [pair for pair in found if pair in confirmed] == confirmed
        assert len(found) - len(confirmed) <= 2  # written, not yet confirmed
        assert rows["row"].is_unique and state["answers"] == len(found)


def test_only_the_page_of_the_link_is_answered(table, tmp_path):
    """No token, or another one: nothing is shown and nothing changes. Odd requests get a line."""
    with serve(table, tmp_path / "out") as (_, link):
        assert ask(link)[0] == 200
        port = int(link.split("/")[2].split(":")[1])
        body = {"row": ask(link)[1]["row"], "label": "x"}
        for headers in ({"X_Token": None}, {"X_Token": "x"}, {"X_Token": "\xe4"}):
            for path, sent in (("/state", None), ("/answer", body), ("/undo", {}), ("/finish", {})):
                status, content = ask(link, path, sent, **headers)
                assert status == 403 and "text" not in content, (headers, path)
        address = f"http://{link.split('/')[2]}"
        with pytest.raises(HTTPError, match="403"):
            urlopen(f"{address}/labels.csv")
        row = body["row"]
        odd = [
            {"row": row, "label": 3},
            {"row": row, "label": "\ud800"},
            {"row": row, "label": "x" * 201},
            {"row": row, "label": " "},
            {"row": row, "label": ["x"]},
        ]
        for content in (*map(json.dumps, odd), "[]", "", "[" * 60_000, "\xff", "x" * 70_000):
            status, answer = send(link, content.encode("latin-1"))
            assert status == 400 and len(answer["error"].splitlines()) == 1, content[:80]
        for sent in ({"row": -1, "label": "x"}, {"label": "x"}, {"row": [], "label": "x"}):
            assert ask(link, "/answer", sent)[0] == 409
        assert ask(link, "/unknown", {})[0] == 400
        assert ask(link)[1]["answers"] == 0
        assert send(link, json.dumps({"row": row, "label": "x" * 200}).encode())[0] == 200
        with urlopen(link.replace("?", "labels.csv?")) as response:
            assert response.read().decode().splitlines()[0].startswith("row,text,label")
        with socket.socket() as other:  # the address of other machines
            name = socket.gethostbyname(socket.gethostname())
            assert name.startswith("127.") or other.connect_ex((name, port)) != 0


def test_mistakes_get_one_line(table, tmp_path, command):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for arguments, message in (
            ((table, tmp_path / "out", "--port", port), f"port {port} is in use"),
            ((table, tmp_path / "out", "--text_column", "body"), "no column 'body'"),
            ((tmp_path / "none.csv", tmp_path / "out"), "does not exist"),
            ((table,), "--output_dir is missing"),
        ):
            code, _, err = command("label", *arguments)
            assert code == 2 and message in err.splitlines()[-1], err
    code, _, err = command("train", table, tmp_path / "new")  # a table without labels
    assert code == 2 and "nor any other: hf-rnn label" in err.splitlines()[-1]
    (tmp_path / "blank.csv").write_text("text,x\n ,1\n,2\n")
    code, _, err = command("label", tmp_path / "blank.csv", tmp_path / "out")
    assert code == 2 and "has no text" in err


@pytest.mark.slow
def test_ctrl_c_trains_on_all_answers(table, tmp_path):
    """The folder is that of any training; texts of no class and skipped ones are not trained on."""
    from hf_rnn import FastRnn

    out = tmp_path / "out"
    for _ in range(2):  # a second time, on more answers
        with serve(table, out) as (process, link):
            _, state = ask(link)
            for number in range(30):
                label = {7: "no class", 9: None}.get(number, LABEL_OF[state["text"]])
                _, state = ask(link, "/answer", {"row": state["row"], "label": label})
            process.send_signal(signal.SIGINT)
            out_text, err = process.communicate(timeout=500)
            assert process.returncode == 0, err
            assert "answers are in" in err
    assert len(read_answers(out)) == 60
    model = FastRnn.from_pretrained(out)
    assert set(model.config.id2label.values()) == {"positive", "negative", "neutral"}
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["training"]["rows"] + metrics["validation"]["rows"] == 56
    code = subprocess.run(
        [sys.executable, "-m", "hf_rnn", "push", out, "me/x", "--dry_run"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "labels" not in code and "vectors" not in code
