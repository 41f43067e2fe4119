"""The header of a GGUF file: metadata and tensor descriptions, without the weights.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from dovetail.api import CheckpointError, open_regular, quote_foreign
from dovetail_loaders_gguf.cursor import DOWNLOAD_AGAIN, Cursor, repair
from dovetail_loaders_gguf.types import TYPES, GGMLType

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_ENTRIES, MAX_TENSORS = 2**16, 2**17
"""Many times what published files have: hundreds of entries, and 47,000 tensors where each expert is one."""
DEFAULT_ALIGNMENT, MAX_ALIGNMENT = 32, 2**20
MAX_DIMS = 4
MAX_ELEMENTS = 2**63
"""The elements of a tensor are counted in 64 bits with a sign, here and in every program that reads such files."""
MAX_NUMBER = 2**31
"""Counts of files and of tokens are below this."""


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


@dataclass(frozen=True)
class Header:
    """The header of a GGUF file."""

    path: str
    version: int
    metadata: dict[str, Any]
    """Scalars as Python values; arrays as tuples, arrays of strings as
    :class:`~dovetail_loaders_gguf.cursor.StringArray`.
    """
    tensors: tuple[TensorInfo, ...]

    def refuse(self, key: str, wanted: str) -> NoReturn:
        """Refuse the value of a metadata entry."""
        found = "missing" if key not in self.metadata else quote_foreign(self.metadata[key])
        raise CheckpointError(f"{key} in {self.path} is {found}, wanted {wanted}", DOWNLOAD_AGAIN)

    def number(self, key: str, default: int) -> int:
        """A whole number that counts something.

        Raises:
            CheckpointError: the entry is something else.
        """
        value = self.metadata.get(key, default)
        if type(value) is not int or not 0 <= value < MAX_NUMBER:
            self.refuse(key, f"a whole number from 0 to {MAX_NUMBER - 1}")
        return value

    def text(self, key: str) -> str | None:
        """A text, or None if there is no such entry.

        Raises:
            CheckpointError: the entry is something else.
        """
        value = self.metadata.get(key)
        if value is not None and not isinstance(value, str):
            self.refuse(key, "a text")
        return value


def read_header(path: str) -> Header:
    """Read and check a header. The file's size must cover every tensor.

    Raises:
        CheckpointError: the file cannot be read, is truncated, is not GGUF, holds a tensor of an unknown type, repeats
            a name, or has tensors that overlap.
    """
    try:
        with open_regular(path) as stream:
            size = os.fstat(stream.fileno()).st_size
            if size < 24:
                raise CheckpointError(
                    f"{path} has {size} bytes, wanted at least the 24 of a GGUF header", DOWNLOAD_AGAIN
                )
            buffer = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # the latter is of a file that became empty
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"cannot read {path} ({reason})", "check the path and its permissions") from None
    cursor = Cursor(path, buffer)
    version = _read_version(cursor)
    tensor_count, metadata_count = cursor.scalar("Q", "the tensor count"), cursor.scalar("Q", "the metadata count")
    # The least that one entry can take, so that an absurd count is refused before it is looped over.
    _check_count(cursor, "metadata entries", metadata_count, 13, MAX_ENTRIES)
    metadata: dict[str, Any] = {}
    for i in range(metadata_count):
        key = cursor.name(f"the name of metadata entry {i}")
        quoted = quote_foreign(key)
        if key in metadata:
            raise CheckpointError(f"the metadata entry {quoted} stands twice in {path}", DOWNLOAD_AGAIN)
        metadata[key] = cursor.value(cursor.scalar("I", f"the type of {quoted}"), f"the metadata entry {quoted}")
    _check_count(cursor, "tensors", tensor_count, 24, MAX_TENSORS)
    described = [_read_tensor_info(cursor, i) for i in range(tensor_count)]
    header = Header(path, version, metadata, ())
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if type(alignment) is not int or not 0 < alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
        header.refuse("general.alignment", f"a power of two, at most {MAX_ALIGNMENT}")
    start = -(-cursor.position // alignment) * alignment
    tensors = tuple(
        TensorInfo(name, type_, shape, start + offset, nbytes) for name, type_, shape, offset, nbytes in described
    )
    _check_places(header, tensors, size, alignment)
    return Header(path, version, metadata, tensors)


def _check_count(cursor: Cursor, what: str, count: int, least_bytes: int, most: int) -> None:
    cursor.need(f"a list of {count} {what}", least_bytes * count)
    if count > most:
        raise CheckpointError(f"{cursor.path} lists {count} {what}, wanted at most {most}", DOWNLOAD_AGAIN)


def _check_places(header: Header, tensors: Sequence[TensorInfo], size: int, alignment: int) -> None:
    """Check that every tensor has a name and a place of its own in the file."""
    names: set[str] = set()
    for tensor in tensors:
        name = quote_foreign(tensor.name)
        if tensor.name in names:
            raise CheckpointError(f"tensor {name} stands twice in {header.path}", DOWNLOAD_AGAIN)
        names.add(tensor.name)
        if tensor.offset % alignment:
            raise CheckpointError(
                f"tensor {name} in {header.path} begins at byte {tensor.offset}, wanted a multiple of the alignment "
                f"{alignment}",
                DOWNLOAD_AGAIN,
            )
        if tensor.offset + tensor.nbytes > size:
            raise CheckpointError(
                f"tensor {name} in {header.path} ends at byte {tensor.offset + tensor.nbytes}, but the file has "
                f"{size} bytes",
                repair(header.path),
            )
    end, before = 0, ""
    for tensor in sorted((t for t in tensors if t.nbytes), key=lambda t: t.offset):
        if tensor.offset < end:
            raise CheckpointError(
                f"tensor {quote_foreign(tensor.name)} in {header.path} begins at byte {tensor.offset}, inside of "
                f"{quote_foreign(before)}, which ends at {end}",
                DOWNLOAD_AGAIN,
            )
        end, before = tensor.offset + tensor.nbytes, tensor.name


def _read_version(cursor: Cursor) -> int:
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


def _read_tensor_info(cursor: Cursor, index: int) -> tuple[str, GGMLType, tuple[int, ...], int, int]:
    """Name, type, shape, offset from the start of the weights and size in bytes of one tensor."""
    name = cursor.name(f"the name of tensor {index}")
    tensor = f"tensor {quote_foreign(name)}"
    what = f"the description of {tensor}"
    ndim = cursor.scalar("I", what)
    if not 0 < ndim <= MAX_DIMS:
        raise CheckpointError(
            f"{tensor} in {cursor.path} has {ndim} dimensions, wanted 1 to {MAX_DIMS}", DOWNLOAD_AGAIN
        )
    shape = tuple(reversed(cursor.scalars("Q", ndim, what)))
    number, offset = cursor.scalar("I", what), cursor.scalar("Q", what)
    if number not in TYPES:
        raise CheckpointError(
            f"{tensor} in {cursor.path} is of the unknown ggml type {number}",
            "update dovetail-loaders-gguf, or take a file quantized in another way",
        )
    type_ = TYPES[number]
    if shape[-1] % type_.block:
        raise CheckpointError(
            f"{tensor} in {cursor.path} has rows of {shape[-1]} elements, wanted a multiple of {type_.block} "
            f"for {type_.name}",
            DOWNLOAD_AGAIN,
        )
    # Without its zeros, for an empty tensor must not have sides that no library can count either.
    if math.prod(n or 1 for n in shape) >= MAX_ELEMENTS:
        raise CheckpointError(
            f"{tensor} in {cursor.path} has the shape {list(shape)}, wanted fewer than 2^63 elements", DOWNLOAD_AGAIN
        )
    return name, type_, shape, offset, math.prod(shape) // type_.block * type_.nbytes
