"""Reads JSON from text that arrives in pieces, and emits it unchanged before its end has arrived."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from dovetail.api.parsing.reader import EventGenerator, Markers, Reader

_OUTSIDE = re.compile(r"[\w\s,:.+-]*")
_INSIDE = re.compile(r'[^"\\]*')
_SCALAR = re.compile(r"[\w.+-]+(?=[^\w.+-])")
_SCALAR_BEGIN = re.compile(r"[\w.+-]")
_STRING_PARTS = Markers('"', "\\")
# Each also matches the empty string if the text certainly is not a value, so no match means that the text was cut off.
_ESCAPE = re.compile(r"""["\\/bfnrt]|u[0-9a-fA-F]{4}|(?=[^u"\\/bfnrt])|(?=u[0-9a-fA-F]{0,3}[^0-9a-fA-F])""")
_LOW_SURROGATE = re.compile(
    r"\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?=[^\\])|(?=\\[^u])|(?=\\u[^dD])|(?=\\u[dD][^c-fC-F])|(?=\\u[dD][c-fC-F][0-9a-fA-F]?[^0-9a-fA-F])"
)


class _Extent:
    """Finds the end of an object, a list or a string.

    Outside strings, a character that JSON does not use also ends a value, so that an unclosed value does not swallow
    the marker after it.
    """

    def __init__(self) -> None:
        self.depth = 0
        self.quoted = False
        self.escaped = False

    def __call__(self, text: str, at: int) -> tuple[int, bool]:
        size = len(text)
        while at < size:
            if self.escaped:
                self.escaped = False
                at += 1
                continue
            found = (_INSIDE if self.quoted else _OUTSIDE).match(text, at)
            assert found
            at = found.end()
            if at == size:
                break
            match text[at]:
                case '"':
                    self.quoted = not self.quoted
                case "\\" if self.quoted:
                    self.escaped = True
                case "{" | "[":
                    self.depth += 1
                case "}" | "]":
                    self.depth -= 1
                case _:
                    return at, True
            at += 1
            if self.depth == 0 and not self.quoted:
                return at, True
        return at, False


def read_value(reader: Reader, emit: Callable[[str], Any]) -> EventGenerator[None]:
    """Read the JSON value at this position, without its white space.

    Args:
        emit: see :meth:`Reader.read_until`. Malformed JSON is emitted unchanged, as far as its end can be found.
    """
    first = yield from reader.peek()
    if first in ("{", "[", '"'):
        yield from reader.scan(_Extent(), emit)
    elif _SCALAR_BEGIN.match(first):
        found = yield from reader.match(_SCALAR)
        if found and (event := emit(found[0])) is not None:
            yield event


def read_string(reader: Reader, emit: Callable[[str], Any]) -> EventGenerator[None]:
    """Read a JSON string, and emit its decoded text.

    Args:
        reader: before the string's opening quotation mark.
        emit: see :meth:`Reader.read_until`. Halves of surrogate pairs become U+FFFD, and a backslash without a valid
            escape is kept.
    """
    reader.skip()
    while (yield from reader.read_until(_STRING_PARTS, emit)) == "\\":
        if (event := emit((yield from _read_escape(reader)))) is not None:
            yield event


def _read_escape(reader: Reader) -> EventGenerator[str]:
    """Read what follows a backslash. Returns "" for an escape that the end of the text cut off."""
    found = yield from reader.match(_ESCAPE)
    if not found:
        reader.skip_available()
        return ""
    text = f"\\{found[0]}"
    if text[2:3] in ("d", "D") and text[3] in "89abAB":
        low = yield from reader.match(_LOW_SURROGATE)
        if not low:
            reader.skip_available()
            return ""
        text += low[0]
    if text == "\\":
        return text
    value = str(json.loads(f'"{text}"'))
    return "\ufffd" if "\ud800" <= value <= "\udfff" else value
