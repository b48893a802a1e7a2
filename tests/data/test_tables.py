"""Tables of all formats give the rows of pandas or Python; what cannot be read names its place."""

import bz2
import csv
import gzip
import io
import json
import re
import zipfile
from functools import partial

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tsv_files import SAME_FILE, load_train, write

from hf_rnn.data import read, table
from hf_rnn.data.columns import read_column
from hf_rnn.data.errors import Reason
from hf_rnn.data.load import load_tsv
from hf_rnn.data.read import read_table
from hf_rnn.data.report import DataReport
from hf_rnn.utils.errors import DataError, UserError

ROWS = [
    ("0", "plain"),
    ("1", 'she said "so, so"; well'),
    ("0", "two\nlines, and | a ; here"),
    ("1", "é 好"),
]


def cells(table, columns=None):
    """Return the good rows as tuples, and the places of good and of bad rows."""
    rows = zip(*(table.cells(name) for name in columns or table.columns), strict=True)
    good = [(row, place) for number, (row, place) in enumerate(zip(rows, table.places, strict=True))
            if number not in table.rejected]  # fmt: skip
    return (
        [row for row, _ in good],
        [place for _, place in good],
        [row.line for row in table.rejected.values()],
    )


# ---- formats ----


def written_by_csv(separator):
    stream = io.StringIO()
    csv.writer(stream, delimiter=separator, lineterminator="\r\n").writerows(
        [("label", "text"), *ROWS]
    )
    return stream.getvalue()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_separator_and_encoding_are_found(tmp_path, separator, encoding):
    path = tmp_path / "table.csv"
    path.write_bytes(written_by_csv(separator).encode(encoding))
    table = read_table(path)
    assert (table.separator, list(table.columns), table.encoding) == (
        separator,
        ["label", "text"],
        encoding,
    )
    assert cells(table) == (ROWS, [2, 3, 4, 6], [])


def test_windows_encoding_is_found_and_can_be_named(tmp_path):
    path = tmp_path / "table.csv"
    path.write_bytes("text;label\ncafé – naïve;1\n".encode("cp1252"))
    table = read_table(path)
    assert cells(table)[0] == [("café – naïve", "1")] and table.encoding == "cp1252"
    assert cells(read_table(path, encoding="cp1251"))[0] == [("cafй – naпve", "1")]
    with pytest.raises(UserError, match="unknown encoding 'klingon'"):
        read_table(path, encoding="klingon")


def save(frame, path):
    """Write a frame by pandas."""
    writers = {
        "csv": partial(frame.to_csv, index=False),
        "tsv": partial(frame.to_csv, index=False, sep="\t"),
        "jsonl": partial(frame.to_json, orient="records", lines=True),
        "json": partial(frame.to_json, orient="records", indent=1),
        "parquet": frame.to_parquet,
        "arrow": partial(frame.to_feather, compression="uncompressed"),
        "xlsx": partial(frame.to_excel, index=False),
    }
    writers[path.suffix[1:]](path)
    return path


@pytest.mark.parametrize("packed", ["", ".gz", ".bz2", ".zst"])
@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "json", "parquet", "arrow", "xlsx"])
def test_all_formats_give_the_rows_that_pandas_wrote(tmp_path, suffix, packed):
    plain = save(pd.DataFrame(ROWS, columns=["label", "text"]), tmp_path / f"table.{suffix}")
    path = tmp_path / f"table.{suffix}{packed}"
    pack = {
        "": bytes,
        ".gz": gzip.compress,
        ".bz2": bz2.compress,
        ".zst": pa.Codec("zstd").compress,
    }[packed]
    path.write_bytes(pack(plain.read_bytes()))
    table = read_table(path)
    assert list(table.columns) == ["label", "text"] and cells(table)[0] == ROWS
    assert cells(table, columns=["text"])[0] == [(text,) for _, text in ROWS]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet", "xlsx"])
