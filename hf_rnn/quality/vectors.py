"""Vectors of texts by an encoder of the package, computed once and kept in a file."""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xxhash
from tqdm import tqdm

from ..hub.model_folder import find_built_in
from ..inference.predict import SentenceEncoder
from ..tokenizers.language import ENGLISH, MULTILINGUAL, find_language
from ..utils.process import write_whole

logger = logging.getLogger(__name__)

# characters of a text that are read; nine of ten mails of 20 newsgroups are shorter
_MOST_CHARACTERS = 2_000
_BATCH = 1_000
_SHOWN = 2_000  # with this many texts, a bar shows the progress


def encode_texts(texts: Sequence[str], file: Path | None = None) -> np.ndarray:
    """Return unit vectors `(N, S)` in float16, by `english` or `multilingual` as suits the texts.

    Args:
        texts: Their beginnings are read, 2,000 characters.
        file: Keeps the vectors. They are read from it if it is of the same texts.
    """
    encoder = ENGLISH  # a package may have this one alone
    if find_built_in(MULTILINGUAL) is not None:
        encoder = find_language(texts).encoder
    digest = xxhash.xxh3_128(encoder.encode())
    for text in texts:
        digest.update(text.encode("utf-8", "surrogatepass"))
        digest.update(b"\0")
    if file is not None and file.exists():
        try:
            with np.load(file, allow_pickle=False) as stored:
                vectors = stored["vectors"]
                is_ours = str(stored["texts"]) == digest.hexdigest()
        except Exception:  # NumPy raises anything for a file that was cut or edited
            is_ours = False
        if is_ours and vectors.ndim == 2 and vectors.dtype == np.float16:
            is_ours = len(vectors) == len(texts) and bool(np.isfinite(vectors).all())
            if is_ours:
                return vectors
        logger.info("%s is not of these texts: it is computed again", file)

    model = SentenceEncoder.from_pretrained(encoder)
    vectors = np.empty((len(texts), len(model.encode([""])[0])), dtype=np.float16)
    starts = range(0, len(texts), _BATCH)
    hidden = True if len(texts) < _SHOWN else None  # None: unless this is a terminal
    for start in tqdm(starts, "reading the texts", disable=hidden):
        batch = texts[start : start + _BATCH]
        vectors[start : start + _BATCH] = model.encode([text[:_MOST_CHARACTERS] for text in batch])

    if file is not None:
        content = io.BytesIO()
        np.savez(content, vectors=vectors, texts=np.array(digest.hexdigest()))
        write_whole(file, content.getvalue())
    return vectors
