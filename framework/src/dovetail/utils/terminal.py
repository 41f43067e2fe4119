"""Text of others on a terminal and in logs: what a server, a file or a client says must not control them.

Escape sequences can write a window's title, change what stands above, and fill the clipboard; a line end in a log can
pass for a line of the server's own. Such characters are shown as Python escapes them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from typing import TextIO

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_CONTROLS = (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029)
_DIRECTIONS = (0x200E, 0x200F, 0x061C, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
"""They change the order in which the rest of a line is shown."""
_SURROGATES = range(0xD800, 0xE000)


def _escape(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


_ESCAPES = {code: _escape(code) for code in (*_CONTROLS, *_DIRECTIONS, *_SURROGATES)}
_LINE = str.maketrans(_ESCAPES | {ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\\t"})
_LINES = str.maketrans({code: text for code, text in _ESCAPES.items() if code not in (0x0A, 0x09)})
# In an answer, marks of direction belong to its script; a carriage return is the first half of a line end.
_ANSWER = str.maketrans(
    {code: text for code, text in _ESCAPES.items() if code not in (0x0A, 0x09, *_DIRECTIONS)} | {0x0D: ""}
)
_JSON = str.maketrans({code: f"\\u{code:04x}" for code in _ESCAPES if code >= 0x7F})


def printable_line(text: str) -> str:
    """A text on one line, without control characters and marks that change the direction."""
    return text.translate(_LINE)


def printable_lines(text: str) -> str:
    """The same with its line ends and tabs."""
    return text.translate(_LINES)


def printable_answer(text: str) -> str:
    """A model's answer, or a piece of it, for a terminal: with line ends and tabs, and with marks of direction."""
    return text.translate(_ANSWER)


def encodable(text: str) -> str:
    """A text with halves of surrogate pairs replaced, which no file can hold."""
    return text if text.isprintable() else text.encode("utf-8", "replace").decode()


def printable_json(text: str) -> str:
    """JSON with escapes for what JSON itself leaves as it is."""
    return text.translate(_JSON)


def discard_output(stream: TextIO) -> None:
    """Lead a stream that can be written no more to nowhere, so that the interpreter's last flush does not fail."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    with contextlib.suppress(OSError, ValueError):  # not a real file
        os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def say(text: str) -> None:
    """Print a line to standard error, if it can be written: a full disk under a log is no reason to end."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)
