"""A path → a stream of bytes, unpacked on the way: plain, gzip, or one file of a zip archive.

By content, never by name. What these bytes mean is not known here.
"""

from __future__ import annotations

import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ...utils.errors import UserError

_GZIP, _ZIPS = b"\x1f\x8b", (b"PK\x03\x04", b"PK\x05\x06")  # of the latter the second is an empty archive


def split_archive(path: Path) -> tuple[Path, str | None]:
    """Split `glove.zip/glove.50d.txt` into the archive and the file in it; other paths have no second part."""
    for parent in path.parents:
        if parent.is_file() and not path.exists():
            return parent, path.relative_to(parent).as_posix()
    return path, None


@contextmanager
def open_unpacked(path: Path) -> Iterator[io.BufferedReader]:
    """Open a file for reading from its start.

    Args:
        path: The file, or an archive's path with the name of a file in it behind.

    Raises:
        UserError: When it cannot be read, also later while it is read: cut short, damaged, or a zip archive of which
            it is not clear what to take.
    """
    archive, member = split_archive(path)
    with ExitStack() as stack:
        try:
            yield io.BufferedReader(_open(stack, archive, member), 1 << 20)
        except EOFError as error:
            raise UserError(f"{path} is cut short: the packed data ends too early. Get it again") from error
        except (zlib.error, lzma.LZMAError, gzip.BadGzipFile, zipfile.BadZipFile) as error:
            raise UserError(f"{path} is damaged ({error}). Get it again") from error
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror or error}") from error


def _open(stack: ExitStack, path: Path, member: str | None) -> Any:
    file = stack.enter_context(path.open("rb"))
    start = file.read(4)
    file.seek(0)
    if start in _ZIPS:
        archive = stack.enter_context(zipfile.ZipFile(file))
        try:
            return stack.enter_context(archive.open(_pick(path, archive, member)))
        except RuntimeError as error:  # encrypted, or packed in a way that Python does not know
            raise UserError(
                f"{path} cannot be unpacked: {error}. Give what is in it, unpacked by another program"
            ) from error
    if member is not None:
        raise UserError(f"{path} is no zip archive that could hold {member}: give {path} alone")
    return stack.enter_context(gzip.GzipFile(fileobj=file)) if start.startswith(_GZIP) else file


def _pick(path: Path, archive: zipfile.ZipFile, member: str | None) -> str:
    files = [info.filename for info in archive.infolist() if not info.is_dir()]
    if member is not None:
        if member not in files:
            raise UserError(f"{path} holds no {member}: it holds {', '.join(files[:10])}")
        return member
    if len(files) == 1:
        return files[0]
    if not files:
        raise UserError(f"{path} is an empty archive: give one with a file of vectors in it")
    raise UserError(f"{path} holds {len(files)} files: give one of them, such as {path / files[0]}")
