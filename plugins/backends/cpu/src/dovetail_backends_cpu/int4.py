"""Matrix product for 4-bit groups, with torch's own vectorised kernel, for activations in bfloat16.

The kernel computes ``w = (code - 8) * scale + zero`` with codes of 0 to 15. Wider codes are split into two such planes,

    code = 16 * high + low        scale * code = (16 * scale) * high + scale * low

whose products are added, so that 8-bit weights are read at 8 bits too. (With float32 activations the same operation is scalar code in torch 2.13,
50 times slower than here, and is left alone.)

Letters: N rows, K columns, G groups in a row, T tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dovetail.api import LayerKind
from dovetail.nn import AffineWeight, StoredWeight, WeightKernel

ROWS = 16
"""N must be a multiple of this."""
GROUPS = (32, 64, 128, 256)
PART = 4096
"""Rows packed at a time; a multiple of 64, the row group of the layout."""
INNER_TILES = 1
"""A parameter of the packed layout; the CPU kernel ignores it."""


class Int4Kernel(WeightKernel):
    """Stores each plane with 4 bits per element, and bfloat16 scales and zeros."""

    @classmethod
    def unsupported_reason(cls, weight: StoredWeight, kind: LayerKind) -> str | None:
        if weight.shape[0] % ROWS:
            return f"{weight.shape[0]} rows are not a multiple of {ROWS}"
        row: AffineWeight | None = weight.first_rows().pack("affine")
        if row is None:
            return f"this weight of type {weight.type} has no packing affine"
        if row.group not in GROUPS:
            return f"groups of {row.group} columns, wanted one of {', '.join(map(str, GROUPS))}"
        if row.codes.dtype == torch.uint8 and row.bits == 8:
            return "unsigned 8-bit codes do not split into two planes"
        return None

    def __init__(self, weight: StoredWeight, kind: LayerKind, device: torch.device, dtype: torch.dtype) -> None:
        packed: AffineWeight | None = weight.pack("affine")
        assert packed is not None
        self.n, self.k = weight.shape
        self.group = packed.group
        self.order = packed.order
        scales = packed.scales.float()  # [N, G]
        mins = torch.zeros_like(scales) if packed.mins is None else packed.mins.float()
        codes = packed.codes
        self.planes: list[tuple[Tensor, Tensor]] = []
        if packed.bits > 4:
            # Arithmetic on signed codes rounds down, so low is 0 to 15 and high keeps the sign; both are stored from 0 up.
            high = codes >> 4
            codes = codes - (high << 4)
            self.planes.append(_plane(high + 8, 16 * scales, torch.zeros_like(mins)))
        elif codes.dtype == torch.int8:
            codes, mins = codes + 8, mins - 8 * scales
        self.planes.append(_plane(codes, scales, mins + 8 * scales))

    def __call__(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, self.k)
        flat = flat.contiguous() if self.order is None else flat[:, self.order]
        product = torch.ops.aten._weight_int4pack_mm_for_cpu
        out, *others = (product(flat, codes, self.group, scales) for codes, scales in self.planes)
        for other in others:
            out += other
        return out.view(*x.shape[:-1], self.n)

    @property
    def nbytes(self) -> int:
        order = 0 if self.order is None else self.order.nbytes
        return order + sum(codes.nbytes + scales.nbytes for codes, scales in self.planes)


def _plane(codes: Tensor, scales: Tensor, zeros: Tensor) -> tuple[Tensor, Tensor]:
    """Codes of 0 to 15 ``[N, K]`` in the kernel's layout, and bfloat16 ``[G, N, 2]`` of scales and zeros."""
    pack = torch.ops.aten._convert_weight_to_int4pack_for_cpu
    # The operation takes int32, eight times what it gives, so it is fed a part at a time.
    packed = torch.cat([pack(rows.int(), INNER_TILES) for rows in codes.split(PART)])
    return packed, torch.stack((scales, zeros), -1).transpose(0, 1).contiguous().bfloat16()
