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
from transformers import (
    AutoTokenizer,
    BertModel,
    PreTrainedTokenizerFast,
)
from vector_files import make_tokenizer

from hf_rnn.data.vectors import load_vectors
from hf_rnn.data.vectors.loading import find_source
from hf_rnn.data.vectors.model_table import ModelTable
from hf_rnn.utils.errors import UserError


def test_words_of_a_model_are_rows_or_means_of_pieces(bert):
    folder, table = bert
    tokenizer = make_tokenizer("film", "FILM", "unseen", "zyx", ":)", "<<<mention>>>")
    loaded = load_vectors(folder, tokenizer, texts=["film unseen zyx"])
    piece = {name: table[index] for index, name in enumerate(PIECES)}
    assert loaded.name == "tiny-bert"
    for word, expected in {
        "film": piece["film"],
        "FILM": piece["film"],
        "unseen": (piece["un"] + piece["##seen"]) / 2,
        ":)": (piece[":"] + piece[")"]) / 2,
    }.items():
        torch.testing.assert_close(loaded.matrix[tokenizer.get_vocab()[word]], expected)
    assert find_source(folder).compose(["<<<mention>>>"]), "premise: its letters could be put together"
    assert loaded.coverage.found == 4, "zyx is unknown, and a placeholder means nothing by its letters"
    assert loaded.coverage.token_share == 2 / 3
    assert not loaded.matrix[tokenizer.pad_token_id].any()


@pytest.mark.parametrize(("kind", "mark"), [("Metaspace", "▁"), ("ByteLevel", "Ġ")])
def test_words_are_cut_as_after_another_word(tmp_path, kind, mark):
    """Subword vocabularies mark the start of a word; a mark that is a piece of its own is no part of the word."""
    pieces = ["<unk>", mark, f"{mark}a", f"{mark}film", "film", "selk", "mi", f"{mark}mi", "ro"]
    backend = Tokenizer(Unigram([(piece, -1.0) for piece in pieces], unk_id=0))
    backend.pre_tokenizer, backend.decoder = getattr(pre_tokenizers, kind)(), getattr(decoders, kind)()
    table = torch.arange(2.0 * len(pieces)).view(-1, 2)
    save_file({"table": table}, tmp_path / "weights")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    source = ModelTable("invented", tokenizer, tmp_path / "weights", "table", 2)
    read = source.read(["film", "selk", "miro", "zyx"])
    assert {word: row.tolist() for word, row in read.rows.items()} == {
        "film": table[pieces.index(f"{mark}film")].tolist(),
        "selk": table[pieces.index("selk")].tolist(),
    }
    (row,) = source.compose(["miro", "zyx"]).values()
    np.testing.assert_array_equal(row, table[[pieces.index(f"{mark}mi"), pieces.index("ro")]].mean(0))
    assert source.first_words(9) == ["a", "film", "selk", "mi", "ro"]


def test_a_special_token_has_no_meaning_by_its_letters(bert):
    folder, _ = bert
    assert find_source(folder).compose(["<unk>"]), "premise: its letters could be put together"
    tokenizer = make_tokenizer("film")
    drawn = [load_vectors(folder, tokenizer, seed=seed).matrix[tokenizer.unk_token_id] for seed in range(2)]
    assert not torch.equal(*drawn)


def test_a_models_own_tokenizer_gets_its_rows_as_they_are(bert):
    folder, table = bert
    tokenizer = AutoTokenizer.from_pretrained(folder)
    loaded = load_vectors(folder, tokenizer)
    expected = table.clone()
    expected[tokenizer.pad_token_id] = 0
    torch.testing.assert_close(loaded.matrix, expected, rtol=0, atol=0)
    assert loaded.coverage.type_share == 1


def test_a_models_whole_words_come_first(bert):
    assert find_source(bert[0]).first_words(99) == ["a", "film", "un", "mention", "<", ">", ":", ")"]
    assert find_source(bert[0]).first_words(2) == ["a", "film"]


def test_a_model_on_the_hub(hub, bert):
    repo = hub.repos["me/tiny"] = Repo("me", private=False)
    repo.add("main", "a model", {path.name: Blob(path.read_bytes(), lfs=False) for path in bert[0].iterdir()})
    tokenizer = make_tokenizer("film")
    loaded = load_vectors("me/tiny", tokenizer)
    assert loaded.name == "me/tiny"
    assert torch.equal(loaded.matrix, load_vectors(bert[0], tokenizer).matrix)


