"""With a target each answer says whether it is for a person, by the file of thresholds."""

import json
import math
import pickle
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from conftest import LABELS, invent_rows, run_python
from safetensors.torch import load_file, save_file

from hf_rnn import BatchPredictor, FastRnn, Tagger
from hf_rnn.evaluation.decisions import choose_thresholds, write_thresholds
from hf_rnn.hub.model_folder import load_model
from hf_rnn.inference.engine import hash_weights
from hf_rnn.utils.errors import UserError

TEXTS = [text for text, _ in invent_rows(50, seed=7)]


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory):
    """The trained model with thresholds for 0.8, and for 0.95: a person checks all `good` ones."""
    folder = tmp_path_factory.mktemp("decided") / "model"
    shutil.copytree(
        trained.folder, folder, ignore=shutil.ignore_patterns("checkpoints", "thresholds.json")
    )
    rows = invent_rows(150, seed=8)
    model = FastRnn.from_pretrained(folder)
    scores = model.predict_proba([text for text, _ in rows])
    labels = np.array([LABELS.index(label) for _, label in rows])
    chosen = [choose_thresholds(scores, labels, LABELS, target) for target in (0.8, 0.95)]
    chosen[1].by_label.update(
        good=None, bad=float(np.median(scores[:, 0][scores.argmax(axis=1) == 0]))
    )
    write_thresholds(folder / "thresholds.json", model.fingerprint, chosen)
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


def test_the_kernel_decides_without_torch_and_scipy(folder, expected):
    program = """if True:
        import json, sys
        for name in ("torch", "transformers", "scipy", "matplotlib", "sklearn"):
            sys.modules[name] = None
        from hf_rnn import FastRnn
        fast = FastRnn.from_pretrained(sys.argv[1])
        answers = fast.predict(json.loads(sys.argv[2]), target=0.95)
        print(json.dumps([answer["for_a_person"] for answer in answers]))
    """
    assert json.loads(run_python(program, folder, json.dumps(TEXTS))) == expected


