"""Self-attention and MLPs against plain torch, in every form in which models use them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dovetail.nn import MLP, Context, GatedMLP, Ops, PoolingModel, Rope, SelfAttention, Step
from dovetail.nn.loading import WeightReader
from dovetail.testing import ReferenceAttention, lazy_tensors, run_tokens
from dovetail.testing.harness import dense_choices

CPU = torch.device("cpu")
T, C, H, K, D = 11, 32, 4, 2, 8
ANGLES = 3 * torch.randn(64, D // 2, generator=torch.Generator().manual_seed(9))


def rand(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * shape[-1] ** -0.5


class Single(PoolingModel):
    """The rows of a table, and one block."""

    def __init__(self, ctx: Context, make: Callable[[Context], Any], rotated: int | None) -> None:
        super().__init__()
        self.embedding = ctx.embedding("table", T, C)
        self.block = make(ctx)
        self.rotated = rotated

    def forward(self, step: Step) -> Tensor:
        x = self.embedding(step.tokens)
        if not isinstance(self.block, SelfAttention):
            return self.block(x)
        angles = ANGLES[step.positions, : (self.rotated or 0) // 2]
        return self.block(x, Rope(angles.cos(), angles.sin()) if self.rotated else None, step)


INPUT = 2 * torch.randn(T, C, generator=torch.Generator().manual_seed(8))


def run(
    make: Callable[[Context], Any],
    tensors: Mapping[str, Tensor],
    rotated: int | None = None,
    chunks: int | None = None,
) -> Tensor:
    """The block's output for the rows of ``INPUT``."""
    backend = ReferenceAttention(device=CPU, dtype=torch.float32, kv_dtype=torch.float32, block_size=8)
    ctx = Context(device=CPU, dtype=torch.float32, ops=Ops(), attention=backend, max_tokens=64)
    model = Single(ctx, make, rotated)
    WeightReader(ctx, dense_choices(), {}).load(lazy_tensors({"table.weight": INPUT, **tensors}))
    return run_tokens(model, ctx, list(range(T)), chunks)


PROJECTIONS = {
    "a.q_proj.weight": rand(H * D, C, seed=1),
    "a.k_proj.weight": rand(K * D, C, seed=2),
    "a.v_proj.weight": rand(K * D, C, seed=3),
    "a.o_proj.weight": rand(C, H * D, seed=4),
}
BIASES = {f"a.{part}_proj.bias": rand(rows, seed=5) for part, rows in (("q", H * D), ("k", K * D), ("v", K * D))}


def attention(**options: Any) -> Callable[[Context], SelfAttention]:
    shape = {"channels": C, "num_heads": H, "num_kv_heads": K, "head_dim": D}
    return lambda ctx: SelfAttention(ctx, "a", **{**shape, **options})


