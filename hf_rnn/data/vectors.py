"""Pretrained word vectors for the vocabulary of a tokenizer: from a file, or from the table of a transformers model.

Files are text of GloVe, fastText (.vec) and word2vec; plain, `.gz` or `.zst`. A line has a word and its numbers,
separated by spaces. word2vec and fastText announce the number of rows and the size of a vector on a first line. Words
may contain spaces, as a few in GloVe's 840B file do.

A word that a source lacks is looked up in other forms, the first of these that is found:

| form | example |
|---|---|
| other case: lower, Capitalised, UPPER | `london` → `London`, `usa` → `USA` |
| a subword without the mark of a word's start | `▁film`, `Ġfilm` → `film` |
| a placeholder of the same meaning, then a plain word | `<<<mention>>>` → `<user>`, `@user`, `user` |
| the tag of GloVe's tweet vectors for an emoticon | `:-)` → `<smile>`, `<3` → `<heart>` |
| the two parts of a contraction, as in the Penn Treebank | `don't` → the mean of `do` and `n't` |
| the parts of a compound with hyphens | `well-known` → the mean of `well` and `known` |
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import os
import re
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count, islice, takewhile
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
import torch
from tokenizers.models import BPE, WordLevel
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from ..hub.client import fetch
from ..hub.model_folder import nested_model, read_config
from ..utils.errors import UserError, reason_of
from .lines import open_unpacked

logger = logging.getLogger(__name__)

_BATCH = 1000  # texts tokenized, or words split, at a time
_BEFORE = "a "  # precedes a word while it is split
_LONGEST_LINE = 1 << 22  # bytes read to recognise the format
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_BINARY = {b"\xba\x16\x4f\x2f": "a fastText model: give its .vec file", b"PK\x03\x04": "a zip archive: unpack it"}
_PLACEHOLDER = re.compile(r"<+(\w+)>+|(@user)")
_SUBSTITUTES = {
    **dict.fromkeys(("mention", "user", "@user"), ("<user>", "@user", "user")),
    "url": ("<url>", "http", "url"),
    "hashtag": ("<hashtag>", "#", "hashtag"),
    **dict.fromkeys(("digit", "number"), ("<number>", "<num>", "number")),
}
_EMOTICONS = {
    re.compile(r"[:;=8][-o*'^]?[)\]}dD]+"): "<smile>",
    re.compile(r"[:;=8][-o*'^]?[(\[{@]+"): "<sadface>",
    re.compile(r"[:;=8][-o*'^]?[pP]+"): "<lolface>",
    re.compile(r"[:;=8][-o*'^]?[/\\|]+"): "<neutralface>",
    re.compile(r"<3"): "<heart>",
}
_CONTRACTION = re.compile(r"(\w+)(n't|'(?:s|m|d|re|ve|ll))", re.IGNORECASE)


# ---- sources ----


@dataclass(frozen=True)
class VectorFile:
    """A file of word vectors."""

    path: Path

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name

    def first_words(self, limit: int) -> list[str]:
        """Return the words of the first rows, in most files the most frequent words; skip those not in UTF-8."""
        words = [word.decode(errors="replace") for _, word, _ in islice(self._rows(), 1, limit + 1)]
        return [word for word in words if "\ufffd" not in word]

    def read(self, wanted: Collection[str]) -> tuple[int, dict[str, np.ndarray]]:
        """Return the size of the vectors, and those of the wanted words that the file has, float32 `(E,)`.

        The whole file is read, so that damage anywhere is found. The first row of a word counts.

        Raises:
            UserError: For damage and other content; the message names the file and the line.
        """
        keys, rows = {word.encode(): word for word in wanted}, self._rows()
        size, vectors = next(rows)[0], {}
        for line, key, numbers in rows:
            if (word := keys.pop(key, None)) is not None:
                try:
                    with np.errstate(over="ignore"):  # becomes infinite, which is refused later
                        vectors[word] = np.array([float(field) for field in numbers.split()], dtype=np.float32)
                except ValueError as error:
                    raise UserError(f"{self.path}, line {line:,}: {error}") from None
        return size, vectors

    def _rows(self) -> Iterator[tuple[int, bytes, bytes]]:
        """Yield the size of the vectors, then line number, word and numbers of each row."""
        try:
            with open_unpacked(str(self.path)) as stream:
                yield from self._split_lines(stream)
        except (EOFError, zlib.error, OSError) as error:
            found = getattr(error, "strerror", None) or reason_of(error)
            raise UserError(f"{self.path} cannot be read, or is cut short: {found}; download it again") from error

    def _split_lines(self, stream: BinaryIO) -> Iterator[tuple[int, bytes, bytes]]:
        first = stream.readline(_LONGEST_LINE).removeprefix(_BYTE_ORDER_MARK)
        for magic, kind in _BINARY.items():
            if first.startswith(magic):
                raise UserError(f"{self.path} is {kind}")
        announced, fields = None, first.split()
        if len(fields) == 2 and all(field.isdigit() for field in fields):
            announced, size = map(int, fields)
            first = stream.readline(_LONGEST_LINE)
            if b"\0" in first or not any(map(_is_number, first.split()[1:])):
                raise UserError(f"{self.path} is not text: save binary vectors of word2vec in its text format")
        else:
            size = sum(1 for _ in takewhile(_is_number, reversed(fields[1:])))
        if not size:
            found = f"found {first.strip()!r:.80}; give vectors of GloVe, fastText (.vec) or word2vec"
            raise UserError(f"{self.path}, line 1: expected a word and its numbers, {found}")
        yield size, b"", b""
        count, line = 0, b"\n"
        for number, line in enumerate(chain([first], stream), 1 if announced is None else 2):
            bare = line.rstrip()
            if bare.count(b" ") == size and b"  " not in bare:
                word, _, numbers = bare.partition(b" ")
            elif bare:  # tabs, several spaces, or a word that contains spaces
                fields = bare.split()
                cut = len(fields) - size  # the first number
                if cut < 1 or (cut > 1 and _is_number(fields[cut - 1])):
                    found = f"found {len(fields) - 1} numbers, expected {size}"
                    advice = "if this is the last line, the file is cut short"
                    raise UserError(f"{self.path}, line {number:,}: {found}; {advice}")
                word, numbers = b" ".join(fields[:cut]), b" ".join(fields[cut:])
            else:
                continue
            count += 1
            yield number, word, numbers
        if announced not in (None, count):
            found = f"{self.path} has {count:,} rows and announces {announced:,} on line 1"
            raise UserError(f"{found}: is it cut short? Download it again")
        if not line.endswith(b"\n"):
            logger.warning("%s: its last line has no line break: is it cut short?", self.path)


def _is_number(field: bytes) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class ModelTable:
    """The input embedding of a model, float32 `(V, E)`, and its tokenizer."""

    name: str
    tokenizer: PreTrainedTokenizerBase
    table: np.ndarray

    @classmethod
    def find(cls, folder: Path, name: str) -> Self:
        """Load the table of a model's folder, which has the files of the tokenizer too."""
        if not (folder / "config.json").is_file():
            nested = nested_model(folder)
            advice = "give the folder of a transformers model, or a file of vectors"
            raise UserError(f"{name} has no config.json: {advice if nested is None else f'did you mean {nested}?'}")
        verbosity = transformers_logging.get_verbosity()
        transformers_logging.set_verbosity_error()  # a report about the model's head, which is not used
        try:
            read_config(f"the model {name}", folder)
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            model, info = AutoModel.from_pretrained(
                folder, trust_remote_code=False, use_safetensors=True, output_loading_info=True
            )
            weight = model.get_input_embeddings().weight
            key = next(key for key, parameter in model.named_parameters() if parameter is weight)
            table = weight.detach().float().numpy()
        except UserError:
            raise
        except Exception as error:  # damaged files make the libraries raise any exception
            raise UserError(f"the vectors of {name} cannot be loaded: {reason_of(error):.1000}") from error
        finally:
            transformers_logging.set_verbosity(verbosity)
        if key in info["missing_keys"]:
            raise UserError(f"{name} has no {key}, the model's token embedding: give another model")
        if len(table) <= (last := max(tokenizer.get_vocab().values(), default=-1)):
            raise UserError(f"{name}: {key} has {len(table):,} rows, but the tokenizer's ids need {last + 1:,}")
        return cls(name, tokenizer, table)

    def first_words(self, limit: int) -> list[str]:
        """Return the first whole words of the vocabulary, in the order of their ids."""
        special = set(self.tokenizer.all_special_ids)
        ordered = sorted(set(self.tokenizer.get_vocab().values()) - special)
        found: list[str] = []
        for first in range(0, len(ordered), _BATCH):
            ids = ordered[first : first + _BATCH]
            tokens = self.tokenizer.convert_ids_to_tokens(ids)
            words = [self.tokenizer.convert_tokens_to_string([token]).strip() for token in tokens]
            pieces = self._split(words)
            found += [word for index, word in enumerate(words) if word and pieces[index] == [ids[index]]]
            if len(found) >= limit:
                break
        return found[:limit]

    def read(self, wanted: Collection[str]) -> tuple[int, dict[str, np.ndarray]]:
        """Return the size of the vectors, and those of the words that are one piece to the model's tokenizer."""
        words = list(wanted)
        whole = {word: pieces[0] for word, pieces in zip(words, self._split(words), strict=True) if len(pieces) == 1}
        rows = self.read_rows(whole.values())
        return self.table.shape[1], {word: rows[index] for word, index in whole.items()}

    def compose(self, words: Collection[str]) -> dict[str, np.ndarray]:
        """Return for each word the mean of the vectors of its pieces; unknown words are left out."""
        split = {word: pieces for word, pieces in zip(words, self._split(list(words)), strict=True) if pieces}
        rows = self.read_rows(index for pieces in split.values() for index in pieces)
        return {word: np.mean([rows[index] for index in pieces], axis=0) for word, pieces in split.items()}

    def read_rows(self, ids: Iterable[int]) -> dict[int, np.ndarray]:
        """Return rows of the table by id, float32 `(E,)`."""
        return {index: self.table[index] for index in ids}

    def _split(self, words: Sequence[str]) -> list[list[int]]:
        """Return the ids of the pieces of each word; none if a piece is unknown."""
        split = []
        for first in range(0, len(words), _BATCH):
            batch = words[first : first + _BATCH]
            if not self.tokenizer.is_fast:
                split += [self.tokenizer.encode(word, add_special_tokens=False) for word in batch]
                continue
            texts = [_BEFORE + word for word in batch]
            encoded = self.tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
            for ids, places in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
                split.append([index for index, (_, end) in zip(ids, places, strict=True) if end > len(_BEFORE)])
        special = set(self.tokenizer.all_special_ids)
        return [[] if special & set(pieces) else pieces for pieces in split]


