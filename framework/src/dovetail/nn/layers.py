"""Layers whose weights are quantized, cut and multiplied as the Plan says; the model's code does not depend on it.

Letters: T tokens, N output features, K input features, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dovetail.api.cards import LayerKind
from dovetail.nn.lora import StackedLayerAdapters
from dovetail.nn.ops import Ops
from dovetail.nn.parallel import ColumnCut, Cut, Parallel, Range, RowCut, length, take
from dovetail.nn.stored import StoredWeight
from dovetail.nn.weights import DeferredNorm, Gate, WeightKernel

NORMED_NUMBERS = 1 << 20
"""Of a head's weight, how many are dequantized at once to compute the lengths of rows."""
MakeKernel = Callable[[StoredWeight, LayerKind], WeightKernel]


class WeightLayer(nn.Module):
    """A layer with one weight, in one or several parts that are separate tensors in the checkpoint (such as q, k and
    v).

    Built empty; :class:`dovetail.nn.loading.WeightReader` fills it and calls :meth:`finish`.

    Attributes:
        parts: checkpoint name of each part → its whole shape, (rows, columns).
        parallel: the ranks that share the layer.
        cut: what this rank has of it.
        kind: as in the Plan.
        bias: ``[N]`` or None.
    """

    kind: LayerKind = "linear"

    def __init__(self, parts: Mapping[str, tuple[int, int]], parallel: Parallel | None = None, cut: Cut = None) -> None:
        super().__init__()
        self.parts = dict(parts)
        self.parallel = parallel or Parallel()
        self.cut = cut
        self.kernels: list[WeightKernel] = []
        self.bias: Tensor | None = None

    def local_parts(self) -> dict[str, tuple[int, int]]:
        """The shapes of what this rank has of each part; parts of which it has nothing are left out."""
        return {part: self._local_shape(part) for part in self.parts}

    def cut_weight(self, part: str, weight: StoredWeight) -> StoredWeight:
        """This rank's part of a whole weight, which holds no memory of the rest.

        Raises:
            CheckpointError: the cut is within a group that is stored together.
        """
        if isinstance(self.cut, ColumnCut):
            dim, ranges = 1, self.cut.ranges
        elif (found := self._row_ranges(part)) is not None:
            dim, ranges = 0, found
        else:
            return weight
        pieces = [weight.narrow(dim, *piece) for piece in ranges]
        if len(pieces) == 1:
            return pieces[0].compact()
        if dim == 1:
            return weight.reorder(torch.cat([torch.arange(*piece) for piece in ranges]), 1)
        joined = weight.join(pieces)
        assert joined is not None, "rows of one weight can be joined"
        return joined

    def cut_bias(self, part: str, bias: Tensor) -> Tensor:
        """This rank's part of a whole bias ``[rows]``; all of it where columns are cut, as it is added to the sum."""
        ranges = self._row_ranges(part)
        return bias if ranges is None else take(bias, ranges, 0)

    def finish(self, weights: dict[str, StoredWeight], make_kernel: MakeKernel) -> None:
        """Join the parts if their format supports it, and create each joined weight's kernel.

        Args:
            weights: by part; left empty, because what was joined need not be there while the kernel is made.
        """
        parts = list(weights.values())
        weights.clear()
        joined = parts[0].join(parts) if len(parts) > 1 else None
        if joined is not None:
            parts.clear()
        self.kernels = [make_kernel(w, self.kind) for w in ([joined] if joined is not None else parts)]

    def _row_ranges(self, part: str) -> tuple[Range, ...] | None:
        """The rows that this rank has of a part; None for all."""
        return self.cut.ranges.get(part) if isinstance(self.cut, RowCut) else None

    def _local_shape(self, part: str) -> tuple[int, int]:
        rows, columns = self.parts[part]
        if isinstance(self.cut, ColumnCut):
            return rows, length(self.cut.ranges)
        ranges = self._row_ranges(part)
        return rows if ranges is None else length(ranges), columns

    @property
    def nbytes(self) -> int:
        return sum(k.nbytes for k in self.kernels)


