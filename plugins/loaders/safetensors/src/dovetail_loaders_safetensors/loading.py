"""Lazy tensors over memory-mapped files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from dovetail.api import DOWNLOAD_AGAIN, Checkpoint, CheckpointError, LazyTensor, one_line
from dovetail_loaders_safetensors.inspection import INDEX_KEY, tensors_of


def load(checkpoint: Checkpoint, expected: Mapping[str, tuple[int, ...]], device: torch.device) -> Iterator[LazyTensor]:
    """Yield every tensor of the checkpoint. ``read()`` shares memory with the mapped file.

    Raises:
        CheckpointError: a file is damaged; ``read()`` raises it if the file became shorter.
    """
    found = tensors_of(checkpoint.files, checkpoint.metadata.get(INDEX_KEY))
    mapped = {file: _map(file) for file in checkpoint.files}
    for file, tensor in found:
        yield LazyTensor(tensor.name, tensor.shape, tensor.type, partial(_read, file, *mapped[file], tensor.name))


def _map(file: str) -> tuple[Any, int]:
    """A file's mapping, and its size in bytes."""
    try:
        return safe_open(file, framework="pt"), os.path.getsize(file)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"cannot read {file} ({one_line(str(error))})", DOWNLOAD_AGAIN) from error


def _read(file: str, mapped: Any, size: int, name: str) -> torch.Tensor:
    # Reading what is no longer in the file would end the process.
    if os.path.exists(file) and (now := os.path.getsize(file)) < size:
        raise CheckpointError(
            f"{file} has {now} bytes, and had {size} when its header was read: it changed meanwhile",
            "start again when nothing writes to it",
        )
    try:
        tensor: torch.Tensor = mapped.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"cannot read tensor {name} of {file} ({one_line(str(error))})", DOWNLOAD_AGAIN
        ) from error
    return tensor
