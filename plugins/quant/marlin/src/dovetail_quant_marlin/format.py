"""Weights in the order in which the Marlin kernel (Frantar et al., 2024) reads them; its permutations are undone once.

The transposed codes ``[K, N]`` are in tiles of 16 x 16. What one of 32 threads takes from four tiles that are neighbours
along the rows of the weight is together in four words, one for each tile. Scales are in the order in which threads use them,
which is another one if there is one scale in a row.

Letters: N rows, K columns, G groups in a row.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dovetail.api import CheckpointError, LazyTensor
from dovetail.nn import Components, PackedWeight, QuantFormat, WeightName, pack_integers, read_tensor, unpack_integers
from dovetail_quant_marlin.config import MarlinConfig

BITS = 4
TILE = 16
ROWS = 64
"""Of a weight, in four tiles."""


def unpack_tiles(words: Tensor) -> Tensor:
    """int32 ``[K / 16, N * 2]`` → codes, uint8 ``[N, K]``."""
    codes = unpack_integers(words, BITS, 1)  # [K / 16, N * 16]
    # A thread is one of 8 rows and of 4 pairs of columns; it takes those columns, those 8 further on, and the row 8 further on.
    apart = codes.view(
        len(codes), -1, 8, 4, 4, 2, 2, 2
    )  # [K / 16, N / 64, row, pair, tile, column, further row, further columns]
    return apart.permute(1, 4, 6, 2, 0, 7, 3, 5).reshape(-1, len(codes) * TILE)


def unpack_scales(scales: Tensor) -> Tensor:
    """``[G, N]`` → ``[N, G]``."""
    if len(scales) > 1:
        return scales.view(len(scales), -1, 8, 8).transpose(2, 3).reshape(scales.shape).t().contiguous()
    return scales.view(-1, 4, 4, 2).transpose(1, 2).reshape(-1, 1)


class MarlinFormat(QuantFormat):
    """Reads weights in Marlin's order into codes that are packed along the columns."""

    config: MarlinConfig

    def __init__(self, config: MarlinConfig) -> None:
        super().__init__(config)
        self._codes, self._scales = (".qweight", ".scales") if config.quant_method == "awq" else (".B", ".s")

    def components(self, weight: WeightName) -> Components:
        return Components((self._codes, self._scales), (".bias",))

    def shape(self, weight: WeightName, tensors: Mapping[str, LazyTensor]) -> tuple[int, ...]:
        tiles, *others = tensors[self._codes].shape
        return *(size // 2 for size in others), tiles * TILE

    def load(
        self, weight: WeightName, tensors: Mapping[str, LazyTensor], device: torch.device, dtype: torch.dtype
    ) -> PackedWeight:
        stored = tensors[self._codes]
        n, k = self.shape(weight, tensors)
        group = k if self.config.group_size == -1 else self.config.group_size
        if n < 1 or k < 1 or stored.shape[1] % (2 * ROWS) or k % group:
            raise CheckpointError(
                f"tensor {stored.name} is {list(stored.shape)}, wanted [K / {TILE}, N * 2] of N rows, a multiple of {ROWS}, and "
                f"K columns, a multiple of {group}",
                "the file is damaged, or its quantization_config belongs to another one; download it again",
            )
        codes = unpack_tiles(read_tensor(stored).to(device))
        scales = read_tensor(tensors[self._scales], (k // group, n), dtypes=(torch.float16,), finite=True).to(device)
        words = pack_integers(codes, BITS, 1)
        return PackedWeight(
            shape=(n, k), type="int32", bits=BITS, group=group, words=words, scales=unpack_scales(scales), zeros=None
        )
