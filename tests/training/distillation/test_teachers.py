"""Cross-fitted teachers: who answers for a text, and folders that hold none."""

import gc
import hashlib
import shutil
import weakref
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import invent_rows
from hypothesis import given
from hypothesis import strategies as st
from tiny_teacher import WORDS, ask, bert_tokenizer
from transformers import (
    BertForSequenceClassification,
    BertTokenizerFast,
)

from hf_rnn.training.distillation.cross_fitting import FOLDS_FILE, UNFINISHED_FILE, fold_folder, fold_of, write_folds
from hf_rnn.training.distillation.ensemble import JointAnswers, Teachers
from hf_rnn.training.distillation.teacher import Teacher
from hf_rnn.utils.errors import UserError


@given(st.text(), st.integers(1, 9))
def test_a_text_and_its_duplicates_lie_in_one_fold(text, folds):
    fold = fold_of(text, folds)
    assert 0 <= fold < folds
    assert fold_of(f"  {text}\t", folds) == fold
    if text.isascii():
        assert fold_of(text.upper(), folds) == fold


def test_the_fold_of_a_text_is_what_it_was_when_its_teachers_were_made():
    """In another one the text would be asked of a teacher that has seen it, and nothing would tell."""
    for text, folds in (("The box of dry sand", 3), ("miro", 2), ("", 5), ("se\u0301lk 😀", 7)):
        digest = hashlib.sha256(text.lower().encode()).hexdigest()
        assert fold_of(text, folds) == int(digest[:16], 16) % folds


def test_folds_are_about_equal():
    counts = Counter(fold_of(f"text number {number}", 3) for number in range(3000))
    assert all(abs(count - 1000) < 4 * (3000 * 2 / 9) ** 0.5 for count in counts.values()), "four standard deviations"


def log_probabilities(folder, texts):
    """Of each text alone, by transformers."""
    model, tokenizer = BertForSequenceClassification.from_pretrained(folder).eval(), bert_tokenizer()
    with torch.no_grad():
        logits = [model(**tokenizer(text, truncation=True, return_tensors="pt")).logits[0] for text in texts]
    return torch.stack(logits).log_softmax(dim=-1).numpy()


def test_who_answers_for_a_text(crew, tmp_path, asked):
    sources = [text for text, _ in invent_rows(40, seed=61)]
    texts = [source.split()[0] for source in sources]
    assert {fold_of(source, 3) for source in sources} == {0, 1, 2}, "premise"
    assert [fold_of(text, 3) for text in texts] != [fold_of(source, 3) for source in sources], "premise"
    by_fold = [log_probabilities(fold_folder(crew, fold), texts) for fold in range(3)]
    asked.clear()
    told = []
    answers = JointAnswers(Teachers.open(str(crew)), tmp_path, told.append)
    found = answers.to_trained(texts, sources)
    assert sum(asked) == len(texts), "each by one teacher"
    expected = [by_fold[fold_of(source, 3)][row] for row, source in enumerate(sources)]
    normalised = found - np.log(np.exp(found).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(normalised, expected, atol=1e-5)
    np.testing.assert_allclose(answers.to_others(texts), np.mean(by_fold, axis=0), atol=1e-5)
    assert sum(asked) == 4 * len(texts)
    assert answers.counts == (4 * len(texts), 0)
    assert sum(told) == 4 * len(texts) and len(told) > 8, "as they came, not at the end"
    told.clear()
    again = JointAnswers(Teachers.open(str(crew)), tmp_path, told.append)
    assert np.array_equal(again.to_trained(texts, sources), found)
    again.to_others(texts)
    assert sum(asked) == 4 * len(texts) and again.counts == (0, 4 * len(texts)), "all was kept"
    assert sum(told) == 4 * len(texts), "which counts too"


def test_one_teacher_at_a_time_is_in_memory(crew, tmp_path, monkeypatch):
    loaded, load = [], Teacher.load

    def alive():
        gc.collect()
        return [model for model in loaded if model() is not None]

    def load_one(self):
        assert not alive()
        model = load(self)
        loaded.append(weakref.ref(model))
        return model

    monkeypatch.setattr(Teacher, "load", load_one)
    answers = JointAnswers(Teachers.open(str(crew)), tmp_path)
    answers.to_others(["the box", "the door"])
    assert len(loaded) == 3 and not alive()


def test_one_teacher_alone_answers_for_all(teacher, tmp_path):
    texts = [text for text, _ in invent_rows(9, seed=62)]
    opened = Teachers.open(str(teacher))
    assert (opened.name, opened.folds, len(opened.members)) == ("tiny-bert", None, 1)
    answers = JointAnswers(opened, tmp_path / "joint")
    plain = ask(teacher, texts, tmp_path / "plain")
    assert np.array_equal(answers.to_trained(texts, texts), plain)
    assert np.array_equal(answers.to_others(texts), plain), "logits as they are"


def test_crews_that_are_none(crew, tmp_path):
    def refused(change):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        shutil.copytree(crew, folder)
        change(folder)
        with pytest.raises(UserError) as caught:
            Teachers.open(str(folder))
        return str(caught.value)

    assert "has no config.json" in refused(lambda folder: (folder / FOLDS_FILE).unlink())
    told = refused(lambda folder: (folder / FOLDS_FILE).rename(folder / UNFINISHED_FILE))
    assert "some teachers in " in told and " are still to come" in told
    for damaged in ("{", "[]", "{}", "3"):
        told = refused(lambda folder, text=damaged: (folder / FOLDS_FILE).write_text(text))
        assert "folds.json cannot be read: make the teachers anew with finetune_teacher.py --folds" in told
    for number in ('"3"', "1", "true", "2.5"):
        told = refused(lambda folder, text=number: (folder / FOLDS_FILE).write_text(f'{{"folds": {text}}}'))
        assert "folds must be a number from 2, found" in told
    assert "speaks of 4 teachers, and there is no folder" in refused(lambda folder: write_folds(folder, 4))
    assert "fold-2" in refused(lambda folder: (folder / "fold-2" / "config.json").unlink())

    def rename(folder):
        path = folder / "fold-3" / "config.json"
        path.write_text(path.read_text().replace('"plain"', '"dull"'))

    assert "fold-1 and fold-3" in refused(rename) and "have not the same labels" in refused(rename)

    def other_words(folder):
        words = {word: index for index, word in enumerate([*WORDS[:-1], "other"])}
        BertTokenizerFast(vocab=words, model_max_length=32).save_pretrained(folder / "fold-2")

    assert "fold-1 and fold-2" in refused(other_words) and "have not the same tokenizer" in refused(other_words)
