"""A file is always complete, also when writing fails; pages of mapped files leave the memory."""

import os
import re
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from hf_rnn.utils import process
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


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="needs the pages of Linux")
def test_pages_of_mapped_files_leave_the_memory_and_can_be_read_again(tmp_path, monkeypatch):
    table = pa.table({"number": np.arange(8_000_000)})  # 64 MB
    with pa.ipc.new_stream(str(tmp_path / "a.arrow"), table.schema) as stream:
        stream.write_table(table)
    mapped = pa.ipc.open_stream(pa.memory_map(str(tmp_path / "a.arrow"))).read_all()
    before = measure_mapped()
    monkeypatch.setattr(process, "_MOST_MAPPED", 1 << 20)  # another test may have begun to limit
    assert mapped.equals(table) and measure_mapped() > before + 50
    monkeypatch.setattr(process, "_MOST_MAPPED", before + 10)
    process.limit_mapped_files()
    end = time.monotonic() + 30
    while measure_mapped() > process._MOST_MAPPED and time.monotonic() < end:
        time.sleep(0.05)
    assert measure_mapped() <= process._MOST_MAPPED
    assert mapped.equals(table)


def measure_mapped():
    """Return the MB of files in the memory of this process."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"RssFile:\s+(\d+)", status)[1]) >> 10
