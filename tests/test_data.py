"""Every row is accounted for: what is written is what is read, and what is refused is refused by name and place.

The independent reference is plain Python throughout: bytes split at b"\\n", fields split at b"\\t".
"""

import gzip
import json
import logging
import pickle
import re
import sys
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hf_rnn.data import DataError, DataReport, Reason, encode, library_split, load_named, load_tsv, reading
from hf_rnn.data.faults import WHITE_SPACE
from hf_rnn.data.holdout import Holdout
from hf_rnn.data.labels import LabelMap
from hf_rnn.data.layout import TsvFormat
from hf_rnn.data.tsv_file import TsvFile
from hf_rnn.errors import UserError

SHARED = Path(__file__).parents[2] / "shared" / "data"
GOOD = b"good day\tpositive\nbad day\tnegative\n"
SAME_FILE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def write(path, content):
    path.write_bytes(content)
    return str(path)


def load_train(path, **options):
    """The rows of one file of training rows, as (text, label name)."""
    train = load_tsv({"train": path}, splits=["train"], **options)["train"]
    names = train.features["label"].names
    return [(row["text"], names[row["label"]]) for row in train]


# --- what is written is what is read ---------------------------------------------------------------------------------

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


# --- the fast way and the careful way --------------------------------------------------------------------------------

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


@pytest.mark.slow
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


# --- typed reasons ---------------------------------------------------------------------------------------------------

NAMES = ["negative", "positive"]
BAD_LINES = {  # name: (line, reason, what the message says, options)
    "no tab": (b"only a text", Reason.TOO_FEW_FIELDS, "has 1 of 2", {}),
    "blank line": (b"", Reason.TOO_FEW_FIELDS, "the line is empty", {}),
    "tab in text": (b"a\tb\tpositive", Reason.TOO_MANY_FIELDS, "has 3 of 2", {}),
    "old Mac line end": (b"a\tpositive\rb\tpositive", Reason.TOO_MANY_FIELDS, "a lone CR, which ends no line", {}),
    "no text": (b"\tpositive", Reason.EMPTY_TEXT, "nothing stands", {}),
    "blank text": ("\u3000 \x85\tpositive".encode(), Reason.BLANK_TEXT, r"'\u3000 \x85'", {}),
    "no label": (b"a\t", Reason.EMPTY_LABEL, "the label is ''", {}),
    "blank label": (b"a\t  ", Reason.EMPTY_LABEL, "the label is '  '", {}),
    "framed label": (b"a\tpositive ", Reason.UNKNOWN_LABEL, "the nearest is 'positive'", {}),
    "misspelt label": (b"a\tpostive", Reason.UNKNOWN_LABEL, "the nearest is 'positive'", {"class_names": NAMES}),
    "label of other case": (b"a\tPOSITIVE", Reason.UNKNOWN_LABEL, "the nearest is 'positive'", {"class_names": NAMES}),
    "far label": (b"a\txyz", Reason.UNKNOWN_LABEL, "known are 'negative', 'positive' (", {"class_names": NAMES}),
    "Latin-1": ("le café noir\tpositive".encode("latin-1"), Reason.NOT_UTF8, "offset 41); likely ISO-8859-1", {}),
    "Windows": ("it’s café\tpositive".encode("cp1252"), Reason.NOT_UTF8, "likely Windows-1252", {}),
    "Cyrillic": ("привет\tpositive".encode("cp1251"), Reason.NOT_UTF8, "such as Windows-1251", {}),
    "cut character": ("日本".encode()[:-1] + b"\tpositive", Reason.NOT_UTF8, "cut off in the middle", {}),
    "surrogate": (b"a\xed\xa0\x80\tpositive", Reason.NOT_UTF8, "likely CESU-8", {}),
    "NUL": (b"a\0b\tpositive", Reason.NUL, "NUL at byte 2", {}),
    "over the cap": (
        b"a" * 100 + b"\tpositive",
        Reason.LINE_TOO_LONG,
        "has 109 bytes, the cap is 108",
        {"max_line_bytes": 108},
    ),
}


@pytest.mark.parametrize(("line", "reason", "finding", "options"), BAD_LINES.values(), ids=BAD_LINES)
def test_a_bad_line_stops_with_its_place_and_reason(tmp_path, line, reason, finding, options):
    path = write(tmp_path / "train.tsv", GOOD + line + b"\n" + GOOD)
    with pytest.raises(DataError) as caught:
        load_train(path, **options)
    error = caught.value
    assert (error.path, error.line, error.byte_offset, error.reason) == (path, 3, len(GOOD), reason)
    message = str(error)
    assert message.startswith(f"{path}:3: {reason}: ") and "\n" not in message
    assert finding in message and "--max_bad_rows" in message


