"""Texts → changed copies of them, for a teacher to label: words hidden, or cut down to a few. No labels, no models.

After R. Tang et al.: Distilling Task-Specific Knowledge from BERT into Simple Neural Networks. arXiv:1903.12136, 2019,
with its probabilities as defaults. Its third rule, another word of the same part of speech, needs a tagger and is left
out.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence

from transformers import PreTrainedTokenizerBase

MASKED = "\ufdd0"  # stands for a hidden word until the tokenizer is known: a code point that no text has a use for
_LONGEST_NGRAM = 5
# Words that no vocabulary has, for tokenizers that take special tokens in a text for text; some keep letters only.
_UNHEARD_OF = (MASKED, "qzxjwv")


def augment(
    texts: Sequence[str],
    copies: int,
    *,
    mask_probability: float = 0.1,
    ngram_probability: float = 0.25,
    seed: int = 0,
) -> Iterator[tuple[int, str]]:
    """Yield changed copies of texts, each with the number of its text.

    Each word of a copy (what white space separates) is hidden with `mask_probability`; then, with `ngram_probability`,
    one to five neighbouring words are kept of it alone. A copy that is equal to its text or to an earlier copy, or of
    which no word is left, is not yielded, so that short texts have fewer.

    Args:
        texts: N of them.
        copies: Copies drawn of each text.
        mask_probability: From 0 to 1.
        ngram_probability: From 0 to 1.
        seed: The same one makes the same copies.

    Yields:
        The first copy of each text, then the second of each, and so on, hidden words written as `MASKED`, each after
        the number of the text that it was made from. With more `copies` those of fewer come first, so that what a
        teacher said of them is of use again.
    """
    seen = [{" ".join(text.split())} for text in texts]
    for round_number in range(copies):
        chance = random.Random(f"{seed} {round_number}")
        for number, (text, copies_of_text) in enumerate(zip(texts, seen, strict=True)):
            words = [MASKED if chance.random() < mask_probability else word for word in text.split()]
            if chance.random() < ngram_probability:
                size = min(chance.randint(1, _LONGEST_NGRAM), len(words))
                start = chance.randint(0, len(words) - size)
                words = words[start : start + size]
            copy = " ".join(words)
            if copy not in copies_of_text and any(word != MASKED for word in words):
                copies_of_text.add(copy)
                yield number, copy


def find_mask(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return what a hidden word is written as for a tokenizer: what becomes its mask token, else its unknown token.

    A tokenizer that has neither, such as one of bytes, gets an empty string: the word is left out.
    """
    wanted = [[index] for index in (tokenizer.mask_token_id, tokenizer.unk_token_id) if index is not None]
    for word in (tokenizer.mask_token, tokenizer.unk_token, *_UNHEARD_OF):
        if word is not None and tokenizer(word, add_special_tokens=False)["input_ids"] in wanted:
            return word
    return ""


def write_masks(copies: Iterable[str], mask: str) -> list[str]:
    """Write the hidden words of copies as a tokenizer needs them.

    Args:
        copies: As [`augment`] makes them.
        mask: As [`find_mask`] found it.
    """
    return [copy.replace(MASKED, mask) for copy in copies]
