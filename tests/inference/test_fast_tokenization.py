"""FastTokenizer gives the ids of the tokenizer's usual call, whether words are looked up or the backend is called."""

import copy
import multiprocessing
import random
import sys
import time
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers, processors, trainers
from tokenizers.models import WordLevel, WordPiece
from tokenizers.pre_tokenizers import PreTokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from hf_rnn import train_tokenizer
from hf_rnn.inference.fast_tokenizer import fast_tokenization
from hf_rnn.inference.fast_tokenizer.fast_tokenization import FastTokenizer
from hf_rnn.inference.fast_tokenizer.tweet_columns import TweetColumns
from hf_rnn.inference.fast_tokenizer.word_columns import WordColumns
from hf_rnn.inference.fast_tokenizer.word_rules import _PLAIN_TEXT
from hf_rnn.tokenizers.normalizers import NORMALIZERS
from hf_rnn.utils.errors import UserError

REAL = Path(__file__).parents[3] / "shared" / "data" / "semeval2016_raw" / "train.tsv"
# What the rules of the normalisers look at: ends of words, all kinds of white space, marks, entities, emoji that join.
PIECES = [*"aBdDpPo019.,:;'\"!?#@<>3&()-_^*\\\t\n\r\x0b\x1c\x1f\x85\xa0\u2028\u3000\u200d\ufe0f\u0301😀👨👩🇩🇪❤Σςİé’“…"]
PIECES += [
    " ",
    " ",
    " ",
    "  ",
    "   ",
    "<pad>",
    "<unk>",
    "http://t.co/x",
    "HTTPS://T.CO/X",
    "WWW.T.CO",
    "www.a.b",
    "&amp;",
    "&nbsp;",
    "\\n",
    "\\u2019",
]
PIECES += [
    "u.s.",
    "mr.",
    "can't",
    "<url>",
    "<user>",
    "<number>",
    "<<<mention>>>",
    ":-)",
    ":D",
    "<3",
    "a@b.com",
    "7:40pm",
    "sooo",
    "Oo",
    "it's",
    "Day",
    "#tag",
    "@user_1",
    "http://",
]


def as_lists(arranged):
    """What `arrange` returns, a list a text."""
    bounds = zip(arranged.starts.tolist(), arranged.lengths.tolist(), strict=True)
    return [arranged.token_ids[start : start + length].tolist() for start, length in bounds]


def always_in_columns(tokenizer):
    """A FastTokenizer to whom few texts are many, if it has columns."""
    fast = FastTokenizer(tokenizer)
    if fast._columns is not None:
        fast._fewest = fast._columns.fewest = 0
    return fast


def check_texts_of(pieces, tokenizer):
    """Texts that are put together from pieces at random have the ids of the usual call."""
    fast, columns = FastTokenizer(tokenizer), always_in_columns(tokenizer)
    assert fast._known is not None, "premise: this is a tokenizer whose words are looked up"

    @given(texts=st.lists(st.lists(st.sampled_from(pieces), max_size=14).map("".join), max_size=5))
    @settings(max_examples=150, deadline=None)
    def check(texts):
        expected = tokenizer(texts, truncation=True)["input_ids"] if texts else []
        assert fast(texts) == expected
        assert fast(texts) == expected, "the second time every word is known"
        assert as_lists(columns.arrange(texts)) == expected

    check()


def check_words_of(texts, tokenizer, distinct):
    """The texts have the ids of the usual call; if not, the words are told that have others when they stand alone."""
    expected = tokenizer(texts)["input_ids"]
    assert len(set(chain.from_iterable(expected))) > distinct, "premise: they are words"
    fast, columns = FastTokenizer(tokenizer), always_in_columns(tokenizer)
    for way in (fast, lambda texts: as_lists(columns.arrange(texts))):
        for text, found, usual in zip(texts, way(texts), expected, strict=True):
            alone = text.split(" ")
            wrong = zip(alone, way(alone), tokenizer(alone)["input_ids"], strict=True)
            assert found == usual, [word for word, ours, theirs in wrong if ours != theirs]