@pytest.mark.parametrize(("line", "reason", "finding", "options"), BAD_LINES.values(), ids=BAD_LINES)
def test_a_bad_line_can_be_left_out(tmp_path, line, reason, finding, options):
    path, rejected, report = (
        write(tmp_path / "train.tsv", GOOD + line + b"\n" + GOOD),
        tmp_path / "out" / "r.jsonl",
        DataReport(),
    )
    rows = load_train(path, **options, max_bad_rows=1, rejected_path=rejected, report=report)
    assert rows == [("good day", "positive"), ("bad day", "negative")] * 2
    (record,) = map(json.loads, rejected.read_text(encoding="utf-8").splitlines())
    assert (record["file"], record["line"], record["byte_offset"], record["reason"]) == (path, 3, len(GOOD), reason)
    assert finding in record["detail"] or "known are" in finding
    text = line.split(b"\t")[0] if line.count(b"\t") == 1 and line[:1] != b"\t" else line
    assert record["text"] == text.decode(errors="backslashreplace")[:80]
    train = report.splits["train"]
    assert (train.rows_read, train.rows_kept, dict(train.rejected)) == (5, 4, {reason.value: 1})
    assert f"5 rows read, 4 kept, 1 rejected (1 {reason})" in str(report)


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf"], ids=["nothing", "a mark only"])
def test_an_empty_file(tmp_path, content):
    with pytest.raises(DataError, match="empty file") as caught:
        load_train(write(tmp_path / "train.tsv", content), max_bad_rows=9)
    assert caught.value.reason == Reason.EMPTY_FILE and caught.value.line is None


@pytest.mark.parametrize("options", [{"header": True}, {"max_bad_rows": 9}])
def test_a_file_without_a_usable_row(tmp_path, options):
    with pytest.raises(DataError) as caught:
        load_train(write(tmp_path / "train.tsv", b"just words\n"), label_column=0, text_column=1, **options)
    assert caught.value.reason in {Reason.EMPTY_FILE, Reason.MISSING_COLUMN}
    with pytest.raises(DataError) as caught:
        load_train(write(tmp_path / "train.tsv", b"text\tlabel\n"), header=True)
    assert caught.value.reason == Reason.EMPTY_FILE
    with pytest.raises(DataError) as caught:
        load_train(write(tmp_path / "train.tsv", b"a\nb\nc\n"), max_bad_rows=9)
    assert caught.value.reason == Reason.EMPTY_FILE


ENCODED = {
    "UTF-16": (GOOD.decode().encode("utf-16"), Reason.UTF16, "iconv -f UTF-16 "),
    "UTF-16 without a mark": (GOOD.decode().encode("utf-16-be"), Reason.UTF16, "iconv -f UTF-16BE "),
    "UTF-32": (GOOD.decode().encode("utf-32"), Reason.UTF16, "iconv -f UTF-32 "),
    "gzip": (gzip.compress(GOOD), Reason.COMPRESSED, "gunzip"),
    "zip": (b"PK\x03\x04" + GOOD, Reason.COMPRESSED, "spreadsheet"),
}


@pytest.mark.parametrize(("content", "reason", "advice"), ENCODED.values(), ids=ENCODED)
def test_a_file_that_is_no_utf8_text_is_known_by_its_first_bytes(tmp_path, content, reason, advice):
    with pytest.raises(DataError, match=re.escape(advice)) as caught:
        load_train(write(tmp_path / "train.tsv", content), max_bad_rows="50%")
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("header", "rows", "options"),
    [
        (b"text\tlabel", GOOD, {}),
        (b"Tweet\tSentiment", GOOD, {"class_names": NAMES}),
        (b"col0\tcol1", b"a\t0\nb\t1\nc\t0\n", {}),
        (b"text\tlabel", b"a\t0\nb\t1\nc\t0\n", {"class_names": NAMES}),
        (b"text\tlabel", b"no tab here\n" + GOOD, {}),
    ],
)
def test_an_undeclared_header(tmp_path, header, rows, options):
    path = write(tmp_path / "train.tsv", header + b"\n" + rows)
    with pytest.raises(DataError, match="--header") as caught:
        load_train(path, **options)
    assert (caught.value.line, caught.value.reason) == (1, Reason.UNDECLARED_HEADER)
    kept = load_train(path, max_bad_rows=2, **options)
    assert len(kept) == rows.count(b"\t") and kept[0][0] in {"a", "good day"}
    if b"no tab" not in rows:
        assert kept == load_train(path, header=True, **options)


