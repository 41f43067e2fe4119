"""A small mixture of experts, kernels of experts, and ways to get them wrong."""

from collections.abc import Callable
from dataclasses import replace

import torch
from kit_config import SmallConfig
from kit_models import Small
from torch import Tensor

from dovetail.nn import Context, ExpertsKernel, ExpertWeights, StoredWeight, WeightKernel
from dovetail.nn.experts import EveryExpert


class Mixture(Small):
    """With experts before the head."""

    alternating = False
    required = False

    def __init__(self, c: SmallConfig, ctx: Context) -> None:
        super().__init__(c, ctx)
        self.route = ctx.ops.route
        self.router = ctx.linear("router", c.hidden_size, 4)
        names = [(f"experts.{e}.gate", f"experts.{e}.up", f"experts.{e}.down") for e in range(4)]
        self.experts = ctx.experts(names, c.hidden_size, c.inner, 2, bias=True)
        pairs = [[gate, up] for gate, up, _ in names]
        ctx.stored_together("gate_up", pairs, alternating=self.alternating, required=self.required, transposed=True)
        ctx.stored_together("down", [[down] for _, _, down in names], required=self.required)
        if not self.required:
            ctx.stored_together("ups", [[up] for _, up, _ in names])

    def logits(self, hidden: Tensor) -> Tensor:
        return super().logits(hidden + self.experts(hidden, *self.route(self.router(hidden), 2)))


class Undecided(Mixture):
    """Its router's scores are so close that half precision rounds them to the same number."""

    def logits(self, hidden: Tensor) -> Tensor:
        scores = self.router(hidden)
        scores = 4 * scores[:, :1] + 0.002 * scores
        return super(Mixture, self).logits(hidden + self.experts(hidden, *self.route(scores, 2)))


class Misrouting(Mixture):
    """Takes the experts in the wrong order in one dtype."""

    def logits(self, hidden: Tensor) -> Tensor:
        scores = self.router(hidden)
        scores = scores.flip(-1) if scores.dtype == torch.float16 else scores
        return super(Mixture, self).logits(hidden + self.experts(hidden, *self.route(scores, 2)))


class Stacked(Mixture):
    """Checkpoints have stacks alone."""

    alternating = required = True


class Dropping(Mixture):
    """Leaves out one of the stacks that it says there may be."""

    def rename(self, name: str) -> str | None:
        return None if name == "ups" else name


class Right(EveryExpert):
    """A kernel of experts that is as it should be."""


class OnePercent(EveryExpert):
    def __call__(self, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        return super().__call__(x, ids, weights * 1.03)


class WithoutBias(EveryExpert):
    """Forgets the biases."""

    def __init__(
        self,
        weights: ExpertWeights,
        make_kernel: Callable[[StoredWeight, str], WeightKernel],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        super().__init__(replace(weights, gate_up_bias=None, down_bias=None), make_kernel, device, dtype)


class EveryRank(EveryExpert):
    """Takes the numbers of experts for those of its own."""

    def __call__(self, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        return super().__call__(x, ids + self.first, weights)


class InPlace(EveryExpert):
    def __call__(self, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        out = super().__call__(x, ids, weights)
        x += 1
        return out


class Wide(EveryExpert):
    def __call__(self, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        return super().__call__(x, ids, weights).float()


class Random(EveryExpert):
    """Adds in another order each time, or worse."""

    def __call__(self, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        return super().__call__(x, ids, weights * (1 + 1e-6 * torch.rand(())))


class Picky(EveryExpert):
    @classmethod
    def unsupported_reason(cls, weights: ExpertWeights) -> str | None:
        return "takes no experts today"


class NotACall(ExpertsKernel):
    """Lacks what a kernel needs."""
