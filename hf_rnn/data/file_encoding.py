"""What a file is when it is not UTF-8 text: told by its first bytes, or guessed from the bytes that do not decode."""

from __future__ import annotations

import codecs
import re

from .row_errors import Fault, Reason

MAGIC_BYTES = 4096  # how much of a file's start `sniff` wants to see

# Longest first where one begins with another: UTF-32 LE starts with the mark of UTF-16 LE.
_UNICODE_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
_ARCHIVES = (
    (re.compile(rb"\x1f\x8b"), "gzip", "gunzip -k FILE"),
    (
        re.compile(rb"PK\x03\x04"),
        "zip (a spreadsheet of Excel is one too)",
        "unzip FILE, or export it as tab-separated text",
    ),
    (re.compile(rb"BZh[1-9]1AY&SY"), "bzip2", "bunzip2 -k FILE"),
    (re.compile(rb"\xfd7zXZ\x00"), "xz", "unxz -k FILE"),
    (re.compile(rb"\x28\xb5\x2f\xfd"), "zstd", "unzstd FILE"),
)


def sniff(head: bytes) -> Fault | None:
    """Tell from a file's first bytes that it is no UTF-8 text.

    Args:
        head: The first `MAGIC_BYTES` bytes, fewer if the file is shorter.

    Returns:
        The fault, or None when nothing speaks against UTF-8.
    """
    for mark, name in _UNICODE_MARKS:
        if head.startswith(mark):
            return _utf16(name, f"it starts with the byte order mark {mark.hex(' ')}")
    even, odd = head[0::2].count(0), head[1::2].count(0)
    pairs = len(head) // 2
    # Western text in UTF-16 has a NUL in nearly every pair, always on the same side.
    if pairs >= 4 and max(even, odd) > 0.4 * pairs and min(even, odd) < 0.05 * pairs:
        return _utf16("UTF-16LE" if odd > even else "UTF-16BE", "every other byte at its start is NUL")
    for pattern, name, command in _ARCHIVES:
        if pattern.match(head):
            return Fault(Reason.COMPRESSED, f"its first bytes are those of {name}", f"Unpack it first: {command}")
    return None


def _utf16(encoding: str, sign: str) -> Fault:
    remedy = f"Convert it: iconv -f {encoding} -t UTF-8 FILE > NEW"
    return Fault(Reason.UTF16, f"{sign}, so this is {encoding} and not UTF-8", remedy)


def not_utf8(line: bytes, error: UnicodeDecodeError, line_offset: int) -> Fault:
    """Describe a line that does not decode, with the likely encoding.

    The guess goes by the shape of the bytes above 127: one or two between ASCII letters are accents (Western Europe),
    long runs are another script.

    Args:
        line: The line's bytes.
        error: What decoding it as UTF-8 raised.
        line_offset: Offset of the line in the file.
    """
    found = (
        f"byte 0x{line[error.start]:02x} at byte {error.start + 1} of the line (offset {line_offset + error.start})"
    )
    if line[error.start] == 0xED and line[error.start + 1 : error.start + 2] >= b"\xa0":
        return Fault(Reason.NOT_UTF8, f"{found}; likely CESU-8: half of a UTF-16 pair, encoded on its own")
    if _is_cut(line, error):
        return Fault(Reason.NOT_UTF8, f"{found}; likely UTF-8 with a character cut off in the middle")
    runs = re.findall(rb"[\x80-\xff]+", line)
    if sum(map(len, runs)) / len(runs) >= 3:
        guess = "an 8-bit or Asian encoding of another script, such as Windows-1251, Shift-JIS or GB18030"
        return Fault(
            Reason.NOT_UTF8, f"{found}; likely {guess}", "Convert the file: iconv -f ENCODING -t UTF-8 FILE > NEW"
        )
    guess = "Windows-1252" if re.search(rb"[\x80-\x9f]", line) else "ISO-8859-1"
    return Fault(
        Reason.NOT_UTF8, f"{found}; likely {guess}", f"Convert the file: iconv -f {guess} -t UTF-8 FILE > NEW"
    )


def _is_cut(line: bytes, error: UnicodeDecodeError) -> bool:
    """Whether the faulty byte starts a well-formed character that ends too soon, at a field's or the line's end."""
    whole_ones = not line.decode(errors="ignore").isascii()  # other characters of this line are good UTF-8
    return (whole_ones or error.end - error.start >= 2) and line[error.end : error.end + 1] in (b"", b"\t")