def texts_of_any_character():
    codes = [code for code in range(sys.maxunicode + 1) if code < 0x3400 or code % 61 == 0 or 0x1F000 < code < 0x1FB00]
    signs = [chr(code) for code in codes if unicodedata.category(chr(code)) not in ("Cs", "Cn", "Co")]
    forms = ["{0}", "A{0}", "{0}b!", "#{0}Σ", "x{0}'{0}y", "{0}{0}{0}"]
    words = [form.format(sign) for sign in signs for form in forms]
    return [" ".join(words[start : start + 600]) for start in range(0, len(words), 600)]


def train(normalizer="none", lowercase=True, model_max_length=12):
    """Every piece is a word that is known."""
    texts = [*PIECES, "a good day"] + [f"{left}{right}" for left in PIECES for right in PIECES[:40]]
    return train_tokenizer(
        texts, min_frequency=1, normalizer=normalizer, lowercase=lowercase, model_max_length=model_max_length
    )


def bert(texts=(), lowercase=True, model_max_length=12, split_special_tokens=False):
    """A tokenizer as BERT's: pieces of words, and two tokens around a text. Some of the words are cut."""
    backend = Tokenizer(WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(
        vocab_size=30_000, special_tokens=specials, show_progress=False, limit_alphabet=20_000
    )
    backend.train_from_iterator([*(texts or PIECES * 2), "a Good day"], trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        mask_token="[MASK]",
        model_max_length=model_max_length,
        split_special_tokens=split_special_tokens,
        **names,
    )


@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_ids_equal_those_of_the_usual_call(normalizer, lowercase):
    check_texts_of(PIECES, train(normalizer, lowercase))


@pytest.mark.skipif(not REAL.is_file(), reason=f"no real tweets at {REAL}")
@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_on_real_tweets(normalizer):
    texts = [line.rsplit("\t", 1)[0] for line in REAL.read_text(encoding="utf-8").split("\n")][:2000]
    tokenizer = train_tokenizer(texts[:1000], min_frequency=2, normalizer=normalizer)
    expected = tokenizer(texts, truncation=True)["input_ids"]
    assert any(tokenizer.unk_token_id in ids for ids in expected), "premise: there are unknown words"
    assert FastTokenizer(tokenizer)(texts) == expected


@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_plain_words_do_not_reach_the_backend(normalizer, lowercase, monkeypatch):
    tokenizer = train(normalizer, lowercase, model_max_length=100)
    fast = FastTokenizer(tokenizer)
    text = "a Good day NeverSeen d <pad> <PAD> <unk> @user_1 #Tag day! it's 7 http://t.co/x sooo"
    expected = tokenizer([text], truncation=True)["input_ids"]
    asked = []
    encode = fast._encode_words
    monkeypatch.setattr(fast, "_encode_words", lambda words: asked.extend(words) or encode(words))
    assert fast([text]) == expected
    assert (
        set(asked)
        == {
            "none": set(),
            "semeval": {"<pad>", "<PAD>", "<unk>", "@user_1", "#Tag", "day!", "it's", "7", "http://t.co/x"},
            "tweet": set(),
        }[normalizer]
    )


class TestColumns:
    """Many texts at once, of the tokenizers whose words are whole."""

    @pytest.mark.parametrize("lowercase", [True, False])
    def test_words_of_plain_characters(self, lowercase):
        """Premise: a text of these goes through Arrow; all words are in the vocabulary, so that another case shows."""
        signs = [chr(code) for code in range(sys.maxunicode + 1)]
        words = [
            f"{start}{sign}" for sign in signs if _PLAIN_TEXT.fullmatch(sign) and sign != " " for start in ("", "A")
        ]
        assert len(words) > 70_000
        texts = [" ".join(words[start : start + 100]) for start in range(0, len(words), 100)]
        tokenizer = train_tokenizer(texts, min_frequency=1, lowercase=lowercase)
        fast = always_in_columns(tokenizer)
        assert all(map(fast._columns.take, texts)), "premise: nothing but columns is tried here"
        assert as_lists(fast.arrange(texts)) == tokenizer(texts)["input_ids"]

    def test_any_sign_of_ascii_within_and_between_words(self):
        signs = [chr(code) for code in range(128)]
        forms = ["a{0}b", "{0}", "{0}a", "a{0}", "<pad>{0}a", "a{0}<pad> ", "<pad>{0}<PAD>{0}<unk>", "{0}{0}A {0}"]
        texts = [form.format(sign) for sign in signs for form in forms]
        tokenizer = train_tokenizer(texts, min_frequency=1)
        fast = always_in_columns(tokenizer)
        assert all(map(fast._columns.take, texts)), "premise: nothing but columns is tried here"
        assert as_lists(fast.arrange(texts)) == tokenizer(texts)["input_ids"]

    @pytest.mark.parametrize("side", ["left", "right"])
    @pytest.mark.parametrize("limit", [1, 3, 10**30])
    def test_texts_of_all_kinds_in_their_order(self, side, limit):
        """Premise: capital sigmas and white space beyond ASCII go another way than the texts around them."""
        tokenizer = train(model_max_length=limit)
        tokenizer.truncation_side = side
        plain, others = ["a Good day", "", "  a  b ", "é d", "\t"], ["Σ a b c d e", "a\u3000b c d e"]
        fast = always_in_columns(tokenizer)
        assert [text for text in plain + others if fast._columns.take(text)] == plain
        for texts in (plain, others, [*others, *plain, *others], [plain[0], others[0], *plain], [others[1]], [], [""]):
            expected = tokenizer(texts, truncation=True)["input_ids"] if texts else []
            assert as_lists(fast.arrange(texts)) == expected

    @pytest.mark.parametrize(("normalizer", "columns"), [("none", WordColumns), ("tweet", TweetColumns)])
    def test_few_texts_are_looked_up(self, normalizer, columns, monkeypatch):
        fast = FastTokenizer(train(normalizer))
        monkeypatch.setattr(columns, "__call__", lambda *_: pytest.fail("a large vocabulary for few texts"))
        assert as_lists(fast.arrange(["a b", "a"])) == fast(["a b", "a"])
        monkeypatch.undo()
        monkeypatch.setattr(fast, "_look_up", lambda texts, _: pytest.fail("many texts") if texts else [])
        many = ["a b", "a"] * len(fast.tokenizer)
        assert as_lists(fast.arrange(many)) == fast.tokenizer(many)["input_ids"]

    def test_a_small_vocabulary_does_not_make_few_tweets_many(self, monkeypatch):
        fast = FastTokenizer(train_tokenizer(["a b"], min_frequency=1, normalizer="tweet"))
        monkeypatch.setattr(TweetColumns, "__call__", lambda *_: pytest.fail("few texts"))
        texts = ["a b"] * (TweetColumns.fewest - 1)
        assert as_lists(fast.arrange(texts)) == fast(texts)

    def test_shapes_of_tweets_are_not_looked_up(self):
        """And come once, however often they stand in the texts."""
        texts = ["Good day!!! #Tag it's @user: 7:40, 'so' http://t.co/a?b=1 b4.. D <3 (day)", "<3 D", ""]
        fast = always_in_columns(train("tweet", model_max_length=100))
        asked = []
        arranged = fast._columns(texts, lambda words: asked.extend(words) or fast(words))
        assert as_lists(arranged) == fast.tokenizer(texts)["input_ids"]
        assert sorted(asked) == ["", "(day)", "<3"]

    @pytest.mark.parametrize("normalizer", ["none", "tweet"])
    def test_many_texts_and_few_have_the_vocabulary_of_the_same_time(self, normalizer):
        """Though columns ask for it when they are needed first."""
        tokenizer = train(normalizer)
        texts, backend = ["a newcomer", "b"], tokenizer.backend_tokenizer
        expected, fast = tokenizer(texts)["input_ids"], always_in_columns(tokenizer)
        backend.model = WordLevel({**backend.get_vocab(), "newcomer": 99}, unk_token="<unk>")
        assert tokenizer(texts)["input_ids"][0][1] == 99, "premise: the tokenizer has changed"
        assert as_lists(fast.arrange(texts)) == fast(texts) == expected

    @pytest.mark.parametrize("side", ["left", "right"])
    @pytest.mark.parametrize("limit", [1, 2, 3, 5])
    def test_tweets_are_cut_as_usual(self, side, limit):
        """Premise: a word that is looked up may have more tokens than a text may."""
        tokenizer = train("tweet", model_max_length=limit)
        tokenizer.truncation_side = side
        texts = ["a (b-c) d", "(b-c-d)", "a b c d e f", "a", "", "d (b-c)"]
        assert len(tokenizer(["(b-c-d)"], truncation=False)["input_ids"][0]) == 7
        assert as_lists(always_in_columns(tokenizer).arrange(texts)) == tokenizer(texts, truncation=True)["input_ids"]

    @pytest.mark.parametrize("texts", [["a", None], ["a", b"c"], ["a", "\ud800"], "a b"])
    def test_what_is_no_text_is_refused(self, texts):
        with pytest.raises(UserError):
            always_in_columns(train()).arrange(texts)

    def test_texts_may_be_of_a_class_of_their_own(self):
        class Text(str):
            pass

        texts = [Text("a b"), np.str_("A"), "a"]
        fast = always_in_columns(train())
        assert as_lists(fast.arrange(texts)) == fast(texts)


@pytest.mark.parametrize("lowercase", [True, False])
def test_words_of_ascii_by_the_rules_of_tweets(lowercase, monkeypatch):
    """All of two signs, and those of more that the rules look at; none of them reaches the backend."""
    signs = [chr(code) for code in range(33, 127)]
    pieces = [
        "aaa",
        "A",
        "b'c",
        "7",
        "82,000",
        ":",
        ".",
        "..",
        "!!!",
        "?",
        "<",
        ">",
        "3",
        "@u",
        "#",
        "http://",
        "www.",
    ]
    pieces += [")", "(", "-_-", "^_^", "D", "_", "<url>", "<user>", "/", '"', "]", "$", "''", "o"]
    words = [left + right for left in signs for right in signs]
    words += ["".join(parts) for parts in product(pieces, repeat=3)]
    texts = [" ".join(words[start : start + 200]) for start in range(0, len(words), 200)]
    settings = {"normalizer": "tweet", "lowercase": lowercase, "model_max_length": 10**6}
    tokenizer = train_tokenizer(texts, min_frequency=1, **settings)
    check_words_of(texts, tokenizer, distinct=300)
    fast = FastTokenizer(tokenizer)
    monkeypatch.setattr(fast, "_encode_words", lambda words: pytest.fail(f"asked for {words}"))
    fast(texts)


# More of what the rules of tweets look at: signs that are written otherwise, and pictures with and without colour.
SIGNS = [
    "&amp;amp;",
    "&lt;",
    "&gt;",
    "&#39;",
    "&#x27;",
    "&quot;",
    "\\u002c",
    "\\u201c",
    '\\"',
    "’",
    "‘",
    "“",
    "”",
    "–",
    "•",
]
SIGNS += [
    "❤\ufe0f",
    "☺\ufe0f",
    "✌",
    "🏻",
    "😂",
    "☀",
    "✔",
    "£",
    "WWW.a",
    "ww.",
    "(:",
    "o:",
    "=P",
    "D:",
    "-_-",
    ">_<",
    "{",
    "\\",
]


@pytest.mark.parametrize("lowercase", [True, False])
def test_words_of_many_pieces_by_the_rules_of_tweets(lowercase):
    draw = random.Random(lowercase)
    pieces = [piece for piece in PIECES if not piece.isspace()] + SIGNS
    words = ["".join(draw.choices(pieces, k=draw.choice((1, 2, 2, 3, 4, 5)))) for _ in range(40_000)]
    texts = [" ".join(words[start : start + 50]) for start in range(0, len(words), 50)]
    settings = {"normalizer": "tweet", "lowercase": lowercase, "model_max_length": 10**6}
    check_words_of(texts, train_tokenizer(texts, min_frequency=1, **settings), distinct=300)


def test_common_words_of_tweets_do_not_reach_the_backend(monkeypatch):
    text = "don’t “go” ❤\ufe0f 😂😂😂 well… R&amp;B (see it\\u2019s\\u002c) 10–12 <3 https://t.co/x…"
    text += " caf\xe9\\nbar &lt;3 7❤"
    tokenizer = train_tokenizer([text], min_frequency=1, normalizer="tweet")
    fast = FastTokenizer(tokenizer)
    monkeypatch.setattr(fast, "_encode_words", lambda words: words and pytest.fail(f"asked for {words}"))
    assert fast([text]) == tokenizer([text])["input_ids"]
    assert tokenizer.unk_token_id not in fast([text])[0], "premise: every word is known"


@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_words_of_any_character(normalizer, lowercase):
    """Premise: all of them are in the vocabulary, so that a word that is taken for another one has another id."""
    texts = texts_of_any_character()
    settings = {"normalizer": normalizer, "lowercase": lowercase, "model_max_length": 10**6}
    tokenizer = train_tokenizer(texts, min_frequency=1, **settings)
    check_words_of(texts, tokenizer, distinct=0 if normalizer == "semeval" else 20_000)


@pytest.mark.parametrize(
    "text",
    ["Привет Мир", "Ça été déjà", "καλημέρα", "今日は いい天気", "안녕", "שלום", "مرحبا", "नमस्ते दुनिया", "➜ ★ 😀"],
)
def test_other_scripts_do_not_reach_the_backend(text, monkeypatch):
    tokenizer = train_tokenizer([text], min_frequency=1)
    fast = FastTokenizer(tokenizer)
    monkeypatch.setattr(fast, "_encode_words", lambda words: pytest.fail(f"asked for {words}"))
    assert fast([text, text.upper()]) == tokenizer([text, text.upper()])["input_ids"]


class TestBert:
    @pytest.mark.parametrize("lowercase", [True, False])
    @pytest.mark.parametrize("split", [True, False])
    def test_ids_equal_those_of_the_usual_call(self, lowercase, split):
        pieces = [*PIECES, "[SEP]", "[MASK]", "x[CLS]", "unseen", "x" * 101]
        check_texts_of(pieces, bert(lowercase=lowercase, split_special_tokens=split))

    @pytest.mark.skipif(not REAL.is_file(), reason=f"no real tweets at {REAL}")
    def test_on_real_tweets(self):
        texts = [line.rsplit("\t", 1)[0] for line in REAL.read_text(encoding="utf-8").split("\n")][:2000]
        tokenizer = bert(texts[:1000], model_max_length=24)
        expected = tokenizer(texts, truncation=True)["input_ids"]
        assert 24 in map(len, expected), "premise: some are cut"
        assert FastTokenizer(tokenizer)(texts) == expected

    @pytest.mark.parametrize("lowercase", [True, False])
    def test_words_of_any_character(self, lowercase):
        texts = texts_of_any_character()
        check_words_of(texts, bert(texts, lowercase=lowercase, model_max_length=10**6), distinct=10_000)

    def test_words_of_ascii_do_not_reach_the_backend(self, monkeypatch):
        tokenizer = bert(["good day so tag it 's a , ! # . good day so tag"] * 3)
        fast = FastTokenizer(tokenizer)
        text = "Good day, so #tag! unheard it's [SEP] x[SEP]y http://a.b/2 \x7f caf\xe9 " + "x" * 101
        expected = tokenizer([text], truncation=True)["input_ids"]
        asked = []
        encode = fast._encode_words
        monkeypatch.setattr(fast, "_encode_words", lambda words: asked.extend(words) or encode(words))
        assert fast([text]) == expected
        assert asked == ["[SEP]", "x[SEP]y", "\x7f", "caf\xe9"]

    @pytest.mark.parametrize(
        "token",
        [
            AddedToken("<new>", special=True, lstrip=True),
            AddedToken("<new>", special=True, rstrip=True),
            AddedToken("<new>", special=True, normalized=True),
            AddedToken("new day", special=True, normalized=False),
            AddedToken("<new>", special=False, normalized=False),
        ],
        ids=repr,
    )
    def test_with_tokens_that_reach_further_are_not_looked_up(self, token):
        tokenizer = bert()
        tokenizer.add_tokens([token], special_tokens=token.special)
        fast = FastTokenizer(tokenizer)
        assert fast._known is None
        texts = ["a <new> day", "a new day #new", "<NEW> day"]
        assert fast(texts) == tokenizer(texts, truncation=True)["input_ids"]

    def test_special_tokens_of_any_look(self):
        tokenizer = bert()
        tokenizer.add_tokens([AddedToken(word, special=True, normalized=False) for word in ("#Tag", "ood", ".")])
        fast = FastTokenizer(tokenizer)
        assert fast._known is not None
        texts = ["a #Tag day", "a#tag day #Tags", "good day", "a.b", "Good .#Tag."]
        assert fast(texts) == tokenizer(texts, truncation=True)["input_ids"]

    def test_longer_words_than_the_tokenizer_cuts_are_unknown(self):
        tokenizer = bert()
        vocabulary = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "a": 4, "##a": 5}
        tokenizer.backend_tokenizer.model = WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=4)
        expected = tokenizer(["aaaa aaaaa"], truncation=True)["input_ids"]
        assert FastTokenizer(tokenizer)(["aaaa aaaaa"]) == expected == [[2, 4, 5, 5, 5, 1, 3]]

    def test_without_a_token_for_what_is_unknown_is_not_looked_up(self):
        tokenizer = bert()
        tokenizer.backend_tokenizer.model = WordPiece({"a": 0, "##b": 1, "[CLS]": 2, "[SEP]": 3}, unk_token="[NONE]")
        fast = FastTokenizer(tokenizer)
        assert fast._known is None
        assert fast(["a ab"]) == tokenizer(["a ab"], truncation=True)["input_ids"] == [[2, 0, 0, 1, 3]]

    @pytest.mark.parametrize("template", ["[CLS] $A [SEP] $A", "[CLS] $A $A [SEP]"])
    def test_with_a_text_that_stands_twice_is_not_looked_up(self, template):
        tokenizer = bert()
        twice = processors.TemplateProcessing(single=template, special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
        tokenizer.backend_tokenizer.post_processor = twice
        fast = FastTokenizer(tokenizer)
        assert fast._known is None
        assert fast(["a day"]) == tokenizer(["a day"], truncation=True)["input_ids"]

    @pytest.mark.parametrize("limit", [2, 3, 4, 5])
    @pytest.mark.parametrize("side", ["left", "right"])
    def test_hardly_any_room(self, limit, side):
        tokenizer = bert(model_max_length=limit)
        tokenizer.truncation_side = side
        texts = ["a Good day so a", "a", "", " "]
        assert FastTokenizer(tokenizer)(texts) == tokenizer(texts, truncation=True)["input_ids"]


def foreign():
    """A tokenizer with tokens of its own around a text, which must be cut before they are added."""
    vocabulary = {"<unk>": 0, "<pad>": 1, "<s>": 2, "</s>": 3, "a": 4, "b": 5}
    backend = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", pad_token="<pad>", bos_token="<s>", model_max_length=5
    )


