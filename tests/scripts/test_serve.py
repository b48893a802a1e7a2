"""The example of a service: its answers, its limits, and 50 connections at once."""

import asyncio
import contextlib
import http.client
import importlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

from hf_rnn import FastRnn
from hf_rnn.inference.stream import TextStream

MISSING = [name for name in ("fastapi", "uvicorn") if find_spec(name) is None]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(MISSING), reason=f"missing: {MISSING}")]

SCRIPTS = Path(__file__).parents[2] / "scripts"
CONNECTIONS = 50
TEXTS = ["miro the box", "selk near a door", "", "sand \U0001f600"]


NO_ROWS = {"rows": 0, "share": 0.0, "accuracy": None}
BY_LABEL = {"good": 0.1, "bad": 0.9999, "plain": 0.9999}
THRESHOLDS = {"target": 0.9, "by_label": BY_LABEL, "chosen_on": NO_ROWS, "repeated": NO_ROWS}


def ask(connection, body, path="/predict"):
    method = "GET" if body is None else "POST"
    content = body if body is None or isinstance(body, bytes) else json.dumps(body)
    connection.request(method, path, content, {"Content-Type": "application/json"})
    response = connection.getresponse()
    return response.status, response.read()


@pytest.fixture(scope="module")
def folder(tiny_settings, tmp_path_factory):
    from hf_rnn import train

    folder = train(
        **tiny_settings, streaming=True, output_dir=str(tmp_path_factory.mktemp("serve") / "model")
    ).folder
    model = FastRnn.from_pretrained(folder).fingerprint
    (folder / "thresholds.json").write_text(
        json.dumps({"model": model, "targets": {"0.9": THRESHOLDS}})
    )
    return folder


