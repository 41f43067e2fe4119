"""Lazy tensors over memory-mapped files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import torch
from safetensors import safe_open

from dovetail.api import Checkpoint, LazyTensor
from dovetail_loaders_safetensors.header import read_header


def load(checkpoint: Checkpoint, expected: Mapping[str, tuple[int, ...]], device: torch.device) -> Iterator[LazyTensor]:
    """Every tensor of the checkpoint. ``read()`` shares memory with the mapped file."""
    for file in checkpoint.files:
        mapped = safe_open(file, framework="pt")
        for tensor in read_header(file):
            yield LazyTensor(tensor.name, tensor.shape, tensor.type, partial(mapped.get_tensor, tensor.name))
