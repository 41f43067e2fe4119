"""Types whose nibbles are indices of a table of sixteen values: IQ4_NL, IQ4_XS, MXFP4, NVFP4.

The low nibbles of a group are its first half. 4-bit floating-point (E2M1) values are stored doubled, which makes them
integers, and their scales are halved.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from dovetail_quant_gguf import tables
from dovetail_quant_gguf.blocks import Codes, digits, half, words

NON_LINEAR = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
E2M1 = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)


def iq4_nl(blocks: Tensor) -> Codes:
    """32 weights: float16 scale, 16 bytes of nibbles."""
    return Codes(_values(blocks[:, 2:], NON_LINEAR, 16), half(blocks, 0))


def iq4_xs(blocks: Tensor) -> Codes:
    """256 weights: float16 scale; the groups' scales, 2 high bits of each in 2 bytes, 4 low bits in 4; 128 bytes of nibbles."""
    high = digits(words(blocks[:, 2:4]), range(0, 16, 2), 3).flatten(1)
    low = digits(blocks[:, 4:8], (0, 4), 15).flatten(1)
    scales = half(blocks, 0).float() * ((high << 4 | low) - 32)
    return Codes(_values(blocks[:, 8:], NON_LINEAR, 16), scales)


def mxfp4(blocks: Tensor) -> Codes:
    """32 weights: E8M0 scale, 16 bytes of nibbles (OCP Microscaling Formats 1.0)."""
    return Codes(_values(blocks[:, 1:], E2M1, 16), _halved_e8m0(blocks.device)[blocks[:, :1].int()])


def nvfp4(blocks: Tensor) -> Codes:
    """64 weights: 4 unsigned E4M3 scales, 4 times 8 bytes of nibbles."""
    return Codes(_values(blocks[:, 4:], E2M1, 8), _halved_e4m3(blocks.device)[blocks[:, :4].int()])


def _values(data: Tensor, values: tuple[int, ...], width: int) -> Tensor:
    """int8 ``[B, 2n]`` from nibbles in ``n`` bytes, whose groups are ``width`` bytes wide."""
    low, high = tables.codebook(values, data.device)
    pairs = words(data)  # two bytes a lookup
    shape = (data.shape[0], -1, width)
    return torch.stack([tables.lookup(half, pairs).view(shape) for half in (low, high)], 2).flatten(1)


@cache
def _halved_e8m0(device: torch.device) -> Tensor:
    """float32 ``[256]``: ``2 ** (byte - 128)``."""
    # In float64, since the smallest are subnormal in float32.
    return torch.ldexp(torch.ones(256, dtype=torch.float64), torch.arange(256) - 128).float().to(device)


@cache
def _halved_e4m3(device: torch.device) -> Tensor:
    """float32 ``[256]``: half of the number with 4 exponent bits (bias 7) and 3 of mantissa; the sign bit is not read, and 127 is 0."""
    byte = torch.arange(256)
    exponent, mantissa = (byte >> 3) & 15, byte & 7
    normal = torch.ldexp((8 + mantissa).double(), exponent - 7 - 3 - 1)
    subnormal = mantissa.double() * 2.0 ** (-6 - 3 - 1)
    values = torch.where(exponent == 0, subnormal, normal)
    values[127] = 0
    return values.float().to(device)
