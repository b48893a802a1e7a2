"""Tables of all formats give the same rows; a damaged row costs only itself."""

import csv
import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_rnn.data.row_errors import DataError, Reason
from hf_rnn.data.tables import find_column, read_table, take_column
from hf_rnn.utils.errors import UserError

ROWS = [("0", "plain"), ("1", 'she said "so, so"; well'), ("0", "two\nlines, and | a tab\there"), ("1", "é 好")]


def cells(table):
    """Return the good rows as tuples, and the places of good and of bad rows."""
    rows, places, bad = [], [], []
    for batch in table:
        rows += list(zip(*(column.to_pylist() for column in batch.rows.columns), strict=True))
        places += batch.places.tolist()
        bad += [row.line for row in batch.bad]
    return rows, places, bad


def written_by_csv(separator):
    stream = io.StringIO()
    csv.writer(stream, delimiter=separator, lineterminator="\r\n").writerows([("label", "text"), *ROWS])
    return stream.getvalue()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_separator_and_encoding_are_found(tmp_path, separator, encoding):
    path = tmp_path / "table.csv"
    path.write_bytes(written_by_csv(separator).encode(encoding))
    table = read_table(path)
    assert table.separator == separator and table.columns == ["label", "text"]
    assert cells(table) == (ROWS, [2, 3, 4, 6], [])


@pytest.mark.parametrize("rest", ["", "a lone\rCR\n"])  # a library cuts the first block, this package the second
def test_a_single_column_may_be_quoted(tmp_path, rest):
    path = tmp_path / "table.csv"
    path.write_text(f'\ntext\n"one, two"\n"say ""so"""\n"two\nlines"\n{rest}', newline="")
    expected = [("one, two",), ('say "so"',), ("two\nlines",), *([("a lone\rCR",)] if rest else [])]
    assert cells(read_table(path))[0] == expected


def test_windows_encoding_is_found_and_can_be_named(tmp_path):
    path = tmp_path / "table.csv"
    path.write_bytes("text;label\ncafé – naïve;1\n".encode("cp1252"))
    assert cells(read_table(path))[0] == [("café – naïve", "1")]
    assert cells(read_table(path, encoding="cp1251"))[0] == [("cafй – naпve", "1")]
    with pytest.raises(UserError, match="unknown encoding 'klingon'"):
        read_table(path, encoding="klingon")


def to_xlsx(path):
    from openpyxl import Workbook

    book = Workbook()
    for row in [("label", "text"), *ROWS]:
        book.active.append(row)
    book.save(path)


def as_table():
    return pa.table({"label": [label for label, _ in ROWS], "text": [text for _, text in ROWS]})


def write_arrow(path):
    with pa.ipc.new_stream(path, as_table().schema) as writer:
        writer.write_table(as_table())


WRITERS = {
    "csv": lambda path: path.write_text(written_by_csv(","), newline=""),
    "jsonl": lambda path: path.write_text("".join(json.dumps({"label": a, "text": b}) + "\n" for a, b in ROWS)),
    "json": lambda path: path.write_text(json.dumps([{"label": a, "text": b} for a, b in ROWS], indent=1)),
    "parquet": lambda path: pq.write_table(as_table(), path),
    "arrow": write_arrow,
    "xlsx": to_xlsx,
}


@pytest.mark.parametrize("packed", ["", ".gz", ".zst"])
@pytest.mark.parametrize("suffix", WRITERS)
def test_all_formats_give_the_same_rows(tmp_path, suffix, packed):
    if suffix == "xlsx":
        pytest.importorskip("openpyxl")
    plain = tmp_path / f"table.{suffix}"
    WRITERS[suffix](plain)
    path = tmp_path / f"table.{suffix}{packed}"
    content = plain.read_bytes()
    path.write_bytes({"": bytes, ".gz": gzip.compress, ".zst": pa.Codec("zstd").compress}[packed](content))
    table = read_table(path)
    assert table.columns == ["label", "text"] and cells(table)[0] == ROWS


