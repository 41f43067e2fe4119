"""Layers whose weights are quantized, sharded and multiplied as the Plan says; the model's code does not depend on it.

Letters: T tokens, N output features, K input features, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from dovetail.api.cards import LayerKind
from dovetail.nn.lora import StackedLayerAdapters
from dovetail.nn.ops import Ops
from dovetail.nn.weights import StoredWeight, WeightKernel

MakeKernel = Callable[[StoredWeight, LayerKind], WeightKernel]


class WeightLayer(nn.Module):
    """A layer with one weight, in one or several parts that are separate tensors in the checkpoint (such as q, k and
    v).

    Built empty; :class:`dovetail.nn.loading.WeightReader` fills it and calls :meth:`finish`.

    Attributes:
        parts: checkpoint name of each part → its rows.
        columns: K.
        kind: as in the Plan.
        bias: ``[N]`` or None.
    """

    kind: LayerKind = "linear"

    def __init__(self, parts: Mapping[str, int], columns: int) -> None:
        super().__init__()
        self.parts = dict(parts)
        self.columns = columns
        self.rows = sum(self.parts.values())
        self.kernels: list[WeightKernel] = []
        self.bias: Tensor | None = None

    def finish(self, weights: list[StoredWeight], make_kernel: MakeKernel) -> None:
        """Join the parts if their format supports it, and create each joined weight's kernel."""
        joined = weights[0].join(weights) if len(weights) > 1 else None
        self.kernels = [make_kernel(w, self.kind) for w in ([joined] if joined is not None else weights)]

    @property
    def nbytes(self) -> int:
        return sum(k.nbytes for k in self.kernels)


class Linear(WeightLayer):
    """``x @ w.T + bias``: ``[T, K]`` → ``[T, N]``, the parts' outputs side by side.

    Attributes:
        lora: adds the adapters' products, for weights of any format; None if the engine was started without LoRA.
    """

    lora: StackedLayerAdapters | None = None

    def finish(self, weights: list[StoredWeight], make_kernel: MakeKernel) -> None:
        super().finish(weights, make_kernel)
        if self.lora is not None:
            self.lora.allocate()

    def forward(self, x: Tensor) -> Tensor:
        if len(self.kernels) == 1:
            out = self.kernels[0](x)
        else:
            out = torch.cat([kernel(x) for kernel in self.kernels], -1)
        if self.lora is not None:
            out = self.lora.add(out, x)
        return out if self.bias is None else out + self.bias

    @property
    def nbytes(self) -> int:
        return super().nbytes + (0 if self.lora is None else self.lora.nbytes)


class Embedding(WeightLayer):
    """Rows of a table: ids ``[T]`` → ``[T, K]``."""

    kind: LayerKind = "embedding"

    def __init__(self, parts: Mapping[str, int], columns: int) -> None:
        super().__init__(parts, columns)
        self.weight: StoredWeight | None = None

    def finish(self, weights: list[StoredWeight], make_kernel: MakeKernel) -> None:
        (self.weight,) = weights  # kept, for a head that is tied to it
        super().finish(weights, make_kernel)

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.kernels[0](ids)
        return out


class Head(Linear):
    """The product with the vocabulary: hidden ``[T, K]`` → logits ``[T, V]``.

    Attributes:
        tied: the embedding whose table it shares, or None.
    """

    kind: LayerKind = "head"

    def __init__(self, parts: Mapping[str, int], columns: int, tied: Embedding | None) -> None:
        super().__init__(parts, columns)
        # In a list, so that torch does not register the embedding a second time.
        self._tied = [tied] if tied is not None else []

    @property
    def tied(self) -> Embedding | None:
        return self._tied[0] if self._tied else None


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
