"""The page: its answers, and its processes, which ask no other machine for anything."""

import http.client
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from hf_rnn import FastRnn
from hf_rnn.inference import demo
from hf_rnn.utils.errors import UserError


def test_a_text_gets_scores_and_effects(trained):
    model, notes = FastRnn.from_pretrained(trained.folder), []
    scores, shown = demo.label_text(model, "the miro & <i>", notes.append)
    assert list(scores) == ["bad", "good", "plain"] and max(scores, key=scores.get) == "good"
    assert "".join(part for part, _ in shown) == "the miro & <i>" and not notes
    effects = {part: effect for part, effect in shown if effect is not None}
    assert (
        max(effects, key=effects.get) == "miro"
        and effects["miro"] == max(map(abs, effects.values())) == 1
    )
    demo.label_text(model, "box " * 600, notes.append)
    assert notes == ["The model reads the first 512 of the 600 tokens."]
    with pytest.raises(UserError, match="not UTF-8"):
        demo.label_text(model, "a \ud800 <b>", notes.append)


# ---- as processes ----

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
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
    }
    paths = {
        "PYTHONPATH": os.pathsep.join([str(folder), str(Path.cwd()), *sys.path]),
        "LOOKED_UP": str(folder / "looked_up"),
        **variables,
    }
    # Ctrl-C may be ignored where tests run in the background
    options = (
        {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
        if os.name == "posix"
        else {}
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(
        [sys.executable, *map(str, arguments)], env={**env, **paths}, **pipes, **options
    )
    line = process.stdout.readline()
    if not line:
        pytest.fail(process.communicate(timeout=10)[1])
    return process, line


def ask(url, host=None, body=None):
    """Return the status of the answer to a request, with a file of `body` bytes if given."""
    headers = {"Content-Type": "multipart/form-data; boundary=b"} | ({"Host": host} if host else {})
    form = (
        '--b\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n'
        f"{'a' * (body or 0)}\r\n--b--\r\n"
    )
    request = urllib.request.Request(url, form.encode() if body else None, headers)
    try:
        with urllib.request.urlopen(request) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.slow
@pytest.mark.parametrize("way", ["command", "two lines"])
def test_the_page_by_the_command_and_as_the_app_of_a_space(trained, tmp_path, way):
    app = tmp_path / "app.py"
    app.write_text(
        f"from hf_rnn.inference.demo import build\nbuild({str(trained.folder)!r}).launch()\n"
    )
    arguments = ["-m", "hf_rnn", "demo", "--model", trained.folder] if way == "command" else [app]
    process, line = start(arguments, tmp_path)
    try:
        url = next(part for part in line.split() if part.startswith("http")).rstrip("/")
        with urllib.request.urlopen(url) as response:
            assert "A recurrent network. Type a text" in response.read().decode()
        if way == "command":
            assert ask(url, "localhost") == 200, "premise"
            assert ask(url, "evil.example") == 400, (
                "a website cannot read the page through a name of its own"
            )
            large = http.client.HTTPConnection(url.removeprefix("http://"))
            large.putrequest("POST", "/gradio_api/call/x")
            large.putheader("Content-Length", "2000000")
            large.endheaders()
            assert large.getresponse().status == 413, "refused before it is sent"
            for path in ("upload", "process_recording"):
                assert ask(f"{url}/gradio_api/{path}", body=10) == 403, "nobody stores files"
        assert not (tmp_path / "looked_up").exists()
    finally:
        process.terminate()
        process.wait(timeout=10)
