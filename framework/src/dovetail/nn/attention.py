"""Attention layers, and the interface of attention backends.

Letters: T tokens, H query heads, K key-value heads, D head dimension, V channels of a value.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from dovetail.api.cards import APART, AttentionFeature
from dovetail.nn.rotary import Rope
from dovetail.nn.step import KVIndex, Step


@dataclass(frozen=True)
class AttentionSpec:
    """The attention that one layer requires of the backend. Layers that see the same positions share block tables.

    Attributes:
        num_heads, num_kv_heads: of this rank.
        head_dim: of queries and keys.
        scale: on the products of queries and keys.
        window: a token sees itself and the ``window - 1`` tokens before it; None for all before it. If not ``causal``,
            as many after it, too.
        chunk: positions are divided in chunks of this many tokens, and a token sees those of its own chunk up to itself.
        softcap: scores are ``softcap * tanh(score / softcap)`` before the softmax; None for unbounded ones.
        sinks: the softmax of each head has one more score, which is learned and has no value.
        alibi_slopes: of each head of this rank; a score falls by ``slope * distance`` in tokens, after ``scale`` and
            ``softcap`` (ALiBi, :func:`dovetail.api.alibi_slopes`). None for no such biases.
        causal: a token sees those before it and itself. Otherwise those after it, too: each request is computed whole in
            one step, and no cache is kept.
        value_dim: channels of a value where they are not ``head_dim``.
        latent: one row of ``head_dim`` channels serves all heads as key, and its first ``value_dim`` channels as value
            (multi-head latent attention, arXiv:2405.04434, with the projections absorbed); ``num_kv_heads`` is 1.
        shared_cache: the layer has no keys and values of its own, and reads those that another layer, which sees the
            same positions, wrote in this step and before.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    window: int | None = None
    chunk: int | None = None
    softcap: float | None = None
    sinks: bool = False
    alibi_slopes: tuple[float, ...] | None = None
    causal: bool = True
    value_dim: int | None = None
    latent: bool = False
    shared_cache: bool = False

    def __post_init__(self) -> None:
        for apart in APART:
            assert not self.features >= apart, f"no layer is {' and '.join(sorted(apart))}"
        if self.alibi_slopes is not None:
            assert len(self.alibi_slopes) == self.num_heads, "each head has a slope"
        if self.latent:
            assert self.num_kv_heads == 1, "all heads share a latent row"
            assert self.values <= self.head_dim, "the values are a part of a latent row"

    @cached_property
    def features(self) -> frozenset[AttentionFeature]:
        """What it asks for beside causal attention over everything, as cards claim it."""
        present: dict[AttentionFeature, bool] = {
            "sliding": self.window is not None,
            "chunked": self.chunk is not None,
            "softcap": self.softcap is not None,
            "sinks": self.sinks,
            "alibi": self.alibi_slopes is not None,
            "bidirectional": not self.causal,
            "value_dim": self.value_dim not in (None, self.head_dim) and not self.latent,
            "latent": self.latent,
            "shared_cache": self.shared_cache,
        }
        return frozenset(feature for feature, there in present.items() if there)

    @property
    def values(self) -> int:
        """Channels of a value."""
        return self.head_dim if self.value_dim is None else self.value_dim

    @property
    def sight(self) -> tuple[int | None, int | None, bool]:
        """Which positions a token sees: window, chunk, causal. Layers with the same sight share a step's metadata."""
        return self.window, self.chunk, self.causal

    def visible(self, position: int, length: int) -> range:
        """The positions that a token at ``position`` sees, in a request of ``length`` tokens.

        Args:
            length: cached and new ones; only those after ``position`` matter, and only if not ``causal``.
        """
        first = 0
        if self.window is not None:
            first = max(0, position - self.window + 1)
        if self.chunk is not None:
            first = position // self.chunk * self.chunk
        if self.causal:
            return range(first, position + 1)
        return range(first, length if self.window is None else min(length, position + self.window))


