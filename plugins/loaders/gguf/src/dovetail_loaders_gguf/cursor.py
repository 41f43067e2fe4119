"""Reads the values of a GGUF file's header, each checked against what is left of the file before it is used.

Arrays of strings are decoded only when they are iterated over, because the vocabulary is nearly all of a header and
only the tokenizer needs it.
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from dovetail.api import CheckpointError, quote_foreign

MAX_HEADER = 2**27
"""Most bytes of a header: several times the largest vocabulary that is published."""
MAX_ITEMS = 2**22
"""Most items of all arrays together, for a vocabulary of 262,144 tokens with its merges and scores has 1.3 million."""
MAX_NAME = 2**16
"""Most bytes of a key or name; the format's own limit of keys."""
MAX_NESTING = 4
PIECE = re.compile(r"(?:part|split)[-_.]?(?:\d+|[a-z])(?:[-_.]?of[-_.]?\d+)?$", re.IGNORECASE)
"""Endings of names of files that were split without regard to their contents."""
DOWNLOAD_AGAIN = "the file is damaged or its download did not finish: fetch it again"

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Metadata value type → struct code."""
_STRING, _ARRAY = 8, 9
_LENGTH = struct.Struct("<Q")


def repair(path: str) -> str:
    """The hint for a truncated file."""
    if PIECE.search(path):
        return f"put the pieces of the file together, for instance with cat, and give the whole; or {DOWNLOAD_AGAIN}"
    return DOWNLOAD_AGAIN


class StringArray(Sequence[str]):
    """An array of strings that is decoded while it is iterated over."""

    def __init__(self, buffer: mmap.mmap, start: int, end: int, count: int) -> None:
        self._buffer = buffer
        self._start = start
        self._end = end
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"a list of {self._count} texts"

    def __iter__(self) -> Iterator[str]:
        raw = self._buffer[self._start : self._end]
        unpack, position = _LENGTH.unpack_from, 0
        for _ in range(self._count):
            begin = position + 8
            position = begin + unpack(raw, position)[0]
            # A vocabulary may hold tokens that are no valid UTF-8; they must not make the rest unreadable.
            yield raw[begin:position].decode("utf-8", "replace")

    def __getitem__(self, index: Any) -> Any:
        return list(self)[index]

    @property
    def nbytes(self) -> int:
        """Bytes in the file, 8 for each string's length among them."""
        return self._end - self._start

    def find(self, texts: Sequence[str]) -> dict[str, int]:
        """Index of each of ``texts`` that is found, without decoding the others."""
        found: dict[int, str] = {}
        for text in texts:
            raw = text.encode()
            at = self._buffer.find(_LENGTH.pack(len(raw)) + raw, self._start, self._end)
            if at >= 0:
                found[at] = text
        indices: dict[str, int] = {}
        unpack, position = _LENGTH.unpack_from, self._start
        if found:
            last = max(found)
            for i in range(self._count):
                if position in found:
                    indices[found[position]] = i
                if position >= last:
                    break
                position += 8 + unpack(self._buffer, position)[0]
        return indices


class Cursor:
    """A reading position in the mapped file, with bounds checks."""

    def __init__(self, path: str, buffer: mmap.mmap) -> None:
        self.path = path
        self.buffer = buffer
        self.size = len(buffer)
        self.position = 0
        self._items = 0

    def fail(self, what: str, wanted: int) -> NoReturn:
        raise CheckpointError(
            f"{what} in {self.path} wants {wanted} bytes at offset {self.position}, "
            f"found {self.size - self.position} up to the end of the file",
            repair(self.path),
        )

    def need(self, what: str, wanted: int) -> None:
        if wanted > self.size - self.position:
            self.fail(what, wanted)
        if wanted > MAX_HEADER - self.position:
            raise CheckpointError(
                f"{what} in {self.path} wants {wanted} bytes at offset {self.position}, and a header has at most "
                f"{MAX_HEADER} bytes",
                DOWNLOAD_AGAIN,
            )

    def scalar(self, code: str, what: str) -> Any:
        return self.scalars(code, 1, what)[0]

    def scalars(self, code: str, count: int, what: str) -> tuple[Any, ...]:
        nbytes = struct.calcsize(f"<{code}") * count
        self.need(what, nbytes)
        values = struct.unpack_from(f"<{count}{code}", self.buffer, self.position)
        self.position += nbytes
        return values

    def string(self, what: str) -> str:
        return self._bytes(what).decode("utf-8", "replace")

    def name(self, what: str) -> str:
        """A key or name: printable UTF-8, for everything is looked up by it."""
        start = self.position
        raw = self._bytes(what)
        try:
            name = raw.decode()
        except UnicodeDecodeError:
            name = ""
        if not name or not name.isprintable() or len(raw) > MAX_NAME:
            raise CheckpointError(
                f"{what} in {self.path}, at offset {start}, is {quote_foreign(raw)}, wanted 1 to {MAX_NAME} bytes of "
                "printable text",
                DOWNLOAD_AGAIN,
            )
        return name

    def _bytes(self, what: str) -> bytes:
        length = self.scalar("Q", what)
        self.need(what, length)
        self.position += length
        return self.buffer[self.position - length : self.position]

    def strings(self, count: int, what: str) -> StringArray:
        self.need(what, 8 * count)
        start = position = self.position
        size, buffer, unpack = self.size, self.buffer, _LENGTH.unpack_from
        for _ in range(count):
            if position + 8 > size:
                self.fail(what, position + 8 - start)
            position += 8 + unpack(buffer, position)[0]
        self.need(what, position - start)
        self.position = position
        return StringArray(buffer, start, position, count)

    def value(self, type_: int, what: str, depth: int = 0) -> Any:
        if code := _SCALARS.get(type_):
            return self.scalar(code, what)
        if type_ == _STRING:
            return self.string(what)
        if type_ != _ARRAY:
            raise CheckpointError(f"{what} in {self.path} has the unknown value type {type_}", DOWNLOAD_AGAIN)
        element, count = self.scalar("I", what), self.scalar("Q", what)
        least = struct.calcsize(f"<{_SCALARS.get(element, 'Q')}") * count
        self.need(what, least)
        self._items += count
        if self._items > MAX_ITEMS:
            raise CheckpointError(
                f"{what} in {self.path} makes {self._items} items of arrays, wanted at most {MAX_ITEMS}", DOWNLOAD_AGAIN
            )
        if code := _SCALARS.get(element):
            return self.scalars(code, count, what)
        if element == _STRING:
            return self.strings(count, what)
        if depth >= MAX_NESTING:
            raise CheckpointError(f"{what} in {self.path} nests arrays more than {MAX_NESTING} deep", DOWNLOAD_AGAIN)
        self.need(what, 12 * count)
        return tuple(self.value(element, what, depth + 1) for _ in range(count))
