"""Mixtures of experts: each token is multiplied with the weights of a few experts, chosen by a router.

Letters: T tokens, C channels, I inner channels of an expert, E experts, A experts of a token.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dovetail.api.cards import LayerKind
from dovetail.nn.layers import MakeKernel, WeightLayer
from dovetail.nn.ops import Ops
from dovetail.nn.parallel import Parallel, Range
from dovetail.nn.stored import StoredWeight
from dovetail.nn.weights import WeightKernel

Activation = Callable[[Tensor], Tensor]
"""Maps gate and up, side by side ``[T, 2 * I]``, to their product ``[T, I]``."""


@dataclass(frozen=True)
class ExpertWeights:
    """The weights of a rank's experts, in order.

    Attributes:
        gate, up: ``[I, C]`` of each expert.
        down: ``[C, I]`` of each expert.
        first: number of the first of these experts, in the ids that the router gives.
        total: number of experts on all ranks.
        top_k: experts of a token.
        gate_up_bias: ``[experts, 2 * I]`` in the activations' dtype, or None.
        down_bias: ``[experts, C]``, likewise.
        activation: between the two products.
    """

    gate: Sequence[StoredWeight]
    up: Sequence[StoredWeight]
    down: Sequence[StoredWeight]
    first: int
    total: int
    top_k: int
    activation: Activation
    gate_up_bias: Tensor | None = None
    down_bias: Tensor | None = None


class ExpertsKernel(ABC):
    """Multiplies with the weights of experts.

    Attributes:
        ops: the platform's operations, set by the loader of the weights; until then the references.
    """

    ops: Ops = Ops()

    @classmethod
    def unsupported_reason(cls, weights: ExpertWeights) -> str | None:
        """The reason why this kernel cannot take these weights, or None. With a reason, the next kernel of the Plan is
        tried.
        """
        return None

    @abstractmethod
    def __init__(
        self, weights: ExpertWeights, make_kernel: MakeKernel, device: torch.device, dtype: torch.dtype
    ) -> None:
        """
        Args:
            make_kernel: makes the best kernel for one matrix, as for a linear layer.
            dtype: of the activations.
        """

    def process_after_loading(self) -> None:
        """Called once after loading, when :attr:`ops` is set."""
        return

    @abstractmethod
    def __call__(self, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        """
        Args:
            x: ``[T, C]``.
            ids: int64 ``[T, A]``, the experts of each token, of all ranks; each at most once.
            weights: float32 ``[T, A]``.

        Returns:
            ``[T, C]`` in x's dtype: the sum over a token's experts that this rank has, each times its weight. It is
                formed in float32, and in an order that the other tokens have no part in.
        """

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Memory of the weights as the kernel stores them."""


class _Expert:
    """The products of one expert."""

    def __init__(self, weights: ExpertWeights, index: int, make_kernel: MakeKernel) -> None:
        gate, up = weights.gate[index], weights.up[index]
        joined = gate.join([gate, up])
        kind: LayerKind = "linear"
        self.gate_up: list[WeightKernel] = [
            make_kernel(weight, kind) for weight in ([joined] if joined is not None else [gate, up])
        ]
        self.down = make_kernel(weights.down[index], kind)
        self.gate_up_bias = None if weights.gate_up_bias is None else weights.gate_up_bias[index]
        self.down_bias = None if weights.down_bias is None else weights.down_bias[index]
        self.activation = weights.activation

    def __call__(self, x: Tensor) -> Tensor:
        inner = [kernel(x) for kernel in self.gate_up]
        both = inner[0] if len(inner) == 1 else torch.cat(inner, -1)
        if self.gate_up_bias is not None:
            both = both + self.gate_up_bias
        out = self.down(self.activation(both))
        return out if self.down_bias is None else out + self.down_bias

    @property
    def nbytes(self) -> int:
        biases = [bias.nbytes for bias in (self.gate_up_bias, self.down_bias) if bias is not None]
        return sum(kernel.nbytes for kernel in (*self.gate_up, self.down)) + sum(biases)