def test_an_undeclared_header_of_each_file_is_found(tmp_path):
    files = [write(tmp_path / f"{name}.tsv", b"text\tlabel\n" + GOOD) for name in "ab"]
    report = DataReport()
    load_tsv({"train": files}, splits="train", max_bad_rows=2, report=report)
    assert report.splits["train"].rejected == {Reason.UNDECLARED_HEADER.value: 2}
    with pytest.raises(DataError) as caught:  # a validation file, where the label map is known
        train = write(tmp_path / "train.tsv", GOOD)
        load_tsv({"train": train, "dev": files[0]})
    assert (caught.value.path, caught.value.reason) == (files[0], Reason.UNDECLARED_HEADER)


def test_a_first_row_that_only_looks_like_a_header_is_a_row(tmp_path):
    path = write(tmp_path / "train.tsv", b"text\tpositive\n" + GOOD)
    assert load_train(path)[0] == ("text", "positive")
    path = write(tmp_path / "train.tsv", b"a\ttopic\nb\tweather\nc\ttopic\nd\tweather\n")
    assert load_train(path)[0] == ("a", "topic"), "a header word that is a label of other rows too"


def test_a_missing_column_names_those_that_are_there(tmp_path):
    path = write(tmp_path / "train.tsv", b"id\tText\tlabel\n1\ta\tx\n2\tb\ty\n")
    with pytest.raises(DataError, match=re.escape("'id', 'Text', 'label'; the nearest is 'Text'")) as caught:
        load_train(path, header=True, text_column="text", label_column="label")
    assert caught.value.reason == Reason.MISSING_COLUMN
    with pytest.raises(DataError, match="3 fields"):
        load_train(path, text_column=3)
    with pytest.raises(UserError, match="--header"):
        load_train(path, text_column="Text")
    with pytest.raises(UserError, match="two columns"):
        load_train(path, text_column=1)


@pytest.mark.parametrize("block", [1, 7, 20, 64, 1000])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""])
def test_the_cap_is_exact_wherever_blocks_are_cut(tmp_path, monkeypatch, block, end):
    """The cap counts a line without its end, be it LF, CRLF or that of the file."""
    monkeypatch.setattr(reading, "BLOCK_BYTES", block)
    for length in (19, 20, 21, 22, 40):
        path, bad = write(tmp_path / "cap.tsv", b"x\t0\n" + b"y" * (length - 2) + b"\t0" + end), []
        read = [len(rows.texts) for rows in TsvFile.open(path, TsvFormat(max_line_bytes=20)).rows(None, bad.append)]
        assert sum(read) + len(bad) == 2 and [row.fault.reason for row in bad] == [Reason.LINE_TOO_LONG] * (
            length > 20
        )
        assert all(f"it has {length} bytes" in row.fault.detail for row in bad)


def test_a_carriage_return_at_the_very_end_ends_no_line(tmp_path):
    path = write(tmp_path / "train.tsv", b"positive\ta\nnegative\tb\r")
    assert load_train(path, text_column=1, label_column=0) == [("a", "positive"), ("b\r", "negative")]
    with pytest.raises(DataError, match=re.escape(r"'b\r' has white space at its ends")):
        load_train(path)


def test_a_line_far_over_the_cap_is_skipped_in_bounded_memory(tmp_path):
    path = write(tmp_path / "train.tsv", GOOD + b"y" * 30_000_000 + b"\n" + GOOD + b"z" * 3_000_000)
    bad, most = [], 0
    for rows in TsvFile.open(path, TsvFormat()).rows(None, bad.append):
        most = max(most, pa.total_allocated_bytes())
        assert len(rows.texts) in {0, 2}
    assert [(row.line, row.byte_offset) for row in bad] == [(3, len(GOOD)), (6, 2 * len(GOOD) + 30_000_001)]
    assert "30000000 bytes" in bad[0].fault.detail and len(bad[0].excerpt) == 80
    assert most < 4_000_000


# --- how many bad rows are too many ----------------------------------------------------------------------------------


def many_rows(tmp_path, bad):
    lines = [f"text {number}\t{'ab'[number % 2]}" if number % 100 else "bad" for number in range(1, 100 * bad + 1)]
    return write(tmp_path / "many.tsv", "\n".join(lines).encode())


@pytest.mark.parametrize(("limit", "bad"), [(3, 3), ("3", 3), ("1%", 3), (0.01, 2), ("1.5%", 1)])
def test_the_limit_lets_pass_what_it_allows(tmp_path, limit, bad):
    report, listed = DataReport(), tmp_path / "rejected.jsonl"
    rows = load_train(many_rows(tmp_path, bad), max_bad_rows=limit, rejected_path=listed, report=report)
    assert len(rows) == 99 * bad and (report.rows_read, report.rows_rejected) == (100 * bad, bad)
    assert [json.loads(line)["line"] for line in listed.open()] == [100 * (number + 1) for number in range(bad)]
    assert report.rejected_path == str(listed)
    load_train(write(tmp_path / "clean.tsv", GOOD), rejected_path=listed, report=report)
    assert not listed.exists() and report.rejected_path is None and report.rows_read == 2, "of this load, not of that"