def test_a_header_without_rows_is_a_table_and_two_columns_of_one_name_are_not(tmp_path, suffix):
    path = save(pd.DataFrame({"text": [], "label": []}, dtype=str), tmp_path / f"table.{suffix}")
    assert (list(read_table(path).columns), cells(read_table(path))) == (
        ["text", "label"],
        ([], [], []),
    )
    if suffix == "parquet":
        pq.write_table(pa.Table.from_arrays([pa.array(["a"])] * 2, ["text", "text"]), path)
    else:
        save(pd.DataFrame([["a", "b", "0"]], columns=["text", "text", "label"]), path)
    with pytest.raises(DataError, match="two columns are named 'text'"):
        read_table(path)


def test_all_rows_of_excel_are_read_where_the_dimension_is_wrong(tmp_path):
    """A reader that believes the sheet keeps 10 of 100 rows."""
    frame = pd.DataFrame(
        {"text": [f"text {row}" for row in range(100)], "label": [row % 2 for row in range(100)]}
    )
    save(frame, tmp_path / "right.xlsx")
    with (
        zipfile.ZipFile(tmp_path / "right.xlsx") as right,
        zipfile.ZipFile(tmp_path / "wrong.xlsx", "w") as wrong,
    ):
        for name in right.namelist():
            wrong.writestr(
                name,
                re.sub(rb'<dimension ref="[^"]*"', b'<dimension ref="A1:B11"', right.read(name)),
            )
    assert cells(read_table(tmp_path / "wrong.xlsx"))[0] == list(
        frame.itertuples(index=False, name=None)
    )


def test_cells_of_excel(tmp_path):
    rows = [
        ["id", "text", None],
        [1, "a", None],
        [None, None, None],
        [2, None, "more"],
        [3.5, 2021, None],
    ]
    pd.DataFrame(rows).to_excel(tmp_path / "a.xlsx", index=False, header=False)
    table = read_table(tmp_path / "a.xlsx")
    assert table.to_arrow().to_pylist() == [
        {"id": 1.0, "text": "a", "column_3": None},
        {"id": 2.0, "text": None, "column_3": "more"},
        {"id": 3.5, "text": "2021", "column_3": None},
    ]
    assert table.places == [2, 4, 5] and list(read_column(tmp_path / "a.xlsx")) == ["a", "", "2021"]


# ---- CSV, and TSV with names of columns ----

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
odd = st.sampled_from(
    [
        '"',
        '""',
        "\n",
        "\r",
        "\r\n",
        "\t",
        ",",
        'a"b',
        '"a"',
        "NA",
        "null",
        "7.0",
        " ",
        "",
        "é\u2028",
    ]
)
anything = st.lists(st.one_of(texts, odd), max_size=3).map("".join)


