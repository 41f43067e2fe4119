"""The reference attention and the reference platform: slow and simple; faster ones are compared with them.

Letters: T tokens, H query heads, K key-value heads, D head dimension, S tokens that a query sees.
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
        features: supported ones; a subclass that adds one overrides :meth:`visible` or :meth:`attend`.
        compute_dtype: dtype in which everything is computed.
    """

    features: tuple[AttentionFeature, ...] = ("sliding",)
    compute_dtype = torch.float64

    def allocate(self, spec: AttentionSpec, blocks: int) -> tuple[Tensor, Tensor]:
        shape = (blocks * self.block_size, spec.num_kv_heads, spec.head_dim)
        nan = float("nan")
        return (
            torch.full(shape, nan, dtype=self.kv_dtype, device=self.device),
            torch.full(shape, nan, dtype=self.kv_dtype, device=self.device),
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
        cache: tuple[Tensor, Tensor],
        step: Step,
        index: KVIndex,
        spec: AttentionSpec,
        sinks: Tensor | None = None,
    ) -> Tensor:
        assert k is not None
        assert v is not None
        keys, values = cache
        for cached, new in ((keys, k), (values, v)):
            _as_bytes(cached)[index.slot_mapping] = _as_bytes(new.to(self.kv_dtype))
        out = torch.empty_like(q)
        starts = step.query_start.tolist()
        for request, (start, stop) in enumerate(pairwise(starts)):
            slots = self.slots(index.block_tables[request], int(step.seq_lens[request]))
            for token in range(start, stop):
                seen = slots[self.visible(spec, int(step.positions[token]))]  # [S]
                taken = (_as_bytes(cached)[seen].view(cached.dtype).to(self.compute_dtype) for cached in cache)
                k_seen, v_seen = (
                    x.repeat_interleave(spec.num_heads // spec.num_kv_heads, 1) for x in taken
                )  # [S, H, D]
                out[token] = self.attend(q[token].to(self.compute_dtype), k_seen, v_seen, spec)
        return out

    def slots(self, table: Tensor, length: int) -> Tensor:
        """Where the first ``length`` tokens of a request with this block table are: ``[length]``."""
        index = torch.arange(length, device=self.device)
        return table.long()[index // self.block_size] * self.block_size + index % self.block_size

    def visible(self, spec: AttentionSpec, position: int) -> slice:
        """The positions that a token at ``position`` sees."""
        first = 0 if spec.window is None else max(0, position + 1 - spec.window)
        return slice(first, position + 1)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, spec: AttentionSpec) -> Tensor:
        """One token's queries ``[H, D]`` over the keys and values ``[S, H, D]`` that it sees: ``[H, D]``."""
        scores = torch.einsum("hd,shd->sh", q, k) * spec.scale
        return torch.einsum("sh,shd->hd", scores.softmax(0), v)


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