@pytest.mark.parametrize(
    ("content", "good", "bad"),
    [
        ('label,text\n0,a 5" pipe is 3 inch\n1,b\n', [("0", 'a 5" pipe is 3 inch'), ("1", "b")], []),
        # never closed; the next quotes are those of other rows
        ('label,text\n0,"5 inch\n1,b\n0,"c, d"\n', [("1", "b"), ("0", "c, d")], [2]),
        # closed by a lone quote of another row, as no csv reader sees
        ('label,text\n0,"5 inch\n1,b\n0,another 6"\n1,c\n', [("1", "b"), ("0", 'another 6"'), ("1", "c")], [2]),
        ('text,label\n"5 inch,0\nb,1\nb,0\nsix",0\n', [("b", "1"), ("b", "0"), ('six"', "0")], [2]),
        # one of several lines, whose end looks much like a row
        ('text,label\n"Hi\nbye",1\nb,0\nc,1\nd,0\n', [("Hi\nbye", "1"), ("b", "0"), ("c", "1"), ("d", "0")], []),
        ('label,text\n0,"a"b\n1,c\n', [("1", "c")], [2]),
        ("label,text\n0,a,b\n\n1\n1,c\n", [("1", "c")], [2, 4]),
        ('label\ttext\n0\t"all"\n1\t"open\n0\t"a ""b"""\n', [("0", '"all"'), ("1", '"open'), ("0", 'a "b"')], []),
        ('x\ty\n1a\tb\n"a\nb"\t"c\nd"\nc2\td\ne\tf3\n', [("1a", "b"), ("a\nb", "c\nd"), ("c2", "d"), ("e", "f3")], []),
        ('text\tlabel\nsaid "x"\n"good"\t1\n', [('"good"', "1")], [2]),
        ("label,text\n0,a\0b\n1,c\n0," + "x" * (1 << 20) + "\n1,d\n", [("1", "c"), ("1", "d")], [2, 4]),
    ],
)  # fmt: skip
def test_a_damaged_row_costs_only_itself(tmp_path, content, good, bad):
    path = tmp_path / ("table.tsv" if "\t" in content else "table.csv")
    path.write_text(content)
    rows, places, refused = cells(read_table(path))
    assert (rows, refused) == (good, bad) and len(set(places + refused)) == len(good) + len(bad)


def test_damaged_bytes_and_records_cost_only_their_line(tmp_path):
    (tmp_path / "a.csv").write_bytes("text,label\né,1\nö,0\n".encode() + b"\xff,1\nb,0\n")
    assert cells(read_table(tmp_path / "a.csv"))[1:] == ([2, 3, 5], [4])
    (tmp_path / "a.jsonl").write_text(
        '{"text": "a"}\n{"text": \n{"text": "half \\ud83d"}\n[1]\n\n{"text": "b \\ud83d\\ude00", "more": 1}\n'
    )
    assert cells(read_table(tmp_path / "a.jsonl")) == ([("a", None), ("b \U0001f600", 1)], [1, 6], [2, 3, 4])
    (tmp_path / "a.json").write_text('[{"text": "half \\ud83d"}, {"text": "b \\ud83d\\ude00"}]')
    assert cells(read_table(tmp_path / "a.json")) == ([("b \U0001f600",)], [1], [0])


def test_batches_are_bounded_and_complete(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("label,text\n" + "".join(f'{n % 2},"{n} {"x" * 100}\n{"y" * 100}"\n' for n in range(15_000)))
    batches = list(read_table(path))
    assert sum(batch.size for batch in batches) == 15_000 and max(batch.rows.nbytes for batch in batches) < 3 << 20
    assert [row.split()[0] for batch in batches for row in batch.rows["text"].to_pylist()] == [
        str(n) for n in range(15_000)
    ]


def test_whole_files_that_cannot_be_read_name_the_reason(tmp_path):
    for name, content in (("a.csv", b"\n"), ("a.parquet", b"no"), ("a.csv.gz", gzip.compress(b"a,b\n" * 9)[:-9])):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError) as error:
            list(read_table(tmp_path / name))
        assert error.value.reason is (Reason.EMPTY_FILE if content == b"\n" else Reason.UNREADABLE)


def test_a_missing_column_is_answered_with_the_columns():
    assert find_column(["id", " Tweet", "y"], None, ("text", "tweet"), "t.csv", "text_column") == " Tweet"
    with pytest.raises(DataError, match=r"no column 'body': found 'id', 'y'; name one of them with --text_column"):
        find_column(["id", "y"], "body", (), "t.csv", "text_column")
    rows = pa.RecordBatch.from_pylist([{"fields": {"text": "a"}}, {"fields": None}])
    assert take_column(rows, "fields.text").to_pylist() == ["a", None]
