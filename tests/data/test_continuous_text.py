"""Continuous text: nothing is lost between a file and the pieces that a model reads."""

import numpy as np
import pytest
import torch

from hf_rnn import train_tokenizer
from hf_rnn.data.continuous_text import TokenStreams, encode_text, load_text
from hf_rnn.data.row_errors import DataError, DataReport
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
    assert {split: "".join(rows["text"]) for split, rows in texts.items()} == {"train": TEXT, "validation": "dev\n"}
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


def test_a_line_of_any_length_is_read(tmp_path):
    text = "word " * 30_000 + "x" * 25_000
    (tmp_path / "train.txt").write_text(text)
    (tmp_path / "dev.txt").write_text("a b")
    rows = load_text(tmp_path)["train"]["text"][:]
    assert "".join(rows) == text and max(map(len, rows)) <= 10_000


def test_lines_that_are_not_utf8(folder):
    (folder / "train.txt").write_bytes(b"one\nt\xffwo\nthree\n")
    with pytest.raises(DataError, match=r"train\.txt:2: not UTF-8: byte 0xff at byte 2 .*max_bad_rows"):
        load_text(folder)
    report = DataReport()
    texts = load_text(folder, max_bad_rows=1, report=report)
    assert texts["train"]["text"][:] == ["one\n", "three\n"]
    assert (report.splits["train"].rows_read, report.splits["train"].rows_kept) == (3, 2)


def test_text_that_is_not_text(folder):
    for content, error in ((TEXT.encode("utf-16"), "train.txt: UTF-16"), (b"one\nt\0wo\n", r"train\.txt:2: NUL")):
        (folder / "train.txt").write_bytes(content)
        with pytest.raises(DataError, match=error):
            load_text(folder)


@pytest.mark.parametrize(("files", "error"), [({}, "give train.txt"), ({"train.txt": " \n"}, "empty file"),
                                              ({"a.txt": "a", "b.txt": "b"}, "a.txt, b.txt")])  # fmt: skip
def test_a_folder_without_text(tmp_path, files, error):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=error):
        load_text(tmp_path)


@pytest.mark.parametrize("kind", ["word", "char", "bpe"])
def test_tokens_of_lines_are_those_of_the_text_and_decode_exactly(kind):
    text = TEXT + "\n  Ünï <pad> <unk> x<eos> END\n"
    lines = text.splitlines(True)
    size = 300 if kind == "bpe" else None
    tokenizer = train_tokenizer(lines, 1, size, lowercase=False, tokenizer=kind, exact=True, model_max_length=10**30)
    ids = tokenizer(text)["input_ids"]
    assert ids == sum(tokenizer(lines)["input_ids"], [])
    assert not {tokenizer.pad_token_id, tokenizer.eos_token_id} & {None, *ids}
    found = tokenizer.decode(ids)
    if kind == "word":  # spaces are not words
        text = "\n".join(" ".join(line.split()) for line in text.split("\n")).replace("<pad>", "<unk>")
    assert found == text
    if kind == "bpe":
        assert tokenizer.decode(tokenizer("☃ new")["input_ids"]) == "☃ new"


@pytest.mark.parametrize(("streams", "length", "processes"), [(1, 5, 1), (4, 7, 1), (4, 3, 2), (64, 8, 1)])
def test_streams_hold_each_token_once_in_order(streams, length, processes, folder):
    texts = load_text(folder)
    tokenizer = train_tokenizer(texts["train"]["text"], 1, tokenizer="char", exact=True, lowercase=False)
    rows = encode_text(texts, tokenizer)["train"]
    ids = np.array(sum(rows["input_ids"][:], []))
    parts = [TokenStreams(rows, streams, length, 1, process, processes) for process in range(processes)]
    joined = {}
    for name in ("input_ids", "labels"):
        rows_of_streams = [torch.cat([piece[name] for piece in part], dim=1) for part in parts]
        joined[name] = torch.cat(rows_of_streams).flatten().numpy()
    assert joined["input_ids"][: len(ids) - 1].tolist() == ids[:-1].tolist()
    assert joined["labels"][: len(ids) - 1].tolist() == ids[1:].tolist()
    assert (joined["labels"][len(ids) - 1 :] == -100).all() and (joined["input_ids"][len(ids) - 1 :] == 1).all()
    assert [piece["begins"] for piece in parts[0]] == [True] + [False] * (len(parts[0]) - 1)
    assert parts[0].characters == pytest.approx(len(TEXT) - 1)
