"""Choose the encoder of the package that reads the texts: of English, or of many languages."""

import gzip
import re
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
from tokenizers import Tokenizer

import hf_rnn
from hf_rnn.tokenizers.language import find_language

ENGLISH = {
    "without stop words": [
        "phone battery lasts day charging quick",
        "screen broke week after delivery refused refund",
        "great story weak acting beautiful pictures",
    ],
    "keywords": [
        "insurance, claim, car accident, hail damage",
        "invoice, payment, overdue",
        "garden furniture, teak, weatherproof, folding chair",
    ],
    "log lines": [
        "2024-03-11 12:03:44,120 ERROR org.apache.kafka.Consumer: Connection reset by peer",
        "sshd[2102]: Failed password for invalid user admin from 10.0.0.7 port 4022 ssh2",
        "java.lang.NullPointerException at com.foo.Bar.baz(Bar.java:17)",
    ],
    "product names": [
        "Logitech MX Master 3S Wireless Mouse",
        "KitchenAid Artisan Stand Mixer 4.8L Empire Red",
        "Makita DHP482Z LXT Combi Drill",
        "Nescafé Gold Blend Instant Coffee 200g",
    ],
    "hashtags": [
        "#MondayMotivation #WorkFromHome #CoffeeTime",
        "#throwback #summervibes #beachday",
        "#ClimateAction #ActNow",
    ],
    "questions": ["How do I activate my card?", "Why was I charged twice for one payment?"],
}
OTHERS = {
    "French": ["Quelle belle journée aujourd'hui", "Je n'achèterai plus jamais ce téléphone"],
    "Hindi in Latin letters": ["aaj ka din kitna sundar hai", "yeh phone phir kabhi nahi lunga"],
    "Thai": ["วันนี้อากาศดีมาก", "จะไม่ซื้อโทรศัพท์นี้อีก"],
    "Korean": ["오늘 날씨가 정말 좋네요", "이 영화는 너무 지루했어요"],
    "Dutch keywords": ["verzekering, schade, auto-ongeluk", "betaling, factuur, te laat"],
}
READ_ONCE = SimpleNamespace(from_file=cache(Tokenizer.from_file))
DATA = Path(__file__).parents[3] / "shared" / "data" / "languages"


@pytest.fixture(autouse=True)
def encoders(monkeypatch):
    """Take the encoders of the package itself, whose tokenizers are read once."""
    pretrained = Path(hf_rnn.__file__).parent / "hub" / "pretrained"
    monkeypatch.setattr("hf_rnn.hub.model_folder.PRETRAINED", pretrained)
    monkeypatch.setattr("hf_rnn.tokenizers.language.Tokenizer", READ_ONCE)


@pytest.mark.parametrize("name", [*ENGLISH, *OTHERS])
def test_texts_are_english_in_any_form(name):
    assert find_language((ENGLISH | OTHERS)[name]).is_english == (name in ENGLISH)


STOP_WORDS = {"a", "an", "and", "are", "as", "at", "be", "but", "by", "can", "do", "for", "from"}
STOP_WORDS |= {"had", "has", "have", "he", "her", "his", "i", "if", "in", "is", "it", "its", "just"}
STOP_WORDS |= {"me", "my", "no", "not", "of", "on", "or", "our", "s", "she", "so", "t", "that"}
STOP_WORDS |= {"the", "their", "they", "this", "to", "was", "we", "were", "what", "when", "which"}
STOP_WORDS |= {"who", "will", "with", "you", "your"}
ENDINGS = re.compile(r"(?<=[a-z]{3})(?:ations?|ings?|ed|es|s|ly|ments?|ness|e)$")


def stem(text):
    """Return the stems of the words of a text without stop words, as search engines do."""
    words = re.findall("[a-z]+", text.lower())
    return " ".join(ENDINGS.sub("", word) for word in words if word not in STOP_WORDS)


def test_stems_are_english():
    lines = (Path(__file__).parents[2] / "data/tweets/train.tsv").read_text("utf-8").splitlines()
    assert find_language([stem(line.split("\t")[0]) for line in lines]).is_english


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason=f"the real texts are not at {DATA}")
@pytest.mark.parametrize("name", ["labels/biomedical_topics", "labels/snippet_topics"])
def test_stems_of_abstracts_and_web_pages_are_english(name):
    lines = gzip.decompress((DATA.parent / f"{name}.tsv.gz").read_bytes()).decode().splitlines()
    texts = [line.split("\t")[0] for line in lines]
    assert find_language(texts).is_english
    assert find_language(list(map(stem, texts))).is_english


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason=f"the real texts are not at {DATA}")
def test_ten_sets_in_other_languages_are_not_english():
    for path in DATA.glob("*/*.tsv"):
        texts = [line.split("\t")[0] for line in path.read_text("utf-8").splitlines()]
        assert not find_language(texts).is_english, path
