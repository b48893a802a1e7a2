"""Teachers: their labels, limits and logits; cross-fitted ones; the cache."""

import gc
import hashlib
import shutil
import weakref

import numpy as np
import pytest
import torch
from conftest import invent_rows
from tiny_teacher import bert_tokenizer, bytes_tokenizer, change_config, compute_logits
from transformers import (
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
)

import hf_rnn.training.distillation.teacher
from hf_rnn import RnnConfig, RnnForSequenceClassification
from hf_rnn.training.distillation.teacher import (
    FOLDS_FILE,
    Answers,
    Teacher,
    Teachers,
    fold_folder,
    fold_of,
)
from hf_rnn.utils.errors import UserError

TEXTS = [text for text, _ in invent_rows(40, seed=31)]


# ---- labels ----


@pytest.mark.parametrize(
    ("classes", "own", "expected"),
    [
        (["bad", "good", "plain"], None, [1, 2, 0]),
        (["low", "mid", "high"], ["mid", "low", "high"], [1, 0, 2]),
        (["bad", "good", "awful"], None, "give the data's labels"),
        (["bad", "good"], None, "same task"),
    ],
)
def test_labels_are_matched_by_name(teacher, classes, own, expected):
    opened = Teacher.open(str(teacher))
    if isinstance(expected, list):
        assert opened.align(classes, own) == expected
    else:
        with pytest.raises(UserError, match=expected):
            opened.align(classes, own)


def test_generic_labels_are_not_guessed(teacher, tmp_path):
    opened = Teacher.open(str(change_config(teacher, tmp_path / "x", id2label=None, label2id=None, num_labels=3)))
    with pytest.raises(UserError, match="teacher_labels"):
        opened.align(["bad", "good", "plain"])
    assert opened.align(["bad", "good", "plain"], ["plain", "bad", "good"]) == [1, 2, 0]
    assert opened.align(["LABEL_1", "LABEL_0", "LABEL_2"]) == [1, 0, 2]
    assert opened.fingerprint == Teacher.open(str(teacher)).fingerprint, "names change no logit"


# ---- models ----


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"problem_type": "multi_label_classification"}, "exactly one label"),
        ({"architectures": ["BertForMaskedLM"]}, "does not classify texts"),
        ({"hidden_size": 64}, "no weights that fit"),
    ],
)
def test_models_that_cannot_teach(teacher, tmp_path, changes, message):
    folder = change_config(teacher, tmp_path / "other", **changes)
    with pytest.raises(UserError, match=message):
        Teacher.open(str(folder)).load()


def test_folders_that_cannot_teach(teacher, tmp_path):
    """A model without its tokenizer, and pickled weights."""
    bare, pickled = tmp_path / "bare", tmp_path / "pickled"
    shutil.copytree(teacher, bare, ignore=lambda folder, names: {name for name in names if "token" in name})
    with pytest.raises(UserError, match="without words"):
        Teachers.open(str(bare))
    shutil.copytree(teacher, pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"model\.safetensors"):
        Teacher.open(str(pickled)).load()


@pytest.mark.parametrize(
    ("own", "positions", "asked", "expected"),
    [
        (16, 20, None, 16),
        (32, 32, 8, 8),
    ],
)
def test_texts_are_truncated_to_the_positions(teacher, tmp_path, own, positions, asked, expected):
    folder = change_config(teacher, tmp_path / "positions", max_position_embeddings=positions)
    folder = change_config(folder, tmp_path / "other", "tokenizer_config.json", model_max_length=own)
    assert Teacher.open(str(folder), max_length=asked).max_length == expected


# ---- logits ----


