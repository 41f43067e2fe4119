"""The reference operations against the formulas of torch and of published models, and how platforms replace them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dovetail.api import PluginError
from dovetail.nn import ops
from dovetail.nn.ops import ACTIVATIONS, REFERENCES, Ops

HALVES = [torch.bfloat16, torch.float16]


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def normed(x: Tensor, eps: float) -> Tensor:
    wide = x.float()
    return wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_a_scale_is_applied_in_its_own_dtype(dtype: torch.dtype) -> None:
    """As Llama does, which rounds first; and as Gemma does, which rounds once."""
    x, scale = 3 * rand(9, 64).to(dtype), 0.3 * rand(64).to(dtype)
    rounded_first = scale * normed(x, 1e-5).to(dtype)
    rounded_once = (normed(x, 1e-5) * (1.0 + scale.float())).to(dtype)
    assert torch.equal(ops.rms_norm(x, scale, 1e-5), rounded_first)
    assert torch.equal(ops.rms_norm(x, scale.float() + 1, 1e-5), rounded_once)
    assert not torch.equal(ops.rms_norm(x, scale + 1, 1e-5), rounded_once)


@pytest.mark.parametrize("wide", [False, True])
def test_rms_norm_in_float32_is_torch_s(wide: bool) -> None:
    x, scale = rand(9, 64), rand(64, seed=1)
    torch.testing.assert_close(ops.rms_norm(x, scale, 1e-3), F.rms_norm(x, (64,), scale, 1e-3))


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("with_weight", [False, True])
def test_layer_norm_is_torch_s(with_weight: bool, with_bias: bool) -> None:
    x = 5 + 3 * rand(9, 64)
    weight = rand(64, seed=1) if with_weight else None
    bias = rand(64, seed=2) if with_bias else None
    wanted = F.layer_norm(x, (64,), weight, bias, 1e-3)
    torch.testing.assert_close(ops.layer_norm(x, weight, bias, 1e-3), wanted)
    for dtype in HALVES:  # computed in float32 and rounded once
        wide = F.layer_norm(x.to(dtype).float(), (64,), weight, bias, 1e-3)
        found = ops.layer_norm(x.to(dtype), weight, bias, 1e-3)
        assert found.dtype == dtype
        assert (found == wide.to(dtype)).float().mean() > 0.99


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=str)
def test_norms_of_a_sum_give_it_as_well_and_change_nothing(dtype: torch.dtype) -> None:
    x, residual, weight, bias = (rand(*s, seed=i).to(dtype) for i, s in enumerate(((9, 64), (9, 64), (64,), (64,))))
    before = x.clone(), residual.clone()
    out, total = ops.add_rms_norm(x, residual, weight, 1e-5)
    assert torch.equal(total, residual + x)
    assert torch.equal(out, ops.rms_norm(total, weight, 1e-5))
    out, total = ops.add_layer_norm(x, residual, weight.float(), bias.float(), 1e-5)
    assert torch.equal(total, residual + x)
    assert torch.equal(out, ops.layer_norm(total, weight.float(), bias.float(), 1e-5))
    assert torch.equal(x, before[0])
    assert torch.equal(residual, before[1])


FORMULAS: dict[str, Callable[[float], float]] = {
    "silu": lambda x: x / (1 + math.exp(-x)),
    "gelu": lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "gelu_quick": lambda x: x / (1 + math.exp(-1.702 * x)),
    "relu": lambda x: max(x, 0.0),
    "relu2": lambda x: max(x, 0.0) ** 2,
}


@pytest.mark.parametrize("name", FORMULAS)
def test_activations(name: str) -> None:
    x = 3 * rand(7, 33)
    wanted = torch.tensor([[FORMULAS[name](value) for value in row] for row in x.tolist()])
    plain, gated = Ops().activation(name), Ops().activation(name, gated=True)
    torch.testing.assert_close(plain(x), wanted)
    up = rand(7, 33, seed=1)
    torch.testing.assert_close(gated(torch.cat((x, up), -1)), wanted * up)
    for dtype in HALVES:
        found = gated(torch.cat((x, up), -1).to(dtype))
        assert found.dtype == dtype
        torch.testing.assert_close(found, plain(x.to(dtype)) * up.to(dtype))


def test_every_activation_has_a_formula_here() -> None:
    assert [activation.__name__ for activation in ACTIVATIONS] == list(FORMULAS)


@pytest.mark.parametrize("name", ["silu", "gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "relu", "relu2"])
def test_activations_are_those_of_transformers(name: str) -> None:
    activations = pytest.importorskip("transformers.activations")
    ours = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "quick_gelu": "gelu_quick"}.get(name, name)
    x = 3 * rand(7, 33)
    torch.testing.assert_close(Ops().activation(ours)(x), activations.ACT2FN[name](x))


def test_softcap() -> None:
    x = 100 * rand(7, 33)
    torch.testing.assert_close(ops.softcap(x, 30.0), 30 * torch.tanh(x / 30))
    assert ops.softcap(x, 30.0).abs().max() <= 30
    small = 0.01 * rand(7, 33)
    torch.testing.assert_close(ops.softcap(small, 30.0), small)
    assert ops.softcap(x.bfloat16(), 30.0).dtype == torch.bfloat16


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("rotated", [16, 8, 2])
def test_rope_turns_the_first_channels_of_each_head(rotated: int, interleaved: bool) -> None:
    """As products of complex numbers."""
    x, angles = rand(5, 3, 16), 10 * rand(5, rotated // 2, seed=1)
    found = ops.rope(x, angles.cos(), angles.sin(), interleaved)
    turned, rest = x[..., :rotated], x[..., rotated:]
    pairs = turned.unflatten(-1, (-1, 2)) if interleaved else turned.unflatten(-1, (2, -1)).mT
    numbers = torch.view_as_complex(pairs.contiguous()) * torch.polar(torch.ones_like(angles), angles)[:, None]
    parts = torch.view_as_real(numbers)
    wanted = parts.flatten(-2) if interleaved else parts.mT.flatten(-2)
    torch.testing.assert_close(found[..., :rotated], wanted)
    assert torch.equal(found[..., rotated:], rest)


# What a platform claims


def test_a_claimed_operation_replaces_its_reference_alone() -> None:
    made = Ops({"softcap": lambda x, cap: x})
    x = 100 * rand(3, 3)
    assert torch.equal(made.softcap(x, 1.0), x)
    others = set(REFERENCES) - {"softcap"}
    assert all(getattr(made, name) is REFERENCES[name] for name in others)
    assert Ops({"gelu_mul": ops.silu}).activation("gelu", gated=True) is ops.silu


def test_a_claimed_name_that_is_no_operation_is_refused() -> None:
    with pytest.raises(PluginError, match="operations fused_everything, which do not exist; known: rms_norm"):
        Ops({"fused_everything": ops.silu})


def test_operations_of_plugins_are_found_by_name() -> None:
    def reference(x: Tensor) -> Tensor:
        return x

    def faster(x: Tensor) -> Tensor:
        return x

    assert Ops().find("package.scan", reference) is reference
    assert Ops({"package.scan": faster}).find("package.scan", reference) is faster
    assert Ops({"package.scan": faster}).find("other.scan", reference) is reference
    with pytest.raises(PluginError, match=r"'scan'; those of plugins are named package\.operation"):
        Ops().find("scan", reference)


def test_an_activation_that_is_none_is_refused() -> None:
    with pytest.raises(PluginError, match="activation 'rms_norm', which does not exist; known: silu, gelu"):
        Ops().activation("rms_norm")


@pytest.mark.parametrize("name", REFERENCES)
def test_the_class_says_what_an_operation_takes(name: str) -> None:
    assert inspect.signature(getattr(Ops, name)) == inspect.signature(REFERENCES[name])
    assert inspect.getdoc(getattr(Ops, name)) == inspect.getdoc(REFERENCES[name])
