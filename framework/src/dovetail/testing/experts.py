"""Conformance tests of kernels of experts.

Letters: T tokens, C channels, I inner channels of an expert, E experts, A experts of a token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dovetail.api import LayerKind, QuantKernelCard
from dovetail.engine.step.output_checks import check_tensor
from dovetail.nn import ExpertsKernel, ExpertWeights, Ops, StoredWeight, WeightKernel
from dovetail.nn.dense import DequantizeKernel
from dovetail.testing.comparison import assert_close, dtype_of, label, tolerance
from dovetail.testing.resolution import claim, part_of

MakeMatrix = Callable[[int, int, int], StoredWeight]
"""Makes a matrix of so many rows and columns; the third number tells matrices of one shape apart."""


def make_experts(
    make: MakeMatrix, *, channels: int = 64, inner: int = 96, experts: int = 5, top_k: int = 2
) -> ExpertWeights:
    """Experts with SiLU and without biases."""
    return ExpertWeights(
        gate=[make(inner, channels, 3 * e) for e in range(experts)],
        up=[make(inner, channels, 3 * e + 1) for e in range(experts)],
        down=[make(channels, inner, 3 * e + 2) for e in range(experts)],
        first=0,
        total=experts,
        top_k=top_k,
        activation=Ops().activation("silu", gated=True),
    )


def every_case(experts: ExpertWeights, dtype: torch.dtype) -> dict[str, ExpertWeights]:
    """The same experts in every way in which models and ranks may have them, by a description."""
    count, channels = len(experts.down), experts.down[0].shape[0]
    inner = experts.gate[0].shape[0]
    generator = torch.Generator().manual_seed(1)
    gate_up_bias = torch.randn(count, 2 * inner, generator=generator).to(dtype)
    down_bias = torch.randn(count, channels, generator=generator).to(dtype)
    middle = slice(1, max(2, count - 1))
    return {
        "as they are": experts,
        "with biases": replace(experts, gate_up_bias=gate_up_bias, down_bias=down_bias),
        "with biases of gate and up alone": replace(experts, gate_up_bias=gate_up_bias),
        "with an activation of their own": replace(experts, activation=_clamped, gate_up_bias=gate_up_bias),
        "some of them, on one rank": replace(
            experts,
            gate=experts.gate[middle],
            up=experts.up[middle],
            down=experts.down[middle],
            first=1,
            gate_up_bias=gate_up_bias[middle],
            down_bias=down_bias[middle],
        ),
    }


def _clamped(both: Tensor) -> Tensor:
    gate, up = both.chunk(2, -1)
    return gate.clamp(max=2.0) * torch.sigmoid(1.702 * gate) * (up.clamp(-2.0, 2.0) + 1)


def compute_experts(x: Tensor, ids: Tensor, weights: Tensor, experts: ExpertWeights) -> Tensor:
    """The sum over each token's experts in float64, ``[T, C]``, token by token."""
    gate, up, down = (
        [weight.dense(torch.float32).double().cpu() for weight in stored]
        for stored in (experts.gate, experts.up, experts.down)
    )
    out = torch.zeros(x.shape, dtype=torch.float64)
    for token, (row, chosen, shares) in enumerate(zip(x.double(), ids.tolist(), weights.tolist(), strict=True)):
        for number, share in zip(chosen, shares, strict=True):
            e = number - experts.first
            if not 0 <= e < len(down):
                continue
            both = torch.cat([gate[e] @ row, up[e] @ row])
            if experts.gate_up_bias is not None:
                both += experts.gate_up_bias[e].cpu()
            found = down[e] @ experts.activation(both)
            if experts.down_bias is not None:
                found += experts.down_bias[e].cpu()
            out[token] += share * found
    return out


