"""Train a tokenizer on texts: a stock `PreTrainedTokenizerFast`, by default of whole words in torchtext's order.

The stages that will encode also count, inside the `tokenizers` library, so both agree on every
character (Python lowers a final Greek sigma differently). `AutoTokenizer` loads the saved tokenizer
without this package.
"""

import copy
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.decoders import Decoder
from tokenizers.models import BPE, WordLevel
from tokenizers.normalizers import Lowercase, Normalizer, Replace, Strip
from tokenizers.pre_tokenizers import Metaspace, PreTokenizer, Split
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ..utils.errors import UserError, find_text_fault, out_of_arrow
from .normalizers import ALL_CAPITALS, CAPITAL, NORMALIZERS, build_normalizer, capital_marks

UNK_TOKEN = "<unk>"  # id 0
PAD_TOKEN = "<pad>"  # id 1
EOS_TOKEN = "<eos>"  # id 2 of a language model's
SEP_TOKEN = "<sep>"  # between the texts of a pair

TOKENIZERS = ("word", "char", "bpe")

_MOST_WORDS = 2_000_000  # distinct words in memory
_PIECES = 16_000  # entries of a vocabulary of pieces
_PRIVATE = re.compile(r"\S@\S+\.\w|(?:\d[ ./()-]?){7}")  # an e-mail address, or a long number


class TaggerTokenizer(PreTrainedTokenizerFast):
    """The tokenizer of a tagger's folder, for pipelines: marks of capitals are hidden, and a blank text fits a batch.

    Its tokens are those of `tokenizer.json`. Programs without this package load a plain tokenizer
    in its place.
    """

    def _convert_encoding(self, *args: object, **options: object) -> Any:
        columns, encodings = super()._convert_encoding(*args, **options)
        if "special_tokens_mask" in columns:
            columns["special_tokens_mask"] = [
                [
                    int(hidden or token.endswith((CAPITAL, ALL_CAPITALS)))
                    for hidden, token in zip(*pair, strict=True)
                ]
                for pair in (
                    (encoding.special_tokens_mask, encoding.tokens) for encoding in encodings
                )
            ]
        return columns, encodings

    def _encode_plus(self, *args: object, **options: object) -> Any:
        encoded = super()._encode_plus(*args, **options)
        # a tensor of texts without tokens
        if getattr(places := encoded.get("offset_mapping"), "ndim", 3) < 3:
            encoded["offset_mapping"] = places.reshape(*places.shape, 2)
        return encoded


class NoFrequentWordError(UserError):
    """No word of the texts is frequent enough for a vocabulary."""


