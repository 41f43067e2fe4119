"""Samples tokens from the whole vocabulary, or from sorted candidates with top-k and top-p, by inverse transform in
integers.

Probabilities become integer weights: ``exp(x - max)`` in units of ``2**-40``. Sums of integers do not depend on their
order, so one row, a batch and another algorithm get the same cumulative weights to the last bit, on every device;
floating-point sums do not guarantee that. (Two devices may still differ in the last bit of an exponential, and so of a
logprob.) A token less likely than the likeliest by more than ``2**40`` has weight 0 and is never drawn: in a vocabulary
of 128k, these have less than 1.2e-7 of the probability in total.

Letters: L lines, V vocabulary, W candidates, B tokens in a block, N blocks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dovetail.engine.sampling.random_bits import fraction_of

WEIGHT_BITS = 40
"""The likeliest token weighs ``2**40``; 4M tokens (``2**22``) of that weight still sum to what :func:`fraction_of` takes."""

BLOCK = 128


def compute_weights(scores: Tensor, top: Tensor, temperatures: Tensor, floors: Tensor | None) -> Tensor:
    """Integer weights of tokens.

    Args:
        scores: float32 ``[L, W]``.
        top: float32 ``[L, 1]``, the greatest of each line.
        temperatures: float32 ``[L]``; less than 1e-5 counts as 1e-5.
        floors: int64 ``[L]``, weights below which a token gets none (min-p; Nguyen et al., 2024), or None.

    Returns:
        int64 ``[L, W]``; a line's greatest is ``2**40``. A line that holds NaN gets anything.
    """
    values = (scores - top).div_(temperatures.clamp(min=1e-5)[:, None]).exp_().mul_(2.0**WEIGHT_BITS)
    weights = values.to(torch.int64)
    return weights if floors is None else weights.masked_fill_(weights < floors[:, None], 0)


def draw(weights: Tensor, uniforms: Tensor) -> Tensor:
    """One token of each line, with probability proportional to its weight: first a block of the vocabulary, then a token in it.

    Args:
        weights: int64 ``[L, V]``.
        uniforms: int64 ``[L]`` from :func:`~dovetail.engine.sampling.random_bits.uniform`.

    Returns:
        int64 ``[L]``; never one of weight 0, unless all are.
    """
    lines, vocabulary = weights.shape
    if vocabulary % BLOCK:
        weights = F.pad(weights, (0, BLOCK - vocabulary % BLOCK))
    blocks = weights.view(lines, -1, BLOCK)  # [L, N, B]
    masses = blocks.sum(-1)  # [L, N]
    ends = masses.cumsum(-1)
    target = fraction_of(ends[:, -1], uniforms)[:, None]  # [L, 1], below the total
    # The first block that ends beyond the target. Clamped, since a line of NaN may have sums of any kind.
    block = (ends <= target).sum(-1, keepdim=True).clamp_(max=ends.shape[1] - 1)  # [L, 1]
    rest = target - (ends - masses).gather(1, block)
    inside = blocks.gather(1, block[:, :, None].expand(-1, 1, BLOCK)).squeeze(1).cumsum(-1)  # [L, B]
    token = (inside <= rest).sum(-1).clamp_(max=BLOCK - 1)
    return (block[:, 0] * BLOCK + token).clamp_(max=vocabulary - 1)


def draw_sorted(weights: Tensor, top_k: Tensor, top_p: Tensor, uniforms: Tensor) -> Tensor:
    """The index of one sampled candidate of each line, after top-k (Fan et al., 2018) and top-p (Holtzman et al.,
    2019).

    Args:
        weights: int64 ``[L, W]``, likeliest first; overwritten.
        top_k: int64 ``[L]``, how many may stay.
        top_p: int64 ``[L]``, in units of ``2**-31``: a candidate stays if those before it do not reach this share yet.
            The first always does.
        uniforms: int64 ``[L]``.

    Returns:
        int64 ``[L]``, below W.
    """
    ranks = torch.arange(weights.shape[1], device=weights.device)
    weights.masked_fill_(ranks >= top_k[:, None], 0)
    ends = weights.cumsum(-1)
    limit = fraction_of(ends[:, -1], top_p).clamp_(min=1)
    # What stays is a prefix, so its mass is the greatest of its cumulative weights.
    kept = ends.masked_fill(ends - weights >= limit[:, None], 0).amax(-1)
    return (ends <= fraction_of(kept, uniforms)[:, None]).sum(-1).clamp_(max=weights.shape[1] - 1)