# ---- vectors of a vocabulary ----


@dataclass(frozen=True)
class Coverage:
    """Words of the vocabulary without special tokens, those that have vectors, and the share of the texts' tokens.

    Unknown tokens count; the share is None without texts.
    """

    words: int
    found: int
    token_share: float | None = None

    @property
    def type_share(self) -> float:
        """Share of the words that have a vector."""
        return self.found / max(self.words, 1)

    def __str__(self) -> str:
        tokens = "" if self.token_share is None else f", {self.token_share:.1%} of the tokens"
        return f"{self.found:,} of {self.words:,} words ({self.type_share:.1%}){tokens}"


@dataclass(frozen=True)
class Vectors:
    """Vectors of a source for a vocabulary: float32 `(V, E)`, one row per id; the padding row is zero."""

    name: str
    matrix: torch.Tensor
    coverage: Coverage

    def describe(self) -> dict[str, Any]:
        """Return name and coverage for JSON."""
        shares = {"coverage_types": self.coverage.type_share, "coverage_tokens": self.coverage.token_share}
        return {"name": self.name, **shares}

    def reduce(self, size: int, pad_token_id: int | None) -> Vectors:
        """Return the vectors with their first `size` principal components; see [`compress_table`]."""
        matrix = torch.from_numpy(compress_table(self.matrix.numpy(), size))
        if pad_token_id is not None:
            matrix[pad_token_id] = 0
        return Vectors(self.name, matrix, self.coverage)

    def fingerprint(self) -> str:
        """Return a hash of the numbers."""
        return hashlib.sha256(self.matrix.numpy().tobytes()).hexdigest()


