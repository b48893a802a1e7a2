"""The benchmarks compare equal work, take turns, and compute ratios as they say."""

import json
from pathlib import Path

import pytest
from conftest import run_script

BENCHMARK = Path(__file__).parents[2] / "scripts" / "benchmarks" / "benchmark.py"


@pytest.mark.slow
@pytest.mark.parametrize(("part", "rows"), [("step", 3), ("train", 2), ("infer", 1), ("latency", 6)])
def test_parts(part, rows, texts_dir, tmp_path, monkeypatch, capfd):
    """Both sides give the same answers, or the run exits."""
    flags = [part, "--repeats", 3, "--data_dir", texts_dir, "--json", tmp_path / "out.json"]
    code, out, err = run_script(BENCHMARK, flags, monkeypatch, capfd)
    assert code == 0, err
    results = json.loads((tmp_path / "out.json").read_text())["results"]
    assert len(out.splitlines()) == len(results) >= rows
    assert all(0 < one["ratio_quartiles"][0] <= one["ratio"] <= one["ratio_quartiles"][1] for one in results)
