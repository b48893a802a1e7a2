"""Tables come back whole, row by row, with the answers of `FastRnn` in further columns."""

import csv
import gzip
import json

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import LABELS

from hf_rnn import FastRnn, Tagger
from hf_rnn.data.tables import read_table
from hf_rnn.inference.tables import format_answers
from hf_rnn.utils.errors import UserError

TEXTS = ['miro; "sand"', "selk\nselk", 'a 5" pipe', "süß\tmiro", "the box"]


@pytest.fixture(scope="module")
def fast(trained):
    return FastRnn.from_pretrained(trained.folder)


@pytest.fixture
def predict(command, trained, tmp_path):
    def run(name, *flags):
        return command("predict", "--model", trained.folder, "--input", tmp_path / name, *flags)

    return run


def write(path, separator=";"):
    with path.open("w", newline="", encoding="utf-8") as stream:
        rows = [(number, text, "bad") for number, text in enumerate(TEXTS)]
        csv.writer(stream, delimiter=separator).writerows([("id", "Review", "label"), *rows])


def read_csv(text, separator):
    return list(csv.DictReader(text.splitlines(keepends=True), delimiter=separator))


@pytest.mark.parametrize("output", ["out.csv", "new/er/out.csv.gz", "out.parquet", "out.jsonl", None])
def test_a_csv_is_written_back_with_answers(output, predict, fast, tmp_path):
    """Its columns, also the label, keep their names and values; the answers have the scores of all classes."""
    write(tmp_path / "in.csv")
    code, out, err = predict("in.csv", "--all_scores", *(["--output_file", tmp_path / output] if output else []))
    assert (code, err, bool(out)) == (0, "", output is None)
    if output is None:
        rows = read_csv(out, ";")
    elif output.endswith("parquet"):
        rows = pq.read_table(tmp_path / output).to_pylist()
    elif output.endswith("jsonl"):
        rows = [json.loads(line) for line in (tmp_path / output).read_text().splitlines()]
    else:
        content = (tmp_path / output).read_bytes()
        rows = read_csv((gzip.decompress(content) if output.endswith("gz") else content).decode(), ";")
    assert [(row["id"], row["Review"], row["label"]) for row in rows] == [
        (str(number), text, "bad") for number, text in enumerate(TEXTS)
    ]
    expected = fast.predict(TEXTS, all_scores=True)
    assert [row["predicted_label"] for row in rows] == [answer["label"] for answer in expected]
    assert [float(row["predicted_score"]) for row in rows] == pytest.approx([a["score"] for a in expected], abs=1e-6)
    for label in LABELS:
        scores = [float(row[f"predicted_scores.{label}"]) for row in rows]
        assert scores == pytest.approx([answer["scores"][label] for answer in expected], abs=1e-6)
    assert "predicted_error" not in rows[0]


def test_the_file_that_train_reads(predict, texts_dir, tmp_path):
    """Its lines are not answered as texts."""
    content = (texts_dir / "dev.tsv").read_text()
    (tmp_path / "dev.tsv").write_text(content)
    code, out, err = predict("dev.tsv")
    assert (code, err) == (0, "")
    rows = read_csv(out, "\t")
    assert [f"{row['text']}\t{row['label']}" for row in rows] == content.splitlines()
    assert [row["predicted_label"] for row in rows].count(rows[0]["label"]) == 20


def test_bad_rows_stay_in_place_with_their_reasons(predict, tmp_path):
    (tmp_path / "in.csv").write_text('text,n\nmiro,1\n,2\nselk,3,x\n"open,4\nselk,5\n')
    code, out, err = predict("in.csv")
    rows = read_csv(out, ",")
    assert code == 1 and "2 of 5 rows were refused: see the column error" in err
    assert [(row["n"], row["label"] != "") for row in rows] == [
        ("1", True),
        ("2", True),
        ("", 0),
        ("", 0),
        ("5", True),
    ]
    assert [row["error"].split(":")[:2] for row in rows if row["error"]] == [
        ["line 4", " too many fields"],
        ["line 5", " misplaced quote"],
    ]
    code, out, err = predict("in.csv", "--strict")
    assert (code, out, len(err.splitlines())) == (2, "", 1) and "line 4" in err


