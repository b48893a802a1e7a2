"""The tokenizer: torchtext's order of words, normalisers in `tokenizer.json`, honest errors."""

import functools
import random
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer, DataCollatorWithPadding

from hf_rnn.tokenizers.normalizers import NORMALIZERS, build_normalizer
from hf_rnn.tokenizers.word_level import (
    PAD_TOKEN,
    TOKENIZERS,
    UNK_TOKEN,
    save_tokenizer,
    train_tokenizer,
)
from hf_rnn.utils.errors import UserError

DATA = Path(__file__).parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"the real tweets are not at {DATA}")

CORPUS = [
    "the ferry was late again",
    "the FERRY was lovely",
    "late late show",
    "lovely view from the ferry",
]


def rows(folder, split):
    lines = (
        (DATA / folder / f"{split}.tsv").read_text(encoding="utf-8").removesuffix("\n").split("\n")
    )
    return [line.split("\t")[0] for line in lines]


stages = functools.cache(build_normalizer)


def words(name, text, lowercase=True):
    """The words that are looked up, as strings."""
    normalizer, pre_tokenizer = stages(name, lowercase)
    return [word for word, _ in pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(text))]


def reference_vocabulary(corpus, min_frequency, min_texts, lowercase):
    """torchtext's order in plain Python, lowercased by character, for the sake of a final sigma."""
    counter, texts = Counter(), Counter()
    for text in corpus:
        found = ("".join(map(str.lower, text)) if lowercase else text).split()
        counter.update(found)
        texts.update(set(found))
    frequent = [
        (-count, word)
        for word, count in counter.items()
        if count >= min_frequency and texts[word] >= min_texts
    ]
    return [
        UNK_TOKEN,
        PAD_TOKEN,
        *(word for _, word in sorted(frequent) if word not in (UNK_TOKEN, PAD_TOKEN)),
    ]


@needs_data
def test_vocabulary_and_ids_of_the_tutorial():
    tokenizer = train_tokenizer(rows("semeval2016", "train"))
    assert len(tokenizer) == 3330
    for text, ids in {
        "ihop is the move tomorrow": [191, 14, 2, 598, 21],
        "<<<mention>>> make david beckham tomorrow": [4, 82, 73, 145, 21],
        "bringing the bentley out tomorrow": [1273, 2, 215, 48, 21],
        "new <unk> with bentley tomorrow": [49, 0, 18, 215, 21],
    }.items():
        assert tokenizer(text)["input_ids"] == ids


# Up to U+2FFF, so that Python's and the library's tables agree on case; U+001C..1F are white space
# to Python only.
letters = st.characters(
    exclude_categories=("Cs", "Cn"), exclude_characters="\x1c\x1d\x1e\x1f", max_codepoint=0x2FFF
)
some_words = st.sampled_from(
    ["a", "b", "A", "aa", "é", "ΟΔΟΣ", "οδος", "İ", "ß", "😂", "<unk>", "<PAD>", "<pad>", "a<unk>b"]
)
corpora = st.lists(
    st.lists(some_words | st.text(letters, max_size=4), max_size=8).map(" ".join)
    | st.text(letters),
    max_size=12,
)


@given(
    corpus=corpora, least=st.tuples(st.integers(1, 3), st.integers(1, 2)), lowercase=st.booleans()
)
def test_order_and_ids_equal_a_count_in_plain_python(corpus, least, lowercase):
    expected = reference_vocabulary(corpus, *least, lowercase)
    options = {"min_frequency": least[0], "min_texts": least[1], "lowercase": lowercase}
    if len(expected) == 2:
        with pytest.raises(UserError, match="no word occurs"):
            train_tokenizer(corpus, **options)
        return
    tokenizer = train_tokenizer(corpus, **options)
    assert tokenizer.convert_ids_to_tokens(range(len(tokenizer))) == expected
    ids = {word: index for index, word in enumerate(expected)} | {PAD_TOKEN: 0}
    for text in corpus:
        split = ("".join(map(str.lower, text)) if lowercase else text).split()
        assert tokenizer(text)["input_ids"] == [ids.get(word, 0) for word in split]


def test_max_vocab_size_counts_every_entry_and_keeps_the_most_frequent():
    corpus = [" ".join(f"w{index:05x}" for index in range(stop)) for stop in (40_000, 10, 5)]
    assert len(train_tokenizer(corpus, min_frequency=1)) == 40_002
    small = train_tokenizer(corpus, min_frequency=1, max_vocab_size=7)
    assert small.get_vocab().keys() == {
        UNK_TOKEN,
        PAD_TOKEN,
        *(f"w{index:05x}" for index in range(5)),
    }


