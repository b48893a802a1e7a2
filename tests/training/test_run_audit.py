"""The audit as part of a run: planted leaks stop it, and what was found is told in the log and in the card."""

import json
import logging

import pytest
from conftest import invent_rows, write_rows

from hf_rnn import train
from hf_rnn.utils.errors import UserError

LEAKS = 3  # of the 60 rows of dev: 5 %


@pytest.fixture
def leaking_dir(tmp_path):
    """240 rows of train, 60 of dev; the last rows of dev are the first of train, one under another label."""
    folder = tmp_path / "leaking"
    folder.mkdir()
    train_rows = [(f"{text} number{number}", label) for number, (text, label) in enumerate(invent_rows(240, 1))]
    dev_rows = [(f"{text} other{number}", label) for number, (text, label) in enumerate(invent_rows(60 - LEAKS, 2))]
    text, label = train_rows[0]
    leaked = [(text.upper(), "good" if label == "bad" else "bad"), *train_rows[1:LEAKS]]
    write_rows(folder / "train.tsv", train_rows)
    write_rows(folder / "dev.tsv", dev_rows + leaked)
    return folder


def test_a_run_stops_at_leaks_before_anything_is_touched(leaking_dir, tmp_path, tiny_settings):
    out = tmp_path / "out"
    settings = {**tiny_settings, "data_dir": str(leaking_dir), "output_dir": str(out)}
    with pytest.raises(UserError) as refused:
        train(**settings, fail_on_leak="4.9%")
    told = str(refused.value)
    assert "3 of 60 rows of validation (5.00%) repeat a row of train" in told
    assert f"{leaking_dir / 'dev.tsv'}:58 repeats {leaking_dir / 'train.tsv'}:1" in told
    assert f"hf-rnn audit --data_dir {leaking_dir}" in told
    assert not out.exists()
    with pytest.raises(UserError) as refused:
        train(**settings, fail_on_leak="4.9%", max_bad_rows="1%", class_names=["bad", "good", "plain"])
    assert f"--data_dir {leaking_dir} --class_names bad good plain --max_bad_rows 1% --json lists" in str(
        refused.value
    )


def test_a_run_tells_its_leaks(leaking_dir, tmp_path, tiny_settings, caplog):
    settings = {**tiny_settings, "data_dir": str(leaking_dir), "num_train_epochs": 1, "baselines": False}
    with caplog.at_level(logging.INFO, logger="hf_rnn"):
        result = train(**settings, output_dir=str(tmp_path / "out"), fail_on_leak="5%")
    line = next(message for message in caplog.messages if message.startswith("audit: "))
    assert "3 of 60 rows of validation repeat a row of train (5.00%, 1 under another label)" in line
    leaks = {"exact": 3, "exact_other_label": 1, "near": 0, "near_other_label": 0, "share": 0.05}
    stored = json.loads((result.folder / "card_facts.json").read_text())
    assert (
        stored["audit"]["leaks"]["validation"]["train"] == result.card.audit["leaks"]["validation"]["train"] == leaks
    )
    card = (result.folder / "README.md").read_text(encoding="utf-8")
    row = next(line for line in card.splitlines() if line.startswith("| validation | 60 |"))
    assert [cell.strip() for cell in row.strip("|").split("|")][1:5] == ["60", "0", "3", "1"]


@pytest.mark.parametrize("space", [" ", ""])
def test_a_run_that_can_read_nothing_says_so(tiny_settings, tmp_path, caplog, space):
    """Words that no space parts are long ones that never come again."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for split, count in (("train", 60), ("dev", 30)):
        rows = [
            (f"{text} {split}{number}", label) for number, (text, label) in enumerate(invent_rows(count, seed=count))
        ]
        write_rows(folder / f"{split}.tsv", [(text.replace(" ", space), label) for text, label in rows])
    settings = {**tiny_settings, "data_dir": str(folder), "num_train_epochs": 1, "min_frequency": 1}
    train(**settings, output_dir=str(tmp_path / "out"))
    told = [message.split(":")[0] for message in caplog.messages if "vocabulary" in message]
    assert told == ([] if space else ["100 % of the tokens of validation are not in the vocabulary"])


def test_the_verb_refuses_after_its_report(leaking_dir, command):
    code, out, err = command("audit", "--data_dir", leaking_dir, "--fail_on_leak", "1%", "--json")
    assert code == 2
    assert json.loads(out)["summary"]["leak_share"] == 0.05
    assert "more than fail_on_leak 1% allows" in err
    code, _, _ = command("audit", "--data_dir", leaking_dir, "--fail_on_leak", "5%")
    assert code == 0


def test_the_command_that_lists_all_reads_the_same_columns(leaking_dir, command):
    for path in leaking_dir.iterdir():
        path.write_text("what\tkind\n" + path.read_text(encoding="utf-8"), encoding="utf-8")
    columns = ["--text_column", "what", "--label_column", "kind", "--header"]
    code, _, err = command("audit", "--data_dir", leaking_dir, *columns, "--fail_on_leak", "1%")
    again = f"hf-rnn audit --data_dir {leaking_dir} {' '.join(columns)} --json"
    assert (code, f"{again} lists all" in err) == (2, True)
    assert command(*again.split()[1:])[0] == 0


def test_the_split_that_leaks_most_is_told_of(leaking_dir, command):
    first = (leaking_dir / "train.tsv").read_text(encoding="utf-8").splitlines()[0]
    (leaking_dir / "test.tsv").write_text(f"quite another text\tgood\n{first}\n", encoding="utf-8")
    code, _, err = command("audit", "--data_dir", leaking_dir, "--fail_on_leak", "1%")
    assert code == 2
    assert "1 of 2 rows of test (50.00%) repeat a row of train" in err


def test_a_held_out_split_is_audited_too(tmp_path, tiny_settings):
    """Every row stands twice in train: most of what is held out has its twin left there."""
    rows = [row for row in invent_rows(60, 1) for _ in range(2)]
    folder = tmp_path / "twice"
    folder.mkdir()
    write_rows(folder / "train.tsv", rows)
    with pytest.raises(UserError, match=r"rows of validation .* row \d+ of validation repeats row \d+ of train"):
        train(**{**tiny_settings, "data_dir": str(folder)}, output_dir=str(tmp_path / "out"), fail_on_leak="10%")
