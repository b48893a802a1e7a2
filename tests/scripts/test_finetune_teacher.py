"""The script that makes a teacher: any checkpoint in, an ordinary transformers folder out, one line for a mistake."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from conftest import LABELS, NEUTRAL, invent_rows, run_script, write_rows
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertTokenizerFast,
    pipeline,
)

from hf_rnn.training.distillation.cross_fitting import fold_folder, fold_of
from hf_rnn.training.distillation.ensemble import Teachers
from hf_rnn.utils.errors import UserError

SCRIPT = Path(__file__).parents[2] / "scripts" / "finetune_teacher.py"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *NEUTRAL, "miro", "selk"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A BERT that was made to guess words, with random weights."""
    folder = tmp_path_factory.mktemp("checkpoint") / "bert"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
        BertForMaskedLM(BertConfig(vocab_size=len(WORDS), **shape)).save_pretrained(folder)
    BertTokenizerFast(vocab={word: index for index, word in enumerate(WORDS)}).save_pretrained(folder)
    return folder


def run(arguments, monkeypatch, capfd):
    return run_script(SCRIPT, arguments, monkeypatch, capfd)


def test_a_checkpoint_becomes_a_teacher(checkpoint, texts_dir, tmp_path, monkeypatch, capfd):
    flags = ["--model", checkpoint, "--data_dir", texts_dir, "--output_dir", tmp_path / "a", "--seed", 3, "--use_cpu"]
    flags += ["--epochs", 12, "--batch_size", 16, "--learning_rate", 0.004]
    code, out, err = run(flags, monkeypatch, capfd)
    assert code == 0, err
    told = json.loads(out)  # one object, and nothing else on stdout
    assert told["teacher"] == str(tmp_path / "a")
    assert {path.name for path in (tmp_path / "a").iterdir()} == {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert list(config["id2label"].values()) == sorted(LABELS)
    rows = invent_rows(60, seed=3)
    answers = pipeline("text-classification", str(tmp_path / "a"), device="cpu")([text for text, _ in rows])
    right = np.mean([answer["label"] == label for answer, (_, label) in zip(answers, rows, strict=True)])
    assert right > 0.9, "a third by chance"
    assert told["test"]["test_accuracy"] == pytest.approx(right)

    code, _, _ = run([*flags[:5], tmp_path / "b", *flags[6:]], monkeypatch, capfd)
    assert code == 0
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("names", [["plain", "bad", "good"], ["warm", "cold", "mild"]], ids=["same", "other"])
def test_the_last_layer_of_another_classifier(checkpoint, tmp_path, monkeypatch, names):
    """Of classes with the same names it keeps its meaning; of as many others nothing is left."""
    monkeypatch.syspath_prepend(SCRIPT.parent)
    from finetune_teacher import load_checkpoint

    before = BertForSequenceClassification.from_pretrained(checkpoint, id2label=dict(enumerate(names)))
    torch.nn.init.normal_(before.classifier.bias)
    before.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(checkpoint).save_pretrained(tmp_path)
    model, _ = load_checkpoint(str(tmp_path), sorted(LABELS))
    assert model.config.id2label == dict(enumerate(sorted(LABELS)))
    assert torch.equal(model.bert.embeddings.word_embeddings.weight, before.bert.embeddings.word_embeddings.weight)
    for own, old in zip(model.classifier.parameters(), before.classifier.parameters(), strict=True):
        if names[0] == "plain":
            assert torch.equal(own, old[[names.index(label) for label in sorted(LABELS)]])
        else:
            assert not any(torch.equal(row, other) for row in own for other in old)


def test_each_teacher_of_a_crew_has_not_seen_its_fold(checkpoint, texts_dir, tmp_path, monkeypatch, capfd):
    """It is what a training without those rows makes, to the byte."""
    settings = ["--seed", 3, "--epochs", 1, "--batch_size", 16, "--learning_rate", 0.004, "--bf16"]
    settings += ["--use_cpu"] if torch.accelerator.is_available() else []  # else bfloat16 must not need it
    flags = ["--model", checkpoint, *settings]
    code, out, err = run(
        [*flags, "--data_dir", texts_dir, "--output_dir", tmp_path / "crew", "--folds", 2], monkeypatch, capfd
    )
    assert code == 0, err
    told = json.loads(out)
    assert told["teacher"] == str(tmp_path / "crew")
    assert {path.name for path in (tmp_path / "crew").iterdir()} == {"fold-1", "fold-2", "folds.json"}
    opened = Teachers.open(str(tmp_path / "crew"))
    assert [member.label_names() for member in opened.members] == 2 * [sorted(LABELS)]
    for fold in (0, 1):
        folder = tmp_path / f"without-{fold}"
        shutil.copytree(texts_dir, folder)
        lines = (texts_dir / "train.tsv").read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if fold_of(line.split("\t")[0], 2) != fold]
        assert 0 < len(kept) < len(lines), "premise"
        (folder / "train.tsv").write_text("".join(kept), encoding="utf-8")
        alone = tmp_path / f"alone-{fold}"
        code, out, err = run([*flags, "--data_dir", folder, "--output_dir", alone], monkeypatch, capfd)
        assert code == 0, err
        name = "model.safetensors"
        assert (alone / name).read_bytes() == (fold_folder(tmp_path / "crew", fold) / name).read_bytes()
        accuracy = told["folds"][fold]["validation"]["validation_accuracy"]
        assert accuracy == json.loads(out)["validation"]["validation_accuracy"]