@given(
    text=st.lists(
        st.sampled_from(["<pad>", "<unk>", "<PAD>", "<", "pad>", " ", "the", "\u3000"])
    ).map("".join)
)
@example("<<pad>>")
@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_no_text_turns_into_padding(normalizer, text):
    tokenizer = train_tokenizer(["<pad> <unk> the pad"], 1, normalizer=normalizer)
    assert tokenizer.pad_token_id not in tokenizer(text)["input_ids"]


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_special_tokens_in_a_text_are_text_to_the_bare_library_too(tmp_path, normalizer):
    tokenizer = train_tokenizer([*CORPUS, "<unk> pad unk"], min_frequency=1, normalizer=normalizer)
    save_tokenizer(tokenizer, tmp_path)
    bare, loaded = (
        Tokenizer.from_file(str(tmp_path / "tokenizer.json")),
        AutoTokenizer.from_pretrained(tmp_path),
    )
    for text in ["the ferry", "the <pad> ferry", "<pad>", "x<pad>y <unk>", "<unk>the"]:
        assert bare.encode(text).ids == loaded(text).input_ids == tokenizer(text).input_ids
    assert loaded.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    assert (loaded.unk_token, loaded.pad_token, loaded.pad_token_id) == ("<unk>", "<pad>", 1)
    assert loaded.decode([1, 2, 1], skip_special_tokens=True) == tokenizer.decode([2])
    assert DataCollatorWithPadding(loaded)([{"input_ids": [2, 3]}, {"input_ids": [2]}])[
        "input_ids"
    ][1].tolist() == [
        2,
        1,
    ]


@pytest.mark.parametrize(
    ("texts", "arguments", "message"),
    [
        (
            CORPUS,
            {"normalizer": "twet"},
            "normalizer='twet' is unknown: choose one of none, tweet, cased",
        ),
        (CORPUS, {"normalizer": "tweet", "exact": True}, "needs normalizer none: found tweet"),
        (
            ["each word once"],
            {},
            "no word occurs 3 times: give more texts, or lower min_frequency, or for",
        ),
        (["a a a", None], {}, "texts[1] is not a str: found None"),
        ("one text", {}, "put it into a list"),
    ],
)
def test_mistakes(texts, arguments, message):
    with pytest.raises(UserError, match=re.escape(message)):
        train_tokenizer(texts, **arguments)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("RT @Nora_B: see http://ex.am/x1, or www.ex.am", "rt <user> : see <url> or <url>"),
        (
            "#BakeDay is sooooo GOOOD!!!! low-cost... why?!",
            "# bakeday is soo good !! low - cost .. why ? !",
        ),
        (
            "don\u2019t &quot;stop&quot; &amp;amp; &lt;3 it\\u2019s\\u002c ok",
            "don't \" stop \" & <3 it's , ok",
        ),
        (
            "$3.39 for 82,000 at 7:40pm, 2nd, b4 2",
            "$ <number> for <number> at <number> pm , 2nd , b4 <number>",
        ),
        ("🇩🇪🇺🇸🇩x 🇩🇪🇺🇸 🇩🇪🏽", "🇩🇪 🇺🇸 🇩 x 🇩🇪 🇺🇸 🇩🇪🏽"),
        ("nice😂😂😂😂 👍🏽👩\u200d💻 ❤\ufe0f", "nice 😂 😂 👍🏽 👩\u200d💻 ❤"),
        ("Late :-( again :)) or :D, -_- ^_^ :'( x", "late :-( again :)) or :d , -_- ^_^ :'( x"),
        (">:( :* :3, xD </3 \\o/ (: ;P T_T", ">:( :* :3 , xd </3 \\o/ (: ;p t_t"),
        ("at 1:3 (x): a/3 score:3", "at <number> ( x ) : a / <number> score : <number>"),
        (
            "rock'n'roll y'all'd've 'n' it&#8217;s it&rsquo;s",
            "rock'n'roll y'all'd've ' n ' it's it's",
        ),
        (
            "<<<MENTION>>>: <<<URL>>>! &lt;&lt;&lt;DIGIT&gt;&gt;&gt;",
            "<<<mention>>> : <<<url>>> ! <<<digit>>>",
        ),
    ],
)
def test_tweet_by_hand(raw, expected):
    assert words("tweet", raw) == expected.split()


@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("lowercase", [True, False])
def test_a_placeholder_of_prepared_tweets_is_one_word(normalizer, lowercase):
    found = words(normalizer, "<<<MENTION>>> saw <<<DIGIT>>> <<<URL>>> <<<HASHTAG>>>", lowercase)
    expected = ["<<<MENTION>>>", "saw", "<<<DIGIT>>>", "<<<URL>>>", "<<<HASHTAG>>>"]
    assert found == ([word.lower() for word in expected] if lowercase else expected)


