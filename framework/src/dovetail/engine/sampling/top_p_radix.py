"""Top-k and top-p over the whole vocabulary without sorting it, for devices that sort slowly; ``draw`` has both on sorted candidates.

Both need the first token, in order of likelihood, at which a sum passes a limit. That token is found by radix
selection: one histogram of integer weights over the leading bits of the scores, one over the next bits of the tokens
that share them, one over the rest. Integers make the sums exact, so the result is that of a stable sort, bit for bit,
and does not depend on a GPU's order of additions. With top-p 0.9 and 49,152 tokens, one CPU thread draws 64 lines in 70
ms; sorting them alone takes 215. On a GPU, sorting is faster, because most tokens share a few counters and threads wait
for each other there: an H200 draws 64 lines of 128,256 in 1.7 ms by sorting, and in 3.3 by histograms. The sampler's
tables say which method is used.

Letters: L lines, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dovetail.engine.sampling.random_bits import fraction_of

DIGITS = ((21, 11), (10, 11), (0, 10))
"""Shift and width of the parts of a 32-bit key. 2,048 counters of 8 bytes fit in a core's first cache."""


def build_order_keys(scores: Tensor) -> Tensor:
    """Numbers from 0 to ``2**32 - 1`` that ascend as scores descend.

    Args:
        scores: float32 ``[L, V]``.

    Returns:
        int64 ``[L, V]``.
    """
    # The bits of a float order as integers once those of negative ones are turned around. + 0.0 makes -0 a 0.
    bits = (scores + 0.0).view(torch.int32)
    return ((bits >> 31).bitwise_and_(0x7FFFFFFF).bitwise_xor_(bits).to(torch.int64)).neg_().add_(2**31 - 1)


def find_crossing(keys: Tensor, amounts: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Where the running sum first exceeds a target, going through tokens by ascending key.

    Args:
        keys, amounts: int64 ``[L, V]``.
        targets: int64 ``[L]``, 0 or more, and less than the line's sum.

    Returns:
        The key ``[L]`` at which it does, and the sum ``[L]`` over all lesser keys.
    """
    found = torch.zeros_like(targets)[:, None]
    before = torch.zeros_like(targets)[:, None]
    for shift, bits in DIGITS:
        parts = keys >> shift
        some = amounts if shift == DIGITS[0][0] else torch.where((parts >> bits) == found, amounts, 0)
        histogram = amounts.new_zeros(len(amounts), 1 << bits)
        histogram.scatter_add_(1, parts.bitwise_and_((1 << bits) - 1), some)
        ends = histogram.cumsum(-1) + before
        digit = (ends <= targets[:, None]).sum(-1, keepdim=True).clamp_(max=(1 << bits) - 1)
        before = (ends - histogram).gather(1, digit)
        found = (found << bits) | digit
    return found[:, 0], before[:, 0]


def draw_filtered(scores: Tensor, weights: Tensor, top_k: Tensor | None, top_p: Tensor, uniforms: Tensor) -> Tensor:
    """One token of each line, after top-k (Fan et al., 2018) and top-p (Holtzman et al., 2019).

    Args:
        scores: float32 ``[L, V]``.
        weights: int64 ``[L, V]``; equal scores have equal weights. Overwritten.
        top_k: int64 ``[L]``, how many tokens may stay, at least 1; or None for all.
        top_p: int64 ``[L]``, in units of ``2**-31``: a token stays if those before it do not reach this share yet. The first always does.
        uniforms: int64 ``[L]``.

    Returns:
        int64 ``[L]``.
    """
    keys = build_order_keys(scores)
    if top_k is not None:
        last = top_k.clamp(max=keys.shape[1]) - 1
        key, before = find_crossing(keys, torch.ones_like(keys), last)
        equal = keys == key[:, None]
        weights.masked_fill_((keys > key[:, None]) | (equal & (equal.cumsum(-1) > (last - before + 1)[:, None])), 0)
    limit = fraction_of(weights.sum(-1), top_p).clamp_(min=1) - 1
    key, before = find_crossing(keys, weights, limit)
    weight = _weight_at(keys, weights, key)
    kept = before + ((limit - before) // weight + 1) * weight
    target = fraction_of(kept, uniforms)
    key, before = find_crossing(keys, weights, target)
    place = (target - before) // _weight_at(keys, weights, key)  # among the tokens with this key, by id
    return ((keys == key[:, None]).cumsum(-1) <= place[:, None]).sum(-1).clamp_(max=keys.shape[1] - 1)


def _weight_at(keys: Tensor, weights: Tensor, key: Tensor) -> Tensor:
    # At least 1: a line of NaN may have weights of any kind, and must not divide by 0.
    return torch.where(keys == key[:, None], weights, 0).amax(-1).clamp_(min=1)