@pytest.mark.parametrize(("limit", "line"), [(2, 300), ("0.9%", 100), (0, 100)])
def test_past_the_limit_it_stops(tmp_path, limit, line):
    with pytest.raises(DataError, match="--max_bad_rows") as caught:
        load_train(many_rows(tmp_path, 3), max_bad_rows=limit)
    assert caught.value.line == line


@pytest.mark.parametrize("limit", ["many", "-1", -1, "100%", 1.5, "", "5 %%"])
def test_a_limit_that_is_none(tmp_path, limit):
    with pytest.raises(UserError, match="max_bad_rows"):
        load_train(many_rows(tmp_path, 1), max_bad_rows=limit)


# --- one label map ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "names"),
    [
        (["b", "a", "c"], ["a", "b", "c"]),
        (["10", "9", "-1"], ["-1", "9", "10"]),
        (["2", "1", "x"], ["1", "2", "x"]),
        (["10", "02", "01"], ["01", "02", "10"]),
        (["mixed feelings", "Ärger", "Zorn"], ["Zorn", "mixed feelings", "Ärger"]),
    ],
)
def test_labels_are_sorted_by_value_or_by_alphabet(tmp_path, found, names):
    content = "".join(f"some words\t{label}\n" for label in found).encode()
    train = load_tsv({"train": write(tmp_path / "t.tsv", content)}, splits="train")["train"]
    assert train.features["label"].names == names
    assert [names[label] for label in train["label"]] == found


def test_given_names_order_the_labels_and_integers_index_them(tmp_path):
    names = ["positive", "neutral", "negative"]
    by_name, by_number = write(tmp_path / "n.tsv", GOOD), write(tmp_path / "i.tsv", b"good day\t0\nbad day\t2\n")
    for path in (by_name, by_number):
        train = load_tsv({"train": path}, splits="train", class_names=names)["train"]
        assert (train.features["label"].names, train["label"][:]) == (names, [0, 2])
    numbers = write(tmp_path / "o.tsv", b"a\t2\nb\t1\n")  # here integers are the names themselves
    assert load_tsv({"train": numbers}, splits="train", class_names=["2", "1"])["train"]["label"][:] == [0, 1]


@pytest.mark.parametrize(
    ("label", "reason"), [("3", "out of range"), ("-1", "out of range"), ("01", "unknown"), ("x", "unknown")]
)
@pytest.mark.parametrize("names", [None, ["a", "b", "c"]])
def test_integer_labels_have_a_range(tmp_path, label, reason, names):
    train = write(tmp_path / "train.tsv", b"a\t0\nb\t1\nc\t2\nd\t1\n")
    dev = write(tmp_path / "dev.tsv", f"a\t0\nb\t{label}\n".encode())
    with pytest.raises(DataError, match=reason) as caught:
        load_tsv({"train": train, "dev": dev}, class_names=names)
    assert (caught.value.path, caught.value.line) == (dev, 2)
    assert f"All labels in validation: {', '.join(map(repr, sorted(['0', label])))}" in str(caught.value)


def test_a_label_that_train_lacks_is_refused_elsewhere(tmp_path):
    train, dev = write(tmp_path / "train.tsv", GOOD), write(tmp_path / "dev.tsv", b"a\tpositve\n")
    with pytest.raises(DataError, match="known are 'negative', 'positive'; the nearest is 'positive'") as caught:
        load_tsv({"train": train, "dev": dev})
    assert caught.value.reason == Reason.UNKNOWN_LABEL


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (b"a\tx\nb\tx\n", {}, "one label only"),
        (b"a\t1\nb\t01\n", {}, "the same number"),
        (b"".join(b"x\ttext %d\n" % number for number in range(60)), {}, "columns swapped"),
        (GOOD, {"class_names": ["joy", "anger"]}, r"Data: 'negative', 'positive'\. Class names: 'joy', 'anger'"),
        (GOOD, {"class_names": ["a", "a"]}, "all different"),
        (GOOD, {"class_names": ["a"]}, "two or more"),
        (GOOD, {"class_names": []}, "two or more"),
    ],
)
def test_labels_that_make_no_map(tmp_path, content, options, message):
    with pytest.raises(UserError, match=message):
        load_train(write(tmp_path / "train.tsv", content), **options)


