"""FastTokenizer gives the ids of the tokenizer's usual call, by words or by the backend."""

import pickle
import random
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_bert import make_bert
from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers, processors, trainers
from tokenizers.models import Unigram, WordLevel, WordPiece
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from hf_rnn import train_tokenizer
from hf_rnn.data import tokens
from hf_rnn.data.tokens import FastTokenizer, TokenizerFile
from hf_rnn.hub.model_folder import FinishedFolder
from hf_rnn.utils.errors import UserError

# Everything that the rules of the normalisers look at: word ends, white space, marks, entities,
# emoji that join.
PIECES = [
    *"aBdDpPo019.,:;'\"!?#@<>3&()-_^*\\\t\n\r\x0b\x1c\x1f\x85\xa0\u2028\u3000\u200d\ufe0f\u0301😀👨👩🇩🇪❤Σςİé’“…–"
]
PIECES += [
    " ",
    " ",
    " ",
    "  ",
    "<pad>",
    "<unk>",
    "http://t.co/x",
    "HTTPS://T.CO/X",
    "WWW.T.CO",
    "www.a.b",
    "&amp;",
]
PIECES += [
    "&nbsp;",
    "&#39;",
    "\\n",
    "\\u2019",
    "u.s.",
    "mr.",
    "can't",
    "<url>",
    "<user>",
    "<number>",
    "<<<mention>>>",
]
PIECES += [
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
    "aaa",
]
PIECES += [
    "82,000",
    "!!!",
    "..",
    "-_-",
    "^_^",
    "$",
    "''",
    "£",
    "❤\ufe0f",
    "ww.",
    "(:",
    ">_<",
    "[SEP]",
    "x[CLS]",
]
PIECES += [
    "🏻",
    "x" * 101,
    "<<<MENTION>>>",
    "<<<URL>>>",
    "<<<HASHTAG>>>",
    "<<<digit>>>",
    "@@",
    "@é",
    "http://é/x",
]


def train(normalizer="none", lowercase=True, model_max_length=12, kind="word"):
    """Every piece is in the vocabulary."""
    texts = [*PIECES, "a good day"] + [f"{left}{right}" for left in PIECES for right in PIECES[:40]]
    options = {
        "normalizer": normalizer,
        "lowercase": lowercase,
        "model_max_length": model_max_length,
    }
    return train_tokenizer(texts, min_frequency=1, tokenizer=kind, **options)


def bert(lowercase=True, model_max_length=12, split_special_tokens=False, texts=()):
    """Pieces of words, some cut, and two tokens around a text."""
    backend = Tokenizer(WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(
        vocab_size=30_000, special_tokens=specials, show_progress=False
    )
    backend.train_from_iterator([*(texts or PIECES * 2), "a Good day"], trainer)
    around = [("[CLS]", 2), ("[SEP]", 3)]
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=around
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    options = {"model_max_length": model_max_length, "split_special_tokens": split_special_tokens}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, mask_token="[MASK]", **options, **names
    )


def english():
    """The tokenizer of the encoder in the package: rules for handles and links before BERT's."""
    folder = files("hf_rnn") / "hub" / "pretrained" / "english"
    return PreTrainedTokenizerFast.from_pretrained(str(folder), model_max_length=12)


def unigram():
    """Pieces as those of multilingual encoders: emoji apart, and a mark before each word."""
    backend = Tokenizer(Unigram())
    backend.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC()])
    emoji, mark = (
        pre_tokenizers.Split("😀", "isolated"),
        pre_tokenizers.Metaspace(prepend_scheme="always"),
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), emoji, mark])
    trainer = trainers.UnigramTrainer(
        vocab_size=300, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False
    )
    backend.train_from_iterator(PIECES * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", model_max_length=12)


def foreign(model_max_length=5):
    """A word tokenizer of another kind, with tokens around a text."""
    vocabulary = {"<unk>": 0, "<pad>": 1, "<s>": 2, "</s>": 3, "a": 4, "b": 5}
    backend = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    around = [("<s>", 2), ("</s>", 3)]
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=around
    )
    names = {"unk_token": "<unk>", "pad_token": "<pad>", "bos_token": "<s>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, model_max_length=model_max_length, **names
    )


def check(tokenizer, texts, looked_up=None):
    """Compare all ways with the usual call, for new and for known words."""
    expected = tokenizer(texts, truncation=True)["input_ids"] if texts else []
    fast = FastTokenizer(tokenizer)
    assert looked_up is None or (fast._words is not None) == looked_up
    for _ in range(2):
        assert fast(texts) == expected


WORD_TOKENIZERS = {
    f"{name}-{lowercase}": (lambda name=name, lowercase=lowercase: train(name, lowercase))
    for name, lowercase in (("none", False), ("cased", True), ("tweet", True))
}
BERTS = {
    f"bert-{lower}": (lambda lower=lower: bert(lower, split_special_tokens=lower))
    for lower in (True, False)
}
BERTS |= {"english": english, "unigram": unigram}
OTHERS = {kind: (lambda kind=kind: train("tweet", kind=kind)) for kind in ("char", "bpe")}


