"""Tables and batches come back whole, row by row, with the answers of `FastRnn`, in each engine."""

import bz2
import codecs
import gzip
import importlib
import io
import json
import os
import pickle
import re
import shlex
import subprocess
import sys
from datetime import date, datetime
from functools import partial
from pathlib import Path

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv as csv
import pytest
from conftest import LABELS, invent_rows

import hf_rnn
from hf_rnn import BatchPredictor, FastRnn, Tagger
from hf_rnn.inference.tables import write_table
from hf_rnn.utils.errors import UserError


def format_table(table, name, separator=None):
    """Return a table as the content of a file with a name."""
    stream = io.BytesIO()
    write_table(table, stream, name, separator)
    return stream.getvalue()


TEXTS = ['miro; "sand"', "selk\nselk", 'a 5" pipe', "süß\tmiro", "the box", "cr\rmiro", "=1+1"]
READERS = {
    ".csv": lambda path: pd.read_csv(path, sep=";"),
    ".tsv": lambda path: pd.read_csv(path, sep="\t"),
    ".jsonl": lambda path: pd.read_json(path, lines=True),
    ".parquet": pd.read_parquet,
    ".xlsx": lambda path: pd.read_excel(path, engine="calamine"),
}


@pytest.fixture(scope="module")
def fast(trained):
    return FastRnn.from_pretrained(trained.folder)


@pytest.fixture
def predict(command, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: command("predict", "--model", trained.folder, "--input", *arguments)


def write(frame, path):
    if path.suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True)
    elif path.suffix in (".parquet", ".xlsx"):
        getattr(frame, {".parquet": "to_parquet", ".xlsx": "to_excel"}[path.suffix])(
            path, index=False
        )
    else:
        frame.to_csv(
            path, index=False, sep=";" if path.suffix == ".csv" else "\t", lineterminator="\r\n"
        )


@pytest.mark.parametrize(
    "output", ["new/er/out.csv.gz", "out.tsv", "out.parquet", "out.jsonl", "out.xlsx"]
)
def test_a_table_is_written_back_with_answers(output, predict, fast, tmp_path):
    """Its columns, also the label, keep names and values; answers have all scores."""
    write(pd.DataFrame({"id": range(7), "Review": TEXTS, "label": "bad"}), tmp_path / "in.csv")
    code, out, err = predict("in.csv", "--all_scores", "--top_k", 2, "--output_file", output)
    assert (code, out) == (0, "")
    assert err.startswith(
        "hf-rnn predict: in.csv: texts are in the column 'Review' (a guess by its name"
    )
    assert err.count("\n") == 1 and err.endswith("; --text_column names another)\n")
    found = READERS[os.path.splitext(output.removesuffix(".gz"))[1]](tmp_path / output)
    assert found["Review"].tolist() == TEXTS and found["id"].astype(int).tolist() == [*range(7)]
    expected = fast.predict(TEXTS, all_scores=True)
    assert found["label"].tolist() == ["bad"] * 7
    assert found["predicted_label"].tolist() == [answer["label"] for answer in expected]
    assert found["predicted_score"].tolist() == pytest.approx(
        [answer["score"] for answer in expected], abs=1e-6
    )
    scores = found[[f"predicted_scores.{label}" for label in LABELS]].set_axis(list(LABELS), axis=1)
    assert scores.iloc[1].tolist() == pytest.approx(
        [expected[1]["scores"][label] for label in LABELS], abs=1e-6
    )
    ranked = [scores.iloc[row].sort_values(ascending=False).index[1] for row in range(7)]
    assert found["predicted_label_2"].tolist() == ranked
    assert "predicted_error" not in found and "predicted_label_3" not in found


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet", ".xlsx"])
def test_empty_blank_and_null_cells_have_no_answer_in_any_format(suffix, predict, tmp_path):
    texts = (
        ["miro", None, " \u3000", "selk"]
        if suffix == ".xlsx"
        else ["miro", None, "", " \t\u3000", "selk"]
    )
    write(pd.DataFrame({"text": texts, "n": range(len(texts))}), tmp_path / f"in{suffix}")
    code, _, err = predict(f"in{suffix}", "--output_file", f"out{suffix}")
    assert code == 0 and f"{len(texts) - 2} of {len(texts)} rows have no text, and no answer" in err
    found = READERS[suffix](tmp_path / f"out{suffix}")
    assert found["label"].fillna("").tolist() == ["good", *[""] * (len(texts) - 2), "bad"]
    assert found["score"].isna().tolist() == found["label"].isna().tolist()
    assert found["n"].astype(int).tolist() == [*range(len(texts))] and "error" not in found


