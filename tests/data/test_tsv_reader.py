"""Rows come back as they were written, and every line is accounted for, on the fast way and on the careful one.

The independent reference is plain Python: bytes split at b"\\n", fields split at b"\\t".
"""

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tsv_files import SAME_FILE, SHARED, load_train, write

from hf_rnn.data import DataError, Reason, load_tsv
from hf_rnn.data import tsv_reader as reading
from hf_rnn.data.labels import LabelMap
from hf_rnn.data.row_errors import WHITE_SPACE
from hf_rnn.data.tsv_file import TsvFile
from hf_rnn.data.tsv_file import TsvFormat

texts = st.text(st.characters(exclude_characters="\t\n\0", exclude_categories=["Cs"])).filter(
    lambda text: text.strip()
)


labels = st.sampled_from(["positive", "negative", "neutral", "mixed feelings"])


@SAME_FILE
@given(
    rows=st.lists(st.tuples(texts, labels), min_size=2),
    end=st.sampled_from(["\n", "\r\n"]),
    mark=st.sampled_from([b"", b"\xef\xbb\xbf"]),
    last_end=st.booleans(),
)
@example([("\ufeffa mark of its own", "positive"), ('"quoted', "negative"), ('quoted"', "positive")], "\n", b"", True)
@example(
    [("NA", "positive"), ("null", "negative"), ("007", "positive"), ("a\rb\x85c\u2028d", "negative")],
    "\r\n",
    b"",
    False,
)
@example([(" framed ", "positive"), ("\xa0x\u3000", "negative")], "\n", b"\xef\xbb\xbf", True)
def test_rows_come_back_exactly_as_they_were_written(tmp_path, rows, end, mark, last_end):
    content = (
        mark + end.join(f"{text}\t{label}" for text, label in rows).encode() + (end.encode() if last_end else b"")
    )
    if len({label for _, label in rows}) < 2:
        rows, content = (
            [*rows, ("x", "positive"), ("y", "other")],
            content.removesuffix(end.encode()) + (f"{end}x\tpositive{end}y\tother".encode()),
        )
    if rows[0][0].startswith("\ufeff") and not mark:  # at the very start of a file it is a byte order mark
        rows = [(rows[0][0][1:], rows[0][1]), *rows[1:]]
        if not rows[0][0].strip():
            return
    assert load_train(write(tmp_path / "rows.tsv", content)) == rows


@SAME_FILE
@given(rows=st.lists(st.tuples(texts, labels), min_size=1), order=st.permutations(["id", "text", "label", "note"]))
def test_columns_are_found_by_name_and_by_number(tmp_path, rows, order):
    rows = [*rows, ("x", "positive"), ("y", "negative")]
    fields = [
        {"id": str(number), "text": text, "label": label, "note": ""} for number, (text, label) in enumerate(rows)
    ]
    lines = ["\t".join(order), *("\t".join(row[name] for name in order) for row in fields)]
    if order[-1] == "text":
        rows = [(text.removesuffix("\r"), label) for text, label in rows]  # a CR before LF is part of the line's end
        if not all(text.strip() for text, _ in rows):
            return
    content = "\n".join(lines).encode() + b"\n"
    path = write(tmp_path / "columns.tsv", content)
    assert load_train(path, header=True, text_column="text", label_column="label") == rows
    numbers = {"text_column": order.index("text"), "label_column": order.index("label")}
    assert load_train(path, header=True, **numbers) == rows
    headless = write(tmp_path / "headless.tsv", content.split(b"\n", 1)[1])
    if sorted(numbers.values()) != [0, 1] or numbers["text_column"]:  # the default columns mean two fields a line
        assert load_train(headless, **numbers) == rows


@pytest.mark.parametrize("name", ["semeval2016", "semeval2016_raw", "semeval_pool", "emotion"])
def test_real_tweets_are_read_whole(name):
    if not (SHARED / name).is_dir():
        pytest.skip(f"needs the real tweets in {SHARED / name}")
    read = load_tsv(SHARED / name)
    rows = {"semeval_pool": (27702, 2000), "emotion": (3257, 374)}.get(name, (6000, 1999))
    assert (len(read["train"]), len(read["validation"])) == rows
    for split, file in (("train", "train.tsv"), ("validation", "dev.tsv")):
        lines = (SHARED / name / file).read_bytes().decode().split("\n")[:-1]
        names = read[split].features["label"].names
        assert [f"{row['text']}\t{names[row['label']]}" for row in read[split]] == lines
    if name == "semeval2016":
        assert np.bincount(read["train"]["label"]).tolist() == [2043, 3094, 863]


PIECES = [
    b"\t",
    b"\t",
    b"\t",
    b"\n",
    b"\n",
    b"\n",
    b"\r\n",
    b"\r",
    b"\0",
    b" ",
    b"a",
    b"word",
    b"0",
    b"1",
    b"7",
    b"x" * 70,
]