def test_the_first_bad_row_is_told_before_labels_that_make_no_map(tmp_path):
    with pytest.raises(DataError) as caught:
        load_train(write(tmp_path / "train.tsv", b"a\tx\nbroken\nb\tx\n"))
    assert (caught.value.line, caught.value.reason) == (2, Reason.TOO_FEW_FIELDS)


def test_the_first_bad_row_is_the_first_whatever_is_wrong(tmp_path):
    """Labels are judged after a first pass, fields during it: the order of lines must hold all the same."""
    with pytest.raises(DataError) as caught:
        load_train(write(tmp_path / "train.tsv", GOOD + b"a\tpos\nbroken\n"), class_names=NAMES)
    assert (caught.value.line, caught.value.reason) == (3, Reason.UNKNOWN_LABEL)


# --- splits and their files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dev", ["dev.tsv", "validation.tsv"])
def test_a_folder_has_its_splits_by_name(tmp_path, dev, caplog):
    for name, rows in (("train.tsv", 3), (dev, 2), ("test.tsv", 1), ("notes.tsv", 1)):
        write(tmp_path / name, GOOD * rows)
    read = load_tsv(tmp_path)
    assert {split: len(rows) for split, rows in read.items()} == {"train": 6, "validation": 4, "test": 2}
    assert list(read) == ["train", "validation", "test"] and "notes.tsv" in caplog.text
    assert load_tsv(tmp_path, splits=["dev"], class_names=NAMES).keys() == {"validation"}
    with pytest.raises(UserError, match="class names"):
        load_tsv(tmp_path, splits="test")
    write(tmp_path / ("dev.tsv" if dev == "validation.tsv" else "validation.tsv"), GOOD)
    with pytest.raises(UserError, match="both 'dev' and 'validation'"):
        load_tsv(tmp_path)


def test_several_files_make_one_split_in_order(tmp_path):
    one, two = write(tmp_path / "1.tsv", GOOD), write(tmp_path / "2.tsv", b"x\tneutral\n")
    assert [text for text, _ in load_train([one, two])] == ["good day", "bad day", "x"]
    assert [text for text, _ in load_train([two, one])] == ["x", "good day", "bad day"]


def test_one_split_is_read_without_train(tmp_path):
    path = write(tmp_path / "held_back.tsv", GOOD)
    (split,) = load_tsv(path, splits=["test"], class_names=NAMES).items()
    assert split[0] == "test" and split[1]["label"][:] == [1, 0]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "does not exist"),
        ({"trian": "a.tsv"}, "nearest is 'train'"),
        ({"train": []}, "no file"),
        ({"train": "train.tsv", "test": "./train.tsv"}, "train and test"),
        ({"train": ["train.tsv", "train.tsv"]}, "train twice"),
        ({"train": "."}, "not a regular file"),
    ],
)
def test_sources_that_cannot_be_meant(tmp_path, monkeypatch, source, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "train.tsv", GOOD)
    with pytest.raises(UserError, match=message):
        load_tsv(source)


def test_no_train_split(tmp_path):
    write(tmp_path / "dev.tsv", GOOD)
    write(tmp_path / "train.csv", GOOD)
    with pytest.raises(DataError, match="validation, the files: dev.tsv, train.csv") as caught:
        load_tsv(tmp_path)
    assert caught.value.reason == Reason.NO_TRAIN_SPLIT
    with pytest.raises(UserError, match="no split test"):
        write(tmp_path / "train.tsv", GOOD)
        load_tsv(tmp_path, splits=["train", "test"])


# --- a validation split where there is none --------------------------------------------------------------------------


@given(
    st.lists(st.integers(0, 60), min_size=2, max_size=5),
    st.sampled_from([0.1, 0.25, 0.5]),
    st.integers(-5, 5),
    st.data(),
)
def test_the_held_out_rows_are_a_stratified_share_in_any_cut(counts, share, seed, data):
    order = data.draw(st.permutations(np.repeat(np.arange(len(counts)), counts).tolist()))
    if max(counts) < 2:
        with pytest.raises(UserError, match="too few"):
            Holdout(tuple(counts), share, seed)
        return
    holdout = Holdout(tuple(counts), share, seed)
    rows = np.array(order)
    whole = holdout.select(rows, np.zeros(len(counts), dtype=np.int64))
    for label, count in enumerate(counts):
        held = int((rows[whole] == label).sum())
        assert abs(held - share * count) <= 1 and (count < 2 or 1 <= held < count)
    assert whole.sum() == holdout.rows
    cut, seen = data.draw(st.integers(0, len(rows))), np.zeros(len(counts), dtype=np.int64)
    assert (np.concatenate([holdout.select(part, seen) for part in (rows[:cut], rows[cut:])]) == whole).all()


