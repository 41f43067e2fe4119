"""Reads the header of a safetensors file without torch: eight bytes and a JSON object.

Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from typing import Any

from dovetail.api import CheckpointError

MAX_HEADER = 100_000_000
"""Maximum bytes; the format's own limit."""

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

DOWNLOAD_AGAIN = "the file is damaged or its download did not finish: fetch it again"


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
        size = os.path.getsize(file)
        with open(file, "rb") as stream:
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
    try:
        header = json.loads(raw)
    except ValueError as error:
        raise CheckpointError(f"the header of {file} is not JSON ({error})", DOWNLOAD_AGAIN) from None
    if not isinstance(header, dict):
        raise CheckpointError(
            f"the header of {file} is a JSON {type(header).__name__}, wanted an object", DOWNLOAD_AGAIN
        )
    header.pop("__metadata__", None)
    return _tensors(file, header, size - 8 - length)


def _tensors(file: str, header: dict[str, Any], available: int) -> list[TensorInfo]:
    tensors: list[TensorInfo] = []
    spans: list[tuple[int, int, str]] = []
    for name, entry in header.items():
        try:
            dtype = entry["dtype"]
            shape = tuple(int(n) for n in entry["shape"])
            begin, end = (int(n) for n in entry["data_offsets"])
        except (KeyError, TypeError, ValueError):
            raise CheckpointError(
                f"the header entry of tensor {name!r} in {file} is {entry!r}, wanted dtype, shape and data_offsets",
                DOWNLOAD_AGAIN,
            ) from None
        if dtype not in DTYPES:
            raise CheckpointError(
                f"tensor {name!r} in {file} is of dtype {dtype!r}, wanted one of {', '.join(DTYPES)}",
                "update dovetail-loaders-safetensors, or convert the checkpoint",
            )
        type_, bits = DTYPES[dtype]
        nbytes = (math.prod(shape) * bits + 7) // 8
        if min(shape, default=0) < 0 or begin < 0 or end - begin != nbytes:
            raise CheckpointError(
                f"tensor {name!r} in {file} has {end - begin} bytes at offset {begin}, wanted {nbytes} for "
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
                f"tensor {name!r} in {file} begins at byte {begin}, wanted {position}", DOWNLOAD_AGAIN
            )
        position = end
    if available != position:
        raise CheckpointError(f"{file} holds {available} bytes of tensors, wanted {position}", DOWNLOAD_AGAIN)
    return tensors
