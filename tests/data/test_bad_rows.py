"""Bad rows stop a load with place and reason, or are skipped, listed and counted."""

import json

import pytest
from tsv_files import GOOD, NAMES, load_train, write

from hf_rnn.data.errors import DataError, Reason
from hf_rnn.data.report import DataReport, Ledger
from hf_rnn.utils.errors import UserError

BAD_LINES = {  # name: (line, reason, part of the message, options)
    "no tab": (b"only a text", Reason.TOO_FEW_FIELDS, "1 of 2", {}),
    "blank line": (b"", Reason.TOO_FEW_FIELDS, "empty", {}),
    "tab in text": (b"a\tb\tpositive", Reason.TOO_MANY_FIELDS, "3 of 2", {}),
    "lone CR": (b"a\tpositive\rb\tpositive", Reason.TOO_MANY_FIELDS, "lone CR", {}),
    "no text": (b"\tpositive", Reason.EMPTY_TEXT, "", {}),
    "blank text": ("\u3000 \x85\tpositive".encode(), Reason.BLANK_TEXT, r"'\u3000 \x85'", {}),
    "no label": (b"a\t", Reason.EMPTY_LABEL, "''", {}),
    "blank label": (b"a\t  ", Reason.EMPTY_LABEL, "''", {}),
    "label of other case": (
        b"a\tPOSITIVE",
        Reason.UNKNOWN_LABEL,
        "known are",
        {"class_names": NAMES},
    ),
    "unknown label": (
        b"a\txyz",
        Reason.UNKNOWN_LABEL,
        "'negative', 'positive'",
        {"class_names": NAMES},
    ),
    "Latin-1": (
        "café\tpositive".encode("latin-1"),
        Reason.NOT_UTF8,
        "0xe9 at byte 4 of the line",
        {},
    ),
    "surrogate": (b"a\xed\xa0\x80\tpositive", Reason.NOT_UTF8, "0xed at byte 2", {}),
    "NUL": (b"a\0b\tpositive", Reason.NUL, "character 2", {}),
}


@pytest.mark.parametrize(("line", "reason", "detail", "options"), BAD_LINES.values(), ids=BAD_LINES)
def test_a_bad_line(tmp_path, line, reason, detail, options):
    path = write(tmp_path / "train.tsv", GOOD + line + b"\n" + GOOD)
    with pytest.raises(DataError) as caught:
        load_train(path, **options)
    error, message = caught.value, str(caught.value)
    assert (error.path, error.line, error.reason) == (path, 3, reason)
    assert message.startswith(f"{path}:3: {reason}: ") and "\n" not in message
    assert (
        detail in message and "only rejected row among 5. To skip it: --max_bad_rows 1" in message
    )

    rejected, report = tmp_path / "out" / "rejected.jsonl", DataReport()
    rows = load_train(path, **options, max_bad_rows=1, rejected_path=rejected, report=report)
    assert rows == [("good day", "positive"), ("bad day", "negative")] * 2
    (record,) = map(json.loads, rejected.open(encoding="utf-8"))
    as_text = [
        Reason.BLANK_TEXT,
        Reason.EMPTY_LABEL,
        Reason.UNKNOWN_LABEL,
        Reason.EMPTY_TEXT,
        Reason.NUL,
    ]
    text = line.split(b"\t")[0] if reason in as_text else line
    expected = (path, 3, reason, text.decode(errors="backslashreplace")[:80])
    assert tuple(record[name] for name in ("file", "line", "reason", "text")) == expected
    train = report.splits["train"]
    assert (train.rows_read, train.rows_kept, dict(train.rejected)) == (5, 4, {reason.value: 1})


def test_the_first_bad_line_is_reported_first(tmp_path):
    """Before later lines, and before labels that make no map."""
    with pytest.raises(DataError) as caught:
        load_train(write(tmp_path / "train.tsv", GOOD + b"a\tpos\nbroken\n"), class_names=NAMES)
    assert (caught.value.line, caught.value.reason) == (3, Reason.UNKNOWN_LABEL)
    with pytest.raises(DataError) as caught:
        load_train(write(tmp_path / "train.tsv", b"a\tx\nbroken\nb\tx\n"))
    assert (caught.value.line, caught.value.reason) == (2, Reason.TOO_FEW_FIELDS)


@pytest.mark.parametrize(
    ("content", "reason", "options"),
    [
        (b"", Reason.EMPTY_FILE, {}),
        (b"text\tlabel\n", Reason.EMPTY_FILE, {"text_column": "text"}),
        (b"\x1f\x8b\x08\x00" + GOOD, Reason.UNREADABLE, {}),
        (GOOD, Reason.MISSING_COLUMN, {"text_column": 2}),
        (b"id\ttweet\tlabel\n" + GOOD, Reason.MISSING_COLUMN, {"text_column": "txt"}),
    ],
)
def test_a_file_that_no_limit_allows(tmp_path, content, reason, options):
    with pytest.raises(DataError) as caught:
        load_train(write(tmp_path / "train.tsv", content), max_bad_rows=9, **options)
    assert (caught.value.reason, caught.value.line) == (reason, None)


def many_rows(tmp_path, bad):
    lines = [
        f"text {number}\t{'ab'[number % 2]}" if number % 100 else "bad"
        for number in range(1, 100 * bad + 1)
    ]
    return write(tmp_path / "many.tsv", "\n".join(lines).encode())


@pytest.mark.parametrize(("limit", "bad"), [("3", 3), (0.01, 2), ("1.5%", 1)])
def test_rows_within_the_limit_are_skipped_and_listed(tmp_path, limit, bad):
    report, rejected = DataReport(), tmp_path / "rejected.jsonl"
    rows = load_train(
        many_rows(tmp_path, bad), max_bad_rows=limit, rejected_path=rejected, report=report
    )
    assert len(rows) == 99 * bad and (report.rows_read, report.rows_rejected) == (100 * bad, bad)
    assert [json.loads(line)["line"] for line in rejected.open()] == [
        100 * (number + 1) for number in range(bad)
    ]
    assert report.rejected_path == str(rejected)
    load_train(write(tmp_path / "clean.tsv", GOOD), rejected_path=rejected, report=report)
    assert not rejected.exists() and (report.rejected_path, report.rows_read) == (None, 2)


@pytest.mark.parametrize("limit", [2, "0.9%", 0])
def test_past_the_limit_it_stops_and_says_how_many_there_are(tmp_path, limit):
    path = many_rows(tmp_path, 3)
    with pytest.raises(
        DataError, match="first of 3 rejected rows among 300.* To skip them: --max_bad_rows 3"
    ) as caught:
        load_train(path, max_bad_rows=limit)
    assert caught.value.line == 100 and len(load_train(path, max_bad_rows=3)) == 297


def test_white_space_at_the_ends_of_labels_is_removed_and_counted(tmp_path, caplog):
    path, report = (
        write(tmp_path / "train.tsv", GOOD + b"a\t positive\nb\tnegative \n"),
        DataReport(),
    )
    assert [label for _, label in load_train(path, report=report)] == ["positive", "negative"] * 2
    assert (
        report.splits["train"].trimmed == 2
        and "white space at the ends of 2 labels was removed" in caplog.text
    )


@pytest.mark.parametrize("limit", ["many", -1, "100%"])
def test_a_limit_is_a_count_or_a_share(limit):
    with pytest.raises(UserError, match="max_bad_rows"):
        Ledger(limit, None, DataReport())
