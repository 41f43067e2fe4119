"""The reference attention and the reference platform: slow and simple; faster ones are compared with them.

Letters: T tokens, H query heads, K key-value heads, D head dimension, V channels of a value, S tokens that a query sees.
"""

from __future__ import annotations

import os
from itertools import pairwise

import torch
from torch import Tensor

from dovetail.api.cards import AttentionFeature
from dovetail.nn import AttentionBackend, AttentionSpec, KVIndex, Memory, Platform, Step


class ReferenceAttention(AttentionBackend):
    """Attention one request and one token at a time, in float64.

    Its cache starts as NaN, so that reading a slot before it was written is noticed in every result.

    Attributes:
        features: supported ones; a subclass that adds one overrides what it changes.
        compute_dtype: dtype in which everything is computed.
    """

    features: tuple[AttentionFeature, ...] = (
        "sliding",
        "chunked",
        "softcap",
        "sinks",
        "alibi",
        "bidirectional",
        "value_dim",
        "latent",
        "shared_cache",
    )
    compute_dtype = torch.float64

    def allocate(self, spec: AttentionSpec, blocks: int) -> tuple[Tensor, ...]:
        """Keys and values, or one tensor of latent rows."""
        sizes = (spec.head_dim,) if spec.latent else (spec.head_dim, spec.values)
        return tuple(
            torch.full(
                (blocks * self.block_size, spec.num_kv_heads, size),
                float("nan"),
                dtype=self.kv_dtype,
                device=self.device,
            )
            for size in sizes
        )

    def prepare(self, step: Step, index: KVIndex, specs: frozenset[AttentionSpec]) -> None:
        for spec in specs:
            unknown = spec.features - set(self.features)
            assert not unknown, f"the reference does {', '.join(self.features)} attention, not {', '.join(unknown)}"

    def forward(
        self,
        q: Tensor,
        k: Tensor | None,
        v: Tensor | None,
        cache: tuple[Tensor, ...] | None,
        step: Step,
        index: KVIndex,
        spec: AttentionSpec,
        sinks: Tensor | None = None,
    ) -> Tensor:
        if cache is not None:
            self.write(k, v, cache, index.slot_mapping, spec)
        out = q.new_empty(*q.shape[:2], spec.values)
        starts = step.query_start.tolist()
        for request, (start, stop) in enumerate(pairwise(starts)):
            length = int(step.seq_lens[request])
            held: tuple[Tensor, ...]
            if cache is None:
                assert k is not None
                assert v is not None
                assert stop - start == length, "without a cache, a request is computed whole"
                held, slots = (k, v), torch.arange(start, stop, device=self.device)
            else:
                held, slots = cache, self.slots(index.block_tables[request], length)
            # Of each token, also of those that none of the step's tokens sees: [length, H, D] and [length, H, V].
            taken = [_as_bytes(x)[slots].view(x.dtype).to(self.compute_dtype) for x in held]
            keys, values = taken if len(taken) == 2 else (taken[0], taken[0][..., : spec.values])
            ratio = spec.num_heads // spec.num_kv_heads
            keys, values = keys.repeat_interleave(ratio, 1), values.repeat_interleave(ratio, 1)
            for token in range(start, stop):
                position = int(step.positions[token])
                seen = self.visible(spec, position, length)
                distances = (torch.arange(seen.start, seen.stop, device=self.device) - position).abs()
                query = q[token].to(self.compute_dtype)
                out[token] = self.attend(query, keys[seen], values[seen], distances, spec, sinks)
        return out

    def write(
        self, k: Tensor | None, v: Tensor | None, cache: tuple[Tensor, ...], slots: Tensor, spec: AttentionSpec
    ) -> None:
        """Store the step's keys and values, as far as the layer has any."""
        assert (k is None) == spec.shared_cache
        assert (v is None) == (spec.shared_cache or spec.latent)
        for cached, new in zip(cache, (k, v), strict=False):
            if new is not None:
                _as_bytes(cached)[slots] = _as_bytes(new.to(self.kv_dtype))

    def slots(self, table: Tensor, length: int) -> Tensor:
        """Where the first ``length`` tokens of a request with this block table are: ``[length]``."""
        index = torch.arange(length, device=self.device)
        return table.long()[index // self.block_size] * self.block_size + index % self.block_size

    def visible(self, spec: AttentionSpec, position: int, length: int) -> slice:
        """The positions that a token at ``position`` sees of a request of this length."""
        seen = spec.visible(position, length)
        return slice(seen.start, seen.stop)

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, distances: Tensor, spec: AttentionSpec, sinks: Tensor | None
    ) -> Tensor:
        """One token's queries ``[H, D]`` over the keys ``[S, H, D]`` and values ``[S, H, V]`` that it sees, which are so
        many tokens away (int64 ``[S]``): ``[H, V]``.
        """
        scores = torch.einsum("hd,shd->sh", q, k) * spec.scale
        if spec.softcap is not None:
            scores = spec.softcap * (scores / spec.softcap).tanh()
        if (slopes := self.alibi_slopes(spec)) is not None:
            scores = scores - slopes.to(scores) * distances[:, None]
        assert (sinks is not None) == spec.sinks
        if sinks is not None:  # one more score in each softmax, whose value is nothing
            scores = torch.cat([scores, sinks.to(scores)[None]])
        weights = scores.softmax(0)[: len(k)]
        return torch.einsum("sh,shv->hv", weights, v)


def _as_bytes(data: Tensor) -> Tensor:
    """A view as bytes, because torch cannot index 8-bit floating-point numbers."""
    return data.view(torch.uint8) if data.dtype.itemsize == 1 else data


class ReferencePlatform(Platform):
    """The host's processor, without operations of its own."""

    def __init__(self) -> None:
        self.device = torch.device("cpu")

    def memory(self) -> Memory:
        page = os.sysconf("SC_PAGE_SIZE")
        return Memory(total=page * os.sysconf("SC_PHYS_PAGES"), free=page * os.sysconf("SC_AVPHYS_PAGES"))

    def kv_cache_bytes(self, utilization: float, reserved: int) -> int:
        memory = self.memory()
        used = memory.total - memory.free
        return max(0, int(memory.total * utilization) - used - reserved)
