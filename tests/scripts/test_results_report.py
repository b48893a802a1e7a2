"""The statistics of the results table, against the plain definitions; and the whole script on small data."""

import contextlib
import importlib.util
import json
import math
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import LABELS, NEUTRAL, invent_rows, run_script, write_rows
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast, pipeline

from hf_rnn import load_tsv
from hf_rnn.training.distillation.cross_fitting import fold_folder, write_folds
from hf_rnn.utils.errors import UserError

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def report(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    import results_report

    return results_report


def macro_recall(predictions, labels, classes):
    return np.mean([(predictions[labels == one] == one).mean() for one in range(classes)])


def test_the_interval_is_that_of_a_table(report):
    pytest.importorskip("scipy", reason="needs the extra baselines")
    mean, half = report.interval([0.4, 0.5, 0.6])
    assert mean == pytest.approx(0.5)
    assert half == pytest.approx(4.303 * 0.1 / math.sqrt(3), abs=1e-4), "t for two degrees of freedom, 97.5 %"
    assert report.interval([0.4])[0] == 0.4 and math.isnan(report.interval([0.4])[1])


@pytest.mark.parametrize("seed", range(5))
def test_a_name_in_the_figure_hides_no_interval_no_line_and_no_other_name(report, monkeypatch, tmp_path, seed):
    """Looked up in what was drawn: each interval as the bars that matplotlib made of it."""
    pyplot = pytest.importorskip("matplotlib.pyplot", reason="needs the extra plots")
    pytest.importorskip("scipy", reason="needs the extra baselines")
    monkeypatch.setattr(pyplot, "close", lambda chart: None)
    chance = np.random.default_rng(seed)
    results = [{"name": "majority class", "macro_recall": [0.33], "speed": 3000.0, "ours": False}]
    results[0]["texts_per_second"] = 3e7
    for number in range(9):
        values = list(0.4 + 0.15 * chance.random() + 0.02 * chance.random(3))
        name = f"a model by the number of {number}"
        results.append(
            {"name": name, "macro_recall": values, "speed": 10 ** chance.uniform(-3, 1), "ours": number > 4}
        )
        results[-1]["texts_per_second"] = results[-1]["speed"] * chance.uniform(9_000, 11_000)
    results.append({"name": "learns nothing", "macro_recall": [0.33] * 3, "speed": 2.0, "ours": True})
    results[-1]["texts_per_second"] = None
    report.figure(results, "a title", tmp_path / "figure.png")
    (axes,) = pyplot.gcf().axes
    monkeypatch.undo()
    axes.figure.canvas.draw()  # saving left it at another resolution
    (above,) = axes.child_axes
    rate = np.median([row["texts_per_second"] / row["speed"] for row in results[1:-1]])
    np.testing.assert_allclose(above.get_xlim(), np.multiply(axes.get_xlim(), rate))
    renderer = axes.figure.canvas.get_renderer()
    names = [text for text in axes.texts if text.get_text() != "majority class"]
    (majority,) = (text for text in axes.texts if text not in names)
    assert len(names) == 10, "premise: all are there"
    boxes = [pyplot.Text.get_window_extent(name, renderer) for name in names]
    bars = [bar for lines in axes.containers for lines in lines[2] for bar in lines.get_segments()]
    assert len(bars) == 10, "premise: an interval each"
    _, line = axes.transData.transform((1, 0.33))
    for number, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:number]), names[number].get_text()
        assert not box.overlaps(majority.get_window_extent(renderer)), names[number].get_text()
        assert not box.y0 < line < box.y1, f"{names[number].get_text()} lies over the line of the majority class"
        for bar in bars:
            (x, low), (_, high) = axes.transData.transform(bar)
            crossed = box.x0 < x < box.x1 and low < box.y1 and high > box.y0
            assert not crossed, f"{names[number].get_text()} lies over an interval"
    pyplot.close()