def find_source(source: str | Path) -> VectorFile | ModelTable:
    """Open a file of vectors, the folder of a transformers model, or such a model's id on the Hub."""
    name = os.path.expanduser(source)
    path = Path(name)
    if path.is_file():
        return VectorFile(path)
    if path.is_dir():
        return ModelTable.find(path, path.resolve().name)
    if name.count("/") == 1 and not path.parent.is_dir():
        return ModelTable.find(fetch(name), name)
    raise UserError(f"there are no vectors at {name}: give a file, the folder of a transformers model, or its Hub id")


def load_vectors(
    source: str | Path,
    tokenizer: PreTrainedTokenizerBase,
    *,
    texts: Iterable[str] | None = None,
    embedding_size: int | None = None,
    seed: int = 0,
) -> Vectors:
    """Return pretrained vectors for a vocabulary, in the order of its ids.

    A file is streamed: only the vectors of needed words are kept in memory. Other forms of a missing word are listed
    in [`hf_rnn.data.vectors`]; in a model's table it gets the mean of its pieces' vectors. Words without a
    vector are drawn from N(0, s²), where s is the standard deviation of the numbers that were found.

    Args:
        source: A text file (GloVe, fastText .vec or word2vec; plain, `.gz` or `.zst`), or a model's folder or id.
        tokenizer: Its vocabulary is looked up. A model's own tokenizer gets its rows unchanged.
        texts: Texts whose tokens are counted for the coverage.
        embedding_size: Required numbers per vector; None accepts any.
        seed: Seed of the words without a vector.

    Raises:
        UserError: For a missing or damaged source, vectors of another size or not finite, and when no word is found.

    Example:
        >>> vectors = load_vectors("glove.6B.50d.txt", tokenizer, texts=data["train"]["text"])
        >>> print(vectors.coverage)
        3,250 of 3,328 words (97.7%), 97.9% of the tokens
    """
    found, ids, special = find_source(source), tokenizer.get_vocab(), set(tokenizer.all_special_tokens)
    if isinstance(found, ModelTable) and found.tokenizer.get_vocab() == ids:
        rows = found.read_rows(ids.values())
        size, vectors = found.table.shape[1], {word: rows[index] for word, index in ids.items()}
    else:
        entries = [word for word, index in ids.items() if index != tokenizer.pad_token_id]
        size, vectors = _look_up(found, _decode_entries(entries, tokenizer), special)
    if embedding_size is not None and size != embedding_size:
        raise UserError(f"the vectors of {source} have {size} numbers, and embedding_size is {embedding_size}")
    for word, vector in vectors.items():
        if not np.isfinite(vector).all():
            raise UserError(f"{source}: the vector of {word!r} contains a number that is not finite")
    words = ids.keys() - special
    covered = vectors.keys() & words
    if not covered:
        raise UserError(f"{source} has a vector for none of the {len(words):,} words of the vocabulary: check it")
    known = torch.from_numpy(np.stack(list(vectors.values())))
    matrix = torch.randn(max(ids.values()) + 1, size, generator=torch.Generator().manual_seed(seed))
    matrix *= known.double().std(correction=0).item()
    matrix[torch.tensor([ids[word] for word in vectors])] = known
    if tokenizer.pad_token_id is not None:
        matrix[tokenizer.pad_token_id] = 0
    share = None if texts is None else _token_share(tokenizer, {ids[word] for word in covered}, texts)
    return Vectors(found.name, matrix, Coverage(len(words), len(covered), share))


