"""MXFP4 (OCP Microscaling Formats, 2023) as gpt-oss stores it (OpenAI, 2025): blocks of 16 bytes and their exponents.

Letters: N rows, K columns, G groups in a row.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from dovetail.api import LazyTensor
from dovetail.nn import Components, MicroscaledWeight, QuantFormat, WeightName, read_microscales, read_tensor

GROUP = 32
BYTES = GROUP // 2
BLOCKS, SCALES = "_blocks", "_scales"


class Mxfp4Format(QuantFormat):
    """Reads weights that end in ``_blocks``, uint8 ``[N, G, 16]``, and ``_scales``, uint8 ``[N, G]``.

    Which layers are left out (``modules_to_not_convert``) is seen by their tensors.
    """

    def components(self, weight: WeightName) -> Components:
        return Components((BLOCKS, SCALES))

    def shape(self, weight: WeightName, tensors: Mapping[str, LazyTensor]) -> tuple[int, ...]:
        *rows, groups, _ = tensors[BLOCKS].shape
        return *rows, groups * GROUP

    def load(
        self, weight: WeightName, tensors: Mapping[str, LazyTensor], device: torch.device, dtype: torch.dtype
    ) -> MicroscaledWeight:
        n, k = self.shape(weight, tensors)
        blocks = read_tensor(tensors[BLOCKS], (n, k // GROUP, BYTES), dtypes=(torch.uint8,))
        return MicroscaledWeight(
            shape=(n, k),
            type="uint8",
            codes=blocks.view(n, k // 2).to(device),
            scales=read_microscales(tensors[SCALES], (n, k // GROUP)).to(device),
            group=GROUP,
        )