def test_the_bootstrap_is_a_loop_over_resamples(report, monkeypatch):
    monkeypatch.setattr(report, "RESAMPLES", 200)
    chance = np.random.default_rng(1)
    labels = np.concatenate([np.arange(3), chance.integers(0, 3, 117)])
    first = np.where(chance.random((2, 120)) < 0.7, labels, (labels + 1) % 3)
    second = np.where(chance.random((1, 120)) < 0.5, labels, (labels + 1) % 3)
    found, low, high = report.bootstrap(first, second, labels, classes=3, seed=7)

    def difference(rows):
        ours = np.mean([macro_recall(one[rows], labels[rows], 3) for one in first])
        return ours - macro_recall(second[0][rows], labels[rows], 3)

    again = np.random.default_rng(7)
    resampled = [difference(again.integers(0, 120, 120)) for _ in range(200)]
    assert found == pytest.approx(difference(np.arange(120)))
    assert (low, high) == pytest.approx(tuple(np.quantile(resampled, (0.025, 0.975))))
    assert low < found < high


def test_a_model_against_itself(report):
    labels = np.array([0, 1, 2] * 20)
    assert report.bootstrap(labels[None], labels[None], labels, classes=3) == (0, 0, 0)


def row(name, **changes):
    scores = {"accuracy": [0.5, 0.7], "macro_recall": [0.4, 0.6], "macro_f1": [0.3, 0.5]}
    sizes = {"seconds": 0.04, "parameters": 1234, "bytes": 5678, "speed": 4.38, "texts_per_second": 52345.6}
    return {"name": name, "ours": True, **scores, "f1_by_class": {"a": [0.2, 0.4], "b": [0.6]}, **sizes, **changes}


def test_the_table(report):
    pytest.importorskip("scipy", reason="needs the extra baselines")
    unknown = {"speed": None, "texts_per_second": None}
    rows = [row("one", **unknown, accuracy=[0.25]), row("two", above=(0.01, -0.02, 0.04))]
    _, _, first, second = report.table(rows, ["a", "b"]).splitlines()
    assert first == "| one | 0.250 | 0.500 ± 1.271 | 0.400 ± 1.271 | 0.300, 0.600 | 0.0 | 1,234 | 5,678 |  |  |  |"
    assert second.endswith("| 4.4 | 52,346 | +0.010 (-0.020 to +0.040) |")
    assert r"| F1 of a\|b, c |" in report.table(rows, ["a|b", "c"]), "a bar would end the cell"


@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_the_figure_names_each_point(report, tmp_path, monkeypatch, spread):
    """Also where all points lie in one place; where there is room no name lies on another."""
    pytest.importorskip("matplotlib", reason="needs the extra plots")
    from matplotlib import pyplot
    from matplotlib.text import Text

    kept = []
    monkeypatch.setattr(pyplot, "close", kept.append)
    rows = [
        row(
            f"a model with number {number}",
            speed=10.0 ** (spread * number / 4),
            macro_recall=[0.5 + spread * number / 9],
        )
        for number in range(12)
    ]
    report.figure([*rows, row("majority class", macro_recall=[0.3])], "a title", tmp_path / "figure.png")
    (chart,) = kept
    names = [text for text in chart.axes[0].texts if text.get_text().startswith("a model")]
    assert sorted(name.get_text() for name in names) == sorted(one["name"] for one in rows)
    boxes = [Text.get_window_extent(name, chart.canvas.get_renderer()) for name in names]
    over = sum(one.overlaps(other) for place, one in enumerate(boxes) for other in boxes[:place])
    assert (over == 0) == (spread > 0)


