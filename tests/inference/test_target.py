"""With a target each answer says whether it is for a person, in every way to predict, by the file of thresholds."""

import json
import math
import pickle
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from conftest import LABELS, invent_rows, run_python

from hf_rnn import BatchPredictor, FastRnn, Tagger
from hf_rnn.evaluation.decisions import choose_thresholds, write_thresholds
from hf_rnn.utils.errors import UserError

TEXTS = [text for text, _ in invent_rows(50, seed=7)]


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory):
    """The trained model with thresholds for 0.8, and for 0.95, where a person checks all answers `good`."""
    folder = tmp_path_factory.mktemp("decided") / "model"
    shutil.copytree(
        trained.folder, folder, ignore=shutil.ignore_patterns("checkpoints", "thresholds.json")
    )
    rows = invent_rows(150, seed=8)
    scores = FastRnn.from_pretrained(folder).predict_proba([text for text, _ in rows])
    labels = np.array([LABELS.index(label) for _, label in rows])
    chosen = [choose_thresholds(scores, labels, LABELS, target) for target in (0.8, 0.95)]
    chosen[1].by_label.update(
        good=None, bad=float(np.median(scores[:, 0][scores.argmax(axis=1) == 0]))
    )
    write_thresholds(folder / "thresholds.json", folder / "model.safetensors", chosen)
    return folder


@pytest.fixture(scope="module")
def expected(folder):
    """By hand, for 50 texts and the target 0.95."""
    limits = json.loads((folder / "thresholds.json").read_text())["targets"]["0.95"]["by_label"]
    answers = FastRnn.from_pretrained(folder).predict(TEXTS)
    limits = {label: math.inf if limit is None else limit for label, limit in limits.items()}
    waiting = [answer["score"] < limits[answer["label"]] for answer in answers]
    both = {(answer["label"], waits) for answer, waits in zip(answers, waiting, strict=True)}
    assert both >= {("good", True), ("bad", True), ("bad", False)}, "premise"
    return waiting


def test_each_answer_says_whether_it_is_for_a_person(folder, expected):
    fast = FastRnn.from_pretrained(folder)
    plain = fast.predict(TEXTS)
    for model in (fast, pickle.loads(pickle.dumps(fast))):
        assert model.predict(TEXTS, target=0.95) == [
            {**answer, "for_a_person": waits} for answer, waits in zip(plain, expected, strict=True)
        ]
    assert [answer["for_a_person"] for answer in fast.predict(TEXTS, target=0.8)] != expected
    assert fast.answer_each([TEXTS[0], None], target=0.95) == [
        fast.predict(TEXTS[:1], target=0.95)[0],
        "no text",
    ]


def test_columns_of_tables_and_batches(folder, expected, command, tmp_path):
    frame = pd.DataFrame({"text": [*TEXTS, None]})
    tables = [
        FastRnn.from_pretrained(folder)
        .predict_table(pa.table({"text": frame["text"]}), target=0.95)
        .to_pandas()
    ]
    tables += [BatchPredictor(folder, target=0.95)(frame)]
    frame.to_csv(tmp_path / "in.csv", index=False)
    flags = (
        "--input",
        tmp_path / "in.csv",
        "--target",
        0.95,
        "--output_file",
        tmp_path / "out.csv",
    )
    assert command("predict", folder, *flags)[0] == 0
    for table in (*tables, pd.read_csv(tmp_path / "out.csv")):
        assert table["for_a_person"][:50].tolist() == expected and pd.isna(
            table["for_a_person"][50]
        )
    _, out, _ = command("predict", folder, "--text", TEXTS[0], "--target", 0.95)
    assert json.loads(out)["for_a_person"] == expected[0]


def test_the_file_of_onnx_without_torch_and_scipy(folder, expected, tmp_path):
    export = pytest.importorskip(
        "hf_rnn.inference.onnx", reason="the extra onnx is not installed"
    ).export
    shutil.copytree(folder, tmp_path / "model")
    page = export(tmp_path / "model", web=True).web
    assert (page / "thresholds.json").read_bytes() == (folder / "thresholds.json").read_bytes()
    program = """if True:
        import json, sys
        for name in ("torch", "transformers", "scipy", "matplotlib", "sklearn"):
            sys.modules[name] = None
        from hf_rnn import FastRnn
        for backend in ("onnx", "torch"):
            fast, texts = FastRnn.from_pretrained(sys.argv[1], backend=backend), json.loads(sys.argv[2])
            answers = fast.predict(texts, target=0.95)
            print(json.dumps([answer["for_a_person"] for answer in answers]))
    """
    found = run_python(program, tmp_path / "model", json.dumps(TEXTS)).splitlines()
    assert [json.loads(line) for line in found] == [expected] * 2


def test_mistakes_are_one_line(folder, trained, tagger, command, tmp_path):
    model = shutil.copytree(folder, tmp_path / "model")
    for name, target, message in (
        (model, 1.5, "target must be"),
        (
            model,
            0.5,
            f"has thresholds for 0.8, 0.95 alone: for 0.5 type hf-rnn evaluate {model} DATA --target 0.5",
        ),
        (trained.folder, 0.951, f"hf-rnn evaluate {trained.folder} DATA --target 0.951"),
        (tagger.folder, 0.95, "models that choose one label"),
    ):
        code, out, err = command("predict", name, "--text", "miro", "--target", target)
        assert (code, out, len(err.splitlines())) == (2, "", 1) and message in err, err
    fast = FastRnn.from_pretrained(model)
    with pytest.raises(UserError, match="such as 0.95: found 1.5"):
        fast.predict(TEXTS, target=1.5)
    with pytest.raises(UserError, match="load it by from_pretrained"):
        FastRnn(fast.engine, fast.tokenizer).predict(TEXTS, target=0.95)
    (model / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes() + b" ")
    with pytest.raises(UserError, match="thresholds of another model"):
        fast.predict(TEXTS, target=0.95)
    with pytest.raises(UserError, match="models that choose one label"):
        Tagger.from_pretrained(tagger.folder).predict(TEXTS, target=0.95)
