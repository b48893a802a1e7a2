"""Distillation: texts, teachers, loss and steps, the finished folder, resume, mistakes."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import LABELS, invent_rows, run_until, same_weights, write_rows
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from tiny_teacher import bert_tokenizer, bytes_tokenizer, change_config
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GPT2Config,
    GPT2ForSequenceClassification,
    pipeline,
)

from hf_rnn import distill, train, train_tokenizer
from hf_rnn.hub.model_folder import FinishedFolder
from hf_rnn.models.settings_rnn import IGNORED_LABEL
from hf_rnn.settings.recipe import load_recipe
from hf_rnn.tokenizers.normalizers import NORMALIZERS
from hf_rnn.training.distill import (
    MASKED,
    Classifier,
    augment,
    distillation_loss,
    write_masks,
)
from hf_rnn.utils.errors import UserError

TEXTS = [text for text, _ in invent_rows(40, seed=31)]


@pytest.fixture(scope="module")
def quick(tiny_settings, teacher):
    """Settings of a short distillation."""
    return {**tiny_settings, "teacher": str(teacher), "num_train_epochs": 2, "baselines": False}


@pytest.fixture(scope="module")
def unlabeled(tmp_path_factory):
    path = tmp_path_factory.mktemp("unlabeled") / "unlabeled.txt"
    texts = dict.fromkeys(text for text, _ in invent_rows(100, seed=21))
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def distilled(quick, unlabeled, tmp_path_factory):
    """Return settings and the result of a distillation; its folder does not change."""
    settings = {**quick, "unlabeled": str(unlabeled), "temperature": 3.0}
    return settings, distill(
        **settings, output_dir=str(tmp_path_factory.mktemp("distilled") / "model")
    )


@pytest.fixture
def asked(monkeypatch):
    """The texts that teachers read, in this test."""
    texts, answer = [], Classifier.answer
    monkeypatch.setattr(
        Classifier, "answer", lambda self, block: texts.extend(block) or answer(self, block)
    )
    return texts


def open_teacher(folder, max_length=None, bf16=False):
    return Classifier.open(
        str(folder), max_length, SimpleNamespace(device=torch.device("cpu"), bf16=bf16)
    )


def predict(folder, texts):
    return np.array(
        [one["label"] for one in pipeline("text-classification", str(folder), device="cpu")(texts)]
    )


# ---- the loss ----


def softmax(values):
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("temperature", "weight"), [(2.0, 0.9), (0.5, 0.0)])
def test_loss_by_hand(temperature, weight):
    chance, classes, smoothing = np.random.default_rng(0), 4, 0.1
    logits, teachers = chance.normal(size=(2, 7, classes)) * 3
    labels = chance.integers(classes, size=7)
    labels[::3] = IGNORED_LABEL
    weights = np.array([0.5, 1.0, 2.0, 1.5])
    p = (weights * softmax(teachers)) ** (1 / temperature)
    p, q = p / p.sum(axis=1, keepdims=True), softmax(logits / temperature)
    expected = weight * temperature**2 * (p * (np.log(p) - np.log(q))).sum()
    for row, label in zip(softmax(logits), labels, strict=True):
        if label != IGNORED_LABEL:
            share = np.full(classes, smoothing / classes)
            share[label] += 1 - smoothing
            expected -= (1 - weight) * (share * weights * np.log(row)).sum()
    logits, labels, teachers, weights = map(torch.from_numpy, (logits, labels, teachers, weights))
    settings = {
        "temperature": temperature,
        "soft_label_weight": weight,
        "label_smoothing": smoothing,
    }
    found = distillation_loss(
        logits, labels, teacher_logits=teachers, class_weights=weights, **settings
    )
    assert found.item() == pytest.approx(expected, rel=1e-12)


# ---- training rows ----


def test_class_weights_of_a_teacher_of_this_package_count_once(trained):
    """Its logits have its weights in, and the loss adds those of the student."""
    power = load_recipe(trained.folder / "training_args.json")["class_weight_power"]
    expected = (18 / (3 * np.array([2.0, 4.0, 12.0]))) ** power
    found = np.exp(open_teacher(trained.folder).read_class_weights([2, 4, 12]))
    np.testing.assert_allclose(found / found[0], expected / expected[0], rtol=1e-6)
    assert power > 0


@given(st.lists(st.text(), max_size=4), st.integers(0, 5))
def test_copies_of_any_text(texts, copies):
    drawn, sources = list(augment(texts, copies)), [text.split() for text in texts]
    assert drawn == list(augment(texts, copies + 3))[: len(drawn)]
    for copy in drawn:
        kept = copy.split(" ")
        assert set(kept) != {MASKED}
        windows = [
            words[first : first + len(kept)] for words in sources for first in range(len(words))
        ]
        windows = [
            part
            for part in windows
            if len(part) == len(kept) and (len(kept) <= 5 or part in sources)
        ]
        assert any(
            all(one in (MASKED, other) for one, other in zip(kept, part, strict=True))
            for part in windows
        )


def test_a_hidden_word_is_one_token():
    """The mask token, else the unknown token; a tokenizer of bytes loses every word."""
    copies = [f"the {MASKED} sand"]
    assert write_masks(copies, bert_tokenizer()) == ["the [MASK] sand"]
    assert write_masks(copies, bytes_tokenizer()) == ["the  sand"]
    for normalizer in NORMALIZERS:
        own = train_tokenizer(["the sand unk mask"], min_frequency=1, normalizer=normalizer)
        (copy,) = write_masks(copies, own)
        assert own.convert_ids_to_tokens(own(copy)["input_ids"]) == ["the", "<unk>", "sand"], (
            normalizer
        )


# ---- teachers ----


@pytest.mark.parametrize(
    ("classes", "own", "expected"),
    [
        (["bad", "good", "plain"], None, [1, 2, 0]),
        (["low", "mid", "high"], ["mid", "low", "high"], [1, 0, 2]),
        (["bad", "good", "awful"], None, "teacher_labels"),
    ],
)
def test_labels_are_matched_by_name(teacher, classes, own, expected):
    opened = open_teacher(teacher)
    if isinstance(expected, list):
        assert opened.align(classes, own) == expected
    else:
        with pytest.raises(UserError, match=expected):
            opened.align(classes, own)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"problem_type": "multi_label_classification"}, "exactly one label"),
        ({"architectures": ["BertForMaskedLM"]}, "does not classify texts"),
        ({"hidden_size": 64}, "because of its weights"),
        ({"model_type": "distilbert"}, "no weights for"),  # a head at random would teach nonsense
        ({}, r"model\.safetensors"),  # weights in pickles
    ],
)
def test_models_that_cannot_teach(teacher, tmp_path, changes, message):
    folder = change_config(teacher, tmp_path / "other", **changes)
    if not changes:
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=message):
        open_teacher(folder).model  # noqa: B018 - it loads


@pytest.mark.parametrize(
    ("kind", "limit"), [("bert", 32), ("recurrent", 512), ("gpt without padding", 64)]
)
def test_logits_equal_those_of_single_texts(teacher, trained, tmp_path, kind, limit):
    folder = {"bert": teacher, "recurrent": trained.folder}.get(kind, tmp_path / "other")
    if not folder.exists():
        shape = {"vocab_size": 256, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64}
        GPT2ForSequenceClassification(GPT2Config(**shape, num_labels=3)).save_pretrained(folder)
        bytes_tokenizer().save_pretrained(folder)
    texts, opened = [*TEXTS, "sand " * 50, "?", "miro"], open_teacher(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    for text, row in zip(texts, opened.answer(texts).tolist(), strict=True):
        inputs = opened.tokenizer(text, truncation=True, max_length=limit, return_tensors="pt")
        inputs = {name: inputs[name].long() for name in ("input_ids", "attention_mask")}
        with torch.no_grad():
            np.testing.assert_allclose(row, model(**inputs).logits[0].numpy(), atol=2e-5)


def test_the_hash_depends_on_all_that_changes_a_logit_and_not_on_the_place(teacher, tmp_path):
    expected, moved = open_teacher(teacher).hash, Path(shutil.copytree(teacher, tmp_path / "moved"))
    assert expected == open_teacher(moved).hash == open_teacher(teacher, 99).hash
    content = bytearray((moved / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (moved / "model.safetensors").write_bytes(content)
    side = change_config(
        teacher, tmp_path / "side", "tokenizer_config.json", truncation_side="left"
    )
    assert expected not in {
        open_teacher(*changed).hash for changed in ((teacher, 8), (side,), (moved,))
    }


# ---- whole runs ----


def test_a_run_leaves_a_finished_folder(distilled, teacher, texts_dir, unlabeled):
    folder, metrics = FinishedFolder(distilled[1].folder), distilled[1].metrics
    folder.check_finished()
    assert json.loads(folder.metrics.read_text())["teacher"] == metrics["teacher"]
    rows = {}
    for name in ("train", "dev", "test"):
        lines = (texts_dir / f"{name}.tsv").read_text().splitlines()
        rows[name] = [line.split("\t") for line in lines]
    for split, name in (("dev", "validation"), ("test", "test")):
        texts, labels = (list(column) for column in zip(*rows[split], strict=True))
        teachers, students = predict(teacher, texts), predict(folder.root, texts)
        found = metrics["teacher"]["results"][name]
        assert found["accuracy"] == pytest.approx(np.mean(teachers == labels))
        assert (
            found["agreement"] == pytest.approx(np.mean(teachers == students))
            and found["agreement"] > 0.6
        )
        assert metrics[name]["accuracy"] == pytest.approx(np.mean(students == labels))
    counts, record = metrics["teacher"]["rows"], dict(metrics["teacher"]["unlabeled"])
    known, lines = (
        {text for part in rows.values() for text, _ in part},
        unlabeled.read_text().splitlines(),
    )
    assert counts["unlabeled"] == record["kept"] == sum(line not in known for line in lines)
    assert record.pop("file") == "unlabeled.txt" and record.pop("lines") == sum(
        record.values()
    ) == len(lines)
    assert counts["train"] == 240 == metrics["training"]["rows"] and 120 < counts["copies"] <= 240
    assert metrics["training"]["steps"] == 2 * -(-sum(counts.values()) // 16)
    card = folder.card.read_text()
    assert "tiny-bert" in card and "hf-rnn distill" in card and f"{counts['copies']} " in card
    for path in (folder.card, folder.metrics, folder.training_args):
        assert (
            str(teacher.parent) not in path.read_text()
            and str(unlabeled.parent) not in path.read_text()
        )


def test_the_command_repeats_a_run(command, distilled, tmp_path):
    """Settings come from training_args.json."""
    settings, first = distilled
    flags = [
        "--recipe",
        first.folder / "training_args.json",
        "--use_cpu",
        "--output_dir",
        tmp_path / "out",
    ]
    for name in ("teacher", "data_dir", "unlabeled"):
        flags += [f"--{name}", settings[name]]
    code, out, err = command("distill", *flags)
    assert code == 0, err
    assert same_weights(first.folder, tmp_path / "out") and not list(
        (tmp_path / "out").glob("*.npz")
    )
    printed = json.loads(out)
    assert printed["teacher"]["name"] == "tiny-bert" and printed["output_dir"] == str(
        tmp_path / "out"
    )


def test_a_stopped_run_resumes_bit_for_bit_and_asks_once(distilled, tmp_path, asked):
    settings, whole = distilled
    steps = whole.metrics["training"]["steps"]
    run_until(steps // 2 + 4, lambda: distill(**settings, output_dir=str(tmp_path / "out")))
    assert len(asked) == sum(
        {**whole.metrics["teacher"]["rows"], "validation": 60, "test": 60}.values()
    )
    changes = [
        ({"temperature": 2.0}, "temperature"),
        ({"soft_label_weight": 0.5}, "soft_label_weight"),
    ]
    for change, message in [
        *changes,
        ({"augmentations": 2}, "texts"),
        ({"teacher_max_length": 4}, "texts"),
    ]:
        stored = (tmp_path / "out" / "teacher_logits.npz").read_bytes()
        with pytest.raises(UserError, match=message):
            distill(**{**settings, **change}, output_dir=str(tmp_path / "out"), resume=True)
        (tmp_path / "out" / "teacher_logits.npz").write_bytes(stored)
    asked.clear()
    torch.rand(7)  # the state of the process does not matter
    resumed = distill(**settings, output_dir=str(tmp_path / "out"), resume=True)
    assert asked == [] and same_weights(resumed.folder, whole.folder)
    for name in ("validation", "test", "teacher"):
        assert resumed.metrics[name] == whole.metrics[name]


def test_few_rows_learn_from_the_teacher_too(quick, unlabeled, tmp_path):
    """The default recipe fits their labels alone by regression, which no unlabelled text has."""
    settings = {
        "teacher": quick["teacher"],
        "unlabeled": str(unlabeled),
        "max_steps": 1,
        "baselines": False,
    }
    result = distill(
        train=invent_rows(24, seed=1), output_dir=str(tmp_path / "out"), use_cpu=True, **settings
    )
    assert result.metrics["training"]["steps"] == 1


@pytest.mark.parametrize("given", [{}, {"tokenizer": "word", "min_frequency": 3}])
def test_a_fast_student_starts_from_the_table_of_a_teacher_of_this_package(
    quick, trained, tmp_path, given
):
    settings = {name: value for name, value in quick.items() if name != "embedding_size"} | given
    settings |= {
        "recipe": "fast",
        "teacher": str(trained.folder),
        "max_steps": 2,
        "learning_rate": 1e-9,
    }
    student = distill(**settings, output_dir=str(tmp_path / "student")).folder
    tables = [
        load_file(folder / "model.safetensors")["rnn.embedding.weight"]
        for folder in (student, trained.folder)
    ]
    assert (tables[0].shape == tables[1].shape and torch.allclose(*tables, atol=1e-6)) == (
        not given
    )
    vocabularies = [
        AutoTokenizer.from_pretrained(folder).get_vocab() for folder in (student, trained.folder)
    ]
    assert given or vocabularies[0] == vocabularies[1]
    # few rows do not lower it
    assert load_recipe(student / "training_args.json")["min_frequency"] == 3


@pytest.mark.slow
def test_a_student_moves_towards_its_teacher(quick, teacher, tmp_path):
    """Every second label is random; the teacher knows the rule, and unlabelled texts show it."""
    generator, folder = np.random.default_rng(0), tmp_path / "noisy"
    folder.mkdir()
    rows = enumerate(invent_rows(90, seed=1))
    noisy = [
        (text, str(generator.choice(LABELS)) if row % 2 else label) for row, (text, label) in rows
    ]
    write_rows(folder / "train.tsv", noisy)
    write_rows(folder / "dev.tsv", invent_rows(60, seed=2))
    (tmp_path / "more.txt").write_text(
        "".join(f"{text}\n" for text, _ in invent_rows(300, seed=51))
    )
    settings = {**quick, "data_dir": str(folder), "num_train_epochs": 4}
    plain = {name: value for name, value in settings.items() if name != "teacher"}
    train(**plain, output_dir=str(tmp_path / "alone"))
    distill(
        **settings, unlabeled=str(tmp_path / "more.txt"), output_dir=str(tmp_path / "distilled")
    )
    texts = [text for text, _ in invent_rows(150, seed=52)]
    alone, student, teachers = (
        predict(one, texts) for one in (tmp_path / "alone", tmp_path / "distilled", teacher)
    )
    assert np.mean(student == teachers) > max(0.9, np.mean(alone == teachers) + 0.1)


# ---- mistakes ----


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--teacher", "nowhere"], "no folder nowhere"),
        (["--unlabeled", "empty.txt"], "found no row"),
        (["--output_dir", "TEACHER", "--overwrite_output_dir"], "would be replaced"),
    ],
)
def test_mistakes_are_one_line(command, teacher, texts_dir, tmp_path, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("\n \n")
    before = (teacher / "model.safetensors").read_bytes()
    flags = [teacher if flag == "TEACHER" else flag for flag in flags]
    usual = [
        "--recipe",
        "scratch",
        "--data_dir",
        texts_dir,
        "--output_dir",
        "out",
        "--use_cpu",
        "--teacher",
        teacher,
    ]
    code, out, err = command("distill", *usual, *flags)
    assert (code, out) == (2, "") and "Traceback" not in err
    assert (
        err.splitlines()[-1].startswith("hf-rnn distill: error: ")
        and message in err.splitlines()[-1]
    )
    assert (teacher / "model.safetensors").read_bytes() == before and not list(
        tmp_path.rglob("config.json")
    )