def test_the_column_that_training_read_is_preferred(command, trained, tmp_path, monkeypatch):
    reader = "hf_rnn.hub.model_folder.FinishedFolder.read_data_record"
    monkeypatch.setattr(reader, lambda folder: {"text_column": "message"})
    write(pd.DataFrame({"text": ["selk"], "message": ["miro"]}), tmp_path / "in.jsonl")
    call = ("predict", trained.folder, "--input", tmp_path / "in.jsonl")
    for flags, label, how in (
        ((), "good", "as in training"),
        (("--text_column", "text"), "bad", "as given"),
    ):
        code, out, err = command(*call, *flags)
        assert code == 0 and json.loads(out)["label"] == label and f"({how})" in err


def test_the_file_that_train_reads(predict, texts_dir, tmp_path):
    """Its lines are not answered as texts."""
    content = (texts_dir / "dev.tsv").read_text()
    (tmp_path / "dev.tsv").write_text(content)
    assert predict("dev.tsv", "--output_file", "out.tsv")[0] == 0
    found = pd.read_csv(tmp_path / "out.tsv", sep="\t")
    assert (found["text"] + "\t" + found["label"]).tolist() == content.splitlines()
    assert found["predicted_label"].tolist().count(found["label"][0]) == 20


def test_bad_rows_stay_in_place_with_their_reasons(predict, tmp_path):
    (tmp_path / "in.csv").write_text('text,n\nmiro,1\n"sand",2\nselk,3,x\n"open"s,4\nselk,5\n')
    code, out, err = predict("in.csv", "--output_file", "out.csv")
    assert code == 1 and "2 of 5 rows were rejected: see the column error" in err
    found = pl.read_csv(tmp_path / "out.csv")
    assert found["n"].to_list() == [1, 2, None, None, 5]
    assert [label is None for label in found["label"]] == [False, False, True, True, False]
    errors = [error.split(":")[:2] for error in found["error"] if error]
    assert errors == [["line 4", " too many fields"], ["line 5", " misplaced quote"]]
    code, out, err = predict("in.csv", "--strict")
    assert (code, out, len(err.splitlines())) == (2, "", 1) and "line 4" in err


def test_json_lines_keep_their_values(predict, tmp_path):
    records = [
        {"text": "miro", "n": {"x": [1]}, "i": 1},
        {"text": ["a"]},
        {"text": "selk", "more": 1.5, "i": 2**70},
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    code, out, err = predict("in.jsonl")
    rows = [json.loads(line) for line in out.splitlines()]
    assert (
        code == 1
        and [row["label"] for row in rows] == ["good", None, "bad"]
        and "1 of 3 rows were rejected" in err
    )
    assert rows[1]["error"].startswith("line 2: ") and (rows[0]["error"], rows[2]["more"]) == (
        "",
        1.5,
    )
    assert rows[0]["n"] == {"x": [1]} and rows[0]["i"] == "1", (
        "a column has one type, text beyond 64 bits"
    )


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet", ".xlsx"])
def test_texts_in_nested_records(suffix, predict, tmp_path):
    records = [
        {"id": 1, "fields": {"message": "miro", "n": [1]}},
        {"id": 2},
        {"id": 3, "fields": {"message": "selk"}},
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert (
        predict("in.jsonl", "--text_column", "fields.message", "--output_file", f"out{suffix}")[0]
        == 0
    )
    found = {**READERS, ".csv": pd.read_csv}[suffix](tmp_path / f"out{suffix}")
    assert list(found) == ["id", "fields", "label", "score"] and found["id"].tolist() == [1, 2, 3]
    assert found["label"].fillna("").tolist() == ["good", "", "bad"]
    first = (
        found["fields"][0] if suffix in (".jsonl", ".parquet") else json.loads(found["fields"][0])
    )
    assert (first["message"], list(first["n"])) == ("miro", [1])


def test_a_header_without_rows_gives_a_header(predict, tmp_path):
    (tmp_path / "in.csv").write_text("id,text\n")
    assert predict("in.csv")[:2] == (0, '"id","text","label","score"\n')


@pytest.mark.parametrize(
    ("start", "encoding"), [(codecs.BOM_UTF8, "utf-8"), (b"", "cp1252"), (b"", "utf-8")]
)
def test_a_table_from_excel_leaves_with_a_mark(predict, tmp_path, start, encoding):
    (tmp_path / "in.csv").write_bytes(start + "text\nmiro süß\nselk à\n".encode(encoding))
    assert predict("in.csv", "--output_file", "out.csv")[0] == 0
    content = (tmp_path / "out.csv").read_bytes()
    assert content.startswith(codecs.BOM_UTF8) == (start != b"" or encoding == "cp1252")
    assert content.decode("utf-8-sig").splitlines()[1].startswith('"miro süß"')


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, pa.Codec("zstd").compress])
def test_packed_lines_and_a_table_without_a_line_in_utf8(pack, predict, tmp_path):
    (tmp_path / "texts.txt").write_bytes(pack(b"miro\nselk\n"))
    code, out, _ = predict("texts.txt")
    assert code == 0 and [json.loads(line)["label"] for line in out.splitlines()] == ["good", "bad"]
    (tmp_path / "in.tsv").write_bytes(pack("süß\tgood\nmiré\tbad\n".encode("latin-1")))
    code, out, _ = predict("in.tsv", "--encoding", "latin-1")
    assert code == 0 and out.splitlines()[1].startswith('"süß"\t"good"\t')
    code, out, _ = predict("in.tsv")
    assert (
        code == 1
        and out.count("not UTF-8") == 2
        and out.startswith('"text"\t"label"\t"predicted_label"')
    )


