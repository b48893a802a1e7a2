"""A stream gives the answers of `predict` to the text so far, for any pieces."""

import json
import pickle
import random
import unicodedata

import pytest
import torch
from scipy.special import softmax
from transformers import PreTrainedTokenizerFast

from hf_rnn import (
    FastRnn,
    RnnConfig,
    RnnForSequenceClassification,
    Tagger,
    train,
    train_tokenizer,
)
from hf_rnn.data.tokens import find_unstable_text
from hf_rnn.hub.model_folder import PRETRAINED
from hf_rnn.inference.kernel import load_library
from hf_rnn.inference.torch import TorchEngine
from hf_rnn.utils.errors import UserError

TEXTS = [
    "@user's http://x.y/z?a=b:) www.a.b, so-o-o 3.5% &amp;&lt; <pad> cafe\u0301 n\u0303o",
    "👩\u200d👩\u200d👧 👍🏽! 🇩🇪🇫🇷 ❤\ufe0f <3 :-) ;P x\u00a0y a\u3000b ไทย العربية 中文字 ﬁ ½",
    "line\r\nline\n\n\ttab \x1f \ufeff end. I'm #tag a.b.c U.S.A. 12:30pm",
    "",
    " \n ",
    "a" * 300 + " b",
]
TOKENIZER = train_tokenizer(TEXTS * 3, min_frequency=1, normalizer="tweet", model_max_length=60)
RESIDUAL = {
    "block_type": "residual",
    "cell_type": "min_gru",
    "hidden_size": 32,
    "residual_size": 48,
}
MODELS = [
    *(
        {"cell_type": cell, "pooling": "mean_max"}
        for cell in ("lstm", "gru", "min_gru", "rnn_tanh", "rnn_relu")
    ),
    *({**RESIDUAL, "pooling": pooling} for pooling in ("mean", "max", "mean_max", "last")),
    {**RESIDUAL, "pooling": "mean", "problem_type": "multi_label_classification", "conv_kernel": 1},
    {"cell_type": "gru", "pooling": "last", "problem_type": "regression", "num_labels": 1},
]


def make(engine="native", streaming=True, tokenizer=TOKENIZER, **settings):
    torch.manual_seed(0)
    sizes = {
        "embedding_size": 20,
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_labels": 3,
    } | settings
    config = RnnConfig(vocab_size=len(tokenizer), bidirectional=False, streaming=streaming, **sizes)
    predictor = FastRnn(RnnForSequenceClassification(config).eval(), tokenizer)
    if engine == "torch":
        predictor.engine = TorchEngine(predictor.engine.model, TOKENIZER)
    elif engine == "native" and load_library() is None:
        pytest.skip("the kernel is not built")
    return predictor


def cut(text, draw):
    places = sorted(draw.sample(range(len(text) + 1), min(len(text), draw.randint(0, 12))))
    return [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]


def flatten(answer):
    """Return the numbers of an answer."""
    parts = [flatten(value) if isinstance(value, dict) else [value] for value in answer.values()]
    return [number for part in parts for number in part if isinstance(number, float)]


@pytest.mark.parametrize(
    "settings", MODELS, ids=lambda settings: "-".join(map(str, settings.values()))
)
def test_each_answer_is_that_of_predict(settings):
    predictor, whole, draw = make(**settings), make("torch", **settings), random.Random(0)
    words = " ".join(TEXTS).split(" ")
    for text in [*TEXTS, *(" ".join(draw.choices(words, k=30)) for _ in range(5))]:
        stream, so_far = predictor.stream(), ""
        for number, piece in enumerate(cut(text, draw)):
            answer, so_far = stream.feed(piece), so_far + piece
            assert answer.pop("tokens") == len(predictor.tokenize([so_far])[0])
            assert flatten(answer) == pytest.approx(flatten(whole.predict([so_far])[0]), abs=1e-5)
            if number == 2:  # continue elsewhere
                stream = pickle.loads(pickle.dumps(stream))
        assert flatten(stream.end()) == pytest.approx(flatten(whole.predict([text])[0]), abs=1e-5)


STREAMED = ("english_causal", "multilingual_causal")  # encoders of the package for streams
WHITE = [
    chr(code)
    for code in range(0x110000)
    if unicodedata.category(chr(code)) in ("Cc", "Cf", "Zl", "Zp", "Zs")
]


@pytest.mark.parametrize("kind", ["none", "cased", "tweet", "bpe", *STREAMED])
def test_white_space_and_marks_of_format_are_those_of_predict(kind):
    """All of Unicode's, alone, in words, between; Python and tokenizers differ in white space."""
    if kind in STREAMED:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(
            PRETRAINED / kind, model_max_length=10**6
        )
    else:
        options = {"tokenizer": kind} if kind == "bpe" else {"normalizer": kind}
        tokenizer = train_tokenizer(TEXTS, min_frequency=1, model_max_length=10**6, **options)
    predictor = make(tokenizer=tokenizer, **RESIDUAL)
    assert len(WHITE) > 200, "premise"
    for sign in WHITE:
        for pieces in (
            [sign],
            [sign, " b"],
            ["the ", sign, " box"],
            [f"a{sign}", sign, f"{sign}b{sign} ", sign, "\n"],
        ):
            stream, so_far = predictor.stream(), ""
            for piece in pieces:
                answer, so_far = stream.feed(piece), so_far + piece
            assert answer["tokens"] == len(predictor.tokenize([so_far])[0]), (sign, pieces)
            assert answer["score"] == pytest.approx(
                predictor.predict([so_far])[0]["score"], abs=1e-5
            )