def test_a_model_in_several_files(bert, tmp_path):
    BertModel.from_pretrained(bert[0]).save_pretrained(tmp_path, max_shard_size="1KB")
    AutoTokenizer.from_pretrained(bert[0]).save_pretrained(tmp_path)
    assert not (tmp_path / "model.safetensors").exists(), "premise: it was cut"
    tokenizer = make_tokenizer("film")
    assert torch.equal(load_vectors(tmp_path, tokenizer).matrix, load_vectors(bert[0], tokenizer).matrix)
    next(tmp_path.glob("model-*.safetensors")).unlink()
    for path in tmp_path.glob("model-*.safetensors"):
        path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UserError, match=r"model-0.*\.safetensors cannot be read"):
        load_vectors(tmp_path, tokenizer)


def test_a_model_without_safe_weights(bert, tmp_path):
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((bert[0] / name).read_bytes())
    with pytest.raises(UserError, match="has no model.safetensors"):
        load_vectors(tmp_path, make_tokenizer("film"))
    (tmp_path / "model.safetensors").write_bytes((bert[0] / "model.safetensors").read_bytes()[:100])
    with pytest.raises(UserError, match=f"{tmp_path.name} cannot be loaded"):
        load_vectors(tmp_path, make_tokenizer("film"))


def test_a_tokenizer_with_more_ids_than_the_table_has_rows(bert, tmp_path):
    folder = shutil.copytree(bert[0], tmp_path / "more")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["further"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(UserError, match=r"more: .* has shape .* the tokenizer's ids need"):
        load_vectors(folder, make_tokenizer("film", "further"))


def test_a_quantised_model(bert, tmp_path):
    """Whose numbers mean nothing without a scale that lies elsewhere."""
    for path in bert[0].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    name = next(name for name in weights if name.endswith("word_embeddings.weight"))
    save_file({**weights, name: (weights[name] * 50).to(torch.int8)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"word_embeddings.weight is quantised \(I8\): give the model"):
        load_vectors(tmp_path, make_tokenizer("film"))
    save_file({**weights, name: weights[name].to(torch.bfloat16)}, tmp_path / "model.safetensors")
    tokenizer = make_tokenizer("film")
    exact = load_vectors(bert[0], tokenizer).matrix
    torch.testing.assert_close(load_vectors(tmp_path, tokenizer).matrix, exact, atol=0.02, rtol=0.01)


def test_a_model_with_a_number_that_is_not_finite(bert, tmp_path):
    model = BertModel.from_pretrained(bert[0])
    model.get_input_embeddings().weight.data[PIECES.index("film"), 3] = float("nan")
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(bert[0]).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=f"{tmp_path.name}: row 6 of .*word_embeddings.weight holds a number"):
        load_vectors(tmp_path, make_tokenizer("film"))


@pytest.mark.parametrize(("kind", "mark"), [("Metaspace", "▁"), ("ByteLevel", "Ġ")])
def test_entries_of_a_subword_vocabulary_are_looked_up_as_they_stand_in_a_text(bert, tmp_path, kind, mark):
    """BERT's normaliser strips accents, so that it would read the mark of byte-level BPE as a letter g."""
    folder, table = bert
    accented = "caf\u00c3\u00a9" if kind == "ByteLevel" else "caf\u00e9"  # how the vocabulary writes café
    entries = ["<unk>", mark, f"{mark}a", f"{mark}film", f"{mark}unseen", f"{mark}:)", accented, "a"]
    entries += ["\u00c3"] if kind == "ByteLevel" else []  # half of a letter
    backend = Tokenizer(Unigram([(entry, -1.0) for entry in entries], unk_id=0))
    backend.pre_tokenizer, backend.decoder = getattr(pre_tokenizers, kind)(), getattr(decoders, kind)()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    loaded = load_vectors(folder, tokenizer)
    piece = {name: table[index] for index, name in enumerate(PIECES)}
    for entry, expected in {
        "a": piece["a"],
        f"{mark}a": piece["a"],
        f"{mark}film": piece["film"],
        f"{mark}unseen": (piece["un"] + piece["##seen"]) / 2,
        f"{mark}:)": (piece[":"] + piece[")"]) / 2,
    }.items():
        torch.testing.assert_close(loaded.matrix[entries.index(entry)], expected)
    assert loaded.coverage.found == 5, "neither a mark alone, nor a word that BERT cannot write, nor half a letter"
    file = tmp_path / "vectors.txt"
    file.write_text(f"café 1 2\nfilm 3 4\n{mark}film 5 6\n{mark} 7 8\n", encoding="utf-8")
    rows = load_vectors(file, tokenizer).matrix.tolist()
    assert [rows[entries.index(entry)] for entry in (accented, f"{mark}film", mark)] == [[1, 2], [5, 6], [7, 8]]
