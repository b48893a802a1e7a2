"""The statistics behind published numbers, against plain definitions; the whole scripts on small data."""

import itertools
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import LABELS, run_script
from results import measure_seeds, models, report, reproduce_results, tutorial_ablation

SCRIPTS = Path(__file__).parents[2] / "scripts" / "results"


def test_interval():
    pytest.importorskip("scipy", reason="needs the extra baselines")
    mean, half = report.interval([0.4, 0.5, 0.6])
    assert mean == pytest.approx(0.5)
    assert half == pytest.approx(4.303 * 0.1 / math.sqrt(3), abs=1e-4), "t for two degrees of freedom, 97.5 %"
    assert report.interval([0.4])[0] == 0.4 and math.isnan(report.interval([0.4])[1])


def test_bootstrap_is_a_loop_over_resamples(monkeypatch):
    monkeypatch.setattr(report, "RESAMPLES", 200)
    generator = np.random.default_rng(1)
    labels = np.concatenate([np.arange(3), generator.integers(0, 3, 117)])
    first = np.where(generator.random((2, 120)) < 0.7, labels, (labels + 1) % 3)
    second = np.where(generator.random((1, 120)) < 0.5, labels, (labels + 1) % 3)

    def recall(predictions, rows):
        return np.mean([(predictions[rows][labels[rows] == one] == one).mean() for one in range(3)])

    def difference(rows):
        return np.mean([recall(one, rows) for one in first]) - recall(second[0], rows)

    found, low, high = report.bootstrap(first, second, labels, classes=3, seed=7)
    again = np.random.default_rng(7)
    resampled = [difference(again.integers(0, 120, 120)) for _ in range(200)]
    assert found == pytest.approx(difference(np.arange(120)))
    assert (low, high) == pytest.approx(tuple(np.quantile(resampled, (0.025, 0.975))))


def make_row(name, **changes):
    scores = {"accuracy": [0.5, 0.7], "macro_recall": [0.4, 0.6], "macro_f1": [0.3, 0.5]}
    sizes = {"seconds": 0.04, "parameters": 1234, "bytes": 5678, "speed": 4.38, "texts_per_second": 52345.6}
    return {"name": name, "ours": True, **scores, "f1_by_class": {"a": [0.2, 0.4], "b": [0.6]}, **sizes, **changes}


def test_table():
    pytest.importorskip("scipy", reason="needs the extra baselines")
    unknown = {"speed": None, "texts_per_second": None}
    rows = [make_row("one", **unknown, accuracy=[0.25]), make_row("two", above=(0.01, -0.02, 0.04))]
    _, _, first, second = report.make_table(rows, ["a", "b"]).splitlines()
    assert first == "| one | 0.250 | 0.500 ± 1.271 | 0.400 ± 1.271 | 0.300, 0.600 | 0.0 | 1,234 | 5,678 |  |  |  |"
    assert second.endswith("| 4.4 | 52,346 | +0.010 (-0.020 to +0.040) |")


@pytest.mark.slow
def test_figure_names_each_point_in_a_free_place(tmp_path, monkeypatch):
    pyplot = pytest.importorskip("matplotlib.pyplot", reason="needs the extra plots")
    charts = []
    monkeypatch.setattr(pyplot, "close", charts.append)
    rows = [make_row(f"model {n}", speed=10.0 ** (n / 4), macro_recall=[0.5 + n / 9]) for n in range(9)]
    report.draw([*rows, make_row("majority class", macro_recall=[0.3])], "a title", tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    names = [text for text in charts[0].axes[0].texts if text.get_text().startswith("model")]
    boxes = [pyplot.Text.get_window_extent(name, charts[0].canvas.get_renderer()) for name in names]
    assert len(names) == 9
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))


def test_speed_is_relative_to_the_yardstick(monkeypatch):
    """By a clock that advances with the texts; no pass repeats a text, and a slow model reads a part of each."""
    now, read = [0.0], {"model": [], "yardstick": []}
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    def make(name, seconds):
        def classify(some):
            read[name].append(list(some))
            now[0] += seconds * len(some)

        return classify

    texts = [f"text {number}" for number in range(1200)]
    found = reproduce_results.measure_speed(make("model", 0.02), make("yardstick", 0.05), texts)
    assert found == pytest.approx((2.5, 50))
    for name, amount in (("model", 100), ("yardstick", 200)):
        assert [len(some) for some in read[name]] == [100, *5 * [amount]], "two seconds of the model per pass"
        seen = [text for some in read[name] for text in some]
        assert len(set(seen)) == len(seen)


