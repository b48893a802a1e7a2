"""The audit as part of a run and of the command."""

import json
import logging

import pytest
from conftest import invent_rows, write_rows

from hf_rnn import train
from hf_rnn.utils.errors import UserError

LEAKS = 3  # 5 % of the 60 rows of dev


@pytest.fixture
def leaking_dir(tmp_path):
    """240 rows of train, 60 of dev; the last rows of dev are the first of train, one with another label."""
    folder = tmp_path / "leaking"
    folder.mkdir()
    train_rows = [(f"{text} number{number}", label) for number, (text, label) in enumerate(invent_rows(240, 1))]
    dev_rows = [(f"{text} other{number}", label) for number, (text, label) in enumerate(invent_rows(60 - LEAKS, 2))]
    text, label = train_rows[0]
    leaked = [(text.upper(), "good" if label == "bad" else "bad"), *train_rows[1:LEAKS]]
    write_rows(folder / "train.tsv", train_rows)
    write_rows(folder / "dev.tsv", dev_rows + leaked)
    return folder


def test_a_run_stops_at_leaks_before_a_folder_is_made(leaking_dir, tmp_path, tiny_settings):
    settings = {**tiny_settings, "data_dir": str(leaking_dir), "output_dir": str(tmp_path / "out")}
    with pytest.raises(UserError) as refused:
        train(**settings, fail_on_leak=0.049, max_bad_rows="1%", class_names=["bad", "good", "plain"])
    for part in (
        "3 of 60 rows of validation repeat a row of train (5.00%",
        f"{leaking_dir / 'dev.tsv'}:58 repeats {leaking_dir / 'train.tsv'}:1",
    ):
        assert part in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_a_run_reports_its_leaks(leaking_dir, tmp_path, tiny_settings, caplog):
    settings = {**tiny_settings, "data_dir": str(leaking_dir), "max_steps": 1, "baselines": False}
    with caplog.at_level(logging.INFO, logger="hf_rnn"):
        result = train(**settings, output_dir=str(tmp_path / "out"), fail_on_leak=0.05)
    line = next(message for message in caplog.messages if message.startswith("audit: "))
    assert "3 of 60 rows of validation repeat a row of train (5.00%, 1 with another label)" in line
    assert "not in the vocabulary" not in caplog.text
    leaks = {"exact": 3, "exact_other_label": 1, "share": 0.05}
    stored = json.loads((result.folder / "card_facts.json").read_text())
    assert stored["audit"]["leaks"]["validation"]["train"] == leaks
    card = (result.folder / "README.md").read_text(encoding="utf-8")
    row = next(line for line in card.splitlines() if line.startswith("| validation | 60 |"))
    assert [cell.strip() for cell in row.strip("|").split("|")][1:5] == ["60", "0", "3", "1"]
