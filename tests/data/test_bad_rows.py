"""Lines that are no rows: each is told with its place and its reason, or left out and counted."""

import bz2
import gzip
import json
import lzma
import os
import re
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from tsv_files import GOOD, NAMES, load_train, write

from hf_rnn.data import DataError, DataReport, Reason, load_tsv
from hf_rnn.data import tsv_reader as reading
from hf_rnn.data.row_errors import parse_limit
from hf_rnn.data.tsv_file import TsvFile
from hf_rnn.data.tsv_file import TsvFormat
from hf_rnn.utils.errors import UserError

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
    "names of columns below the first line": (
        b"text\tlabel",
        Reason.UNKNOWN_LABEL,
        "label 'label', known are 'negative', 'positive'",
        {"class_names": NAMES},
    ),
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


def test_the_end_of_a_bad_line_is_not_listed(tmp_path):
    path = write(tmp_path / "train.tsv", (GOOD + b"only text\n").replace(b"\n", b"\r\n"))
    load_train(path, max_bad_rows=1, rejected_path=tmp_path / "rejected.jsonl")
    assert json.loads((tmp_path / "rejected.jsonl").read_text())["text"] == "only text"


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


def test_a_validation_file_without_a_usable_row(tmp_path):
    files = {"train": write(tmp_path / "train.tsv", GOOD), "dev": write(tmp_path / "dev.tsv", b"bad\n")}
    with pytest.raises(DataError, match="dev.tsv: empty file: not one of its lines is a row"):
        load_tsv(files, max_bad_rows=9)


