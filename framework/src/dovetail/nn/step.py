"""The inputs of one forward pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass
class KVIndex:
    """The positions of a step's keys and values in the cache, for the layers of one cache group: those in which a token
    sees the same positions. Both tensors are empty for layers that keep no cache.

    Attributes:
        block_tables: int32 ``[R, B]``: the KV-cache blocks of each request, in order. Entries that are unused, or that
            have left a sliding window, are 0, the null block.
        slot_mapping: int64 ``[T]``: where each token's key and value are written, ``block * block_size + offset``.
        metadata: the attention backend's metadata of this step, made once and shared by all layers of the group.
    """

    block_tables: Tensor
    slot_mapping: Tensor
    metadata: Any = None

    @classmethod
    def empty(cls, requests: int, device: torch.device) -> KVIndex:
        """For layers that keep no cache."""
        return cls(
            torch.zeros(requests, 0, dtype=torch.int32, device=device), torch.zeros(0, dtype=torch.int64, device=device)
        )


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
    """One step of the batch: R requests with T tokens in total; each request's tokens are adjacent.

    Prefill, a chunk of a prefill and decode are one case: a request has any number of new tokens after those that are
    already in its KV cache. All tensors are on the platform's device. Do not read them on the host, because that waits
    for the device.

    Attributes:
        tokens: int64 ``[T]``.
        positions: int64 ``[T]``, counted from 0 within each request.
        query_start: int32 ``[R + 1]``: request ``r`` owns tokens ``query_start[r] : query_start[r + 1]``.
        seq_lens: int32 ``[R]``: tokens of each request after this step, cached and new.
        logits_indices: int64 ``[L]``: the tokens whose logits are computed.
        kv: by cache group, then for the groups of layers that keep no cache.
        max_query_len, max_seq_len: upper bounds of a request's new tokens, and of its length.
        lengths: exact lengths; None in a step that is captured as a graph, whose lengths change from one replay to the
            next within ``max_seq_len``.
        adapters: int64 ``[T]``, the LoRA slot of each token, 0 for none; None where no token of the step has one.
        rope_positions: int64 ``[3, T]``, positions for rotary embeddings with axes; None where they are ``positions`` on
            each, as in every step without images.
        image_indices: int64 ``[N]``, the tokens whose embeddings are of an image; None where no token of the step has one.
        image_rows: ``[N, C]``, those embeddings, in the dtype of activations.
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
    rope_positions: Tensor | None = None
    image_indices: Tensor | None = None
    image_rows: Tensor | None = None

    def merge_images(self, x: Tensor) -> Tensor:
        """Embeddings of the step's tokens ``[T, C]``, with those of images in their places. Of a step without images, x
        itself.
        """
        if self.image_indices is None or self.image_rows is None:
            return x
        return x.index_copy(0, self.image_indices, self.image_rows.to(x.dtype))
