"""A portable kernel for weights in the ``affine`` packing, from torch operations alone.

It is faster than the reference because it does less per element. Small codes are packed by planes of a row (the first
half in the low nibbles, the second half in the high ones), so that unpacking works on long runs. The groups' minimums
are not added to the weights; a second product, 1/group as large, multiplies them with the groups' sums of activations.
Everything is stored column by column, because products with few tokens read weights fastest this way, and libraries
that need this order do not have to transpose:

    y = sum_g scale_g * (codes_g · x_g) + sum_g min_g * sum(x_g)

Letters: N rows, K columns, G groups in a row, T tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dovetail.api.cards import LayerKind
from dovetail.nn.packings import AffineWeight, TwoLevelScales
from dovetail.nn.stored import StoredWeight
from dovetail.nn.weights import WeightKernel, unpacked_reason

# Weights unpacked at once. A quarter of a million would stay in a core's cache, but starting each operation's threads then costs more than
# that saves: with 4-bit codes, one token and two cores, two million take 0.6 of the time.
SLICE = 1 << 21


class AffineKernel(WeightKernel):
    """Matrix product with up to 8-bit codes, stored with 2, 4 or 8 bits per element; exact except for the order of
    summation.
    """

    @classmethod
    def unsupported_reason(cls, weight: StoredWeight, kind: LayerKind) -> str | None:
        return unpacked_reason(weight, "affine")

    def __init__(self, weight: StoredWeight, kind: LayerKind, device: torch.device, dtype: torch.dtype) -> None:
        packed: AffineWeight | None = weight.pack("affine")
        assert packed is not None
        self.n, self.k = weight.shape
        self.group = packed.group
        self.bits = next((bits for bits in (2, 4) if packed.bits <= bits and self.k % (8 // bits) == 0), 8)
        # Codes that share a byte are kept from 0 up, and moved back once they are apart.
        self.offset = 1 << (self.bits - 1) if self.bits < 8 and packed.codes.dtype == torch.int8 else 0
        self.codes = _pack_codes(packed.codes, self.bits, self.offset).t().contiguous().to(device)  # [K * bits / 8, N]
        # As they were handed out: float16, or two levels, where that is what the format has.
        self.scales = _transpose(packed.scales).to(device)
        self.mins = None if packed.mins is None else _transpose(packed.mins).to(device)
        self.order = None if packed.order is None else packed.order.to(device)
        self.step = max(1, SLICE // self.k)

    def __call__(self, x: Tensor) -> Tensor:
        shape = x.shape
        x = x.reshape(-1, self.k)
        if self.order is not None:
            x = x[:, self.order]
        sums = None if self.mins is None else x.unflatten(-1, (-1, self.group)).sum(-1)  # [T, G]
        scratch = x.new_empty(min(self.step, self.n) * self.k)
        parts = []
        for start in range(0, self.n, self.step):
            rows = slice(start, min(start + self.step, self.n))
            weights = scratch[: self.k * (rows.stop - start)].view(self.k, -1)  # [K, n]
            self._unpack(self.codes[:, rows], weights)
            weights.unflatten(0, (-1, self.group)).mul_(_floats(self.scales, rows, x.dtype)[:, None])
            part = self.ops.linear(x, weights.t())
            if self.mins is not None and sums is not None:
                part += self.ops.linear(sums, _floats(self.mins, rows, x.dtype).t())
            parts.append(part)
        out = parts[0] if len(parts) == 1 else torch.cat(parts, -1)
        return out.view(*shape[:-1], self.n)

    def _unpack(self, shared: Tensor, out: Tensor) -> None:
        """Write the codes of columns ``[K * bits / 8, n]`` as floats into ``out`` ``[K, n]``."""
        if self.bits == 8:
            out.copy_(shared)
            return
        mask, last = (1 << self.bits) - 1, 8 - self.bits
        for shift, part in zip(range(0, 8, self.bits), out.split(shared.shape[0]), strict=True):
            codes = shared >> shift if shift else shared
            if shift < last:
                codes = codes & mask
            if self.offset:
                codes = codes.view(torch.int8) - self.offset
            part.copy_(codes)

    @property
    def nbytes(self) -> int:
        parts = (self.codes, self.scales, self.mins, self.order)
        return sum(part.nbytes for part in parts if part is not None)


def _pack_codes(codes: Tensor, bits: int, offset: int) -> Tensor:
    """Codes ``[N, K]``, with ``bits`` bits after ``offset`` is added → bytes ``[N, K * bits / 8]``, a part of the
    row in each bit field.
    """
    if bits == 8:
        return codes.contiguous()
    first, *others = codes.split(codes.shape[1] * bits // 8, 1)
    shared = (first + offset).view(torch.uint8)
    for place, part in enumerate(others, 1):
        shared |= (part + offset).view(torch.uint8) << (place * bits)
    return shared


def _transpose(numbers: Tensor | TwoLevelScales) -> Tensor | TwoLevelScales:
    """Transpose plain numbers ``[N, G]`` to ``[G, N]``. Numbers in two levels are unchanged, because only their rows
    can be sliced.
    """
    return numbers.t().contiguous() if isinstance(numbers, Tensor) else numbers


def _floats(numbers: Tensor | TwoLevelScales, rows: slice, dtype: torch.dtype) -> Tensor:
    """Floats ``[G, n]`` from the result of :func:`_transpose`."""
    if isinstance(numbers, Tensor):
        return numbers[:, rows].float().to(dtype)
    return numbers[rows].float().to(dtype).t().contiguous()