def test_mistakes_are_one_line(checkpoint, texts_dir, tmp_path, monkeypatch, capfd):
    def refused(**changes):
        flags = {"model": checkpoint, "data_dir": texts_dir, "output_dir": tmp_path / "out", **changes}
        arguments = [part for name, value in flags.items() if value is not None for part in (f"--{name}", value)]
        code, out, err = run(arguments, monkeypatch, capfd)
        assert (code, out) == (2, ""), err
        assert "Traceback" not in err
        *_, line = err.splitlines()
        assert line.startswith(f"{SCRIPT.name}: error: ")
        return line

    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    write_rows(tmp_path / "bad" / "train.tsv", [*invent_rows(9, seed=1), ("no label here", "")])
    assert "the following arguments are required: --model" in refused(model=None)
    assert "does not exist" in refused(data_dir=tmp_path / "absent") or "absent" in refused(
        data_dir=tmp_path / "absent"
    )
    assert "train.tsv" in refused(data_dir=tmp_path / "empty")
    assert re.search(r"train\.tsv:10\b", refused(data_dir=tmp_path / "bad"))
    assert "max_bad_rows is 'x': give a count" in refused(max_bad_rows="x")
    assert "not empty: take another" in refused(output_dir=texts_dir)
    assert "not empty: take another" in refused(output_dir=texts_dir / "train.tsv")
    assert "nowhere cannot be loaded" in refused(model="nowhere")
    assert "nowhere cannot be loaded: there is no folder" in refused(model=tmp_path / "nowhere")
    assert "nowhere cannot be loaded: there is no folder" in refused(model="./nowhere")
    assert "cannot be loaded" in refused(model=tmp_path / "empty")
    assert "must be greater than 0, found 0" in refused(epochs=0)
    assert "must be greater than 0, found nan" in refused(learning_rate="nan")
    assert "must be 1 or more, found 0" in refused(batch_size=0)
    assert "must be 1 or more, found 0" in refused(folds=0)
    assert re.search(r"--folds 5000 are too many for \d+ texts: fold \d+ has none", refused(folds=5000))
    assert "invalid whole_number value: 'x'" in refused(batch_size="x")
    assert "from 0 to 2**32 - 1, found -1" in refused(seed=-1)
    assert "unrecognized arguments: --modle x" in refused(modle="x")
    assert not (tmp_path / "out").exists()
    assert "cannot be written to" in refused(output_dir=tmp_path / "bad" / "train.tsv" / "out")
    assert "the training diverged: take a smaller --learning_rate than 1e+30" in refused(
        output_dir=tmp_path / "far", learning_rate=1e30, epochs=1
    )
    assert not list((tmp_path / "far").glob("*.safetensors"))
    flags = ["--model", checkpoint, "--data_dir", texts_dir, "--output_dir", tmp_path / "out", "--resume"]
    code, out, err = run(flags, monkeypatch, capfd)
    assert (code, out) == (2, "") and err.endswith("has no unfinished.json, so that there is nothing to resume\n")


def test_texts_are_cut_to_what_the_model_can_read(checkpoint, texts_dir, tmp_path, monkeypatch, capfd):
    """Its tokenizer knows no limit, its table of positions has one."""
    folder = shutil.copytree(checkpoint, tmp_path / "short")
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertForMaskedLM(BertConfig(vocab_size=len(WORDS), max_position_embeddings=9, **shape)).save_pretrained(folder)
    flags = ["--model", folder, "--data_dir", texts_dir, "--use_cpu", "--epochs", 1]
    code, _, err = run([*flags, "--output_dir", tmp_path / "out"], monkeypatch, capfd)
    assert code == 0, err
    (folder / "tokenizer.json").unlink()
    code, out, err = run([*flags, "--output_dir", tmp_path / "more"], monkeypatch, capfd)
    assert (code, out) == (2, "") and "has a tokenizer without a word" in err


def test_bad_rows_are_left_out_where_that_is_asked(checkpoint, texts_dir, tmp_path, monkeypatch, capfd):
    """The teacher is the one that the good rows alone make, to the byte."""
    shutil.copytree(texts_dir, tmp_path / "bad")
    with (tmp_path / "bad" / "train.tsv").open("a", encoding="utf-8") as file:
        file.write("no label here\n")
    flags = ["--model", checkpoint, "--use_cpu", "--epochs", 1, "--max_bad_rows", 1]
    for name, folder in {"good": texts_dir, "bad": tmp_path / "bad"}.items():
        code, _, err = run([*flags, "--data_dir", folder, "--output_dir", tmp_path / f"of-{name}"], monkeypatch, capfd)
        assert code == 0, err
    good, bad = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("of-good", "of-bad"))
    assert good == bad