def train_tokenizer(
    texts: Iterable[str],
    min_frequency: int = 3,
    max_vocab_size: int | None = None,
    lowercase: bool = True,
    normalizer: str = "none",
    model_max_length: int = 512,
    tokenizer: str = "word",
    exact: bool = False,
    min_texts: int = 1,
) -> PreTrainedTokenizerFast:
    """Train a tokenizer of whole words, characters or pieces of words.

    Ids are in the order of torchtext's `build_vocab`: `<unk>` = 0, `<pad>` = 1, then the words or
    characters from the most frequent to the rarest, ties by code point. A shared vocabulary shows
    its words, so those that look like an e-mail address or a long number get no id; see also
    `min_texts`.

    The tokenizer returns `input_ids` and `attention_mask`, adds no tokens around a text, and pads
    on the right; an empty text is an empty list. `<unk>` and `<pad>` typed in a text are ordinary
    text (`split_special_tokens=True`), so no text can turn into padding. Other programs do not read
    that setting: see [`save_tokenizer`].

    Args:
        texts: Any iterable, read once. Beyond two million distinct words, those seen once so far
            are forgotten.
        min_frequency: A word, character or merge of `bpe` must occur at least this often to get an
            id.
        max_vocab_size: At most this many entries, `<unk>` and `<pad>` included, so it bounds
            `RnnConfig.vocab_size`. None keeps 16,000 pieces, or every word or character that is
            frequent enough.
        lowercase: Whether to lowercase every text.
        normalizer: An entry of `hf_rnn.tokenizers.normalizers.NORMALIZERS`.
        model_max_length: Tokens per text with `truncation=True`.
        tokenizer: `word`; `char`, where spaces are tokens too; or `bpe`, pieces of words that are
            learned from the texts. Languages written without spaces need one of the last two,
            because there a `word` is a whole clause.
        exact: Keep every character, so that `decode` returns the text: for language models, with
            normalizer `none`. Pieces of `bpe` are bytes then; `word` loses the number of spaces. It
            pads on the left, as `generate` needs it, and `<eos>` = 2 ends a text: typed in one, it
            is this token.
        min_texts: Texts that a word or character must occur in. From 2 on, `bpe` counts a word once
            per text. `hf-rnn train` takes 2, unless its `min_frequency` is 1.

    Raises:
        UserError: For an argument out of range, an invalid text, or texts without a word that is
            frequent enough.
    """
    specials = [UNK_TOKEN, PAD_TOKEN, EOS_TOKEN] if exact else [UNK_TOKEN, PAD_TOKEN]
    for name, value, choices in (
        ("normalizer", normalizer, NORMALIZERS),
        ("tokenizer", tokenizer, TOKENIZERS),
    ):
        if value not in choices:
            raise UserError(f"{name}={value!r} is unknown: choose one of {', '.join(choices)}")
    if exact and normalizer != "none":
        raise UserError(
            f"a tokenizer that keeps the text needs normalizer none: found {normalizer}"
        )
    backend = Tokenizer(WordLevel({}, unk_token=UNK_TOKEN))
    backend.normalizer, backend.pre_tokenizer, decoder = (
        _build_exact(tokenizer, lowercase)
        if exact
        else _build_stages(tokenizer, normalizer, lowercase)
    )
    if decoder is not None:
        backend.decoder = decoder
    if tokenizer == "bpe":
        backend.model = BPE(unk_token=UNK_TOKEN)
        _learn_pieces(
            backend, _read(texts), min_frequency, min_texts, max_vocab_size or _PIECES, specials
        )
    else:
        words = _count(backend, _read(texts), min_frequency, min_texts)
        vocabulary = [*specials, *(word for word in words if word not in specials)][:max_vocab_size]
        backend.model = WordLevel(
            {word: index for index, word in enumerate(vocabulary)}, unk_token=UNK_TOKEN
        )
    if backend.get_vocab_size() <= len(specials):
        often = f"{min_frequency} times" + f", and in {min_texts} texts" * (min_texts > 1)
        advice = ", or for languages without spaces set tokenizer to char or bpe (--tokenizer char)"
        raise NoFrequentWordError(
            f"no {'word' if tokenizer == 'word' else 'character'} occurs {often}: give more texts, or lower "
            f"min_frequency{advice if tokenizer == 'word' else ''}"
        )
    options = {
        "model_max_length": model_max_length,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    if exact:
        options |= {
            "eos_token": EOS_TOKEN,
            "padding_side": "left",
            "clean_up_tokenization_spaces": False,
        }
    names = {"unk_token": UNK_TOKEN, "pad_token": PAD_TOKEN}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, split_special_tokens=True, **names, **options
    )


def save_tokenizer(
    tokenizer: PreTrainedTokenizerBase, folder: Path, for_tags: bool = False
) -> None:
    """Save a tokenizer so that a special token typed in a text is text to other programs too.

    These find the `added_tokens` of `tokenizer.json` in any text. So with `split_special_tokens`,
    those of the vocabulary are only in `tokenizer_config.json`. With `for_tags`, transformers loads
    a [`TaggerTokenizer`].
    """
    if for_tags and type(tokenizer) is PreTrainedTokenizerFast:
        tokenizer = copy.copy(tokenizer)
        tokenizer.__class__ = TaggerTokenizer
    tokenizer.save_pretrained(folder)
    file = folder / "tokenizer.json"
    if not tokenizer.split_special_tokens or not file.is_file():
        return
    content = json.loads(file.read_text(encoding="utf-8"))
    vocabulary, named = (
        Tokenizer(tokenizer.backend_tokenizer.model).get_vocab(),
        set(tokenizer.all_special_tokens),
    )
    for token in list(content["added_tokens"]):
        if token["content"] in named and vocabulary.get(token["content"]) == token["id"]:
            content["added_tokens"].remove(token)
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")