ENCODED = {
    "UTF-16": (GOOD.decode().encode("utf-16"), Reason.UTF16, "iconv -f UTF-16 "),
    "UTF-16 without a mark": (GOOD.decode().encode("utf-16-be"), Reason.UTF16, "iconv -f UTF-16BE "),
    "UTF-32": (GOOD.decode().encode("utf-32"), Reason.UTF16, "iconv -f UTF-32 "),
    "gzip": (gzip.compress(GOOD), Reason.COMPRESSED, "gunzip"),
    "zip": (b"PK\x03\x04" + GOOD, Reason.COMPRESSED, "spreadsheet"),
    "bzip2": (bz2.compress(GOOD), Reason.COMPRESSED, "bunzip2"),
    "xz": (lzma.compress(GOOD), Reason.COMPRESSED, "unxz"),
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


def test_the_first_two_of_several_columns_can_be_named(tmp_path):
    """As the message about too many fields says; a tab at the end of each line makes a third column, too."""
    for more in (b"", b"a note", b"1\t2"):
        lines = (b"a\tpositive\t" + more, b"b\tnegative\t" + more)
        path = write(tmp_path / "train.tsv", b"\n".join(lines) + b"\n")
        with pytest.raises(DataError, match="set --text_column and --label_column, from 0"):
            load_train(path)
        assert load_train(path, text_column=0, label_column=1) == [("a", "positive"), ("b", "negative")]
    path = write(tmp_path / "train.tsv", b"a\tgood\ttext\tlabel\nb\tpositive\tx\t0\nc\tnegative\ty\t1\n")
    numbered = load_train(path, text_column=0, label_column=1, header=True)
    assert numbered == [("b", "positive"), ("c", "negative")], "not those called so"


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


def test_a_declared_header_that_is_a_row_is_not_dropped(tmp_path):
    files = {
        "train": write(tmp_path / "train.tsv", b"text\tlabel\n" + GOOD),
        "validation": write(tmp_path / "dev.tsv", GOOD * 2),
    }
    with pytest.raises(DataError, match=r"dev\.tsv: row where a header was declared.*the label 'positive'.*leave out"):
        load_tsv(files, header=True)
    with pytest.raises(DataError) as caught:
        load_tsv({"train": files["validation"]}, splits=["train"], header=True, streaming=True)
    assert caught.value.reason == Reason.NO_HEADER


def test_columns_are_those_that_the_header_names(tmp_path):
    rows = [("good day", "positive"), ("bad day", "negative")]
    path = write(tmp_path / "swapped.tsv", b"label\tid\ttext\npositive\t7\tgood day\nnegative\t8\tbad day\n")
    assert load_train(path, header=True) == rows
    named = write(tmp_path / "named.tsv", b"tweet\tmood\n" + GOOD)
    assert load_train(named, header=True) == rows, "by their places, where the names are others"
    capitals = write(tmp_path / "capitals.tsv", b"Label\tText\npositive\tgood day\nnegative\tbad day\n")
    assert load_train(capitals, header=True) == rows
    others = write(tmp_path / "others.tsv", b"id\tsentiment\ttweet\n7\tpositive\tgood day\n8\tnegative\tbad day\n")
    with pytest.raises(DataError, match=r"its header 'id', 'sentiment', 'tweet' has no column 'text' and 'label'"):
        load_train(others, header=True)
    assert load_train(others, header=True, text_column="tweet", label_column="sentiment") == rows
    twice = write(tmp_path / "twice.tsv", b"text\ttext\tlabel\na\tb\tc\n")
    with pytest.raises(DataError, match="column 'text' is twice in its first line"):
        load_train(twice, header=True)


def test_a_header_of_any_length_makes_a_short_message(tmp_path):
    """Such as the whole of a file whose lines end with CR."""
    whole = write(tmp_path / "cr.tsv", b"\t".join([b"good day\rpositive"] * 5_000) + b"\na\tb\n")
    row = write(tmp_path / "row.tsv", b"text\t" + b"x" * 70_000 + b"\na\t" + b"x" * 70_000 + b"\nb\tc\n")
    for path, more in ((whole, {}), (whole, {"text_column": "y" * 9_000}), (row, {})):
        with pytest.raises(DataError) as caught:
            load_train(path, header=True, **more)
        assert len(str(caught.value)) < 3_000


def test_bad_rows_are_not_listed_where_rows_are_read(tmp_path):
    path = write(tmp_path / "train.tsv", GOOD + b"bad\n")
    with pytest.raises(UserError, match=r"rejected_path .*train\.tsv is a file of the data: give another"):
        load_train(path, max_bad_rows=1, rejected_path=tmp_path / "." / "train.tsv")
    assert Path(path).read_bytes() == GOOD + b"bad\n"
    with pytest.raises(UserError, match="rejected_path .* is a folder: give a file"):
        load_train(write(tmp_path / "clean.tsv", GOOD), rejected_path=tmp_path)
    with pytest.raises(UserError, match="bad rows cannot be listed in .*: (Not a directory|File exists)"):
        load_train(path, max_bad_rows=1, rejected_path=tmp_path / "train.tsv" / "rejected.jsonl")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.parametrize("lines", [b"", b"bad\n"], ids=["no bad row", "a bad row"])
def test_bad_rows_wait_for_no_reader_of_a_pipe(tmp_path, lines):
    """To open one, be it to see whether it is an older list, is to wait for ever."""
    os.mkfifo(tmp_path / "rejected.jsonl")
    path = write(tmp_path / "train.tsv", GOOD + lines)
    with pytest.raises(UserError, match=r"rejected_path .*rejected\.jsonl is a named pipe: remove it, or give a file"):
        load_train(path, max_bad_rows=1, rejected_path=tmp_path / "rejected.jsonl")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the name of a file is UTF-8")
def test_bad_rows_of_a_file_whose_name_is_not_utf8_are_listed(tmp_path):
    path = write(tmp_path / os.fsdecode(b"caf\xe9.tsv"), GOOD + b"bad\n")
    load_train(path, max_bad_rows=1, rejected_path=tmp_path / "rejected.jsonl")
    assert json.loads((tmp_path / "rejected.jsonl").read_text())["file"] == path


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


def test_a_file_that_is_no_list_of_ours_stays(tmp_path):
    listed = tmp_path / "rejected.jsonl"
    for content in ("applicants whom we rejected\n", '{"name": "somebody"}\n', "[]", ""):
        listed.write_text(content)
        load_train(write(tmp_path / "clean.tsv", GOOD), rejected_path=listed)
        assert listed.read_text() == content


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
def test_a_list_that_does_not_fit_on_the_disk_is_named(tmp_path):
    (tmp_path / "rejected.jsonl").symlink_to("/dev/full")
    with pytest.raises(UserError, match="bad rows cannot be listed in .*rejected.jsonl: No space left on device"):
        load_train(
            write(tmp_path / "train.tsv", GOOD + b"bad\n"), max_bad_rows=1, rejected_path=tmp_path / "rejected.jsonl"
        )


def test_the_first_twenty_are_logged_where_no_file_lists_them(tmp_path, caplog):
    path = write(tmp_path / "train.tsv", GOOD + b"bad\n" * 30)
    load_train(path, max_bad_rows=30)
    assert sum(message.startswith("rejected ") for message in caplog.messages) == 20


@pytest.mark.parametrize(("limit", "line"), [(2, 300), ("0.9%", 100), (0.009, 100), ("0.009", 100), (0, 100)])
def test_past_the_limit_it_stops(tmp_path, limit, line):
    with pytest.raises(DataError, match="--max_bad_rows") as caught:
        load_train(many_rows(tmp_path, 3), max_bad_rows=limit)
    assert caught.value.line == line


@pytest.mark.parametrize("limit", ["many", "-1", -1, "100%", 1.5, "5.0", "nan", "\u00b2", "", "5 %%"])
def test_a_limit_that_is_none(tmp_path, limit):
    with pytest.raises(UserError, match="max_bad_rows"):
        load_train(many_rows(tmp_path, 1), max_bad_rows=limit)


@pytest.mark.parametrize(
    ("given", "count", "share"),
    [
        *((5, 5, None), (" 5 ", 5, None), ("0", 0, None)),
        *((0.001, None, 0.001), ("0.001", None, 0.001), ("1e-3", None, 0.001), (0.0, None, 0.0)),
        *(("0.1%", None, 0.001), ("0%", None, 0.0), ("99.9%", None, 0.999)),
    ],
)
def test_a_limit_is_a_count_or_a_share(given, count, share):
    assert parse_limit(given) == (count, pytest.approx(share))
