"""Reads text files with a byte-order mark, in UTF-16, or with Windows line ends; quotes foreign text in messages."""

from __future__ import annotations

import codecs
import errno
import reprlib
from collections.abc import Iterator, Sequence
from io import BufferedReader, TextIOWrapper
from pathlib import Path

from dovetail.api.files import open_regular

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


def read_text(file: str | Path, limit: int | None = None, *, pipes: bool = False) -> str:
    """Read a file's text, decoded as :func:`decode_text` does.

    Args:
        limit: the most bytes that are read, for a file that somebody else made; None for any number.
        pipes: also read pipes, devices and sockets, for a file that the user names. In a folder of somebody else's,
            reading one may never end.

    Raises:
        OSError: it cannot be read, is no regular file, or is larger than the limit; ``strerror`` says what.
        UnicodeDecodeError: it is not text.
    """
    if pipes:
        return decode_text(Path(file).read_bytes())
    with open_regular(file) as opened:
        raw = opened.read(-1 if limit is None else limit + 1)  # and not by its size: a file may grow
    if limit is not None and len(raw) > limit:
        raise OSError(errno.EFBIG, f"it is larger than the {limit / 2**20:.0f} MiB that are read", str(file))
    return decode_text(raw)


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


QUOTE_LIMIT = 120
"""Most characters of what a message quotes, unless it says otherwise."""


def quote_foreign(value: object, limit: int = QUOTE_LIMIT) -> str:
    """Quote what a file or another program says, for an error or the log: one line without control characters.

    Args:
        value: a text, which gets quotation marks; or any value, which is written as Python writes it. Only as much of
            it is looked at as is quoted, so that an absurd value costs no time.
        limit: most characters; what is longer is cut and ends with ``…``.
    """
    if isinstance(value, (str, bytes, bytearray)):
        text = repr(value[: limit + 1])  # which escapes what is not printable
        return text if len(value) <= limit and len(text) <= limit + 2 else f"{text[: limit - 1]}…{text[-1]}"
    short = reprlib.Repr()
    short.maxlevel, short.maxstring, short.maxother, short.maxlong = 3, limit, limit, limit
    try:
        text = short.repr(value)
    except ValueError:  # an integer of more digits than Python writes
        text = f"a number of {value.bit_length()} bits" if isinstance(value, int) else type(value).__name__
    return one_line(text, limit)


def one_line(text: str, limit: int = 2 * QUOTE_LIMIT) -> str:
    """A text of others, such as the message of a library's error, as one line without control characters and without
    quotation marks.

    Args:
        limit: most characters; what is longer is cut and ends with ``…``.
    """
    line = " ".join(text[: 4 * limit].split())
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line[: limit + 1])
    return line if len(line) <= limit and len(text) <= 4 * limit else f"{line[: limit - 1]}…"


def join_names(names: Sequence[str], limit: int = 6) -> str:
    """Names that files say, for an error: the first few, each as :func:`one_line`, and how many more there are."""
    shown = ", ".join(one_line(name) for name in names[:limit])
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "")