def test_mistakes(predict, command, trained, tmp_path):
    write(pd.DataFrame({"id": [1], "Review": ["miro"]}), tmp_path / "in.csv")
    (tmp_path / "texts.txt").write_text("miro\n")
    for arguments, message in (
        (("in.csv", "--text_column", "body"), "no column 'body': found 'id', 'Review'"),
        (("in.csv", "--output_file", "out.doc"), "unknown: give a name that ends in .csv"),
        (("in.csv", "--output_file", "in.csv"), "is the input"),
        (
            ("in.csv", "--top_k", "4"),
            "top_k is 4: the model does not choose one of at least 4 labels",
        ),
        ((".",), "there is no file"),
        (("texts.txt", "--prefix", "x"), "--prefix is for tables"),
    ):
        code, out, err = predict(*arguments)
        assert (code, out, len(err.splitlines())) == (2, "", 1) and message in err, err
    code, _, err = command("predict", trained.folder, tmp_path / "in.csv")
    assert code == 2 and "give --input" in err


FRAMES = {
    "polars": pl.DataFrame,
    "arrow": pa.table,
    "pandas": partial(pd.DataFrame, index=[7, 5, 3]),
}


@pytest.mark.parametrize("make", FRAMES.values(), ids=FRAMES)
def test_frames(make, fast):
    frame = make({"n": [1, 2, 3], "tweet": ["miro", None, "selk"], "label": ["x", "y", "z"]})
    result = fast.predict_table(frame)
    assert type(result) is type(frame)
    names = list(getattr(result, "column_names", result.columns))
    assert names == ["n", "tweet", "label", "predicted_label", "predicted_score", "predicted_error"]
    columns = (
        result.to_pydict()
        if isinstance(result, pa.Table)
        else {name: list(result[name]) for name in names}
    )
    assert columns["n"] == [1, 2, 3] and columns["predicted_error"] == ["", "no text", ""]
    assert columns["predicted_label"][::2] == ["good", "bad"] and pd.isna(
        columns["predicted_label"][1]
    )
    with pytest.raises(UserError, match="found 'n', 'tweet', 'label'"):
        fast.predict_table(frame, text_column="body")


# ---- writers ----


def test_entities_are_json_in_csv(tagger):
    found = Tagger.from_pretrained(tagger.folder).predict_table(
        pa.table({"text": ["Miro saw Rome"]})
    )
    row = pl.read_csv(format_table(found, "x.csv")).row(0, named=True)
    assert [entity["label"] for entity in json.loads(row["entities"])] == ["person", "place"]


