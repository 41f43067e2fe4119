"""LoRA adapters on the device (Hu et al., 2021): several at once, each in a slot, and each token with the one that it asked for.

A layer keeps the adapters of all slots side by side, so that two products of fixed shape serve a batch in which every token has another adapter:

    h = x @ A.T        all adapters' inner values, of which each token keeps those of its own slot and zeros the others
    y = x @ W.T + h @ B.T

Nothing depends on which slots are in use, so nothing is decided on the host, and a graph that was captured once stays right when an adapter changes.
The price is S times the inner values that a token needs. Ranks are small beside the layer: with 4 slots of rank 16 and 4096 channels the products add
8 % to a fused qkv, and a step without any adapter does none of this.

Letters: T tokens, S slots, P parts of a layer, R padded rank of a slot, K input features, N output features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dovetail.nn.ops import Ops

if TYPE_CHECKING:
    from dovetail.nn.step import Step

ALIGNMENT = 16
"""Ranks are padded to a multiple of this, with zeros. Vectorised products group the columns that they sum by places, so an adapter's sums keep their
order in every slot only if all slots begin at such a boundary: with float16 on a CPU, 16 is enough and 8 is not."""

AdapterWeights = Mapping[str, tuple[Tensor, Tensor]]
"""An adapter on the host: name of a layer's part → A ``[r, K]`` and B ``[N, r]``, in the activations' dtype, with the scaling folded into B."""


class StackedLayerAdapters:
    """One layer's adapters, those of all slots.

    Each part of a fused layer (q, k and v, say) has an A and a B of its own, so B is zero where one part's inner values meet another part's rows.

    Args:
        stacks: all layers', which say what each token selects.
        parts: name → rows.
        columns: K.
    """

    def __init__(self, stacks: StackedAdapters, parts: Mapping[str, int], columns: int) -> None:
        self.stacks = stacks
        self.parts = dict(parts)
        inner = (stacks.slots, len(parts), stacks.padded_rank)
        rows = sum(parts.values())
        # Written to now, since the KV cache is given what is free next: a host's zeros take no memory before their first use.
        self.a = torch.empty(*inner, columns, device=stacks.device, dtype=stacks.dtype).zero_()  # [S, P, R, K]
        self.b = torch.empty(rows, *inner, device=stacks.device, dtype=stacks.dtype).zero_()  # [N, S, P, R]

    def add(self, out: Tensor, x: Tensor) -> Tensor:
        """``out`` ``[T, N]`` with each token's adapter for x ``[T, K]``; ``out`` itself where the step has none."""
        unselected = self.stacks.unselected
        if unselected is None:
            return out
        linear = self.stacks.ops.linear
        inner = linear(x, self.a.flatten(0, -2))  # [T, S * P * R]
        # Filled rather than multiplied: what another adapter made of this token may have overflowed, and infinity times zero is not zero.
        inner.view(*unselected.shape[:2], len(self.parts) * self.stacks.padded_rank).masked_fill_(unselected, 0)
        return out + linear(inner, self.b.flatten(1))

    def write(self, slot: int, weights: AdapterWeights) -> None:
        """Replace what a slot (from 0) holds; parts that ``weights`` lacks become zero, and so does what is left of the rank."""
        self.a[slot].zero_()
        self.b[:, slot].zero_()
        start = 0
        for index, (part, rows) in enumerate(self.parts.items()):
            if part in weights:
                a, b = weights[part]
                self.a[slot, index, : a.shape[0]].copy_(a)
                self.b[start : start + rows, slot, index, : b.shape[1]].copy_(b)
            start += rows

    @property
    def nbytes(self) -> int:
        return self.a.nbytes + self.b.nbytes


class StackedAdapters:
    """The slots of all layers, and which of them each token of the step uses.

    Args:
        slots: adapters that are on the device at once.
        rank: the highest that an adapter may have; lower ones are padded with zeros.

    Attributes:
        layers: in the order of creation.
        unselected: bool ``[T, S, 1]``, true where a token does not use a slot; None in a step without adapters, in which layers do nothing.
    """

    def __init__(self, slots: int, rank: int, ops: Ops, device: torch.device, dtype: torch.dtype) -> None:
        self.slots = slots
        self.rank = rank
        self.ops = ops
        self.padded_rank = -(-rank // ALIGNMENT) * ALIGNMENT
        self.device = device
        self.dtype = dtype
        self.layers: list[StackedLayerAdapters] = []
        self.unselected: Tensor | None = None
        self._numbers = torch.arange(1, slots + 1, device=device)

    def add_layer(self, parts: Mapping[str, int], columns: int) -> StackedLayerAdapters:
        layer = StackedLayerAdapters(self, parts, columns)
        self.layers.append(layer)
        return layer

    def begin_step(self, step: Step) -> None:
        """Take up a step's adapters, once for all layers. Where the forward pass is captured as a graph, this belongs into the graph."""
        chosen = step.adapters
        self.unselected = None if chosen is None else (chosen[:, None] != self._numbers)[:, :, None]  # [T, S, 1]

    @torch.inference_mode()
    def write(self, slot: int, weights: AdapterWeights) -> None:
        """Replace what a slot holds, behind all work that is queued on the device already.

        Args:
            slot: from 1, as in :attr:`dovetail.nn.Step.adapters`.
        """
        assert 1 <= slot <= self.slots
        for layer in self.layers:
            layer.write(slot - 1, weights)

    @property
    def nbytes(self) -> int:
        return sum(layer.nbytes for layer in self.layers)
