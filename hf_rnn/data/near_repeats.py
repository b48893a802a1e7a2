"""Rows that repeat others, apart from typing mistakes, numbers, greetings, and a word in ten.

Candidates are pairs whose sets of three letters in a row overlap, found by MinHash in bands
(A. Broder: On the resemblance and containment of documents. 1997; J. Leskovec, A. Rajaraman,
J. Ullman: Mining of Massive Datasets, 3.4). The library datasketch hashes text by text and keeps a
dictionary per band: it takes 18 s where these arrays take 1 s, measured on the 8,503 questions of
BANKING77. The words of each candidate decide. Rows that repeat each other are a group. In a
bucket a row is compared only with the most similar one of another group, so that a table made of
templates costs no more than another.
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
    """The group of each row, and one other row of it; each array has an entry per row, `(N,)`.

    Attributes:
        groups: A number; rows that near repeats link, also through others, are in one group.
        other: An earlier row of the group: the first that the row itself repeats, or else the first
            of the group. It is -1 for the first row of a group.
        similarity: The share of the letters that agree with those of the other row.
    """

    groups: np.ndarray
    other: np.ndarray
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
    """Return the groups of rows that nearly repeat each other.

    Rows that are equal except for case, punctuation, numbers and greetings have the similarity 1.
    """
    forms: dict[str, int] = {}
    form_of = np.empty(len(texts), dtype=np.int64)  # by row
    for row, text in enumerate(texts):
        form_of[row] = forms.setdefault(_simplify(text), len(forms))
    unique = [form or "\0" for form in forms]
    links = _link(unique)
    groups = _connect(links, len(unique))
    if "" in forms:  # texts without a word repeat nothing
        empty = form_of == forms[""]
        form_of[empty] = len(unique) + np.arange(empty.sum())
        groups = np.concatenate([groups, len(unique) + np.arange(empty.sum())])

    rows = np.arange(len(texts))
    first_row = np.full(len(groups), len(texts))  # by form
    np.minimum.at(first_row, form_of, rows)
    other_row = first_row.copy()  # by form, the first row that it repeats
    for one, another in (links.T, links.T[::-1]):
        np.minimum.at(other_row, one, first_row[another])
    first_of_group = np.full(len(groups), len(texts))
    np.minimum.at(first_of_group, groups[form_of], rows)
    groups = groups[form_of]
    other = np.where(other_row[form_of] < rows, other_row[form_of], first_of_group[groups])
    other[other == rows] = -1

    similarity = np.full(len(texts), np.nan)
    for start in range(0, len(texts), _CHUNK):
        some = start + np.flatnonzero(other[start : start + _CHUNK] >= 0)
        ours = [_simplify(texts[row]) for row in some.tolist()]
        theirs = [_simplify(texts[row]) for row in other[some].tolist()]
        similarity[some] = process.cpdist(ours, theirs, scorer=OSA.normalized_similarity)
    return NearRepeats(groups, other, similarity)


def _link(texts: Sequence[str]) -> np.ndarray:
    """Return pairs of texts `(P, 2)` that repeat each other: enough to connect their groups."""
    keys, signatures = _hash_buckets(texts)
    word_counts = Counter[str]()
    for text in texts:
        word_counts.update(set(text.split()))
    links = np.empty((0, 2), dtype=np.int64)
    compared = np.empty(0, dtype=np.int64)  # pairs, each as one number
    for band in keys:
        groups = _connect(links, len(texts))
        pairs = _choose_pairs(band, signatures, groups)
        pairs = pairs[~np.isin(pairs @ (len(texts), 1), compared, assume_unique=True)]
        compared = np.concatenate([compared, pairs @ (len(texts), 1)])
        found = [
            (one, another)
            for one, another in _compare(texts, pairs)
            if _are_repeats(texts[one].split(), texts[another].split(), word_counts)
        ]
        links = np.concatenate([links, np.array(found, dtype=np.int64).reshape(-1, 2)])
    return links


def _connect(links: np.ndarray, size: int) -> np.ndarray:
    """Return the group of each of a number of texts that links `(P, 2)` connect."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(links), dtype=bool), tuple(links.T)), shape=(size, size))
    return connected_components(graph, directed=False)[1]


def _simplify(text: str) -> str:
    """Return a text in lower case, without greetings and punctuation, each number as 0."""
    plain = _GREETINGS.sub("", normalize_text(text))
    return " ".join(_MARKS.sub(" ", _NUMBER.sub("0", plain)).split())


def _hash_buckets(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the bucket of each text by band, `(B, N)`, and its signature, uint8 `(N, B * H)`."""
    keys = np.empty((_BANDS, len(texts)), dtype=np.uint64)
    signatures = np.empty((len(texts), _BANDS * _HASHES), dtype=np.uint8)
    factors = np.random.default_rng(1).integers(1, 2**64, _HASHES, dtype=np.uint64)
    for start in range(0, len(texts), _CHUNK):
        hashes = _sign(texts[start : start + _CHUNK])
        # two buckets have one number by chance for one pair in 2^64
        bands = hashes.reshape(len(hashes), _BANDS, _HASHES).astype(np.uint64) @ factors
        keys[:, start : start + _CHUNK] = bands.T
        signatures[start : start + _CHUNK] = hashes  # their last bits are enough
    return keys, signatures


def _choose_pairs(band: np.ndarray, signatures: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return for each text the pair `(P, 2)` with the most similar one of another group.

    Both are in one bucket of a band, and their sets of letters overlap.
    """
    pairs = _pair_equal(band)
    pairs = pairs[groups[pairs[:, 0]] != groups[pairs[:, 1]]]
    overlap = np.empty(len(pairs), dtype=np.uint8)
    for start in range(0, len(pairs), _CHUNK):
        one, another = pairs[start : start + _CHUNK].T
        overlap[start : start + _CHUNK] = (signatures[one] == signatures[another]).sum(axis=1)
    is_candidate = overlap >= _LEAST_OVERLAP * signatures.shape[1]
    pairs = pairs[is_candidate]
    pairs = pairs[np.argsort(-overlap[is_candidate].astype(np.int16), kind="stable")]
    best = [np.unique(pairs[:, side], return_index=True)[1] for side in (0, 1)]
    return pairs[np.unique(np.concatenate(best))]


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


def _compare(texts: Sequence[str], pairs: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield the pairs with similar letters."""
    for start in range(0, len(pairs), _CHUNK):
        some = pairs[start : start + _CHUNK]
        similarities = process.cpdist(
            [texts[place] for place in some[:, 0]],
            [texts[place] for place in some[:, 1]],
            scorer=OSA.normalized_similarity,
            score_cutoff=_LEAST_SIMILARITY,
        )
        for place in np.flatnonzero(similarities):
            yield int(some[place, 0]), int(some[place, 1])


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
