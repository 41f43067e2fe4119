"""Decode steps as the engine makes them, and a cache to run them in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from dovetail_backends_cuda.attention import GatherAttention
from torch import Tensor

from dovetail.nn import AttentionSpec, HostLengths, KVIndex, Step

BLOCK = 16


@dataclass
class Scene:
    """Requests whose caches are full of random values, about to decode one token each."""

    backend: GatherAttention
    spec: AttentionSpec
    cache: Tensor
    step: Step
    qkv: tuple[Tensor, Tensor | None, Tensor | None]
    sinks: Tensor | None = None

    def run(self, step: Step) -> Tensor:
        index = replace(step.kv[0])
        index.metadata = self.backend.prepare(step, index, frozenset({self.spec}))
        return self.backend.forward(*self.qkv, self.cache, step, index, self.spec, self.sinks)

    def captured(self, bound: int) -> Step:
        """The same step as a graph sees it: no lengths, and a bound on them."""
        width = -(-bound // BLOCK)
        index = self.step.kv[0]
        tables = torch.nn.functional.pad(index.block_tables, (0, width - index.block_tables.shape[1]))
        return replace(self.step, lengths=None, max_seq_len=bound, kv=(KVIndex(tables, index.slot_mapping),))


def decode(
    lengths: list[int], device: torch.device, dtype: torch.dtype, window: int | None = None, **spec: Any
) -> Scene:
    """One token for each of these requests."""
    sizes = {"num_heads": 8, "num_kv_heads": 2, "head_dim": 64, **spec}
    asked = AttentionSpec(**{"scale": sizes["head_dim"] ** -0.5, "window": window, **sizes})
    backend = GatherAttention(device=device, dtype=dtype, kv_dtype=dtype, block_size=BLOCK)
    counts = [-(-n // BLOCK) for n in lengths]
    generator = torch.Generator().manual_seed(0)
    order = (torch.randperm(sum(counts), generator=generator) + 1).tolist()
    tables = torch.zeros(len(lengths), max(counts), dtype=torch.int32)
    for row, count in enumerate(counts):
        tables[row, :count] = torch.tensor([order.pop() for _ in range(count)], dtype=torch.int32)
    positions = torch.tensor(lengths) - 1
    slots = tables.gather(1, (positions // BLOCK)[:, None]).long()[:, 0] * BLOCK + positions % BLOCK
    cache = backend.allocate(asked, 1 + sum(counts))
    cache.copy_(torch.randn(cache.shape, generator=generator))

    def put(values: Tensor) -> Tensor:
        return values.to(device)

    step = Step(
        tokens=put(torch.zeros_like(positions)),
        positions=put(positions),
        query_start=put(torch.arange(len(lengths) + 1, dtype=torch.int32)),
        seq_lens=put(torch.tensor(lengths, dtype=torch.int32)),
        logits_indices=put(torch.arange(len(lengths))),
        kv=(KVIndex(put(tables), put(slots)),),
        max_query_len=1,
        max_seq_len=max(lengths),
        lengths=HostLengths([1] * len(lengths), lengths),
    )
    q, k, v = (
        put(torch.randn(len(lengths), heads, size, generator=generator).to(dtype))
        for heads, size in (
            (asked.num_heads, asked.head_dim),
            (asked.num_kv_heads, asked.head_dim),
            (asked.num_kv_heads, asked.values),
        )
    )
    sinks = put(torch.randn(asked.num_heads, generator=generator)) if asked.sinks else None
    return Scene(backend, asked, cache, step, (q, k, None if asked.latent else v), sinks)
