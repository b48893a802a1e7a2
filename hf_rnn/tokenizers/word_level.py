"""Texts → tokenizer: a stock `PreTrainedTokenizerFast`; by default of whole words, in the order of torchtext.

The normaliser and pre-tokeniser that will encode also count, inside the `tokenizers` library, so that both sides agree
on every character (Python lowers a final Greek sigma differently). No files and no torch here: `save_pretrained` saves
the result and `AutoTokenizer` loads it without this package.
"""

import json
import logging
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from itertools import islice
from numbers import Integral
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE, Unigram, WordLevel
from tokenizers.normalizers import Normalizer, Replace, Strip
from tokenizers.pre_tokenizers import Metaspace, PreTokenizer, Split
from tokenizers.trainers import BpeTrainer, UnigramTrainer, WordLevelTrainer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ..data.text_checks import check_texts, out_of_arrow
from ..utils.errors import UserError
from .normalizers import NORMALIZERS, build_normalizer

__all__ = ["NORMALIZERS", "PAD_TOKEN", "TOKENIZERS", "UNK_TOKEN", "train_tokenizer"]

UNK_TOKEN = "<unk>"  # id 0
PAD_TOKEN = "<pad>"  # id 1

TOKENIZERS = ("word", "char", "bpe", "unigram")
logger = logging.getLogger(__name__)

_BATCH = 1000  # texts handed over at a time
_PIECES = 16_000  # entries of a vocabulary of pieces
_LONG = 20  # characters of a text that should have a space
_FEWEST = 10  # texts that tell something of the others
_MOST = 2**63 - 1  # what the library can count to


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
) -> PreTrainedTokenizerFast:
    """Learn a vocabulary of whole words, characters or pieces of words and return the tokenizer that looks them up.

    The order of ids is that of torchtext's `build_vocab`: `<unk>` = 0, `<pad>` = 1, then the words or characters from
    the most frequent to the rarest, ties by code point. Words that are themselves `<unk>` or `<pad>` are not counted.

    What the tokenizer does with a text:

    - It returns `input_ids` and `attention_mask`, adds no token of its own, and pads on the right. An empty text is an
      empty list.
    - Nothing is cut unless asked: with `truncation=True` the first `max_length` tokens stay (`model_max_length` when
      no `max_length` is given), and the end is dropped.
    - A special token typed in a text is only text (`split_special_tokens=True`, which is saved too). Under `none` the
      word `<unk>` gets the id of unknown words, as in torchtext, and so does the word `<pad>`, so that no text can
      turn into padding; `semeval` and `tweet` cut their brackets off. Other programs do not read that setting, so
      `save_tokenizer` writes a `tokenizer.json` that needs none; after the stock `save_pretrained`, `tokenizers`
      needs `encode_special_tokens = True`. Add your own tokens with `add_tokens`: those of `add_special_tokens` would
      be only text too.

    Args:
        texts: The training texts, any iterable, read once. Memory grows with the distinct words, not with the texts.
        min_frequency: A word, character or merge of `bpe` must occur at least this often to get an id.
        max_vocab_size: At most this many entries, `<unk>` and `<pad>` among them, so it bounds `RnnConfig.vocab_size`
            (torchtext's `max_size` did not count them). None keeps 16,000 pieces, or every word or
            character that is frequent enough.
        lowercase: Lower the case of every text.
        normalizer: One of `NORMALIZERS`, see `hf_rnn.tokenizers.normalizers.build_normalizer`.
        model_max_length: How many tokens of a text `truncation=True` leaves.
        tokenizer: What a token is: a `word`; a `char`, also a space; or a piece of a word that is learned from the
            texts, by `bpe` or `unigram`. Languages written without spaces need one of the last three: there a `word`
            is a whole clause, rarely seen twice.

    Returns:
        A tokenizer that `save_pretrained` writes and `AutoTokenizer` loads without this package.

    Raises:
        UserError: An argument out of its range, or a text that is not a valid str (named by its position, from 0).
        NoFrequentWordError: Texts in which no word is frequent enough; a UserError too.
    """
    _check_counts(min_frequency=min_frequency, max_vocab_size=max_vocab_size, model_max_length=model_max_length)
    for name, value, known in (("normalizer", normalizer, NORMALIZERS), ("tokenizer", tokenizer, TOKENIZERS)):
        if value not in known:
            near = get_close_matches(str(value), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(known)}"
            raise UserError(f"{name}={value!r} is unknown: {hint}")

    min_frequency, model_max_length = int(min_frequency), int(model_max_length)  # of NumPy too, which JSON is not
    max_vocab_size = None if max_vocab_size is None else int(max_vocab_size)
    empty = {"bpe": BPE(unk_token=UNK_TOKEN), "unigram": Unigram()}.get(tokenizer, WordLevel({}, unk_token=UNK_TOKEN))
    backend = Tokenizer(empty)
    backend.normalizer, backend.pre_tokenizer = _build_stages(tokenizer, normalizer, lowercase)
    learn = _count if isinstance(empty, WordLevel) else _learn_pieces
    sample: list[str] = []
    backend.model = learn(backend, _checked(texts, sample), min_frequency, max_vocab_size)
    if backend.get_vocab_size() <= 2:
        times = "even once" if min_frequency == 1 else f"{min_frequency} times"
        raise NoFrequentWordError(
            f"no {'word' if tokenizer == 'word' else 'character'} occurs {times} in the texts: give more texts, lower "
            "min_frequency, or for languages written without spaces set tokenizer to char, bpe or unigram "
            "(--tokenizer char)"
        )
    if tokenizer == "word":
        _warn_of_lost_letters(backend, sample)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token=UNK_TOKEN,
        pad_token=PAD_TOKEN,
        model_max_length=model_max_length,
        model_input_names=["input_ids", "attention_mask"],
        split_special_tokens=True,
    )


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Save a tokenizer so that a special token typed in a text is text to other programs too.

    `tokenizers` and transformers.js find the `added_tokens` of `tokenizer.json` in any text. With
    `split_special_tokens`, those that the vocabulary holds are left out of that file; transformers adds them by
    `tokenizer_config.json`.
    """
    tokenizer.save_pretrained(folder)
    file = folder / "tokenizer.json"
    if not tokenizer.split_special_tokens or not file.is_file():
        return
    content = json.loads(file.read_text(encoding="utf-8"))
    known, named = Tokenizer(tokenizer.backend_tokenizer.model).get_vocab(), set(tokenizer.all_special_tokens)
    content["added_tokens"] = [
        token
        for token in content["added_tokens"]
        if token["content"] not in named or known.get(token["content"]) != token["id"]
    ]
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")


def count_ids(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return how many rows a table of its ids needs: more than it has entries where ids are left out."""
    return max(tokenizer.get_vocab().values(), default=-1) + 1


