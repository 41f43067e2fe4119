"""Attention layers, and the interface of attention backends.

Letters: T tokens, H query heads, K key-value heads, D head dimension, C channels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dovetail.api.cards import AttentionKind
from dovetail.nn.step import KVIndex, Step


@dataclass(frozen=True)
class AttentionSpec:
    """The attention that one layer requires of the backend. Layers with the same kind and window share block tables.

    Attributes:
        scale: on the products of queries and keys.
        window: a token sees itself and the ``window - 1`` tokens before it; None for all before it.
        kind: as on cards; ``sliding`` exactly when there is a window.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    window: int | None = None

    @property
    def kind(self) -> AttentionKind:
        return "full" if self.window is None else "sliding"


class AttentionBackend(ABC):
    """Owns the KV cache's layout, the metadata of a step, and the kernels.

    Args:
        dtype: of queries and of the result.
        kv_dtype: of the cache.
        block_size: tokens in a block.

    Attributes:
        batch_invariant: a token's result is bitwise the same whatever else is in the batch, and however its request is
            divided into chunks.
    """

    batch_invariant: bool = False

    def __init__(self, *, device: torch.device, dtype: torch.dtype, kv_dtype: torch.dtype, block_size: int) -> None:
        self.device = device
        self.dtype = dtype
        self.kv_dtype = kv_dtype
        self.block_size = block_size

    def block_bytes(self, spec: AttentionSpec) -> int:
        """Bytes of one block of one layer's cache."""
        return 2 * self.block_size * spec.num_kv_heads * spec.head_dim * self.kv_dtype.itemsize

    @abstractmethod
    def allocate(self, spec: AttentionSpec, blocks: int) -> Any:
        """Allocate a layer's cache of this many blocks. The engine passes it to :meth:`forward` and does not read
        it.
        """

    def workspace_bytes(self, spec: AttentionSpec, tokens: int, length: int) -> int:
        """Bytes that a step of this many new tokens needs besides q, k, v and the result, if no request is longer
        than ``length``. By default a float32 score for each new token and key.
        """
        return 4 * tokens * length

    def capture_lengths(self, max_len: int) -> tuple[int, ...]:
        """Upper bounds of the sequence length, ascending and ending in ``max_len``, for each of which a separate
        decode graph is captured. A kernel whose work depends on the lengths on the device only needs the last; by
        default they double from 256.
        """
        bounds = []
        bound = 256
        while bound < max_len:
            bounds.append(bound)
            bound *= 2
        return (*bounds, max_len)

    @abstractmethod
    def prepare(self, step: Step, index: KVIndex, specs: frozenset[AttentionSpec]) -> Any:
        """Build a step's metadata for one group's layers. Called once, before the first layer; stored as
        ``index.metadata``.

        If ``step.lengths`` is None, the step is being captured: only tensors may be used, in shapes that depend on
        ``step.max_query_len`` and ``step.max_seq_len``.
        """

    @abstractmethod
    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, cache: Any, step: Step, index: KVIndex, spec: AttentionSpec
    ) -> Tensor:
        """Write the new keys and values of *all* requests into the cache, then attend: each token sees its request's
        tokens up to itself. Requests of one step may share blocks, so one request may read what another has written in
        the same step.

        Args:
            q: ``[T, H, D]``.
            k, v: ``[T, K, D]``.
            cache: of this layer, from :meth:`allocate`; its slots ``index.slot_mapping`` are overwritten.
            index: of the layer's group, with :attr:`KVIndex.metadata`.

        Returns:
            ``[T, H, D]`` in q's dtype.
        """


class Attention(nn.Module):
    """One layer's attention, with its KV cache.

    Attributes:
        group: index of its cache group in :attr:`Step.kv`.
        cache: as the backend allocated it. The runner sets both once memory has been planned.
    """

    def __init__(self, spec: AttentionSpec, backend: AttentionBackend) -> None:
        super().__init__()
        self.spec = spec
        self.backend = backend
        self.group = 0
        self.cache: Any = None

    def forward(self, q: Tensor, k: Tensor, v: Tensor, step: Step) -> Tensor:
        return self.backend.forward(q, k, v, self.cache, step, step.kv[self.group], self.spec)