def write_by_csv(rows, path, separator):
    with open(path, "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, delimiter=separator).writerows([("text", "label"), *rows])


def write_by_pandas(rows, path, separator, **options):
    frame = pd.DataFrame(rows, columns=["text", "label"])
    frame.to_csv(path, index=False, sep=separator, lineterminator="\n", **options)


WRITERS = {
    "csv": write_by_csv,
    "pandas": write_by_pandas,
    "pandas, all quoted": partial(write_by_pandas, quoting=csv.QUOTE_ALL),
    "polars": lambda rows, path, separator: pl.DataFrame(
        rows, ["text", "label"], orient="row"
    ).write_csv(path, separator=separator),
}


@SAME_FILE
@given(
    rows=st.lists(st.tuples(anything, st.sampled_from(["yes", "no", ""])), min_size=1, max_size=8)
)
@example(rows=[('"all"', "yes"), ('a "b"', "no"), ("lone\rCR", "no"), ("", "yes")])
@example(rows=[('"all"', "yes"), ('a "b"', "no"), ("two\nlines", "no")])
@pytest.mark.parametrize("suffix", ["csv", "tsv"])
@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_what_a_library_writes_is_read_as_it_was(tmp_path, writer, suffix, rows):
    path = tmp_path / f"table.{suffix}"
    writer(rows, path, {"csv": ",", "tsv": "\t"}[suffix])
    assert cells(read_table(path))[0] == rows


@pytest.mark.parametrize("header", ["", "text\tlabel\n", "\n\n text\tLabel\n"])
@pytest.mark.parametrize(("quoting", "quoted"), [(None, None), ("csv", True), ("none", False)])
def test_quotes_of_tsv_enclose_fields_where_columns_have_names(tmp_path, header, quoting, quoted):
    """Unless quoting is set."""
    path = write(tmp_path / "a.tsv", f'{header}"all"\tyes\n"a ""b"" c"\tno\n'.encode())
    quoted = bool(header) if quoted is None else quoted
    expected = (
        [("all", "yes"), ('a "b" c', "no")] if quoted else [('"all"', "yes"), ('"a ""b"" c"', "no")]
    )
    assert load_train(path, quoting=quoting) == expected
    with pytest.raises(UserError, match="unknown quoting"):
        read_table(path, quoting="all")


@pytest.mark.parametrize(
    ("content", "good", "bad"),
    [
        (
            'label,text\n0,a 5" pipe is 3 inch\n1,b\n',
            [("0", 'a 5" pipe is 3 inch'), ("1", "b")],
            [],
        ),
        ('label,text\n0,"a"b\n1,c\n', [("1", "c")], [2]),
        ("label,text\n0,a,b\n\n1\n1,c\n", [("1", "c")], [2, 4]),
        ("label,text\n0,a\rb\n1,c\n", [("0", "a\rb"), ("1", "c")], []),
        ('label\ttext\n0\t"all"ones\n1\tb "c"\n', [("1", 'b "c"')], [2]),
        ('label\ttext\n0\t"two\nlines"\n1\tb\n', [("0", "two\nlines"), ("1", "b")], []),
        ("label\ttext\n0\ta\n\n1\n1\tc\n", [("0", "a"), ("1", "c")], [4]),
        ("label,text\n0," + "x" * (1 << 21) + "\n1,d\n", [("0", "x" * (1 << 21)), ("1", "d")], []),
    ],
)
def test_a_damaged_row_costs_only_itself(tmp_path, content, good, bad):
    path = tmp_path / ("table.tsv" if "\t" in content else "table.csv")
    path.write_text(content, newline="")
    csv.field_size_limit(131_072)  # as in a new process
    assert cells(read_table(path))[::2] == (good, bad)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ('label,text\n1,b\n0,"5 inch\n1,b\n1,c\n', 3),
        ('label,text\n0,"5 inch\n1,b\n0,"c, d"\n1,e\n', 2),
    ],
)
def test_an_unclosed_quote_is_an_error_with_its_row(tmp_path, content, line):
    """No limit skips it: nobody can say where such a row ends."""
    (tmp_path / "table.csv").write_text(content)
    with pytest.raises(
        DataError, match=f"table.csv:{line}: misplaced quote.* or set --quoting none"
    ) as caught:
        load_train(tmp_path / "table.csv", max_bad_rows=99)
    assert caught.value.line == line


