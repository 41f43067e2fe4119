"""Text files as people have them: with a byte-order mark, in UTF-16, with the line ends of Windows."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from io import BufferedReader, TextIOWrapper
from pathlib import Path

BOM = "\ufeff"
"""The byte-order mark once it is decoded. It is no part of the text."""
# UTF-32's mark begins with that of UTF-16, so it is looked for first.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def detect_encoding(beginning: bytes) -> str:
    """The encoding of a text that begins so: what its byte-order mark says; without one UTF-8, or UTF-16 where one of the first two bytes is 0.

    A text in UTF-8 has no zero bytes, and the first character of a configuration or template is nearly always ASCII.
    """
    for mark, name in _MARKS:
        if beginning.startswith(mark):
            return name
    if len(beginning) > 1 and (beginning[0] == 0) != (beginning[1] == 0):
        return "utf-16-be" if beginning[0] == 0 else "utf-16-le"
    return "utf-8"


def decode_text(raw: bytes) -> str:
    """The text of a file, without its byte-order mark and with plain line ends.

    Raises:
        UnicodeDecodeError: it is no text.
    """
    text = raw.decode(detect_encoding(raw)).removeprefix(BOM)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_text(file: str | Path) -> str:
    """The text of a file, as :func:`decode_text` gives it.

    Raises:
        OSError: it cannot be read.
        UnicodeDecodeError: it is no text.
    """
    return decode_text(Path(file).read_bytes())


def read_lines(file: BufferedReader) -> Iterator[bytes]:
    """The lines of an open file in UTF-8, one at a time and without byte-order marks, whichever encoding it is in.

    Marks are dropped from every line, since files that were put together have them in the middle. What cannot be decoded
    stays in the line, so that whoever reads it can say which one is wrong.
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
