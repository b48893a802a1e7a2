"""A file of texts without labels: every line is accounted for."""

import gzip
import re

import pytest

from hf_rnn.data.tsv_reader import BLOCK_BYTES
from hf_rnn.training.distillation.unlabeled import read_unlabeled
from hf_rnn.utils.errors import UserError


def test_every_line_is_accounted_for(tmp_path, caplog):
    path = tmp_path / "texts.txt"
    path.write_bytes(b"the dry box\n\nsand \xff\nThe  DOOR\n \t\nmiro\xe2\x80\xa8selk\r\nsa\0nd\nthe dry box\nA  box")
    found = read_unlabeled(path, held_out={"the door"}, labeled={"a box"})
    assert found.texts.to_pylist() == ["the dry box", "miro\u2028selk", "the dry box"]
    assert found.describe() == {
        "file": "texts.txt", "lines": 9, "refused": 2, "blank": 2, "held_out": 1, "labeled": 1, "kept": 3,
    }  # fmt: skip
    (line,) = caplog.messages
    assert "of the 9 lines of texts.txt" in line and "2 are no text (the first is texts.txt:3: not UTF-8" in line
    assert "2 are blank, 1 are in the validation or test split too, 1 are in the training split, with a label" in line


def test_labelled_rows_are_no_texts(tmp_path):
    """A tab in a text is white space, as long as no label stands beside it."""
    path = tmp_path / "rows.tsv"
    path.write_text("the box\tof sand\nno news\tplain\n")
    assert len(read_unlabeled(path, class_names=["good", "bad"]).texts) == 2
    for row in ("miro day\tgood", "good\tmiro day", "7\tmiro day\t good", "7\tgood\tmiro day"):
        path.write_text(f"the box\tof sand\n{row}\n")
        with pytest.raises(UserError, match=r"rows\.tsv, line 2: a column with the label 'good'\. Give one"):
            read_unlabeled(path, class_names=["good", "bad"])


def test_a_labelled_row_far_down_is_named_by_its_own_line(tmp_path):
    path = tmp_path / "rows.tsv"
    path.write_text("the box of sand\n" * 20_000 + "miro day\tgood\n")
    assert path.stat().st_size > BLOCK_BYTES, "premise: it is not read at once"
    with pytest.raises(UserError, match=r"rows\.tsv, line 20001: a column with the label 'good'"):
        read_unlabeled(path, class_names=["good", "bad"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no text to learn from: of its 0 lines there is none"),
        (b"\n \n", "of its 2 lines 2 are blank"),
        (gzip.compress(b"miro\n", mtime=0), "compressed file"),
    ],
    ids=["empty", "blank", "gzip"],  # the same in each process: pytest-xdist compares them
)
def test_a_file_without_texts(tmp_path, content, message):
    (tmp_path / "texts.txt").write_bytes(content)
    with pytest.raises(UserError, match=re.escape(message)):
        read_unlabeled(tmp_path / "texts.txt")


def test_a_text_of_the_splits_is_known_beside_other_columns(tmp_path):
    """As `id<TAB>label<TAB>text` has it, where the labels are not spelt as those of the data."""
    path = tmp_path / "texts.tsv"
    path.write_text("1\tPOS\tA  box\n2\tNEG\tthe door\n3\tPOS\tnew sand\n")
    read = read_unlabeled(path, held_out={"a box"}, labeled={"the door"}, class_names=["good", "bad"])
    assert (read.held_out, read.labeled, read.texts.to_pylist()) == (1, 1, ["3\tPOS\tnew sand"])