def add_separator(tokenizer: PreTrainedTokenizerBase) -> None:
    """Let a tokenizer put its separator, by default a new `<sep>`, between the two texts of a pair.

    Raises:
        UserError: For a tokenizer in Python that puts nothing there, or one that puts other tokens
            there.
    """
    if tokenizer.sep_token is None:
        tokenizer.add_special_tokens({"sep_token": SEP_TOKEN})
    if tokenizer.sep_token_id in tokenizer("a", "b")["input_ids"]:
        return
    backend: Tokenizer | None = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or tokenizer("", "")["input_ids"]:
        raise UserError(
            "the tokenizer puts no separator between the texts of a pair: choose another one"
        )
    separator, special = (
        str(tokenizer.sep_token),
        [(str(tokenizer.sep_token), tokenizer.sep_token_id)],
    )
    backend.post_processor = TemplateProcessing(
        single="$A", pair=f"$A {separator} $B", special_tokens=special
    )


def mark_capitals(tokenizer: PreTrainedTokenizerBase) -> None:
    """Let a tokenizer that lowercases put the tokens ⇧ and ⇪ before capitals, as the normaliser `cased` does."""
    backend: Tokenizer | None = getattr(tokenizer, "backend_tokenizer", None)
    if (
        backend is not None
        and backend.normalizer is not None
        and backend.normalizer.normalize_str("A") == "a"
    ):
        backend.normalizer = normalizers.Sequence([*capital_marks(), backend.normalizer])
        if backend.decoder is not None:
            backend.decoder = _join_without_marks(backend.decoder)
        tokenizer.add_tokens(
            [AddedToken(mark, normalized=True) for mark in (CAPITAL, ALL_CAPITALS)]
        )


def _join_without_marks(decoder: Decoder) -> Decoder:
    """Return a decoder that also drops ⇧ and ⇪, so that a pipeline shows words as they are."""
    marks = decoders.Replace(Regex(f"[{CAPITAL}{ALL_CAPITALS}] ?"), "")
    return decoders.Sequence([decoder, decoders.Fuse(), marks])


