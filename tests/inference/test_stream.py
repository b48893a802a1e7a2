"""A stream gives the answers of `predict` to the text so far, for any pieces, in C and torch."""

import hashlib
import json
import math
import pickle
import random
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.metrics import accuracy_score
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
from hf_rnn.inference.stream import feed_many, measure_prefixes
from hf_rnn.inference.torch import TorchEngine
from hf_rnn.utils.errors import UserError

ENGINES = ["native", "torch"]
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


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "settings", MODELS, ids=lambda settings: "-".join(map(str, settings.values()))
)
def test_each_answer_is_that_of_predict(engine, settings):
    predictor, whole, draw = make(engine, **settings), make("torch", **settings), random.Random(0)
    words = " ".join(TEXTS).split(" ")
    for text in [*TEXTS, *(" ".join(draw.choices(words, k=30)) for _ in range(5))]:
        stream, so_far = predictor.stream(), ""
        for number, piece in enumerate(cut(text, draw)):
            answer, so_far = stream.feed(piece), so_far + piece
            assert answer.pop("tokens") == len(predictor.tokenize([so_far])[0])
            assert flatten(answer) == pytest.approx(flatten(whole.predict([so_far])[0]), abs=1e-5)
            if number == 2:  # continue elsewhere
                stream = predictor.stream(stream.save())
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


