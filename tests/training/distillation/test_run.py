"""Whole distillations: what a run asks, learns, keeps and leaves, and its mistakes."""

import json
import os
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from conftest import LABELS, invent_rows, may_train, write_rows
from datasets import DatasetDict
from safetensors.torch import load_file
from tiny_teacher import SHAPE, WORDS, bert_tokenizer, change_config
from transformers import (
    BertConfig,
    BertForMaskedLM,
    pipeline,
)

import hf_rnn.training.distillation.api
import hf_rnn.training.distillation.cache
import hf_rnn.training.distillation.run
import hf_rnn.training.save
from hf_rnn import DistillationArguments, RnnClassifier, distill, load_tsv, train, train_tokenizer
from hf_rnn.data import encode
from hf_rnn.hub.model_folder import FinishedFolder
from hf_rnn.training.arguments.run_arguments import parse_settings
from hf_rnn.training.checkpointing.interrupt import SavePoints, TrainingStopped
from hf_rnn.training.distillation.augmentation import MASKED, augment
from hf_rnn.training.distillation.cross_fitting import fold_of
from hf_rnn.training.distillation.logits import Answers
from hf_rnn.training.distillation.run import Distillation
from hf_rnn.utils.errors import UserError


@pytest.fixture(scope="module")
def quick(tiny_settings, teacher):
    """Settings of a distillation of two epochs; figures take longer than it, and nothing hangs on them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hf_rnn.training.save, "draw_figures", lambda *args: {})
        yield {**tiny_settings, "teacher": str(teacher), "num_train_epochs": 2, "baselines": False}


@pytest.fixture(scope="module")
def unlabeled(tmp_path_factory):
    path = tmp_path_factory.mktemp("unlabeled") / "unlabeled.txt"
    path.write_text("".join(f"{text}\n" for text, _ in invent_rows(100, seed=21)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def taught(quick, unlabeled, tmp_path_factory):
    """Settings by name, and what a distillation with them returned; nobody changes its folder."""
    settings = {**quick, "unlabeled": str(unlabeled), "temperature": 3.0}
    return settings, distill(**settings, output_dir=str(tmp_path_factory.mktemp("taught") / "model"))


def weights_of(folder):
    return load_file(folder / "model.safetensors")


def same_weights(one, other):
    one, other = weights_of(one), weights_of(other)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def answers_of(folder, texts):
    return [answer["label"] for answer in pipeline("text-classification", str(folder), device="cpu")(texts)]


def test_a_run_leaves_a_finished_folder(command, quick, teacher, unlabeled, texts_dir, tmp_path, asked):
    quick = {name: value for name, value in quick.items() if name not in ("use_cpu", "num_train_epochs")}
    flags = [f"--{name}={value}" for name, value in quick.items()]
    flags += ["--unlabeled", unlabeled, "--num_train_epochs", 4, "--use_cpu", "--output_dir", tmp_path / "out"]
    code, out, err = command("distill", *flags, "--augmentations", 2)
    assert code == 0, err
    told = json.loads(out)
    assert told["output_dir"] == str(tmp_path / "out") and told["teacher"]["name"] == "tiny-bert"
    assert "null" not in out, "what there is none of, a single teacher's folds, is left out"
    folder = FinishedFolder(tmp_path / "out")
    folder.check_finished()
    metrics = json.loads(folder.metrics.read_text())

    texts = {split: (texts_dir / f"{split}.tsv").read_text().splitlines() for split in ("train", "dev", "test")}
    rows = {split: [line.split("\t") for line in lines] for split, lines in texts.items()}
    for split, name in (("dev", "validation"), ("test", "test")):
        known = [text for text, _ in rows[split]]
        true = [label for _, label in rows[split]]
        teachers, students = answers_of(teacher, known), answers_of(folder.root, known)
        found = metrics["teacher"]["results"][name]
        assert found["accuracy"] == pytest.approx(np.mean(np.array(teachers) == np.array(true)))
        assert found["agreement"] == pytest.approx(np.mean(np.array(teachers) == np.array(students)))
        assert metrics[name]["accuracy"] == pytest.approx(np.mean(np.array(students) == np.array(true)))
        assert found["agreement"] > 0.8, "a third by chance"
    counts = metrics["teacher"]["rows"]
    known = {text for split in ("train", "dev", "test") for text, _ in rows[split]}
    lines = unlabeled.read_text().splitlines()
    assert counts["train"] == 240 == metrics["training"]["rows"]
    assert counts["unlabeled"] == sum(line not in known for line in lines)
    left_out = metrics["teacher"]["unlabeled"]
    assert counts["unlabeled"] + left_out["held_out"] + left_out["labeled"] == 100
    assert 240 < counts["copies"] <= 480
    assert metrics["training"]["steps"] == 4 * -(-sum(counts.values()) // 16)
    assert sum(asked) >= sum(counts.values()) + 120, "and the pipeline above"

    card = folder.card.read_text()
    assert f"It was distilled: it learned the answers of tiny-bert to texts (240 training, {counts['copies']} " in card
    assert "hf-rnn distill --recipe training_args.json --teacher tiny-bert --unlabeled unlabeled.txt" in card
    recorded = json.loads(folder.training_args.read_text())
    assert (recorded["teacher"], recorded["temperature"], recorded["augmentations"]) == ("tiny-bert", 2.0, 2)
    for path in (folder.card, folder.metrics, folder.training_args, folder.card_facts):
        assert str(tmp_path) not in path.read_text() and str(teacher.parent) not in path.read_text()


def test_a_student_can_be_taught_again_by_labels_alone(taught):
    classifier = RnnClassifier.from_pretrained(taught[1].folder, num_train_epochs=1, use_cpu=True)
    texts, labels = zip(*invent_rows(60, seed=5), strict=True)
    assert set(classifier.fit(texts, labels).predict(texts)) <= set(LABELS)


def test_training_args_repeat_the_run(quick, teacher, unlabeled, taught, tmp_path):
    again = distill(
        recipe=str(taught[1].folder / "training_args.json"),
        teacher=str(teacher),
        data_dir=quick["data_dir"],
        unlabeled=str(unlabeled),
        output_dir=str(tmp_path / "b"),
        use_cpu=True,
    )
    assert same_weights(taught[1].folder, again.folder)
    assert again.metrics["teacher"] == taught[1].metrics["teacher"]


def test_four_dataclasses_do_the_same_and_find_the_answers_of_another_run(taught, tmp_path, asked):
    settings, first = taught
    cache = first.folder / "teacher_cache"
    own = ("teacher", "unlabeled", "temperature")
    plain = {name: value for name, value in settings.items() if name not in own}
    arguments = parse_settings({**plain, "output_dir": str(tmp_path / "b")})
    further = DistillationArguments(**{name: settings[name] for name in own}, teacher_cache=str(cache))
    second = distill(*arguments, further)
    assert asked == [], "no text is read by the teacher twice"
    assert same_weights(first.folder, second.folder)
    assert second.metrics["teacher"] == first.metrics["teacher"]
    assert not (second.folder / "teacher_cache").exists()
    with pytest.raises(TypeError, match="not both: found teacher"):
        distill(*arguments, teacher="x")
    with pytest.raises(TypeError, match="or settings by name"):
        distill(*arguments)


@pytest.mark.parametrize("idle", [{}, {"augmentations": 3, "unlabeled": True, "temperature": 7.0}])
def test_without_the_teachers_part_it_is_train(quick, unlabeled, tmp_path, idle):
    """What is told to have no effect then has none."""
    plain = {name: value for name, value in quick.items() if name != "teacher"}
    alone = train(**plain, output_dir=str(tmp_path / "alone"))
    idle = {**idle, "unlabeled": str(unlabeled)} if idle else idle
    taught = distill(**quick, **idle, soft_label_weight=0.0, output_dir=str(tmp_path / "taught"))
    assert taught.metrics["teacher"]["rows"] == {"train": 240, "copies": 0, "unlabeled": 0}
    assert taught.metrics["training"]["steps"] == alone.metrics["training"]["steps"]
    one, other = weights_of(alone.folder), weights_of(taught.folder)
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=1e-5, rtol=1e-4)


def test_a_seed_of_its_own(taught, tmp_path):
    settings, first = taught
    assert not same_weights(first.folder, distill(**settings, seed=7, output_dir=str(tmp_path / "seven")).folder)


def test_a_stopped_run_goes_on_bit_for_bit(quick, taught, tmp_path, monkeypatch, asked):
    settings, whole = taught
    steps = whole.metrics["training"]["steps"]

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == steps // 2 + 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(SavePoints, "on_step_begin", on_step_begin)
        with pytest.raises(TrainingStopped) as stopped:
            distill(**settings, output_dir=str(tmp_path / "out"))
    assert stopped.value.checkpoint.name == f"checkpoint-{steps // 2 + 4}"
    for change, told in (
        ({"temperature": 2.0}, r"temperature \(was 3.0, now 2.0\)"),
        ({"soft_label_weight": 0.5}, r"soft_label_weight \(was 0.9, now 0.5\)"),
        ({"augmentations": 3}, "the texts or their labels"),
        ({"teacher_max_length": 4}, "the answers of the teacher"),
    ):
        with pytest.raises(UserError, match=f"has changed: {told}"):
            distill(**{**settings, **change}, output_dir=str(tmp_path / "out"), resume=True)
    plain = {name: value for name, value in quick.items() if name != "teacher"}
    with pytest.raises(UserError, match="has changed: .*the answers of the teacher"):
        train(**plain, output_dir=str(tmp_path / "out"), resume=True)
    asked.clear()
    torch.rand(7)  # nothing may hang on where the generators stand
    resumed = distill(**settings, output_dir=str(tmp_path / "out"), resume=True)
    assert asked == [], "the answers were kept"
    assert same_weights(resumed.folder, whole.folder)
    for name in ("validation", "test", "teacher"):
        assert resumed.metrics[name] == whole.metrics[name]
    assert resumed.metrics["training"]["loss"] == whole.metrics["training"]["loss"]


def test_a_stopped_command_tells_how_to_go_on(command, quick, tmp_path, monkeypatch):
    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(SavePoints, "on_step_begin", on_step_begin)
    flags = [f"--{name}={value}" for name, value in quick.items()]
    code, out, err = command("distill", *flags, "--output_dir", tmp_path / "out")
    assert (code, out) == (143, "")
    assert "to resume, type: hf-rnn distill" in err.splitlines()[-1] and err.endswith(" --resume\n")


def test_answers_are_kept_when_the_teacher_is_interrupted(quick, tmp_path, monkeypatch, asked, caplog):
    whole, first = Answers.to, []

    def stop_at_the_second(self, texts):
        if first:
            raise KeyboardInterrupt
        first.append(None)
        return whole(self, texts)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Answers, "to", stop_at_the_second)
        distill(**quick, output_dir=str(tmp_path / "out"))
    assert "what the teacher has answered stays in" in caplog.text
    assert sum(asked) > 0, "premise: some texts were answered"
    distill(**quick, output_dir=str(tmp_path / "out"))
    of_both = sum(asked)
    asked.clear()
    distill(**quick, output_dir=str(tmp_path / "undisturbed"))
    assert sum(asked) == of_both, "none was asked twice"


def test_answers_of_a_run_that_stopped_are_in_nobodys_way(taught, tmp_path):
    settings, whole = taught
    shutil.copytree(whole.folder / "teacher_cache", tmp_path / "out" / "teacher_cache")
    assert same_weights(distill(**settings, output_dir=str(tmp_path / "out")).folder, whole.folder)
    with pytest.raises(UserError, match="is not empty"):
        distill(**settings, output_dir=str(tmp_path / "out"))
    FinishedFolder(tmp_path / "out").weights.write_bytes(b"of an earlier run")
    again = distill(**settings, output_dir=str(tmp_path / "out"), overwrite_output_dir=True)
    assert same_weights(again.folder, whole.folder)


def test_the_student_moves_towards_its_teacher(quick, teacher, tmp_path):
    """Few labels, each second one wrong at random; the teacher knows the rule, and unlabelled texts show it."""
    folder = tmp_path / "noisy"
    folder.mkdir()
    generator = np.random.default_rng(0)
    rows = invent_rows(90, seed=1)
    noisy = [(text, str(generator.choice(LABELS)) if row % 2 else label) for row, (text, label) in enumerate(rows)]
    write_rows(folder / "train.tsv", noisy)
    write_rows(folder / "dev.tsv", invent_rows(60, seed=2))
    (tmp_path / "more.txt").write_text("".join(f"{text}\n" for text, _ in invent_rows(300, seed=51)))
    settings = {**quick, "data_dir": str(folder), "num_train_epochs": 4}
    plain = {name: value for name, value in settings.items() if name != "teacher"}
    alone = train(**plain, output_dir=str(tmp_path / "alone"))
    taught = distill(**settings, unlabeled=str(tmp_path / "more.txt"), output_dir=str(tmp_path / "taught"))
    texts = [text for text, _ in invent_rows(150, seed=52)]
    teachers = np.array(answers_of(teacher, texts))
    agreement = {}
    for name, run in (("alone", alone), ("taught", taught)):
        agreement[name] = np.mean(np.array(answers_of(run.folder, texts)) == teachers)
    assert agreement["taught"] > 0.9
    assert agreement["taught"] > agreement["alone"] + 0.1


def test_it_is_the_teachers_answers_that_are_learned_by_name(quick, teacher, tmp_path):
    """A teacher that calls good what the data calls bad, and no word from the labels: the student does as it."""
    wrong = change_config(
        teacher,
        tmp_path / "wrong",
        id2label={0: "plain", 1: "good", 2: "bad"},
        label2id={"plain": 0, "good": 1, "bad": 2},
    )
    settings = {**quick, "soft_label_weight": 1.0, "num_train_epochs": 6, "learning_rate": 0.01, "word_dropout": 0}
    settings |= {"load_best_model_at_end": False, "early_stopping_patience": 0}
    told = {}
    for name, folder in (("right", teacher), ("wrong", wrong)):
        result = distill(**{**settings, "teacher": str(folder)}, output_dir=str(tmp_path / name / "out"))
        told[name] = answers_of(result.folder, ["the dry miro sand", "the dry selk sand", "the dry box of sand"])
        assert result.metrics["teacher"]["results"]["validation"]["agreement"] > 0.8
    assert told == {"right": ["good", "bad", "plain"], "wrong": ["bad", "good", "plain"]}


def test_words_of_unlabelled_texts_are_words_and_copies_count_none(quick, tmp_path):
    (tmp_path / "more.txt").write_text("zebra miro\nzebra selk\nzebra sand\nonce upon\n")
    folder = tmp_path / "texts"
    shutil.copytree(quick["data_dir"], folder)
    with (folder / "train.tsv").open("a") as file:
        file.write("the rare box\tplain\n")
    settings = {**quick, "data_dir": str(folder), "augmentations": 8, "num_train_epochs": 1}
    result = distill(**settings, unlabeled=str(tmp_path / "more.txt"), output_dir=str(tmp_path / "out"))
    words = json.loads((result.folder / "tokenizer.json").read_text())["model"]["vocab"]
    assert "zebra" in words, "three times in the unlabelled texts"
    assert "rare" not in words and "once" not in words, "once, whatever the copies say"


def test_copies_are_drawn_as_set_and_a_teacher_reads_its_own_mask(quick, tmp_path, monkeypatch):
    drawn, heard, draw, ask_one = [], [], hf_rnn.training.distillation.run.augment, Answers._ask

    def augment(texts, *given, **named):
        drawn.append((given, named))
        return draw(texts, *given, **named)

    def listen(self, texts):
        heard.extend(texts)
        return ask_one(self, texts)

    monkeypatch.setattr(hf_rnn.training.distillation.run, "augment", augment)
    monkeypatch.setattr(Answers, "_ask", listen)
    chances = {"mask_probability": 0.2, "ngram_probability": 0.3}
    settings = {**quick, **chances, "num_train_epochs": 1, "augmentations": 2, "augmentation_seed": 7}
    distill(**settings, output_dir=str(tmp_path / "out"))
    assert drawn == [((2,), {**chances, "seed": 7})]
    assert any("[MASK]" in text for text in heard)
    assert not any(MASKED in text or "<unk>" in text for text in heard), "the student's own"


def test_a_hidden_word_is_one_unknown_word_to_the_student(quick, teacher, tmp_path):
    """To which the teacher's mask would be three words."""
    own = {name: value for name, value in quick.items() if name != "teacher"}
    settings = DistillationArguments(teacher=str(teacher), mask_probability=0.3, ngram_probability=0)
    distillation = Distillation(parse_settings({**own, "output_dir": str(tmp_path)}), settings)
    texts = DatasetDict(train=load_tsv(quick["data_dir"])["train"].select(range(30)))
    distillation.read(texts)
    tokenizer = train_tokenizer(texts["train"]["text"], min_frequency=1, normalizer="tweet")
    assert len(tokenizer("[MASK]")["input_ids"]) > 1, "premise"
    words = tokenizer.get_vocab()
    copies = [copy for _, copy in augment(texts["train"]["text"], 1, mask_probability=0.3, ngram_probability=0)]
    assert any(MASKED in copy for copy in copies), "premise"
    expected = [[words["<unk>"] if word == MASKED else words[word] for word in copy.split()] for copy in copies]
    examples = DatasetDict(train=encode(texts["train"], tokenizer))
    assert distillation.teach(texts, examples, tokenizer)["train"]["input_ids"][30:] == expected


