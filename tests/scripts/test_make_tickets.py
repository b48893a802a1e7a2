"""The guide to answers without a person: what its page says of the tickets holds."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from transformers import AutoTokenizer

from hf_rnn import train
from hf_rnn.data.load import load_tsv
from hf_rnn.evaluation.decisions import find_threshold
from hf_rnn.linear.baseline import LinearBaseline

ROOT = Path(__file__).parents[2]
BANKING = ROOT.parent / "shared" / "data" / "suite" / "banking"


@pytest.mark.slow
@pytest.mark.skipif(
    not BANKING.is_dir(), reason="needs the questions of BANKING77 beside the repository"
)
def test_answers_of_a_later_month(command, tmp_path, monkeypatch):
    """Those above the thresholds meet the target; the linear model answers hardly more alone."""
    monkeypatch.setattr(
        sys, "argv", ["make_tickets.py", "--data_dir", str(BANKING), "--output_dir", str(tmp_path)]
    )
    runpy.run_path(str(ROOT / "scripts" / "make_tickets.py"), run_name="__main__")
    # tests have a small one in its place
    english = str(ROOT / "hf_rnn" / "hub" / "pretrained" / "english")
    settings = {
        "model_name_or_path": english,
        "num_train_epochs": 3,
        "use_cpu": True,
        "baselines": False,
    }
    result = train(str(tmp_path / "train.tsv"), str(tmp_path / "out"), **settings)
    flags = ["--target", "0.95", "--none_label", "new"]
    code, out, err = command("evaluate", str(result.folder), str(tmp_path / "later.tsv"), *flags)
    assert code == 0, err
    found = json.loads(out)
    alone = found["without_a_person"]
    assert alone["accuracy"] >= 0.94 and alone["share"] > 0.5
    assert alone["accuracy"] > found["accuracy"] + 0.02

    rows = load_tsv(tmp_path / "train.tsv", validation_share=0.1)
    linear = LinearBaseline(rows["train"], AutoTokenizer.from_pretrained(result.folder))
    later = [line.rsplit("\t", 1) for line in (tmp_path / "later.tsv").read_text().splitlines()]
    texts, labels = zip(*(row for row in later if row[1] != "new"), strict=True)
    columns = {
        "text": texts,
        "label": [rows["train"].features["label"].str2int(label) for label in labels],
    }
    for split, part in {
        "validation": rows["validation"],
        "later": Dataset.from_dict(columns),
    }.items():
        linear.measure(part, split)
    limit = find_threshold(*linear.margins["validation"], 0.95)
    sure = linear.margins["later"][0] >= (np.inf if limit is None else limit)
    assert alone["share"] > sure.mean() - 0.1, (
        alone["share"],
        sure.mean(),
        linear.margins["later"][1][sure].mean(),
    )
