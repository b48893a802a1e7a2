"""Batches in, answers out: equal to those of `FastRnn`, each row once, in every engine that is installed."""

import importlib
import pickle
import re
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from conftest import invent_rows

import hf_rnn
from hf_rnn import BatchPredictor, FastRnn
from hf_rnn.utils.errors import UserError

TEXTS = [text for text, _ in invent_rows(60, seed=4)]


@pytest.mark.parametrize("make", [dict, pd.DataFrame, pa.table], ids=["columns", "pandas", "arrow"])
def test_a_batch_comes_back_with_answers(trained, make):
    batch = {"id": list(range(62)), "body": [*TEXTS, None, ""]}
    predictor = pickle.loads(pickle.dumps(BatchPredictor(trained.folder, text_column="body", all_scores=True)))
    found = predictor(make(batch))
    assert type(found) is type(make(batch)) and len(pickle.dumps(predictor)) < 2000
    columns = found.to_pydict() if isinstance(found, pa.Table) else {name: list(found[name]) for name in found}
    assert list(columns) == ["id", "body", *predictor.schema.names] and columns["id"] == batch["id"]
    expected = FastRnn.from_pretrained(trained.folder).predict(TEXTS, all_scores=True)
    assert columns["label"][:60] == [answer["label"] for answer in expected]
    assert columns["score"][:60] == pytest.approx([answer["score"] for answer in expected], abs=1e-6)
    assert columns["scores"][0] == pytest.approx(expected[0]["scores"], abs=1e-6)
    assert columns["error"] == [""] * 60 + ["no text"] * 2 and pd.isna(columns["label"][60])


def test_mistakes_in_columns(trained):
    for settings, columns, message in (
        ({}, ["words"], "no column 'text': found 'words'"),
        ({}, ["text", "label"], "'label', the name of an answer: give another prefix"),
        ({"text_pair_column": "b"}, ["text", "b"], "leave it out"),
    ):
        with pytest.raises(UserError, match=message):
            BatchPredictor(trained.folder, **settings)({name: ["x"] for name in columns})


PAGE = (Path(hf_rnn.__file__).parent / "inference/cluster.md").read_text(encoding="utf-8")
PROGRAMS = {"datasets": "datasets", "ray": "ray", "pyspark": "pyspark", "dask": "dask.dataframe"}


@pytest.mark.slow
@pytest.mark.parametrize("engine", PROGRAMS)
def test_the_programs_of_the_page_run(trained, engine, tmp_path, monkeypatch):
    """Each reads texts/*.parquet and writes answers/."""
    pytest.importorskip(PROGRAMS[engine], reason=f"{engine} is not installed")
    (program,) = [code for code in re.findall(r"```python\n(.*?)```", PAGE, re.S) if f"import {engine}" in code]
    monkeypatch.chdir(tmp_path)
    Path("texts").mkdir()
    Path("out").mkdir()
    Path("out/tweets").symlink_to(trained.folder)
    for number in range(2):
        rows = pd.DataFrame({"id": range(number * 31, number * 31 + 31), "text": [*TEXTS[number * 30 :][:30], None]})
        rows.to_parquet(f"texts/{number}.parquet", index=False)
    if engine == "ray":  # asks no other machine for its address
        importlib.import_module("ray").init(num_cpus=4, include_dashboard=False, _node_ip_address="127.0.0.1")
    exec(program, {"__name__": "__main__"})
    found = pd.concat(map(pd.read_parquet, sorted(Path("answers").rglob("*.parquet")))).sort_values("id")
    expected = FastRnn.from_pretrained(trained.folder).predict(TEXTS)
    answered = found[found["text"].notna()]
    assert list(answered["label"]) == [answer["label"] for answer in expected]
    assert list(answered["score"]) == pytest.approx([answer["score"] for answer in expected], abs=1e-6)
    assert list(found["error"]) == ([""] * 30 + ["no text"]) * 2