def test_json_lines_with_different_fields(predict, tmp_path):
    records = [{"text": "miro", "n": {"x": [1]}}, {"text": None}, {"text": "selk", "more": 1.5}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    code, out, _ = predict("in.jsonl")
    rows = [json.loads(line) for line in out.splitlines()]
    answers = [(row["label"], row["error"]) for row in rows]
    assert code == 1 and answers == [("good", ""), (None, "line 2: null"), ("bad", "")]
    assert (rows[0]["n"], rows[2]["more"]) == ({"x": [1]}, 1.5)


def test_mistakes(predict, command, trained, tmp_path):
    write(tmp_path / "in.csv")
    (tmp_path / "texts.txt").write_text("miro\n")

    def message(*given):
        code, out, err = predict(*given)
        assert (code, out, len(err.splitlines())) == (2, "", 1)
        return err

    assert "no column 'body': found 'id', 'Review', 'label'" in message("in.csv", "--text_column", "body")
    assert "unknown: give a name that ends in .csv" in message("in.csv", "--output_file", tmp_path / "out.doc")
    assert "is the input" in message("in.csv", "--output_file", tmp_path / "in.csv")
    assert "there is no file" in message(".")
    code, _, err = command("predict", trained.folder, tmp_path / "in.csv")
    assert code == 2 and "give --input" in err
    assert "--prefix is for tables" in message("texts.txt", "--prefix", "x")


def test_texts_with_all_scores(command, trained, fast):
    code, out, _ = command("predict", "--model", trained.folder, "--text", "miro", "--all_scores")
    (expected,) = fast.predict(["miro"], all_scores=True)
    found = json.loads(out)
    assert code == 0 and found["label"] == expected["label"] and set(found["scores"]) == set(LABELS)
    assert sum(found["scores"].values()) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    "make",
    [pl.DataFrame, pa.table, lambda columns: pd.DataFrame(columns, index=[7, 5, 3])],
    ids=["polars", "arrow", "pandas"],
)
def test_frames(make, fast):
    frame = make({"n": [1, 2, 3], "tweet": ["miro", None, "selk"], "label": ["x", "y", "z"]})
    result = fast.predict_table(frame)
    assert type(result) is type(frame)
    names = list(getattr(result, "column_names", result.columns))
    assert names == ["n", "tweet", "label", "predicted_label", "predicted_score", "predicted_error"]
    columns = result.to_pydict() if isinstance(result, pa.Table) else {name: list(result[name]) for name in names}
    assert columns["n"] == [1, 2, 3] and columns["predicted_error"] == ["", "null", ""]
    assert columns["predicted_label"][::2] == ["good", "bad"] and pd.isna(columns["predicted_label"][1])
    with pytest.raises(UserError, match="found 'n', 'tweet', 'label'"):
        fast.predict_table(frame, text_column="body")


def test_entities_are_json_in_csv(tagger):
    found = Tagger.from_pretrained(tagger.folder).predict_table(pa.table({"text": ["Miro saw Rome"]}))
    (row,) = read_csv(format_answers([found], "x.csv").decode(), ",")
    assert [entity["label"] for entity in json.loads(row["entities"])] == ["person", "place"]


@pytest.mark.parametrize("name", ["x.csv", "x.tsv"])
def test_written_texts_are_read_as_they_were(name, tmp_path):
    texts = ['"a"', 'a""b', '"', "a\tb", "a,b", "two\nlines", "cr\rlf", " a ", '"a" b', "x"]
    (tmp_path / name).write_bytes(format_answers([pa.table({"text": texts, "n": range(10)})], name))
    read = [text for batch in read_table(tmp_path / name) for text in batch.rows["text"].to_pylist()]
    assert read == texts


def test_columns_of_several_types_become_text():
    tables = [pa.table({"n": [1, None], "m": [1, 2]}), pa.table({"n": ["x"], "m": [2.5]})]
    content = format_answers(tables, "x.parquet")
    assert pq.read_table(pa.BufferReader(content)).to_pydict() == {"n": ["1", None, "x"], "m": [1, 2, 2.5]}
