"""Attention over gathered keys and values: as one fused kernel, and as plain products.

Letters: R requests, T tokens of each, H query heads, K key-value heads, G = H / K, D head dimension, V channels of a value,
S gathered keys of each.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dovetail.nn import AttentionSpec
from dovetail_backends_cuda.slices import Slice, WholeSlice


def flash_attention(q: Tensor, k: Tensor, v: Tensor, part: Slice, spec: AttentionSpec) -> Tensor:
    """torch's FlashAttention 2, for bfloat16 and float16 and head sizes that are multiples of 8 up to 256.

    It aligns the causal triangle with the last key of each request, shares a KV head among its query heads, reads
    nothing after the filled keys, and splits long sequences of keys if there are few queries.

    Args:
        q: ``[R * T, H, D]``, or the number of tokens of each request that ``part.query_start`` says.
        k, v: ``[S of all requests, K, D]``, with any stride between tokens.

    Returns:
        As q.
    """
    out: Tensor = torch.ops.aten._flash_attention_forward(
        q,
        k,
        v,
        part.query_start,
        part.key_start,
        part.max_query,
        part.max_keys,
        0.0,
        True,
        False,
        scale=spec.scale,
        window_size_left=None if part.window is None else part.window - 1,
        window_size_right=None if part.window is None else 0,
        seqused_k=part.keys,
    )[0]
    return out


def plain_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    part: Slice,
    spec: AttentionSpec,
    sinks: Tensor | None = None,
    slopes: Tensor | None = None,
) -> Tensor:
    """Products, a mask and a softmax in float32, for any head size on any device.

    Args:
        q: ``[R * T, H, D]``.
        k, v: ``[R * S, K, D]`` and ``[R * S, K, V]``.
        sinks, slopes: ``[H]``, for a spec with them.

    Returns:
        ``[R * T, H, V]`` in q's dtype.
    """
    requests = len(part.keys)
    queries = q.float().unflatten(1, (spec.num_kv_heads, -1)).unflatten(0, (requests, -1))  # [R, T, K, G, D]
    keys, values = (x.float().unflatten(0, (requests, -1)) for x in (k, v))  # [R, S, K, D], [R, S, K, V]
    tokens = queries.shape[1]
    key = torch.arange(keys.shape[1], device=q.device)
    own = part.keys[:, None] - tokens + torch.arange(tokens, device=q.device)  # [R, T]
    seen = key <= own[..., None]  # [R, T, S]
    if part.window is not None:
        seen &= key > own[..., None] - part.window
    if part.first is not None:
        assert spec.chunk is not None
        position = own + part.first[:, None]
        seen &= key >= (position // spec.chunk * spec.chunk - part.first[:, None])[..., None]
    # Stale values after the filled keys may be NaN, and 0 times NaN is NaN.
    values = values.masked_fill((key >= part.keys[:, None])[..., None, None], 0)
    distances = None if slopes is None else own[..., None] - key
    return _attend(queries, keys, values, seen, distances, spec, sinks, slopes).to(q.dtype)


def whole_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    part: WholeSlice,
    spec: AttentionSpec,
    sinks: Tensor | None = None,
    slopes: Tensor | None = None,
) -> Tensor:
    """The same for tokens of one request, with all of its keys and values, of which each sees those on both sides.

    Args:
        q: ``[T, H, D]``.
        k, v: ``[S, K, D]`` and ``[S, K, V]``.
    """
    queries = q.float().unflatten(1, (spec.num_kv_heads, -1))[None]
    key = torch.arange(len(k), device=q.device)
    own = torch.arange(part.tokens.start, part.tokens.stop, device=q.device)[:, None] - part.request.start
    seen = torch.ones(len(q), len(k), dtype=torch.bool, device=q.device)
    if spec.window is not None:
        seen = (key - own).abs() < spec.window
    distances = None if slopes is None else (key - own).abs()[None]
    return _attend(queries, k.float()[None], v.float()[None], seen[None], distances, spec, sinks, slopes).to(q.dtype)


def _attend(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    seen: Tensor,
    distances: Tensor | None,
    spec: AttentionSpec,
    sinks: Tensor | None,
    slopes: Tensor | None,
) -> Tensor:
    """``[R, T, K, G, D]`` over ``[R, S, K, D]`` and ``[R, S, K, V]``, where seen ``[R, T, S]``: ``[R * T, H, V]``.

    Args:
        distances: int ``[R, T, S]``, for slopes.
    """
    scores = torch.einsum("rtkgd,rskd->rkgts", queries, keys) * spec.scale
    if spec.softcap is not None:
        scores = spec.softcap * (scores / spec.softcap).tanh()
    if slopes is not None:
        assert distances is not None
        scores -= slopes.view(1, spec.num_kv_heads, -1, 1, 1) * distances[:, None, None]
    scores = scores.masked_fill(~seen[:, None, None], float("-inf"))
    if sinks is not None:
        own = sinks.float().view(1, spec.num_kv_heads, -1, 1, 1).expand(*scores.shape[:-1], 1)
        scores = torch.cat([scores, own], -1)
    weights = scores.softmax(-1)[..., : keys.shape[1]]
    out = torch.einsum("rkgts,rskv->rtkgv", weights, values)
    return out.reshape(-1, spec.num_heads, spec.values)