class TestOtherTokenizers:
    def test_without_a_token_for_what_is_unknown_are_not_looked_up(self):
        backend = train().backend_tokenizer
        backend.model = WordLevel({"a": 0, "<pad>": 1}, unk_token="<none>")
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", split_special_tokens=True)
        fast = FastTokenizer(tokenizer)
        assert fast._known is None
        assert fast(["a a"]) == tokenizer(["a a"])["input_ids"] == [[0, 0]]

    def test_are_called_by_their_backend(self):
        tokenizer = foreign()
        fast = FastTokenizer(tokenizer)
        assert fast._known is None
        texts = ["a b a b a b", "", "a", "<s> a", "zzz"]
        assert fast(texts) == tokenizer(texts, truncation=True)["input_ids"]
        assert fast(texts)[0] == [2, 4, 5, 4, 3]

    def test_that_read_special_tokens_in_a_text_or_have_words_of_their_own_are_not_looked_up(self):
        reading = train()
        reading.split_special_tokens = False
        with_words = train()
        with_words.add_tokens(["good day"])
        for tokenizer in (reading, with_words):
            fast = FastTokenizer(tokenizer)
            assert fast._known is None
            texts = ["a good day", "a<pad>a"]
            assert fast(texts) == tokenizer(texts, truncation=True)["input_ids"]

    def test_without_a_backend(self):
        """Whatever is no fast tokenizer is only called."""

        class Slow:
            def __call__(self, texts, **settings):
                assert settings["truncation"]
                return {"input_ids": [[len(text)] for text in texts]}

        assert FastTokenizer(Slow())(["ab", ""]) == [[2], [0]]


