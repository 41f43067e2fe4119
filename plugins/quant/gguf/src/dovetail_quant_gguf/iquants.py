"""I-quants: super-blocks of 256 weights, whose codes are indices of grid points (eight or four weights per point).

The grids of IQ2 and IQ3 hold magnitudes, with separate signs: a byte for eight weights, or seven bits if the number of
minus signs is always even. Those of IQ1 hold -1, 0 and 1, moved by an eighth up or down.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dovetail_quant_gguf import tables
from dovetail_quant_gguf.blocks import Codes, digits, half, numbers, words

_SEVENS = (0, 7, 14, 21)
"""Where four 7-bit sign indices stand in a 32-bit word; its upper 4 bits are a scale."""


def iq2_xxs(blocks: Tensor) -> Codes:
    """d; for each 32 weights 4 bytes that name points and a word of signs and scale."""
    device = blocks.device
    groups = numbers(blocks[:, 2:], torch.int32).unflatten(1, (8, 2))
    points, word = groups[..., 0].contiguous().view(torch.uint8), groups[..., 1]
    codes = tables.lookup(tables.grid("iq2_xxs", device), points.int())
    codes *= tables.lookup(tables.even_signs(device), digits(word, _SEVENS, 127))
    return Codes(codes, half(blocks, 0).float() * _steps(word >> 28 & 15, 8))


def iq2_xs(blocks: Tensor) -> Codes:
    """d, 32 words (9 bits name a point, 7 its signs), 8 bytes of scales of 16 weights."""
    device = blocks.device
    word = words(blocks[:, 2:66])
    codes = tables.lookup(tables.grid("iq2_xs", device), word & 511)
    codes *= tables.lookup(tables.even_signs(device), word >> 9)
    return Codes(codes, half(blocks, 0).float() * _steps(digits(blocks[:, 66:], (0, 4), 15).flatten(1), 8))


def iq2_s(blocks: Tensor) -> Codes:
    """d, 32 bytes that name points, 32 of signs, 8 with two more bits a point, 8 of scales of 16 weights."""
    device = blocks.device
    points = digits(blocks[:, 66:74].int(), (0, 2, 4, 6), 3).flatten(1) << 8 | blocks[:, 2:34]
    codes = tables.lookup(tables.grid("iq2_s", device), points)
    codes *= tables.lookup(tables.signs(device), blocks[:, 34:66].int())
    return Codes(codes, half(blocks, 0).float() * _steps(digits(blocks[:, 74:], (0, 4), 15).flatten(1), 8))


def iq3_xxs(blocks: Tensor) -> Codes:
    """d, 64 bytes that name points of four, 8 words of signs and scales of 32 weights."""
    device = blocks.device
    word = numbers(blocks[:, 66:], torch.int32)
    codes = tables.lookup(tables.grid("iq3_xxs", device), blocks[:, 2:66].int())
    codes *= tables.lookup(tables.even_signs(device), digits(word, _SEVENS, 127))
    return Codes(codes, half(blocks, 0).float() * _steps(word >> 28 & 15, 4))


def iq3_s(blocks: Tensor) -> Codes:
    """d, 64 bytes that name points of four, 8 with one more bit a point, 32 of signs, 4 of scales of 32 weights."""
    device = blocks.device
    points = digits(blocks[:, 66:74].int(), range(8), 1).flatten(1) << 8 | blocks[:, 2:66]
    codes = tables.lookup(tables.grid("iq3_s", device), points)
    codes *= tables.lookup(tables.signs(device), blocks[:, 74:106].int())
    return Codes(codes, half(blocks, 0).float() * (2 * digits(blocks[:, 106:], (0, 4), 15).flatten(1) + 1))


def iq1_s(blocks: Tensor) -> Codes:
    """d, 32 bytes that name points, 8 words for 32 weights each: four times 3 more bits a point, a scale, the direction of the move."""
    word = words(blocks[:, 34:])
    points = digits(word, (0, 3, 6, 9), 7) << 8 | blocks[:, 2:34].unflatten(1, (8, 4))
    points |= (word >> 15 << 11)[..., None]
    codes = tables.lookup(tables.shifted_grid("iq1_s", blocks.device), points)
    return Codes(codes, half(blocks, 0).float() * ((2 * (word >> 12 & 7) + 1) / 8))


def iq1_m(blocks: Tensor) -> Codes:
    """32 bytes that name points, 16 of nibbles (3 more bits a point, direction of the move), 4 words of scales.

    A word's lower 12 bits are four scales of 16 weights; its upper 4 bits are a quarter of the float16 scale of all.
    """
    word = words(blocks[:, 48:])
    quarters = (word >> 12) << torch.arange(0, 16, 4, device=blocks.device, dtype=torch.int32)
    d = quarters.sum(1, keepdim=True).to(torch.int16).view(torch.float16).float()
    points = digits(blocks[:, 32:48].int(), (0, 4), 15).flatten(1) << 8 | blocks[:, :32]  # bit 11 is the direction
    codes = tables.lookup(tables.shifted_grid("iq1_m", blocks.device), points)
    return Codes(codes, d * ((2 * digits(word, (0, 3, 6, 9), 7).flatten(1) + 1) / 8))


def _steps(scales: Tensor, divisor: int) -> Tensor:
    """``(2 * scales + 1) / divisor``, float32."""
    return (2 * scales + 1) / divisor
