"""What one forward pass works on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass
class KVIndex:
    """Where the layers of one cache group find a step's keys and values. Layers of equal kind and window are a group.

    Attributes:
        block_tables: int32 ``[R, B]``: the KV-cache blocks of each request, in order. Entries that are unused, or that a sliding window has
            left behind, are 0, a block that no request owns.
        slot_mapping: int64 ``[T]``: where each token's key and value go, ``block * block_size + offset``.
        metadata: what the attention backend made of the step for this group, once for all its layers.
    """

    block_tables: Tensor
    slot_mapping: Tensor
    metadata: Any = None


@dataclass
class HostLengths:
    """The exact lengths of a step, on the host.

    Attributes:
        query: new tokens of each request.
        total: tokens of each request after the step, cached and new.
    """

    query: list[int]
    total: list[int]


@dataclass
class Step:
    """One step of the batch: R requests contribute T tokens in all, each request's tokens side by side.

    Prefill, a chunk of a prefill and decode are one case: a request brings any number of new tokens behind those that are already in its
    KV cache. All tensors live on the platform's device, and nothing may read them on the host: that would wait for the device.

    Attributes:
        tokens: int64 ``[T]``.
        positions: int64 ``[T]``, counted from 0 within each request.
        query_start: int32 ``[R + 1]``: request ``r`` owns tokens ``query_start[r] : query_start[r + 1]``.
        seq_lens: int32 ``[R]``: tokens of each request after this step, cached and new.
        logits_indices: int64 ``[L]``: the tokens whose logits are wanted.
        kv: by cache group.
        max_query_len, max_seq_len: no request brings more new tokens, or is longer, than these.
        lengths: exact lengths; None in a step that is captured as a graph, whose lengths change from one replay to the next within
            ``max_seq_len``.
        adapters: int64 ``[T]``, the LoRA slot of each token, 0 for none; None where no token of the step has one.
    """

    tokens: Tensor
    positions: Tensor
    query_start: Tensor
    seq_lens: Tensor
    logits_indices: Tensor
    kv: tuple[KVIndex, ...]
    max_query_len: int
    max_seq_len: int
    lengths: HostLengths | None = None
    adapters: Tensor | None = None
