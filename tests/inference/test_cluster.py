"""Answers in many processes: equal to those of `FastRnn`, each row once, after crashes too."""

import csv
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import invent_rows

from hf_rnn import BatchPredictor, FastRnn
from hf_rnn.hub.loading import load_model
from hf_rnn.inference import batch_predictor, cluster
from hf_rnn.utils.errors import UserError

TEXTS = [text for text, _ in invent_rows(500, seed=4)]


@pytest.fixture(scope="module")
def expected(trained):
    return FastRnn.from_pretrained(trained.folder).predict(TEXTS)


def check_answers(columns, expected):
    assert list(columns["label"]) == [answer["label"] for answer in expected]
    assert list(columns["score"]) == pytest.approx([answer["score"] for answer in expected], abs=1e-6)
    assert not any(columns["error"])


# ---- BatchPredictor ----


@pytest.mark.parametrize(
    "column",
    [list, np.array, pd.Series, pa.array],
    ids=["list", "numpy", "pandas", "arrow"],
)
def test_columns_of_any_kind(trained, expected, column):
    batch = {"id": column(list(range(len(TEXTS)))), "text": column(TEXTS)}
    found = BatchPredictor(trained.folder)(batch)
    assert list(found) == ["id", "text", "label", "score", "error"] and found["id"] is batch["id"]
    check_answers(found, expected)


def test_what_cannot_be_answered_has_a_reason_in_its_place(trained):
    texts = ["miro", None, 5, float("nan"), "a\ud800", b"miro", "", "miro"]
    found = BatchPredictor(trained.folder, prefix="my_")({"text": texts, "label": [1] * 8})
    assert [reason.split(":")[0] for reason in found["my_error"]] == [
        "", "null", "not a text", "null", "not Unicode", "not a text", "", ""
    ]  # fmt: skip
    assert [label is None for label in found["my_label"]] == [bool(reason) for reason in found["my_error"]]
    assert found["my_score"][0] == pytest.approx(found["my_score"][7])


def test_the_model_is_loaded_once_per_process_and_again_when_it_has_changed(trained, tmp_path, monkeypatch):
    loaded = []
    monkeypatch.setattr(batch_predictor, "load_model", lambda *given: loaded.append(given) or load_model(*given))
    model, tokenizer = load_model(trained.folder)
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path)
    predictor = BatchPredictor(str(tmp_path))
    pickled = pickle.dumps(predictor)
    for _ in range(2):
        pickle.loads(pickled)({"text": ["miro"]})
    assert len(loaded) == 1 and len(pickle.dumps(predictor)) == len(pickled) < 2000
    model.classifier.weight.data.neg_()
    model.save_pretrained(tmp_path)
    before, after = predictor({"text": ["miro"]}), BatchPredictor(str(tmp_path))({"text": ["miro"]})
    assert before["label"] != after["label"]


def test_mistakes_in_columns(trained):
    for settings, columns, message in (
        ({}, ["texts"], "no column 'text': found texts"),
        ({}, ["text", "label"], "found label; give prefix"),
        ({"text_pair_column": "b"}, ["text", "b"], "leave it out"),
    ):
        with pytest.raises(UserError, match=message):
            BatchPredictor(trained.folder, **settings)({name: ["x"] for name in columns})


def test_a_tagger_fills_a_column_of_entities(tagger):
    predictor = BatchPredictor(tagger.folder)
    found = predictor({"text": ["Miro saw Rome", None, "the"]})
    assert [entity["label"] for entity in found["entities"][0]] == ["person", "place"] and found["entities"][2] == []
    assert pa.array(found["entities"], predictor.schema.field("entities").type).to_pylist() == found["entities"]


def test_in_two_processes_of_datasets(trained, expected):
    rows = datasets.Dataset.from_dict({"text": [*TEXTS[:250], None, *TEXTS[250:]]})
    found = rows.map(BatchPredictor(trained.folder), batched=True, batch_size=100, num_proc=2)
    assert found[250]["error"] == "null" and found[250]["label"] is None
    check_answers(found.select([n for n in range(501) if n != 250]), expected)


