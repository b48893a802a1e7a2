"""Rows that repeat others, apart from typing mistakes, numbers, greetings, and a word in ten.

Candidates are pairs whose sets of three letters in a row overlap, found by MinHash in bands
(A. Broder: On the resemblance and containment of documents. 1997; J. Leskovec, A. Rajaraman,
J. Ullman: Mining of Massive Datasets, 3.4). The library datasketch hashes text by text and keeps a
dictionary per band: it takes 18 s where these arrays take 1 s, measured on the 8,503 questions of
BANKING77. The words of each candidate decide.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from rapidfuzz import process
from rapidfuzz.distance import OSA, Levenshtein

_BANDS = 24
_HASHES = 4  # per band; a pair with Jaccard similarity .6 is found with p = .96
_LEAST_OVERLAP = 0.35  # estimated Jaccard similarity of a candidate
_LEAST_SIMILARITY = 0.75  # share of the letters
_CHANGED = 0.1  # share of the words that may be others
_NEXT = 10  # rows of a bucket that a row is compared with
_CHUNK = 50_000  # texts that are hashed at once
_RARE = 0.05  # a typing mistake is in fewer texts than this share of those with the right word
_GREETINGS = re.compile(
    r"^(?:(?:hi|hello|hey|dear|good (?:morning|day|evening|afternoon)|hallo|guten (?:tag|morgen)|"
    r"bonjour|hola)\b(?: \w+[,!]| all\b| there\b| team\b)?[,.! ]*)+"
    r"|[,.! ]*\b(?:thanks|thank you|many thanks|regards|kind regards|best regards|cheers|please|"
    r"danke|merci|gracias)\b(?: in advance| a lot| (?:so|very) much)?[,.! ]*$"
)
_NUMBER = re.compile(r"\d[\d.,:/-]*")
_MARKS = re.compile(r"[^\w\s]+")


@dataclass(frozen=True)
class NearRepeats:
    """Pairs of rows, the first one earlier, with the share of their letters that agrees."""

    first: np.ndarray  # `(P,)`
    second: np.ndarray
    similarity: np.ndarray


def normalize_text(text: str) -> str:
    """Return the form of a text whose equality makes duplicates.

    Case, width and composition of characters are ignored (compatibility caseless matching, The
    Unicode Standard, section 3.13, D146), and so is white space, except that it separates words.
    Punctuation, links, handles and digits count.
    """
    if text.isascii():
        folded = text.lower()  # a faster way to the same result
    else:
        folded = unicodedata.normalize("NFD", text).casefold()
        folded = unicodedata.normalize("NFKD", folded).casefold()
        folded = unicodedata.normalize("NFKD", folded)
    return " ".join(folded.split())


def find_near_repeats(texts: Sequence[str]) -> NearRepeats:
    """Return the pairs of rows that nearly repeat each other.

    Rows that are equal except for case, punctuation, numbers and greetings have the similarity 1;
    each is paired with the first one only.
    """
    rows_of: dict[str, list[int]] = {}
    for row, text in enumerate(texts):
        rows_of.setdefault(_simplify(text), []).append(row)
    rows_of.pop("", None)
    pairs = []
    for first, *others in rows_of.values():
        pairs += [(first, other, 1.0) for other in others]

    unique = list(rows_of)
    word_counts = Counter[str]()
    for form in unique:
        word_counts.update(set(form.split()))
    for one, other, similarity in _compare(unique, _find_candidates(unique)):
        if _are_repeats(unique[one].split(), unique[other].split(), word_counts):
            first, second = sorted((rows_of[unique[one]][0], rows_of[unique[other]][0]))
            pairs.append((first, second, similarity))
    columns = np.array(sorted(pairs), dtype=float).reshape(-1, 3).T
    return NearRepeats(columns[0].astype(int), columns[1].astype(int), columns[2])


def group_near_repeats(texts: Sequence[str]) -> np.ndarray:
    """Return the group of each row `(N,)`: rows that near repeats link are in one group."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pairs = find_near_repeats(texts)
    links = np.ones(len(pairs.first), dtype=bool)
    shape = (len(texts), len(texts))
    graph = coo_array((links, (pairs.first, pairs.second)), shape=shape)
    return connected_components(graph, directed=False)[1]


