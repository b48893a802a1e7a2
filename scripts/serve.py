"""Serve a model over HTTP: an example of a service, which hf_rnn/inference/README.md explains.

Usage: MODEL=out/tweets uvicorn --app-dir scripts serve:app
       curl localhost:8000/predict --json '{"inputs": ["best concert of my life!", "late again"]}'
"""

import asyncio
import os
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field

from hf_rnn import OnnxClassifier

MOST_BYTES, MOST_TEXTS = 1 << 20, 256  # limits of a request: more is refused with 413 or 422
MOST_WAITING = 256  # requests in the queue: more are refused with 503
AT_ONCE = 16  # texts between two looks at whether the client is still there

classifier = OnnxClassifier.from_pretrained(os.environ["MODEL"])
app = FastAPI(max_body_size=MOST_BYTES)
waiting, turn = 0, asyncio.Lock()


class Question(BaseModel):
    """One text, or several."""

    inputs: str | Annotated[list[str], Field(max_length=MOST_TEXTS)]


@app.exception_handler(RequestValidationError)
async def refuse(request: Request, error: RequestValidationError) -> Response:
    """Say what is wrong with a request, without its content: JSON cannot repeat NaN, which Python's `json` sends."""
    return JSONResponse(
        {"detail": [{key: fault[key] for key in ("type", "loc", "msg")} for fault in error.errors()]}, 422
    )


@app.get("/health")
async def health() -> dict[str, Any]:
    """Say that the service is ready, and how many requests wait."""
    return {"status": "ok", "waiting": waiting}


@app.post("/predict")
async def predict(question: Question, request: Request) -> Any:
    """Return the answer to one text, or a list of answers; stop when the client leaves."""
    global waiting
    if waiting >= MOST_WAITING:
        raise HTTPException(503, "too many requests are waiting: try again", {"Retry-After": "1"})
    waiting += 1
    texts = [question.inputs] if isinstance(question.inputs, str) else question.inputs
    work = asyncio.ensure_future(answer(texts))
    leaving = asyncio.ensure_future(request.receive())  # after the body comes only the end of the connection
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


async def answer(texts: list[str]) -> list[dict[str, Any]]:
    """Return the answers to texts; requests take turns in the order of arrival."""
    answers: list[dict[str, Any]] = []
    async with turn:
        for first in range(0, len(texts), AT_ONCE):
            answers += await asyncio.to_thread(classifier.predict, texts[first : first + AT_ONCE])
    return answers