# ---- files ----


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 2,000 bytes, answered in this process."""
    monkeypatch.setattr(cluster, "BLOCK_BYTES", 2000)
    monkeypatch.setattr(cluster, "ROWS", 60)
    monkeypatch.setitem(
        cluster.ENGINES, "local", lambda job, blocks, _: (cluster.predict_block(job, *b) for b in blocks)
    )


ODD = ['with "quotes", and\ntwo lines', '5" pipe', "ünï\u2028côde", "", " "]


def write_input(path, texts=(), extra=()):
    """Write texts as a file of the format that the suffix names; `extra` are bytes at its end."""
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"id": range(len(texts)), "text": texts}), path, row_group_size=50)
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([("id", "text"), *enumerate(texts)])
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({"id": n, "text": text}) + "\n" for n, text in enumerate(texts)))
    else:
        path.write_text("\n".join(texts), newline="")
    with path.open("ab") as stream:
        stream.writelines(extra)
    return path


def read_output(folder, kind=".parquet"):
    """Return the rows of all parts, in order."""
    parts = sorted(path for path in folder.iterdir() if path.is_file())
    assert parts and {path.suffix for path in parts} == {kind}
    if kind == ".jsonl":
        return [json.loads(line) for path in parts for line in path.read_text().split("\n")[:-1]]
    return [row for path in parts for row in pq.read_table(path).to_pylist()]


@pytest.mark.parametrize("kind", [".parquet", ".csv", ".jsonl", ".txt"])
def test_files_of_each_format(kind, trained, command, tmp_path, small_blocks):
    odd = [text for text in ODD if kind != ".txt" or "\n" not in text]
    texts = [part for number in range(20) for part in (*TEXTS[20 * number : 20 * number + 20], *odd)]
    write_input(tmp_path / f"texts{kind}", texts)
    code, out, err = command(
        "predict", "--model", trained.folder, "--input", tmp_path / "t*", "--output_dir", tmp_path / "o"
    )
    assert code == 0 and f"{len(texts)} answered, 0 in error" in err
    assert json.loads(out) == {
        "file": str(tmp_path / f"texts{kind}"),
        "rows": len(texts),
        "answered": len(texts),
        "errors": 0,
    }
    rows = read_output(tmp_path / "o", ".jsonl" if kind == ".jsonl" else ".parquet")
    assert [row["text"] for row in rows] == texts
    check_answers(pd.DataFrame(rows), FastRnn.from_pretrained(trained.folder).predict(texts))
    if kind != ".txt":
        assert [int(row["id"]) for row in rows] == list(range(len(texts)))
    assert len(list((tmp_path / "o").iterdir())) > 4, "premise: several blocks"


BAD = {
    ".jsonl": [b'{"id": 3}\n', b"no json\n", b'"text"\n', b'{"text": null}\n', b"\xff\n", b'{"text": "a\\ud800"}\n'],
    ".csv": [b"7\n", b"8,a,b\n", b"9,\xff\n"],
    ".txt": [b"\n\xff\n", b"a\0b\n"],
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_rows_are_counted_and_kept(kind, trained, command, tmp_path, small_blocks):
    write_input(tmp_path / f"texts{kind}", TEXTS, BAD[kind])
    code, out, err = command(
        "predict", "--model", trained.folder, "--input", tmp_path / "t*", "--output_dir", tmp_path / "o"
    )
    counts = json.loads(out)
    assert code == 1 and counts["errors"] == (2 if kind == ".txt" else len(BAD[kind]))
    rows = read_output(tmp_path / "o", ".jsonl" if kind == ".jsonl" else ".parquet")
    assert counts["rows"] == counts["answered"] + counts["errors"] == len(rows) == 500 + counts["errors"]
    assert [bool(row["error"]) for row in rows] == [False] * 500 + [True] * counts["errors"]
    assert all(row["label"] is None for row in rows[500:])


def test_a_run_is_resumed_after_a_crash(trained, tmp_path, small_blocks, monkeypatch):
    for name in ("a.csv", "b.parquet"):
        write_input(tmp_path / name, TEXTS)
    predictor, whole = BatchPredictor(trained.folder), cluster.predict_block
    blocks = []

    def stop(job, file, number):
        blocks.append((file.path, number))
        if len(blocks) == 5:
            Path(job.output_dir, ".x.unfinished").touch()
            raise KeyboardInterrupt
        return whole(job, file, number)

    monkeypatch.setattr(cluster, "predict_block", stop)
    with pytest.raises(KeyboardInterrupt):
        cluster.predict_files(predictor, f"{tmp_path}/*.*", str(tmp_path / "o"))
    first = blocks[:4]
    counts = cluster.predict_files(predictor, f"{tmp_path}/*.*", str(tmp_path / "o"))
    assert sorted(first + blocks[5:]) == sorted(set(blocks)), "each block is answered once"
    assert [(count.rows, count.errors) for count in counts] == [(500, 0), (500, 0)]
    assert [row["text"] for row in read_output(tmp_path / "o")] == TEXTS * 2
    count = len(blocks)
    assert cluster.predict_files(predictor, f"{tmp_path}/*.*", str(tmp_path / "o")) == counts and len(blocks) == count
    write_input(tmp_path / "c.txt", TEXTS)
    assert len(cluster.predict_files(predictor, f"{tmp_path}/*.*", str(tmp_path / "o"))) == 3
    recorded = json.loads((tmp_path / "o/_hf_rnn/counts.json").read_text())
    assert [value["answered"] for value in recorded.values()] == [500] * 3


def test_mistakes_in_files(trained, command, tmp_path, small_blocks):
    def predict(pattern, *further, output="o"):
        arguments = ("--input", tmp_path / pattern, "--output_dir", tmp_path / output)
        code, _, err = command("predict", "--model", trained.folder, *arguments, *further)
        return err if code else ""

    write_input(tmp_path / "a.csv", TEXTS)
    (tmp_path / "b.doc").touch()
    (tmp_path / "c.parquet").write_bytes(b"no parquet")
    assert "has no files" in predict("*.txt") and "unknown format" in predict("*.doc")
    assert "c.parquet: " in predict("c.parquet")
    assert "no column 'texts'" in predict("a.csv", "--text_column", "texts")
    assert "outside" in predict("a.csv", output=".")
    assert "--engine" in command("predict", "--model", trained.folder, "--text", "x", "--engine", "local")[2]
    assert predict("a.csv") == ""
    assert "found prefix ''" in predict("a.csv", "--prefix", "my_")
    write_input(tmp_path / "a.csv", TEXTS[:50])
    assert "another state of" in predict("a.csv")


# ---- processes ----


def start(trained, tmp_path, engine, blocks=12):
    """Start the command on files of several blocks each, in two processes."""
    for number in range(blocks):
        if not (path := tmp_path / f"{number:02d}.csv").exists():  # a changed file would be another job
            write_input(path, TEXTS * 40)
    arguments = ["--model", trained.folder, "--input", tmp_path / "*.csv", "--output_dir", tmp_path / "o"]
    arguments += ["--engine", engine, "--workers", 2]
    command = [sys.executable, "-m", "hf_rnn", "predict", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def list_marks(tmp_path):
    return {path.name: path.stat().st_mtime_ns for path in (tmp_path / "o/_hf_rnn").glob("*.*.*")}


def wait_for_marks(tmp_path, process):
    while not list_marks(tmp_path):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


def check_whole(tmp_path, process, files=12):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert [json.loads(line)["answered"] for line in out.splitlines()] == [len(TEXTS) * 40] * files
    assert "texts/s" in err
    assert [row["text"] for row in read_output(tmp_path / "o")] == TEXTS * 40 * files


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["local", "ray"])
def test_a_killed_driver_loses_nothing(engine, trained, tmp_path):
    if engine == "ray":
        pytest.importorskip("ray", reason="Ray is not installed")
    process = start(trained, tmp_path, engine)
    wait_for_marks(tmp_path, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(5)  # the processes of Ray end by themselves
    before = list_marks(tmp_path)
    assert 0 < len(before) < 12, "premise: it was killed on the way"
    check_whole(tmp_path, start(trained, tmp_path, engine))
    after = list_marks(tmp_path)
    assert len(after) == 12 and before.items() <= after.items(), "finished blocks are kept"


@pytest.mark.slow
def test_a_killed_worker_of_ray_is_replaced(trained, tmp_path):
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    psutil = pytest.importorskip("psutil")
    process = start(trained, tmp_path, "ray")
    wait_for_marks(tmp_path, process)
    children = psutil.Process(process.pid).children(recursive=True)
    workers = [child for child in children if child.name().startswith("ray::Map") or "MapWorker" in child.name()]
    assert len(workers) == 2, [child.name() for child in children]
    workers[0].kill()
    check_whole(tmp_path, process)
    assert ray.__version__
