"""Lazy tensors over memory-mapped files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from safetensors import safe_open

from dovetail.api import Checkpoint, CheckpointError, LazyTensor
from dovetail_loaders_mistral.inspection import damage_named, tensors_of


def load(checkpoint: Checkpoint, expected: Mapping[str, tuple[int, ...]], device: torch.device) -> Iterator[LazyTensor]:
    """Yield every tensor of the checkpoint. ``read()`` shares memory with the mapped file.

    Raises:
        CheckpointError: a file is damaged; ``read()`` raises it if the file became shorter.
    """
    found = tensors_of(checkpoint.files, checkpoint.metadata.get("index"))
    mapped = {file: _map(file) for file in checkpoint.files}
    for tensor in found:
        read = partial(_read, tensor.file, *mapped[tensor.file], tensor.name)
        yield LazyTensor(tensor.name, tensor.shape, tensor.type, read)


def _map(file: str) -> tuple[Any, int]:
    """A file's mapping, and its size in bytes."""
    with damage_named(file):
        return safe_open(file, framework="pt"), os.path.getsize(file)


def _read(file: str, mapped: Any, size: int, name: str) -> torch.Tensor:
    with damage_named(file):
        # Reading what is no longer in the file would end the process.
        if os.path.exists(file) and (now := os.path.getsize(file)) < size:
            raise CheckpointError(
                f"{file} has {now} bytes, and had {size} when its header was read: it changed meanwhile",
                "start again when nothing writes to it",
            )
        tensor: torch.Tensor = mapped.get_tensor(name)
    return tensor
