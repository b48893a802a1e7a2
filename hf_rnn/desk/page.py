"""The page of `hf-rnn label`: one user on one machine, answers on disk before the next text.

The server listens at the local address only. Each request needs the token of the link, which no
other page in the browser has.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
import threading
import webbrowser
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..utils.errors import UserError, install_hint
from .answers import write_table
from .labeller import Labeller, measure_accuracy

try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import HTMLResponse, JSONResponse, Response
    from starlette.routing import Route
except ModuleNotFoundError as error:
    raise UserError(f"the page needs Starlette and uvicorn: {install_hint('label')}") from error

_HOST = "127.0.0.1"
_PAGE = Path(__file__).with_name("page.html")
_HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; connect-src 'self'; frame-ancestors 'none'; form-action 'none'",
}
_PAUSE = 300  # seconds for an answer; a longer one is a pause
_MOST_BYTES = 1 << 16  # the largest request


class LabelPage:
    """The page of a labeller. `done` is called when the user has finished."""

    def __init__(
        self, labeller: Labeller, none_label: str, address: str, done: Callable[[], None]
    ) -> None:
        self.labeller = labeller
        self.none_label = none_label
        self.token = secrets.token_urlsafe(16)
        self.url = f"http://{address}/?token={self.token}"
        self._done = done
        self._turn = threading.Lock()
        self.app = Starlette(
            routes=[
                Route("/", self._guard(self.show)),
                Route("/state", self._guard(self.describe)),
                Route("/labels.csv", self._guard(self.download)),
                Route("/{action}", self._guard(self.act), methods=["POST"]),
            ]
        )

    def _guard(self, handle: Callable[[Request, Any], Response]) -> Callable[..., Any]:
        """Refuse requests without the token; answer the others one after another."""

        async def answer(request: Request) -> Response:
            token = request.headers.get("x-token") or request.query_params.get("token", "")
            if not secrets.compare_digest(token.encode(), self.token.encode()):
                response: Response = _refuse("open the link that hf-rnn label printed", 403)
            else:
                try:
                    body = await _read_body(request) if request.method == "POST" else None
                    response = await asyncio.to_thread(self._take_turn, handle, request, body)
                except UserError as error:
                    response = _refuse(str(error), 400)
                except OSError as error:  # for example, the disk is full
                    response = _refuse(str(error), 500)
            response.headers.update(_HEADERS)
            return response

        return answer

    def _take_turn(
        self, handle: Callable[[Request, Any], Response], request: Request, body: Any
    ) -> Response:
        with self._turn:
            return handle(request, body)

    def show(self, request: Request, body: None) -> Response:
        """Return the page."""
        return HTMLResponse(_PAGE.read_text(encoding="utf-8"))

    def download(self, request: Request, body: None) -> Response:
        """Return the answers as a table."""
        return Response(write_table(self.labeller.answers), media_type="text/csv")

    def describe(self, request: Request, body: None) -> Response:
        """Return the text to label, with its suggestion, the labels and the progress."""
        labeller = self.labeller
        answers = labeller.answers
        state: dict[str, Any] = {
            "labels": self._list_labels(),
            "none_label": self.none_label,
            "answers": len(answers),
            "waiting": labeller.waiting,
            "accuracy": labeller.accuracy(),
            "curve": _draw_curve(labeller),
            "per_hour": _measure_speed(labeller),
        }
        if labeller.waiting:
            row = labeller.next()
            state |= {"row": row, "text": labeller.texts[row], "order": labeller.order}
            state["suggestion"] = labeller.suggest(row)
        return JSONResponse(state)

    def act(self, request: Request, body: dict[str, Any]) -> Response:
        """Take an answer (`row`, and `label`, null to skip), undo the last one, or finish."""
        action = request.path_params["action"]
        if action == "finish":
            self._done()
            return JSONResponse({})
        if action == "undo":
            self.labeller.undo()
        elif action == "answer" and isinstance(body.get("label"), str | None):
            if not self.labeller.waiting or body.get("row") != self.labeller.next():
                return _refuse("this text has an answer, from another window of the page", 409)
            self.labeller.answer(self.labeller.next(), body.get("label"))
        else:
            raise UserError(f"invalid request {action!r:.80}")
        return self.describe(request, None)

    def _list_labels(self) -> list[dict[str, Any]]:
        """Return the labels with their numbers of rows, oldest first, so that their keys stay."""
        counts: dict[str, int] = {}
        for label in self.labeller.labels.values():
            counts[label] = counts.get(label, 0) + 1
        counts.setdefault(self.none_label, 0)
        return [{"name": label, "rows": rows} for label, rows in counts.items()]


def _draw_curve(labeller: Labeller) -> list[tuple[int, float]]:
    """Return the share of right suggestions after numbers of answers, by ten random texts."""
    random = [number for number, one in enumerate(labeller.answers, 1) if one.order == "random"]
    points = []
    for number in random[9::10]:
        accuracy = measure_accuracy(labeller.answers[:number])
        if accuracy["of"]:
            points.append((number, accuracy["right"] / accuracy["of"]))
    return points


def _measure_speed(labeller: Labeller) -> float | None:
    """Return answers per hour, without those of five minutes; None for less than two."""
    seconds = [answer.seconds for answer in labeller.answers if answer.seconds]
    work = [time for time in seconds if 0 < time < _PAUSE]
    if len(work) < 2:
        return None
    return 3600 * len(work) / sum(work)


def _refuse(error: str, status: int) -> JSONResponse:
    return JSONResponse({"error": error}, status)


async def _read_body(request: Request) -> dict[str, Any]:
    """Return the JSON object of a request; raise a [`UserError`] for anything else."""
    content = b""
    async for piece in request.stream():
        content += piece
        if len(content) > _MOST_BYTES:
            raise UserError(f"the request is larger than {_MOST_BYTES >> 10} KB")
    body = None
    with suppress(ValueError, RecursionError):
        body = json.loads(content)
    if not isinstance(body, dict):
        raise UserError("the request is not a JSON object")
    return body


def serve(
    labeller: Labeller,
    none_label: str,
    port: int | None = None,
    browser: bool = False,
    announce: Callable[[str], None] = print,
) -> None:
    """Serve the page until the user finishes or stops the process by Ctrl-C.

    Args:
        labeller: The queue.
        none_label: The label of texts of no class.
        port: The port of the local address; by default a free one.
        browser: Whether to open the page in the browser.
        announce: Takes the link, and a note if there is no browser.

    Raises:
        UserError: For a port in use.
    """
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((_HOST, port or 0))
        listener.listen()
    except OSError as error:
        raise UserError(f"port {port} is in use: give another --port, or leave it out") from error

    def finish() -> None:
        server.should_exit = True

    address = f"{_HOST}:{listener.getsockname()[1]}"
    page = LabelPage(labeller, none_label, address, finish)
    config = uvicorn.Config(page.app, log_level="warning", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    announce(f"{page.url} (Ctrl-C or Finish ends it)")
    if browser and not webbrowser.open(page.url):
        announce("no browser was found: open the link in one")
    with suppress(KeyboardInterrupt), listener:
        server.run(sockets=[listener])
