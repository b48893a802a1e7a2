"""What is shown of a text: each token on the characters it was made of, and its effect by an independent route."""

import time
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from threading import get_ident

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_rnn import RnnConfig, RnnForSequenceClassification, train_tokenizer
from hf_rnn.hub import loading as model_loading
from hf_rnn.inference.attribution import Explanation, Piece, explain, words_read
from hf_rnn.inference.attribution_html import colour
from hf_rnn.tokenizers.word_level import NORMALIZERS
from hf_rnn.utils.errors import UserError

LABELS = ("bad", "good", "plain")
WORDS = "the box of dry sand miro selk <user> <url> <number> soo don't ! # & \U0001f60a \u2764"


def make(pooling="mean_max", normalizer="none", model_max_length=512):
    tokenizer = train_tokenizer([WORDS], 1, normalizer=normalizer, model_max_length=model_max_length)
    torch.manual_seed(0)
    config = RnnConfig(
        vocab_size=len(tokenizer),
        embedding_size=8,
        hidden_size=6,
        pooling=pooling,
        id2label=dict(enumerate(LABELS)),
    )
    return RnnForSequenceClassification(config).eval(), tokenizer


PAIRS = {name: make(normalizer=name) for name in NORMALIZERS}


@pytest.fixture(scope="module")
def learned(trained):
    return model_loading.load_model(trained.folder)


def probability(model, tokenizer, text, label):
    logits = model(**tokenizer([text], return_tensors="pt")).logits[0]
    return logits.softmax(-1)[model.config.label2id[label]].item()


def test_one_at_a_time_asks_the_tokenizer(monkeypatch):
    """What it is asked first, where to cut, it would forget by another thread's second question."""
    model, tokenizer = make(model_max_length=4)
    kind, asked = type(tokenizer), []
    call = kind.__call__

    def slow(self, *given, **named):
        asked.append((get_ident(), named.get("truncation", False)))
        time.sleep(0.002)
        return call(self, *given, **named)

    monkeypatch.setattr(kind, "__call__", slow)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: explain(model, tokenizer, "the box of dry sand"), range(12)))
    assert {(len(each.pieces), each.tokens) for each in found} == {(4, 5)}
    assert [cuts for _, cuts in asked] == [True, False] * 12
    assert all(first[0] == second[0] for first, second in zip(asked[::2], asked[1::2], strict=True))


# Effects


@torch.no_grad()
def test_an_effect_is_what_the_text_without_the_word_loses(learned):
    """The other route: the word is taken out of the text, which is run alone."""
    text = "the miro box of dry sand"
    explanation = explain(*learned, text)
    assert (explanation.measure, explanation.label) == ("leave_one_out", "good")
    whole = probability(*learned, text, "good")
    assert explanation.scores["good"] == pytest.approx(whole, abs=1e-6)
    words = text.split()
    for place, piece in enumerate(explanation.pieces):
        assert text[piece.start : piece.end] == words[place]
        without = " ".join(words[:place] + words[place + 1 :])
        assert piece.effect == pytest.approx(whole - probability(*learned, without, "good"), abs=1e-5)
    assert max(explanation.pieces, key=lambda piece: piece.effect).start == text.index("miro")


def test_a_word_that_speaks_against_the_label_has_a_negative_effect(learned):
    explanation = explain(*learned, "miro miro miro miro selk box")
    assert explanation.label == "good", "premise"
    selk = next(piece for piece in explanation.pieces if piece.word == "selk")
    assert selk.effect < 0 < max(piece.effect for piece in explanation.pieces)


@torch.no_grad()
def test_with_attention_it_is_the_pooling_weight():
    model, tokenizer = make("attention")
    text = "dry sand of the box"
    explanation = explain(model, tokenizer, text)
    weights = model(**tokenizer([text], return_tensors="pt")).pooling_weights[0]
    assert explanation.measure == "attention"
    assert [piece.effect for piece in explanation.pieces] == pytest.approx(weights.tolist())
    assert sum(piece.effect for piece in explanation.pieces) == pytest.approx(1)


