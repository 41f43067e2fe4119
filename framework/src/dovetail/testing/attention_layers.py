"""One attention layer of a backend, for the tests of backends: its inputs, its cache and its steps.

Letters: T tokens, H query heads, K key-value heads, D head dimension, V channels of a value.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dovetail.nn import AttentionBackend, AttentionSpec, HostLengths, KVIndex, Step


@dataclass(frozen=True)
class LayerInputs:
    """q ``[T, H, D]``, k ``[T, K, D]``, v ``[T, K, V]`` (None for a latent layer), sinks ``[H]`` or None."""

    q: Tensor
    k: Tensor
    v: Tensor | None
    sinks: Tensor | None

    def to(self, device: torch.device) -> LayerInputs:
        """Copies."""
        return LayerInputs(*(None if x is None else x.to(device, copy=True) for x in vars(self).values()))  # type: ignore[arg-type]


def draw_inputs(spec: AttentionSpec, tokens: int, dtype: torch.dtype, generator: torch.Generator) -> LayerInputs:
    """Random inputs, on the host."""

    def heads(count: int, size: int) -> Tensor:
        return torch.randn(tokens, count, size, generator=generator).to(dtype)

    q, k = heads(spec.num_heads, spec.head_dim), heads(spec.num_kv_heads, spec.head_dim)
    v = None if spec.latent else heads(spec.num_kv_heads, spec.values)
    return LayerInputs(q, k, v, draw_sinks(spec, generator))


def draw_sinks(spec: AttentionSpec, generator: torch.Generator) -> Tensor | None:
    """Sinks that take a good part of each softmax."""
    return 1 + torch.randn(spec.num_heads, generator=generator) if spec.sinks else None


class LayerUnderTest:
    """A layer with its cache; for ``shared_cache``, with the layer whose cache it reads.

    Args:
        blocks: of the cache.
        beside: further specs of the group, which share a step's metadata.
    """

    def __init__(
        self, backend: AttentionBackend, spec: AttentionSpec, blocks: int, beside: Iterable[AttentionSpec] = ()
    ) -> None:
        self.backend = backend
        self.spec = spec
        self.writer = replace(spec, shared_cache=False)
        self.specs = frozenset({spec, self.writer, *beside})
        self.cache: Any = backend.allocate(self.writer, blocks) if spec.causal else None

    def run(self, step: Step, inputs: LayerInputs) -> Tensor:
        """``[T, H, V]``."""
        backend, index = self.backend, step.kv[0]
        index.metadata = backend.prepare(step, index, self.specs)
        q, k, v, sinks = inputs.q, inputs.k, inputs.v, inputs.sinks
        out = backend.forward(q, k, v, self.cache, step, index, self.writer, sinks)
        if self.spec.shared_cache:
            out = backend.forward(q, None, None, self.cache, step, index, self.spec, sinks)
        return out

    def poison(self, blocks: int) -> None:
        """Fill the cache with large values, as an earlier request may leave them, so that reading a stale slot is
        noticed.
        """
        backend, spec, device = self.backend, self.writer, self.backend.device
        tokens = blocks * backend.block_size
        everything = torch.arange(tokens, device=device)
        step = Step(
            tokens=torch.zeros_like(everything),
            positions=everything,
            query_start=torch.tensor([0, tokens], dtype=torch.int32, device=device),
            seq_lens=torch.tensor([tokens], dtype=torch.int32, device=device),
            logits_indices=everything[-1:],
            kv=(KVIndex(torch.arange(blocks, dtype=torch.int32, device=device)[None], everything),),
            max_query_len=tokens,
            max_seq_len=tokens,
            lengths=HostLengths([tokens], [tokens]),
        )
        (index,) = step.kv

        def full(heads: int, size: int, value: float) -> Tensor:
            return torch.full((tokens, heads, size), value, dtype=backend.dtype, device=device)

        # Small enough that products with queries stay finite in float16.
        k = full(spec.num_kv_heads, spec.head_dim, 8.0)
        v = None if spec.latent else full(spec.num_kv_heads, spec.values, 400.0)
        sinks = torch.zeros(spec.num_heads, device=device) if spec.sinks else None
        index.metadata = backend.prepare(step, index, self.specs)
        backend.forward(full(spec.num_heads, spec.head_dim, 0.0), k, v, self.cache, step, index, spec, sinks)
