"""Distillation in a training run: rows and logits, loss and steps, the finished folder, resume, mistakes."""

import json
import os
import signal

import numpy as np
import pytest
import torch
from conftest import LABELS, invent_rows, write_rows
from hf_rnn.training.checkpointing.resumable_trainer import SavePoints, TrainingStopped
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from hf_rnn import distill, load_tsv, train, train_tokenizer
from hf_rnn.data.row_errors import DataReport
from hf_rnn.hub.model_folder import FinishedFolder
from hf_rnn.tasks import get_task
from hf_rnn.training.distillation.run import NO_LABEL, Distillation, distillation_loss
from hf_rnn.training.distillation.teacher import Teacher, fold_of
from hf_rnn.training.distillation.unlabeled import MASKED, augment
from hf_rnn.training.run import Run
from hf_rnn.training.settings import parse_settings
from hf_rnn.training.teacher_settings import DistillationArguments
from hf_rnn.utils.errors import UserError


@pytest.fixture(scope="module")
def quick(tiny_settings, teacher):
    """Settings of a short distillation."""
    return {**tiny_settings, "teacher": str(teacher), "num_train_epochs": 2, "baselines": False}


@pytest.fixture(scope="module")
def unlabeled(tmp_path_factory):
    path = tmp_path_factory.mktemp("unlabeled") / "unlabeled.txt"
    path.write_text("".join(f"{text}\n" for text, _ in invent_rows(100, seed=21)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def distilled(quick, unlabeled, tmp_path_factory):
    """Return settings and the result of a distillation; its folder does not change."""
    settings = {**quick, "unlabeled": str(unlabeled), "temperature": 3.0}
    return settings, distill(**settings, output_dir=str(tmp_path_factory.mktemp("distilled") / "model"))


def same_weights(one, other):
    one, other = (load_file(folder / "model.safetensors") for folder in (one, other))
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def predict(folder, texts):
    return np.array([one["label"] for one in pipeline("text-classification", str(folder), device="cpu")(texts)])


# ---- the loss ----


def softmax(values):
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def make_batch(rows=7, classes=4, seed=0):
    generator = np.random.default_rng(seed)
    logits, teachers = generator.normal(size=(2, rows, classes)) * 3
    labels = generator.integers(classes, size=rows)
    labels[::3] = NO_LABEL
    return logits, labels, teachers


@pytest.mark.parametrize(("temperature", "weight"), [(2.0, 0.9), (0.5, 0.0)])
def test_loss_by_hand(temperature, weight):
    logits, labels, teachers = make_batch()
    weights, smoothing, classes = np.array([0.5, 1.0, 2.0, 1.5]), 0.1, 4
    p = (weights * softmax(teachers)) ** (1 / temperature)
    p, q = p / p.sum(axis=1, keepdims=True), softmax(logits / temperature)
    expected = weight * temperature**2 * (p * (np.log(p) - np.log(q))).sum()
    for row, label in zip(softmax(logits), labels, strict=True):
        if label != NO_LABEL:
            share = np.full(classes, smoothing / classes)
            share[label] += 1 - smoothing
            expected -= (1 - weight) * (share * weights * np.log(row)).sum()
    found = distillation_loss(
        *map(torch.from_numpy, (logits, labels, teachers)), temperature, weight, torch.from_numpy(weights), smoothing
    )
    assert found.item() == pytest.approx(expected, rel=1e-12)


# ---- training rows ----


def test_rows_that_a_run_learns_from(quick, crew, teacher, unlabeled, tmp_path, monkeypatch):
    """No teacher labels a text, or a copy of one, that it was trained on; columns are in the data's order."""
    read, compute = {}, Teacher.compute

    def record(teacher, model, texts, *more):
        read.setdefault(teacher.name, []).extend(texts)
        return compute(teacher, model, texts, *more)

    monkeypatch.setattr(Teacher, "compute", record)
    own = {name: value for name, value in quick.items() if name != "teacher"}
    settings = DistillationArguments(teacher=str(crew), unlabeled=str(unlabeled))
    arguments, texts = parse_settings({**own, "output_dir": str(tmp_path)}), load_tsv(quick["data_dir"])
    run, hook = Run(get_task(arguments.data.task), arguments, texts, DataReport()), Distillation(arguments, settings)
    unlabeled_texts = hook.read_texts(run)
    labeled, others = (
        list(texts["train"]["text"]),
        {text for name in ("validation", "test") for text in texts[name]["text"]},
    )
    lines = unlabeled.read_text().splitlines()
    further = [text for text in lines if text not in {*labeled, *others}]
    assert unlabeled_texts == further
    run.tokenizer = train_tokenizer(labeled, min_frequency=1)
    run.examples = run.task.encode(texts, run.tokenizer, None)
    hook.add_rows(run)

    copies = list(augment(labeled, 1))
    for number in range(3):
        training = {text for text in labeled if fold_of(text, 3) == number}
        masked = {copy.replace(MASKED, "[MASK]") for row, copy in copies if fold_of(labeled[row], 3) == number}
        assert set(read[f"fold-{number + 1}"]) == {*training, *masked, *further, *others}
    rows, classes = run.examples["train"], texts["train"].features["label"].names
    assert rows["labels"][:] == texts["train"]["label"][:] + [NO_LABEL] * (len(copies) + len(further))
    words = run.tokenizer.get_vocab()
    expected = [[words["<unk>"] if word == MASKED else words[word] for word in copy.split()] for _, copy in copies]
    assert rows["input_ids"][len(labeled) : len(labeled) + len(expected)] == expected
    found = np.array(rows["teacher_logits"][len(labeled) + len(copies) :]).argmax(axis=1)
    assert np.mean(np.array(classes)[found] == predict(teacher, further)) > 0.8, "by name; each member is biased"


def test_class_weights_of_a_teacher_of_this_package_count_once(quick, trained, tmp_path):
    """Its logits have its weights in, and the loss adds those of the student."""
    settings = DistillationArguments(teacher=str(trained.folder), augmentations=0)
    own = {name: value for name, value in quick.items() if name != "teacher"}
    arguments, texts = parse_settings({**own, "output_dir": str(tmp_path)}), load_tsv(quick["data_dir"])
    run, hook = Run(get_task(arguments.data.task), arguments, texts, DataReport()), Distillation(arguments, settings)
    hook.read_texts(run)
    run.tokenizer, run.class_counts = AutoTokenizer.from_pretrained(trained.folder), [2, 4, 12]
    run.examples = run.task.encode(texts, run.tokenizer, None)
    hook.add_rows(run)
    rows = run.examples["train"]
    model = AutoModelForSequenceClassification.from_pretrained(trained.folder).eval()
    with torch.no_grad():
        logits = [model(torch.tensor([ids])).logits[0] for ids in rows["input_ids"][:5]]
    power = json.loads((trained.folder / "training_args.json").read_text())["class_weight_power"]
    weights = (18 / (3 * torch.tensor([2.0, 4.0, 12.0]))) ** power
    expected = torch.stack(logits) - weights.log()
    found = torch.tensor(rows["teacher_logits"][:5])
    difference = found - expected  # weights are scaled, which softmax ignores
    assert power > 0 and len(LABELS) == 3
    torch.testing.assert_close(difference, difference[:1, :1].expand_as(difference), rtol=0, atol=1e-4)


# ---- whole runs ----


def test_a_run_leaves_a_finished_folder(distilled, teacher, texts_dir, unlabeled, tmp_path):
    folder, metrics = FinishedFolder(distilled[1].folder), distilled[1].metrics
    folder.check_finished()
    assert json.loads(folder.metrics.read_text())["teacher"] == metrics["teacher"]
    rows = {name: [line.split("\t") for line in (texts_dir / f"{name}.tsv").read_text().splitlines()] for name in
            ("train", "dev", "test")}  # fmt: skip
    for split, name in (("dev", "validation"), ("test", "test")):
        texts, labels = (list(column) for column in zip(*rows[split], strict=True))
        teachers, students = predict(teacher, texts), predict(folder.root, texts)
        found = metrics["teacher"]["results"][name]
        assert found["accuracy"] == pytest.approx(np.mean(teachers == labels))
        assert found["agreement"] == pytest.approx(np.mean(teachers == students)) and found["agreement"] > 0.6
        assert metrics[name]["accuracy"] == pytest.approx(np.mean(students == labels))
    counts, record = metrics["teacher"]["rows"], metrics["teacher"]["unlabeled"]
    known = {text for part in rows.values() for text, _ in part}
    assert (
        counts["unlabeled"] == record["kept"] == sum(line not in known for line in unlabeled.read_text().splitlines())
    )
    assert record["kept"] + record["held_out"] + record["labeled"] == record["lines"] == 100
    assert counts["train"] == 240 == metrics["training"]["rows"] and 120 < counts["copies"] <= 240
    assert metrics["training"]["steps"] == 2 * -(-sum(counts.values()) // 16)
    card = folder.card.read_text()
    assert "tiny-bert" in card and "hf-rnn distill" in card and f"{counts['copies']} " in card
    for path in (folder.card, folder.metrics, folder.training_args, folder.card_facts):
        assert str(teacher.parent) not in path.read_text() and str(unlabeled.parent) not in path.read_text()


def test_the_command_repeats_a_run_with_its_cache(command, distilled, asked, tmp_path):
    """Settings come from training_args.json; the teacher is not run."""
    settings, first = distilled
    flags = ["--recipe", first.folder / "training_args.json", "--use_cpu", "--output_dir", tmp_path / "out"]
    flags += ["--teacher_cache", first.folder / "teacher_cache"]
    for name in ("teacher", "data_dir", "unlabeled"):
        flags += [f"--{name}", settings[name]]
    code, out, err = command("distill", *flags)
    assert code == 0, err
    assert asked == []
    assert same_weights(first.folder, tmp_path / "out") and not (tmp_path / "out" / "teacher_cache").exists()
    printed = json.loads(out)
    assert printed["teacher"]["name"] == "tiny-bert" and printed["output_dir"] == str(tmp_path / "out")


def test_a_stopped_run_resumes_bit_for_bit(quick, distilled, tmp_path, monkeypatch, asked):
    settings, whole = distilled
    steps = whole.metrics["training"]["steps"]

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == steps // 2 + 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(SavePoints, "on_step_begin", on_step_begin)
        with pytest.raises(TrainingStopped):
            distill(**settings, output_dir=str(tmp_path / "out"))
    changes = [({"temperature": 2.0}, "temperature"), ({"soft_label_weight": 0.5}, "soft_label_weight")]
    for change, message in [*changes, ({"augmentations": 2}, "texts"), ({"teacher_max_length": 4}, "teacher")]:
        with pytest.raises(UserError, match=message):
            distill(**{**settings, **change}, output_dir=str(tmp_path / "out"), resume=True)
    asked.clear()
    torch.rand(7)  # the state of the process does not matter
    resumed = distill(**settings, output_dir=str(tmp_path / "out"), resume=True)
    assert asked == [] and same_weights(resumed.folder, whole.folder)
    for name in ("validation", "test", "teacher"):
        assert resumed.metrics[name] == whole.metrics[name]


def test_few_rows_learn_from_the_teacher_too(quick, unlabeled, tmp_path):
    """The default recipe fits their labels alone by regression, which no unlabelled text has."""
    settings = {"teacher": quick["teacher"], "unlabeled": str(unlabeled), "max_steps": 1, "baselines": False}
    result = distill(train=invent_rows(24, seed=1), output_dir=str(tmp_path / "out"), use_cpu=True, **settings)
    assert result.metrics["training"]["steps"] == 1


def test_row_budget_counts_all_rows_that_are_learned(distilled, tmp_path):
    """Copies and texts without labels take time too."""
    settings, before = distilled
    settings = {name: value for name, value in settings.items() if name != "num_train_epochs"}
    rows = sum(before.metrics["teacher"]["rows"].values())
    settings["recipe"] = {"recipe": "scratch", "num_train_epochs": 9, "row_budget": 3 * rows}
    result = distill(**settings, output_dir=str(tmp_path / "out"))
    assert result.metrics["training"]["epochs"] == 3


@pytest.mark.parametrize("given", [{}, {"tokenizer": "word"}])
def test_a_fast_student_starts_from_the_table_of_a_teacher_of_this_package(quick, trained, tmp_path, given):
    settings = {name: value for name, value in quick.items() if name != "embedding_size"} | given
    settings |= {"recipe": "fast", "teacher": str(trained.folder), "max_steps": 2, "learning_rate": 1e-9}
    student = distill(**settings, output_dir=str(tmp_path / "student")).folder
    tables = [load_file(folder / "model.safetensors")["rnn.embedding.weight"] for folder in (student, trained.folder)]
    assert (tables[0].shape == tables[1].shape and torch.allclose(*tables, atol=1e-6)) == (not given)
    vocabularies = [AutoTokenizer.from_pretrained(folder).get_vocab() for folder in (student, trained.folder)]
    assert given or vocabularies[0] == vocabularies[1]


@pytest.mark.slow
def test_a_student_moves_towards_its_teacher(quick, teacher, tmp_path):
    """Every second label is random; the teacher knows the rule, and unlabelled texts show it."""
    generator, folder = np.random.default_rng(0), tmp_path / "noisy"
    folder.mkdir()
    rows = enumerate(invent_rows(90, seed=1))
    noisy = [(text, str(generator.choice(LABELS)) if row % 2 else label) for row, (text, label) in rows]
    write_rows(folder / "train.tsv", noisy)
    write_rows(folder / "dev.tsv", invent_rows(60, seed=2))
    (tmp_path / "more.txt").write_text("".join(f"{text}\n" for text, _ in invent_rows(300, seed=51)))
    settings = {**quick, "data_dir": str(folder), "num_train_epochs": 4}
    plain = {name: value for name, value in settings.items() if name != "teacher"}
    train(**plain, output_dir=str(tmp_path / "alone"))
    distill(**settings, unlabeled=str(tmp_path / "more.txt"), output_dir=str(tmp_path / "distilled"))
    texts = [text for text, _ in invent_rows(150, seed=52)]
    alone, student, teachers = (predict(one, texts) for one in (tmp_path / "alone", tmp_path / "distilled", teacher))
    assert np.mean(student == teachers) > max(0.9, np.mean(alone == teachers) + 0.1)


# ---- mistakes ----


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--teacher", "nowhere"], "no folder nowhere"),
        (["--soft_label_weight", 1.5], "soft_label_weight must be at least 0 and at most 1"),
        (["--unlabeled", "empty.txt"], "no text to learn from"),
        (["--output_dir", "TEACHER", "--overwrite_output_dir"], "would be replaced"),
    ],
)
def test_mistakes_are_one_line(command, teacher, texts_dir, tmp_path, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").touch()
    before = (teacher / "model.safetensors").read_bytes()
    flags = [teacher if flag == "TEACHER" else flag for flag in flags]
    usual = ["--recipe", "scratch", "--data_dir", texts_dir, "--output_dir", "out", "--use_cpu", "--teacher", teacher]
    code, out, err = command("distill", *usual, *flags)
    assert (code, out) == (2, "") and "Traceback" not in err
    assert err.splitlines()[-1].startswith("hf-rnn distill: error: ") and message in err.splitlines()[-1]
    assert (teacher / "model.safetensors").read_bytes() == before and not list(tmp_path.rglob("config.json"))
