"""Texts that only the teacher labels: each line of a file is accounted for; copies are drawn as set."""

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_teacher import bert_tokenizer, bytes_tokenizer

from hf_rnn import train_tokenizer
from hf_rnn.tokenizers.normalizers import NORMALIZERS
from hf_rnn.training.distillation.unlabeled import MASKED, augment, read_unlabeled, write_masks
from hf_rnn.utils.errors import UserError


def test_every_line_is_accounted_for(tmp_path, caplog):
    path = tmp_path / "texts.txt"
    path.write_bytes(b"the dry box\n\nsand \xff\nThe  DOOR\n \t\nmiro\xe2\x80\xa8selk\r\nsa\0nd\nthe dry box\nA  box")
    texts, record = read_unlabeled(path, held_out={"the door"}, labeled={"a box"})
    assert texts == ["the dry box", "miro\u2028selk", "the dry box"]
    counts = {"lines": 9, "refused": 2, "blank": 2, "held_out": 1, "labeled": 1, "kept": 3}
    assert record == {"file": "texts.txt", **counts}
    (line,) = caplog.messages
    assert "texts.txt:3: not UTF-8" in line


def test_a_table_gives_its_column_of_texts(tmp_path):
    path = tmp_path / "texts.csv"
    path.write_text('id;mood;tweet\n1;good;A  box\n2;bad;the door\n3;;"new; sand"\n4;\n')
    texts, record = read_unlabeled(path, held_out={"a box"}, labeled={"the door"}, text_column="text")
    assert (record["held_out"], record["labeled"], record["refused"], texts) == (1, 1, 1, ["new; sand"])
    with pytest.raises(UserError, match="no column 'text': found 'miro', 'good'"):
        (tmp_path / "rows.tsv").write_text("miro\tgood\nselk\tbad\n")
        read_unlabeled(tmp_path / "rows.tsv")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "0 lines"), (b"\n \n", "2 blank"), (b"PK\x03\x04\0", "invalid")],
)
def test_files_without_texts(tmp_path, content, message):
    (tmp_path / "texts.txt").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_unlabeled(tmp_path / "texts.txt")


def test_a_gzip_file_is_unpacked(tmp_path):
    (tmp_path / "texts.txt.gz").write_bytes(gzip.compress(b"miro\nselk\n"))
    assert read_unlabeled(tmp_path / "texts.txt.gz")[0] == ["miro", "selk"]


@given(st.lists(st.text(), max_size=4), st.integers(0, 5))
def test_copies_of_any_text(texts, copies):
    drawn = list(augment(texts, copies))
    assert drawn == list(augment(texts, copies + 3))[: len(drawn)]
    assert len(set(drawn)) == len(drawn)
    for number, copy in drawn:
        words, kept = texts[number].split(), copy.split(" ")
        assert kept != words and (set(kept) != {MASKED} or MASKED in words)
        assert len(kept) == len(words) or len(kept) <= 5
        windows = [words[first : first + len(kept)] for first in range(len(words) - len(kept) + 1)]
        assert any(all(one in (MASKED, other) for one, other in zip(kept, part, strict=True)) for part in windows)


def test_a_hidden_word_is_one_token():
    """The mask token, else the unknown token; a tokenizer of bytes knows every word and loses it."""
    copies = [f"the {MASKED} sand"]
    assert write_masks(copies, bert_tokenizer()) == ["the [MASK] sand"]
    assert write_masks(copies, bytes_tokenizer()) == ["the  sand"]
    for normalizer in NORMALIZERS:
        own = train_tokenizer(["the sand unk mask"], min_frequency=1, normalizer=normalizer)
        (copy,) = write_masks(copies, own)
        assert own.convert_ids_to_tokens(own(copy)["input_ids"]) == ["the", "<unk>", "sand"], normalizer