@pytest.fixture(scope="module")
def server(folder):
    """The port of a service for the trained model."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "uvicorn",
        "--app-dir",
        str(SCRIPTS),
        "serve:app",
        "--port",
        str(port),
    ]
    environment = {**os.environ, "MODEL": str(folder)}
    with subprocess.Popen([*command, "--log-level", "warning"], env=environment) as process:
        try:
            for _ in range(600):
                assert process.poll() is None, "the server stopped"
                with contextlib.suppress(ConnectionRefusedError):
                    connection = http.client.HTTPConnection("127.0.0.1", port)
                    assert ask(connection, None, "/health") == (200, b'{"status":"ok","waiting":0}')
                    break
                time.sleep(0.1)
            yield port
        finally:
            process.terminate()


def test_answers_and_limits(server, folder):
    answers = FastRnn.from_pretrained(folder).predict(TEXTS)
    expected = [{**answer, "score": pytest.approx(answer["score"], abs=1e-6)} for answer in answers]
    connection = http.client.HTTPConnection("127.0.0.1", server)
    status, content = ask(connection, {"inputs": TEXTS})
    assert (status, json.loads(content)) == (200, expected)
    assert json.loads(ask(connection, {"inputs": TEXTS[0]})[1]) == expected[0]
    status, content = ask(connection, {"inputs": TEXTS, "target": 0.9})
    found = [answer.pop("for_a_person") for answer in json.loads(content)]
    limit = THRESHOLDS["by_label"]
    assert (
        found == [answer["score"] < limit[answer["label"]] for answer in answers]
        and len(set(found)) == 2
    )
    for body, status in (
        ({"inputs": "a", "target": 0.5}, 422),
        ({"inputs": ["a"] * 257}, 422),
        ({"inputs": 3}, 422),
        ({"inputs": ["\ud800"]}, 422),
        ({"inputs": [float("nan")]}, 422),
        (b"{", 422),
        ({"inputs": "a" * (1 << 20)}, 413),
    ):
        found, content = ask(http.client.HTTPConnection("127.0.0.1", server), body)
        assert found == status and content
        assert str(folder).encode() not in content and b"hf-rnn" not in content


@pytest.fixture
def service(folder, monkeypatch):
    """The module of the service, in this process."""
    monkeypatch.setenv("MODEL", str(folder))
    monkeypatch.syspath_prepend(str(SCRIPTS))
    monkeypatch.delitem(sys.modules, "serve", raising=False)
    yield importlib.import_module("serve")
    sys.modules.pop("serve", None)


def test_the_work_of_a_client_that_left_is_dropped(service, monkeypatch):
    left, answer, calls = threading.Event(), service.model.predict, []

    async def receive():
        await asyncio.to_thread(left.wait, 60)
        return {"type": "http.disconnect"}

    def predict(texts, target=None):
        calls.append(texts)
        left.set()
        time.sleep(0.2)  # the loop hears of the client first
        return answer(texts)

    monkeypatch.setattr(service.model, "predict", predict)
    question = service.Question(inputs=["miro the box"] * 256)
    response = asyncio.run(service.predict(question, SimpleNamespace(receive=receive)))
    assert response.status_code == 499 and len(calls) < 3 and service.waiting == 0
    assert sum(map(len, calls)) < 50, "of 256 texts"


class Socket:
    """A client that sends pieces, and keeps the answers."""

    def __init__(self, *pieces):
        self.pieces, self.sent, self.closed = iter(pieces), [], None

    async def accept(self):
        pass

    async def receive(self):
        piece = next(self.pieces, None)
        kind = "bytes" if isinstance(piece, bytes) else "text"
        return (
            {"type": "websocket.disconnect"}
            if piece is None
            else {"type": "websocket.receive", kind: piece}
        )

    async def send_json(self, answer):
        self.sent.append(answer)

    async def close(self, code=1000, reason=""):
        self.closed = code, reason


def test_a_stream_is_answered_in_a_thread_and_has_limits(service, monkeypatch):
    threads, feed = [], TextStream.feed
    monkeypatch.setattr(
        TextStream,
        "feed",
        lambda stream, piece: threads.append(threading.current_thread()) or feed(stream, piece),
    )
    limit = service.MOST_CHARACTERS
    for pieces, answers, code in (
        (["the mi", "ro", ""], 3, 1000),
        (["the mi"], 1, None),  # the client left
        (["the", b"miro"], 1, 1008),
        (["a" * (limit + 1)], 0, 1008),
        (["a" * limit, " b", "a" * (limit - 2), "a"], 3, 1008),  # a word that is too long
    ):
        socket = Socket(*pieces)
        asyncio.run(service.stream(socket))
        assert len(socket.sent) == answers and (socket.closed or [None])[0] == code
    assert threads and threading.main_thread() not in threads, "the event loop stays free"
    socket = Socket("the mi", "ro box ", "miro", "")
    asyncio.run(service.stream(socket, target=0.9))
    assert len(socket.sent) == 4
    assert all("for_a_person" in answer for answer in socket.sent)
    for wrong in (2, 0.5):
        asyncio.run(service.stream(socket := Socket("a"), target=wrong))
        assert socket.closed[0] == 1008 and socket.closed[1] and not socket.sent
        assert "hf-rnn" not in socket.closed[1]


def test_fifty_connections_get_their_answers(server, folder):
    texts = [f"{text} word{number}" for number in range(CONNECTIONS) for text in TEXTS]
    expected = FastRnn.from_pretrained(folder).predict(texts)

    def keep_asking(number):
        connection, some = (
            http.client.HTTPConnection("127.0.0.1", server, timeout=60),
            slice(number, number + 9),
        )
        for _ in range(20):
            status, content = ask(connection, {"inputs": texts[some]})
            assert status == 200
            assert json.loads(content) == [
                {**answer, "score": pytest.approx(answer["score"], abs=1e-6)}
                for answer in expected[some]
            ]

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        list(pool.map(keep_asking, range(CONNECTIONS)))


def test_conversations_at_once(server, folder):
    websocket = pytest.importorskip("websocket")
    texts = [f"{text} {number} the end" for number in range(CONNECTIONS) for text in TEXTS]
    expected = FastRnn.from_pretrained(folder).predict(texts)
    sockets = [
        websocket.create_connection(f"ws://127.0.0.1:{server}/stream", timeout=30) for _ in texts
    ]
    for start in range(0, max(map(len, texts)), 5):
        for connection, text in zip(sockets, texts, strict=True):
            if piece := text[start : start + 5]:
                connection.send(piece)
                connection.recv()
    for connection, answer in zip(sockets, expected, strict=True):
        connection.send("")
        last = json.loads(connection.recv())
        assert (last["label"], last["score"]) == (
            answer["label"],
            pytest.approx(answer["score"], abs=1e-5),
        )