def _decode_entries(entries: Collection[str], tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """Return the text of vocabulary entries: `film` for `▁film`, `é` for `Ã©`, "" for part of a letter."""
    special = set(tokenizer.all_special_tokens)
    decoded = {entry: entry if entry in special else tokenizer.convert_tokens_to_string([entry]) for entry in entries}
    return {entry: "" if "\ufffd" in text and text != entry else text.strip() for entry, text in decoded.items()}


def _look_up(
    source: VectorFile | ModelTable, words: Mapping[str, str], special: Collection[str]
) -> tuple[int, dict[str, np.ndarray]]:
    """Return the size of the vectors, and the vectors of the entries that have one, by the text of each entry."""
    if isinstance(source, ModelTable):
        forms = {entry: list_forms(word) for entry, word in words.items() if word}
    else:  # a file may contain subwords, spelt as a vocabulary spells them
        forms = {entry: list_forms(word, entry) for entry, word in words.items()}
    size, rows = source.read({part for options in forms.values() for form in options for part in form})
    vectors = {}
    for entry, options in forms.items():
        form = next((form for form in options if rows.keys() >= set(form)), None)
        if form is not None:
            vectors[entry] = np.mean([rows[part] for part in form], axis=0)
    if isinstance(source, ModelTable):
        # The letters of placeholders and special tokens have no meaning.
        missing = {entry: word for entry, word in words.items() if not (entry in vectors or entry in special)}
        missing = {entry: word for entry, word in missing.items() if word and not is_placeholder(word)}
        composed = source.compose(set(missing.values()))
        vectors |= {entry: composed[word] for entry, word in missing.items() if word in composed}
    return size, vectors


def is_placeholder(word: str) -> bool:
    """Return whether a word represents a kind of words, such as `<url>`."""
    found = _PLACEHOLDER.fullmatch(word)
    return found is not None and found[found.lastindex or 0].lower() in _SUBSTITUTES


def list_forms(word: str, entry: str | None = None) -> list[tuple[str, ...]]:
    """Return the forms under which to look up a word, best first; the mean of a form's vectors is the word's.

    `entry` is the word as the vocabulary spells it; the word is empty for an entry without text of its own.
    """
    forms: list[tuple[str, ...]] = []
    for spelt in (entry or word, word):
        forms += [(spelt,), (spelt.lower(),), (spelt.capitalize(),), (spelt.upper(),)]
    if placeholder := _PLACEHOLDER.fullmatch(word):
        meaning = placeholder[placeholder.lastindex or 0].lower()
        forms += [(substitute,) for substitute in _SUBSTITUTES.get(meaning, ())]
    else:
        forms += [(tag,) for pattern, tag in _EMOTICONS.items() if pattern.fullmatch(word)]
        for cased in (word, word.lower()):
            if contraction := _CONTRACTION.fullmatch(cased):
                forms.append((contraction[1], contraction[2]))
            if len(parts := tuple(part for part in cased.split("-") if part)) > 1:
                forms.append(parts)
    return list(dict.fromkeys(forms))


def _token_share(tokenizer: PreTrainedTokenizerBase, covered: set[int], texts: Iterable[str]) -> float | None:
    """Return the share of the tokens of texts that are covered; None for texts without a token."""
    counts: Counter[int] = Counter()
    remaining = iter(texts)
    while batch := list(islice(remaining, _BATCH)):
        for ids in tokenizer(batch, add_special_tokens=False)["input_ids"]:
            counts.update(ids)
    total = counts.total()
    return sum(count for index, count in counts.items() if index in covered) / total if total else None


def widen_vocabulary(tokenizer: PreTrainedTokenizerBase, source: str | Path, limit: int) -> PreTrainedTokenizerBase:
    """Return a copy of a tokenizer that also knows the first words of a source of vectors; existing ids stay.

    Words unseen in training then have the meaning of their vector.

    Args:
        tokenizer: A tokenizer of whole words or `bpe` from [`train_tokenizer`]; the latter keeps these words whole.
        source: As for [`load_vectors`].
        limit: Number of the source's first words; one is added as the normaliser spells it, if it is not split.

    Raises:
        UserError: For a tokenizer of another kind, a `limit` below 1, or an invalid source.
    """
    if limit < 1:
        raise UserError(f"widen_vocabulary must be at least 1, found {limit}")
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not isinstance(backend.model, WordLevel | BPE):
        raise UserError("widen_vocabulary is for a vocabulary of whole words: leave it out, or the other tokenizer")
    # With added tokens: saving gives new ids to those that the model lacks.
    vocabulary = dict(tokenizer.get_vocab())
    new = count(max(vocabulary.values(), default=-1) + 1)  # ids may have gaps
    for listed in find_source(source).first_words(limit):
        text = listed if backend.normalizer is None else backend.normalizer.normalize_str(listed)
        words = [(text, None)] if backend.pre_tokenizer is None else backend.pre_tokenizer.pre_tokenize_str(text)
        if len(words) == 1 and (word := words[0][0]) and word not in vocabulary:
            vocabulary[word] = next(new)
    widened = copy.deepcopy(tokenizer)
    if isinstance(backend.model, WordLevel):
        widened.backend_tokenizer.model = WordLevel(vocabulary, unk_token=backend.model.unk_token)
    else:
        merges = [tuple(merge) for merge in json.loads(backend.to_str())["model"]["merges"]]
        model = BPE(vocabulary, merges, unk_token=backend.model.unk_token, ignore_merges=True)
        widened.backend_tokenizer.model = model
    return widened


def compress_table(table: np.ndarray, size: int) -> np.ndarray:
    """Return the first `size` principal components of token vectors `(V, E)`, scaled to a mean square of 1."""
    centered = table.astype(np.float64) - table.mean(axis=0, dtype=np.float64)
    if size < table.shape[1]:
        _, vectors = np.linalg.eigh(centered.T @ centered)
        centered = centered @ vectors[:, ::-1][:, :size]
    return (centered / np.sqrt((centered**2).mean())).astype(np.float32)
