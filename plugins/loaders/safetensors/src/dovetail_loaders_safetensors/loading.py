"""Lazy tensors over memory-mapped files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import torch
from safetensors import safe_open

from dovetail.api import Checkpoint, LazyTensor
from dovetail_loaders_safetensors.inspection import INDEX_KEY, tensors_of


def load(checkpoint: Checkpoint, expected: Mapping[str, tuple[int, ...]], device: torch.device) -> Iterator[LazyTensor]:
    """Yield every tensor of the checkpoint. ``read()`` shares memory with the mapped file."""
    mapped = {file: safe_open(file, framework="pt") for file in checkpoint.files}
    for file, tensor in tensors_of(checkpoint.files, checkpoint.metadata.get(INDEX_KEY)):
        yield LazyTensor(tensor.name, tensor.shape, tensor.type, partial(mapped[file].get_tensor, tensor.name))