@pytest.mark.parametrize("make", [train, bert, foreign])
class TestCutting:
    def test_other_calls_leave_no_trace(self, make):
        tokenizer = make()
        fast = FastTokenizer(tokenizer)
        long = "a b " * 9
        tokenizer([long, "a"], padding="max_length", max_length=30, truncation=True)  # leaves settings in the backend
        expected = tokenizer([long, "a"], truncation=True)["input_ids"]
        assert len(expected[0]) == tokenizer.model_max_length < 18, "premise: the text is too long"
        tokenizer([long, "a"], padding="max_length", max_length=30, truncation=True)
        assert fast([long, "a"]) == expected

    def test_on_the_left(self, make):
        tokenizer = make()
        tokenizer.truncation_side = "left"
        texts = ["a b " * 9 + "a", "a"]
        assert FastTokenizer(tokenizer)(texts) == tokenizer(texts, truncation=True)["input_ids"]

    def test_without_a_limit(self, make, tmp_path):
        make().save_pretrained(tmp_path)
        tokenizer = AutoTokenizer.from_pretrained(tmp_path, model_max_length=int(1e30))
        texts = ["a " * 600]
        assert FastTokenizer(tokenizer)(texts) == tokenizer(texts)["input_ids"]
        assert len(FastTokenizer(tokenizer)(texts)[0]) >= 600


