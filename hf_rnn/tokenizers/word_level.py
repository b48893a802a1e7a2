"""Train a tokenizer on texts: a stock `PreTrainedTokenizerFast`, by default of whole words.

The stages that will encode also count, inside the `tokenizers` library, so both agree on every
character (Python lowers a final Greek sigma differently). `AutoTokenizer` loads the saved tokenizer
without this package.
"""

import copy
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Encoding, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.decoders import Decoder
from tokenizers.models import BPE, WordLevel
from tokenizers.normalizers import Lowercase, Normalizer, Replace, Strip
from tokenizers.pre_tokenizers import Metaspace, PreTokenizer, Split
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ..utils.errors import DataError, ModelError, SettingError, find_text_fault, out_of_arrow
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
    """The tokenizer of a tagger's folder, for pipelines.

    Marks of capitals are hidden, and a blank text fits a batch.

    Its tokens are those of `tokenizer.json`. Programs without this package load a plain tokenizer
    in its place.
    """

    def _convert_encoding(self, *args: object, **options: object) -> Any:
        columns, encodings = super()._convert_encoding(*args, **options)
        if "special_tokens_mask" in columns:
            columns["special_tokens_mask"] = list(map(_mask_marks, encodings))
        return columns, encodings

    def _encode_plus(self, *args: object, **options: object) -> Any:
        encoded = super()._encode_plus(*args, **options)
        # a tensor of texts without tokens
        places = encoded.get("offset_mapping")
        if getattr(places, "ndim", 3) < 3:
            encoded["offset_mapping"] = places.reshape(*places.shape, 2)
        return encoded


def _mask_marks(encoding: Encoding) -> list[int]:
    """Return the mask of special tokens of a text, with the marks of capitals."""
    mask = []
    for is_special, token in zip(encoding.special_tokens_mask, encoding.tokens, strict=True):
        mask.append(int(is_special or token.endswith((CAPITAL, ALL_CAPITALS))))
    return mask


class NoFrequentWordError(DataError):
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
    _check_choice("normalizer", normalizer, NORMALIZERS)
    _check_choice("tokenizer", tokenizer, TOKENIZERS)
    specials = [UNK_TOKEN, PAD_TOKEN]
    options: dict[str, Any] = {"unk_token": UNK_TOKEN, "pad_token": PAD_TOKEN}
    if exact:
        if normalizer != "none":
            raise SettingError(f"exact needs normalizer none: found {normalizer}")
        specials.append(EOS_TOKEN)
        options |= {"eos_token": EOS_TOKEN, "padding_side": "left"}
        options["clean_up_tokenization_spaces"] = False
        backend = _make_backend(*_build_exact(tokenizer, lowercase))
    else:
        backend = _make_backend(*_build_stages(tokenizer, normalizer, lowercase))
    least = (min_frequency, min_texts)
    if tokenizer == "bpe":
        backend.model = BPE(unk_token=UNK_TOKEN)
        _learn_pieces(backend, _read(texts), *least, max_vocab_size or _PIECES, specials)
    else:
        words = dict.fromkeys([*specials, *_count_words(backend, _read(texts), *least)])
        ids = dict(zip(islice(words, max_vocab_size), range(len(words)), strict=False))
        backend.model = WordLevel(ids, unk_token=UNK_TOKEN)
    if backend.get_vocab_size() <= len(specials):
        raise _no_frequent_word(tokenizer, *least)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        split_special_tokens=True,
        model_max_length=model_max_length,
        model_input_names=["input_ids", "attention_mask"],
        **options,
    )


def _make_backend(rewrite: Normalizer, cut: PreTokenizer, decoder: Decoder | None) -> Tokenizer:
    """Return a tokenizer of these stages, without words."""
    backend = Tokenizer(WordLevel({}, unk_token=UNK_TOKEN))
    backend.normalizer = rewrite
    backend.pre_tokenizer = cut
    if decoder is not None:
        backend.decoder = decoder
    return backend