def count_ids(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the rows that an embedding of its ids needs; with unused ids these are more than its entries."""
    return max(tokenizer.get_vocab().values(), default=-1) + 1


def _build_stages(
    tokenizer: str, normalizer: str, lowercase: bool
) -> tuple[Normalizer, PreTokenizer, Decoder | None]:
    """Return the stages that turn a text into words, characters, or words to learn pieces from, and a decoder."""
    rewrite, cut = build_normalizer(normalizer, lowercase)
    if tokenizer == "word":
        joined = (
            _join_without_marks(decoders.WordPiece("\0", cleanup=False))
            if normalizer == "cased"
            else None
        )
        return rewrite, cut, joined
    if tokenizer == "char":
        spaces = [Replace(Regex(r"\s+"), " "), Strip()]
        characters = Split(
            Regex(r"<(?:url|user|number)>|<<<[a-zA-Z]+>>>|\s|\S"), "removed", invert=True
        )
        return normalizers.Sequence([rewrite, *spaces]), characters, None
    # a special token that is typed in a text must not be one of the pieces
    rules = [rewrite, Replace(Regex(f"<(?=(?:{UNK_TOKEN[1:-1]}|{PAD_TOKEN[1:-1]})>)"), "< ")]
    begin = Metaspace(prepend_scheme="always", split=False)
    marks = decoders.Replace(Regex(f"▁?[{CAPITAL}{ALL_CAPITALS}]"), "")
    decoder = decoders.Sequence(
        [marks, decoders.Metaspace(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return normalizers.Sequence(rules), pre_tokenizers.Sequence([cut, begin]), decoder


def _build_exact(tokenizer: str, lowercase: bool) -> tuple[Normalizer, PreTokenizer, Decoder]:
    """Return stages like those of [`_build_stages`] that keep every character and cut off `<eos>`."""
    case = normalizers.Sequence([Lowercase()] if lowercase else [])
    if tokenizer == "word":
        steps = [
            decoders.WordPiece("\0", cleanup=False),
            decoders.Fuse(),
            decoders.Replace(Regex(r" ?\n ?"), "\n"),
        ]
        words = Regex(rf"\n|{EOS_TOKEN}|(?:(?!{EOS_TOKEN})\S)+")
        stages = normalizers.Sequence([case, Replace(Regex(r"(?<!\S)<pad>(?!\S)"), "<unk>")])
        return stages, Split(words, "removed", invert=True), decoders.Sequence(steps)
    if tokenizer == "char":
        return case, Split(Regex(rf"{EOS_TOKEN}|[\s\S]"), "removed", invert=True), decoders.Fuse()
    # lines apart, so that a text has the tokens of its lines; typed <unk> and <pad> are not one
    # piece
    typed = Regex(rf"\n|{EOS_TOKEN}|<(?=(?:{UNK_TOKEN[1:-1]}|{PAD_TOKEN[1:-1]})>)")
    # as GPT-2
    parts = rf"{EOS_TOKEN}|'(?:[sdmt]|ll|ve|re)| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+|\s+(?!\S)|\s+"
    cuts = [Split(typed, "isolated"), Split(Regex(parts), "isolated")]
    pieces = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return case, pre_tokenizers.Sequence([*cuts, pieces]), decoders.ByteLevel()


def _count(
    backend: Tokenizer, texts: Iterator[str], min_frequency: int, min_texts: int
) -> list[str]:
    """Count words with the backend's own stages, and return those to keep, in their order."""
    totals, spread = Counter[str](), Counter[str]()  # occurrences, and texts
    normalize, cut = backend.normalizer.normalize_str, backend.pre_tokenizer.pre_tokenize_str
    for text in texts:
        words = [word for word, _ in cut(normalize(text))]
        totals.update(words)
        spread.update(set(words))
        if len(totals) > _MOST_WORDS:
            totals = Counter({word: count for word, count in totals.items() if count > 1})
            spread = Counter({word: spread[word] for word in totals})
    frequent = (
        word
        for word, count in totals.items()
        if count >= min_frequency and spread[word] >= min_texts
    )
    return sorted(
        (word for word in frequent if not _PRIVATE.search(word)),
        key=lambda word: (-totals[word], word),
    )


def _learn_pieces(
    backend: Tokenizer,
    texts: Iterator[str],
    min_frequency: int,
    min_texts: int,
    size: int,
    specials: list[str],
) -> None:
    """Learn pieces of words with the library's own trainer."""
    options: dict[str, Any] = {
        "vocab_size": size,
        "special_tokens": specials,
        "show_progress": False,
    }
    options |= {
        "min_frequency": max(min_frequency, min_texts),
        "limit_alphabet": size - len(specials),
    }
    if EOS_TOKEN in specials:  # pieces of bytes
        options["initial_alphabet"] = pre_tokenizers.ByteLevel.alphabet()

    def hide(text: str) -> str:
        """Return a text without private words, and with each word once if merges must be of several texts."""
        words = [word for word in re.findall(r"\s*\S+|\s+", text) if not _PRIVATE.search(word)]
        return "".join(words if min_texts == 1 else {word.strip(): word for word in words}.values())

    backend.train_from_iterator(map(hide, texts), BpeTrainer(**options))
    if EOS_TOKEN in specials:
        backend.model.ignore_merges = True  # so that <eos> is one piece


def _read(texts: Iterable[str]) -> Iterator[str]:
    """Yield the texts, checked."""
    if isinstance(texts, str | bytes):
        raise UserError(
            "texts must be an iterable of str, found one text: put it into a list, [text]"
        )
    for place, text in enumerate(out_of_arrow(texts)):
        if fault := find_text_fault(text):
            raise UserError(f"texts[{place}] {fault}")
        yield text
