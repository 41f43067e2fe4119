"""Ternary types: 256 weights of -1, 0 or 1, times one float16 scale d."""

from __future__ import annotations

import torch
from torch import Tensor

from dovetail_quant_gguf.blocks import Codes, fields, half


def tq1_0(blocks: Tensor) -> Codes:
    """52 bytes of base-3 digits, d.

    A byte is a fraction ``(byte + …) / 256`` in [0, 1): its digits come out at the top, one for each multiplication by 3. 32 bytes
    hold five digits each, then 16 five, then 4 four; a plane of digits spans the bytes.
    """
    parts = []
    for start, stop, count in ((0, 32, 5), (32, 48, 5), (48, 52, 4)):
        data = blocks[:, start:stop]
        parts += [data * 3**digit for digit in range(count)]  # modulo 256: the digits before fall off
    fractions = torch.cat(parts, 1).to(torch.int16)
    codes = fractions.mul_(3).bitwise_right_shift_(8).to(torch.int8).sub_(1)
    return Codes(codes, half(blocks, 52))


def tq2_0(blocks: Tensor) -> Codes:
    """64 bytes of 2-bit codes, d; a code stands for itself less one (and 3, which encoders do not write, for 2)."""
    d = half(blocks, 64)
    return Codes(fields(blocks[:, :64].unflatten(1, (2, 32)), 2).flatten(1), d, -d)