def test_held_out_rows_are_spread_evenly_over_the_file_and_over_seeds():
    """Drawn uniformly: over many seeds each row is held out a tenth of the time, first and last ones included."""
    often = np.zeros(200)
    for seed in range(2000):
        often += Holdout((200,), 0.1, seed).select(np.zeros(200, dtype=int), np.zeros(1, dtype=int))
    assert np.abs(often / 2000 - 0.1).max() < 0.03  # 4.5 standard deviations


def test_validation_is_held_out_of_train_and_said(tmp_path, caplog):
    content = "".join(f"text {number}\t{'aab'[number % 3]}\n" for number in range(300)).encode()
    path, report = write(tmp_path / "train.tsv", content), DataReport()
    read = load_tsv(path, report=report)
    assert {split: np.bincount(rows["label"]).tolist() for split, rows in read.items()} == {
        "train": [180, 90],
        "validation": [20, 10],
    }
    both = [row["text"] for split in read.values() for row in split]
    assert sorted(both) == sorted(f"text {number}" for number in range(300)), "each row once"
    assert "30 of 300 rows of train are held out" in caplog.text and "30 rows held out" in str(report)
    assert load_tsv(path)["validation"][:] == read["validation"][:] != load_tsv(path, seed=1)["validation"][:]
    assert load_tsv(tmp_path, validation_share=0).keys() == {"train"}
    with pytest.raises(UserError, match="at most 0.5"):
        load_tsv(path, validation_share=0.9)


# --- streams ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def two_files(tmp_path):
    lines = [f"text {number}\t{'abc'[number * number % 3]}" if number % 50 else "bad" for number in range(1, 2001)]
    return [write(tmp_path / f"{part}.tsv", "\n".join(lines[part::2]).encode()) for part in (0, 1)]


def test_streams_deliver_what_tables_do(two_files, monkeypatch):
    monkeypatch.setattr(reading, "BLOCK_BYTES", 1000)
    reports = [DataReport(), DataReport()]
    table, stream = (
        load_tsv({"train": two_files}, max_bad_rows="2%", streaming=streaming, report=report)
        for streaming, report in zip((False, True), reports, strict=True)
    )
    assert isinstance(stream, datasets.IterableDatasetDict) and isinstance(table, datasets.DatasetDict)
    for split in ("train", "validation"):
        assert stream[split].features == table[split].features
        assert list(stream[split]) == list(table[split]) == list(stream[split]), "in a second epoch too"
        (batch,) = stream[split].with_format("arrow").iter(batch_size=10_000)
        assert batch.to_pylist() == table[split].to_list()
    reports[1].rejected_path = reports[0].rejected_path
    assert reports[0] == reports[1] and reports[0].rows_rejected == 40


def test_a_stream_divides_its_files_among_workers_and_resumes(two_files):
    train = load_tsv({"train": two_files}, max_bad_rows=40, streaming=True)["train"]
    whole = list(train)
    assert train.num_shards == 2
    assert [row for index in (0, 1) for row in train.shard(num_shards=2, index=index)] == whole
    assert list(pickle.loads(pickle.dumps(train))) == whole
    rows = iter(train)
    first = [next(rows) for _ in range(700)]
    state = train.state_dict()
    again = load_tsv({"train": two_files}, max_bad_rows=40, streaming=True)["train"]
    again.load_state_dict(state)
    assert first + list(again) == whole


def test_a_stream_stops_at_a_bad_row_before_its_first_batch(two_files):
    with pytest.raises(DataError):
        load_tsv({"train": two_files}, streaming=True)


def test_a_stream_notices_a_file_that_changed(tmp_path):
    path = write(tmp_path / "train.tsv", GOOD * 10)
    train = load_tsv(path, streaming=True)["train"]
    assert len(list(train)) == 18
    write(tmp_path / "train.tsv", GOOD * 11)
    with pytest.raises(DataError) as caught:
        list(train)
    assert caught.value.reason == Reason.FILE_CHANGED
    reader = TsvFile.open(path, TsvFormat()).rows(None, pytest.fail)
    assert next(reader).lines == 22
    with open(path, "ab") as stream:
        stream.write(GOOD)
    with pytest.raises(DataError) as caught:
        list(reader)
    assert caught.value.reason == Reason.FILE_CHANGED
    (tmp_path / "train.tsv").unlink()
    with pytest.raises(DataError) as caught:
        list(train)
    assert caught.value.reason == Reason.FILE_CHANGED