pieces = st.sampled_from(
    [
        "&amp;",
        "&lt;3",
        "@ann",
        "#tag",
        "http://ex.am/p",
        "www.ex.am",
        ":)",
        ":D",
        "<user>",
        "<<<URL>>>",
        "it's",
        "x'!",
    ]
    + [
        "7:40",
        "12",
        "3rd",
        "sooo",
        "!!!",
        "...",
        "mr.",
        "u.s.",
        "-",
        "--",
        "(",
        ")",
        '"',
        "'",
        "😂",
        "👍🏽",
        "é",
    ]
    + ["\x00", "<pad>", " ", " ", " ", "A", "b"]
)
tweets = st.lists(pieces, max_size=15).map("".join)


@given(text=st.text() | tweets)
@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_any_text_is_cut_into_words(normalizer, text):
    result = words(normalizer, text)
    assert all(result)
    # each character is part of a word or white space
    normalized = stages(normalizer, True)[0].normalize_str(text)
    assert re.sub(r"\s", "", "".join(result)) == re.sub(r"\s", "", normalized)


@pytest.mark.parametrize(
    "seed", ["a", "'", ".", "1:", "a@", "&#0", ":p", "🇩🇪", "❤\u200d", "<<<url>>>"]
)
@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.slow
def test_a_huge_line_is_read_to_its_end(normalizer, seed):
    """In 0.2 s; a pattern that goes back over the line takes many minutes."""
    read = words(normalizer, "x" + seed * (2**17 // len(seed)) + "y end")
    assert read and read[-1].endswith("end")


def unspaced_texts(count=60):
    draw = random.Random(0)
    signs = [chr(0x4E00 + number) for number in range(50)]
    return ["".join(draw.choices(signs, k=draw.randint(20, 30))) + "。" for _ in range(count)]


@pytest.mark.parametrize("normalizer", ["none", "tweet"])
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_texts_without_spaces_need_another_tokenizer_than_words(kind, normalizer, tmp_path):
    texts = unspaced_texts()
    # each text is a word
    few = {"min_frequency": 1} if kind == "word" and normalizer == "none" else {}
    tokenizer = train_tokenizer(texts, normalizer=normalizer, tokenizer=kind, **few)
    ids = tokenizer(["".join(reversed(text)) for text in texts])["input_ids"]
    unknown = np.mean([number == 0 for row in ids for number in row])
    assert unknown == 0 if kind != "word" else unknown > 0.3
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    awkward = [*texts, "", "  ", "a <pad>b <unk>", "<pad>", "<PAD>", "soo 天  地 <url>"]
    expected = tokenizer(awkward)["input_ids"]
    assert again(awkward)["input_ids"] == expected
    assert not any(1 in row for row in expected), "no text is padding"


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("kind", ["word", "bpe"])
def test_words_of_one_text_and_contacts_are_not_in_a_vocabulary(kind, exact):
    private = ["hunter-two"] * 9, ["jane.doe@corp.org", "555-123-4567", "+4930123456789"] * 9
    texts = [f"ask at 10:30 on Monday, or visit us {' '.join(private[1])}" for _ in range(50)]
    tokens = train_tokenizer(
        [*texts, " ".join(private[0])], 2, tokenizer=kind, exact=exact, min_texts=2
    ).get_vocab()
    assert len(tokens) >= 10, "premise"
    for word in (part for words in private for part in words):
        assert not any(word[:6] in token for token in tokens)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_the_end_of_a_text_is_the_id_of_its_token(kind, tmp_path):
    """TRL's SFTTrainer appends `eos_token` to each text."""
    texts = ["It's late again.\n", "again, it  is <late>!\n"]
    tokenizer = train_tokenizer(texts * 3, 1, 300, lowercase=False, tokenizer=kind, exact=True)
    save_tokenizer(tokenizer, tmp_path)
    bare, loaded = (
        Tokenizer.from_file(str(tmp_path / "tokenizer.json")),
        AutoTokenizer.from_pretrained(tmp_path),
    )
    for text in texts:
        ids = tokenizer(text).input_ids
        assert 2 not in ids and tokenizer.eos_token_id == 2
        for encode in (lambda line: tokenizer(line).input_ids, lambda line: loaded(line).input_ids):
            assert encode(f"{text}<eos>") == [*ids, 2] == bare.encode(f"{text}<eos>").ids
        if kind != "word":  # words lose the number of spaces
            assert loaded.decode([*ids, 2], skip_special_tokens=True) == text
    assert 1 not in tokenizer("late<pad> <pad>")["input_ids"]


def test_pieces_are_the_same_in_each_run_and_as_many_as_allowed():
    texts = [*unspaced_texts(), "<pad> <unk>", "x<pad>y<unk>z"] * 3
    first, second = (train_tokenizer(texts, max_vocab_size=120, tokenizer="bpe") for _ in range(2))
    assert first.backend_tokenizer.to_str() == second.backend_tokenizer.to_str()
    assert sorted(first.get_vocab().values()) == list(range(120))
