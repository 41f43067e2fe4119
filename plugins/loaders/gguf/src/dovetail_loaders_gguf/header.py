"""The header of a GGUF file: metadata and tensor descriptions, without the weights.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md

Arrays of strings are decoded only when they are iterated over, because the vocabulary is nearly all of a header and
only the tokenizer needs it. Every length is checked against the rest of the file before it is used.
"""

from __future__ import annotations

import math
import mmap
import os
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from dovetail.api import CheckpointError
from dovetail_loaders_gguf.types import TYPES, GGMLType

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
MAX_DIMS = 4
MAX_NESTING = 4
PIECE = re.compile(r"(?:part|split)[-_.]?(?:\d+|[a-z])(?:[-_.]?of[-_.]?\d+)?$", re.IGNORECASE)
"""Endings of names of files that were split without regard to their contents."""
DOWNLOAD_AGAIN = "the file is damaged or its download did not finish: fetch it again"

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Metadata value type → struct code."""
_STRING, _ARRAY = 8, 9
_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """The position of a tensor in its file."""

    name: str
    type: GGMLType
    shape: tuple[int, ...]
    """Rows first, which reverses the order in the file."""
    offset: int
    """Bytes from the start of the file."""
    nbytes: int


class StringArray(Sequence[str]):
    """An array of strings that is decoded while it is iterated over."""

    def __init__(self, buffer: mmap.mmap, start: int, end: int, count: int) -> None:
        self._buffer = buffer
        self._start = start
        self._end = end
        self._count = count

    def __len__(self) -> int:
        return self._count

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


@dataclass(frozen=True)
class Header:
    """The header of a GGUF file."""

    path: str
    version: int
    metadata: dict[str, Any]
    """Scalars as Python values; arrays as tuples, arrays of strings as :class:`StringArray`."""
    tensors: tuple[TensorInfo, ...]


class _Cursor:
    """A reading position in the mapped file, with bounds checks."""

    def __init__(self, path: str, buffer: mmap.mmap) -> None:
        self.path = path
        self.buffer = buffer
        self.size = len(buffer)
        self.position = 0

    def fail(self, what: str, wanted: int) -> NoReturn:
        raise CheckpointError(
            f"{what} in {self.path} wants {wanted} bytes at offset {self.position}, "
            f"found {self.size - self.position} up to the end of the file",
            repair(self.path),
        )

    def need(self, what: str, wanted: int) -> None:
        if wanted > self.size - self.position:
            self.fail(what, wanted)

    def scalar(self, code: str, what: str) -> Any:
        return self.scalars(code, 1, what)[0]

    def scalars(self, code: str, count: int, what: str) -> tuple[Any, ...]:
        nbytes = struct.calcsize(f"<{code}") * count
        self.need(what, nbytes)
        values = struct.unpack_from(f"<{count}{code}", self.buffer, self.position)
        self.position += nbytes
        return values

    def string(self, what: str) -> str:
        length = self.scalar("Q", what)
        self.need(what, length)
        raw = self.buffer[self.position : self.position + length]
        self.position += length
        return raw.decode("utf-8", "replace")

    def strings(self, count: int, what: str) -> StringArray:
        self.need(what, 8 * count)
        start = position = self.position
        size, buffer, unpack = self.size, self.buffer, _LENGTH.unpack_from
        for _ in range(count):
            if position + 8 > size:
                self.fail(what, position + 8 - start)
            position += 8 + unpack(buffer, position)[0]
        if position > size:
            self.fail(what, position - start)
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
        if code := _SCALARS.get(element):
            return self.scalars(code, count, what)
        if element == _STRING:
            return self.strings(count, what)
        if depth >= MAX_NESTING:
            raise CheckpointError(f"{what} in {self.path} nests arrays more than {MAX_NESTING} deep", DOWNLOAD_AGAIN)
        self.need(what, 12 * count)
        return tuple(self.value(element, what, depth + 1) for _ in range(count))


def repair(path: str) -> str:
    """The hint for a truncated file."""
    if PIECE.search(path):
        return f"put the pieces of the file together, for instance with cat, and give the whole; or {DOWNLOAD_AGAIN}"
    return DOWNLOAD_AGAIN


def read_header(path: str) -> Header:
    """Read and check a header. The file's size must cover every tensor.

    Raises:
        CheckpointError: the file cannot be read, is truncated, is not GGUF, or holds a tensor of an unknown type.
    """
    try:
        with open(path, "rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            if size < 24:
                raise CheckpointError(
                    f"{path} has {size} bytes, wanted at least the 24 of a GGUF header", DOWNLOAD_AGAIN
                )
            buffer = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise CheckpointError(f"cannot read {path} ({error.strerror})", "check the path and its permissions") from None
    cursor = _Cursor(path, buffer)
    version = _read_version(cursor)
    tensor_count, metadata_count = cursor.scalar("Q", "the tensor count"), cursor.scalar("Q", "the metadata count")
    # The least that one entry can take, so that an absurd count is refused before it is looped over.
    cursor.need(f"a list of {metadata_count} metadata entries", 13 * metadata_count)
    metadata: dict[str, Any] = {}
    for i in range(metadata_count):
        key = cursor.string(f"the name of metadata entry {i}")
        metadata[key] = cursor.value(cursor.scalar("I", f"the type of {key}"), f"the metadata entry {key}")
    cursor.need(f"a list of {tensor_count} tensors", 24 * tensor_count)
    described = [_read_tensor_info(cursor, i) for i in range(tensor_count)]
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment <= 0:
        raise CheckpointError(f"general.alignment in {path} is {alignment!r}, wanted a positive number", DOWNLOAD_AGAIN)
    start = -(-cursor.position // alignment) * alignment
    tensors = tuple(
        TensorInfo(name, type_, shape, start + offset, nbytes) for name, type_, shape, offset, nbytes in described
    )
    for tensor in tensors:
        if tensor.offset + tensor.nbytes > size:
            raise CheckpointError(
                f"tensor {tensor.name!r} in {path} ends at byte {tensor.offset + tensor.nbytes}, but the file has "
                f"{size} bytes",
                repair(path),
            )
    return Header(path, version, metadata, tensors)


def _read_version(cursor: _Cursor) -> int:
    magic = cursor.buffer[:4]
    if magic != MAGIC:
        raise CheckpointError(
            f"{cursor.path} starts with {magic!r}, wanted {MAGIC!r}: it is not a GGUF file", DOWNLOAD_AGAIN
        )
    cursor.position = 4
    version = int(cursor.scalar("I", "the version"))
    if version in VERSIONS:
        return version
    if int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS:
        raise CheckpointError(
            f"{cursor.path} is a big-endian GGUF file, wanted a little-endian one",
            "convert it, for instance with gguf-convert-endian of the gguf package",
        )
    raise CheckpointError(
        f"{cursor.path} is of GGUF version {version}, wanted {' or '.join(map(str, VERSIONS))}",
        "convert the model anew with a current converter",
    )


def _read_tensor_info(cursor: _Cursor, index: int) -> tuple[str, GGMLType, tuple[int, ...], int, int]:
    """Name, type, shape, offset from the start of the weights and size in bytes of one tensor."""
    name = cursor.string(f"the name of tensor {index}")
    what = f"the description of tensor {name!r}"
    ndim = cursor.scalar("I", what)
    if not 0 < ndim <= MAX_DIMS:
        raise CheckpointError(
            f"tensor {name!r} in {cursor.path} has {ndim} dimensions, wanted 1 to {MAX_DIMS}", DOWNLOAD_AGAIN
        )
    shape = tuple(reversed(cursor.scalars("Q", ndim, what)))
    number, offset = cursor.scalar("I", what), cursor.scalar("Q", what)
    if number not in TYPES:
        raise CheckpointError(
            f"tensor {name!r} in {cursor.path} is of the unknown ggml type {number}",
            "update dovetail-loaders-gguf, or take a file quantized in another way",
        )
    type_ = TYPES[number]
    if shape[-1] % type_.block:
        raise CheckpointError(
            f"tensor {name!r} in {cursor.path} has rows of {shape[-1]} elements, wanted a multiple of {type_.block} "
            f"for {type_.name}",
            DOWNLOAD_AGAIN,
        )
    return name, type_, shape, offset, math.prod(shape) // type_.block * type_.nbytes
