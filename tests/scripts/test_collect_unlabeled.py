"""The script that gathers texts for a teacher to label: none of them may stand in the data that is measured."""

import json
import os
import re
from pathlib import Path

import pytest
from conftest import run_script

import hf_rnn
from hf_rnn import load_tsv, train_tokenizer
from hf_rnn.data.audit import normalize_text
from hf_rnn.data.audit.duplicates import jaccard

SCRIPT = Path(__file__).parents[2] / "scripts" / "collect_unlabeled.py"
SHARED = Path(__file__).parents[3] / "shared" / "data"

TRAIN = ["we walked home in the rain without an umbrella again today", "nothing new"]
DEV = ["the last bus left an hour before the concert came to its end", "so tired"]


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for name, texts in {"train": TRAIN, "dev": DEV}.items():
        rows = "".join(f"{text}\t{label}\n" for text, label in zip(texts, ("a", "b"), strict=True))
        (folder / f"{name}.tsv").write_text(rows, encoding="utf-8")
    return folder


@pytest.fixture
def collect(monkeypatch, capsys):
    return lambda *arguments: run_script(SCRIPT, arguments, monkeypatch, capsys)


def test_no_text_repeats_a_row_or_another_text(collect, data, tmp_path):
    lines = [
        "a text of its own \t with a label",
        "NOTHING  new",  # train
        "so tired\tpositive",  # dev
        f"{DEV[0]} tonight",  # nearly dev
        f"and {TRAIN[0]}",  # nearly train
        "",
        "   \tnothing but a label",
        "a text of its OWN",
        "the cat sat on the mat and looked at the dog for a very long while",
        "the cat sat on the mat and looked at the dog for a very long while yes",  # nearly the one above
        'a "quote" and 50% off 🌱',
    ]
    assert 0.8 <= jaccard(lines[3], DEV[0]) < 1 and 0.8 <= jaccard(lines[4], TRAIN[0]) < 1, "premise"
    assert 0.8 <= jaccard(lines[8], lines[9]) < 1, "premise"
    (tmp_path / "one.tsv").write_bytes("\n".join(lines).encode() + b"\n")
    (tmp_path / "two.txt").write_bytes(b"of the other file\r\nnot UTF-8: \xff\n" + lines[8].encode())
    out_file = tmp_path / "texts.txt"
    code, out, err = collect("--data_dir", data, "--output_file", out_file, tmp_path / "one.tsv", tmp_path / "two.txt")
    assert code == 0, err
    kept = ["a text of its own", lines[8], lines[10], "of the other file"]
    assert out_file.read_bytes().decode().split("\n") == [*kept, ""]
    told = json.loads(out)
    assert told == {
        "output_file": str(out_file), "lines": 14, "no_text": 3, "repeat_data": 4, "repeat_earlier": 3, "kept": 4,
    }  # fmt: skip
    assert told["lines"] == sum(told[name] for name in ("no_text", "repeat_data", "repeat_earlier", "kept"))


def test_a_header_of_each_source_is_no_text(collect, data, tmp_path):
    for name, line in {"one": "ours", "two": "theirs"}.items():
        (tmp_path / f"{name}.tsv").write_text(f"text\tlabel\n{line}\t1\n")
    (tmp_path / "empty.tsv").write_text("")
    sources = [tmp_path / f"{name}.tsv" for name in ("one", "empty", "two")]
    with_header, without = tmp_path / "with.txt", tmp_path / "without.txt"
    code, out, err = collect("--data_dir", data, "--output_file", with_header, "--header", *sources)
    assert code == 0, err
    assert with_header.read_text().splitlines() == ["ours", "theirs"]
    assert json.loads(out)["lines"] == 2
    assert collect("--data_dir", data, "--output_file", without, *sources)[0] == 0
    assert without.read_text().splitlines() == ["text", "ours", "theirs"], "premise"


def test_rows_of_every_folder_in_every_form(collect, data, tmp_path):
    """What repeats a row as it is or as it was rewritten is counted once, also where it repeats an earlier text."""
    other, source, out_file = tmp_path / "other", tmp_path / "source.txt", tmp_path / "texts.txt"
    other.mkdir()
    (other / "train.tsv").write_text("Raw Words http://t.co/x #sun @me 12\ta\nmore of it\tb\n")
    (other / "dev.tsv").write_text("and its last\ta\n")
    lines = ["nothing new", "Raw Words http://t.co/x #sun @me 12", "nothing new", "and its last", "a text of its own"]
    source.write_text("\n".join(lines))
    flags = ["--data_dir", data, "--data_dir", other, "--normalizer", "semeval", "--output_file", out_file]
    code, out, err = collect(*flags, source)
    assert code == 0, err
    told = json.loads(out)
    assert (told["repeat_data"], told["repeat_earlier"], told["kept"]) == (4, 0, 1)
    assert out_file.read_text() == "a text of its own\n"


def test_the_text_may_stand_in_another_column(collect, data, tmp_path):
    source, out_file = tmp_path / "source.tsv", tmp_path / "texts.txt"
    source.write_text("1\t0.5\tthe third\n2\ttoo short\n3\t\t\tempty\n4\t-1\tlast\tafter it\n\n")
    code, out, err = collect("--data_dir", data, "--output_file", out_file, "--text_column", 2, source)
    assert code == 0, err
    assert out_file.read_text().splitlines() == ["the third", "last"]
    assert json.loads(out)["no_text"] == 3
    code, _, err = collect("--data_dir", data, "--output_file", tmp_path / "x", "--text_column", -1, source)
    assert code == 2 and "counts from 0" in err


