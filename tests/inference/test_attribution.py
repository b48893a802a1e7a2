"""Explanations: tokens on their characters, effects by another computation, gates of the states."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_rnn import FastRnn, RnnConfig, RnnForSequenceClassification, train_tokenizer
from hf_rnn.hub import model_folder
from hf_rnn.inference.demo import explain
from hf_rnn.utils.errors import UserError

LABELS = ("bad", "good", "plain")
WORDS = "the box of dry sand miro selk <user> <url> <number> soo don't ! # & \U0001f60a \u2764"


def make(normalizer):
    tokenizer = train_tokenizer([WORDS], 1, normalizer=normalizer, model_max_length=512)
    torch.manual_seed(0)
    sizes = {"vocab_size": len(tokenizer), "embedding_size": 8, "hidden_size": 6}
    config = RnnConfig(**sizes, id2label=dict(enumerate(LABELS)))
    return FastRnn(RnnForSequenceClassification(config).eval(), tokenizer)


MODELS = {name: make(name) for name in ("none", "tweet", "cased")}


def probability(model, tokenizer, text, label):
    logits = model(**tokenizer([text], return_tensors="pt")).logits[0]
    return logits.softmax(-1)[model.config.label2id[label]].item()


# ---- effects ----


@torch.no_grad()
def test_an_effect_is_the_loss_without_the_word(trained):
    """Compared with the text without the word, run alone by the plain model."""
    text, learned = "the miro box of dry sand", model_folder.load_model(trained.folder)
    explanation = explain(FastRnn.from_pretrained(trained.folder), text)
    assert explanation.label == "good"
    whole = probability(*learned, text, "good")
    assert explanation.scores["good"] == pytest.approx(whole, abs=1e-6)
    words, found = text.split(), [part for part in explanation.parts if part[1] is not None]
    assert [word for word, _ in found] == words
    for place, (_, effect) in enumerate(found):
        without = " ".join(words[:place] + words[place + 1 :])
        assert effect == pytest.approx(whole - probability(*learned, without, "good"), abs=1e-5)
    assert max(found, key=lambda part: part[1])[0] == "miro"
    parts = dict(
        explain(FastRnn.from_pretrained(trained.folder), "miro miro miro miro selk box").parts
    )
    assert parts["selk"] * parts["miro"] < 0, "evidence for different labels"


def test_a_text_without_words():
    explanation = explain(MODELS["none"], "  \n")
    assert explanation.parts == [("  \n", None)] and sum(
        explanation.scores.values()
    ) == pytest.approx(1)
    with pytest.raises(UserError, match="not UTF-8 at character 2"):
        explain(MODELS["none"], "a \ud800")


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("(@me), sand", ["(", "@me", ")", ",", "sand"]),
        ("soooooo dry!!!!", ["soooooo", "dry", "!!!!"]),
        ("box&amp;sand", ["box", "&amp;", "sand"]),
    ],
)
def test_tokens_cover_the_characters_they_were_made_from(text, tokens):
    assert [
        part for part, effect in explain(MODELS["tweet"], text).parts if effect is not None
    ] == tokens


HOSTILE = ["<script>alert(1)</script>", "{{value}}", '" onmouseover="x', "\u202e", "\r", "\0"]
TEXTS = st.lists(
    st.text(max_size=8)
    | st.sampled_from([*WORDS.split(), "@me", "http://t.co/x", "sooooo", "&amp;", " ", *HOSTILE]),
    max_size=12,
).map("".join)


@given(text=TEXTS, name=st.sampled_from([*MODELS]))
def test_any_text_is_shown_whole(text, name):
    explanation = explain(MODELS[name], text)
    assert "".join(part for part, _ in explanation.parts) == text
    explained = sum(effect is not None for _, effect in explanation.parts)
    assert explained == explanation.tokens or (
        name == "cased" and explained < explanation.tokens
    ), "marks of capitals"