def check_experts_kernel(
    card: QuantKernelCard,
    kernel: type[ExpertsKernel],
    samples: Sequence[ExpertWeights],
    devices: Sequence[torch.device],
    limits: Mapping[str, float],
) -> None:
    """Check a kernel's products in each claimed dtype, with one token and many, with all tokens at one expert, with
    experts that no token chose, with tokens none of whose experts is on this rank; and that they are the same again.
    """
    for device in devices:
        for dtype in card.dtypes:
            for sample in samples:
                for name, experts in every_case(sample, dtype_of(dtype)).items():
                    moved = _move(experts, device)
                    if kernel.unsupported_reason(moved) is None:
                        _check_products(card, kernel, moved, name, dtype, device, limits.get(dtype))


def _check_products(
    card: QuantKernelCard,
    kernel: type[ExpertsKernel],
    experts: ExpertWeights,
    name: str,
    dtype: str,
    device: torch.device,
    limit: float | None,
) -> None:
    kind = experts.gate[0].type
    channels, inner = experts.down[0].shape
    text = f"{label(card)} claims experts in {dtype} (here {len(experts.down)} of type {kind} [{inner}, {channels}] on {device}, {name})"

    def make(weight: StoredWeight, kind: LayerKind) -> WeightKernel:
        return DequantizeKernel(weight, kind, device, dtype_of(dtype))

    with claim(text):
        made = kernel(experts, make, device, dtype_of(dtype))
        made.process_after_loading()
        assert made.nbytes > 0, f"{text}: nbytes is {made.nbytes}"
        for what, x, ids, weights in _inputs(experts, dtype_of(dtype)):
            given = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=device).copy_(x)
            arguments = given, ids.to(device), weights.to(device)
            with torch.inference_mode():
                found = made(*arguments)
                again = made(*arguments)
            check_tensor(part_of(card), "a product", found, tuple(x.shape), x.dtype, given.device)
            changed = not torch.equal(given.cpu(), x) or not torch.equal(arguments[1].cpu(), ids)
            assert not changed, f"{text}: its arguments are changed"
            assert torch.equal(found, again), f"{text}: {what}: the same call gives other bits the second time"
            expected = compute_experts(x, ids, weights, experts)
            # A token without experts here has nothing; others are held to what a token's result is like.
            typical = torch.where(expected.norm(dim=-1) > 0, expected.norm(dim=-1).mean(), 0.0)
            assert_close(found, expected, limit or tolerance(x.dtype, 6), f"{text}: {what}", typical)


def _inputs(experts: ExpertWeights, dtype: torch.dtype) -> list[tuple[str, Tensor, Tensor, Tensor]]:
    """(description, x, ids, weights)."""
    generator = torch.Generator().manual_seed(0)
    channels, total, top_k = experts.down[0].shape[0], experts.total, experts.top_k

    def draw(tokens: int) -> tuple[Tensor, Tensor, Tensor]:
        x = torch.randn(tokens, channels, generator=generator).to(dtype)
        ids = torch.rand(tokens, total, generator=generator).argsort(-1)[:, :top_k]
        return x, ids, 0.2 + torch.rand(tokens, top_k, generator=generator)

    found = [(f"{tokens} tokens", *draw(tokens)) for tokens in (1, 2, 7, 33)]
    x, ids, weights = draw(9)
    found.append(("all tokens at the same experts", x, ids[:1].expand(9, -1).contiguous(), weights))
    wide = torch.randn(5, 2 * channels, generator=generator).to(dtype)
    found.append(("x not contiguous", wide[:, channels:], ids[:5], weights[:5]))
    found.append(("weights that are 0", x, ids, weights * (torch.arange(top_k) > 0)))
    local = {*range(experts.first, experts.first + len(experts.down))}
    away = [number for number in range(total) if number not in local]
    if len(away) >= top_k:
        found.append(("tokens without experts", x, torch.tensor(away[:top_k]).expand(9, -1).contiguous(), weights))
    return found


def _move(experts: ExpertWeights, device: torch.device) -> ExpertWeights:
    def move(bias: Tensor | None) -> Tensor | None:
        return None if bias is None else bias.to(device)

    gate, up, down = ([w.to(device) for w in stored] for stored in (experts.gate, experts.up, experts.down))
    biases = move(experts.gate_up_bias), move(experts.down_bias)
    return replace(experts, gate=gate, up=up, down=down, gate_up_bias=biases[0], down_bias=biases[1])
