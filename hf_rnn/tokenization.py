"""Texts → tokenizer: a stock `PreTrainedTokenizerFast` over whole words, in the vocabulary order of torchtext.

The words are counted by the very normaliser and pre-tokeniser that will encode, inside the `tokenizers` library, so
that both sides agree on every character (Python lowers a final Greek sigma differently). No torch here: the result is
saved with `save_pretrained` and loaded by `AutoTokenizer` without this package.
"""

import json
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from itertools import islice
from numbers import Integral
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.trainers import WordLevelTrainer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from .errors import UserError
from .normalization import NORMALIZERS, build_normalizer
from .valid_texts import check_texts, out_of_arrow

__all__ = ["NORMALIZERS", "PAD_TOKEN", "UNK_TOKEN", "train_tokenizer"]

UNK_TOKEN = "<unk>"  # id 0
PAD_TOKEN = "<pad>"  # id 1

_BATCH = 1000  # texts handed over at a time
_MOST = 2**63 - 1  # what the library can count to


class NoFrequentWordError(UserError):
    """In the texts no word is frequent enough for a vocabulary."""


def train_tokenizer(
    texts: Iterable[str],
    min_frequency: int = 3,
    max_vocab_size: int | None = None,
    lowercase: bool = True,
    normalizer: str = "none",
    model_max_length: int = 512,
) -> PreTrainedTokenizerFast:
    """Learn a vocabulary of whole words and return the tokenizer that looks them up.

    The order of ids is that of torchtext's `build_vocab`: `<unk>` = 0, `<pad>` = 1, then the words from the most
    frequent to the rarest, ties by code point. Words that are themselves `<unk>` or `<pad>` are not counted.

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
        min_frequency: A word must occur at least this often to get an id.
        max_vocab_size: At most this many entries, `<unk>` and `<pad>` among them, so it bounds `RnnConfig.vocab_size`
            (torchtext's `max_size` did not count them). None keeps every word that is frequent enough.
        lowercase: Lower the case of every text.
        normalizer: One of `NORMALIZERS`, see `hf_rnn.normalization.build_normalizer`.
        model_max_length: How many tokens of a text `truncation=True` leaves.

    Returns:
        A tokenizer that `save_pretrained` writes and `AutoTokenizer` loads without this package.

    Raises:
        UserError: An argument out of its range, or a text that is not a valid str (named by its position, from 0).
        NoFrequentWordError: Texts in which no word is frequent enough; a UserError too.
    """
    _check_counts(min_frequency=min_frequency, max_vocab_size=max_vocab_size, model_max_length=model_max_length)
    if normalizer not in NORMALIZERS:
        near = get_close_matches(str(normalizer), NORMALIZERS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(NORMALIZERS)}"
        raise UserError(f"normalizer={normalizer!r} is unknown: {hint}")

    min_frequency, model_max_length = int(min_frequency), int(model_max_length)  # of NumPy too, which JSON is not
    max_vocab_size = None if max_vocab_size is None else int(max_vocab_size)
    backend = Tokenizer(WordLevel({}, unk_token=UNK_TOKEN))
    backend.normalizer, backend.pre_tokenizer = build_normalizer(normalizer, lowercase)
    words = _count(backend, texts, min_frequency, max_vocab_size)
    backend.model = WordLevel({word: index for index, word in enumerate(words)}, unk_token=UNK_TOKEN)
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


def _count(backend: Tokenizer, texts: Iterable[str], min_frequency: int, max_vocab_size: int | None) -> list[str]:
    """Count with the backend's own normaliser; return the vocabulary in the order of its ids."""
    # The trainer must not know the special tokens: one that occurs in a text would get two ids and shift the others.
    trainer = WordLevelTrainer(
        min_frequency=min(min_frequency, _MOST),
        vocab_size=min(max_vocab_size or 2**31, _MOST),  # the library's default is 30,000, silently
        special_tokens=[],
        show_progress=False,
    )
    backend.train_from_iterator(_checked(texts), trainer)
    ids = backend.get_vocab()
    specials = [UNK_TOKEN, PAD_TOKEN]
    words = [word for word in sorted(ids, key=ids.__getitem__) if word not in specials]
    if not words:
        times = "even once" if min_frequency == 1 else f"{min_frequency} times"
        raise NoFrequentWordError(f"no word occurs {times} in the texts: give more texts or lower min_frequency")
    return (specials + words)[:max_vocab_size]


def _checked(texts: Iterable[str]) -> Iterator[list[str]]:
    """Hand the texts over in batches, each of them known to be valid Unicode."""
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
        yield batch


def _check_counts(min_frequency: int, max_vocab_size: int | None, model_max_length: int) -> None:
    least = {"min_frequency": (min_frequency, 1), "model_max_length": (model_max_length, 1)}
    if max_vocab_size is not None:
        least["max_vocab_size"] = (max_vocab_size, 3)  # <unk>, <pad> and one word
    for name, (value, minimum) in least.items():
        if not isinstance(value, Integral) or isinstance(value, bool) or value < minimum:
            raise UserError(f"{name}={value!r} must be a whole number of at least {minimum}")
