"""A file that several write at once is that of one of them, whole, at any moment."""

import os
import threading

import pytest

from hf_rnn.utils.atomic_write import write_whole


def test_two_who_write_the_same_file(tmp_path):
    """Each round both start together: with one name for what is unfinished they would tread on each other."""
    path, contents = tmp_path / "answers", [letter * 1_000_000 for letter in (b"a", b"b")]
    failures = []
    barrier = threading.Barrier(2)

    def write(content):
        for _ in range(50):
            barrier.wait()
            try:
                write_whole(path, content)
                assert path.read_bytes() in contents
            except (OSError, AssertionError) as error:
                failures.append(error)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert [found.name for found in tmp_path.iterdir()] == ["answers"]


def test_one_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    with pytest.raises(OSError):
        write_whole(path, b"x")
    assert [found.name for found in tmp_path.iterdir()] == ["folder"]


def test_what_is_unfinished_is_hidden_and_beside_its_place(tmp_path, monkeypatch):
    """Hidden, it is never shared; elsewhere, it might be on another disk, from which nothing can be moved at once."""
    moved, replace = [], os.replace
    monkeypatch.setattr(os, "replace", lambda source, target: moved.append(source) or replace(source, target))
    write_whole(tmp_path / "answers", b"x")
    (unfinished,) = moved
    assert unfinished.parent == tmp_path and unfinished.name.startswith(".")


def test_the_content_reaches_the_disk_before_the_name(tmp_path, monkeypatch):
    """Or after a power cut the name could stand for an empty file."""
    done, flush, replace = [], os.fsync, os.replace

    def fsync(handle):
        done.append(os.fstat(handle).st_size)
        flush(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", lambda source, target: done.append("moved") or replace(source, target))
    write_whole(tmp_path / "answers", b"four")
    assert done == [4, "moved"]