@pytest.mark.parametrize(
    "make", [*WORD_TOKENIZERS.values(), *BERTS.values()], ids=[*WORD_TOKENIZERS, *BERTS]
)
def test_ids_of_looked_up_words_equal_those_of_the_usual_call(make):
    tokenizer = make()

    @given(texts=st.lists(st.lists(st.sampled_from(PIECES), max_size=14).map("".join), max_size=5))
    def check_texts(texts):
        check(tokenizer, texts, looked_up=True)

    check_texts()
    draw = random.Random(0)
    check(
        tokenizer,
        [" ".join("".join(draw.choices(PIECES, k=3)) for _ in range(20)) for _ in range(200)],
    )


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
def test_other_tokenizers_are_called(make):
    draw = random.Random(0)
    check(
        make(),
        ["".join(draw.choices([*PIECES, "a ", "b "], k=9)) for _ in range(300)],
        looked_up=False,
    )


ADDED = [
    AddedToken("<new>", special=True, lstrip=True),
    AddedToken("#Tag", special=True, normalized=False),
]


@pytest.mark.parametrize("token", ADDED, ids=repr)
@pytest.mark.parametrize("make", [train, bert])
def test_added_tokens(make, token):
    tokenizer = make()
    tokenizer.add_tokens([token], special_tokens=token.special)
    check(
        tokenizer,
        ["a <new> day", "a new day #new", "<NEW> day", "a#tag day #Tags #Tag", "a<pad>a [SEP]a"],
    )


@pytest.mark.parametrize("make", [train, lambda **given: train("tweet", **given), bert, foreign])
@pytest.mark.parametrize("side", ["left", "right"])
def test_texts_are_truncated_as_usual(make, side):
    """Also after calls of the tokenizer that change how its own backend truncates and pads."""
    for limit in (2, 3, 5, 10**30):
        tokenizer = make(model_max_length=limit)
        tokenizer.truncation_side = side
        tokenizer(["a b c"], truncation=True, max_length=2, padding="max_length")
        check(tokenizer, ["a (b-c) d" * 3, "Σ b", "a\u3000b c d", "", " ", "a"])
    fast = FastTokenizer(tokenizer)
    fast(["a b a b"])
    tokenizer.model_max_length = 3
    assert fast(["a b a b"]) == tokenizer(["a b a b"], truncation=True)["input_ids"], (
        "the limit of the moment"
    )


DATA = Path(__file__).parents[3] / "shared" / "data" / "languages"


@pytest.mark.parametrize("name", ["english", "multilingual"])
def test_ids_of_texts_in_any_language_equal_those_of_the_usual_call(name):
    """Compare the encoders of the package on ten languages, where they are, and on odd texts."""
    folder = files("hf_rnn") / "hub" / "pretrained" / name
    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(folder))
    texts = [
        "Nie wieder\u200b!",
        "今天 天气真好",
        "आज का दिन",
        "오늘은",
        "\u202eabc \ufeff",
        *PIECES,
    ]
    texts += PIECES
    for path in sorted(DATA.glob("*/train.tsv")):
        texts += [line.split("\t")[0] for line in path.read_text("utf-8").splitlines()[:300]]
    draw = random.Random(1)
    texts += ["".join(map(chr, draw.choices(range(1, 0xD800), k=30))) for _ in range(200)]
    check(tokenizer, texts, looked_up=True)
    fast = FastTokenizer(tokenizer, add_special_tokens=False)
    assert fast(texts, 10**30) == tokenizer(texts, add_special_tokens=False)["input_ids"]
    cut = {"truncation": True, "max_length": 7}
    assert FastTokenizer(tokenizer)(texts, 7) == tokenizer(texts, **cut)["input_ids"]


def test_threads_get_the_ids_that_one_would(monkeypatch):
    """Words with a capital sigma reach the backend; all words are forgotten all the time."""
    monkeypatch.setattr(tokens, "_MOST_WORDS", 20)
    tokenizer = train()
    fast = FastTokenizer(tokenizer)
    texts = [[f"a Σ{(7 * turn + word) % 60} b" for word in range(30)] for turn in range(60)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as threads:
            found = list(threads.map(fast, texts))
    finally:
        sys.setswitchinterval(interval)
    assert found == [tokenizer(block)["input_ids"] for block in texts]


@pytest.mark.parametrize("make", [train, foreign])
@pytest.mark.parametrize("texts", ["a good day", ["a", None], ["a", "\ud800"]])
def test_an_invalid_list_of_texts_is_refused(make, texts):
    with pytest.raises(UserError):
        FastTokenizer(make())(texts)


FILE_TEXTS = [
    "miro the box!",
    "",
    "SELK @you near a door",
    "sand \U0001f600 <unk> https://a.org/b?c=1",
    "the box " * 60,
]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("kind", ["none", "tweet", "bpe", "bert"])
def test_the_file_of_the_tokenizer_gives_the_ids_of_transformers(tmp_path, kind, side):
    if kind == "bert":
        make_bert(tmp_path)
    else:
        how = {"tokenizer": kind} if kind == "bpe" else {"normalizer": kind}
        train_tokenizer(FILE_TEXTS, min_frequency=1, **how).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(
        tmp_path, model_max_length=9, truncation_side=side
    ).save_pretrained(tmp_path)
    expected, found = (
        AutoTokenizer.from_pretrained(tmp_path),
        TokenizerFile(FinishedFolder(tmp_path)),
    )
    ids = expected(FILE_TEXTS, truncation=True)["input_ids"]
    for file in (found, pickle.loads(pickle.dumps(found))):
        assert file(FILE_TEXTS, truncation=True)["input_ids"] == ids
        assert file(FILE_TEXTS)["input_ids"] == expected(FILE_TEXTS)["input_ids"]
    assert (found.get_vocab(), found.model_max_length) == (expected.get_vocab(), 9)
