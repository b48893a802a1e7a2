"""Serve a model over HTTP: an example of a service, which hf_rnn/inference/README.md explains.

Usage: MODEL=out/tweets uvicorn --app-dir scripts serve:app
       curl localhost:8000/predict --json '{"inputs": ["best concert of my life!", "late again"]}'
"""

import asyncio
import os
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field

from hf_rnn import OnnxClassifier

MOST_BYTES, MOST_TEXTS = 1 << 20, 256  # limits of a request: more is refused with 413 or 422
MOST_WAITING = 256  # requests in the queue: more are refused with 503

classifier = OnnxClassifier.from_pretrained(os.environ["MODEL"])
app = FastAPI(max_body_size=MOST_BYTES)
waiting, turn = 0, asyncio.Lock()


class Question(BaseModel):
    """One text, or several."""

    inputs: str | Annotated[list[str], Field(max_length=MOST_TEXTS)]


@app.get("/health")
async def health() -> dict[str, Any]:
    """Say that the service is ready, and how many requests wait."""
    return {"status": "ok", "waiting": waiting}


@app.post("/predict")
async def predict(question: Question) -> Any:
    """Return the answer to one text, or a list of answers."""
    global waiting
    if waiting >= MOST_WAITING:
        raise HTTPException(503, "too many requests are waiting: try again", {"Retry-After": "1"})
    waiting += 1
    texts = [question.inputs] if isinstance(question.inputs, str) else question.inputs
    try:
        async with turn:  # in the order of arrival
            answers = await asyncio.to_thread(classifier.predict, texts)
    except ValueError as error:  # a text that is not Unicode
        raise HTTPException(422, str(error)) from error
    finally:
        waiting -= 1
    return answers[0] if isinstance(question.inputs, str) else answers