class TestMemory:
    def test_all_is_forgotten_when_it_is_full(self, monkeypatch):
        monkeypatch.setattr("hf_rnn.inference.fast_tokenizer.fast_tokenization._KEPT", 4)
        tokenizer = train()
        fast = FastTokenizer(tokenizer)
        texts = ["a b", "c d e f g", "a c", "", "h i j a", "a  b"]
        for text in texts:
            assert fast([text]) == tokenizer([text])["input_ids"]
            assert len(fast._known) <= 5
        assert fast(texts) == tokenizer(texts)["input_ids"]

    def test_long_words_are_not_kept(self):
        fast = FastTokenizer(train())
        assert fast(["a " + "x" * 65, "x" * 64]) == fast(["a " + "x" * 65, "x" * 64])
        assert set(fast._known) == {"", "a", "x" * 64}


def test_a_copy_of_what_is_known_goes_its_own_way():
    """As `scripts/benchmark_infer.py` takes one before each pass, so that a pass meets new words as the first did."""
    fast = FastTokenizer(train())
    fast(["a b"])
    known = fast._known
    fast._known = copy.copy(known)
    assert fast(["a b c"]) == fast.tokenizer(["a b c"])["input_ids"]
    assert "c" in fast._known and "c" not in known
    assert fast(["a Σ"]) == fast.tokenizer(["a Σ"])["input_ids"], "a new word that is not plain"


