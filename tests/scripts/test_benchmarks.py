"""The benchmarks compare equal work, take turns, and compute ratios as they say."""

import json
from collections import Counter
from pathlib import Path

import pytest
from benchmarks import data, loops, timing, train, vocab
from conftest import run_script

BENCHMARK = Path(__file__).parents[2] / "scripts" / "benchmarks" / "benchmark.py"


@pytest.fixture
def clock(monkeypatch):
    """Seconds that only the measured callables add."""
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    return now


def test_sides_take_turns(clock):
    """The side that starts alternates; the ratio is the median of the pairs."""
    calls, seconds = [], {"ours": iter([0, 0, 0, 1, 2, 3]), "peer": iter([0, 0, 0, 4, 4, 3])}

    def make(side):
        def run():
            calls.append(side)
            clock[0] += next(seconds[side])

        return run

    result = timing.interleave("x", make("ours"), make("peer"), 3)
    assert calls[6:] == ["peer", "ours", "ours", "peer", "peer", "ours"]
    assert (result["ratio"], result["ours_ms"], result["peer_ms"], result["repeats"]) == (2, 2000, 4000, 3)


def test_data_sides_read_the_same(tmp_path):
    written = data.write_tsv(tmp_path / "rows.tsv", 500)
    lines = (tmp_path / "rows.tsv").read_text(encoding="utf-8").split("\n")[:-1]
    assert Counter(line.split("\t")[1] for line in lines) == written
    for side, read in data.SIDES.items():
        assert read(str(tmp_path / "rows.tsv")) == written, side


@pytest.fixture(scope="module")
def texts(texts_dir):
    return loops.Texts(texts_dir)


@pytest.mark.parametrize(("kind", "layers", "both"), [("GRU", 2, False), ("LSTM", 1, True)])
def test_training_compares_the_same_network(kind, layers, both, texts, tmp_path, monkeypatch):
    """The check passes for it, and fails for another loss or for a gradient off by 1e-5."""
    model = {"cell_type": kind.lower(), "embedding_size": 300, "hidden_size": 5, "num_hidden_layers": layers}
    model |= {} if both else {"bidirectional": False, "pooling": "last", "classifier_activation": "relu"}
    plain = loops.make_plain(texts, kind, hidden=5, layers=layers, both=both, sparse=not both)
    ours = train.make_trainer(texts, str(tmp_path), model).model
    loops.check_same_network(texts, plain, ours, 20)
    forward = type(ours).forward

    def change(scale):
        def changed(self, *args, **kwargs):
            output = forward(self, *args, **kwargs)
            output.loss = output.loss * scale if scale != 1 else output.loss
            output.loss.register_hook(lambda gradient: 1.00001 * gradient)
            return output

        return changed

    for scale in (1, 1.001):
        monkeypatch.setattr(type(ours), "forward", change(scale))
        with pytest.raises(AssertionError):
            loops.check_same_network(texts, plain, ours, 20)


def test_sparse_and_dense_take_the_same_first_step(monkeypatch):
    from hf_rnn.training.optimizers import LazyAdamW

    monkeypatch.setattr(vocab, "SMALL", 400)
    vocab.check_first_step()
    monkeypatch.setattr(LazyAdamW, "step", lambda self, closure=None: closure and closure())
    with pytest.raises(AssertionError):
        vocab.check_first_step()


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
