"""Packed test data, and what the ``gguf`` package makes of it."""

from __future__ import annotations

import gguf
import numpy as np
import torch
from dovetail_quant_gguf.types import TYPES
from torch import Tensor

from dovetail.api import LazyTensor

ENCODED = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "tq1_0", "tq2_0", "mxfp4")
"""Types that the ``gguf`` package can also write."""


def ggml_type(name: str) -> gguf.GGMLQuantizationType:
    return gguf.GGMLQuantizationType[name.upper()]


def random_rows(name: str, rows: int, columns: int, seed: int = 0) -> Tensor:
    """uint8 ``[rows, bytes of a row]``: every bit random, but for scales, which are finite."""
    layout = TYPES[name]
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (rows * columns // layout.weights, layout.bytes), dtype=np.uint8)
    for field in layout.floats:
        for byte, mask in field:
            # Clears the top bit of an exponent, so that scales are below 2, but not the sign.
            blocks[:, byte] &= ~np.uint8(1 << (mask.bit_length() - 1))
    return torch.from_numpy(blocks.reshape(rows, -1))


def gaussian_rows(name: str, rows: int, columns: int, seed: int = 0) -> Tensor:
    """uint8 ``[rows, bytes of a row]``: normally distributed weights, encoded by ``gguf``; for the types in :data:`ENCODED`."""
    weights = np.random.default_rng(seed).standard_normal((rows, columns), dtype=np.float32)
    return torch.from_numpy(gguf.quants.quantize(weights, ggml_type(name)))


def oracle(name: str, data: Tensor) -> Tensor:
    """float32 ``[rows, columns]``."""
    return torch.from_numpy(gguf.quants.dequantize(data.numpy(), ggml_type(name)))


def lazy(name: str, data: Tensor, shape: tuple[int, ...], tensor: str = "blk.0.ffn_up.weight") -> LazyTensor:
    return LazyTensor(tensor, shape, name, lambda: data)