class Linear(WeightLayer):
    """``x @ w.T + bias``: ``[T, K]`` → ``[T, N]``, the parts' outputs side by side. If it is cut by columns, x is this
    rank's part of the channels, and the result is the sum over all ranks.

    Attributes:
        lora: adds the adapters' products, for weights of any format; None if the engine was started without LoRA.
    """

    lora: StackedLayerAdapters | None = None

    def finish(self, weights: dict[str, StoredWeight], make_kernel: MakeKernel) -> None:
        super().finish(weights, make_kernel)
        if self.lora is not None:
            self.lora.allocate()

    def forward(self, x: Tensor | DeferredNorm, gate: Gate | None = None) -> Tensor:
        """
        Args:
            x: with a deferred norm only if it :meth:`defers`.
            gate: applied to the whole result, by the kernel where nothing is between.
        """
        if isinstance(x, DeferredNorm):
            return self.kernels[0].multiply_deferred(x, gate)
        last = self.lora is None and self.bias is None and not isinstance(self.cut, ColumnCut)
        if gate is not None and last and len(self.kernels) == 1:
            return self.kernels[0].multiply_gated(x, gate)
        if len(self.kernels) == 1:
            out = self.kernels[0](x)
        else:
            out = torch.cat([kernel(x) for kernel in self.kernels], -1)
        if self.lora is not None:
            out = self.lora.add(out, x)
        if isinstance(self.cut, ColumnCut):
            out = self.parallel.communicator.all_reduce(out)
        if self.bias is not None:
            out = out + self.bias
        return out if gate is None else gate(out)

    def defers(self, tokens: int) -> bool:
        """Whether its kernel takes over a norm beside it, as :meth:`dovetail.nn.WeightKernel.defers` says."""
        if self.lora is not None or self.bias is not None or len(self.kernels) != 1 or isinstance(self.cut, ColumnCut):
            return False
        return self.kernels[0].defers(tokens)

    def add(self, x: Tensor, residual: Tensor, norm: RMSNorm) -> DeferredNorm:
        """``residual + self(x)`` with its norm yet to be computed, if it :meth:`defers`."""
        return self.kernels[0].multiply_and_add(x, residual, norm.weight, norm.eps)

    @property
    def nbytes(self) -> int:
        return super().nbytes + (0 if self.lora is None else self.lora.nbytes)


class HeadSections(WeightLayer):
    """A weight whose rows belong to heads, and within each head to sections, each of which the model multiplies by
    itself, and from either side: :meth:`dovetail.nn.Ops.linear_by_head` takes a section ``[H, n, K]`` or its transpose.
    (multi-head latent attention's projection of latent rows to keys and values, which is absorbed into queries and results.)

    No format's packing can be multiplied from either side, so the weight is dequantized when it is loaded. It takes no
    LoRA adapter.

    Attributes:
        sections: of this rank's heads, ``[H, n, K]`` each, in the dtype of activations, once it is loaded.
    """

    def __init__(
        self,
        name: str,
        heads: int,
        sizes: Sequence[int],
        columns: int,
        dtype: torch.dtype,
        parallel: Parallel | None = None,
        cut: Cut = None,
    ) -> None:
        super().__init__({name: (heads * sum(sizes), columns)}, parallel, cut)
        self.sizes = tuple(sizes)
        self.dtype = dtype
        self.sections: tuple[Tensor, ...] = ()

    def finish(self, weights: Mapping[str, StoredWeight], make_kernel: MakeKernel) -> None:
        (weight,) = weights.values()
        by_head = weight.dense(self.dtype).unflatten(0, (-1, sum(self.sizes)))  # [H, sum of sizes, K]
        self.sections = tuple(part.contiguous() for part in by_head.split(self.sizes, 1))

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.sections)


