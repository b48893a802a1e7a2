"""The statistics behind published numbers, against plain definitions; the whole scripts on small data."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import run_script
from results import measure_seeds, report, tutorial_ablation

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