def _simplify(text: str) -> str:
    """Return a text in lower case, without greetings and punctuation, each number as 0."""
    plain = _GREETINGS.sub("", normalize_text(text))
    return " ".join(_MARKS.sub(" ", _NUMBER.sub("0", plain)).split())


def _find_candidates(texts: Sequence[str]) -> np.ndarray:
    """Return pairs of texts `(P, 2)` with a common bucket and overlapping sets of letters."""
    keys = np.empty((_BANDS, len(texts)), dtype=np.uint64)
    signatures = np.empty((len(texts), _BANDS * _HASHES), dtype=np.uint8)
    factors = np.random.default_rng(1).integers(1, 2**64, _HASHES, dtype=np.uint64)
    for start in range(0, len(texts), _CHUNK):
        hashes = _sign(texts[start : start + _CHUNK])
        # two buckets have one number by chance for one pair in 2^64
        bands = hashes.reshape(len(hashes), _BANDS, _HASHES).astype(np.uint64) @ factors
        keys[:, start : start + _CHUNK] = bands.T
        signatures[start : start + _CHUNK] = hashes  # their last bits are enough
    found = [np.empty((0, 2), dtype=np.int64)]
    for band in keys:
        pairs = _pair_equal(band)
        for start in range(0, len(pairs), _CHUNK):
            some = pairs[start : start + _CHUNK]
            overlap = (signatures[some[:, 0]] == signatures[some[:, 1]]).mean(axis=1)
            found.append(some[overlap >= _LEAST_OVERLAP])
    return np.unique(np.concatenate(found), axis=0)


def _sign(texts: Sequence[str]) -> np.ndarray:
    """Return the smallest of each hash of three letters in a row, uint32 `(N, B * H)`."""
    from sklearn.feature_extraction.text import HashingVectorizer

    letters = HashingVectorizer(
        analyzer="char", ngram_range=(3, 3), n_features=2**31 - 1, norm=None, lowercase=False
    )
    counts = letters.transform([f" {text} " for text in texts])
    grams = counts.indices.astype(np.uint32)
    draw = np.random.default_rng(0)
    signatures = np.empty((len(texts), _BANDS * _HASHES), dtype=np.uint32)
    for number in range(signatures.shape[1]):
        factor, shift = draw.integers(1, 2**32, 2, dtype=np.uint32)
        hashes = grams * (factor | np.uint32(1)) + shift
        signatures[:, number] = np.minimum.reduceat(hashes, counts.indptr[:-1])
    return signatures


def _pair_equal(keys: np.ndarray) -> np.ndarray:
    """Return pairs `(P, 2)` of places with equal keys, the smaller first; of many the next."""
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    pairs = []
    for step in range(1, min(_NEXT, len(keys) - 1) + 1):
        equal = np.flatnonzero(keys[step:] == keys[:-step])
        pairs.append(np.stack([order[equal], order[equal + step]], axis=1))
    return np.concatenate([np.empty((0, 2), dtype=np.int64), *pairs])


def _compare(texts: Sequence[str], pairs: np.ndarray) -> Iterator[tuple[int, int, float]]:
    """Yield the pairs with similar letters, with the share that agrees: 1 - distance / length."""
    for start in range(0, len(pairs), _CHUNK):
        some = pairs[start : start + _CHUNK]
        similarities = process.cpdist(
            [texts[place] for place in some[:, 0]],
            [texts[place] for place in some[:, 1]],
            scorer=OSA.normalized_similarity,
            score_cutoff=_LEAST_SIMILARITY,
        )
        for place in np.flatnonzero(similarities):
            yield int(some[place, 0]), int(some[place, 1]), float(similarities[place])


def _are_repeats(first: Sequence[str], second: Sequence[str], counts: Counter[str]) -> bool:
    """Return whether words are the same except for typing mistakes, and for one in ten."""
    changed = 0
    for edit in Levenshtein.editops(first, second):
        if edit.tag == "replace":
            words = (first[edit.src_pos], second[edit.dest_pos])
            rare, usual = sorted(map(counts.__getitem__, words))
            # a typing mistake: one letter differs, and few texts have it
            if OSA.distance(*words) <= 1 and rare <= max(1, _RARE * usual):
                continue
        changed += 1
    return changed <= _CHANGED * max(len(first), len(second))
