"""Random tensors of the shapes that a model expects, made on the device."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from functools import partial

import torch
from torch import Tensor

from dovetail.api import Checkpoint, LazyTensor
from dovetail_loaders_dummy.inspection import TYPE

SPAN = 1e-3
"""Matrices and biases are uniform in ±SPAN, as in vLLM's loader of the same name, so that results that depend on
values (such as the routing of experts) can be compared with measurements there.
"""
PERIOD = 1_048_573
"""Number of random numbers. It is a prime, so that rows of usual lengths do not repeat in a matrix. Generating 8e9
numbers takes minutes on a CPU; copying these only takes as long as writing the weights.
"""
DTYPE: torch.dtype = getattr(torch, TYPE)


def load(checkpoint: Checkpoint, expected: Mapping[str, tuple[int, ...]], device: torch.device) -> Iterator[LazyTensor]:
    """Every expected tensor. The same name and shape give the same values on every device and in every process."""
    drawn = torch.empty(PERIOD).uniform_(-SPAN, SPAN, generator=torch.Generator().manual_seed(0)).to(device, DTYPE)
    noise = drawn.repeat(2)  # so that a period can begin anywhere
    for name, shape in expected.items():
        yield LazyTensor(name, shape, TYPE, partial(_read, name, shape, noise))


def _read(name: str, shape: tuple[int, ...], noise: Tensor) -> Tensor:
    if len(shape) == 1 and not name.endswith(".bias"):
        # Vectors are scales of norms. At 1e-3 each would shrink its activations a thousandfold, and all logits would round to the same number.
        return torch.ones(shape, dtype=noise.dtype, device=noise.device)
    start, count = zlib.crc32(name.encode()) % PERIOD, torch.Size(shape).numel()
    return noise[start : start + PERIOD].repeat(-(-count // PERIOD))[:count].view(shape)
