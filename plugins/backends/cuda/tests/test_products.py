"""Products of few tokens. Without a GPU, in Triton's interpreter, which has no bfloat16 products."""

from __future__ import annotations

import pytest
import torch

from dovetail.nn import Gate, Ops
from dovetail.nn.dense import DenseWeight
from dovetail.testing import check_kernel
from dovetail.testing.comparison import assert_close, tolerance

pytest.importorskip("triton")

import dovetail_backends_cuda
from dovetail_backends_cuda.products import (
    SmallBatchKernel,
    TiledMatrix,
    Tiling,
    choose_tiling,
    multiply_one,
    multiply_some,
)

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
DTYPES = [torch.bfloat16, torch.float16] if GPU else [torch.float32, torch.float16]
CARD, _ = dovetail_backends_cuda.dovetail_register_quantization()
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
gates = pytest.mark.parametrize("gated", [False, True])


def draw(tokens: int, n: int, k: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(tokens)
    x, weight = torch.randn(tokens, k, generator=generator), torch.randn(n, k, generator=generator) * k**-0.5
    return x.to(DEVICE, dtype), weight.to(DEVICE, dtype)


def check(found: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, gated: bool) -> None:
    wanted = x.double() @ weight.double().T
    assert found.dtype == x.dtype
    assert_close(found, Ops.silu_mul(wanted) if gated else wanted, tolerance(x.dtype, 2), f"gated {gated}")


def test_every_claim() -> None:
    changes = {} if GPU else {"devices": ("cpu",), "dtypes": ("float32", "float16"), "probe": None}
    check_kernel(CARD.model_copy(update=changes))


@dtypes
@gates
@pytest.mark.parametrize(("n", "k"), [(34, 64), (96, 80), (18, 4096), (6, 9000), (2, 17000)])
def test_one_token(n: int, k: int, dtype: torch.dtype, gated: bool) -> None:
    x, weight = draw(1, n, k, dtype)
    check(multiply_one(x, weight, gated), x, weight, gated)


@dtypes
@gates
@pytest.mark.parametrize("tiling", [None, Tiling(32, 128, 4)], ids=str)
@pytest.mark.parametrize(("tokens", "n", "k"), [(1, 34, 64), (5, 96, 80), (33, 130, 576), (64, 258, 1024)])
def test_some_tokens(tokens: int, n: int, k: int, dtype: torch.dtype, gated: bool, tiling: Tiling | None) -> None:
    x, weight = draw(tokens, n, k, dtype)
    check(multiply_some(x, TiledMatrix(weight), gated, tiling), x, weight, gated)


@dtypes
@gates
@pytest.mark.parametrize(("n", "k"), [(34, 64), (18, 4096), (6, 9000)])
def test_one_token_with_its_norm_and_what_is_added(n: int, k: int, dtype: torch.dtype, gated: bool) -> None:
    x, weight = draw(1, n, k, dtype)
    scale, residual = draw(1, n // (1 + gated), k, dtype)[0][0] + 1, draw(1, 1, n // (1 + gated), dtype)[0]
    found = multiply_one(x, weight, gated, norm=(scale, 1e-3), residual=residual)
    wanted = Ops.rms_norm(x.double(), scale.double(), 1e-3) @ weight.double().T
    wanted = (Ops.silu_mul(wanted) if gated else wanted) + residual.double()
    assert_close(found, wanted, tolerance(dtype, 2), f"gated {gated}")


def test_a_kernel_defers_norms_of_one_token() -> None:
    dtype = DTYPES[0]
    x, weight = draw(1, 96, 96, dtype)
    kernel = SmallBatchKernel(DenseWeight.of(weight, "bfloat16"), "linear", DEVICE, dtype)
    assert [kernel.defers(tokens) for tokens in (0, 1, 2)] == [False, True, False]
    scale = torch.full((96,), 1.5, device=DEVICE, dtype=dtype)
    between = kernel.multiply_and_add(x, x, scale, 1e-5)
    wanted = Ops.rms_norm(between.total.double(), scale.double(), 1e-5) @ weight.double().T
    for gate in (None, Gate("silu_mul", Ops.silu_mul), Gate("gelu_mul", Ops.gelu_mul)):
        found = kernel.multiply_deferred(between, gate)
        assert_close(found, wanted if gate is None else gate(wanted), tolerance(dtype, 4), str(gate))


@gates
@pytest.mark.parametrize("tokens", [1, 2, 16, 17, 64, 65, 300])
def test_the_kernel_gates_every_number_of_tokens(tokens: int, gated: bool) -> None:
    dtype = DTYPES[0]
    x, weight = draw(tokens, 96, 80, dtype)
    kernel = SmallBatchKernel(DenseWeight.of(weight, "bfloat16"), "linear", DEVICE, dtype)
    found = kernel.multiply_gated(x, Gate("silu_mul", Ops.silu_mul)) if gated else kernel(x)
    check(found, x, weight, gated)


def test_another_gate_is_left_to_its_operation() -> None:
    x, weight = draw(2, 96, 80, DTYPES[0])
    kernel = SmallBatchKernel(DenseWeight.of(weight, "bfloat16"), "linear", DEVICE, DTYPES[0])
    found = kernel.multiply_gated(x, Gate("gelu_mul", Ops.gelu_mul))
    assert_close(found, Ops.gelu_mul(x.double() @ weight.double().T), tolerance(x.dtype, 3), "gelu")


@pytest.mark.parametrize("tokens", [16, 32, 64])
@pytest.mark.parametrize("n", [64, 4096, 6144, 28672])
@gates
def test_tilings_fit_a_processor(tokens: int, n: int, gated: bool) -> None:
    tiling = choose_tiling(tokens, n, gated)
    assert (tokens + tiling.rows) * tiling.columns * 2 * tiling.stages <= 227 << 10
    assert tiling.rows // (1 + gated) >= (64 if tiling.weight_first else 16)
