"""Processed scores for logprobs: the scores after all filters, as used for sampling (``--logprobs-mode processed_*``).

Letters: L lines, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dovetail.engine.sampling import tables as columns
from dovetail.engine.sampling.draw import compute_weights
from dovetail.engine.sampling.random_bits import BITS, fraction_of
from dovetail.engine.sampling.stable_topk import stable_topk

CHUNK = 16
"""Lines that are processed at a time. Sorting and weighting a vocabulary of 128k takes about 50 bytes per token."""


def apply_draw(scores: Tensor, floats: Tensor, numbers: Tensor, *, has_filters: bool) -> Tensor:
    """Scores after temperature, min-p, top-k and top-p; filtered tokens have minus infinity. Greedy lines are
    unchanged.

    Args:
        scores: ``[L, V]``, after bias, penalties and edits; not changed.
        floats, numbers: the lines' rows of the tables.
        has_filters: some line has min-p, top-k or top-p.

    Returns:
        float32 ``[L, V]``.
    """
    temperatures = floats[:, columns.TEMPERATURE]
    draws = temperatures > 0
    processed = scores.float() / temperatures.clamp(min=1e-5).where(draws, 1.0)[:, None]
    if not has_filters:
        return processed
    parts = zip(*(t.split(CHUNK) for t in (scores, temperatures, numbers, draws)), strict=True)
    left_out = torch.cat([_find_left_out(*part) for part in parts])
    return processed.masked_fill_(left_out, -torch.inf)


def _find_left_out(scores: Tensor, temperatures: Tensor, numbers: Tensor, draws: Tensor) -> Tensor:
    """Tokens that the filters exclude, bool ``[L, V]``; computed with the same integers as in
    :func:`~dovetail.engine.sampling.draw.draw_sorted`.
    """
    values, ids = stable_topk(scores.float(), scores.shape[1])
    floors, top_k, top_p = (numbers[:, column, None] for column in (columns.MIN_P, columns.TOP_K, columns.TOP_P))
    weights = compute_weights(values, values[:, :1], temperatures, None)
    out = weights < floors
    out |= torch.arange(weights.shape[1], device=scores.device) >= top_k
    weights.masked_fill_(out, 0)
    ends = weights.cumsum(-1)
    limit = fraction_of(ends[:, -1], top_p[:, 0]).clamp_(min=1)[:, None]
    # Without top-p, tokens too unlikely to weigh anything stay.
    out |= (ends - weights >= limit) & (top_p < 1 << BITS)
    out &= draws[:, None]
    return torch.zeros_like(out).scatter_(1, ids, out)
