"""Reads text files with a byte-order mark, in UTF-16, or with Windows line ends; and quotes foreign text in messages."""

from __future__ import annotations

import codecs
import os
import stat
from collections.abc import Iterator
from io import BufferedReader, TextIOWrapper
from pathlib import Path

BOM = "\ufeff"
"""The byte-order mark after decoding. It is not part of the text."""
# UTF-32's mark begins with that of UTF-16, so it is looked for first.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def detect_encoding(beginning: bytes) -> str:
    """Detect the encoding from the first bytes: by the byte-order mark; without one it is UTF-8, or UTF-16 if one of
    the first two bytes is 0.

    UTF-8 text has no zero bytes, and the first character of a configuration or template is nearly always ASCII.
    """
    for mark, name in _MARKS:
        if beginning.startswith(mark):
            return name
    if len(beginning) > 1 and (beginning[0] == 0) != (beginning[1] == 0):
        return "utf-16-be" if beginning[0] == 0 else "utf-16-le"
    return "utf-8"


def decode_text(raw: bytes) -> str:
    """Decode a file's text, without its byte-order mark and with plain line ends.

    Raises:
        UnicodeDecodeError: it is not text.
    """
    text = raw.decode(detect_encoding(raw)).removeprefix(BOM)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_text(file: str | Path, limit: int | None = None) -> str:
    """Read a file's text, decoded as :func:`decode_text` does.

    Args:
        limit: the most bytes that are read, for a file that somebody else made; None for any number.

    Raises:
        OSError: it cannot be read, is no regular file (a pipe would keep its reader waiting), or is larger than the
            limit.
        UnicodeDecodeError: it is not text.
    """
    if limit is None:
        return decode_text(Path(file).read_bytes())
    with open(file, "rb", opener=_open_without_waiting) as opened:
        if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
            raise OSError("it is no regular file")
        raw = opened.read(limit + 1)  # and not by its size: a file may grow, or say that it has none
    if len(raw) > limit:
        raise OSError(f"it is larger than the {limit / 2**20:.0f} MiB that are read")
    return decode_text(raw)


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def quote_foreign(value: object, limit: int = 100) -> str:
    """Quote what a file or another program says, for a message: on one line, without control characters, and at most
    ``limit`` characters long.

    Text stands in quotation marks, everything else as Python writes it.
    """
    try:
        # What is left out is not written either: a text may have megabytes.
        shown = repr(value[: limit + 1]) if isinstance(value, (str, bytes)) else repr(value)
    except (RecursionError, ValueError):  # nested too deep, or a number of too many digits
        shown = f"a {type(value).__name__} that is too large to be shown"
    return one_line(shown, limit)


def one_line(text: str, limit: int) -> str:
    """A text on one line: line ends and control characters are written as escapes, and what is beyond ``limit``
    characters is left out.
    """
    shortened = text[:limit]
    if not shortened.isprintable():
        shortened = "".join(c if c.isprintable() else repr(c)[1:-1] for c in shortened)
    return shortened if len(text) <= limit and len(shortened) <= limit else f"{shortened[: limit - 1]}…"


def read_lines(file: BufferedReader) -> Iterator[bytes]:
    """The lines of an open file, one at a time, without byte-order marks, in any of the encodings.

    Marks are dropped from every line, because concatenated files have them in the middle. Bytes that cannot be decoded
    stay in the line, so that the reader can say which line is wrong.
    """
    encoding = detect_encoding(file.peek(4)[:4])
    if encoding == "utf-8":
        for line in file:
            yield line.removeprefix(codecs.BOM_UTF8)
        return
    text = TextIOWrapper(file, encoding, "replace", newline="\n")
    for decoded in text:
        yield decoded.removeprefix(BOM).encode()
    text.detach()  # whoever opened the file closes it