@pytest.mark.slow
def test_the_script(tmp_path, texts_dir):
    for package in ("sklearn", "matplotlib"):
        pytest.importorskip(package, reason="the script compares and draws with it")
    names = ["majority class", "TF-IDF words + logistic regression", "recipe `fast`"]
    command = [sys.executable, SCRIPTS / "reproduce_results.py", "--quick", "--data_dir", texts_dir]
    command += [part for name in names for part in ("--only", name)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        list(map(str, command)), cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out" / "results"
    assert done.stdout == (out / "results.md").read_text(encoding="utf-8")
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert [one["name"] for one in results] == names
    assert [len(one["accuracy"]) for one in results] == [1, 1, 2]
    assert results[2]["macro_recall"][0] > results[0]["macro_recall"][0] and results[0]["parameters"] == 1
    assert (out / "results.png").read_bytes().startswith(b"\x89PNG")
    kept = json.loads((out / "rows" / "recipe_fast.json").read_text(encoding="utf-8"))
    assert kept.items() <= results[2].items()
    (out / "rows" / "recipe_fast.json").write_text(json.dumps({**kept, "bytes": 7}), encoding="utf-8")
    left = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    for more, told in (
        (["--resume"], "| 7 |"),
        ([], "holds rows of an earlier run (majority_class.json, "),
        (["--resume", "--normalizer", "tweet"], "majority_class.json was made with other normalizer: remove it"),
    ):
        done = subprocess.run(
            [*map(str, command), *more], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == (0 if told in done.stdout else 2), done.stderr
        assert told in done.stdout + done.stderr
        assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == left
    done = subprocess.run([*map(str, command), "--only", "BERT"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "there is no row BERT; there are: majority class; " in done.stderr


@pytest.fixture
def crews(tmp_path):
    """Two folders of two cross-fitted teachers each, BERTs with random weights."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *NEUTRAL, "miro", "selk"]
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    folders = []
    with torch.random.fork_rng():
        for seed in (0, 1):
            torch.manual_seed(seed)
            folders.append(tmp_path / f"crew-{seed}")
            for fold in (0, 1):
                folder = fold_folder(folders[-1], fold)
                config = BertConfig(vocab_size=len(words), id2label=dict(enumerate(LABELS)), **shape)
                BertForSequenceClassification(config).save_pretrained(folder)
                BertTokenizerFast(vocab={word: index for index, word in enumerate(words)}).save_pretrained(folder)
            write_folds(folders[-1], 2)
    return folders


def test_the_row_of_cross_fitted_teachers(crews, texts_dir, tmp_path, monkeypatch, capsys):
    """Their mean, by transformers; a row of other teachers is in the way."""
    both = [pipeline("text-classification", str(fold_folder(crews[0], fold)), top_k=None) for fold in (0, 1)]
    texts = list(load_tsv(texts_dir)["validation"]["text"])
    expected = []
    for answers in zip(*(each(texts) for each in both), strict=True):
        scores = dict.fromkeys(LABELS, 0.0)
        for answer in answers:
            for found in answer:
                scores[found["label"]] += math.log(found["score"])
        expected.append(sorted(LABELS).index(max(scores, key=scores.__getitem__)))
    monkeypatch.syspath_prepend(SCRIPTS)
    command = ["reproduce_results.py", "--data_dir", texts_dir, "--only", "the teacher"]
    found = {}
    for crew in crews:
        out = tmp_path / f"of {crew.name}"
        monkeypatch.setattr(sys, "argv", [*map(str, command), "--teacher", str(crew), "--output_dir", str(out)])
        runpy.run_path(str(SCRIPTS / "reproduce_results.py"), run_name="__main__")
        written = (out / "results.json").read_text(encoding="utf-8")
        (found[crew],) = json.loads(written, parse_constant=pytest.fail)  # NaN is no JSON
    sys.argv += ["--resume", "--teacher", str(crews[0])]
    with pytest.raises(SystemExit):
        runpy.run_path(str(SCRIPTS / "reproduce_results.py"), run_name="__main__")
    assert "the_teacher.json was made with other files: remove it" in capsys.readouterr().err
    assert found[crews[0]]["predictions"] == [expected]
    assert found[crews[1]]["predictions"] != [expected], "premise: they differ"
    assert found[crews[0]]["parameters"] == sum(each.model.num_parameters() for each in both)
    more = ["--output_dir", str(tmp_path / "none"), "--teacher", str(crews[1]), "--teacher_labels", "a", "b", "c"]
    monkeypatch.setattr(sys, "argv", [*map(str, command), *more])
    capsys.readouterr()
    for told in ("teacher_labels gives 'a', 'b', 'c', and the teacher fold-1 itself", "folds.json cannot be read"):
        with pytest.raises(SystemExit) as stopped:
            runpy.run_path(str(SCRIPTS / "reproduce_results.py"), run_name="__main__")
        assert stopped.value.code == 2 and told in capsys.readouterr().err
        (crews[1] / "folds.json").write_text("{}")


def test_a_kept_row_is_of_the_same_labels(crews, tmp_path, texts_dir, monkeypatch):
    """Other names for the teacher's ids make another row; a file that cannot be read makes none."""
    monkeypatch.syspath_prepend(SCRIPTS)
    import reproduce_results
    import results_models

    def made_from(labels):
        rows = results_models.models(crews[0], None, tmp_path, labels)
        return {model.name: (model.choices, sorted(path.name for path in model.files)) for model in rows}

    assert made_from(None)["the teacher"] != made_from(["b", "a", "c"])["the teacher"]
    assert made_from(None)["the teacher"] == made_from(None)["the teacher"]
    assert "config.json" in made_from(None)["the teacher"][1], "which has the names of the labels"
    (tmp_path / "row.json").write_text('{"name": "x"')
    assert reproduce_results.read_row(tmp_path / "row.json") == reproduce_results.read_row(tmp_path / "none") == {}


@pytest.mark.parametrize(("ending", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_the_benchmark_draws_the_rows(ending, start, texts_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(SCRIPTS)
    import benchmark
    import results_models
    import results_texts

    def learn(texts, seed, room, once):
        return results_texts.Learned(lambda some: np.arange(len(some)) % 2, 0.1, 10, 100)

    rows = [results_models.Model(name, learn) for name in ("recipe `fast`", "a peer")]
    monkeypatch.setattr(results_models, "models", lambda *_: rows)
    benchmark.draw(texts_dir, tmp_path / f"speed.{ending}")
    assert "recipe `fast`" in (told := capsys.readouterr().out) and "a peer" in told
    assert (tmp_path / f"speed.{ending}").read_bytes().startswith(start)


@pytest.mark.parametrize(
    ("flags", "seeds", "only"),
    [([], 5, None), (["--quick"], 2, 5), (["--quick", "--seeds", "7"], 7, 5), (["--quick", "--teacher", "T"], 2, 7)],
)
def test_quick_leaves_out_nothing_that_was_asked_for(flags, seeds, only, crews, monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    import reproduce_results

    argv = ["reproduce_results.py", *(str(crews[0]) if flag == "T" else flag for flag in flags)]
    monkeypatch.setattr(sys, "argv", argv)
    found = reproduce_results.parse_flags()
    assert (found.seeds, found.only and len(found.only)) == (seeds, only)
    assert not found.asked, "what is not installed is left out"


def test_a_row_that_was_asked_for_and_cannot_be_made(texts_dir, tmp_path, monkeypatch, capsys):
    """What to install is told at once; with --quick the others are made."""
    monkeypatch.syspath_prepend(SCRIPTS)
    import results_models

    monkeypatch.setattr(results_models.importlib.util, "find_spec", lambda name: None if name == "fasttext" else name)
    command = ["--data_dir", texts_dir, "--output_dir", tmp_path / "out"]
    for row, told in (
        ("fastText", "--only 'fastText' needs fasttext: pip install '.[bench]'"),
        ("fastTxt", "there is no row fastTxt; there are: majority class; TF-IDF words"),
    ):
        asked = [*command, "--only", "majority class", "--only", row]
        code, out, err = run_script(SCRIPTS / "reproduce_results.py", asked, monkeypatch, capsys)
        assert (code, out) == (2, "") and err.startswith(f"reproduce_results.py: error: {told}")
        assert err.count("\n") == 1 and not (tmp_path / "out").exists()
    asked = [*command, "--only", "majority class"]
    code, out, err = run_script(SCRIPTS / "reproduce_results.py", asked, monkeypatch, capsys)
    assert code == 0 and "| majority class |" in out, err


def test_unlabelled_texts_make_a_row_of_their_own(crews, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    import results_models

    file = tmp_path / "texts.txt"
    file.write_text("a text\n")
    asked = []
    monkeypatch.setattr(results_models, "recurrent", lambda **settings: asked.append(settings))
    without, more = (results_models.models(crews[0], given, tmp_path) for given in (None, file))
    assert [row.name for row in more if row.name not in [one.name for one in without]] == [
        "distilled, with unlabelled texts"
    ]
    assert [file in row.files for row in more[-3:]] == [False, True, False], "a kept row is of this file only"
    *_, plain, unlabelled = asked
    assert unlabelled == {**plain, "unlabeled": str(file)} and plain["teacher"] == str(crews[0])


def test_the_speed_is_that_of_the_model_over_that_of_the_yardstick(monkeypatch):
    """By a clock that passes with the texts; no pass sees a text again, and a slow model reads a part of each."""
    monkeypatch.syspath_prepend(SCRIPTS)
    import reproduce_results

    now, read = [0.0], {"model": [], "yardstick": []}
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    def answer(name, seconds):
        def classify(some):
            read[name].append(list(some))
            now[0] += seconds * len(some)

        return classify

    texts = [f"text {number}" for number in range(1200)]
    found = reproduce_results.measure_speed(answer("model", 0.02), answer("yardstick", 0.05), texts)
    assert found == pytest.approx((2.5, 50))
    for name, amount in (("model", 100), ("yardstick", 200)):
        first, *passes = read[name]
        assert len(first) == 100 and [len(some) for some in passes] == 5 * [amount], "two seconds of the model a pass"
        seen = [text for some in read[name] for text in some]
        assert len(set(seen)) == len(seen)


def test_a_row_has_all_runs(report, texts_dir):
    """Scores by seed and class, by scikit-learn; the time is the median of the runs."""
    metrics = pytest.importorskip("sklearn.metrics", reason="needs the extra baselines")
    import reproduce_results
    import results_texts

    texts = results_texts.Texts(texts_dir, "none")
    chance = np.random.default_rng(0)
    said = [chance.integers(0, 3, len(texts.dev_labels)) for _ in range(3)]
    learned = [results_texts.Learned(lambda _: None, seconds, 10, 100) for seconds in (1.0, 9.0, 3.0)]
    row = reproduce_results.describe("recipe `x`", texts, learned, said)
    true = texts.dev_labels
    assert row["accuracy"] == pytest.approx([metrics.accuracy_score(true, one) for one in said])
    assert row["macro_recall"] == pytest.approx([metrics.recall_score(true, one, average="macro") for one in said])
    assert row["macro_f1"] == pytest.approx([metrics.f1_score(true, one, average="macro") for one in said])
    by_class = [metrics.f1_score(true, one, average=None) for one in said]
    assert pytest.approx(np.array(by_class)) == np.array(list(row["f1_by_class"].values())).T
    assert list(row["f1_by_class"]) == texts.names and row["seconds"] == 3 and row["ours"]
    assert row["predictions"] == [one.tolist() for one in said]


def refuse_rows(arguments, monkeypatch, capsys, models):
    """Run reproduce_results.py with these models to its end; return code and stderr."""
    import results_models

    monkeypatch.setattr(results_models, "models", lambda *_: models)
    code, out, err = run_script(SCRIPTS / "reproduce_results.py", arguments, monkeypatch, capsys)
    assert out == ""
    return code, err


def test_rows_in_the_way_are_told_before_the_first_is_made(report, texts_dir, tmp_path, monkeypatch, capsys):
    import results_models

    def learn(texts, seed, room, once):
        raise KeyboardInterrupt

    models = [results_models.Model(name, learn) for name in ("first", "second")]
    rows = tmp_path / "rows"
    rows.mkdir()
    (rows / "second.json").write_text(json.dumps({"name": "second", "made_from": {"seeds": 7}}))
    flags = ["--data_dir", texts_dir, "--output_dir", tmp_path, "--resume"]
    code, err = refuse_rows(flags, monkeypatch, capsys, models)
    assert code == 2 and "second.json was made with other normalizer, seeds, texts: remove it" in err
    (rows / "second.json").unlink()
    ours = [results_models.Model("recipe `second`", learn)]
    (rows / "recipe_second.json").write_text(json.dumps({"name": "second", "made_from": {}}))
    code, err = refuse_rows(flags, monkeypatch, capsys, ours)
    assert code == 2 and "recipe_second.json was made with other normalizer, recipes, seeds, texts" in err
    (rows / "recipe_second.json").unlink()
    code, err = refuse_rows(flags, monkeypatch, capsys, models)
    assert code == 130 and err.splitlines()[-1] == "stopped: --resume keeps the rows that are ready"


@pytest.mark.parametrize("script", ["reproduce_results.py", "benchmark.py"])
def test_what_draws_is_there_before_the_first_row_is_made(report, script, tmp_path, monkeypatch, capsys):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else found(name))
    flags = ["--plot", tmp_path / "x.png"] if script == "benchmark.py" else ["--output_dir", tmp_path / "out"]
    code, out, err = run_script(SCRIPTS / script, flags, monkeypatch, capsys)
    assert (code, out) == (2, "") and "matplotlib: pip install '.[bench]'" in err.splitlines()[-1]
    assert not list(tmp_path.iterdir())


def test_unlabelled_texts_are_looked_at_before_the_first_row_is_made(
    crews, report, texts_dir, tmp_path, monkeypatch, capsys
):
    flags = ["--data_dir", texts_dir, "--output_dir", tmp_path / "out", "--teacher", crews[0]]
    flags += ["--unlabeled", texts_dir / "train.tsv", "--only", "majority class"]
    monkeypatch.syspath_prepend(SCRIPTS)
    code, out, err = run_script(SCRIPTS / "reproduce_results.py", flags, monkeypatch, capsys)
    assert (code, out) == (2, "") and "train.tsv, line 1: a column with the label" in err
    assert not (tmp_path / "out").exists()


def test_linear_rows_are_those_of_scikit_learn(report, tmp_path):
    """The strength is chosen on the validation rows, and the texts are read as the normaliser leaves them."""
    pytest.importorskip("sklearn", reason="needs the extra baselines")
    import results_peers
    import results_texts
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import f1_score
    from sklearn.pipeline import make_pipeline, make_union

    chance = np.random.default_rng(3)
    for name, count in {"train": 60, "dev": 60}.items():
        rows = invent_rows(count, seed=count)[: 50 if name == "train" else 60]
        rows = [
            (f"{text} 12{number}", label if chance.random() < 0.6 else "bad")
            for number, (text, label) in enumerate(rows)
        ]
        write_rows(tmp_path / f"{name}.tsv", rows)
    texts = results_texts.Texts(tmp_path, "tweet")
    assert texts.normalize("at 129") != "at 129", "premise: it rewrites numbers"
    rows, dev = ([texts.normalize(text) for text in some] for some in (texts.texts, texts.dev_texts))
    for characters in (False, True):
        made = results_peers.linear(characters)(texts, 0, tmp_path, {})
        tried = {}
        for strength in (0.3, 1.0, 3.0, 10.0):
            parts = [TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\S+", sublinear_tf=True)]
            if characters:
                parts.append(TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), min_df=2, sublinear_tf=True))
            regression = LogisticRegression(C=strength, class_weight="balanced", max_iter=2000)
            model = make_pipeline(make_union(*parts), regression).fit(rows, texts.labels)
            tried[strength] = f1_score(texts.dev_labels, model.predict(dev), average="macro"), model
        best = max(tried, key=lambda strength: tried[strength][0])
        assert len({round(score, 9) for score, _ in tried.values()}) > 1, "premise: the strength matters"
        assert made.settings == {"C": best}
        model = tried[best][1]
        assert list(made.classify(texts.dev_texts)) == list(model.predict(dev))
        assert made.parameters == 3 * (len(model[0].get_feature_names_out()) + 1)


def test_the_commonest_class_of_the_rows_that_can_be_read(report, tmp_path):
    import results_peers
    import results_texts

    write_rows(tmp_path / "train.tsv", [("a b", "x"), ("a c", "y"), ("b a", "y"), ("a d", "x"), ("a", "y"), ("b", "")])
    write_rows(tmp_path / "dev.tsv", [("a", "x"), ("b", "x")])
    with pytest.raises(UserError, match="train.tsv:6"):
        results_texts.Texts(tmp_path, "none")
    texts = results_texts.Texts(tmp_path, "none", "1")
    assert list(results_peers.majority(texts, 0, tmp_path, {}).classify(["q", "r"])) == [1, 1]


def test_rows_are_compared_with_the_row_above_and_kept(report, texts_dir, tmp_path, monkeypatch):
    """One that is right in two thirds of the texts, below one that always says the same; both made only once."""
    import reproduce_results
    import results_models
    import results_texts

    folder = shutil.copytree(texts_dir, tmp_path / "texts")
    texts = results_texts.Texts(folder, "none")
    true, made = np.array(texts.dev_labels), []

    def yardstick(texts, seed, room, once):
        return results_texts.Learned(lambda some: np.full(len(some), 7), 1.0, 10, 100)

    def measure_speed(model, peer, timed):
        assert timed == texts.texts, "a tokenizer remembers the words of those that were answered before"
        assert list(peer(["a text"])) == [7] and list(model(["a text"])) == [0]
        return 2.0, 30_000.0

    def always(texts, seed, room, once):
        made.append(("always", seed))
        return results_texts.Learned(lambda some: np.zeros(len(some), dtype=int), 1.0, 10, 100)

    def mostly(texts, seed, room, once):
        made.append(("mostly", seed, once.setdefault("first", seed)))
        said = {text: label if label else 1 for text, label in zip(texts.dev_texts, true, strict=True)}
        return results_texts.Learned(lambda some: np.array([said.get(text, 0) for text in some]), 1.0, 10, 100)

    monkeypatch.setattr(reproduce_results, "measure_speed", measure_speed)
    monkeypatch.setattr(results_models, "YARDSTICK", results_models.Model("yardstick", yardstick))
    rows = tmp_path / "rows"
    rows.mkdir()
    models = [
        results_models.Model("always", always, draws=False),
        results_models.Model("absent", always, ("no_such_package",)),
        results_models.Model("mostly", mostly),
    ]
    for _ in range(2):
        first, second = reproduce_results.compare(texts, models, 2, rows)
        assert "above" not in first
        assert second["above"][0] == pytest.approx(2 / 3 - 1 / 3)
        assert (len(first["accuracy"]), len(second["accuracy"])) == (1, 2)
        assert made == [("always", 0), ("mostly", 0, 0), ("mostly", 1, 0)], "nothing is made twice"
    assert sorted(path.name for path in rows.iterdir()) == ["always.json", "mostly.json"]
    assert (first["speed"], second["speed"]) == (2, 2)
    assert (first["texts_per_second"], second["texts_per_second"]) == (30_000, 30_000)
    for name, kept in (("test", True), ("dev", False)):
        with (folder / f"{name}.tsv").open("a") as file:
            file.write("one more\tplain\n")
        with contextlib.nullcontext() if kept else pytest.raises(UserError, match="made with other texts: remove it"):
            reproduce_results.compare(texts, models, 2, rows)


def test_which_runs_write_the_table(report, texts_dir, tmp_path, monkeypatch, capsys):
    """A run that shares the work makes rows only; without --resume none is replaced."""
    import results_models
    import results_texts

    def learn(texts, seed, room, once):
        return results_texts.Learned(lambda some: np.zeros(len(some), dtype=int), 1.0, 10, 100)

    monkeypatch.setattr(results_models, "YARDSTICK", results_models.Model("yardstick", learn, ("no_such_package",)))
    models = [results_models.Model(name, learn) for name in ("one", "two")]
    monkeypatch.setattr(results_models, "models", lambda *_: models)
    flags = ["--data_dir", texts_dir, "--output_dir", tmp_path, "--seeds", 1]

    def run(*more):
        code, out, err = run_script(SCRIPTS / "reproduce_results.py", [*flags, *more], monkeypatch, capsys)
        assert code == 0, err
        return out

    assert "| two |" in run("--resume", "--only", "two")
    assert [path.name for path in tmp_path.iterdir()] == ["rows"]
    written = run("--resume")
    assert written == (tmp_path / "results.md").read_text(encoding="utf-8")
    assert [row["name"] for row in json.loads((tmp_path / "results.json").read_text())] == ["one", "two"]
    code, out, err = run_script(SCRIPTS / "reproduce_results.py", flags, monkeypatch, capsys)
    assert (code, out) == (2, "") and "holds rows of an earlier run (one.json, two.json): " in err


def test_what_a_row_of_ours_is_trained_with(report, texts_dir, tmp_path, monkeypatch):
    """The seed of the run, the normaliser unless the tokens are another model's, and the tutorial's last epoch."""
    import results_models
    import results_texts

    import hf_rnn

    asked = []
    for verb in ("train", "distill"):
        found = SimpleNamespace(folder=Path("made"), metrics={"training": {"seconds": 1.0}})
        monkeypatch.setattr(
            hf_rnn, verb, lambda found=found, verb=verb, **given: (asked.append({**given, "verb": verb}), found)[1]
        )
    monkeypatch.setattr(results_models, "_finished", lambda folder, training: folder)
    monkeypatch.setattr(results_models, "glove", lambda room: "vectors")
    monkeypatch.setattr(results_models, "minilm", lambda room: "encoder")
    texts = results_texts.Texts(texts_dir, "tweet", "3")
    rows = {model.name: model for model in results_models.models(None, None, tmp_path)}
    given = {}
    for name, model in rows.items():
        if name.startswith("recipe"):
            assert model.learn(texts, 4, tmp_path, {}) == Path("made") and model.draws
            given[name] = asked[-1]
    assert len(given) == 7
    for name, settings in given.items():
        assert (settings["seed"], settings["data_seed"], settings["max_bad_rows"]) == (4, 4, "3")
        assert settings["data_dir"] == str(texts_dir) and settings["verb"] == "train"
        assert f"`{settings['recipe']}`" in name
        assert settings.get("normalizer") == (None if "tokens" in name else "tweet")
        assert settings.get("load_best_model_at_end", True) == ("tutorial" not in name)
    cells = [settings.get("cell_type") for name, settings in given.items() if "tutorial" in name]
    assert cells == [None, "gru", "lstm"]
    frozen = given["recipe `best` from MiniLM's tokens and table, frozen"]
    assert frozen["vectors"] == frozen["tokenizer_name_or_path"] == "encoder"
    assert (frozen["freeze_embedding"], frozen["embedding_dropout"]) == (True, 0.5)
    assert given["recipe `best` from GloVe 50 d"]["vectors"] == "vectors"


def test_a_finished_model_answers_with_its_own_classes(report, trained, texts_dir):
    import results_models

    texts = list(load_tsv(texts_dir)["validation"]["text"])
    made = results_models._finished(trained.folder, trained.metrics["training"])
    classify = pipeline("text-classification", str(trained.folder))
    assert [classify.model.config.id2label[one] for one in made.classify(texts)] == [
        answer["label"] for answer in classify(texts)
    ]
    assert made.parameters == classify.model.num_parameters()
    files = ("model.safetensors", "tokenizer.json", "config.json")
    assert made.bytes == sum((trained.folder / name).stat().st_size for name in files)


def test_the_frozen_encoder_has_its_best_strength(report, texts_dir, tmp_path, monkeypatch):
    pytest.importorskip("sklearn", reason="needs the extra baselines")
    import benchmark_peers
    import results_peers
    import results_texts
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import f1_score

    def encode(some):
        return np.stack([np.random.default_rng(len(text) + 7 * ("miro" in text)).normal(size=4) for text in some])

    monkeypatch.setattr(benchmark_peers, "minilm_encoder", lambda threads: (encode, 77, 88))
    texts = results_texts.Texts(texts_dir, "none")
    made = results_peers.frozen_encoder(texts, 0, tmp_path, {})
    tried = {}
    for strength in (0.3, 1.0, 3.0, 10.0):
        model = LogisticRegression(C=strength, class_weight="balanced", max_iter=3000)
        said = model.fit(encode(texts.texts), texts.labels).predict(encode(texts.dev_texts))
        tried[strength] = f1_score(texts.dev_labels, said, average="macro"), list(said)
    assert len({score for score, _ in tried.values()}) > 1, "premise: the strength matters"
    best = max(tried, key=lambda strength: tried[strength][0])
    assert made.settings == {"C": best} and list(made.classify(texts.dev_texts)) == tried[best][1]
    assert (made.bytes, made.parameters) == (77, 88)


def test_fasttext_chooses_once_and_draws_with_each_seed(report, texts_dir, tmp_path, monkeypatch):
    library = pytest.importorskip("fasttext", reason="needs the extra bench")
    import results_peers
    import results_texts

    texts = results_texts.Texts(texts_dir, "none")
    right = {" ".join(text.split()): label for text, label in zip(texts.dev_texts, texts.dev_labels, strict=True)}
    tried = []

    class Fake:
        def __init__(self, **settings):
            tried.append(settings)
            if settings["lr"] == 0.6:
                raise RuntimeError("Encountered NaN.")
            self.good = (settings["lr"], settings["epoch"], settings["wordNgrams"], settings["minn"]) == (
                0.3,
                15,
                2,
                3,
            )

        def predict(self, some):
            return [[f"__label__{right[text] if self.good else 0}"] for text in some], None

        def save_model(self, path):
            Path(path).write_bytes(b"12345")

        def get_input_matrix(self):
            return np.zeros((3, 2))

        get_output_matrix = get_input_matrix

    monkeypatch.setattr(library, "train_supervised", lambda file, **settings: Fake(**settings))
    once = {}
    made = [results_peers.fasttext(texts, seed, tmp_path, once) for seed in (0, 1)]
    assert once == {"lr": 0.3, "epoch": 15, "wordNgrams": 2, "minn": 3, "maxn": 5}
    assert len(tried) == 3 * 3 * 2 * 2 + 2 and [settings["seed"] for settings in tried[-2:]] == [0, 1]
    assert all(list(one.classify(texts.dev_texts)) == texts.dev_labels for one in made)
    assert (made[0].bytes, made[0].parameters, made[0].settings) == (5, 12, once)