class HeadStack(WeightLayer):
    """A matrix of each head, which checkpoints store as one stack ``[heads, rows, columns]``; otherwise as
    :class:`HeadSections`.

    Attributes:
        matrices: of this rank's heads, ``[H, rows, columns]`` in the dtype of activations, once they are loaded.
    """

    matrices: Tensor

    def __init__(
        self, name: str, heads: int, rows: int, columns: int, dtype: torch.dtype, parallel: Parallel, own: Range
    ) -> None:
        super().__init__({f"{name}.{head}": (rows, columns) for head in range(heads)}, parallel)
        self.own = own
        self.dtype = dtype

    def local_parts(self) -> dict[str, tuple[int, int]]:
        return dict(list(self.parts.items())[slice(*self.own)])

    def finish(self, weights: Mapping[str, StoredWeight], make_kernel: MakeKernel) -> None:
        self.matrices = torch.stack([weight.dense(self.dtype) for weight in weights.values()])

    @property
    def nbytes(self) -> int:
        return self.matrices.nbytes


class Embedding(WeightLayer):
    """Rows of a table: ids ``[T]`` → ``[T, K]``. If it is cut by rows, each rank looks up what it has, and the results
    are added.
    """

    kind: LayerKind = "embedding"

    def __init__(self, name: str, rows: int, columns: int, parallel: Parallel | None = None, cut: Cut = None) -> None:
        super().__init__({name: (rows, columns)}, parallel, cut)
        self.weight: StoredWeight | None = None

    def finish(self, weights: dict[str, StoredWeight], make_kernel: MakeKernel) -> None:
        (self.weight,) = weights.values()  # kept, for a head that is tied to it
        super().finish(weights, make_kernel)

    def forward(self, ids: Tensor) -> Tensor:
        if not isinstance(self.cut, RowCut):
            out: Tensor = self.kernels[0](ids)
            return out
        (((start, stop),),) = self.cut.ranges.values()
        elsewhere = (ids < start) | (ids >= stop)
        found = self.kernels[0]((ids - start).masked_fill(elsewhere, 0))
        return self.parallel.communicator.all_reduce(found.masked_fill(elsewhere[:, None], 0))