def test_mistakes_are_one_line(folder, trained, tagger, command, tmp_path):
    model = shutil.copytree(folder, tmp_path / "model")
    for name, target, message in (
        (model, 1.5, "target must be"),
        (
            model,
            0.5,
            f"has thresholds for 0.8, 0.95 alone: "
            f"for 0.5 type hf-rnn evaluate {model} DATA --target 0.5",
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
    with pytest.raises(UserError, match="models that choose one label"):
        Tagger.from_pretrained(tagger.folder).predict(TEXTS, target=0.95)


def scale_head(folder, factor):
    """Change the weights of a folder, in however many files."""
    for path in folder.glob("model*.safetensors"):
        weights = load_file(path)
        for name in weights:
            if name.startswith("classifier."):
                weights[name] = weights[name] * factor
        save_file(weights, path, metadata={"format": "pt"})


@pytest.mark.parametrize("form", ["one file", "several files"])
def test_thresholds_of_other_weights_are_refused(folder, command, tmp_path, form):
    """Several files were not compared, and answers with another sign stood alone."""
    copy = shutil.copytree(folder, tmp_path / "model")
    expected = FastRnn.from_pretrained(copy).predict(TEXTS, target=0.8)
    if form == "several files":
        model, _ = load_model(copy)
        model.save_pretrained(copy, max_shard_size="1KB")
        (copy / "model.safetensors").unlink()
    fast = FastRnn.from_pretrained(copy)
    assert fast.predict(TEXTS, target=0.8) == expected, "the same weights in other files"
    rows = pd.DataFrame(invent_rows(60, seed=3), columns=["text", "label"])
    rows.to_csv(tmp_path / "rows.csv", index=False)
    assert command("evaluate", copy, tmp_path / "rows.csv", "--target", 0.8)[0] == 0
    scale_head(copy, -3)
    assert fast.predict(TEXTS, target=0.8) == expected, "old weights with old thresholds"
    other = FastRnn.from_pretrained(copy)
    for predict in (other, pickle.loads(pickle.dumps(other))):
        with pytest.raises(UserError, match="thresholds of other weights"):
            predict.predict(TEXTS, target=0.8)
    code, _, err = command("evaluate", copy, tmp_path / "rows.csv", "--target", 0.8)
    assert code == 2 and "thresholds of other weights" in err
    flags = ("--target", 0.8, "--choose")
    assert command("evaluate", copy, tmp_path / "rows.csv", *flags)[0] == 0
    assert FastRnn.from_pretrained(copy).predict(TEXTS, target=0.8)
    with pytest.raises(UserError, match="other weights"):
        other.predict(TEXTS, target=0.8)


def test_thresholds_written_after_loading_are_not_of_this_model(folder, tmp_path):
    """A folder that was trained again meanwhile gave old weights with new thresholds."""
    copy = shutil.copytree(folder, tmp_path / "model")
    fast = FastRnn.from_pretrained(copy)
    expected = FastRnn.from_pretrained(folder).predict(TEXTS, target=0.8)
    scale_head(copy, 0.1)
    again = FastRnn.from_pretrained(copy).fingerprint
    stored = json.loads((copy / "thresholds.json").read_text())
    (copy / "thresholds.json").write_text(json.dumps(stored | {"model": again}))
    assert fast.predict(TEXTS, target=0.8) == expected


def test_engines_have_one_fingerprint(folder, tmp_path, monkeypatch):
    export = pytest.importorskip("hf_rnn.export", reason="the extra onnx is not installed").export
    copy = shutil.copytree(folder, tmp_path / "model")
    page = export(copy, web=True).web
    assert (page / "thresholds.json").read_bytes() == (copy / "thresholds.json").read_bytes()
    stored = json.loads((copy / "thresholds.json").read_text())["model"]
    content = (page / "index.html").read_text()
    assert f'"weights": "{stored}"' in content and "decisions?.model === model.weights" in content
    found = [FastRnn.from_pretrained(copy)]
    monkeypatch.setattr("hf_rnn.inference.native.load_library", lambda: None)
    found.append(FastRnn.from_pretrained(copy))
    assert type(found[1].engine).__name__ == "TorchEngine", "premise"
    assert {model.fingerprint for model in found} == {stored}
    (copy / "thresholds.json").write_text(
        json.dumps(json.loads((copy / "thresholds.json").read_text()) | {"model": "another"})
    )
    with pytest.raises(UserError, match="thresholds of other weights"):
        FastRnn.from_pretrained(copy).predict(TEXTS[:1], target=0.8)


def test_scores_are_compared_as_they_were_chosen(folder, command, tmp_path):
    """In float32: for 15 of 16 targets one row more stood alone in `evaluate` than in `predict`."""
    rows = pd.DataFrame(invent_rows(400, seed=11), columns=["text", "label"])
    rows["text"] += [f" w{number}" for number in range(400)]  # new texts
    rows.loc[::7, "label"] = "good"
    rows.to_csv(tmp_path / "rows.csv", index=False)
    copy = shutil.copytree(folder, tmp_path / "model")
    for target in np.arange(0.6, 0.92, 0.04).round(2):
        flags = ("--target", target, "--choose")
        _, out, _ = command("evaluate", copy, tmp_path / "rows.csv", *flags)
        share = json.loads(out)["without_a_person"]["chosen_on"]["share"]
        answers = FastRnn.from_pretrained(copy).predict(rows["text"].tolist(), target=target)
        assert np.mean([not answer["for_a_person"] for answer in answers]) == share


def test_a_fingerprint_is_of_all_weights():
    weights = {"a": np.ones((2, 3), np.float32), "b": np.zeros(0, np.uint16)}
    whole = hash_weights(weights)
    assert hash_weights(dict(reversed(weights.items()))) == whole
    for change in (
        {"a": np.ones((3, 2), np.float32)},
        {"a": np.ones((2, 3), np.int32)},
        {"a": np.full((2, 3), 1.5, np.float32)},
        {"c": np.zeros(0, np.uint16)},
    ):
        assert hash_weights(weights | change) != whole