def test_long_texts_are_explained_in_part():
    model, tokenizer = make(model_max_length=12)
    text = "dry sand " * 10
    explanation = explain(model, tokenizer, text, max_tokens=5)
    assert (explanation.tokens, len(explanation.pieces)) == (20, 12)
    effects = [piece.effect for piece in explanation.pieces]
    assert effects[5:] == [None] * 7
    all_effects = [piece.effect for piece in explain(model, tokenizer, text).pieces]
    assert effects[:5] == pytest.approx(all_effects[:5], abs=1e-6)
    html = colour(explanation)
    assert "reads the first 12 of the 20 words" in html
    assert "the first 5 words only" in html
    html = colour(explain(model, tokenizer, "dry sand " * 6))
    assert "reads the first" not in html and "only" not in html


@pytest.mark.parametrize("pooling", ["mean_max", "attention"])
@pytest.mark.parametrize("text", ["", "  \n"])
def test_a_text_without_words(pooling, text):
    model, tokenizer = make(pooling)
    explanation = explain(model, tokenizer, text)
    assert explanation.pieces == ()
    assert sum(explanation.scores.values()) == pytest.approx(1)
    assert "no words" in colour(explanation)


def test_what_is_no_unicode_is_refused():
    with pytest.raises(UserError, match="not UTF-8 at character 2"):
        explain(*make(), "a \ud800")


# Which characters a token was made of


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("Dry SAND", [("Dry", "dry"), ("SAND", "sand")]),
        ("@me, sand", [("@me", "<user>"), (",", ","), ("sand", "sand")]),
        ("(@me)", [("(", "("), ("@me", "<user>"), (")", ")")]),
        ("see https://t.co/a1?b=c now", [("see", "see"), ("https://t.co/a1?b=c", "<url>"), ("now", "now")]),
        ("soooooo dry!!!!", [("soooooo", "soo"), ("dry", "dry"), ("!!!!", "!!")]),
        ("at 7:40, 3.50", [("at", "at"), ("7:40", "<number>"), (",", ","), ("3.50", "<number>")]),
        ("box&amp;sand", [("box", "box"), ("&amp;", "&"), ("sand", "sand")]),
        ("\u2764\ufe0f sand", [("\u2764\ufe0f", "\u2764"), ("sand", "sand")]),
        ("don\u2019t #dry", [("don\u2019t", "don't"), ("#", "#"), ("dry", "dry")]),
        ("\u05e9\u05dc\u05d5\u05dd sand", [("\u05e9\u05dc\u05d5\u05dd",) * 2, ("sand", "sand")]),
    ],
)
def test_tokens_stand_on_the_users_own_text(text, pieces):
    model, tokenizer = PAIRS["tweet"]
    found = explain(model, tokenizer, text).pieces
    assert [(text[piece.start : piece.end], piece.word) for piece in found] == pieces
    vocabulary = tokenizer.get_vocab()
    assert [piece.known for piece in found] == [word in vocabulary for _, word in pieces]


def test_words_that_a_normaliser_drops_belong_to_no_token():
    text = 'dry 3.50 s\u00e4nd "Box'
    found = explain(*PAIRS["semeval"], text).pieces
    assert [text[piece.start : piece.end] for piece in found] == ["dry", "Box"]
    assert '<span class="unread"> 3.50 s\u00e4nd &quot;</span>' in colour(explain(*PAIRS["semeval"], text))


def test_a_tokenizer_that_cuts_words_is_shown_by_its_own_parts():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordPiece({"[UNK]": 0, "[PAD]": 1, "sand": 2, "##box": 3}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]")
    text = "sandbox dry"
    found = explain(make()[0], tokenizer, text).pieces
    assert [(text[piece.start : piece.end], piece.word, piece.known) for piece in found] == [
        ("sand", None, True),
        ("box", None, True),
        ("dry", None, False),
    ]
    assert words_read(tokenizer, text, tokenizer(text)) == ["sandbox", "sandbox", "dry"]


# As HTML


class Shown(HTMLParser):
    """The text that a browser would show of the coloured words, without what the page says itself."""

    def __init__(self, html):
        super().__init__()
        self.text, self.tags, self.attributes, self._users = "", set(), set(), False
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attributes}
        if tag in ("div", "small"):
            self._users = ("class", "tokens") in attributes

    def handle_endtag(self, tag):
        self._users |= tag == "small"

    def handle_data(self, data):
        self.text += data * self._users


TEXTS = st.lists(
    st.one_of(
        st.text(max_size=8),
        st.sampled_from([*WORDS.split(), "@me", "http://t.co/x", "sooooo", "&amp;", "7:40"]),
        st.sampled_from(
            [
                "<script>alert(1)</script>",
                "${1+1}",
                "{{value}}",
                '" onmouseover="x',
                "</mark>",
                "`",
                "\\",
                "\u202e",
                "\r",
                "\0",
            ]
        ),
        st.sampled_from([" ", "", "\n"]),
    ),
    max_size=12,
).map("".join)