@pytest.mark.parametrize("tail", ["", "x" * 80], ids=["kept", "too_long_to_be_kept"])
def test_threads_get_the_ids_that_one_would(monkeypatch, tail):
    """Premise: a thread may find that another one has just forgotten all words; here they do so all the time.

    Words with a capital sigma are none of those that are looked up without the backend.
    """
    monkeypatch.setattr("hf_rnn.inference.fast_tokenizer.fast_tokenization._KEPT", 20)
    tokenizer = train()
    fast = FastTokenizer(tokenizer)
    texts = [[f"a Σ{(7 * turn + word) % 60}{tail} b" for word in range(30)] for turn in range(100)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as threads:
            found = list(threads.map(fast, texts * 2))
    finally:
        sys.setswitchinterval(interval)
    assert found == [tokenizer(block)["input_ids"] for block in texts * 2]


def test_calls_of_the_tokenizer_itself_stand_in_no_ones_way():
    """How a backend cuts and pads is its state: two threads would cut each other's texts, and one keep the ids."""
    tokenizer = train()
    fast, backend = FastTokenizer(tokenizer), tokenizer.backend_tokenizer
    expected = tokenizer(["a Σ b c a b"])["input_ids"]
    tokenizer(["a b c"], truncation=True, max_length=2, padding="max_length")
    state = backend.truncation, backend.padding
    assert None not in state, "premise"
    assert fast(["a Σ b c a b"]) == expected
    assert (backend.truncation, backend.padding) == state


@pytest.mark.skipif(sys.platform == "win32", reason="it has no fork")
def test_a_fork_does_not_wait_for_a_thread_that_it_lacks():
    """As a server has workers made while its threads answer; what these held stays held in the child."""
    tokenizer = train()
    fast, expected = FastTokenizer(tokenizer), tokenizer(["a Σ b"])["input_ids"]
    child = multiprocessing.get_context("fork").Process(target=lambda: sys.exit(int(fast(["a Σ b"]) != expected)))
    with ThreadPoolExecutor() as threads:
        busy = threads.submit(fast, [f"Σ{number}" for number in range(200_000)])
        while not fast_tokenization._ENCODING.locked():
            time.sleep(0.001)
        child.start()
        assert not busy.done(), "premise"
    child.join(20)
    child.kill()
    assert child.exitcode == 0


def test_a_backend_with_parts_in_python_is_shared():
    class Whole:
        def pre_tokenize(self, text):
            text.split(lambda number, part: [part])

    tokenizer = train()
    tokenizer.backend_tokenizer.pre_tokenizer = PreTokenizer.custom(Whole())
    with pytest.raises(Exception, match="[Cc]ustom"):
        copy.deepcopy(tokenizer.backend_tokenizer)
    assert FastTokenizer(tokenizer)(["a", "b"]) == tokenizer(["a", "b"])["input_ids"]


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_no_word_of_any_character_reaches_over_a_space(normalizer):
    """Premise of looking words up; by the rules of graphemes some characters take the space after them along."""
    characters = [chr(code) for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code))[0] not in "CL"]
    characters += [chr(code) for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)) == "Cf"]
    assert {"\u06dd", "\u0600", "\u200d", "\u0301"} <= set(characters)
    backend = train(normalizer).backend_tokenizer
    text = backend.normalizer.normalize_str(" o ".join(characters) + " \u0600\u0601 o \u0600 \u0301 o")
    words = [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(text)]
    assert [word for word in words if " " in word] == []
    assert words.count("o") > len(characters)


def test_special_tokens_that_were_added_later_are_no_words():
    tokenizer = train()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<extra>", "EXTRA"]})
    texts = ["a <extra> day", "EXTRA", "<pad> extra"]
    assert FastTokenizer(tokenizer)(texts) == tokenizer(texts, truncation=True)["input_ids"]


@pytest.mark.parametrize("make", [train, foreign])
@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("a good day", "found one text: put it into a list"),
        (["a", None], r"texts\[1\] is not a str: found None"),
        (["a", "b", b"c"], r"texts\[2\] is not a str: found b'c'"),
        (["a", ["a", "b"]], r"texts\[1\] is not a str"),
        (["a", "\ud800"], r"texts\[1\] is not valid Unicode"),
    ],
)
def test_what_is_no_list_of_texts_is_refused(make, texts, message):
    with pytest.raises(UserError, match=message):
        FastTokenizer(make())(texts)