def wanted(
    tensors: Mapping[str, Tensor] = PROJECTIONS,
    *,
    rotated: int = 0,
    interleaved: bool = False,
    scale: float = D**-0.5,
    window: int = T,
    causal: bool = True,
    softcap: float | None = None,
    norm: Callable[[Tensor, str], Tensor] = lambda x, name: x,
    norm_after: bool = False,
) -> Tensor:
    """The same, in plain torch. ``norm`` gets ``[T, heads, D]``."""
    q, k, v = (
        F.linear(INPUT, tensors[f"a.{n}_proj.weight"], tensors.get(f"a.{n}_proj.bias")).unflatten(-1, (-1, D))
        for n in "qkv"
    )
    if not norm_after:
        q, k = norm(q, "q"), norm(k, "k")
    if rotated:
        cos, sin = ANGLES[:T, None, : rotated // 2].cos(), ANGLES[:T, None, : rotated // 2].sin()
        q, k = (turn(x, cos, sin, rotated, interleaved) for x in (q, k))
    if norm_after:
        q, k = norm(q, "q"), norm(k, "k")
    k, v = (x.repeat_interleave(H // K, 1) for x in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q, k) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    distance = torch.arange(T)[:, None] - torch.arange(T)
    if causal:
        scores = scores.masked_fill((distance < 0) | (distance >= window), float("-inf"))
    mixed = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v).flatten(-2)
    return F.linear(mixed, tensors["a.o_proj.weight"], tensors.get("a.o_proj.bias"))


def turn(x: Tensor, cos: Tensor, sin: Tensor, rotated: int, interleaved: bool) -> Tensor:
    out = x.clone()
    half = rotated // 2
    for i in range(half):
        a, b = (2 * i, 2 * i + 1) if interleaved else (i, i + half)
        out[..., a] = x[..., a] * cos[..., i] - x[..., b] * sin[..., i]
        out[..., b] = x[..., b] * cos[..., i] + x[..., a] * sin[..., i]
    return out


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("chunks", [None, 1, 4])
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("rotated", [0, 4, 8])
def test_rotary_embeddings_on_all_of_a_head_a_part_or_none(rotated: int, interleaved: bool, chunks: int | None) -> None:
    found = run(attention(interleaved=interleaved), PROJECTIONS, rotated, chunks)
    close(found, wanted(rotated=rotated, interleaved=interleaved))


@pytest.mark.parametrize(
    "options",
    [{"scale": 0.1}, {"window": 3}, {"softcap": 0.7}, {"causal": False}, {"softcap": 0.7, "window": 3, "scale": 0.5}],
    ids=str,
)
def test_attention_is_what_was_asked_for(options: dict[str, Any]) -> None:
    expected = wanted(rotated=D, **options)
    assert not torch.allclose(expected, wanted(rotated=D), rtol=1e-2)
    close(run(attention(**options), PROJECTIONS, D), expected)


def test_biases() -> None:
    out = {"a.o_proj.bias": rand(C, seed=6)}
    close(run(attention(bias=True), PROJECTIONS | BIASES), wanted(PROJECTIONS | BIASES))
    close(run(attention(out_bias=True), PROJECTIONS | out), wanted(PROJECTIONS | out))
    both = PROJECTIONS | BIASES | out
    close(run(attention(bias=True, out_bias=True), both), wanted(both))


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_one_tensor_for_queries_keys_and_values(bias: bool, transposed: bool) -> None:
    fused = {
        "a.qkv.weight": torch.cat([PROJECTIONS[f"a.{n}_proj.weight"] for n in "qkv"]),
        "a.out.weight": PROJECTIONS["a.o_proj.weight"],
    }
    if transposed:
        fused = {name: weight.T.contiguous() for name, weight in fused.items()}
    if bias:
        fused["a.qkv.bias"] = torch.cat([BIASES[f"a.{n}_proj.bias"] for n in "qkv"])
    found = run(attention(names=("qkv", "out"), bias=bias, transposed=transposed), fused, D)
    close(found, wanted(PROJECTIONS | BIASES if bias else PROJECTIONS, rotated=D))


@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_norms_of_each_head(kind: Any) -> None:
    norms = {"a.q_norm.weight": 1 + rand(D, seed=6), "a.k_norm.weight": 1 + rand(D, seed=7)}
    if kind == "layer":
        norms |= {"a.q_norm.bias": rand(D, seed=10), "a.k_norm.bias": rand(D, seed=11)}

    def make(ctx: Context) -> SelfAttention:
        return attention(qk_norm=partial(ctx.norm, eps=1e-3, kind=kind, bias=kind == "layer"))(ctx)

    def norm(x: Tensor, name: str) -> Tensor:
        weight = norms[f"a.{name}_norm.weight"]
        if kind == "rms":
            return F.rms_norm(x, (D,), weight, 1e-3)
        return F.layer_norm(x, (D,), weight, norms[f"a.{name}_norm.bias"], 1e-3)

    close(run(make, PROJECTIONS | norms, 4), wanted(rotated=4, norm=norm))


@pytest.mark.parametrize("chunks", [None, 4])
@pytest.mark.parametrize("rotated", [0, 4, D])
@pytest.mark.parametrize("by", ["head", "whole"])
def test_norms_after_the_rotary_embedding(by: Any, rotated: int, chunks: int | None) -> None:
    sizes = {"q": D, "k": D} if by == "head" else {"q": H * D, "k": K * D}
    norms = {f"a.{name}_norm.weight": 1 + 3 * rand(size, seed=size) for name, size in sizes.items()}

    def make(ctx: Context) -> SelfAttention:
        return attention(qk_norm=partial(ctx.norm, eps=1e-3), norm_by=by, norm_after=True)(ctx)

    def norm(x: Tensor, name: str) -> Tensor:
        weight = norms[f"a.{name}_norm.weight"]
        flat = x if by == "head" else x.flatten(-2)
        return F.rms_norm(flat, weight.shape, weight, 1e-3).reshape(x.shape)

    found, expected = (
        run(make, PROJECTIONS | norms, rotated, chunks),
        partial(wanted, rotated=rotated, norm=norm),
    )
    close(found, expected(norm_after=True))
    if rotated:
        assert not torch.allclose(found, expected(), atol=1e-3)


def test_norms_of_all_heads_together() -> None:
    norms = {"a.q_layernorm.weight": 1 + rand(H * D, seed=6), "a.k_layernorm.weight": 1 + rand(K * D, seed=7)}

    def make(ctx: Context) -> SelfAttention:
        norm = partial(ctx.norm, eps=1e-3)
        return attention(qk_norm=norm, norm_by="whole", norm_names=("q_layernorm", "k_layernorm"))(ctx)

    def norm(x: Tensor, name: str) -> Tensor:
        weight = norms[f"a.{name}_layernorm.weight"]
        return F.rms_norm(x.flatten(-2), (len(weight),), weight, 1e-3).view_as(x)

    close(run(make, PROJECTIONS | norms, D), wanted(rotated=D, norm=norm))


INNER = 48
GATE, UP, DOWN = rand(INNER, C, seed=1), rand(INNER, C, seed=2), rand(C, INNER, seed=3)
SHIFTS = {"gate": rand(INNER, seed=4), "up": rand(INNER, seed=5), "down": rand(C, seed=6)}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("activation", ["silu", "gelu_tanh", "relu2"])
def test_gated_mlps(activation: str, fused: bool, bias: bool) -> None:
    if fused:
        tensors = {"m.gate_up.weight": torch.cat((GATE, UP)), "m.down.weight": DOWN}
        tensors |= (
            {"m.gate_up.bias": torch.cat((SHIFTS["gate"], SHIFTS["up"])), "m.down.bias": SHIFTS["down"]} if bias else {}
        )
        names: Any = ("gate_up", "down")
    else:
        tensors = {f"m.{n}_proj.weight": w for n, w in (("gate", GATE), ("up", UP), ("down", DOWN))}
        tensors |= {f"m.{n}_proj.bias": shift for n, shift in SHIFTS.items()} if bias else {}
        names = ("gate_proj", "up_proj", "down_proj")
    found = run(lambda ctx: GatedMLP(ctx, "m", C, INNER, activation=activation, bias=bias, names=names), tensors)
    gate, up, down = (SHIFTS[n] if bias else None for n in ("gate", "up", "down"))
    gated = Ops().activation(activation)(F.linear(INPUT, GATE, gate)) * F.linear(INPUT, UP, up)
    close(found, F.linear(gated, DOWN, down))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("activation", ["gelu", "gelu_quick", "relu"])
def test_plain_mlps(activation: str, transposed: bool, bias: bool) -> None:
    tensors = {"m.c_fc.weight": UP, "m.c_proj.weight": DOWN}
    if transposed:
        tensors = {name: weight.T.contiguous() for name, weight in tensors.items()}
    tensors |= {"m.c_fc.bias": SHIFTS["up"], "m.c_proj.bias": SHIFTS["down"]} if bias else {}

    def make(ctx: Context) -> MLP:
        return MLP(
            ctx,
            "m",
            C,
            INNER,
            activation=activation,
            bias=bias,
            names=("c_fc", "c_proj"),
            transposed=transposed,
        )

    up, down = (SHIFTS[n] if bias else None for n in ("up", "down"))
    inner = Ops().activation(activation)(F.linear(INPUT, UP, up))
    close(run(make, tensors), F.linear(inner, DOWN, down))
