"""Explanations: tokens on their characters, effects by an independent computation, gates that make the states."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_rnn import RnnConfig, RnnForSequenceClassification, train_tokenizer
from hf_rnn.hub import model_folder
from hf_rnn.inference.attribution import explain, words_read
from hf_rnn.tokenizers.word_level import mark_capitals
from hf_rnn.utils.errors import UserError

LABELS = ("bad", "good", "plain")
WORDS = "the box of dry sand miro selk <user> <url> <number> soo don't ! # & \U0001f60a \u2764"


def make(normalizer="none", model_max_length=512):
    tokenizer = train_tokenizer([WORDS], 1, normalizer=normalizer, model_max_length=model_max_length)
    torch.manual_seed(0)
    sizes = {"vocab_size": len(tokenizer), "embedding_size": 8, "hidden_size": 6}
    config = RnnConfig(**sizes, id2label=dict(enumerate(LABELS)))
    return RnnForSequenceClassification(config).eval(), tokenizer


PAIRS = {name: make(normalizer=name) for name in ("none", "tweet")}


@pytest.fixture(scope="module")
def learned(trained):
    return model_folder.load_model(trained.folder)


def probability(model, tokenizer, text, label):
    logits = model(**tokenizer([text], return_tensors="pt")).logits[0]
    return logits.softmax(-1)[model.config.label2id[label]].item()


def test_a_mark_of_a_capital_shifts_no_word():
    tokenizer = train_tokenizer(["anna lives in rome"], 1)
    mark_capitals(tokenizer)
    encoded = tokenizer("Anna lives")
    words = words_read(tokenizer, "Anna lives", encoded) or encoded.tokens()
    assert words[-1] == "lives" and words[-2] == "anna"


# Effects


@torch.no_grad()
def test_an_effect_is_the_loss_without_the_word(learned):
    """Compared with the text without the word, run alone."""
    text = "the miro box of dry sand"
    explanation = explain(*learned, text)
    assert explanation.label == "good"
    whole = probability(*learned, text, "good")
    assert explanation.scores["good"] == pytest.approx(whole, abs=1e-6)
    words = text.split()
    for place, piece in enumerate(explanation.pieces):
        assert text[piece.start : piece.end] == words[place]
        without = " ".join(words[:place] + words[place + 1 :])
        assert piece.effect == pytest.approx(whole - probability(*learned, without, "good"), abs=1e-5)
    assert max(explanation.pieces, key=lambda piece: piece.effect).start == text.index("miro")
    parts = dict(explain(*learned, "miro miro miro miro selk box").highlight())
    assert parts["selk"] * parts["miro"] < 0, "evidence for different labels"


def test_a_text_without_words():
    explanation = explain(*PAIRS["none"], "  \n")
    assert explanation.pieces == () and sum(explanation.scores.values()) == pytest.approx(1)
    assert explanation.highlight() == [("  \n", None)]
    with pytest.raises(UserError, match="not UTF-8 at character 2"):
        explain(*PAIRS["none"], "a \ud800")


# The characters of each token


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("(@me), sand", ["(", "@me", ")", ",", "sand"]),
        ("soooooo dry!!!!", ["soooooo", "dry", "!!!!"]),
        ("box&amp;sand", ["box", "&amp;", "sand"]),
    ],
)
def test_tokens_cover_the_characters_they_were_made_from(text, pieces):
    model, tokenizer = PAIRS["tweet"]
    found = explain(model, tokenizer, text).pieces
    assert [text[piece.start : piece.end] for piece in found] == pieces


# The parts of the text that a page shows

HOSTILE = ["<script>alert(1)</script>", "{{value}}", '" onmouseover="x', "\u202e", "\r", "\0"]
TEXTS = st.lists(
    st.text(max_size=8) | st.sampled_from([*WORDS.split(), "@me", "http://t.co/x", "sooooo", "&amp;", " ", *HOSTILE]),
    max_size=12,
).map("".join)


@given(text=TEXTS, name=st.sampled_from([*PAIRS]))
def test_any_text_is_shown_whole(text, name):
    explanation = explain(*PAIRS[name], text)
    place = 0
    for piece in explanation.pieces:
        assert place <= piece.start < piece.end <= len(text), "in order, without overlap"
        place = piece.end
    assert len(explanation.pieces) == explanation.tokens
    parts = explanation.highlight()
    assert "".join(part for part, _ in parts) == text
    strengths = [abs(effect) for _, effect in parts if effect is not None]
    assert len(strengths) == explanation.tokens and max(strengths, default=0) <= 1
