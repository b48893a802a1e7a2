"""A file is always complete, also when two threads write it or writing fails."""

import os
import threading

import pytest

from hf_rnn.utils.atomic_write import write_whole


def test_two_writers_of_one_file(tmp_path):
    path, contents, failures = tmp_path / "answers", [letter * 1_000_000 for letter in (b"a", b"b")], []
    barrier = threading.Barrier(2)

    def write(content):
        for _ in range(20):
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


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "answers"
    path.write_bytes(b"old")

    def fail(source, target):
        assert source.parent == path.parent and source.name.startswith("."), "hidden, on the same disk"
        raise OSError("no space")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        write_whole(path, b"new")
    assert [found.name for found in tmp_path.iterdir()] == ["answers"] and path.read_bytes() == b"old"
