"""Experts in Triton. Without a GPU, in its interpreter, which has no bfloat16 products."""

from __future__ import annotations

import pytest
import torch

from dovetail.nn import ExpertWeights, Ops
from dovetail.nn.dense import DenseWeight
from dovetail.testing.comparison import assert_close, tolerance

pytest.importorskip("triton")

import dovetail_backends_cuda
from dovetail_backends_cuda.experts import TritonExperts

from dovetail.testing import check_kernel

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
DTYPE = torch.bfloat16 if GPU else torch.float32
_, CARD = dovetail_backends_cuda.dovetail_register_quantization()


def draw(*shape: int, seed: int) -> torch.Tensor:
    made = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * shape[-1] ** -0.5
    return made.to(DEVICE, DTYPE)


def experts(count: int, channels: int, inner: int, first: int, total: int, **changes: object) -> ExpertWeights:
    def matrices(rows: int, columns: int, seed: int) -> list[DenseWeight]:
        return [DenseWeight.of(draw(rows, columns, seed=100 * seed + i), "bfloat16") for i in range(count)]

    parts = (matrices(inner, channels, 1), matrices(inner, channels, 2), matrices(channels, inner, 3))
    return ExpertWeights(*parts, first, total, 2, **{"activation": Ops.silu_mul, **changes})  # type: ignore[arg-type]


def test_every_claim() -> None:
    changes = {} if GPU else {"devices": ("cpu",), "dtypes": ("float32",), "probe": None}
    check_kernel(CARD.model_copy(update=changes))


@pytest.mark.parametrize(("tokens", "channels", "inner"), [(1, 96, 40), (19, 136, 72), (150, 48, 200)])
def test_each_token_gets_its_experts_of_this_rank(tokens: int, channels: int, inner: int) -> None:
    made = experts(5, channels, inner, 2, 9)
    x, scores = 3 * draw(tokens, channels, seed=7), draw(tokens, 9, seed=8).float()
    weights, ids = scores.softmax(-1).topk(3, -1)
    if tokens > 100:
        ids[:, 0] = 4  # more tokens than a block takes at a time
        ids[:, 1:] = torch.tensor([2, 8], device=DEVICE)
    found = TritonExperts(made, None, DEVICE, DTYPE)(x, ids, weights)
    wanted = torch.zeros(tokens, channels, dtype=torch.float64, device=DEVICE)
    for place, (gate, up, down) in enumerate(zip(made.gate, made.up, made.down, strict=True), 2):
        g, u, d = (matrix.dense(torch.float64) for matrix in (gate, up, down))
        share = torch.where(ids == place, weights, 0.0).sum(-1, keepdim=True).double()
        wanted += share * ((torch.nn.functional.silu(x.double() @ g.T) * (x.double() @ u.T)) @ d.T)
    own = ((ids >= 2) & (ids < 7)).any(-1)
    assert_close(found[own], wanted[own], tolerance(DTYPE, 4), f"{tokens} tokens")
    assert not found[~own].any()


def test_biases_and_other_activations_are_left_to_others() -> None:
    assert TritonExperts.unsupported_reason(experts(2, 32, 32, 0, 2)) is None
    reason = TritonExperts.unsupported_reason(experts(2, 32, 32, 0, 2, down_bias=torch.zeros(2, 32)))
    assert reason == "the experts have biases"
    reason = TritonExperts.unsupported_reason(experts(2, 32, 32, 0, 2, activation=Ops.gelu_mul))
    assert reason == "the experts' activation is not silu"