def test_a_row_has_the_scores_of_all_seeds(texts_dir):
    """By scikit-learn; the time is the median."""
    metrics = pytest.importorskip("sklearn.metrics", reason="needs the extra baselines")
    texts = models.Texts(texts_dir, "none")
    generator = np.random.default_rng(0)
    predicted = [generator.integers(0, 3, len(texts.dev_labels)) for _ in range(3)]
    learned = [models.Learned(lambda _: None, seconds, 10, 100) for seconds in (1.0, 9.0, 3.0)]
    row = reproduce_results.describe(models.Model("recipe `x`", None), texts, learned, predicted)
    true = texts.dev_labels
    assert row["accuracy"] == pytest.approx([metrics.accuracy_score(true, one) for one in predicted])
    assert row["macro_recall"] == pytest.approx(
        [metrics.recall_score(true, one, average="macro") for one in predicted]
    )
    assert row["macro_f1"] == pytest.approx([metrics.f1_score(true, one, average="macro") for one in predicted])
    by_class = np.array([metrics.f1_score(true, one, average=None) for one in predicted])
    np.testing.assert_allclose(np.array(list(row["f1_by_class"].values())).T, by_class)
    assert list(row["f1_by_class"]) == texts.names and row["seconds"] == 3 and row["ours"]


@pytest.mark.slow
def test_kept_rows(texts_dir, tmp_path, monkeypatch, capsys):
    """A second run needs --resume, keeps the rows, and refuses those of other settings."""
    pytest.importorskip("sklearn", reason="needs the extra baselines")
    pytest.importorskip("matplotlib", reason="needs the extra plots")
    command = ["--data_dir", texts_dir, "--output_dir", tmp_path, "--only", "majority class"]

    def reproduce(*more):
        return run_script(SCRIPTS / "reproduce_results.py", [*command, *more], monkeypatch, capsys)

    code, out, err = reproduce()
    assert code == 0 and "| majority class | 0.333 |" in out, err
    assert out == (tmp_path / "results.md").read_text(encoding="utf-8")
    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")
    kept = tmp_path / "rows" / "majority_class.json"
    kept.write_text(kept.read_text().replace('"bytes": 1,', '"bytes": 7,'))
    assert "holds rows of an earlier run" in reproduce()[2]
    assert "| 7 |" in reproduce("--resume")[1]
    code, _, err = reproduce("--resume", "--normalizer", "tweet")
    assert code == 2 and "made with other normalizer" in err
    assert "unknown row" in reproduce("--resume", "--only", "BERT")[2]


@pytest.mark.slow
def test_the_row_of_cross_fitted_teachers(crew, texts_dir, tmp_path):
    """Their mean, by transformers' pipeline."""
    from transformers import pipeline

    (row,) = (row for row in models.list_models(crew, None, tmp_path) if row.name == models.TEACHER)
    texts = models.Texts(texts_dir, "none")
    found = row.learn(texts, 0, tmp_path, {}).classify(texts.dev_texts)
    sums = np.zeros((len(texts.dev_texts), 3))
    for fold in range(3):
        classify = pipeline("text-classification", str(crew / f"fold-{fold + 1}"), top_k=None, device="cpu")
        for total, answers in zip(sums, classify(texts.dev_texts), strict=True):
            for answer in answers:
                total[sorted(LABELS).index(answer["label"])] += math.log(answer["score"])
    assert found.tolist() == sums.argmax(axis=1).tolist()


def test_unlabelled_texts_make_a_row(crew, tmp_path):
    file = tmp_path / "texts.txt"
    file.write_text("a text\n")
    without, more = (models.list_models(crew, given, tmp_path) for given in (None, file))
    assert {row.name for row in more} - {row.name for row in without} == {models.FURTHER}
    assert [file in row.files for row in more[-3:]] == [False, True, False], "a kept row depends on this file only"