class Head(Linear):
    """The product with the vocabulary: hidden ``[T, K]`` → logits ``[T, V]``. If it is cut by rows, the ranks' logits
    are gathered.

    Attributes:
        sizes: rows of each rank where they are cut.
        tied: the embedding whose table it shares, or None.
        softcap: logits are ``softcap * tanh(logits / softcap)``; None for unbounded ones.
        normalized: each row counts with the length 1. Rows stay as they are stored, in any format; logits are divided by
            the rows' lengths, which are computed once, when the weight is loaded.
    """

    kind: LayerKind = "head"

    def __init__(
        self,
        name: str,
        columns: int,
        rows: int,
        tied: Embedding | None,
        ops: Ops,
        softcap: float | None = None,
        parallel: Parallel | None = None,
        cut: Cut = None,
        *,
        normalized: bool = False,
    ) -> None:
        super().__init__({name: (rows, columns)}, parallel, cut)
        self.normalized = normalized
        self.lengths: Tensor | None = None  # float32, of this rank's rows
        self.sizes = self.parallel.sizes(rows, self.parallel.channel_unit(rows))
        # In a list, so that torch does not register the embedding a second time.
        self._tied = [tied] if tied is not None else []
        self.ops = ops
        self.softcap = softcap

    @property
    def tied(self) -> Embedding | None:
        return self._tied[0] if self._tied else None

    def finish(self, weights: dict[str, StoredWeight], make_kernel: MakeKernel) -> None:
        if self.normalized:
            (weight,) = weights.values()
            count, columns = weight.shape
            step = max(1, NORMED_NUMBERS // columns)
            slices = (weight.rows(start, min(start + step, count), torch.float32) for start in range(0, count, step))
            self.lengths = torch.cat([rows.norm(dim=-1) for rows in slices]).clamp_min(1e-12)
        super().finish(weights, make_kernel)

    def forward(self, x: Tensor | DeferredNorm, gate: Gate | None = None) -> Tensor:
        logits = super().forward(x, gate)
        if self.lengths is not None:
            logits = (logits.float() / self.lengths).to(logits.dtype)
        if isinstance(self.cut, RowCut):
            logits = self.parallel.communicator.all_gather(logits, self.sizes)
        return logits if self.softcap is None else self.ops.softcap(logits, self.softcap)


class TokenHead(Head):
    """The logits of a few tokens alone: hidden ``[T, K]`` → float32 logits ``[T, len(tokens)]``. Of the weight only these
    tokens' rows are kept, dequantized. If it is cut by rows, the ranks' logits are added, each rank having those of its
    rows.

    Attributes:
        tokens: their ids.
    """

    def __init__(self, tokens: Sequence[int], *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.tokens = torch.tensor(tokens)
        self.kept = torch.empty(0)  # float32 [len(tokens), K]

    def finish(self, weights: dict[str, StoredWeight], make_kernel: MakeKernel) -> None:
        (weight,) = weights.values()
        own, rows = self._own(weight.shape[0])
        device = next(iter(weight.all_fields().values())).data.device
        self.kept = weight.take(rows.to(device), torch.float32) * own.to(device)[:, None]

    def forward(self, x: Tensor | DeferredNorm, gate: Gate | None = None) -> Tensor:
        assert isinstance(x, Tensor), "it has no kernel that would defer a norm"
        logits = x.float() @ self.kept.T
        if self.bias is not None:
            own, rows = (part.to(x.device) for part in self._own(len(self.bias)))
            logits = logits + self.bias[rows].float() * own
        if isinstance(self.cut, RowCut):
            logits = self.parallel.communicator.all_reduce(logits)
        return logits if self.softcap is None else self.ops.softcap(logits, self.softcap)

    @property
    def nbytes(self) -> int:
        return self.kept.nbytes

    def _own(self, rows: int) -> tuple[Tensor, Tensor]:
        """Which of the tokens' rows this rank has, of its ``rows``, and their places there."""
        start = 0
        if isinstance(self.cut, RowCut):
            (((start, _),),) = self.cut.ranges.values()
        places = self.tokens - start
        own = (places >= 0) & (places < rows)
        return own, places.masked_fill(~own, 0)


class RMSNorm(nn.Module):
    """Root-mean-square normalisation with a learned scale ``[C]``."""

    weight: Tensor

    def __init__(self, ops: Ops, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.ops = ops

    def forward(self, x: Tensor) -> Tensor:
        return self.ops.rms_norm(x, self.weight, self.eps)

    def add(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """``(norm(residual + x), residual + x)``."""
        return self.ops.add_rms_norm(x, residual, self.weight, self.eps)


class CutRMSNorm(RMSNorm):
    """Root-mean-square normalisation of channels that the ranks share, as many on each: ``[T, C / size]`` of this rank.
    Channels that several ranks have count as often on all of them, so the mean of the ranks' means is right for them,
    too.
    """

    def __init__(self, ops: Ops, eps: float, parallel: Parallel) -> None:
        super().__init__(ops, eps)
        self.parallel = parallel

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        squares = wide.square().mean(-1, keepdim=True)  # [T, 1]
        mean = self.parallel.communicator.all_reduce(squares) / self.parallel.size
        normed = wide * torch.rsqrt(mean + self.eps)
        return (self.weight * normed.to(self.weight.dtype)).to(x.dtype)

    def add(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        total = residual + x
        return self(total), total


class LayerNorm(nn.Module):
    """Layer normalisation (Ba et al., 2016) with a learned scale and offset ``[C]``; either may lack."""

    weight: Tensor | None = None
    bias: Tensor | None = None

    def __init__(self, ops: Ops, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.ops = ops

    def forward(self, x: Tensor) -> Tensor:
        return self.ops.layer_norm(x, self.weight, self.bias, self.eps)

    def add(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """``(norm(residual + x), residual + x)``."""
        return self.ops.add_layer_norm(x, residual, self.weight, self.bias, self.eps)