def test_mistakes_are_one_line(collect, data, tmp_path):
    source = tmp_path / "source.txt"
    source.write_text("a text of its own\n")
    (tmp_path / "known.txt").write_text(f"{TRAIN[0]}\n\n")
    (tmp_path / "archive.txt").write_bytes(b"\x1f\x8b\x08\x00 compressed")
    (tmp_path / "there.txt").write_text("")

    def refused(*sources, data_dir=data, output_file=tmp_path / "out.txt"):
        code, out, err = collect("--data_dir", data_dir, "--output_file", output_file, *sources)
        assert (code, out) == (2, ""), err
        assert "Traceback" not in err
        assert not (tmp_path / "out.txt").exists()
        line = err.splitlines()[-1]
        assert line.startswith(f"{SCRIPT.name}: error: ")
        return line

    assert "the following arguments are required: SOURCE" in refused()
    assert "there is no file absent.txt" in refused("absent.txt")
    assert "does not exist" in refused(source, data_dir=tmp_path / "absent")
    with (data / "train.tsv").open("a", encoding="utf-8") as file:
        file.write("no label here\n")
    assert re.search(r"train\.tsv:3\b.*--max_bad_rows N", refused(source))
    assert "max_bad_rows is 'x': give a count" in refused(source, "--max_bad_rows", "x")
    code, _, err = collect("--data_dir", data, "--output_file", tmp_path / "one.txt", source, "--max_bad_rows", 1)
    assert code == 0, err
    (data / "train.tsv").write_text(f"{TRAIN[0]}\ta\n{TRAIN[1]}\tb\n", encoding="utf-8")
    assert "archive.txt" in refused(tmp_path / "archive.txt")
    assert "no text is left" in refused(tmp_path / "known.txt")
    assert '"repeat_data": 1' in refused(tmp_path / "known.txt")
    assert "there.txt is there already: take another" in refused(source, output_file=tmp_path / "there.txt")
    assert "there is no folder" in refused(source, output_file=tmp_path / "absent" / "out.txt")


def test_a_file_that_cannot_be_written_whole_is_not_there(collect, data, tmp_path, monkeypatch):
    def fail(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    folder = tmp_path / "new"
    folder.mkdir()
    (tmp_path / "source.txt").write_text("a text of its own\n", encoding="utf-8")
    code, out, err = collect("--data_dir", data, "--output_file", folder / "texts.txt", tmp_path / "source.txt")
    assert (code, out) == (2, "") and err.endswith("texts.txt cannot be written: No space left on device\n")
    assert not list(folder.iterdir())


def test_a_file_that_came_to_be_meanwhile_is_left_alone(collect, data, tmp_path, monkeypatch):
    target = tmp_path / "texts.txt"

    def read_slowly(*args, **more):
        target.write_text("theirs", encoding="utf-8")
        return load_tsv(*args, **more)

    monkeypatch.setattr(hf_rnn, "load_tsv", read_slowly)
    (tmp_path / "source.txt").write_text("a text of its own\n", encoding="utf-8")
    code, _, err = collect("--data_dir", data, "--output_file", target, tmp_path / "source.txt")
    assert code == 2 and "texts.txt is there by now: take another" in err
    assert target.read_text(encoding="utf-8") == "theirs"


def test_raw_tweets_against_data_that_was_rewritten(collect, tmp_path):
    """The raw form of the data repeats it, all of it, though hardly a raw text equals a rewritten one."""
    if not (SHARED / "semeval2016").is_dir():
        pytest.skip("needs shared/data/semeval2016, real tweets that are not part of the project")
    raw = [row for split in load_tsv(SHARED / "semeval2016_raw").values() for row in split["text"]]
    known = {normalize_text(row) for split in load_tsv(SHARED / "semeval2016").values() for row in split["text"]}
    assert sum(normalize_text(text) in known for text in raw) < 0.1 * len(raw), "premise"
    source, out_file = tmp_path / "raw.txt", tmp_path / "texts.txt"
    source.write_text("\n".join([*raw, "What a day!! http://t.co/x #sun @me 12 times\n"]), encoding="utf-8")
    flags = ["--data_dir", SHARED / "semeval2016", "--normalizer", "semeval", "--output_file", out_file, source]
    code, out, err = collect(*flags)
    assert code == 0, err
    told = json.loads(out)
    assert 0.995 * len(raw) < told["repeat_data"] < len(raw), "a few were rewritten in a way of their own"
    rewrite = train_tokenizer(["a"], normalizer="semeval", min_frequency=1).backend_tokenizer.normalizer.normalize_str
    last = out_file.read_text(encoding="utf-8").splitlines()[-1]
    assert last.casefold() == " ".join(rewrite("What a day!! http://t.co/x #sun @me 12 times").split())

    out_file.unlink()
    code, out, err = collect("--data_dir", SHARED / "semeval2016_raw", *flags)
    assert code == 0, err
    assert json.loads(out)["repeat_data"] == len(raw)
    assert out_file.read_text(encoding="utf-8") == f"{last}\n"