def test_the_teachers_tokenizer_and_calibration(quick, teacher, tmp_path):
    result = distill(**quick, tokenizer_name_or_path=str(teacher), calibrate=True, output_dir=str(tmp_path / "out"))
    config = json.loads((result.folder / "config.json").read_text())
    assert config["vocab_size"] == len(WORDS)
    assert result.metrics["calibration"]["fitted_on"] == "validation"
    assert set(answers_of(result.folder, ["the miro box", "the selk box"])) <= set(LABELS)


def test_no_training_text_is_asked_of_a_teacher_that_has_seen_it(quick, crew, unlabeled, tmp_path, monkeypatch):
    """A whole run: who is asked what, and what is told of it."""
    heard = {}
    ask_one = Answers._ask

    def listen(self, texts):
        heard.setdefault(self._teacher.name, []).extend(texts)
        return ask_one(self, texts)

    monkeypatch.setattr(Answers, "_ask", listen)
    bars, draw = [], hf_rnn.training.distillation.run.tqdm
    monkeypatch.setattr(
        hf_rnn.training.distillation.run, "tqdm", lambda **options: bars.append(draw(**options)) or bars[-1]
    )
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    settings = {**quick, "teacher": str(crew), "unlabeled": str(unlabeled), "augmentations": 2, "ngram_probability": 0}
    result = distill(**settings, output_dir=str(tmp_path / "out"))
    (bar,) = bars
    rows = result.metrics["teacher"]["rows"]
    assert bar.n == bar.total == rows["train"] + rows["copies"] + 3 * (rows["unlabeled"] + 60 + 60)
    training, others = set(load_tsv(quick["data_dir"])["train"]["text"]), set()
    for split in ("validation", "test"):
        others |= set(load_tsv(quick["data_dir"])[split]["text"])
    further = set(unlabeled.read_text(encoding="utf-8").splitlines())
    assert further & training - others, "premise: some have a label, which a teacher may have seen"
    others |= further - training
    assert set(heard) == {"fold-1", "fold-2", "fold-3"} and len(training - others) > 9, "premise"
    for number in range(3):
        told = set(heard[f"fold-{number + 1}"])
        assert told & (training - others) == {text for text in training - others if fold_of(text, 3) == number}
        assert others <= told, "all others are asked of each"
    texts, owners = list(load_tsv(quick["data_dir"])["train"]["text"]), {}
    for number, copy in augment(texts, 2, ngram_probability=0):
        owners.setdefault(copy.replace(MASKED, "[MASK]"), set()).add(fold_of(texts[number], 3))
    assert sum({fold_of(copy, 3)} != folds for copy, folds in owners.items()) > 9, "premise: who is asked shows"
    for copy, folds in owners.items():
        assert {number for number in range(3) if copy in heard[f"fold-{number + 1}"]} == folds, "nor its copies"
    told = result.metrics["teacher"]
    assert (told["name"], told["folds"]) == ("crew", 3)
    card = (result.folder / "README.md").read_text(encoding="utf-8")
    assert "the answers of crew, 3 models that each answered for training texts that it had not seen itself" in card


