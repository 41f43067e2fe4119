"""Norms, heads and linear layers as a context makes them and a checkpoint fills them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dovetail.api import CheckpointError
from dovetail.nn import Context, Ops
from dovetail.nn.loading import WeightReader
from dovetail.testing import ReferenceAttention, lazy_tensors
from dovetail.testing.harness import dense_choices

CPU = torch.device("cpu")


def context(dtype: torch.dtype = torch.float32, ops: Ops | None = None) -> Context:
    backend = ReferenceAttention(device=CPU, dtype=dtype, kv_dtype=dtype, block_size=8)
    return Context(device=CPU, dtype=dtype, ops=ops or Ops(), attention=backend, max_tokens=64)


def fill(ctx: Context, tensors: Mapping[str, Tensor]) -> None:
    WeightReader(ctx, dense_choices(), {}).load(lazy_tensors(tensors))


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize("wide", [False, True])
def test_rms_norm_holds_its_scale_in_the_dtype_that_it_is_applied_in(wide: bool, offset: float) -> None:
    stored, x = rand(32), rand(5, 32, seed=1).bfloat16()
    ctx = context(torch.bfloat16)
    norm = ctx.norm("norm", 32, 1e-5, offset=offset, wide=wide)
    fill(ctx, {"norm.weight": stored})
    dtype = torch.float32 if wide else torch.bfloat16
    assert norm.weight.dtype == dtype
    assert torch.equal(norm.weight, stored.to(dtype) + offset)
    assert torch.equal(norm(x), Ops().rms_norm(x, norm.weight, 1e-5))
    residual = rand(5, 32, seed=2).bfloat16()
    assert all(map(torch.equal, norm.add(x, residual), Ops().add_rms_norm(x, residual, norm.weight, 1e-5)))


@pytest.mark.parametrize("bias", [False, True])
def test_layer_norm(bias: bool) -> None:
    tensors = {"norm.weight": rand(32), **({"norm.bias": rand(32, seed=1)} if bias else {})}
    ctx = context(torch.bfloat16)
    norm = ctx.norm("norm", 32, 1e-3, kind="layer", bias=bias)
    fill(ctx, tensors)
    x, residual = (rand(5, 32, seed=seed).bfloat16() for seed in (2, 3))
    wanted = F.layer_norm(x.float(), (32,), tensors["norm.weight"], tensors.get("norm.bias"), 1e-3)
    torch.testing.assert_close(norm(x), wanted.bfloat16())
    out, total = norm.add(x, residual)
    assert torch.equal(total, residual + x)
    assert torch.equal(out, norm(total))


@pytest.mark.parametrize(("kind", "bias"), [("rms", False), ("layer", False), ("layer", True)])
def test_a_norm_asks_for_its_tensors_and_no_others(kind: Any, bias: bool) -> None:
    tensors = {"norm.weight": rand(32), "norm.bias": rand(32)}
    ctx = context()
    ctx.norm("norm", 32, 1e-5, kind=kind, bias=bias)
    if bias:
        fill(ctx, tensors)
        tensors.pop("norm.bias")
        ctx = context()
        ctx.norm("norm", 32, 1e-5, kind=kind, bias=bias)
    with pytest.raises(CheckpointError, match=r"norm\.bias"):
        fill(ctx, tensors)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("tied", [False, True])
def test_heads(tied: bool, softcap: float | None, bias: bool) -> None:
    ctx = context()
    table, weight, shift, x = rand(40, 32), rand(40, 32, seed=1), rand(40, seed=2), rand(5, 32, seed=3)
    embedding = ctx.embedding("embedding", 40, 32)
    head = ctx.head("head", 32, 40, tied=embedding if tied else None, bias=bias, softcap=softcap)
    tensors = {"embedding.weight": table}
    tensors |= {} if tied else {"head.weight": weight}
    tensors |= {"head.bias": shift} if bias else {}
    fill(ctx, tensors)
    logits = x @ (table if tied else weight).T + (shift if bias else 0)
    wanted = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    torch.testing.assert_close(head(x), wanted)


def test_a_head_s_cap_is_the_platform_s_operation() -> None:
    ctx = context(ops=Ops({"softcap": lambda x, cap: torch.full_like(x, cap)}))
    head = ctx.head("head", 32, 40, softcap=7.0)
    fill(ctx, {"head.weight": rand(40, 32)})
    assert (head(rand(5, 32)) == 7.0).all()


def test_models_use_operations_of_their_own_package_through_the_platform() -> None:
    def reference(x: Tensor) -> Tensor:
        return x

    claimed = {"package.double": lambda x: 2 * x}
    assert context().op("package.double", reference) is reference
    assert context(ops=Ops(claimed)).op("package.double", reference) is claimed["package.double"]


@pytest.mark.parametrize("bias", [False, True, "optional"])
def test_a_weight_that_is_stored_the_other_way_round(bias: Any) -> None:
    weight, shift, x = rand(48, 32), rand(48, seed=1), rand(5, 32, seed=2)
    ctx = context()
    layer = ctx.linear("layer", 32, 48, bias=bias, transposed=True)
    fill(ctx, {"layer.weight": weight.T.contiguous(), **({"layer.bias": shift} if bias else {})})
    torch.testing.assert_close(layer(x), F.linear(x, weight, shift if bias else None))