class EveryExpert(ExpertsKernel):
    """The reference: every expert computes all tokens, and what it finds for those that did not choose it is dropped.
    Any format, any device, and nothing is read on the host.
    """

    def __init__(
        self, weights: ExpertWeights, make_kernel: MakeKernel, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.first = weights.first
        self.experts = [_Expert(weights, index, make_kernel) for index in range(len(weights.down))]

    def __call__(self, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        total = torch.zeros_like(x, dtype=torch.float32)
        for number, expert in enumerate(self.experts, self.first):
            chosen = ids == number  # [T, A]
            share = torch.where(chosen, weights, 0.0).sum(-1, keepdim=True)  # [T, 1]
            total += torch.where(chosen.any(-1, keepdim=True), expert(x) * share, 0.0)
        return total.to(x.dtype)

    @property
    def nbytes(self) -> int:
        return sum(expert.nbytes for expert in self.experts)


class GroupedExperts(EveryExpert):
    """Tokens sorted by expert, so that each expert computes its own. The numbers of tokens are read on the host, so it
    is for devices that share its memory. A token's experts are added in the order of their numbers.
    """

    def __call__(self, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        count, chosen = len(self.experts), ids.shape[1]
        numbers = (ids - self.first).flatten()  # [T * A]
        order = numbers.argsort(stable=True)
        numbers = numbers[order]
        bounds = torch.searchsorted(numbers, torch.arange(count + 1, device=x.device)).tolist()
        total = torch.zeros_like(x, dtype=torch.float32)
        shares = weights.flatten()[order]
        for expert, start, stop in zip(self.experts, bounds, bounds[1:], strict=False):
            if start == stop:
                continue
            tokens = order[start:stop] // chosen
            total.index_add_(0, tokens, expert(x[tokens]) * shares[start:stop, None])
        return total.to(x.dtype)


class Experts(WeightLayer):
    """The experts of one layer: ``[T, C]`` with the router's choice → ``[T, C]``.

    Args:
        names: checkpoint names of (gate, up, down) of each expert.
        channels, inner, top_k: C, I and A.
        activation: between the products.
        local: the experts that this rank has; the ranks' results are added.

    Attributes:
        parts: of all experts, whether this rank has them or not.
    """

    kind: LayerKind = "experts"

    def __init__(
        self,
        names: Sequence[tuple[str, str, str]],
        channels: int,
        inner: int,
        top_k: int,
        activation: Activation,
        parallel: Parallel | None = None,
        local: Range | None = None,
    ) -> None:
        shapes = ((inner, channels), (inner, channels), (channels, inner))
        super().__init__(
            {part: shape for expert in names for part, shape in zip(expert, shapes, strict=True)}, parallel
        )
        self.names = list(names)
        self.inner = inner
        self.channels = channels
        self.top_k = top_k
        self.activation = activation
        self.local = local or (0, len(names))
        self.kernel: ExpertsKernel | None = None

    def local_parts(self) -> dict[str, tuple[int, int]]:
        return {part: self.parts[part] for expert in self.names[slice(*self.local)] for part in expert}

    def cut_weight(self, part: str, weight: StoredWeight) -> StoredWeight:
        """The whole weight. If other ranks have the other experts of its stack, those must not be kept in memory."""
        return weight.compact() if self.parallel.size > 1 else weight

    def collect(self, weights: Mapping[str, StoredWeight], biases: Mapping[str, Tensor]) -> ExpertWeights:
        """This rank's weights, in order.

        Args:
            biases: of each local part, or none at all.
        """
        local = self.names[slice(*self.local)]
        gate_up_bias = down_bias = None
        if biases:
            gate_up_bias = torch.stack([torch.cat([biases[gate], biases[up]]) for gate, up, _ in local])
            down_bias = torch.stack([biases[down] for _, _, down in local])
        return ExpertWeights(
            gate=[weights[gate] for gate, _, _ in local],
            up=[weights[up] for _, up, _ in local],
            down=[weights[down] for _, _, down in local],
            first=self.local[0],
            total=len(self.names),
            top_k=self.top_k,
            activation=self.activation,
            gate_up_bias=gate_up_bias,
            down_bias=down_bias,
        )

    def forward(self, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        assert self.kernel is not None
        out = self.kernel(x, ids, weights)
        return out if self.parallel.size == 1 else self.parallel.communicator.all_reduce(out)

    @property
    def nbytes(self) -> int:
        return 0 if self.kernel is None else self.kernel.nbytes