@dataclass(frozen=True)
class Rotation:
    """A rotary embedding that has yet to be applied: ``rotation(x)`` does it.

    Attributes:
        rope, interleaved: as in :func:`dovetail.nn.ops.rope`.
        rotate: the platform's implementation of that.
    """

    rope: Rope
    interleaved: bool
    rotate: Callable[..., Tensor]

    def __call__(self, x: Tensor) -> Tensor:
        return self.rotate(x, self.rope.cos, self.rope.sin, self.interleaved)


class AttentionBackend(ABC):
    """Owns the KV cache's layout, the metadata of a step, and the kernels.

    Args:
        dtype: of queries and of the result.
        kv_dtype: of the cache.
        block_size: tokens in a block.

    """

    def __init__(self, *, device: torch.device, dtype: torch.dtype, kv_dtype: torch.dtype, block_size: int) -> None:
        self.device = device
        self.dtype = dtype
        self.kv_dtype = kv_dtype
        self.block_size = block_size
        self._slopes: dict[tuple[float, ...], Tensor] = {}

    def alibi_slopes(self, spec: AttentionSpec) -> Tensor | None:
        """The slopes of a spec with ALiBi on the device, float32 ``[H]``, or None. :class:`Attention` asks for them first,
        so that a graph that is captured copies nothing from the host.
        """
        if (slopes := spec.alibi_slopes) is None:
            return None
        if slopes not in self._slopes:
            self._slopes[slopes] = torch.tensor(slopes, dtype=torch.float32, device=self.device)
        return self._slopes[slopes]

    def is_batch_invariant(self, spec: AttentionSpec) -> bool:
        """Whether a token's result in such a layer is bitwise the same whatever else is in the batch, and however its
        request is divided into chunks. The conformance kit tests it where it is claimed.
        """
        return False

    def block_bytes(self, spec: AttentionSpec) -> int:
        """Bytes of one block of one layer's cache; 0 for a layer that has none of its own."""
        if spec.shared_cache or not spec.causal:
            return 0
        row = spec.head_dim if spec.latent else spec.head_dim + spec.values
        return self.block_size * spec.num_kv_heads * row * self.kv_dtype.itemsize

    @abstractmethod
    def allocate(self, spec: AttentionSpec, blocks: int) -> Any:
        """Allocate a layer's cache of this many blocks. The engine passes it to :meth:`forward` and does not read
        it. Not called for a layer that has none of its own.
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

        Args:
            specs: of the group's layers, which have one :attr:`AttentionSpec.sight`.

        If ``step.lengths`` is None, the step is being captured: only tensors may be used, in shapes that depend on
        ``step.max_query_len`` and ``step.max_seq_len``. No request of such a step reads what another one writes in it.
        """

    @abstractmethod
    def forward(
        self,
        q: Tensor,
        k: Tensor | None,
        v: Tensor | None,
        cache: Any,
        step: Step,
        index: KVIndex,
        spec: AttentionSpec,
        sinks: Tensor | None = None,
    ) -> Tensor:
        """Write the new keys and values of *all* requests into the cache, then attend: each token over what it sees of
        its request. Requests of one step may share blocks, so one request may read what another has written in the
        same step.

        Args:
            q: ``[T, H, D]``.
            k, v: ``[T, K, D]`` and ``[T, K, V]``. Both are None for a layer with ``shared_cache``; v is None for a
                ``latent`` one.
            cache: of this layer, from :meth:`allocate`; its slots ``index.slot_mapping`` are overwritten. That of the
                other layer for ``shared_cache``, None for a layer that keeps none.
            index: of the layer's group, with :attr:`KVIndex.metadata`.
            sinks: float32 ``[H]``, for a spec with them.

        Returns:
            ``[T, H, V]`` in q's dtype.
        """

    def forward_rotated(
        self,
        qk: Tensor,
        v: Tensor,
        rotation: Rotation,
        cache: Any,
        step: Step,
        index: KVIndex,
        spec: AttentionSpec,
        sinks: Tensor | None = None,
    ) -> Tensor:
        """:meth:`forward` with queries and keys that have yet to be rotated. By default the platform's operation does that first. A
        backend may do it while it writes the cache, which saves a kernel.

        Args:
            qk: ``[T, H + K, D]``, queries, then keys.
            v: ``[T, K, D]``.

        Returns:
            ``[T, H, D]`` in qk's dtype.
        """
        qk = rotation(qk)
        heads = spec.num_heads
        return self.forward(qk[:, :heads], qk[:, heads:], v, cache, step, index, spec, sinks)


