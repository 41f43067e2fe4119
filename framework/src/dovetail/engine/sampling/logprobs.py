"""Log-probabilities of chosen tokens and of the likeliest ones.

Letters: T lines, V vocabulary, k likeliest.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dovetail.engine.sampling.draw import WEIGHT_BITS, compute_weights
from dovetail.engine.sampling.stable_topk import stable_topk

CHUNK = 64
"""Lines that are processed at a time. A prompt's logprobs may have thousands of lines, and the code below makes several
copies of them.
"""


class Logprobs(NamedTuple):
    """Logprobs of some lines.

    Attributes:
        logprobs: float32 ``[T]``, of the chosen tokens.
        ranks: int64 ``[T]``, 1 + how many tokens have a greater logit.
        top_logprobs: float32 ``[T, k]``, likeliest first; by id among equals.
        top_ids: int64 ``[T, k]``.
    """

    logprobs: Tensor
    ranks: Tensor
    top_logprobs: Tensor
    top_ids: Tensor


def compute_logprobs(logits: Tensor, targets: Tensor, k: int, *, normalize: bool = True) -> Logprobs:
    """Logprobs of one token of each line, and of the likeliest.

    Args:
        logits: ``[T, V]``, any float dtype.
        targets: int64 ``[T]``.
        k: how many of the likeliest; 0 for none, more than V for V.
        normalize: give logprobs; otherwise the logits themselves.
    """
    parts = [_some(some, of, k, normalize) for some, of in zip(logits.split(CHUNK), targets.split(CHUNK), strict=True)]
    return parts[0] if len(parts) == 1 else Logprobs(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _some(logits: Tensor, targets: Tensor, k: int, normalize: bool) -> Logprobs:
    logits = logits.float()
    chosen = targets[:, None]
    value = logits.gather(1, chosen)
    ranks = (logits > value).sum(-1) + 1
    if k:
        values, ids = stable_topk(logits, min(k, logits.shape[1]))
    else:
        values, ids = value[:, :0], chosen[:, :0]
    if not normalize:
        return Logprobs(value[:, 0], ranks, values, ids)
    top = logits.amax(-1, keepdim=True)
    # Not log_softmax, whose order of additions follows a line's place in memory: logprobs are the same alone and in a batch, as tokens are.
    total = compute_weights(logits, top, torch.ones_like(top[:, 0]), None).sum(-1, keepdim=True)
    norm = total.float().mul_(2.0**-WEIGHT_BITS).log_()
    return Logprobs((value - top - norm)[:, 0], ranks, values - top - norm, ids)