def _check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Refuse an unknown value of an argument."""
    if value not in choices:
        raise SettingError(f"{name}={value!r} is unknown: choose one of {', '.join(choices)}")


def _no_frequent_word(tokenizer: str, min_frequency: int, min_texts: int) -> NoFrequentWordError:
    """Return the error for texts without a word, or character, for the vocabulary."""
    often = f"{min_frequency} times"
    if min_texts > 1:
        often += f", and in {min_texts} texts"
    advice = "give more texts, or lower min_frequency"
    if tokenizer != "word":
        return NoFrequentWordError(f"no character occurs {often}: {advice}")
    other = "for languages without spaces set tokenizer to char or bpe (--tokenizer char)"
    return NoFrequentWordError(f"no word occurs {often}: {advice}, or {other}")


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
    vocabulary = Tokenizer(tokenizer.backend_tokenizer.model).get_vocab()
    special = set(tokenizer.all_special_tokens)
    content["added_tokens"] = [
        token
        for token in content["added_tokens"]
        if token["content"] not in special or vocabulary.get(token["content"]) != token["id"]
    ]
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
        problem = "the tokenizer puts no separator between the texts of a pair"
        raise ModelError(f"{problem}: choose another one")
    separator = str(tokenizer.sep_token)
    backend.post_processor = TemplateProcessing(
        single="$A",
        pair=f"$A {separator} $B",
        special_tokens=[(separator, tokenizer.sep_token_id)],
    )


def mark_capitals(tokenizer: PreTrainedTokenizerBase) -> None:
    """Let a tokenizer that lowercases mark capitals with ⇧ and ⇪, as `cased` does."""
    backend: Tokenizer | None = getattr(tokenizer, "backend_tokenizer", None)
    lowercase = getattr(backend, "normalizer", None)
    if backend is None or lowercase is None or lowercase.normalize_str("A") != "a":
        return
    backend.normalizer = normalizers.Sequence([*capital_marks(), lowercase])
    if backend.decoder is not None:
        backend.decoder = _join_without_marks(backend.decoder)
    marks = [AddedToken(mark, normalized=True) for mark in (CAPITAL, ALL_CAPITALS)]
    tokenizer.add_tokens(marks)


def _join_without_marks(decoder: Decoder) -> Decoder:
    """Return a decoder that also drops ⇧ and ⇪, so that a pipeline shows words as they are."""
    marks = decoders.Replace(Regex(f"[{CAPITAL}{ALL_CAPITALS}] ?"), "")
    return decoders.Sequence([decoder, decoders.Fuse(), marks])


def count_ids(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the rows of an embedding of its ids; some ids may be unused."""
    return max(tokenizer.get_vocab().values(), default=-1) + 1


def _build_stages(
    tokenizer: str, normalizer: str, lowercase: bool
) -> tuple[Normalizer, PreTokenizer, Decoder | None]:
    """Return the stages from a text to words, or to characters, and a decoder."""
    rewrite, cut = build_normalizer(normalizer, lowercase)
    if tokenizer == "word":
        if normalizer != "cased":
            return rewrite, cut, None
        return rewrite, cut, _join_without_marks(decoders.WordPiece("\0", cleanup=False))
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
    """Return stages as of [`_build_stages`] that keep every character and cut off `<eos>`."""
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
    parts = rf"{EOS_TOKEN}|'(?:[sdmt]|ll|ve|re)| ?\p{{L}}+| ?\p{{N}}+"
    parts += r"| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    cuts = [Split(typed, "isolated"), Split(Regex(parts), "isolated")]
    pieces = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return case, pre_tokenizers.Sequence([*cuts, pieces]), decoders.ByteLevel()


def _count_words(
    backend: Tokenizer, texts: Iterator[str], min_frequency: int, min_texts: int
) -> list[str]:
    """Count words with the backend's own stages, and return those to keep, in their order."""
    totals = Counter[str]()
    spread = Counter[str]()  # texts that a word is in
    normalize = backend.normalizer.normalize_str
    cut = backend.pre_tokenizer.pre_tokenize_str
    for text in texts:
        words = [word for word, _ in cut(normalize(text))]
        totals.update(words)
        spread.update(set(words))
        if len(totals) > _MOST_WORDS:
            totals = Counter({word: count for word, count in totals.items() if count > 1})
            spread = Counter({word: spread[word] for word in totals})
    frequent = []
    for word, count in totals.items():
        is_frequent = count >= min_frequency and spread[word] >= min_texts
        if is_frequent and not _PRIVATE.search(word):
            frequent.append(word)
    return sorted(frequent, key=lambda word: (-totals[word], word))


def _learn_pieces(
    backend: Tokenizer,
    texts: Iterator[str],
    min_frequency: int,
    min_texts: int,
    size: int,
    specials: list[str],
) -> None:
    """Learn pieces of words with the library's own trainer."""
    trainer = BpeTrainer(
        vocab_size=size,
        special_tokens=specials,
        show_progress=False,
        min_frequency=max(min_frequency, min_texts),
        limit_alphabet=size - len(specials),
        # pieces of bytes
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if EOS_TOKEN in specials else [],
    )

    def hide(text: str) -> str:
        """Return a text without private words, each once if merges must be of several texts."""
        words = [word for word in re.findall(r"\s*\S+|\s+", text) if not _PRIVATE.search(word)]
        if min_texts > 1:
            words = list({word.strip(): word for word in words}.values())
        return "".join(words)

    backend.train_from_iterator(map(hide, texts), trainer)
    if EOS_TOKEN in specials:
        backend.model.ignore_merges = True  # so that <eos> is one piece


def _read(texts: Iterable[str]) -> Iterator[str]:
    """Yield the texts, checked."""
    if isinstance(texts, str | bytes):
        problem = "texts must be an iterable of str, found one text"
        raise DataError(f"{problem}: put it into a list, [text]")
    for place, text in enumerate(out_of_arrow(texts)):
        fault = find_text_fault(text)
        if fault:
            raise DataError(f"texts[{place}] {fault}")
        yield text
