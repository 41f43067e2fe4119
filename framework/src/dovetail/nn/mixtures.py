"""A mixture of experts in place of a decoder's MLP (Shazeer et al., 2017)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from dovetail.nn.context import Bias, Context
from dovetail.nn.experts import Activation


class Mixture(nn.Module):
    """The experts that a router chooses for each token, and those that all tokens share: ``[T, C]`` → ``[T, C]``.

    Checkpoints have each expert's matrices by themselves (``experts.0.up_proj``), or stacked as transformers has them in
    memory (``experts.gate_up_proj`` and ``experts.down_proj``, without ``.weight``), or each matrix of all experts in
    one stack (``experts.up_proj``).

    Args:
        name: checkpoint prefix, such as ``model.layers.0.mlp``.
        inner: channels between the products of an expert.
        activation, bias: as in :meth:`dovetail.nn.Context.experts`.
        router: name of the router below ``name``.
        router_bias: it has a bias.
        wide: the router is multiplied in float32, and is never quantized.
        names: of gate, up and down below each expert.
        alternating, transposed: of stacks, as in :meth:`dovetail.nn.Context.stored_together`; alternating are the rows of
            ``gate_up_proj``.
        scoring, renormalize, groups, top_groups, scale: as in :meth:`dovetail.nn.Ops.route`.
        correction: name below ``name`` of the bias that is added for the choice alone, or None.
        weigh: gives the weights ``[T, A]`` of the chosen experts from the router's logits ``[T, E]`` and their ids
            ``[T, A]``, in falling order of the logits, in place of those that ``scoring`` gives; or None.
        shared: gives ``[T, C]`` of every token, which is added; or None.
        shared_gate: name below ``name`` of a product with one row, whose sigmoid multiplies ``shared``; or None.
    """

    correction: Tensor | None
    gate: Tensor

    def __init__(
        self,
        ctx: Context,
        name: str,
        channels: int,
        inner: int,
        *,
        experts: int,
        top_k: int,
        activation: str | Activation = "silu",
        bias: bool = False,
        router: str = "gate",
        router_bias: Bias = False,
        wide: bool = False,
        names: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj"),
        alternating: bool = False,
        transposed: bool = False,
        scoring: Literal["softmax", "sigmoid"] = "softmax",
        renormalize: bool = True,
        groups: int = 1,
        top_groups: int = 1,
        scale: float = 1.0,
        correction: str | None = None,
        weigh: Callable[[Tensor, Tensor], Tensor] | None = None,
        shared: nn.Module | None = None,
        shared_gate: str | None = None,
    ) -> None:
        super().__init__()
        self.linear = ctx.ops.linear
        self.router: nn.Module | None = None
        if wide:
            assert not router_bias, "a router in float32 has no bias"
            weight = f"{name}.{router}.weight"
            ctx.vector(weight, (experts, channels), partial(setattr, self, "gate"), dtype=torch.float32)
        else:
            self.router = ctx.linear(f"{name}.{router}", channels, experts, bias=router_bias)
        self.correction = None
        if correction is not None:
            assign = partial(setattr, self, "correction")
            ctx.vector(f"{name}.{correction}", (experts,), assign, dtype=torch.float32)
        prefix = f"{name}.experts"
        parts = [
            (f"{prefix}.{e}.{names[0]}", f"{prefix}.{e}.{names[1]}", f"{prefix}.{e}.{names[2]}") for e in range(experts)
        ]
        self.experts = ctx.experts(parts, channels, inner, top_k, activation=activation, bias=bias)
        stack = partial(ctx.stored_together, transposed=transposed)
        stack(f"{prefix}.gate_up_proj", [[gate, up] for gate, up, _ in parts], alternating=alternating)
        for index, part in enumerate(names):
            stack(f"{prefix}.{part}", [[expert[index]] for expert in parts])
        if "down_proj" not in names:
            stack(f"{prefix}.down_proj", [[down] for _, _, down in parts])
        self.route = partial(
            ctx.ops.route,
            top_k=top_k,
            scoring=scoring,
            renormalize=renormalize,
            groups=groups,
            top_groups=top_groups,
            scale=scale,
        )
        self.weigh = weigh
        self.shared = shared
        self.shared_gate = None if shared_gate is None else ctx.linear(f"{name}.{shared_gate}", channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.linear(x.float(), self.gate) if self.router is None else self.router(x)  # [T, E]
        ids, weights = self.route(logits, bias=self.correction)
        if self.weigh is not None:
            weights = self.weigh(logits, ids)
        out: Tensor = self.experts(x, ids, weights)
        if self.shared is None:
            return out
        shared = self.shared(x)
        return out + (shared if self.shared_gate is None else self.shared_gate(x).sigmoid() * shared)