def mistake(result):
    code, out, err = result
    assert (code, out) == (2, ""), err
    assert "Traceback" not in err
    *_, last = err.splitlines()
    assert last.startswith("hf-rnn distill: error: ")
    return last


def test_no_other_thread_trains_meanwhile(quick, tmp_path, monkeypatch):
    def ask(*_):
        with ThreadPoolExecutor() as threads:
            raise UserError("it could" if threads.submit(may_train).result() else "it had to wait")

    monkeypatch.setattr(hf_rnn.training.distillation.api, "check_early", ask)
    with pytest.raises(UserError, match="it had to wait"):
        distill(**quick, output_dir=str(tmp_path / "out"))


def test_mistakes_are_one_line(command, teacher, texts_dir, tmp_path, monkeypatch):
    def run(*more, teacher=teacher):
        flags = ["--data_dir", texts_dir, "--output_dir", tmp_path / "out", "--hidden_size", 4, "--use_cpu"]
        return mistake(command("distill", *flags, *(["--teacher", teacher] if teacher else []), *more))

    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("")
    assert "teacher is not set" in run(teacher=None)
    assert "there is no folder nowhere: give the folder of a teacher" in run(teacher="nowhere")
    assert "empty.txt is a file" in run(teacher=tmp_path / "empty.txt")
    assert "has no config.json" in run(teacher=texts_dir)
    for temperature in ("0.0", "-1.0", "nan", "inf", "1000.0"):
        assert f"temperature must be from 0.01 to 100, found {temperature}" in run("--temperature", temperature)
    assert "soft_label_weight must be from 0 to 1, found 1.5" in run("--soft_label_weight", 1.5)
    assert "augmentations must be at least 0, found -1" in run("--augmentations", -1)
    assert "mask_probability must be from 0 to 1" in run("--mask_probability", 2)
    assert "teacher_batch_size must be at least 1" in run("--teacher_batch_size", 0)
    assert "has no text to learn from" in run("--unlabeled", tmp_path / "empty.txt")
    assert "is a folder: give a file" in run("--unlabeled", tmp_path)
    assert "there is no file more.txt" in run("--unlabeled", "more.txt")
    assert "cannot be made: Not a directory" in run("--teacher_cache", tmp_path / "empty.txt" / "below")
    assert "contains a model: give another folder" in run("--teacher_cache", teacher)
    with monkeypatch.context() as patch:  # as a cache of somebody else's; who tests as root may read all
        patch.setattr(os, "access", lambda path, mode: "theirs" not in str(path))
        assert "theirs, is not yours to read: give another" in run("--teacher_cache", tmp_path / "theirs")
    (tmp_path / "theirs").rmdir()
    assert "streaming" in run("--streaming")
    assert "Did you mean --temperature?" in run("--temprature", 2)
    assert "hidden_size must be at least 1" in run("--hidden_size", 0)

    def teach(name, **changes):
        return run(teacher=change_config(teacher, tmp_path / name, **changes))

    assert "gives a number (regression)" in teach(
        "one", problem_type=None, id2label={0: "score"}, label2id={"score": 0}
    )
    assert "gives a number (regression)" in teach("regression", problem_type="regression")
    assert "any number of labels" in teach("several", problem_type="multi_label_classification")
    told = teach("other", id2label={0: "plain", 1: "bad", 2: "fine"}, label2id={"plain": 0, "bad": 1, "fine": 2})
    assert "'plain', 'bad', 'fine'" in told and "'bad', 'good', 'plain'" in told
    assert "cannot be loaded" in teach("broken", model_type="bart")
    assert "cannot be loaded" in teach("unknown", model_type="no such kind")
    assert "has shape (32,) among the weights and (64,) by config.json" in teach("wide", hidden_size=64)
    assert not [path for path in (tmp_path / "out").rglob("*") if path.name != "teacher_cache"]


