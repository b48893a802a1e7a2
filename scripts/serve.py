"""Serve a model over HTTP: an example of a service, which hf_rnn/inference/README.md explains.

Usage: MODEL=out/tweets uvicorn --app-dir scripts serve:app
       curl localhost:8000/predict --json '{"inputs": ["best concert of my life!", "late again"]}'
"""

import asyncio
import logging
import os
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Request, WebSocket, WebSocketDisconnect
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field

from hf_rnn import FastRnn

# limits of a request: more is refused with 413 or 422
MOST_BYTES = 1 << 20
MOST_TEXTS = 256
MOST_WAITING = 256  # requests in the queue: more are refused with 503
MOST_CHARACTERS = 4096  # per piece of a stream, and per word
AT_ONCE = 16  # texts between two looks at whether the client is still there

logger = logging.getLogger("uvicorn.error")
model = FastRnn.from_pretrained(os.environ["MODEL"])
app = FastAPI(max_body_size=MOST_BYTES)
waiting = 0
turn = asyncio.Lock()


class Question(BaseModel):
    """One text, or several; with a target each answer says whether it is `for_a_person`."""

    inputs: str | Annotated[list[str], Field(max_length=MOST_TEXTS)]
    target: float | None = None


@app.exception_handler(RequestValidationError)
async def refuse(request: Request, error: RequestValidationError) -> Response:
    """Say what is wrong with a request, without its content: JSON cannot repeat NaN."""
    faults = []
    for fault in error.errors():
        faults.append({"type": fault["type"], "loc": fault["loc"], "msg": fault["msg"]})
    return JSONResponse({"detail": faults}, 422)


@app.get("/health")
async def health() -> dict[str, Any]:
    """Say that the service is ready, and how many requests wait."""
    return {"status": "ok", "waiting": waiting}


def check_target(target: float | None) -> None:
    """Raise a ValueError for a target without thresholds; the log has the reason and its files."""
    if target is None:
        return
    try:
        model.read_thresholds(target)
    except ValueError as error:
        logger.warning("a request for the target %g: %s", target, error)
        raise ValueError(f"this service has no thresholds for the target {target:g}") from error


@app.post("/predict")
async def predict(question: Question, request: Request) -> Any:
    """Return the answer to one text, or a list of answers; stop when the client leaves."""
    global waiting
    try:
        check_target(question.target)
    except ValueError as error:
        raise HTTPException(422, str(error)) from error
    if waiting >= MOST_WAITING:
        raise HTTPException(503, "too many requests are waiting: try again", {"Retry-After": "1"})
    waiting += 1
    texts = [question.inputs] if isinstance(question.inputs, str) else question.inputs
    work = asyncio.ensure_future(answer(texts, question.target))
    # after the body comes only the end of the connection
    leaving = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait((work, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            return Response(status_code=499)  # nobody reads it
        answers = work.result()
    except ValueError as error:  # a text that is not Unicode
        raise HTTPException(422, str(error)) from error
    finally:
        work.cancel()
        leaving.cancel()
        waiting -= 1
    return answers[0] if isinstance(question.inputs, str) else answers


async def answer(texts: list[str], target: float | None = None) -> list[dict[str, Any]]:
    """Return the answers to texts; requests take turns in the order of arrival."""
    answers: list[dict[str, Any]] = []
    async with turn:
        for first in range(0, len(texts), AT_ONCE):
            answers += await asyncio.to_thread(
                model.predict, texts[first : first + AT_ONCE], target=target
            )
    return answers


@app.websocket("/stream")
async def stream(socket: WebSocket, target: float | None = None) -> None:
    """Answer each piece of a text that is still being written; an empty piece ends the text."""
    await socket.accept()
    try:
        check_target(target)
        if not getattr(model.config, "streaming", False):
            raise ValueError("this service has no streams: its model reads whole texts")
        text = model.stream(target=target)
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            piece = message.get("text")
            if piece is None or len(piece) > MOST_CHARACTERS:
                raise ValueError(f"a piece is a text of at most {MOST_CHARACTERS} characters")
            if not piece:
                await socket.send_json(await asyncio.to_thread(text.end))
                await socket.close()
                return
            answer = await asyncio.to_thread(text.feed, piece)
            if len(text.last_word) > MOST_CHARACTERS:  # each piece reads it again
                raise ValueError(f"a word has at most {MOST_CHARACTERS} characters")
            await socket.send_json(answer)
    except ValueError as error:
        await socket.close(1008, str(error)[:120])  # a reason has at most 123 bytes
    except WebSocketDisconnect:
        pass
