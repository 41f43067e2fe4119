"""Reads text files with a byte-order mark, in UTF-16, or with Windows line ends."""

from __future__ import annotations

import codecs
import errno
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


def read_text(file: str | Path, *, pipes: bool = False) -> str:
    """Read a file's text, decoded as :func:`decode_text` does.

    Args:
        pipes: also read pipes, devices and sockets, for a file that the user names. In a folder of somebody else's,
            reading one may never end.

    Raises:
        OSError: it cannot be read, or is not a regular file.
        UnicodeDecodeError: it is not text.
    """
    if pipes:
        return decode_text(Path(file).read_bytes())
    with open(file, "rb", opener=_open_at_once) as stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(file))
        return decode_text(stream.read())


def _open_at_once(path: str, flags: int) -> int:
    """Open a file without waiting for somebody to write to it, if it is a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


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
