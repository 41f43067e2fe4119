"""A portable kernel for weights in the ``affine`` packing, from torch operations alone.

The saving over the reference is in what is not done per element: codes are unpacked by whole planes (all low nibbles, then
all high ones) instead of inside each group, with the activations permuted to match; and the groups' minimums are never added to the weights
but enter through a second, 1/group as large product with the groups' sums of activations:

    y = sum_g scale_g * (codes_g · x_g) + sum_g min_g * sum(x_g)

Letters: N rows, K columns, G groups in a row, T tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dovetail.api.cards import LayerKind
from dovetail.nn.dense import SLICE_BYTES
from dovetail.nn.weights import AffineWeight, StoredWeight, WeightKernel


class AffineKernel(WeightKernel):
    """Matrix product with up to 8-bit codes, kept at 4 or 8 bits an element; exact but for the order of summation."""

    @classmethod
    def declines(cls, weight: StoredWeight, kind: LayerKind) -> str | None:
        return None if weight.pack("affine") is not None else f"{weight.type} has no affine form"

    def __init__(self, weight: StoredWeight, kind: LayerKind, device: torch.device, dtype: torch.dtype) -> None:
        packed: AffineWeight | None = weight.pack("affine")
        assert packed is not None
        self.n, self.k = weight.shape
        self.group = packed.group
        self.nibbles = packed.bits <= 4 and packed.codes.dtype == torch.uint8 and packed.group % 2 == 0
        codes = packed.codes
        if self.nibbles:
            pairs = codes.view(self.n, self.k // self.group, 2, self.group // 2)
            codes = (pairs[:, :, 0] | (pairs[:, :, 1] << 4)).view(self.n, self.k // 2)  # [N, K/2]
        self.codes = codes.contiguous().to(device)
        # Scales of the common formats are float16 on disk, or a product of two such numbers: float32 keeps both exactly.
        self.scales = packed.scales.to(device=device, dtype=dtype).contiguous()  # [N, G]
        self.mins = None if packed.mins is None else packed.mins.to(device=device, dtype=dtype).contiguous()
        self.step = max(1, SLICE_BYTES // (self.k * dtype.itemsize))

    def __call__(self, x: Tensor) -> Tensor:
        shape = x.shape
        x = x.reshape(-1, self.k)
        groups = x.view(x.shape[0], -1, self.group)  # [T, G, group]
        out = x.new_empty(x.shape[0], self.n)
        if self.nibbles:
            # The same order as the planes: the first halves of all groups, then the second halves.
            x = groups.view(x.shape[0], -1, 2, self.group // 2).transpose(1, 2).reshape(x.shape[0], self.k)
        width = self.group // 2 if self.nibbles else self.group
        weights = x.new_empty(min(self.step, self.n), self.k)  # scratch: one slice of weights, reused
        for start in range(0, self.n, self.step):
            stop = min(start + self.step, self.n)
            w = weights[: stop - start]
            codes = self.codes[start:stop]
            if self.nibbles:
                half = self.k // 2
                w[:, :half] = codes & 15
                w[:, half:] = codes >> 4
            else:
                w.copy_(codes)
            scaled = w.view(stop - start, -1, self.k // self.group, width)
            scaled.mul_(self.scales[start:stop, None, :, None])
            torch.mm(x, w.t(), out=out[:, start:stop]) if x.shape[0] == 1 else out[:, start:stop].copy_(x @ w.t())
        if self.mins is not None:
            out += F.linear(groups.sum(-1), self.mins)
        return out.view(*shape[:-1], self.n)

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.scales.nbytes + (0 if self.mins is None else self.mins.nbytes)