def test_seeds_with_two_settings(monkeypatch, capsys):
    """Mean, deviation and the paired difference, by hand."""
    stats = pytest.importorskip("scipy.stats", reason="needs the extra baselines")
    scores = {"lstm": [0.5, 0.6, 0.7], "gru": [0.4, 0.6, 0.5]}

    def train_once(flags, seed):
        value = scores[flags[-1]][seed]
        return [value, value, value, 2.0]

    monkeypatch.setattr(measure_seeds, "train_once", train_once)
    monkeypatch.setattr(measure_seeds, "read_flags", lambda *_: None)
    flags = ["x", "--seeds", "3", "--cell_type", "lstm", "--against", "--cell_type gru"]
    monkeypatch.setattr(sys, "argv", flags)
    assert measure_seeds.main() == 0
    _, _, ours, against, difference = capsys.readouterr().out.splitlines()
    assert ours.startswith("| 3 | 0.600 ± 0.082 |") and against.startswith("| 3 | 0.500 ± 0.082 |")
    low, high = stats.t.interval(0.95, 2, 0.1, stats.sem([0.1, 0.0, 0.2]))
    assert difference.startswith(f"| difference | +0.1000 ({low:+.4f} to {high:+.4f}) |")


@pytest.mark.slow
def test_measure_seeds(texts_dir, monkeypatch, capsys):
    flags = ["--data_dir", texts_dir, "--seeds", 1, "--num_train_epochs", 1, "--use_cpu"]
    code, out, err = run_script(SCRIPTS / "measure_seeds.py", flags, monkeypatch, capsys)
    assert code == 0 and out.splitlines()[2].startswith("| 1 | 0."), err


def test_measure_tables(trained, texts_dir, monkeypatch, capsys):
    flags = ["--model", trained.folder, "--data_dir", texts_dir]
    code, out, err = run_script(SCRIPTS / "measure_tables.py", flags, monkeypatch, capsys)
    assert code == 0, err
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in out.splitlines()[2:]]
    assert [row[0] for row in rows] == ["none: the plain model", "float32", "bfloat16", "int8"]
    metrics = json.loads((Path(trained.folder) / "metrics.json").read_text())["validation"]
    assert rows[0][2:4] == [f"{metrics[name]:.4f}" for name in ("accuracy", "macro_recall")]
    assert float(rows[0][-1]) == 0 and float(rows[1][-1]) < 1e-5 < float(rows[2][-1]), "float32 is exact"


def test_tutorial_ablation(texts_dir, tmp_path, monkeypatch, capsys):
    """Mean and range over seeds, and every run in the JSON file."""
    written = iter({"accuracy": 0.4 + seed / 10, "macro_recall": 0.5} for seed in range(11 * 3))
    monkeypatch.setattr(tutorial_ablation, "train_as_written", lambda *_, **__: next(written))
    monkeypatch.setattr(tutorial_ablation, "train_variant", lambda *_, **__: next(written))
    monkeypatch.setattr(sys, "argv", ["x", "--data_dir", str(texts_dir), "--json", str(tmp_path / "all.json")])
    tutorial_ablation.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].endswith("| 0.500 (0.400 to 0.600) | 0.500 (0.500 to 0.500) |") and len(lines) == 13
    assert len(json.loads((tmp_path / "all.json").read_text())) == 11


@pytest.mark.slow
def test_the_tutorial_as_written_trains(texts_dir):
    assert 0 < tutorial_ablation.train_as_written(texts_dir, 123, "0")["accuracy"] <= 1
    assert 0 < tutorial_ablation.train_variant(texts_dir, 123, cell_type="gru")["accuracy"] <= 1


@pytest.mark.slow
def test_reproduce_results(texts_dir, tmp_path, monkeypatch, capsys):
    pytest.importorskip("sklearn", reason="needs the extra baselines")
    pytest.importorskip("matplotlib", reason="needs the extra plots")
    names = ["majority class", "TF-IDF words + logistic regression", "recipe `fast`"]
    flags = ["--quick", "--data_dir", texts_dir, "--output_dir", tmp_path]
    flags += [part for name in names for part in ("--only", name)]
    code, _, err = run_script(SCRIPTS / "reproduce_results.py", flags, monkeypatch, capsys)
    assert code == 0, err
    rows = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert [row["name"] for row in rows] == names and [len(row["accuracy"]) for row in rows] == [1, 1, 2]
    assert rows[2]["macro_recall"][0] > rows[0]["macro_recall"][0] and rows[2]["speed"] > 0
