"""Blocks of 32 weights with one scale: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0.

d is the scale, m the minimum (both float16); the low nibbles are the first 16 weights, the high ones the last 16.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dovetail_quant_gguf import tables
from dovetail_quant_gguf.blocks import Codes, fields, half


def q4_0(blocks: Tensor) -> Codes:
    """d, 16 bytes of nibbles, which stand for -8 to 7."""
    codes = fields(blocks[:, 2:], 4).flatten(1).sub_(8)
    return Codes(codes.view(torch.int8), half(blocks, 0))


def q4_1(blocks: Tensor) -> Codes:
    """d, m, 16 bytes of nibbles."""
    return Codes(fields(blocks[:, 4:], 4).flatten(1), half(blocks, 0), half(blocks, 2))


def q5_0(blocks: Tensor) -> Codes:
    """d, 32 fifth bits, 16 bytes of nibbles; the codes stand for -16 to 15."""
    high = _fifth_bits(blocks[:, 2:6], unset=-16, set=0)  # a nibble with these bits is the nibble minus 16
    return Codes(fields(blocks[:, 6:], 4).flatten(1).view(torch.int8).bitwise_or_(high), half(blocks, 0))


def q5_1(blocks: Tensor) -> Codes:
    """d, m, 32 fifth bits, 16 bytes of nibbles."""
    high = _fifth_bits(blocks[:, 4:8], unset=0, set=16)
    codes = fields(blocks[:, 8:], 4).flatten(1).bitwise_or_(high.view(torch.uint8))
    return Codes(codes, half(blocks, 0), half(blocks, 2))


def q8_0(blocks: Tensor) -> Codes:
    """d, 32 int8 codes."""
    return Codes(blocks[:, 2:].view(torch.int8), half(blocks, 0))


def _fifth_bits(data: Tensor, *, unset: int, set: int) -> Tensor:
    return tables.lookup(tables.bits(data.device, unset, set), data.int())  # [B, 32]