ODD = ['"a"', 'a""b', '"', "a\tb", "a,b", "two\nlines", "cr\rlf", "crlf\r\n", " a "]
ODD += ["=1+1", "\x01", "http://x.org"]


@pytest.mark.parametrize("suffix", ["", ".gz", ".bz2", ".zst"])
def test_answers_are_packed_as_their_name_says(suffix, predict, tmp_path):
    """Answers in .zst were an error: the file was closed before it got its name."""
    (tmp_path / "in.csv").write_text("text\nmiro\nselk\n")
    code, _, _ = predict("in.csv", "--output_file", f"out.csv{suffix}")
    answers = csv.read_csv(tmp_path / f"out.csv{suffix}")
    assert code == 0 and answers["label"].to_pylist() == ["good", "bad"]


@pytest.mark.parametrize("name", ["x.csv", "x.tsv", "x.xlsx", "x.jsonl", "x.parquet"])
def test_any_text_comes_back_as_it_was(name, tmp_path):
    (tmp_path / name).write_bytes(format_table(pa.table({"text": ODD}), name, ","))
    read = {**READERS, ".csv": pd.read_csv}[os.path.splitext(name)[1]]
    found = read(tmp_path / name)["text"].tolist()
    if name == "x.xlsx":
        found = [text.replace("\r\n", "\n") if text.startswith("crlf") else text for text in found]
        assert found == [text.replace("\r\n", "\n") for text in ODD]
    else:
        assert found == ODD


def test_numbers_keep_their_values_and_null_is_not_nan():
    table = pa.table(
        {"i": [2**60 + 1, None], "f": [float("nan"), 0.1], "d": [{"x": [1, float("inf")]}, None]}
    )
    rows = [
        json.loads(line, parse_constant=pytest.fail)
        for line in format_table(table, "x.jsonl").splitlines()
    ]
    assert rows == [
        {"i": 2**60 + 1, "f": None, "d": {"x": [1, None]}},
        {"i": None, "f": 0.1, "d": None},
    ]
    assert pl.read_csv(format_table(table, "x.csv"))["i"].to_list() == [2**60 + 1, None]
    for suffix in (".csv", ".jsonl", ".xlsx"):
        assert b"xyz" in format_table(pa.table({"b": [b"xyz"]}), f"x{suffix}") or suffix == ".xlsx"
        with pytest.raises(UserError, match=f"x{suffix} cannot be written: .*(UTF8|utf-8)"):
            format_table(pa.table({"b": [b"\xff"]}), f"x{suffix}")
    cells = pd.read_excel(io.BytesIO(format_table(table, "x.xlsx")), dtype=str, engine="calamine")
    assert cells["i"][0] == str(2**60 + 1), "a number of Excel has 15 digits"
    rare = pa.table(
        {"t": pa.array([0], pa.timestamp("s", "UTC")), "l": [["a", None]], "m": [["a", "b"]]}
    )
    cells = pd.read_excel(
        io.BytesIO(format_table(rare, "x.xlsx")), dtype=str, engine="calamine"
    ).iloc[0]
    assert cells.tolist() == ["1970-01-01 00:00:00Z", '["a", null]', "a,b"]


def test_excel_gets_values_that_it_can_hold_and_texts_of_others():
    """The last ones would have been changed, or are refused."""
    times = [datetime(1901, 1, 1), datetime(2020, 1, 2, 3, 4, 5, 6000), None]
    wide = pa.table(
        {
            "t": times,
            "f": [1 / 3, -1e-100, None],
            "i": [10**15 - 1, 1, None],
            "b": [True, False, None],
        }
    )
    cells = pd.read_excel(io.BytesIO(format_table(wide, "x.xlsx")), engine="calamine")
    assert cells["t"].tolist()[:2] == times[:2] and cells["f"].tolist()[:2] == [1 / 3, -1e-100]
    assert cells["i"].tolist()[:2] == [10**15 - 1, 1] and cells["b"].tolist()[:2] == [True, False]
    odd = {
        "old": [datetime(1890, 1, 2), times[1]],
        "day": [date(1899, 12, 31), None],
        "big": [2**60 + 1, None],
    }
    cells = pd.read_excel(
        io.BytesIO(format_table(pa.table(odd), "x.xlsx")), dtype=str, engine="calamine"
    )
    assert cells.iloc[0].tolist() == ["1890-01-02 00:00:00.000000", "1899-12-31", str(2**60 + 1)]
    with pytest.raises(
        UserError,
        match="cannot be written: a text .* has 40,000, .* at most 32,767",
    ):
        format_table(pa.table({"text": ["", "x" * 40_000]}), "x.xlsx")


