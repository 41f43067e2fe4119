"""The likeliest tokens in one fixed order: by score, and by id among equals.

``torch.topk`` leaves open which of several equal values it takes, and bfloat16 logits have many. Here the order is
fixed, so the result does not depend on k, on the batch, or on the algorithm.

Letters: L lines, V vocabulary, W wanted, B tokens in a block.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 64
"""With it, the 64 likeliest of 49,152 tokens are found among 768 maxima and 4,096 candidates."""


def stable_topk(scores: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The first tokens of each line by score.

    The W likeliest tokens lie in the W blocks with the greatest maxima (for a token elsewhere, each of these W blocks holds one that comes before it), so
    the vocabulary is read once and only those blocks are compared token by token.

    Args:
        scores: float32 ``[L, V]``.
        width: 1 to V.

    Returns:
        Scores, float32 ``[L, width]``, and ids, int64 ``[L, width]``. NaN comes first. Ids are in the vocabulary even
            where scores are NaN.
    """
    lines, vocabulary = scores.shape
    if width * BLOCK * 2 > vocabulary:
        values, ids = scores.sort(dim=-1, descending=True, stable=True)
        return values[:, :width], ids[:, :width]
    padded = F.pad(scores, (0, -vocabulary % BLOCK), value=-torch.inf) if vocabulary % BLOCK else scores
    blocks = padded.view(lines, -1, BLOCK)
    maxima = blocks.amax(-1)
    _, best = _stable_top_places(maxima, torch.arange(maxima.shape[1], device=scores.device), width)  # [L, W]
    candidates = blocks.gather(1, best[:, :, None].expand(-1, -1, BLOCK)).view(lines, -1)  # [L, W * B]
    ids = (best[:, :, None] * BLOCK + torch.arange(BLOCK, device=scores.device)).view(lines, -1)
    place, chosen = _stable_top_places(candidates, ids, width)
    return candidates.gather(1, place), chosen.clamp_(max=vocabulary - 1)


def _stable_top_places(scores: Tensor, ids: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Places and ids (which may be in any order) of the first ``width`` of each line by score, then by id."""
    # An int64 that orders as (score, -id): the bits of a float order as integers once those of negative ones are turned around. + 0.0 makes -0 a 0.
    # NaN has a sign, too, and 0 / 0 gives one with the bit set.
    bits = (scores + 0.0).masked_fill_(scores.isnan(), torch.nan).view(torch.int32)
    keys = ((bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(torch.int64) << 32) - ids
    place = keys.topk(width).indices
    return place, ids.expand_as(keys).gather(1, place)
