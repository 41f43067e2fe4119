"""Lazy tensors over memory-mapped files."""

from __future__ import annotations

import mmap
import sys
import weakref
from collections.abc import Iterator, Mapping
from functools import partial

import torch

from dovetail.api import Checkpoint, CheckpointError, LazyTensor, open_regular
from dovetail_loaders_gguf.header import TensorInfo, read_header

_NORESERVE = 0x4000
"""MAP_NORESERVE, which the mmap module does not name before Python 3.12."""


def load(checkpoint: Checkpoint, expected: Mapping[str, tuple[int, ...]], device: torch.device) -> Iterator[LazyTensor]:
    """Yield every tensor of the checkpoint. ``read()`` shares memory with the mapped file. Its pages are released
    when the returned tensor is dropped.

    Raises:
        CheckpointError: a file is damaged; ``read()`` raises it if the file became shorter.
    """
    for file in checkpoint.files:
        header = read_header(file)
        try:
            mapped = _map(file)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"cannot map {file} ({error})", "check its permissions, and the memory") from None
        for tensor in header.tensors:
            yield LazyTensor(tensor.name, tensor.shape, tensor.type.name, partial(_read, file, mapped, tensor))


def _map(file: str) -> mmap.mmap:
    """Map a file for torch, which requires writable memory; nothing is written to it."""
    with open_regular(file) as stream:
        if sys.platform != "linux":
            return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
        # Linux would count a private writable mapping as memory, and refuse a model larger than what the machine has.
        flags = mmap.MAP_PRIVATE | _NORESERVE
        return mmap.mmap(stream.fileno(), 0, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)


def _read(file: str, mapped: mmap.mmap, tensor: TensorInfo) -> torch.Tensor:
    """The tensor as stored: plain types in their own dtype and shape, others as uint8 ``[rows, bytes per row]``."""
    # Reading what is no longer in the file would end the process.
    if (size := mapped.size()) < tensor.offset + tensor.nbytes:
        raise CheckpointError(
            f"{file} has {size} bytes, and had {len(mapped)} when its header was read: it changed meanwhile",
            "start again when nothing writes to it",
        )
    if tensor.type.plain:
        dtype: torch.dtype = getattr(torch, tensor.type.name)
        shape = tensor.shape
    else:
        dtype = torch.uint8
        row = tensor.shape[-1] // tensor.type.block * tensor.type.nbytes
        shape = (tensor.nbytes // row if row else 0, row)
    if tensor.nbytes == 0:
        return torch.empty(shape, dtype=dtype)
    count = tensor.nbytes // dtype.itemsize
    value = torch.frombuffer(mapped, dtype=dtype, count=count, offset=tensor.offset).view(shape)
    # A remaining view reads the pages from the file again.
    weakref.finalize(value, _release_pages, mapped, tensor.offset, tensor.nbytes).atexit = False
    return value


def _release_pages(mapped: mmap.mmap, offset: int, nbytes: int) -> None:
    """Release the resident pages that are completely inside a tensor."""
    start = -(-offset // mmap.PAGESIZE) * mmap.PAGESIZE
    length = (offset + nbytes) // mmap.PAGESIZE * mmap.PAGESIZE - start
    if length > 0 and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED, start, length)
