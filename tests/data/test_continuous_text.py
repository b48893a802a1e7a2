"""Continuous text: nothing is lost between a file and the pieces that a model reads."""

import pytest

from hf_rnn import train_tokenizer
from hf_rnn.data.continuous_text import load_text
from hf_rnn.data.encode import encode_blocks
from hf_rnn.data.errors import DataError
from hf_rnn.data.report import DataReport
from hf_rnn.utils.errors import UserError

TEXT = "First, a line.\n\nThen  two spaces,\ta tab – and more:\n" * 7 + "no line feed at the end"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "train.txt").write_bytes(b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode())
    (tmp_path / "dev.txt").write_text("dev\n")
    return tmp_path


def test_a_folder(folder):
    report = DataReport()
    texts = load_text(folder, report=report)
    assert {split: "".join(rows["text"]) for split, rows in texts.items()} == {
        "train": TEXT,
        "validation": "dev\n",
    }
    assert report.rows_read == 3 * 7 + 1 + 1 and report.rows_rejected == 0
    assert list(load_text(folder, splits=["dev"])) == ["validation"]
    with pytest.raises(UserError, match="has no split test"):
        load_text(folder, splits=["test"])


def test_the_last_tenth_of_one_file_is_held_out(tmp_path):
    (tmp_path / "input.txt").write_text(TEXT)
    for source in (tmp_path, tmp_path / "input.txt"):
        texts = load_text(source)
        train, validation = ("".join(texts[split]["text"]) for split in ("train", "validation"))
        assert train + validation == TEXT and 0.05 < len(validation) / len(TEXT) <= 0.2
        assert "".join(load_text(source, splits=["validation"])["validation"]["text"]) == validation
    assert "".join(load_text(tmp_path / "input.txt", splits=["test"])["test"]["text"]) == TEXT


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"one\nt\xffwo\n", r"train\.txt:2: not UTF-8: byte 0xff at byte 2"),
        (b"one\nt\0wo\n", r"train\.txt:2: NUL character"),
    ],
)
def test_text_that_is_not_text(folder, content, error):
    (folder / "train.txt").write_bytes(content)
    with pytest.raises(DataError, match=error):
        load_text(folder)


@pytest.mark.parametrize(
    ("files", "error"),
    [
        ({}, "rows train.txt"),
        ({"train.txt": " \n"}, "empty file"),
        # fmt: skip
        ({"a.txt": "a", "b.txt": "b"}, "a.txt, b.txt"),
    ],
)
def test_a_folder_without_text(tmp_path, files, error):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=error):
        load_text(tmp_path)


@pytest.mark.parametrize("kind", ["word", "char", "bpe"])
def test_tokens_of_lines_are_those_of_the_text_and_decode_exactly(kind):
    text = TEXT + "\n  Ünï <pad> <unk> x END\n"
    lines = text.splitlines(True)
    size = 300 if kind == "bpe" else None
    tokenizer = train_tokenizer(
        lines, 1, size, lowercase=False, tokenizer=kind, exact=True, model_max_length=10**30
    )
    ids = tokenizer(text)["input_ids"]
    assert ids == sum(tokenizer(lines)["input_ids"], [])
    assert not {tokenizer.pad_token_id, tokenizer.eos_token_id} & {None, *ids}
    found = tokenizer.decode(ids)
    if kind == "word":  # spaces are not words
        text = "\n".join(" ".join(line.split()) for line in text.split("\n")).replace(
            "<pad>", "<unk>"
        )
    assert found == text
    if kind == "bpe":
        assert tokenizer.decode(tokenizer("☃ new")["input_ids"]) == "☃ new"


@pytest.mark.parametrize("size", [5, 64, 100_000])
def test_blocks_hold_each_token_once_in_order(size, folder):
    texts = load_text(folder)
    tokenizer = train_tokenizer(
        texts["train"]["text"], 1, tokenizer="char", exact=True, lowercase=False
    )
    blocks = encode_blocks(texts, tokenizer, size)["train"]
    assert (
        sum(blocks["input_ids"], []) == tokenizer(TEXT)["input_ids"]
        and blocks["labels"][:] == blocks["input_ids"][:]
    )
    assert {len(block) for block in blocks["input_ids"][:-1]} <= {size}
    assert sum(blocks["characters"]) == pytest.approx(len(TEXT))