@pytest.mark.parametrize("engine", ENGINES)
def test_many_streams_in_one_call(engine):
    predictor = make(engine, cell_type="lstm")
    streams = [predictor.stream() for _ in TEXTS]
    for start in range(0, 63, 7):
        answers = feed_many(streams, [text[start : start + 7] for text in TEXTS])
    for answer, alone in zip(
        answers, predictor.predict([text[:63] for text in TEXTS]), strict=True
    ):
        assert (answer["label"], answer["score"]) == (
            alone["label"],
            pytest.approx(alone["score"], abs=1e-5),
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
    predictor, other = make(**RESIDUAL), make(**RESIDUAL, num_labels=2)
    stream = predictor.stream()
    for piece in (b"bytes", None, "\ud800"):
        with pytest.raises(UserError, match="pieces"):
            stream.feed(piece)
    with pytest.raises(UserError, match="several models"):
        feed_many([stream, other.stream()], ["a", "b"])
    stream.end()
    with pytest.raises(UserError, match="reset"):
        stream.feed("more")
    with pytest.raises(UserError, match="a state has its own target"):
        predictor.stream(predictor.stream().save(), target=0.9)
    with pytest.raises(UserError, match="--streaming"):
        make(streaming=False).stream()


def test_taggers_do_not_stream(tagger, tagger_settings, tmp_path):
    with pytest.raises(UserError, match="tag the last sentence again"):
        Tagger.from_pretrained(tagger.folder).stream()
    with pytest.raises(UserError, match="tag the last sentence again"):
        train(**tagger_settings, streaming=True, output_dir=str(tmp_path / "out"))


def test_a_damaged_or_foreign_state_is_refused():
    predictor, chance = make(**RESIDUAL), random.Random(0)
    stream = predictor.stream()
    stream.feed("so good and so g")
    saved = stream.save()
    other = make(**RESIDUAL, num_labels=2).stream().save()
    states = ["text", b"", b"[]", saved[:21] + b"{}\n", saved[:21] + b"[" * 100_000, other]
    for _ in range(300):
        place = chance.randrange(len(saved))
        changed = bytes([saved[place] ^ chance.randrange(1, 256)])
        states += [saved[:place], saved[:place] + changed + saved[place + 1 :]]
    for state in states:
        with pytest.raises(UserError, match="the state is"):
            predictor.stream(state)


@pytest.mark.parametrize(
    "settings", MODELS, ids=lambda settings: "-".join(map(str, settings.values()))
)
def test_a_state_of_one_engine_continues_in_the_other(settings):
    """It was refused as of another model: the kernel has padding and sums, torch has means."""
    native, plain = (
        make(engine, **settings | {"hidden_size": 20 if "residual_size" not in settings else 32})
        for engine in ENGINES
    )
    text = "I'm here . so good end #tag a.b.c U.S.A."
    for first, second in ((native, plain), (plain, native)):
        stream = first.stream()
        unread = second.stream(stream.save())
        stream.feed(text[:17])
        other = second.stream(stream.save())
        expected = flatten(plain.predict([text])[0])
        assert flatten(other.feed(text[17:])) == pytest.approx(expected, abs=1e-5)
        assert flatten(unread.feed(text)) == pytest.approx(expected, abs=1e-5)
        assert other.end()["tokens"] == len(plain.tokenize([text])[0])


def forge(saved, **changes):
    """Return a state with other facts, and with the hash of its bytes."""
    mark = saved.index(b"\n") + 1
    facts, _, numbers = saved[mark + 32 :].partition(b"\n")
    numbers = changes.pop("numbers", numbers)
    facts = changes.pop("facts", None) or json.dumps(json.loads(facts) | changes).encode()
    content = facts + b"\n" + numbers
    return saved[:mark] + hashlib.sha256(content).digest() + content


FORGED = {
    "last_word": {"last_word": 3},
    "lone surrogate": {"last_word": "\ud800"},
    "tokens": {"tokens": "4"},
    "negative": {"tokens": -1},
    "ended": {"ended": "no"},
    "target": {"target": [0.9]},
    "other": {"more": 1},
    "deep": {"facts": b"[" * 100_000},
    "list": {"facts": b"[]"},
    "short": {"numbers": b"1234"},
    "odd": {"numbers": b"123"},
    "not finite": {"numbers": None},
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("changes", FORGED.values(), ids=FORGED)
def test_a_forged_state_is_refused(engine, changes):
    """With the right hash: most of them raised other errors, or continued with wrong values."""
    predictor = make(engine, **RESIDUAL)
    stream = predictor.stream()
    stream.feed("so good and so g")
    saved = stream.save()
    assert predictor.stream(forge(saved)).save() == saved, "premise"
    if "numbers" in changes and changes["numbers"] is None:
        changes = {"numbers": saved[saved.index(b"\n") + 33 :].partition(b"\n")[2][:-4]}
        changes["numbers"] += np.array([np.nan], "<f4").tobytes()
    with pytest.raises(UserError, match="the state is not the bytes"):
        predictor.stream(forge(saved, **changes))


def test_both_engines_measure_how_early_answers_are_sure():
    """At the first token here: no text is left for the others."""
    ids = [TOKENIZER(text)["input_ids"] for text in TEXTS[:3]]
    found = [
        measure_prefixes(make(name, **RESIDUAL).engine, ids, [0, 1, 2], 0.0)["early"]
        for name in ENGINES
    ]
    assert found[0] == pytest.approx(found[1]) and found[0]["reached"] == 1


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


def test_training_a_streaming_model(streaming, tiny_settings, tmp_path, command):
    predictor, rows = (
        FastRnn.from_pretrained(streaming.folder),
        Path(tiny_settings["data_dir"], "dev.tsv"),
    )
    texts, labels = zip(
        *(line.split("\t") for line in rows.read_text("utf-8").splitlines()), strict=True
    )
    measured = streaming.metrics["streaming"]["by_share"]
    for row in measured:  # by `predict`, on as many of the tokens
        ids = [ids[: math.ceil(row["share"] * len(ids))] for ids in predictor.tokenize(texts)]
        answers = predictor.logits(ids).argmax(axis=1)
        names = [predictor.config.id2label[answer] for answer in answers]
        assert row["accuracy"] == pytest.approx(accuracy_score(labels, names))
    assert measured[-1]["share"] == 1
    assert len(predictor.tokenize(["word " * 10_000])[0]) == 10_000  # no limit
    _, out, _ = command("evaluate", streaming.folder, tiny_settings["data_dir"], "--split", "dev")
    assert json.loads(out)["streaming"]["by_share"] == measured
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