def test_copies_pickles_and_resets_are_independent():
    stream = make(**RESIDUAL).stream()
    before = stream.feed("so good and so g")
    other, third = stream.copy(), pickle.loads(pickle.dumps(stream))
    assert other.feed("ood :)") == third.feed("ood :)") != stream.feed("")
    assert stream.feed("") == before
    stream.reset()
    assert stream.feed("so good and so g") == before
    assert [answer["tokens"] for answer in stream.feed_tokens(" I'm here .")] == [5, 6, 7]


def test_mistakes_are_named():
    stream = make(**RESIDUAL).stream()
    for piece in (b"bytes", None, "\ud800"):
        with pytest.raises(UserError, match="pieces"):
            stream.feed(piece)
    stream.end()
    with pytest.raises(UserError, match="reset"):
        stream.feed("more")
    with pytest.raises(UserError, match="the kernel reads streams"):
        make("torch", **RESIDUAL).stream()
    with pytest.raises(UserError, match="--streaming"):
        make(streaming=False).stream()


def test_taggers_do_not_stream(tagger, tagger_settings, tmp_path):
    with pytest.raises(UserError, match="tag the last sentence again"):
        Tagger.from_pretrained(tagger.folder).stream()
    with pytest.raises(UserError, match="tag the last sentence again"):
        train(**tagger_settings, streaming=True, output_dir=str(tmp_path / "out"))


def test_tokenizers_that_depend_on_spaces_are_found():
    letters = train_tokenizer(TEXTS, min_frequency=1, tokenizer="char")
    assert find_unstable_text(lambda texts: letters(texts)["input_ids"], []) is not None
    assert find_unstable_text(lambda texts: TOKENIZER(texts)["input_ids"], TEXTS) is None


def test_torch_carries_states_by_its_own_arguments():
    predictor = make("torch", **RESIDUAL)
    model, (ids,) = predictor.engine.model, predictor.tokenize(["I'm here . so good end"])
    states = {}
    for start, end in ((0, 2), (2, 3), (3, len(ids))):
        output = model(torch.tensor([ids[start:end]]), output_final_states=True, **states)
        names = [f"{kind}_state" for kind in ("hidden", "conv", "pooling")]
        states = {f"initial_{name}": output[f"final_{name}"] for name in names}
    torch.testing.assert_close(
        output.logits, model(torch.tensor([ids])).logits, atol=1e-5, rtol=1e-5
    )


@pytest.fixture(scope="module")
def streaming(tiny_settings, tmp_path_factory):
    return train(
        **tiny_settings,
        streaming=True,
        output_dir=str(tmp_path_factory.mktemp("streaming") / "model"),
    )


def test_training_a_streaming_model(streaming, tiny_settings, tmp_path):
    predictor = FastRnn.from_pretrained(streaming.folder)
    assert len(predictor.tokenize(["word " * 10_000])[0]) == 10_000  # no limit
    for wrong in ({"bidirectional": True}, {"pooling": "attention"}, {"tokenizer": "char"}):
        with pytest.raises(UserError, match="streaming"):
            train(**tiny_settings | wrong, streaming=True, output_dir=str(tmp_path / "other"))


def test_the_command_answers_as_it_reads(streaming, tmp_path, command):
    text = "the box \u00e9 near a door, miro and selk\n"
    (tmp_path / "text.txt").write_text(text, "utf-8")
    predictor = FastRnn.from_pretrained(streaming.folder)
    ids = predictor.tokenize([text])[0]
    flags = (streaming.folder, "--stream", "--input", tmp_path / "text.txt")
    code, out, _ = command("predict", *flags, "--every", "token")
    answers = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and [answer["tokens"] for answer in answers] == list(range(1, len(ids) + 1))
    logits = predictor.logits([ids[:count] for count in range(1, len(ids) + 1)])
    assert [answer["score"] for answer in answers] == pytest.approx(
        softmax(logits, axis=1).max(axis=1), abs=1e-5
    )
    code, out, _ = command("predict", *flags)
    assert code == 0 and json.loads(out.splitlines()[-1])["score"] == pytest.approx(
        answers[-1]["score"]
    )
    (tmp_path / "text.txt").write_bytes(b"caf\xe9 au lait")
    code, _, err = command("predict", *flags)
    assert code == 2 and "not UTF-8" in err and r"found b'\xe9'" in err
