"""K-quants: super-blocks of 256 weights, whose groups have small integer scales times one float16 scale d.

In those with minimums, a group's minimum is minus a small integer times a second float16 number.
Planes of codes run over 32 weights at a time (64 for Q6_K's low nibbles).
"""

from __future__ import annotations

import torch
from torch import Tensor

from dovetail.nn import TwoLevelScales
from dovetail_quant_gguf.blocks import Codes, fields, half


def q2_k(blocks: Tensor) -> Codes:
    """16 bytes (nibbles: scale, minimum), 64 bytes of 2-bit codes, d, dmin."""
    small = blocks[:, :16]
    codes = fields(blocks[:, 16:80].unflatten(1, (2, 32)), 2).flatten(1)
    return Codes(codes, TwoLevelScales(half(blocks, 80), small & 15), TwoLevelScales(-half(blocks, 82), small >> 4))


def q3_k(blocks: Tensor) -> Codes:
    """32 bytes of third bits, 64 bytes of 2-bit codes, 12 bytes of scales, d; the codes stand for -4 to 3."""
    codes = fields(blocks[:, 32:96].unflatten(1, (2, 32)), 2).flatten(1)
    high = fields(blocks[:, :32], 1).flatten(1)
    codes = codes.add_(high, alpha=4).sub_(4).view(torch.int8)
    # 6 bits: the nibbles of 8 bytes (all low ones first) with the 2-bit fields of 4 more on top.
    low = fields(blocks[:, 96:104], 4).flatten(1)
    top = fields(blocks[:, 104:108], 2).flatten(1)
    scales = (low | (top << 4)).sub_(32).view(torch.int8)
    return Codes(codes, TwoLevelScales(half(blocks, 108), scales))


def q4_k(blocks: Tensor) -> Codes:
    """d, dmin, 12 bytes of scales and minimums, 128 bytes of nibbles."""
    codes = fields(blocks[:, 16:].unflatten(1, (4, 32)), 4).flatten(1)
    return Codes(codes, *_scales(blocks))


def q5_k(blocks: Tensor) -> Codes:
    """d, dmin, 12 bytes of scales and minimums, 32 bytes of fifth bits, 128 bytes of nibbles."""
    codes = fields(blocks[:, 48:].unflatten(1, (4, 32)), 4).flatten(1)
    high = fields(blocks[:, 16:48], 1).flatten(1)
    return Codes(codes.add_(high, alpha=16), *_scales(blocks))


def q6_k(blocks: Tensor) -> Codes:
    """128 bytes of nibbles, 64 bytes of 2-bit tops, 16 int8 scales, d; the codes stand for -32 to 31."""
    codes = fields(blocks[:, :128].unflatten(1, (2, 64)), 4).flatten(1)
    high = fields(blocks[:, 128:192].unflatten(1, (2, 32)), 2).flatten(1)
    codes = codes.add_(high, alpha=16).sub_(32).view(torch.int8)
    return Codes(codes, TwoLevelScales(half(blocks, 208), blocks[:, 192:208].view(torch.int8).contiguous()))


def _scales(blocks: Tensor) -> tuple[TwoLevelScales, TwoLevelScales]:
    """The 6-bit scales and minimums of 8 groups, from bytes 4 to 15 (after d and dmin).

    Four bytes hold the first four scales, four the first four minimums, in their lower 6 bits; four hold the last scales (low nibble)
    and minimums (high nibble), whose top 2 bits are those of the bytes before.
    """
    first, second, last = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    scales = torch.cat((first & 63, (last & 15) | ((first >> 6) << 4)), 1)
    mins = torch.cat((second & 63, (last >> 4) | ((second >> 6) << 4)), 1)
    return TwoLevelScales(half(blocks, 0), scales), TwoLevelScales(-half(blocks, 2), mins)
