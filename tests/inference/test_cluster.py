"""Answers in many processes: equal to those of `FastRnn`, each row once, after crashes too."""

import csv
import gzip
import json
import os
import pickle
import subprocess
import sys
import time

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
from hf_rnn.inference.tables import TableSettings
from hf_rnn.utils.errors import UserError
from hf_rnn.utils.folder_lock import hold_folder

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
    load = batch_predictor.load_predictor
    monkeypatch.setattr(batch_predictor, "load_predictor", lambda *given: loaded.append(given) or load(*given))
    model, tokenizer = load_model(trained.folder)
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path)
    predictor = BatchPredictor(str(tmp_path))
    pickled = pickle.dumps(predictor)
    for _ in range(2):
        pickle.loads(pickled)({"text": ["miro"]})
    assert len(loaded) == 1 and len(pickle.dumps(predictor)) == len(pickled) < 2000
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "model.onnx").touch()
    assert BatchPredictor(str(tmp_path)) == predictor, "an export changes nothing that torch answers"
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
    """Blocks of 60 rows, answered in this process."""
    monkeypatch.setattr(cluster, "BLOCK_ROWS", 60)
    monkeypatch.setattr("hf_rnn.data.tables.BATCH_ROWS", 25)
    monkeypatch.setattr("hf_rnn.data.delimited.BLOCK_BYTES", 1500)
    monkeypatch.setitem(
        cluster.ENGINES, "local", lambda job, shares, _: (cluster.answer_share(job, *share) for share in shares)
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
        path.write_text(
            "".join(json.dumps({"id": n, "text": text}, ensure_ascii=False) + "\n" for n, text in enumerate(texts))
        )
    else:
        path.write_text("\n".join(texts), newline="")
    with path.open("ab") as stream:
        stream.writelines(extra)
    return path


def read_output(folder):
    """Return the rows of all files of answers, in order."""
    parts = sorted(path for path in folder.iterdir() if path.is_file())
    assert not [path for path in parts if path.name[0] in "._"], "readers skip these"
    rows = []
    for path in parts:
        is_json = path.suffix == ".jsonl"
        rows += map(json.loads, path.read_text().split("\n")[:-1]) if is_json else pq.read_table(path).to_pylist()
    return rows


@pytest.fixture
def predict(command, trained, tmp_path):
    """Answer files into the folder `o`; return exit code, counts by file and stderr."""

    def run(pattern, *flags):
        given = ("--model", trained.folder, "--input", tmp_path / pattern, "--output_dir", tmp_path / "o", *flags)
        code, out, err = command("predict", *given)
        return code, [json.loads(line) for line in out.splitlines()], err

    return run


@pytest.mark.parametrize("kind", [".parquet", ".csv", ".jsonl", ".txt"])
def test_files_of_each_format(kind, trained, predict, tmp_path, small_blocks):
    odd = [text for text in ODD if kind != ".txt" or "\n" not in text]
    texts = [text for number in range(20) for text in (*TEXTS[20 * number : 20 * number + 20], *odd)]
    path = write_input(tmp_path / f"_texts{kind}", texts)
    code, counts, err = predict("_t*")
    assert code == 0 and f"{len(texts)} answered, 0 in error" in err
    assert counts == [{"file": str(path), "rows": len(texts), "answered": len(texts), "errors": 0}]
    rows = read_output(tmp_path / "o")
    assert [row["text"] for row in rows] == texts
    check_answers(pd.DataFrame(rows), FastRnn.from_pretrained(trained.folder).predict(texts))
    if kind != ".txt":
        assert [int(row["id"]) for row in rows] == list(range(len(texts)))
    assert len(list((tmp_path / "o").iterdir())) > 3, "premise: several blocks"


# bytes after 500 rows: what is wrong with each, by the line that `error` names
BAD = {
    ".jsonl": (
        [b"no json\n", b'"text"\n', b'{"text": null}\n', b"\xff\n", b'{"text":' * 5000 + b"\n"],
        ["line 501: not a", "line 502: not a", "line 503: null", "line 504: not UTF-8", "line 505: not a"],
    ),
    ".csv": (
        [b"7\n", b"8,a,b\n", b"9,\xff\n", b'1,"never closed\n', b"2,miro\n"],
        ["line 502: too few", "line 503: too many", "line 504: not UTF-8", "line 505: misplaced quote", ""],
    ),
    ".txt": (
        [b"\n\xff\xfe\n", b"a\0b\n", b"PK\x03\x04\n", b"x" * 3_000_000],
        ["line 501: not UTF-8", "line 502: NUL", "", "line 504: line over the cap"],
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_rows_are_counted_and_kept_with_their_lines(kind, predict, tmp_path, small_blocks):
    extra, expected = BAD[kind]
    write_input(tmp_path / f"texts{kind}", ["süß"] * 3 + TEXTS[3:], extra)
    code, (counts,), _ = predict("t*")
    rows, bad = read_output(tmp_path / "o"), sum(map(bool, expected))
    assert code == 1 and (counts["rows"], counts["errors"]) == (len(rows), bad)
    assert not any(row["error"] for row in rows[:500])
    for row, reason in zip(rows[500:], expected, strict=True):
        assert row["error"].startswith(reason) and (row["label"] is None) == bool(reason)


def test_a_damaged_file_is_named_and_the_others_are_answered(predict, tmp_path, small_blocks):
    whole = write_input(tmp_path / "a.parquet", TEXTS).read_bytes()
    (tmp_path / "b.parquet").write_bytes(whole[:-100])
    (tmp_path / "c.csv.gz").write_bytes(gzip.compress(b"text\n" + "\n".join(TEXTS).encode())[:-50])
    write_input(tmp_path / "d.txt", TEXTS)
    code, counts, err = predict("?.*")
    assert code == 1 and [count["rows"] for count in counts] == [500, 0, 0, 500]
    assert "not read: " in err and "b.parquet: " in err and "c.csv.gz: " in err
    code, counts, err = predict("b.parquet", "--output_dir", tmp_path / "p")
    assert code == 2 and len(err.splitlines()) == 1 and "b.parquet: " in err


def test_a_run_is_resumed_after_a_crash(predict, tmp_path, small_blocks, monkeypatch):
    for name in ("a.csv", "b.jsonl"):
        write_input(tmp_path / name, TEXTS)
    answer, calls = cluster.answer_rows, []

    def stop(*given):
        calls.append(given)
        if len(calls) == 13:
            raise KeyboardInterrupt
        return answer(*given)

    monkeypatch.setattr(cluster, "answer_rows", stop)
    assert predict("[ab].*")[0] == 130
    first = sorted((tmp_path / "o").glob("*-0*"))
    assert len(first) > 3, "premise: several blocks"
    first[0].write_bytes(b"")
    first[1].write_bytes(first[1].read_bytes()[:-5])
    states = [path.stat().st_mtime_ns for path in first]
    assert [count["rows"] for count in predict("[ab].*")[1]] == [500, 500]
    assert [row["text"] for row in read_output(tmp_path / "o")[:500]] == TEXTS
    changed = [path.stat().st_mtime_ns != state for path, state in zip(first, states, strict=True)]
    assert changed == [True, True, *[False] * (len(first) - 2)], "only what is not whole is answered again"
    count = len(calls)
    assert predict("[ab].*")[0] == 0 and len(calls) == count
    parts = sorted((tmp_path / "o").glob("b*"))
    parts[0].write_text("".join(parts[0].read_text().splitlines(keepends=True)[:-1]))
    assert predict("[ab].*")[0] == 0 and len(calls) > count


def test_mistakes_in_files(predict, command, trained, tmp_path, small_blocks):
    write_input(tmp_path / "a.csv", TEXTS)

    def message(*given):
        code, _, err = predict(*given)
        assert (code, len(err.splitlines())) == (2, 1), err
        return err

    assert "has no files" in message("*.txt")
    assert "no column 'texts': found 'id', 'text'" in message("a.csv", "--text_column", "texts")
    assert "outside" in message("a.csv", "--output_dir", tmp_path)
    assert "--engine" in command("predict", "--model", trained.folder, "--text", "x", "--engine", "local")[2]
    (tmp_path / "o").mkdir(exist_ok=True)
    with hold_folder(tmp_path / "o"):
        assert "in use by another run" in message("a.csv")
    assert predict("a.csv")[0] == 0
    assert "is of other texts or settings" in message("a.csv", "--prefix", "my_")
    write_input(tmp_path / "a.csv", TEXTS[:50])
    assert "is of other texts or settings" in message("a.csv")


# ---- processes ----


class Deadly(BatchPredictor):
    """Kills its process at a text."""

    def load(self):
        model = super().load()
        predict = model.predict

        def die(texts, **options):
            if "die" in texts:
                os._exit(9)
            return predict(texts, **options)

        model.predict = die
        return model


@pytest.mark.slow
def test_a_block_that_kills_its_worker_is_named_and_left_out(trained, tmp_path):
    texts = [*TEXTS, *(["miro"] * 10_000), "die", *(["miro"] * 100_000)]
    write_input(tmp_path / "a.csv", texts)
    write_input(tmp_path / "b.csv", TEXTS)
    files = cluster.predict_files(
        Deadly(trained.folder), f"{tmp_path}/*.csv", str(tmp_path / "o"), TableSettings(), workers=2
    )
    left, other = files
    assert 0 < left.rows < len(texts) and other.rows == 500
    assert len(left.unread) == 1 and "-00000.parquet killed its worker 3" in left.unread[0] and not other.unread


def start(trained, tmp_path, engine, blocks=12):
    """Start the command on files of several blocks each, in two processes."""
    for number in range(blocks):
        if not (path := tmp_path / f"{number:02d}.csv").exists():  # a changed file would be another job
            write_input(path, TEXTS * 40)
    arguments = ["--model", trained.folder, "--input", tmp_path / "*.csv", "--output_dir", tmp_path / "o"]
    arguments += ["--engine", engine, "--workers", 2]
    command = [sys.executable, "-m", "hf_rnn", "predict", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def list_parts(tmp_path):
    return {path.name: path.stat().st_mtime_ns for path in (tmp_path / "o").glob("*.parquet")}


def wait_for_parts(tmp_path, process):
    while not list_parts(tmp_path):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


def check_whole(tmp_path, process, files=12):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert [json.loads(line)["answered"] for line in out.splitlines()] == [len(TEXTS) * 40] * files
    assert [row["text"] for row in read_output(tmp_path / "o")] == TEXTS * 40 * files


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["local", "ray"])
def test_a_killed_driver_loses_nothing_and_its_workers_end(engine, trained, tmp_path):
    psutil = pytest.importorskip("psutil")
    if engine == "ray":
        pytest.importorskip("ray", reason="Ray is not installed")
    process = start(trained, tmp_path, engine)
    wait_for_parts(tmp_path, process)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    assert len(workers) >= 2 and not psutil.wait_procs(workers, timeout=30 if engine == "local" else 120)[1]
    before = list_parts(tmp_path)
    assert 0 < len(before) < 12, "premise: it was killed on the way"
    check_whole(tmp_path, start(trained, tmp_path, engine))
    assert before.items() <= list_parts(tmp_path).items(), "finished blocks are kept"


@pytest.mark.slow
def test_a_killed_worker_of_ray_is_replaced(trained, tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed")
    psutil = pytest.importorskip("psutil")
    process = start(trained, tmp_path, "ray")
    wait_for_parts(tmp_path, process)
    children = psutil.Process(process.pid).children(recursive=True)
    workers = [child for child in children if child.name().startswith("ray::answer_share")]
    assert len(workers) == 2, [child.name() for child in children]
    workers[0].kill()
    check_whole(tmp_path, process)