@given(text=TEXTS, name=st.sampled_from(NORMALIZERS))
@settings(max_examples=150, deadline=None)
def test_any_text_is_shown_whole_and_as_text(text, name):
    explanation = explain(*PAIRS[name], text)
    place = 0
    for piece in explanation.pieces:
        assert place <= piece.start < piece.end <= len(text), "in order, without overlap"
        place = piece.end
    assert len(explanation.pieces) == explanation.tokens, "each token stands somewhere"
    html = colour(explanation)
    shown = Shown(html)
    assert shown.tags <= {"style", "div", "mark", "small", "span", "b", "u", "i", "br"}
    assert shown.attributes <= {"class", "style", "title", "dir"}
    assert not set("${}`\\") & set(html.split("</style>")[1]), "nothing that a page's templates would read"
    if explanation.pieces:
        assert shown.text == text


@pytest.mark.parametrize(
    ("effect", "colour_shown"),
    [
        (0.5, "37, 99, 235, 0.600"),
        (0.001, "37, 99, 235, 0.030"),
        (0, "37, 99, 235, 0.000"),
        (-0.01, "217, 119, 6, 0.300"),
    ],
)
def test_an_effect_that_is_the_largest_but_small_has_a_weak_colour(effect, colour_shown):
    piece = Piece(0, 3, "dry", True, effect)
    explanation = Explanation("dry", {"good": 1.0}, "good", "leave_one_out", (piece,), 1, 9, 9)
    assert f'<mark style="background: rgba({colour_shown})"' in colour(explanation)


def html_of(text, *pieces, measure="leave_one_out"):
    return colour(Explanation(text, {"good": 1.0}, "good", measure, pieces, len(pieces), 9, 9)).split("</style>")[1]


@pytest.mark.parametrize(
    ("text", "word", "known", "title", "shown"),
    [
        ("Dry", "dry", True, "+0.500", "Dry"),
        ("dry", None, True, "+0.500", "dry"),
        ("soooo", "soo", True, "+0.500, read as soo", "soooo"),
        ("@me", "<user>", True, "+0.500, read as &lt;user&gt;", "@me<small>&lt;user&gt;</small>"),
        ("zzz", "zzz", False, "+0.500, not in the vocabulary", "zzz"),
    ],
)
def test_a_token_tells_its_effect_and_what_it_is_read_as(text, word, known, title, shown):
    html = html_of(text, Piece(0, len(text), word, known, 0.5))
    assert f' title="{title}">{shown}</mark>' in html
    assert ('<mark class="unknown"' in html) == ("unknown to the model" in html) == (not known)


def test_colours_tell_effects_by_the_largest_of_either_sign():
    html = html_of("dry sand", Piece(0, 3, "dry", True, 0.1), Piece(4, 8, "sand", True, -0.5))
    assert 'rgba(37, 99, 235, 0.120)" title="+0.100">dry' in html
    assert 'rgba(217, 119, 6, 0.600)" title="-0.500">sand' in html
    assert 'rgba(217, 119, 6, 0.6)"></i> speaks against it' in html


def test_attention_is_shown_by_the_largest_and_without_a_sign():
    html = html_of("dry sand", Piece(0, 3, "dry", True, 0.01), Piece(4, 8, "sand", True, 0.005), measure="attention")
    assert 'rgba(37, 99, 235, 0.600)" title="0.010">dry' in html
    assert 'rgba(37, 99, 235, 0.300)" title="0.005">sand' in html
    assert "the model's attention" in html and "speaks" not in html
    assert 'rgba(37, 99, 235, 0.000)" title="0.000">dry' in html_of(
        "dry", Piece(0, 3, "dry", True, 0.0), measure="attention"
    )


def test_tokens_that_stand_nowhere_in_the_text_are_told_of():
    html = colour(Explanation("dry", {"good": 1.0}, "good", "leave_one_out", (), 1, 9, 9))
    assert "does not tell where words stand" in html and "no words" not in html


def test_labels_are_text_too():
    model, tokenizer = make()
    model.config.id2label = {0: "<img src=x>", 1: "${a}", 2: "b"}
    for text in WORDS.split():
        html = colour(explain(model, tokenizer, text))
        assert "<img" not in html and "${" not in html
