"""A teacher's answers are kept: read again, mended, and never half there."""

import os

import numpy as np
import pytest
from conftest import invent_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_teacher import ask

import hf_rnn.training.distillation.cache
import hf_rnn.training.save
from hf_rnn.training.distillation.cache import LogitsCache
from hf_rnn.training.distillation.teacher import Teacher


def test_a_second_run_reads_what_was_kept(teacher, tmp_path, asked, monkeypatch):
    monkeypatch.setattr(hf_rnn.training.distillation.cache, "BLOCK_TEXTS", 30)
    texts = [text for text, _ in invent_rows(100, seed=41)]
    first = ask(teacher, texts, tmp_path / "cache")
    assert sum(asked) == 100
    monkeypatch.setattr(Teacher, "load", None)  # it is not even loaded
    assert np.array_equal(ask(teacher, iter(texts), tmp_path / "cache"), first)
    assert sum(asked) == 100
    monkeypatch.undo()
    monkeypatch.setattr(hf_rnn.training.distillation.cache, "BLOCK_TEXTS", 30)
    assert len(list((tmp_path / "cache").iterdir())) == 4


def test_only_what_is_new_is_asked(teacher, tmp_path, asked, monkeypatch):
    monkeypatch.setattr(hf_rnn.training.distillation.cache, "BLOCK_TEXTS", 30)
    texts = [text for text, _ in invent_rows(100, seed=41)]
    first = ask(teacher, texts, tmp_path / "cache")
    asked.clear()
    more = ask(teacher, [*texts, "miro", "selk"], tmp_path / "cache")
    assert sum(asked) == 12, "the last ten lie in a block of their own with the two"
    np.testing.assert_allclose(more[:100], first, atol=1e-5)
    asked.clear()
    ask(teacher, texts, tmp_path / "cache", max_length=5)
    assert sum(asked) == 100


HARMS = {
    "truncated": lambda content: content[: len(content) // 2],
    "a bit flipped": lambda content: content[:-3] + bytes([content[-3] ^ 4]) + content[-2:],
    "empty": lambda content: b"",
    "something else": lambda content: b"hello" * 99,
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_file_is_computed_again(teacher, tmp_path, asked, caplog, harm):
    texts = [text for text, _ in invent_rows(10, seed=42)]
    first = ask(teacher, texts, tmp_path / "cache")
    (path,) = (tmp_path / "cache").iterdir()
    content = path.read_bytes()
    path.write_bytes(HARMS[harm](content))
    assert np.array_equal(ask(teacher, texts, tmp_path / "cache"), first)
    assert sum(asked) == 20
    assert caplog.messages == [f"{path} is damaged: the teacher is asked again"]
    assert path.read_bytes() == content, "and put right"


def test_a_whole_file_of_other_classes_is_computed_again(tmp_path, caplog):
    cache = LogitsCache(tmp_path, "teacher")
    assert cache.look_up(["a"], lambda texts: np.zeros((1, 3), np.float32), 3).shape == (1, 3)
    for _ in range(2):
        assert cache.look_up(["a"], lambda texts: np.ones((1, 2), np.float32), 2).tolist() == [[1, 1]]
    (line,) = caplog.messages
    assert "is damaged: the teacher is asked again" in line


def test_of_a_killed_run_no_half_file_is_left(tmp_path, monkeypatch):
    def fail(*args):
        raise KeyboardInterrupt

    cache = LogitsCache(tmp_path / "cache", "teacher")
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        cache.look_up(["a"], lambda texts: np.zeros((1, 2), np.float32), 2)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_full_disk_costs_the_cache_only(tmp_path, caplog):
    (tmp_path / "cache").write_text("a file where a folder should be")
    found = LogitsCache(tmp_path / "cache", "teacher").look_up(["a"], lambda texts: np.ones((1, 2), np.float32), 2)
    assert found.tolist() == [[1, 1]]
    (line,) = caplog.messages
    assert "answers are not kept" in line


def test_what_is_not_kept_is_told_once(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(hf_rnn.training.distillation.cache, "BLOCK_TEXTS", 1)
    (tmp_path / "cache").write_text("a file where a folder should be")
    cache = LogitsCache(tmp_path / "cache", "teacher")
    assert cache.look_up("abc", lambda texts: np.ones((1, 2), np.float32), 2).shape == (3, 2)
    assert len(caplog.messages) == 1


def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path, caplog, monkeypatch):
    """As somebody else's is; who tests as root may read all."""
    cache = LogitsCache(tmp_path, "teacher")
    cache.look_up(["a"], lambda texts: np.zeros((1, 2), np.float32), 2)

    def refuse(*given, **named):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(hf_rnn.training.distillation.cache, "safe_open", refuse)
    assert cache.look_up(["a"], lambda texts: np.ones((1, 2), np.float32), 2).tolist() == [[1, 1]]
    (line,) = caplog.messages
    assert "cannot be read: Permission denied; the teacher is asked again" in line


@given(st.lists(st.text(), max_size=4), st.lists(st.text(), max_size=4), st.text(), st.text())
@settings(max_examples=100, deadline=None)
def test_keys_differ_where_texts_or_teachers_do(one, other, teacher, another):
    def key(texts, source):
        return LogitsCache(None, source)._key(texts)

    assert (key(one, teacher) == key(other, teacher)) == (one == other)
    assert (key(one, teacher) == key(one, another)) == (teacher == another)
