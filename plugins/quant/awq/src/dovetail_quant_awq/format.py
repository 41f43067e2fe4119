"""AWQ's weights (Lin et al., 2024) as AutoAWQ stores them.

For GEMM, eight neighbours along the rows are in a 32-bit word, even ones first: of rows 0 to 7, the nibbles from the lowest
on are those of 0, 2, 4, 6, 1, 3, 5, 7. For GEMV, eight along the columns in their order, and scales and zero-points are
padded.

Letters: N rows, K columns, G groups in a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dovetail.api import LazyTensor
from dovetail.nn import (
    Axis,
    Codes,
    Components,
    Field,
    GroupedWeight,
    PackedWeight,
    QuantFormat,
    WeightName,
    packed_axis,
    read_tensor,
    unpack_integers,
)
from dovetail_quant_awq.config import AwqConfig

BITS = 4
PACKED = 8  # codes in a word
MIDDLE = 8  # of the codes
PLACES = [0, 4, 1, 5, 2, 6, 3, 7]  # in which nibble each of eight rows is
INTS = (torch.int32,)
SCALES = (torch.float16, torch.bfloat16, torch.float32)


def unpack_even_first(words: Tensor) -> Tensor:
    """int32 ``[M, N / 8]`` of :class:`GemmWeight` → uint8 ``[M, N]``."""
    return unpack_integers(words, BITS, 1).unflatten(1, (-1, PACKED))[..., PLACES].flatten(1)


@dataclass(frozen=True, eq=False, kw_only=True)
class GemmWeight(GroupedWeight):
    """A weight that is packed for GEMM: everything is transposed, and packed along the rows.

    Attributes:
        words: the codes, int32 ``[K, N / 8]``.
        scales: ``[G, N]``.
        zeros: the zero-points, int32 ``[G, N / 8]``; None if all are in the middle of the codes.
    """

    words: Tensor
    scales: Tensor
    zeros: Tensor | None

    def fields(self) -> dict[str, Field]:
        packed, shared = packed_axis(1, BITS), Axis(0, self.group) if len(self.scales) > 1 else None
        found = {
            "words": Field(self.words, rows=packed, columns=Axis(0)),
            "scales": Field(self.scales, rows=Axis(1), columns=shared),
        }
        return found if self.zeros is None else found | {"zeros": Field(self.zeros, rows=packed, columns=shared)}

    def unpack(self) -> Codes:
        zeros = MIDDLE if self.zeros is None else unpack_even_first(self.zeros).t().float()
        return Codes(unpack_even_first(self.words).t(), self.scales.t(), zeros)


class AwqFormat(QuantFormat):
    """Reads AWQ's weights in either packing."""

    config: AwqConfig

    def components(self, weight: WeightName) -> Components:
        required, zeros = (".qweight", ".scales"), (".qzeros",)
        return (
            Components((*required, *zeros), (".bias",))
            if self.config.zero_point
            else Components(required, (".bias", *zeros))
        )

    def shape(self, weight: WeightName, tensors: Mapping[str, LazyTensor]) -> tuple[int, ...]:
        first, *others = tensors[".qweight"].shape
        if self.config.version == "gemv":
            return first, *(PACKED * size for size in others)
        return *(PACKED * size for size in others), first

    def load(
        self, weight: WeightName, tensors: Mapping[str, LazyTensor], device: torch.device, dtype: torch.dtype
    ) -> GroupedWeight:
        n, k = self.shape(weight, tensors)
        group = k if self.config.group_size == -1 else self.config.group_size
        words = read_tensor(tensors[".qweight"]).to(device)
        if self.config.version == "gemv":
            return self._load_gemv(tensors, words, (n, k), group)
        count = -(-k // group)
        scales = read_tensor(tensors[".scales"], (count, n), dtypes=SCALES, finite=True)
        zeros = None
        if ".qzeros" in tensors:
            stored = read_tensor(tensors[".qzeros"], (count, n // PACKED), dtypes=INTS)
            if bool((unpack_even_first(stored) != MIDDLE).any()):
                zeros = stored.to(device)
        return GemmWeight(
            shape=(n, k), type="int32", bits=BITS, group=group, words=words, scales=scales.to(device), zeros=zeros
        )

    def _load_gemv(
        self, tensors: Mapping[str, LazyTensor], words: Tensor, shape: tuple[int, int], group: int
    ) -> PackedWeight:
        """Scales and zero-points without what pads them to whole words, and to more of those for small groups."""
        (n, k), count = shape, -(-shape[1] // group)
        width = -(-count // PACKED)
        width += -width % max(1, 128 // group)
        scales = read_tensor(tensors[".scales"], (n, PACKED * width), dtypes=SCALES, finite=True)[:, :count]
        zeros = None
        if ".qzeros" in tensors:
            stored = unpack_integers(read_tensor(tensors[".qzeros"], (n, width), dtypes=INTS), BITS, 1)[:, :count]
            if bool((stored != MIDDLE).any()):
                zeros = stored.contiguous().to(words.device)
        return PackedWeight(
            shape=(n, k),
            type="int32",
            bits=BITS,
            group=group,
            words=words,
            scales=scales.contiguous().to(words.device),
            zeros=zeros,
        )