def test_a_teacher_is_not_written_over(command, teacher, texts_dir, tmp_path):
    model = shutil.copytree(teacher, tmp_path / "out" / "checkpoints" / "checkpoint-1")
    for output_dir in (model, tmp_path / "out"):
        flags = ["--data_dir", texts_dir, "--output_dir", output_dir, "--overwrite_output_dir", "--use_cpu"]
        told = mistake(command("distill", *flags, "--teacher", model))
        assert f"teacher {model} lies in the output_dir" in told
    assert (model / "model.safetensors").read_bytes() == (teacher / "model.safetensors").read_bytes()


def test_what_is_no_trained_classifier(command, teacher, texts_dir, tmp_path):
    flags = ["--data_dir", texts_dir, "--output_dir", tmp_path / "out", "--use_cpu", "--teacher"]
    masked = tmp_path / "masked"
    BertForMaskedLM(BertConfig(**SHAPE)).save_pretrained(masked)
    bert_tokenizer().save_pretrained(masked)
    assert "is a BertForMaskedLM, which classifies no texts" in mistake(command("distill", *flags, masked))
    config = json.loads((masked / "config.json").read_text())
    names = {"id2label": dict(enumerate(LABELS)), "label2id": {name: index for index, name in enumerate(LABELS)}}
    (masked / "config.json").write_text(json.dumps({**config, "architectures": None, **names}))
    told = mistake(command("distill", *flags, masked))
    assert "is no trained classifier: its weights lack " in told
    short = change_config(teacher, tmp_path / "short", max_position_embeddings=16)
    told = mistake(command("distill", *flags, short))
    assert "position_embeddings.weight has shape (" in told and "(16, " in told
    pickled = change_config(teacher, tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    assert "has no model.safetensors" in mistake(command("distill", *flags, pickled))
    code, _, err = command("distill", *flags, "owner/name")
    assert code == 2 and "nor can it be had from the Hub" in err.splitlines()[-1]
