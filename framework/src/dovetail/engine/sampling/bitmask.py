"""Applies grammars' masks of allowed tokens, one bit for each token."""

from __future__ import annotations

import torch
from torch import Tensor


def apply_bitmask(scores: Tensor, masks: Tensor) -> Tensor:
    """Set scores to -inf where the mask has a 0.

    Args:
        scores: float32 ``[L, V]``; changed in place.
        masks: int32 ``[L, ceil(V / 32)]``; bit ``i % 32`` of word ``i // 32`` stands for token ``i``.

    Returns:
        The scores.
    """
    bits = torch.arange(32, dtype=torch.int32, device=scores.device)
    forbidden = ((masks[:, :, None] >> bits) & 1).view(len(masks), -1)[:, : scores.shape[1]] == 0
    return scores.masked_fill_(forbidden, -torch.inf)
