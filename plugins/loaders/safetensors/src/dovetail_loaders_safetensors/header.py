"""Reads the header of a safetensors file without torch: eight bytes and a JSON object.

Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dovetail.api import DOWNLOAD_AGAIN, CheckpointError, one_line, open_regular, quote_foreign

MAX_HEADER, MAX_VALUES = 2**25, 2**21
"""Most bytes of a header, and most values in it. The format allows 100 MB, which could take gigabytes to read; 100,000
tensors have 15 MB with a million values.
"""
MAX_NAME, MAX_DIMS, MAX_ELEMENTS = 1024, 16, 2**63
METADATA = "__metadata__"
"""The key of texts about the file, which is no tensor."""

DTYPES: dict[str, tuple[str, int]] = {
    "BOOL": ("bool", 8),
    "U8": ("uint8", 8),
    "I8": ("int8", 8),
    "U16": ("uint16", 16),
    "I16": ("int16", 16),
    "U32": ("uint32", 32),
    "I32": ("int32", 32),
    "U64": ("uint64", 64),
    "I64": ("int64", 64),
    "F16": ("float16", 16),
    "BF16": ("bfloat16", 16),
    "F32": ("float32", 32),
    "F64": ("float64", 64),
    "C64": ("complex64", 64),
    "F8_E4M3": ("float8_e4m3fn", 8),
    "F8_E4M3FNUZ": ("float8_e4m3fnuz", 8),
    "F8_E5M2": ("float8_e5m2", 8),
    "F8_E5M2FNUZ": ("float8_e5m2fnuz", 8),
    "F8_E8M0": ("float8_e8m0fnu", 8),
    "F4": ("float4_e2m1fn_x2", 4),
}
"""The format's dtype → torch's, and the bits of one element."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of a file: its name, torch dtype's name and shape."""

    name: str
    type: str
    shape: tuple[int, ...]


def read_header(file: str) -> list[TensorInfo]:
    """Read every tensor's description, after checking that the file has all of their bytes.

    Raises:
        CheckpointError: the file cannot be read, is truncated, or is not in this format.
    """
    try:
        with open_regular(file) as stream:
            size = os.fstat(stream.fileno()).st_size
            prefix = stream.read(8)
            length = int.from_bytes(prefix, "little")
            if len(prefix) < 8:
                raise CheckpointError(
                    f"{file} has {size} bytes, wanted at least the 8 of a safetensors header", DOWNLOAD_AGAIN
                )
            if length > MAX_HEADER:
                raise CheckpointError(
                    f"{file} announces a header of {length} bytes, wanted at most {MAX_HEADER}: it is not safetensors",
                    DOWNLOAD_AGAIN,
                )
            if 8 + length > size:
                raise CheckpointError(
                    f"{file} has {size} bytes, wanted {8 + length} for its header alone", DOWNLOAD_AGAIN
                )
            raw = stream.read(length)
    except OSError as error:
        raise CheckpointError(f"cannot read {file} ({error.strerror})", "check the path and its permissions") from None
    header = _parse(file, raw)
    metadata = header.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise CheckpointError(
            f"{METADATA} in {file} is {quote_foreign(metadata)}, wanted an object with texts", DOWNLOAD_AGAIN
        )
    return _tensors(file, header, size - 8 - length)


def _parse(file: str, raw: bytes) -> dict[str, Any]:
    values = sum(map(raw.count, (b",", b"[", b"{")))
    if values > MAX_VALUES:
        raise CheckpointError(
            f"the header of {file} has about {values} values, wanted at most {MAX_VALUES}", DOWNLOAD_AGAIN
        )
    repeated: list[str] = []

    def collect(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            counts = Counter(key for key, _ in pairs)
            repeated.extend(key for key, count in counts.items() if count > 1)
        return found

    try:
        header = json.loads(raw, object_pairs_hook=collect)
    except RecursionError:
        raise CheckpointError(f"the header of {file} nests objects and lists too deep", DOWNLOAD_AGAIN) from None
    except ValueError as error:
        raise CheckpointError(f"the header of {file} is not JSON ({one_line(str(error))})", DOWNLOAD_AGAIN) from None
    if repeated:
        raise CheckpointError(f"the header of {file} has {quote_foreign(repeated[0])} twice", DOWNLOAD_AGAIN)
    if not isinstance(header, dict):
        raise CheckpointError(
            f"the header of {file} is a JSON {type(header).__name__}, wanted an object", DOWNLOAD_AGAIN
        )
    return header


def _tensors(file: str, header: dict[str, Any], available: int) -> list[TensorInfo]:
    tensors: list[TensorInfo] = []
    spans: list[tuple[int, int, str]] = []
    for name, entry in header.items():
        if not 0 < len(name) <= MAX_NAME or not name.isprintable():
            raise CheckpointError(
                f"{file} names a tensor {quote_foreign(name)}, wanted 1 to {MAX_NAME} printable characters",
                DOWNLOAD_AGAIN,
            )
        quoted = quote_foreign(name)
        read = _read_entry(entry)
        if read is None:
            raise CheckpointError(
                f"the header entry of tensor {quoted} in {file} is {quote_foreign(entry)}, wanted dtype, shape and "
                f"data_offsets, of whole numbers that are not negative and at most {MAX_DIMS} dimensions",
                DOWNLOAD_AGAIN,
            )
        dtype, shape, begin, end = read
        if dtype not in DTYPES:
            raise CheckpointError(
                f"tensor {quoted} in {file} is of dtype {quote_foreign(dtype)}, wanted one of {', '.join(DTYPES)}",
                "update dovetail-loaders-safetensors, or convert the checkpoint",
            )
        # Without its zeros, for an empty tensor must not have sides that no library can count either.
        if math.prod(n or 1 for n in shape) >= MAX_ELEMENTS:
            raise CheckpointError(
                f"tensor {quoted} in {file} has the shape {quote_foreign(list(shape))}, wanted fewer than 2^63 elements",
                DOWNLOAD_AGAIN,
            )
        type_, bits = DTYPES[dtype]
        nbytes = (math.prod(shape) * bits + 7) // 8
        if end - begin != nbytes:
            raise CheckpointError(
                f"tensor {quoted} in {file} has {end - begin} bytes at offset {begin}, wanted {nbytes} for "
                f"{dtype} {list(shape)}",
                DOWNLOAD_AGAIN,
            )
        spans.append((begin, end, name))
        # Two 4-bit elements share a byte, and torch's dtype counts the pairs.
        tensors.append(TensorInfo(name, type_, (*shape[:-1], shape[-1] // 2) if bits == 4 and shape else shape))
    # The format leaves no holes, so that nothing hides in a file and nothing is read twice.
    position = 0
    for begin, end, name in sorted(spans):
        if begin != position:
            raise CheckpointError(
                f"tensor {quote_foreign(name)} in {file} begins at byte {begin}, wanted {position}", DOWNLOAD_AGAIN
            )
        position = end
    if available != position:
        raise CheckpointError(f"{file} holds {available} bytes of tensors, wanted {position}", DOWNLOAD_AGAIN)
    return tensors


def _read_entry(entry: Any) -> tuple[str, tuple[int, ...], int, int] | None:
    """dtype, shape, begin and end of a tensor; None if they are not all there, or of other types."""
    if not isinstance(entry, dict):
        return None
    dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or not isinstance(shape, list) or not isinstance(offsets, list):
        return None
    if len(offsets) != 2 or len(shape) > MAX_DIMS:
        return None
    if not all(type(n) is int and 0 <= n < MAX_ELEMENTS for n in (*shape, *offsets)):
        return None
    return dtype, tuple(shape), offsets[0], offsets[1]