def test_ctrl_c_is_no_traceback(checkpoint, texts_dir, tmp_path, monkeypatch, capfd):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("transformers.Trainer.training_step", stop)
    flags = ["--model", checkpoint, "--data_dir", texts_dir, "--output_dir", tmp_path / "out", "--use_cpu"]
    code, out, err = run(flags, monkeypatch, capfd)
    assert (code, out) == (130, "")
    assert "Traceback" not in err
    assert not list((tmp_path / "out").iterdir()), "so that the next try takes the folder"


def test_a_crew_that_was_stopped_goes_on(checkpoint, texts_dir, tmp_path, monkeypatch, capfd):
    """The teachers are, to the byte, those of a run that was not stopped, and those that were done stay."""
    flags = ["--model", checkpoint, "--data_dir", texts_dir, "--use_cpu", "--epochs", 1, "--folds", 3]
    code, whole, err = run([*flags, "--output_dir", tmp_path / "whole"], monkeypatch, capfd)
    assert code == 0, err

    step, trained = transformers.Trainer.training_step, []

    def stop_in_the_third(self, model, *args, **kwargs):
        if not trained or trained[-1] is not model:
            trained.append(model)
        if len(trained) == 3:
            raise KeyboardInterrupt
        return step(self, model, *args, **kwargs)

    stopped = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        patch.setattr("transformers.Trainer.training_step", stop_in_the_third)
        code, out, err = run([*flags, "--output_dir", stopped], monkeypatch, capfd)
    assert (code, out) == (130, "")
    assert "stopped: --resume goes on where --folds had a teacher done" in err
    assert {path.name for path in stopped.iterdir()} == {"fold-1", "fold-2", "unfinished.json"}
    with pytest.raises(UserError, match="some teachers in .* are still to come: repeat .* with --resume"):
        Teachers.open(str(stopped))
    code, out, err = run([*flags, "--output_dir", stopped], monkeypatch, capfd)
    assert (code, out) == (2, "") and "not empty: take another, or add --resume" in err
    (stopped / "fold-2").rename(tmp_path / "aside")
    code, out, err = run([*flags, "--output_dir", stopped, "--resume"], monkeypatch, capfd)
    assert (code, out) == (2, "") and "fold-2 is done, and it is not there whole" in err
    (tmp_path / "aside").rename(stopped / "fold-2")
    weights = stopped / "fold-2" / "model.safetensors"
    weights.rename(tmp_path / "aside")
    code, out, err = run([*flags, "--output_dir", stopped, "--resume"], monkeypatch, capfd)
    assert (code, out) == (2, "") and "fold-2 is done, and it is not there whole" in err
    (tmp_path / "aside").rename(weights)
    code, out, err = run([*flags, "--output_dir", stopped, "--resume", "--seed", 7], monkeypatch, capfd)
    assert (code, out) == (2, "") and err.splitlines()[-1].endswith("changed: seed")
    other = shutil.copytree(texts_dir, tmp_path / "other")
    write_rows(other / "dev.tsv", invent_rows(60, seed=9))
    more = ["--resume", "--epochs", 2, "--data_dir", other]
    code, out, err = run([*flags, "--output_dir", stopped, *more], monkeypatch, capfd)
    assert (code, out) == (2, "") and err.splitlines()[-1].endswith("changed: epochs, texts")
    before = (stopped / "fold-2" / "model.safetensors").stat().st_mtime_ns
    code, out, err = run([*flags, "--output_dir", stopped, "--resume"], monkeypatch, capfd)
    assert code == 0, err
    assert before == (stopped / "fold-2" / "model.safetensors").stat().st_mtime_ns
    assert {path.name for path in stopped.iterdir()} == {"fold-1", "fold-2", "fold-3", "folds.json"}
    for fold in range(3):
        one, other = (fold_folder(tmp_path / name, fold) / "model.safetensors" for name in ("whole", "stopped"))
        assert one.read_bytes() == other.read_bytes()
    scores = [[fold["validation"]["validation_loss"] for fold in json.loads(text)["folds"]] for text in (whole, out)]
    assert scores[0] == scores[1]


def test_help_loads_nothing_heavy():
    done = subprocess.run([sys.executable, "-X", "importtime", SCRIPT, "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    flags = ("model", "data_dir", "output_dir", "epochs", "batch_size", "learning_rate", "folds", "seed")
    assert all(f"--{name} " in done.stdout for name in flags)
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "argparse" in imported, "premise: imports are listed"
    assert not imported & {"torch", "transformers", "datasets", "hf_rnn"}