PIECES += ["é", "\u2028", "\x85", "\u3000", "\xa0", "\ufeff", "日本", "\x1c"]


PIECES += [b"\xe9", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80", b"\xc3"]


jumble = st.lists(st.sampled_from([piece.encode() if isinstance(piece, str) else piece for piece in PIECES]))


good_lines = st.lists(st.sampled_from([b"word\t0\n", "é\u3000x\t1\r\n".encode(), b"  a\t0\n"]), max_size=40)


def read_everything(path, label_map, max_line_bytes, monkeypatch, careful, block=64):
    with monkeypatch.context() as patch:
        patch.setattr(reading, "BLOCK_BYTES", block)
        patch.setattr(reading, "CAREFUL_LINES", 1)
        patch.setattr(reading, "ODD_SHARE", 0.7)
        if careful:
            patch.setattr(reading.RowReader, "_fast", lambda self, block: np.ones(block.count(b"\n"), dtype=bool))
        bad, rows, lines = [], [], 0
        for part in TsvFile.open(path, TsvFormat(max_line_bytes=max_line_bytes)).rows(label_map, bad.append):
            rows += zip(part.texts.to_pylist(), part.labels.to_pylist(), strict=True)
            lines += part.lines
    return rows, bad, lines


def is_good(line, known, cap):
    """Whether a line is a row, told independently of the reader."""
    line = line.removesuffix(b"\r")
    try:
        text, label = line.decode().split("\t")
    except ValueError:  # undecodable, or not two fields
        return False
    label_is_good = label in known if known else bool(label) and label == label.strip()
    return len(line) <= cap and b"\0" not in line and bool(text.strip()) and label_is_good


jumbled_files = given(st.lists(st.tuples(jumble.map(b"".join), good_lines.map(b"".join))), st.booleans())


@settings(SAME_FILE, max_examples=300)
@jumbled_files
def test_fast_and_careful_reading_agree_and_account_for_every_line(tmp_path, monkeypatch, parts, given_map):
    check_accounts(tmp_path, monkeypatch, b"".join(part for pair in parts for part in pair), given_map)


@pytest.mark.slow(minutes=3)
@settings(SAME_FILE, max_examples=10_000)
@jumbled_files
def test_ten_thousand_jumbled_files(tmp_path, monkeypatch, parts, given_map):
    check_accounts(tmp_path, monkeypatch, b"".join(part for pair in parts for part in pair), given_map)


def check_accounts(tmp_path, monkeypatch, content, given_map):
    if content.removeprefix(b"\xef\xbb\xbf") == b"" or content[:4].count(0) > 1:
        return
    path = write(tmp_path / "jumble.tsv", content)
    label_map, cap = (LabelMap(("0", "1")) if given_map else None), 80
    try:
        fast = read_everything(path, label_map, cap, monkeypatch, careful=False)
    except DataError as error:
        assert error.reason == Reason.UTF16  # enough NULs in the right places
        return
    assert fast == read_everything(path, label_map, cap, monkeypatch, careful=True)
    assert fast == read_everything(path, label_map, cap, monkeypatch, careful=False, block=100_000)

    rows, bad, count = fast
    start = 3 if content.startswith(b"\xef\xbb\xbf") else 0
    lines = content[start:].split(b"\n")
    ended = lines[-1] == b""
    lines = lines[:-1] if ended else [*lines[:-1], lines[-1] + b"\r"]  # a CR at the very end ends no line
    assert count == len(lines) == len(rows) + len(bad), "rows read = rows kept + rows rejected"
    good = [is_good(line, {"0", "1"} if given_map else None, cap) for line in lines]
    assert [row.line for row in bad] == [number for number, fine in enumerate(good, 1) if not fine]
    expected = [
        tuple(line.removesuffix(b"\r").decode().split("\t")) for line, fine in zip(lines, good, strict=True) if fine
    ]
    assert [(text, str(label)) for text, label in rows] == expected
    offsets = np.cumsum([start, *(len(line) + 1 for line in lines)])
    assert [row.byte_offset for row in bad] == [offsets[row.line - 1] for row in bad]


def test_a_clean_file_is_never_read_line_by_line(tmp_path, monkeypatch):
    """What makes reading fast; the clock itself is read by the benchmark."""
    monkeypatch.setattr(reading.RowReader, "_careful", lambda self, block: pytest.fail("a line was looked at alone"))
    lines = [f" “{number}”\t{'ab'[number % 2]}" for number in range(100_000)]
    path = write(tmp_path / "clean.tsv", "\r\n".join(lines).encode())
    assert len(Path(path).read_bytes()) > 4 * reading.BLOCK_BYTES
    assert len(load_train(path)) == 100_000


def test_white_space_is_what_python_takes_for_it():
    assert set(WHITE_SPACE) == {chr(code) for code in range(sys.maxunicode + 1) if chr(code).isspace()}