def test_a_stream_holds_a_block_and_not_the_file(tmp_path):
    path = write(tmp_path / "train.tsv", GOOD * 1_000_000)
    before, most = pa.total_allocated_bytes(), 0
    for batch in load_tsv(path, streaming=True)["train"].with_format("arrow").iter(batch_size=1000):
        most = max(most, pa.total_allocated_bytes() - before)
        assert len(batch) <= 1000
    assert most < 8_000_000 < Path(path).stat().st_size


# --- fingerprints ----------------------------------------------------------------------------------------------------


def fingerprints(source, **options):
    report = DataReport()
    read = load_tsv(source, report=report, **options)
    return report.fingerprint, *(split._fingerprint for split in read.values())


def test_fingerprints_change_with_the_rows_and_with_nothing_else(tmp_path):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    one, other = write(tmp_path / "a" / "train.tsv", GOOD * 5), write(tmp_path / "b" / "train.tsv", GOOD * 5)
    first = fingerprints(one)
    assert len(set(first)) == 3 and fingerprints(other) == first
    assert fingerprints(tmp_path / "a") == first
    different = [
        fingerprints(one, seed=1),
        fingerprints(one, class_names=NAMES[::-1]),
        fingerprints(write(tmp_path / "c.tsv", GOOD * 4 + b"good day\tpositive\nbad dey\tnegative\n")),
    ]
    assert len({first, *different}) == 4


# --- data sets of the library ----------------------------------------------------------------------------------------


def library(label_feature, train, test):
    features = datasets.Features(text=datasets.Value("string"), id=datasets.Value("int32"), label=label_feature)
    return datasets.DatasetDict(
        {
            split: datasets.Dataset.from_dict(
                {"text": [text for text, _ in rows], "id": range(len(rows)), "label": [label for _, label in rows]},
                features=features,
            )
            for split, rows in (("train", train), ("dev", test), ("unsupervised", train))
        }
    )


ROWS = [(" spaces stay ", 2), ("tabs\tand\nlines too", 0), ("NA", 1)]


@pytest.mark.parametrize(
    ("feature", "convert", "names"),
    [
        (datasets.ClassLabel(names=["z", "y", "x"]), int, ["z", "y", "x"]),
        (datasets.Value("int8"), int, ["0", "1", "2"]),
        (datasets.Value("string"), "cab".__getitem__, ["a", "b", "c"]),
        (datasets.Value("large_string"), str, ["0", "1", "2"]),
    ],
    ids=["ClassLabel", "integers", "strings", "large strings"],
)
def test_library_data_sets_come_under_the_same_contract(tmp_path, feature, convert, names, caplog):
    rows = [(text, convert(label)) for text, label in ROWS]
    data = library(feature, rows, rows[:2])
    data.save_to_disk(tmp_path / "saved")
    for source in (data, tmp_path / "saved"):
        read = load_named(source)
        assert {split: part.column_names for split, part in read.items()} == dict.fromkeys(
            ("train", "validation"), ["text", "label"]
        )
        assert read["train"].features["label"].names == names and "unsupervised" in caplog.text
        expected = [names[label] if isinstance(feature, datasets.ClassLabel) else str(label) for _, label in rows]
        assert [(row["text"], names[row["label"]]) for row in read["train"]] == list(
            zip([t for t, _ in rows], expected, strict=True)
        )


def test_bad_rows_of_a_library_data_set(tmp_path, monkeypatch):
    monkeypatch.setattr(library_split, "BATCH_ROWS", 3)
    bad = [("a", 0), (None, 1), ("", 1), (" \t ", 1), ("a\0", 1), ("b", None), ("c", -1), ("d", 1)]
    data, report, listed = (
        library(datasets.ClassLabel(names=["n", "p"]), bad, bad[:1]),
        DataReport(),
        tmp_path / "r.jsonl",
    )
    read = load_named(data, max_bad_rows=6, rejected_path=listed, report=report)
    assert read["train"].to_list() == [{"text": "a", "label": 0}, {"text": "d", "label": 1}]
    records = [json.loads(line) for line in listed.open()]
    empty = Reason.EMPTY_TEXT.value
    assert [(record["line"], record["reason"]) for record in records] == [
        (1, empty), (2, empty), (3, Reason.BLANK_TEXT.value), (4, Reason.NUL.value), (5, Reason.EMPTY_LABEL.value),
        (6, Reason.LABEL_OUT_OF_RANGE.value),
    ]  # fmt: skip
    assert {record["file"] for record in records} == {"dataset[train]"} and records[0]["byte_offset"] is None
    with pytest.raises(DataError, match=re.escape("dataset[train] row 1: empty text")):
        load_named(data)


