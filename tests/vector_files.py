"""Vectors in the published file formats, and tokenizers for their words."""

import gzip

from hf_rnn.tokenizers.word_level import train_tokenizer

TABLE = {
    "the": [0.5, -1.25, 2.0],
    "film": [0.125, 0.25, -0.375],
    "London": [-0.5, 0.75, 1.5],
    "<user>": [3.5, -3.5, 0.5],
    "näive": [1.5, 2.5, 3.5],
}


def write_text(table, header=False, end=b"\n", tail=b""):
    """Write GloVe's format; with `header` and a space as `tail`, fastText's .vec and word2vec."""
    size = len(next(iter(table.values())))
    rows = [
        b" ".join([word.encode(), *(repr(float(x)).encode() for x in row)]) + tail
        for word, row in table.items()
    ]
    first = [f"{len(table)} {size}".encode()] if header else []
    return end.join(first + rows) + end


FORMATS = {
    "glove.txt": write_text(TABLE),
    "windows.txt": write_text(TABLE, end=b"\r\n"),
    "marked.txt": b"\xef\xbb\xbf" + write_text(TABLE),
    "tabs.txt": write_text(TABLE).replace(b" ", b"\t"),
    "fasttext.vec": write_text(TABLE, header=True, tail=b" "),
    "word2vec.txt": write_text(TABLE, header=True),
    "glove.txt.gz": gzip.compress(write_text(TABLE)),
    "packed under a plain name": gzip.compress(write_text(TABLE, header=True)),
}


def make_tokenizer(*words, lowercase=False, normalizer="none"):
    return train_tokenizer(
        [" ".join(words)], min_frequency=1, lowercase=lowercase, normalizer=normalizer
    )


def row_of(vectors, tokenizer, word):
    return vectors.matrix[tokenizer.get_vocab()[word]].tolist()