@pytest.mark.parametrize(
    ("kind", "limit"), [("bert", 32), ("recurrent", 512), ("gpt without padding", 64), ("blocks", 32)]
)
def test_logits_equal_those_of_single_texts(teacher, trained, tmp_path, kind, limit):
    folder = {"bert": teacher, "recurrent": trained.folder}.get(kind, tmp_path / "gpt")
    if kind == "blocks":
        tokenizer, shape = bert_tokenizer(), {"embedding_size": 8, "hidden_size": 8, "num_hidden_layers": 2}
        config = RnnConfig(
            vocab_size=len(tokenizer), block_type="residual", cell_type="min_gru", num_labels=3, **shape
        )
        RnnForSequenceClassification(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    elif not folder.exists():
        shape = {"vocab_size": 256, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64}
        GPT2ForSequenceClassification(GPT2Config(**shape, num_labels=3)).save_pretrained(folder)
        bytes_tokenizer().save_pretrained(folder)
    texts = [*TEXTS, "sand " * 50, "?", "miro"]
    found = compute_logits(folder, texts, tmp_path / "cache", batch_size=8)
    opened = Teacher.open(str(folder))
    model = opened.load()
    for text, row in zip(texts, found, strict=True):
        inputs = opened.tokenizer(text, truncation=True, max_length=limit, return_tensors="pt")
        inputs = {name: inputs[name].long() for name in ("input_ids", "attention_mask")}
        with torch.no_grad():
            np.testing.assert_allclose(row, model(**inputs).logits[0].numpy(), atol=2e-5)


# ---- cache ----


def test_fingerprint(teacher, tmp_path):
    """It depends on all that changes a logit, and not on the place."""
    known = Teacher.open(str(teacher)).fingerprint
    moved = change_config(teacher, tmp_path / "moved")
    assert known == Teacher.open(str(moved)).fingerprint == Teacher.open(str(teacher), max_length=99).fingerprint
    others = [Teacher.open(str(teacher), **options) for options in ({"max_length": 8}, {"bf16": True})]
    changes = [{"padding_side": "left"}, {"truncation_side": "left"}, {"split_special_tokens": True}]
    for number, change in enumerate([*changes, {"model_input_names": ["input_ids"]}]):
        folder = change_config(teacher, tmp_path / str(number), "tokenizer_config.json", **change)
        others.append(Teacher.open(str(folder)))
    others.append(Teacher.open(str(change_config(teacher, tmp_path / "norm", layer_norm_eps=1e-3))))
    content = bytearray((moved / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (moved / "model.safetensors").write_bytes(content)
    others.append(Teacher.open(str(moved)))
    assert known not in {other.fingerprint for other in others}


def test_a_stopped_computation_continues(teacher, tmp_path, asked, monkeypatch):
    monkeypatch.setattr(hf_rnn.training.distillation.teacher, "BLOCK_TEXTS", 10)

    def stop(count):
        if sum(asked) == 40:  # while the last block is computed
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Answers(Teachers.open(str(teacher)), tmp_path, stop).for_others(TEXTS)
    asked.clear()
    first = compute_logits(teacher, TEXTS, tmp_path)
    assert sum(asked) == 10
    with monkeypatch.context() as patch:
        patch.setattr(Teacher, "load", None)
        assert np.array_equal(compute_logits(teacher, TEXTS, tmp_path), first)
    compute_logits(teacher, [*TEXTS, "miro"], tmp_path)
    assert sum(asked) == 11


# ---- cross-fitted teachers ----


def test_the_fold_of_a_text_never_changes():
    """Otherwise a teacher of an earlier version would label texts that it has seen."""
    for text, folds in (("The box of dry sand", 3), ("  miro\t", 2), ("", 5), ("se\u0301lk 😀", 7)):
        digest = hashlib.sha256(text.strip().lower().encode()).hexdigest()
        assert fold_of(text, folds) == int(digest[:16], 16) % folds
    counts = np.bincount([fold_of(f"text number {number}", 3) for number in range(3000)])
    assert abs(counts - 1000).max() < 4 * (3000 * 2 / 9) ** 0.5, "four standard deviations"


def log_probabilities(folder, texts):
    """Compute those of single texts with transformers alone."""
    model, tokenizer = BertForSequenceClassification.from_pretrained(folder).eval(), bert_tokenizer()
    with torch.no_grad():
        logits = [model(**tokenizer(text, truncation=True, return_tensors="pt")).logits[0] for text in texts]
    return torch.stack(logits).log_softmax(dim=-1).numpy()


def test_each_text_is_labelled_by_a_teacher_that_has_not_seen_it(crew, tmp_path, asked, monkeypatch):
    """One model is in memory at a time, and the cache serves a second run."""
    loaded, load = [], Teacher.load

    def load_one(self):
        gc.collect()
        assert not any(model() for model in loaded)
        model = load(self)
        loaded.append(weakref.ref(model))
        return model

    monkeypatch.setattr(Teacher, "load", load_one)
    texts = [source.split()[0] for source in TEXTS]
    assert {fold_of(source, 3) for source in TEXTS} == {0, 1, 2}
    by_fold = [log_probabilities(fold_folder(crew, fold), texts) for fold in range(3)]
    asked.clear()
    finished = []
    answers = Answers(Teachers.open(str(crew)), tmp_path, finished.append)
    found = answers.for_training(texts, TEXTS)
    expected = [by_fold[fold_of(source, 3)][row] for row, source in enumerate(TEXTS)]
    np.testing.assert_allclose(found - np.log(np.exp(found).sum(axis=1, keepdims=True)), expected, atol=1e-5)
    np.testing.assert_allclose(answers.for_others(texts), np.mean(by_fold, axis=0), atol=1e-5)
    assert sum(asked) == sum(finished) == answers.computed == 4 * len(texts)
    again = Answers(Teachers.open(str(crew)), tmp_path, finished.append)
    assert np.array_equal(again.for_training(texts, TEXTS), found)
    again.for_others(texts)
    assert (again.computed, again.cached, sum(finished)) == (0, 4 * len(texts), 8 * len(texts))


def test_incomplete_cross_fitted_teachers(crew, tmp_path):
    def refuse(change, message):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        shutil.copytree(crew, folder)
        change(folder)
        with pytest.raises(UserError, match=message):
            Teachers.open(str(folder))

    refuse(lambda folder: (folder / FOLDS_FILE).unlink(), "config.json")
    refuse(lambda folder: shutil.rmtree(folder / "fold-2"), "fold-2")