def test_damaged_bytes_cost_only_their_row(tmp_path):
    (tmp_path / "a.csv").write_bytes("text,label\né,1\nö,0\n".encode() + b"\xff,1\nb,0\n")
    assert cells(read_table(tmp_path / "a.csv"))[1:] == ([2, 3, 5], [4])
    (tmp_path / "a.csv").write_bytes(b"te\xffxt,label\n" + "é,1\n".encode() * 2)
    with pytest.raises(DataError, match="a.csv:1: not UTF-8: byte 0xff at byte 3"):
        read_table(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_text(",text,\n1,a,b\n")
    assert list(read_table(tmp_path / "a.csv").columns) == ["column_1", "text", "column_3"]


# ---- TSV without names of columns: plain Python is the reference ----

plain = st.text(st.characters(exclude_characters="\t\n\0", exclude_categories=["Cs"])).filter(
    lambda text: text.strip() and not text.endswith("\r")
)


@SAME_FILE
@given(
    rows=st.lists(st.tuples(plain, st.sampled_from(["positive", "negative", "mixed feelings"]))),
    end=st.sampled_from(["\n", "\r\n"]),
    mark=st.sampled_from([b"", b"\xef\xbb\xbf"]),
    last_end=st.booleans(),
)
@example(
    [('"quoted', "negative"), ('quoted"', "positive"), (" framed ", "positive")], "\n", b"", True
)
@example(
    [("NA", "positive"), ("null", "negative"), ("a\rb\x85c\u2028d", "negative")],
    "\r\n",
    b"\xef\xbb\xbf",
    False,
)
def test_rows_of_plain_tsv_are_read_as_they_were_written(tmp_path, rows, end, mark, last_end):
    rows = [("first", "positive"), *rows, ("last", "negative")]
    content = mark + end.join(map("\t".join, rows)).encode() + (end.encode() if last_end else b"")
    assert load_train(write(tmp_path / "rows.tsv", content)) == rows


PIECES = (
    [b"\t"] * 3 + [b"\n"] * 3 + [b"\r\n", b"\r", b"\0", b" ", b"a", b"word", b"0", b"1", b"7", b'"']
)
PIECES += [piece.encode() for piece in ("é", "\u2028", "\x85", "\u3000", "\ufeff", "日本", "\x1c")]
PIECES += [b"\xe9", b"\xed\xa0\x80", b"\xc0\xaf", b"\xc3"]


@SAME_FILE
@given(st.lists(st.sampled_from(PIECES)))
def test_every_line_of_plain_tsv_is_a_row_or_a_refusal(tmp_path, pieces):
    content = b"word\t0\n" + b"".join(pieces)
    path = write(tmp_path / "jumble.tsv", content)
    rows, places, bad = cells(read_table(path, header=False, fields=2))
    good = {}
    lines = content.removesuffix(b"\n").split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            fields = tuple(line.decode().removesuffix("\r").split("\t"))
        except ValueError:
            continue
        if len(fields) == 2:
            good[number] = fields
    assert dict(zip(places, rows, strict=True)) == good
    assert sorted([*places, *bad]) == list(range(1, len(lines) + 1))


@pytest.mark.parametrize("order", [("id", "text", "label"), ("label", "id", "text")])
def test_columns_by_name_and_by_number(tmp_path, order):
    rows = [("good day", "positive"), ("schön ", "negative"), ("NA", "positive")]
    lines = [dict(zip(("text", "label", "id"), (*row, "7"), strict=True)) for row in rows]
    table = [order, *([line[name] for name in order] for line in lines)]
    content = "".join("\t".join(line) + "\n" for line in table).encode()
    path = write(tmp_path / "columns.tsv", content)
    numbers = {"text_column": order.index("text"), "label_column": order.index("label")}
    assert load_train(path) == load_train(path, text_column="text", label_column="label") == rows
    assert load_train(path, **numbers) == rows
    assert (
        load_train(write(tmp_path / "headless.tsv", content.split(b"\n", 1)[1]), **numbers) == rows
    )


# ---- JSON lines ----


def test_a_column_of_json_lines_has_one_type_in_the_whole_file(tmp_path):
    records = [
        {
            "id": 1,
            "big": 1,
            "part": 1,
            "exact": (1 << 53) + 1,
            "more": {"a": 1},
            "text": "2020-01-01 00:00:00",
        },
        {"id": 2, "big": 2, "part": 2, "exact": 1.0, "more": {"b": 2.5}, "text": "b"},
        {"id": 3, "big": 1 << 63, "part": 2.5, "exact": 2.5, "more": None, "text": None},
        {"id": 4, "big": "x", "part": None, "exact": "x", "more": {}, "text": "d"},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    table = read_table(tmp_path / "a.jsonl")
    columns = table.to_arrow().to_pydict()
    assert (list(table.places), table.rejected) == ([1, 2, 3, 4], {})
    assert (
        columns["id"]
        == pl.read_ndjson(tmp_path / "a.jsonl", schema={"id": pl.Int64})["id"].to_list()
    )
    assert columns["big"] == ["1", "2", str(1 << 63), "x"] and columns["part"] == [
        1.0,
        2.0,
        2.5,
        None,
    ]
    assert columns["exact"] == [str((1 << 53) + 1), "1", "2.5", "x"]
    assert columns["text"] == [record["text"] for record in records]
    assert columns["more"] == [
        {"a": 1, "b": None},
        {"a": None, "b": 2.5},
        None,
        {"a": None, "b": None},
    ]


def test_damaged_records_cost_only_their_line(tmp_path):
    content = b'{"text": "a"}\n{"text": \n'
    content += b'{"text": "half \\ud83d"}\n[1]\n\n{"text": "b \\ud83d\\ude00", "more": 1}\n'
    content += b'{"text": "\xe9"}\n\n'
    content += "\n".join(['{"text": "é"}'] * 2).encode()
    (tmp_path / "a.jsonl").write_bytes(content)
    assert cells(read_table(tmp_path / "a.jsonl")) == (
        [("a", None), ("b \U0001f600", 1), ("é", None), ("é", None)],
        [1, 6, 9, 10],
        [2, 3, 4, 7],
    )
    (tmp_path / "a.json").write_text('[{"text": "half \\ud83d"}, {"text": "b \\ud83d\\ude00"}]')
    assert cells(read_table(tmp_path / "a.json")) == ([("b \U0001f600",)], [1], [0])


@pytest.mark.parametrize("fields", ["oops", None, 1, ["a"]])
def test_a_value_that_is_not_a_record_costs_only_its_row(tmp_path, fields):
    rows = [{"f": {"text": text, "label": label}} for label, text in ROWS]
    lines = [json.dumps(row) + "\n" for row in [*rows, {"f": fields}, *rows]]
    (tmp_path / "a.jsonl").write_text("".join(lines))
    names = {"text_column": "f.text", "label_column": "f.label"}
    assert (
        load_train(tmp_path / "a.jsonl", max_bad_rows=1, **names)
        == [(text, label) for label, text in ROWS] * 2
    )


def test_a_number_is_one_class_as_integer_and_as_float_and_infinity_is_missing(tmp_path):
    labels = ["1", "1.0", '"x"', "Infinity", "NaN"]
    (tmp_path / "a.jsonl").write_text(
        "".join(f'{{"text": "a", "label": {label}}}\n' for label in labels)
    )
    assert load_train(tmp_path / "a.jsonl", max_bad_rows=2) == [("a", "1"), ("a", "1"), ("a", "x")]
    frame = pd.DataFrame({"text": ["a", "b", "c"], "label": [1.0, 2.5, float("inf")]})
    assert load_train(save(frame, tmp_path / "a.parquet"), max_bad_rows=1) == [
        ("a", "1"),
        ("b", "2.5"),
    ]


def test_lists_and_records_in_the_column_of_texts_are_refused_by_row(tmp_path):
    rows = [
        {"text": text, "label": label}
        for text, label in (("a", "x"), (["a"], "x"), ({"b": 1}, "y"), ("c", "y"))
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    bad = [row for row in read_column(tmp_path / "a.jsonl") if not isinstance(row, str)]
    assert [(row.line, row.fault.reason) for row in bad] == [
        (2, Reason.NOT_A_TEXT),
        (3, Reason.NOT_A_TEXT),
    ]
    assert load_train(tmp_path / "a.jsonl", max_bad_rows=2) == [("a", "x"), ("c", "y")]
    nested = "".join(json.dumps({"fields": row}) + "\n" for row in rows)
    (tmp_path / "b.jsonl").write_text(nested)
    assert [
        row for row in read_column(tmp_path / "b.jsonl", "fields.text") if isinstance(row, str)
    ] == ["a", "c"]


# ---- empty texts, other files ----


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet", "xlsx"])
def test_empty_and_missing_texts_are_the_same_in_all_formats(tmp_path, suffix):
    frame = pd.DataFrame({"text": ["a", None, "", "b"], "label": ["x", "x", "y", "y"]})
    path = save(frame, tmp_path / f"table.{suffix}")
    assert list(read_column(path)) == ["a", "", "", "b"]
    assert load_train(path, max_bad_rows=2) == [("a", "x"), ("b", "y")]
    with pytest.raises(
        DataError,
        match=r"empty text: .* first of 2 rejected rows among 4\. To skip them: --max_bad_rows 2",
    ):
        load_train(path)


def test_whole_files_that_cannot_be_read_name_the_reason(tmp_path):
    frame = pd.DataFrame({"text": ["a", "b"] * 99, "label": ["x", "y"] * 99})
    workbook = save(frame, tmp_path / "right.xlsx").read_bytes()
    texts = pa.Array.from_buffers(
        pa.string(), 2, [None, *pa.array(["ab", "cd"]).buffers()[1:2], pa.py_buffer(b"\xff\xfeab")]
    )
    pq.write_table(pa.table({"text": texts, "label": ["x", "y"]}), tmp_path / "binary.parquet")
    pq.write_table(
        pa.table({"text": [["a"], ["b"]], "label": ["x", "y"]}), tmp_path / "lists.parquet"
    )
    contents = {
        "empty.csv": b"\n",
        "header.csv": b"text,label\n",
        "no.parquet": b"no",
        "cut.csv.gz": gzip.compress(b"text,label\n" * 9)[:-9],
        "damaged.xlsx": workbook[: len(workbook) // 2] + b"x" * 99,
        "comma.xlsx": b"text,label\na,x\n",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    for name in (*contents, "binary.parquet", "lists.parquet"):
        with pytest.raises(DataError) as error:
            load_train(tmp_path / name, max_bad_rows=9)
        expected = dict.fromkeys(("empty.csv", "header.csv"), Reason.EMPTY_FILE)
        expected["lists.parquet"] = Reason.MISSING_COLUMN
        assert error.value.reason is expected.get(name, Reason.UNREADABLE) and "\n" not in str(
            error.value
        )
        assert str(error.value).startswith(str(tmp_path / name))


# ---- large tables ----


@pytest.fixture
def little_memory(monkeypatch, tmp_path):
    """Let tables of a few bytes be in files, and pieces have seven rows."""
    monkeypatch.setattr(table, "_MOST_IN_MEMORY", 100)
    monkeypatch.setattr(table, "PIECE_ROWS", 7)
    monkeypatch.setattr(read, "PIECE_ROWS", 7)


def invent_rows(count):
    """Return texts and labels; some texts are empty."""
    rows = [
        (f"row {number} is {'fine' if number % 3 else 'bad, and'}", number % 3)
        for number in range(count)
    ]
    return [
        ("", label) if number % 11 == 5 else (text, label)
        for number, (text, label) in enumerate(rows)
    ]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_table_in_a_file_has_the_rows_of_one_in_memory(tmp_path, suffix, request):
    path = save(pd.DataFrame(invent_rows(60), columns=["text", "label"]), tmp_path / f"a.{suffix}")
    if suffix != "parquet":  # a row that cannot be read, in the middle of a piece
        lines = path.read_bytes().split(b"\n")
        lines.insert(30, b"\xff broken")
        path.write_bytes(b"\n".join(lines))
    loads = []
    for _ in range(2):
        report = DataReport()
        splits = load_tsv(path, max_bad_rows=10, rejected_path=tmp_path / "bad", report=report)
        lists = {name: rows.to_dict() for name, rows in splits.items()}
        places = {name: where.tolist() for name, (_, where) in report.tables.items()}
        loads.append((lists, places, report.splits, (tmp_path / "bad").read_text()))
        assert bool(splits["train"].cache_files) == (len(loads) == 2)
        request.getfixturevalue("little_memory")
    assert loads[0] == loads[1]
    assert loads[0][2]["train"].rejected["empty text"] == 5


def test_columns_of_json_lines_may_begin_late_and_change_their_type(tmp_path, little_memory):
    records = [{"text": f"row {number}"} for number in range(30)]
    records[20] |= {"late": 1}
    records[25] |= {"late": "one", "later": [1, 2]}
    records[28] |= {"later": {"a": 1}}
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    found = read_table(path)
    for name in ("text", "late", "later"):
        assert found.cells(name) == [record.get(name) for record in records]


# ---- what people have ----


def test_the_separator_that_excel_writes_on_the_first_line(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'sep=|\r\ntext;here|label\r\n"a\nb; c"|1\r\nd|2\r\n')
    table = read_table(path)
    assert (table.separator, list(table.columns)) == ("|", ["text;here", "label"])
    assert cells(table) == ([("a\nb; c", "1"), ("d", "2")], [3, 5], [])


def test_a_first_line_of_json_that_is_a_list_costs_only_itself(tmp_path):
    lines = ['["a", "b"]', '{"text": "good", "label": 1}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    assert cells(read_table(tmp_path / "a.jsonl")) == ([("good", 1)], [2], [1])
    (tmp_path / "b.jsonl").write_text(f"[{lines[1]}]\n\n")
    assert cells(read_table(tmp_path / "b.jsonl")) == ([("good", 1)], [0], [])


def test_a_repeated_key_of_json_does_not_win(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a: b", "label": 1}\n{"text": "a", "text": "b", "label": 1}\n')
    table = read_table(path)
    assert cells(table) == ([("a: b", 1)], [1], [2])
    assert "the key 'text' is there twice" in table.rejected[1].describe()
    path.write_text('[{"label": 1, "label": 2}]')
    with pytest.raises(DataError, match="the key 'label' is there twice"):
        read_table(path)


@pytest.mark.parametrize(("first", "has_names"), [("so gut", False), ("Text", True)])
def test_a_word_that_names_texts_and_labels_is_one_of_them(tmp_path, first, has_names):
    path = tmp_path / "train.tsv"
    path.write_text(f"{first}\tBewertung\nzwei\tgut\ndrei\tschlecht\nvier\tgut\n")
    rows = [
        *zip(*(load_tsv(path)["train"].to_dict()[name] for name in ("text", "label")), strict=True)
    ]
    assert len(rows) == 4 - has_names and (rows[0][0] == "so gut") is not has_names


def test_two_columns_of_nearly_one_name_are_a_guess(tmp_path, caplog):
    caplog.set_level("INFO")
    path = tmp_path / "a.csv"
    path.write_text("Text,text,label\na,b,1\nc,d,2\n")
    assert load_tsv(path)["train"]["text"][:] == ["b", "d"]
    assert "text from column 'text' (a guess: --text_column" in caplog.text


def test_a_number_with_a_point_is_one_class_with_the_integer_except_as_a_text(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a", "label": 1.0}\n{"text": "b", "label": 2}\n')
    (tmp_path / "a.csv").write_text("text,label\na,1.0\nb,2\n")
    assert load_tsv(tmp_path / "a.jsonl")["train"].features["label"].names == ["1", "2"]
    assert load_tsv(tmp_path / "a.csv")["train"].features["label"].names == ["1.0", "2"]
