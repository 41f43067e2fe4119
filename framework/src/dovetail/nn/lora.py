"""LoRA adapters on the device (Hu et al., 2021): several at once, each in a slot, and each token with the adapter of
its request.

A layer concatenates the adapters of all slots, so that two products of fixed shape serve a batch in which every token
may have another adapter:

    h = x @ A.T        all adapters' inner values, of which each token keeps those of its own slot and zeros the others
    y = x @ W.T + h @ B.T

Nothing depends on which slots are in use. So nothing is decided on the host, and a captured graph stays valid when an
adapter changes. The price is S times the inner values that a token needs. Ranks are small beside the layer: with 4
slots of rank 16 and 4096 channels the products add 8 % to a fused qkv, and a step without any adapter does none of
this.

Letters: T tokens, S slots, P parts of a layer, R padded rank of a slot, K input features, N output features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dovetail.nn.ops import Ops
from dovetail.nn.parallel import ColumnCut, Cut, RowCut, take

if TYPE_CHECKING:
    from dovetail.nn.step import Step

ALIGNMENT = 16
"""Ranks are padded to a multiple of this, with zeros. Vectorised products group the columns that they sum by
position, so an adapter's sums have the same order in every slot only if all slots begin at such a boundary: with
float16 on a CPU, 16 is enough and 8 is not.
"""

AdapterWeights = Mapping[str, tuple[Tensor, Tensor]]
"""An adapter on the host: name of a layer's part → A ``[r, K]`` and B ``[N, r]``, in the activations' dtype, with the scaling folded into B."""


class StackedLayerAdapters:
    """One layer's adapters, of all slots.

    Each part of a fused layer (such as q, k and v) has its own A and B, so B is zero where one part's inner values meet
    another part's rows.

    Args:
        stacks: of all layers; they hold the slot of each token.
        parts: name → rows that this rank has.
        columns: K, of this rank.
        cut: what this rank has of the layer: the same columns of A, whose products are added with the layer's, or the
            same rows of B.
    """

    def __init__(self, stacks: StackedAdapters, parts: Mapping[str, int], columns: int, cut: Cut = None) -> None:
        self.stacks = stacks
        self.parts = dict(parts)
        self.columns = columns
        self.cut = cut
        self.a = self.b = torch.empty(0, device=stacks.device, dtype=stacks.dtype)

    def allocate(self) -> None:
        """Make the matrices, as zeros, unless they are there. A layer is built without them, because what a configuration says of its size is
        only known to be true once it was compared with the checkpoint's tensors.
        """
        if self.a.numel():
            return
        inner = (self.stacks.slots, len(self.parts), self.stacks.padded_rank)
        rows = sum(self.parts.values())
        # Written to now, since the KV cache is given what is free next: a host's zeros take no memory before their first use.
        self.a = self.a.new_empty(*inner, self.columns).zero_()  # [S, P, R, K]
        self.b = self.b.new_empty(rows, *inner).zero_()  # [N, S, P, R]

    def add(self, out: Tensor, x: Tensor) -> Tensor:
        """Add each token's adapter product of x ``[T, K]`` to ``out`` ``[T, N]``. Returns ``out`` itself if the step
        has no adapter.
        """
        unselected = self.stacks.unselected
        if unselected is None:
            return out
        linear = self.stacks.ops.linear
        inner = linear(x, self.a.flatten(0, -2))  # [T, S * P * R]
        # Filled rather than multiplied: what another adapter made of this token may have overflowed, and infinity times zero is not zero.
        inner.view(*unselected.shape[:2], len(self.parts) * self.stacks.padded_rank).masked_fill_(unselected, 0)
        return out + linear(inner, self.b.flatten(1))

    def write(self, slot: int, weights: AdapterWeights) -> None:
        """Replace the adapter in a slot (from 0) by this rank's part of a whole one. Parts that ``weights`` lacks become zero, as does the padding of
        the rank.
        """
        self.allocate()
        self.a[slot].zero_()
        self.b[:, slot].zero_()
        start = 0
        for index, (part, rows) in enumerate(self.parts.items()):
            if part in weights:
                a, b = weights[part]
                if isinstance(self.cut, ColumnCut):
                    a = take(a, self.cut.ranges, 1)
                elif isinstance(self.cut, RowCut) and part in self.cut.ranges:
                    b = take(b, self.cut.ranges[part], 0)
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

    def add_layer(self, parts: Mapping[str, int], columns: int, cut: Cut = None) -> StackedLayerAdapters:
        layer = StackedLayerAdapters(self, parts, columns, cut)
        self.layers.append(layer)
        return layer

    def begin_step(self, step: Step) -> None:
        """Set a step's adapters, once for all layers. If the forward pass is captured as a graph, this call must be
        in the graph.
        """
        chosen = step.adapters
        self.unselected = None if chosen is None else (chosen[:, None] != self._numbers)[:, :, None]  # [T, S, 1]

    def select_none(self) -> None:
        """Until the next step, nothing has an adapter: for what is computed before one, such as images."""
        self.unselected = None

    @torch.inference_mode()
    def write(self, slot: int, weights: AdapterWeights) -> None:
        """Replace the adapter in a slot, after all work that is already queued on the device.

        Args:
            slot: from 1, as in :attr:`dovetail.nn.Step.adapters`.
        """
        assert 1 <= slot <= self.slots
        for layer in self.layers:
            layer.write(slot - 1, weights)

    @property
    def nbytes(self) -> int:
        return sum(layer.nbytes for layer in self.layers)
