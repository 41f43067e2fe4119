"""The operation ``route``: each token's experts, against the routers of transformers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from dovetail.nn import Ops


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def run_without_values(function: Callable[..., Any], *arguments: Tensor) -> Any:
    """Run with tensors that have shapes and no values, so that whatever reads one on the host fails."""
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        return function(*map(mode.from_tensor, arguments))


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"renormalize": False},
        {"scoring": "sigmoid", "bias": random(32) * 0.1, "groups": 4, "top_groups": 2, "scale": 2.5},
        {"groups": 8, "top_groups": 3, "renormalize": False, "scale": 16.0},
    ],
)
def test_a_token_is_routed_alone_and_without_the_host(arguments: dict[str, Any]) -> None:
    logits = random(50, 32).bfloat16()  # so coarse that scores are often the same
    ids, weights = Ops().route(logits, 6, **arguments)
    shapes = run_without_values(lambda given: Ops().route(given, 6, **arguments), logits)
    assert [part.shape for part in shapes] == [ids.shape, weights.shape]
    assert (ids.dtype, weights.dtype) == (torch.int64, torch.float32)
    assert all(len(set(row)) == 6 for row in ids.tolist())
    for row in (0, 17, 49):
        alone = Ops().route(logits[row : row + 1], 6, **arguments)
        assert torch.equal(alone[0][0], ids[row])
        assert torch.equal(alone[1][0], weights[row])
    assert [part.shape for part in Ops().route(logits[:0], 6, **arguments)] == [(0, 6), (0, 6)]


def test_experts_come_in_falling_order_of_their_scores() -> None:
    ids, weights = Ops().route(random(20, 16), 5)
    assert (weights.diff(dim=-1) <= 0).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(20))
    assert torch.equal(ids, random(20, 16).argsort(-1, descending=True)[:, :5])


@pytest.mark.parametrize("scoring", ["softmax", "sigmoid"])
def test_extreme_logits_give_finite_weights(scoring: str) -> None:
    for scale in (1e4, -1e4):
        _, weights = Ops().route(torch.full((2, 8), scale), 3, scoring)
        assert weights.isfinite().all()


def assert_routed_alike(found: tuple[Tensor, Tensor], ids: Tensor, weights: Tensor, atol: float = 1e-6) -> None:
    """The same weights for the same experts, in whatever order."""
    dense = torch.zeros(len(ids), 64)
    torch.testing.assert_close(dense.scatter(1, *found), dense.scatter(1, ids, weights.float()), rtol=1e-5, atol=atol)


def router_of(name: str, router: str, **keys: Any) -> Any:
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{name}Config")(hidden_size=64, num_attention_heads=4, **keys)
    module = pytest.importorskip(f"transformers.models.{router}")
    found = next(value for key, value in vars(module).items() if key.lower().endswith("topkrouter"))(config).eval()
    with torch.no_grad():
        for index, parameter in enumerate(found.parameters()):
            parameter.copy_(random(*parameter.shape, seed=index) * (0.3 if parameter.dim() > 1 else 1.0))
    return found


def coarse(logits: Tensor, ties: bool) -> Tensor:
    return (logits * 2).round() / 2 if ties else logits


ROUTERS: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "Mixtral": (
        "Mixtral",
        "mixtral.modeling_mixtral",
        {"num_local_experts": 8, "num_experts_per_tok": 2},
        {"top_k": 2},
    ),
    "Qwen3-MoE": (
        "Qwen3Moe",
        "qwen3_moe.modeling_qwen3_moe",
        {"num_experts": 16, "num_experts_per_tok": 4, "norm_topk_prob": True},
        {"top_k": 4},
    ),
    "Qwen3-MoE, not renormalized": (
        "Qwen3Moe",
        "qwen3_moe.modeling_qwen3_moe",
        {"num_experts": 16, "num_experts_per_tok": 4, "norm_topk_prob": False},
        {"top_k": 4, "renormalize": False},
    ),
    "DeepSeek-V2": (
        "DeepseekV2",
        "deepseek_v2.modeling_deepseek_v2",
        {"n_routed_experts": 16, "num_experts_per_tok": 3, "routed_scaling_factor": 2.0, "topk_method": "greedy"},
        {"top_k": 3, "renormalize": False, "scale": 2.0},
    ),
    "DeepSeek-V2, groups": (
        "DeepseekV2",
        "deepseek_v2.modeling_deepseek_v2",
        {
            "n_routed_experts": 32,
            "num_experts_per_tok": 6,
            "routed_scaling_factor": 16.0,
            "topk_method": "group_limited_greedy",
            "n_group": 8,
            "topk_group": 3,
        },
        {"top_k": 6, "renormalize": False, "scale": 16.0, "groups": 8, "top_groups": 3},
    ),
    "DeepSeek-V3": (
        "DeepseekV3",
        "deepseek_v3.modeling_deepseek_v3",
        {
            "n_routed_experts": 32,
            "num_experts_per_tok": 4,
            "routed_scaling_factor": 2.5,
            "n_group": 4,
            "topk_group": 2,
            "norm_topk_prob": True,
        },
        {"top_k": 4, "scoring": "sigmoid", "scale": 2.5, "groups": 4, "top_groups": 2},
    ),
    "DeepSeek-V3, not renormalized": (
        "DeepseekV3",
        "deepseek_v3.modeling_deepseek_v3",
        {
            "n_routed_experts": 8,
            "num_experts_per_tok": 3,
            "routed_scaling_factor": 1.0,
            "n_group": 1,
            "topk_group": 1,
            "norm_topk_prob": False,
        },
        {"top_k": 3, "scoring": "sigmoid", "renormalize": False},
    ),
    "GPT-OSS": (
        "GptOss",
        "gpt_oss.modeling_gpt_oss",
        {"num_local_experts": 32, "num_experts_per_tok": 4},
        {"top_k": 4},
    ),
}


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("name", ROUTERS)
def test_routing_is_that_of_transformers(name: str, ties: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    family, module, keys, arguments = ROUTERS[name]
    router = router_of(family, module, **keys)
    arguments = dict(arguments)
    if "e_score_correction_bias" in dict(router.named_buffers()):
        router.e_score_correction_bias.copy_(random(len(router.e_score_correction_bias)) * 0.2)
        arguments["bias"] = router.e_score_correction_bias
    linear = torch.nn.functional.linear
    monkeypatch.setattr(torch.nn.functional, "linear", lambda *given: coarse(linear(*given), ties))
    logits, weights, ids = router(random(64, 64, seed=9))
    assert len(set(logits.flatten().tolist())) < logits.numel() / 4 if ties else True
    assert_routed_alike(Ops().route(logits, **arguments), ids, weights)