def test_a_full_disk_names_the_file(trained, tmp_path):
    """A limit of the size of files stands for it: the message was `[Errno 27] File too large`."""
    write(pd.DataFrame({"text": TEXTS * 200}), tmp_path / "in.csv")
    python = shlex.quote(sys.executable)
    command = f"{python} -m hf_rnn predict {shlex.quote(str(trained.folder))} --input in.csv"
    for output, name in (
        ("--output_file out.csv", str(tmp_path / "out.csv")),
        ("> out", "standard output"),
    ):
        line = f"ulimit -f 1; {command} {output}"
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 2 and name in done.stderr.splitlines()[-1], done.stderr
    assert not (tmp_path / "out.csv").exists()


# ---- batches ----


BATCH = [text for text, _ in invent_rows(60, seed=4)]


@pytest.mark.parametrize("make", [dict, pd.DataFrame, pa.table], ids=["columns", "pandas", "arrow"])
def test_a_batch_comes_back_with_answers(trained, make):
    batch = {"id": list(range(62)), "body": [*BATCH, None, ""]}
    predictor = pickle.loads(
        pickle.dumps(BatchPredictor(trained.folder, text_column="body", all_scores=True))
    )
    found = predictor(make(batch))
    assert type(found) is type(make(batch)) and len(pickle.dumps(predictor)) < 2000
    columns = (
        found.to_pydict()
        if isinstance(found, pa.Table)
        else {name: list(found[name]) for name in found}
    )
    assert list(columns) == ["id", "body", *predictor.schema.names] and columns["id"] == batch["id"]
    expected = FastRnn.from_pretrained(trained.folder).predict(BATCH, all_scores=True)
    assert columns["label"][:60] == [answer["label"] for answer in expected]
    assert columns["score"][:60] == pytest.approx(
        [answer["score"] for answer in expected], abs=1e-6
    )
    assert columns["scores"][0] == pytest.approx(expected[0]["scores"], abs=1e-6)
    assert columns["error"] == [""] * 60 + ["no text"] * 2 and pd.isna(columns["label"][60])


PAGE = (Path(hf_rnn.__file__).parent / "inference/cluster.md").read_text(encoding="utf-8")
PROGRAMS = {"datasets": "datasets", "ray": "ray", "pyspark": "pyspark", "dask": "dask.dataframe"}


@pytest.mark.slow
@pytest.mark.parametrize("engine", PROGRAMS)
def test_the_programs_of_the_page_run(trained, engine, tmp_path, monkeypatch):
    """Each reads texts/*.parquet and writes answers/; Ray has two processors here."""
    pytest.importorskip(PROGRAMS[engine], reason=f"{engine} is not installed")
    (program,) = [
        code
        for code in re.findall(r"```python\n(.*?)```", PAGE, re.S)
        if f"import {engine}" in code
    ]
    monkeypatch.chdir(tmp_path)
    Path("texts").mkdir()
    Path("out").mkdir()
    Path("out/tweets").symlink_to(trained.folder)
    for number in range(2):
        rows = pd.DataFrame(
            {"id": range(number * 31, number * 31 + 31), "text": [*BATCH[number * 30 :][:30], None]}
        )
        rows.to_parquet(f"texts/{number}.parquet", index=False)
    if engine == "ray":  # asks no other machine for its address
        importlib.import_module("ray").init(
            num_cpus=2, include_dashboard=False, _node_ip_address="127.0.0.1"
        )
    exec(program, {"__name__": "__main__"})
    found = pd.concat(map(pd.read_parquet, sorted(Path("answers").rglob("*.parquet")))).sort_values(
        "id"
    )
    expected = FastRnn.from_pretrained(trained.folder).predict(BATCH)
    answered = found[found["text"].notna()]
    assert list(answered["label"]) == [answer["label"] for answer in expected]
    assert list(answered["score"]) == pytest.approx(
        [answer["score"] for answer in expected], abs=1e-6
    )
    assert list(found["error"]) == ([""] * 30 + ["no text"]) * 2