class Attention(nn.Module):
    """One layer's attention, with its KV cache.

    Args:
        source: the layer whose cache this one reads, for ``shared_cache``. It sees the same positions, and was made
            before.

    Attributes:
        group: index of its cache group in :attr:`Step.kv`.
        cache: as the backend allocated it. The runner sets both once memory has been planned.
        sinks: float32 ``[H]``, or None.
    """

    spec: AttentionSpec

    def __init__(self, spec: AttentionSpec, backend: AttentionBackend, source: Attention | None = None) -> None:
        super().__init__()
        assert spec.shared_cache == (source is not None), "a layer that reads another's cache names that layer"
        if source is not None:
            assert not source.spec.shared_cache, "the source has a cache of its own"
            assert _cache_of(spec) == _cache_of(source.spec), (
                f"a layer that reads another's cache sees and stores the same, found {_cache_of(spec)} and {_cache_of(source.spec)}"
            )
        self.spec = spec
        self.backend = backend
        if spec.alibi_slopes is not None:
            backend.alibi_slopes(spec)
        # In a list, so that torch does not register the other layer a second time.
        self._source = [source] if source is not None else []
        self.group = 0
        self.cache: Any = None
        self.sinks: Tensor | None = None

    @property
    def source(self) -> Attention | None:
        return self._source[0] if self._source else None

    def forward(
        self, q: Tensor, k: Tensor | None, v: Tensor | None, step: Step, rotation: Rotation | None = None
    ) -> Tensor:
        """
        Args:
            q, k, v: as in :meth:`AttentionBackend.forward`. With a rotation, queries and keys are yet to be rotated, and are side by side in
                q ``[T, H + K, D]``; k is None.
        """
        cache, index = self.cache if self.source is None else self.source.cache, step.kv[self.group]
        if rotation is None:
            return self.backend.forward(q, k, v, cache, step, index, self.spec, self.sinks)
        assert k is None, "keys that have yet to be rotated come with the queries"
        assert v is not None, "a layer whose keys are rotated has values"
        return self.backend.forward_rotated(q, v, rotation, cache, step, index, self.spec, self.sinks)


def _cache_of(spec: AttentionSpec) -> tuple[Any, ...]:
    return spec.sight, spec.num_kv_heads, spec.head_dim, spec.values, spec.latent


@dataclass
class LayerGroup:
    """Layers that share block tables and a step's metadata, because a token sees the same positions in all of them.

    Attributes:
        spec: of its first layer, for what they have in common.
        layers: in order.
    """

    spec: AttentionSpec
    layers: list[Attention] = field(default_factory=list)

    @property
    def specs(self) -> frozenset[AttentionSpec]:
        return frozenset(layer.spec for layer in self.layers)


def group_layers(layers: Sequence[Attention]) -> list[LayerGroup]:
    """Group a model's attention layers, those with a cache first, and number them: :attr:`Attention.group` is the index
    of the layer's group. A layer that reads another's cache is in that one's group, because it sees the same.
    """
    groups: dict[tuple[Any, ...], LayerGroup] = {}
    for layer in sorted(layers, key=lambda layer: not layer.spec.causal):
        group = groups.setdefault(layer.spec.sight, LayerGroup(layer.spec))
        group.layers.append(layer)
        layer.group = list(groups).index(layer.spec.sight)
    return list(groups.values())