def test_columns_of_a_library_data_set(tmp_path):
    data = library(datasets.Value("float32"), ROWS, ROWS)
    with pytest.raises(DataError, match="no column 'txt'; there are 'text', 'id', 'label'; the nearest is 'text'"):
        load_named(data, text_column="txt")
    with pytest.raises(DataError, match="holds no strings"):
        load_named(data, text_column="id")
    with pytest.raises(DataError, match="labels are ClassLabel, strings or integers"):
        load_named(data)
    with pytest.raises(UserError, match="cannot be loaded"):
        load_named(str(tmp_path / "nowhere"))
    del data["train"]
    with pytest.raises(DataError) as caught:
        load_named(data, label_column="id")
    assert caught.value.reason == Reason.NO_TRAIN_SPLIT


def test_a_library_data_set_by_path_with_one_split_and_a_validation_held_out(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "named").mkdir()
    lines = [json.dumps({"words": f"text {number}", "kind": "ab"[number % 2]}) for number in range(100)]
    (tmp_path / "named" / "train.jsonl").write_text("\n".join(lines), encoding="utf-8")
    read = load_named(tmp_path / "named", text_column="words", label_column="kind")
    assert (len(read["train"]), len(read["validation"])) == (90, 10)
    only = load_named(
        tmp_path / "named", text_column="words", label_column="kind", splits="train", class_names=["b", "a"]
    )
    assert only["train"]["label"][:4] == [1, 0, 1, 0]


# --- token ids -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer():
    words = Tokenizer(models.WordLevel({"<unk>": 0, "<pad>": 1, "good": 2, "bad": 3, "day": 4}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", pad_token="<pad>", model_input_names=["input_ids", "attention_mask"]
    )


@pytest.mark.parametrize("streaming", [False, True])
def test_encode_gives_ids_and_labels(tmp_path, tokenizer, streaming, caplog):
    path = write(tmp_path / "train.tsv", GOOD * 10 + b"good good bad day night\tpositive\n")
    texts = load_tsv(path, streaming=streaming)
    encoded = encode(texts, tokenizer)
    assert type(encoded) is type(texts) and list(encoded) == ["train", "validation"]
    ids = {"good day": [2, 4], "bad day": [3, 4], "good good bad day night": [2, 2, 3, 4, 0]}
    for split in texts:
        assert list(encoded[split]) == [
            {"input_ids": ids[row["text"]], "labels": row["label"]} for row in texts[split]
        ]
        assert encoded[split].features["labels"] == texts[split].features["label"]
    caplog.clear()
    short = list(encode(texts["train"], tokenizer, max_length=3))
    assert short[-1]["input_ids"] == [2, 2, 3] and max(len(row["input_ids"]) for row in short) == 3
    assert re.search(r"\b1 (of 19 )?texts in train .*longer than 3 tokens", caplog.text)
    with pytest.raises(UserError, match="max_length"):
        encode(texts, tokenizer, max_length=0)
    with pytest.raises(UserError, match="no column 'text'"):
        encode(encoded, tokenizer)


def test_truncation_is_the_tokenizers_own(tmp_path, tokenizer):
    """With special tokens around, cutting must keep them: as when the tokenizer is asked itself."""
    from tokenizers.processors import TemplateProcessing

    own = pickle.loads(pickle.dumps(tokenizer))
    own.backend_tokenizer.post_processor = TemplateProcessing(single="<pad> $A <pad>", special_tokens=[("<pad>", 1)])
    own.model_max_length = 4
    texts = datasets.Dataset.from_dict({"text": ["good bad good bad", "day"], "label": [0, 1]})
    encoded = encode(texts, own)["input_ids"][:]
    assert encoded == own(texts["text"][:], truncation=True)["input_ids"] == [[1, 2, 3, 1], [1, 4, 1]]


def test_encode_leaves_no_files_and_has_a_fingerprint_of_its_own(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    texts = load_tsv(write(tmp_path / "train.tsv", GOOD * 10))["train"]
    first, second, other = (encode(texts, tokenizer, length) for length in (None, None, 1))
    assert first._fingerprint == second._fingerprint != other._fingerprint
    assert not texts.cache_files and not first.cache_files and not (tmp_path / "cache").exists()


def test_a_long_stream_says_now_and_then_how_many_texts_it_cut(tmp_path, tokenizer, caplog):
    texts = load_tsv(write(tmp_path / "train.tsv", GOOD * 6000), streaming=True, splits="train")["train"]
    with caplog.at_level(logging.WARNING):
        assert sum(1 for _ in encode(texts, tokenizer, max_length=1)) == 12_000
    said = [record for record in caplog.records if "were cut" in record.message]
    assert 1 <= len(said) <= 3