def _build_stages(tokenizer: str, normalizer: str, lowercase: bool) -> tuple[Normalizer, PreTokenizer]:
    """Build what turns a text into words, characters, or words whose pieces are learned."""
    rewrite, cut = build_normalizer(normalizer, lowercase)
    if tokenizer == "word":
        return rewrite, cut
    if tokenizer == "char":
        spaces = [Replace(Regex(r"\s+"), " "), Strip()]
        characters = Split(Regex(r"<(?:url|user|number)>|<<<[a-zA-Z]+>>>|\s|\S"), "removed", invert=True)
        return normalizers.Sequence([rewrite, *spaces]), characters
    # a special token that is typed in a text must not be one of the pieces
    rules = [rewrite, Replace(Regex(f"<(?=(?:{UNK_TOKEN[1:-1]}|{PAD_TOKEN[1:-1]})>)"), "< ")]
    begin = Metaspace(prepend_scheme="always", split=False)
    return normalizers.Sequence(rules), pre_tokenizers.Sequence([cut, begin])


def _count(
    backend: Tokenizer, texts: Iterable[list[str]], min_frequency: int, max_vocab_size: int | None
) -> WordLevel:
    """Count with the backend's own stages; return the vocabulary in the order of its ids."""
    # The trainer must not know the special tokens: one that occurs in a text would get two ids and shift the others.
    trainer = WordLevelTrainer(
        min_frequency=min(min_frequency, _MOST),
        vocab_size=min(max_vocab_size or 2**31, _MOST),  # the library's default is 30,000, silently
        special_tokens=[],
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    ids = backend.get_vocab()
    specials = [UNK_TOKEN, PAD_TOKEN]
    words = [word for word in sorted(ids, key=ids.__getitem__) if word not in specials]
    vocabulary = (specials + words)[:max_vocab_size]
    return WordLevel({word: index for index, word in enumerate(vocabulary)}, unk_token=UNK_TOKEN)


def _learn_pieces(
    backend: Tokenizer, texts: Iterable[list[str]], min_frequency: int, max_vocab_size: int | None
) -> BPE | Unigram:
    """Learn the pieces of words with the library's own trainer; return its model."""
    size = min(max_vocab_size or _PIECES, _MOST)
    options: dict[str, Any] = {"vocab_size": size, "special_tokens": [UNK_TOKEN, PAD_TOKEN], "show_progress": False}
    if isinstance(backend.model, BPE):
        options |= {"min_frequency": min(min_frequency, _MOST), "limit_alphabet": size - 2}
        backend.train_from_iterator(texts, BpeTrainer(**options))
        return backend.model
    try:
        backend.train_from_iterator(texts, UnigramTrainer(unk_token=UNK_TOKEN, **options))
    except UserError:
        raise
    except Exception as error:  # the backend raises no narrower kind
        raise UserError(f"unigram pieces cannot be learned with max_vocab_size {size}: {error}; raise it") from error
    specials, learned = (found := json.loads(backend.to_str())["model"]["vocab"])[:2], found[2:]
    # From run to run change the last digits of the scores, the order of equal ones, and which rare characters get the
    # least score plus 0.0001, 0.0002, ...
    least = min((score for _, score in learned), default=0.0)
    rare = least + 1e-4 * sum(len(piece) == 1 for piece, _ in learned)
    rounded = [(piece, round(least if len(piece) == 1 and score < rare else score, 6)) for piece, score in learned]
    rounded.sort(key=lambda entry: (-entry[1], entry[0]))
    return Unigram([*map(tuple, specials), *rounded][:size], unk_id=0)


def _warn_of_lost_letters(backend: Tokenizer, sample: list[str]) -> None:
    """Warn where whole words do not carry the texts, as in languages that are written without spaces."""
    unknown = backend.token_to_id(UNK_TOKEN)
    letters = sum(sum(map(str.isalpha, text)) for text in sample)
    known = 0
    for text, encoding in zip(sample, backend.encode_batch(sample), strict=True):
        spans = (span for number, span in zip(encoding.ids, encoding.offsets, strict=True) if number != unknown)
        known += sum(sum(map(str.isalpha, text[start:end])) for start, end in spans)
    long = [text for text in sample if len(text) >= _LONG]
    unspaced = sum(len(text.split()) == 1 for text in long)
    if (len(sample) >= _FEWEST and known < letters / 2) or (len(long) >= _FEWEST and unspaced > len(long) / 2):
        logger.warning(
            "%.0f%% of the letters stand in unknown words, and %d of %d long texts have no spaces: for languages "
            "written without spaces set tokenizer to char, bpe or unigram (--tokenizer char); else lower "
            "min_frequency",
            100 * max(0.0, 1 - known / max(letters, 1)),
            unspaced,
            len(long),
        )


def _checked(texts: Iterable[str], sample: list[str]) -> Iterator[list[str]]:
    """Check the texts, hand them over in batches and add the first batch to the sample."""
    if isinstance(texts, str | bytes):
        raise UserError("texts must be an iterable of str, found one text: put it into a list, [text]")
    try:
        remaining = iter(out_of_arrow(texts))
    except TypeError:
        raise UserError(f"texts must be an iterable of str, found {type(texts).__name__}") from None
    first = 0
    while batch := list(islice(remaining, _BATCH)):
        check_texts(batch, first=first)
        first += len(batch)
        sample += [] if sample else batch
        yield batch


def _check_counts(min_frequency: int, max_vocab_size: int | None, model_max_length: int) -> None:
    least = {"min_frequency": (min_frequency, 1), "model_max_length": (model_max_length, 1)}
    if max_vocab_size is not None:
        least["max_vocab_size"] = (max_vocab_size, 3)  # <unk>, <pad> and one word
    for name, (value, minimum) in least.items():
        if not isinstance(value, Integral) or isinstance(value, bool) or value < minimum:
            raise UserError(f"{name}={value!r} must be a whole number of at least {minimum}")
