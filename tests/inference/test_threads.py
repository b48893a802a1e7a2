"""Threads that share one fresh model get the answers that one would, as in a service."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from conftest import invent_rows

from hf_rnn import (
    FastRnn,
    RnnConfig,
    RnnForSequenceClassification,
    RnnForTokenClassification,
    train_tokenizer,
)
from hf_rnn.data.tokens import FastTokenizer
from hf_rnn.inference.kernel import load_library
from hf_rnn.inference.native import NativeEngine

TEXTS = list(dict.fromkeys(text for text, _ in invent_rows(30, 7)))
TOKENIZER = train_tokenizer(TEXTS, min_frequency=1)
THREADS = 8
STREAMING = {
    "block_type": "residual",
    "cell_type": "min_gru",
    "bidirectional": False,
    "streaming": True,
}
TAGS = dict(enumerate(["O", "B-X", "I-X", "B-Y", "I-Y"]))
WORDS = {
    "id2label": TAGS,
    "label2id": {name: tag for tag, name in TAGS.items()},
    "crf": True,
    "word_forms": 50,
}
WORDS |= {"num_labels": 5, "architectures": ["RnnForTokenClassification"]}


def make(head=RnnForSequenceClassification, **settings):
    torch.manual_seed(0)
    sizes = {"vocab_size": len(TOKENIZER), "embedding_size": 8, "hidden_size": 16, "num_labels": 3}
    return FastRnn(head(RnnConfig(**sizes | settings)).eval(), TOKENIZER)


def answer_each(model, texts):
    return {text: model.predict([text])[0] for text in texts}


def feed_all(model, texts):
    streams = [model.stream() for _ in texts]
    for start in range(0, max(map(len, texts)), 7):
        answers = [
            stream.feed(text[start : start + 7])
            for stream, text in zip(streams, texts, strict=True)
        ]
    return dict(zip(texts, answers, strict=True))


CASES = {
    "a classifier": (RnnForSequenceClassification, {}, answer_each),
    "streams": (RnnForSequenceClassification, STREAMING, feed_all),
    "a tagger": (RnnForTokenClassification, WORDS, answer_each),
}


@pytest.mark.parametrize(("head", "settings", "work"), CASES.values(), ids=CASES)
@pytest.mark.parametrize(
    "slow", [(NativeEngine, "_project"), (FastTokenizer, "_encode_words")], ids=["rows", "words"]
)
def test_threads_that_share_a_fresh_model(head, settings, work, slow, monkeypatch):
    """The table of token vectors and the memory of words fill slowly: threads meet there."""
    if load_library() is None:
        pytest.skip("the kernel is not built")
    expected, fill = work(make(head, **settings), TEXTS), getattr(*slow)

    def fill_slowly(self, values):
        time.sleep(0.002)
        return fill(self, values)

    monkeypatch.setattr(*slow, fill_slowly)
    model, barrier = make(head, **settings), threading.Barrier(THREADS)

    def run(number):
        barrier.wait()
        return work(model, TEXTS if number % 2 else TEXTS[::-1])

    with ThreadPoolExecutor(THREADS) as threads:
        assert list(threads.map(run, range(THREADS))) == [expected] * THREADS
