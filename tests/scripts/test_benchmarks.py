"""The benchmarks compare equal work, take turns, and compute ratios as they say."""

import json
from pathlib import Path

import pytest
from conftest import run_script

BENCHMARK = Path(__file__).parents[2] / "scripts" / "benchmarks" / "benchmark.py"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "rows"),
    [(["train", "--quick"], 6), (["latency"], 6), (["data", "--rows", 2000], 1)],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_parts(flags, rows, tmp_path, monkeypatch, capfd):
    flags = [*flags, "--repeats", 3, "--json", tmp_path / "out.json"]
    code, out, err = run_script(BENCHMARK, flags, monkeypatch, capfd)
    assert code == 0, err
    results = json.loads((tmp_path / "out.json").read_text())["results"]
    assert len(out.splitlines()) == len(results) >= rows
    assert all(0 < one["ratio_quartiles"][0] <= one["ratio"] <= one["ratio_quartiles"][1] for one in results)


@pytest.mark.slow
def test_infer(texts_dir, monkeypatch, capfd):
    """Peers that are installed give the model's logits, or the run exits."""
    flags = ["infer", "--repeats", 3, "--data_dir", texts_dir]
    code, out, err = run_script(BENCHMARK, flags, monkeypatch, capfd)
    assert code == 0 and "FastRnn / eager torch" in out, err
