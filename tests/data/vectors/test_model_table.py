"""Vectors from the table of a tiny BERT, against rows and means of rows known by hand."""

import shutil

import numpy as np
import pytest
import torch
from hub_server import Blob, Repo
from safetensors.torch import load_file, save_file
from tiny_bert import PIECES
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import Unigram
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from vector_files import make_tokenizer

from hf_rnn.data.vectors import load_vectors
from hf_rnn.data.vectors.loading import find_source
from hf_rnn.data.vectors.model_table import ModelTable
from hf_rnn.utils.errors import UserError


@pytest.fixture
def piece(bert):
    """Rows of the table by piece."""
    return {name: bert[1][index] for index, name in enumerate(PIECES)}


@pytest.fixture
def copied(bert, tmp_path):
    """A folder that a test may change."""
    return shutil.copytree(bert[0], tmp_path / "copied")


def make_subword_tokenizer(kind, pieces):
    backend = Tokenizer(Unigram([(piece, -1.0) for piece in pieces], unk_id=0))
    backend.pre_tokenizer, backend.decoder = getattr(pre_tokenizers, kind)(), getattr(decoders, kind)()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


def test_words_are_rows_or_means_of_pieces(bert, piece):
    tokenizer = make_tokenizer("film", "FILM", "unseen", "zyx", ":)", "<<<mention>>>")
    loaded = load_vectors(bert[0], tokenizer, texts=["film unseen zyx"])
    assert loaded.name == "tiny-bert"
    for word, expected in {
        "film": piece["film"],
        "FILM": piece["film"],
        "unseen": (piece["un"] + piece["##seen"]) / 2,
        ":)": (piece[":"] + piece[")"]) / 2,
    }.items():
        torch.testing.assert_close(loaded.matrix[tokenizer.get_vocab()[word]], expected)
    source = find_source(bert[0])
    assert source.compose(["<<<mention>>>"]) and source.compose(["<unk>"]), "premise: their letters are pieces"
    assert loaded.coverage.found == 4, "zyx is unknown, and the letters of a placeholder have no meaning"
    assert loaded.coverage.token_share == 2 / 3
    assert not torch.equal(loaded.matrix[0], load_vectors(bert[0], tokenizer, seed=1).matrix[0]), "<unk> is drawn"


def test_a_models_own_tokenizer_gets_its_rows_unchanged(bert):
    tokenizer = AutoTokenizer.from_pretrained(bert[0])
    expected = bert[1].clone()
    expected[tokenizer.pad_token_id] = 0
    loaded = load_vectors(bert[0], tokenizer)
    torch.testing.assert_close(loaded.matrix, expected, rtol=0, atol=0)
    assert loaded.coverage.type_share == 1


def test_first_words_are_the_whole_words(bert):
    assert find_source(bert[0]).first_words(99) == ["a", "film", "un", "mention", "<", ">", ":", ")"]
    assert find_source(bert[0]).first_words(2) == ["a", "film"]


@pytest.mark.parametrize(("kind", "mark"), [("Metaspace", "▁"), ("ByteLevel", "Ġ")])
def test_words_are_split_as_after_another_word(kind, mark):
    pieces = ["<unk>", mark, f"{mark}a", f"{mark}film", "film", "selk", "mi", f"{mark}mi", "ro"]
    table = torch.arange(2.0 * len(pieces)).view(-1, 2)
    source = ModelTable("invented", make_subword_tokenizer(kind, pieces), table.numpy())
    size, rows = source.read(["film", "selk", "miro", "zyx"])
    assert (size, {word: row.tolist() for word, row in rows.items()}) == (
        2,
        {"film": table[pieces.index(f"{mark}film")].tolist(), "selk": table[pieces.index("selk")].tolist()},
    )
    (row,) = source.compose(["miro", "zyx"]).values()
    np.testing.assert_array_equal(row, table[[pieces.index(f"{mark}mi"), pieces.index("ro")]].mean(0))
    assert source.first_words(9) == ["a", "film", "selk", "mi", "ro"]


def test_a_model_on_the_hub(hub, bert):
    repo = hub.repos["me/tiny"] = Repo("me", private=False)
    repo.add("main", "a model", {path.name: Blob(path.read_bytes(), lfs=False) for path in bert[0].iterdir()})
    tokenizer = make_tokenizer("film")
    loaded = load_vectors("me/tiny", tokenizer)
    assert loaded.name == "me/tiny"
    assert torch.equal(loaded.matrix, load_vectors(bert[0], tokenizer).matrix)


@pytest.mark.parametrize("damage", ["missing", "cut", "not finite", "too small"])
def test_a_table_that_cannot_be_read(bert, copied, damage):
    path = copied / "model.safetensors"
    weights = load_file(path)
    name = next(name for name in weights if name.endswith("word_embeddings.weight"))
    message = "cannot be loaded"
    if damage == "missing":
        path.unlink()
        message = "no file named model.safetensors"
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:100])
    elif damage == "not finite":
        weights[name][PIECES.index("film"), 3] = float("nan")
        save_file(weights, path)
        message = "'film' contains a number"
    else:
        tokenizer = AutoTokenizer.from_pretrained(copied)
        tokenizer.add_tokens(["further"])
        tokenizer.save_pretrained(copied)
        message = "but the tokenizer's ids need"
    with pytest.raises(UserError, match=message):
        load_vectors(copied, make_tokenizer("film"))
