"""A file is always complete, also when writing fails."""

import os
import sys

import pytest

from hf_rnn.utils.process import write_whole


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "answers"
    path.write_bytes(b"old")

    def fail(source, target):
        assert source.parent == path.parent and source.name.startswith("."), (
            "hidden, on the same disk"
        )
        raise OSError("no space")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        write_whole(path, b"new")
    assert [found.name for found in tmp_path.iterdir()] == [
        "answers"
    ] and path.read_bytes() == b"old"


@pytest.mark.skipif(sys.platform == "win32", reason="permissions of POSIX")
def test_a_file_keeps_its_permissions_and_a_link_its_file(tmp_path):
    (tmp_path / "private").write_bytes(b"old")
    (tmp_path / "private").chmod(0o600)
    (tmp_path / "link").symlink_to("private")
    write_whole(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "private").read_bytes() == b"new"
    assert (tmp_path / "private").stat().st_mode & 0o777 == 0o600
