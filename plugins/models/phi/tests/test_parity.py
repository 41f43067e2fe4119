"""Results against transformers, over tiny random models that between them use every branch of the configurations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dovetail_models_phi import dovetail_register_models

from dovetail.testing import build_model, check_parity, random_checkpoint, run_tokens

CARDS = {card.name: card for card in dovetail_register_models()}

BASE: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "pad_token_id": None,
}
EXPERTS: dict[str, Any] = {"num_key_value_heads": 2, "num_local_experts": 6, "intermediate_size": 48}


def rotated(part: float, theta: float = 10000.0) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": theta, "partial_rotary_factor": part}}


def longrope(channels: int = 8, original: int = 64, **more: Any) -> dict[str, Any]:
    """As published files have it; the original length is within the prompt, or not."""
    lists = {
        "short_factor": [1.0 + 0.05 * i for i in range(channels)],
        "long_factor": [1.5 + 0.8 * i for i in range(channels)],
    }
    return {
        "rope_scaling": {"type": "longrope", **lists, **more},
        "rope_theta": 10000.0,
        "original_max_position_embeddings": original,
    }


MSCALES = {"short_mscale": 1.1, "long_mscale": 1.3}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "phi": ("phi", {}),
    "phi, a quarter is rotated": ("phi", rotated(0.25)),
    "phi, published": ("phi", {"partial_rotary_factor": 0.25, "rope_theta": 500.0, "rope_scaling": None}),
    "phi, all is rotated": ("phi", rotated(1.0, 500.0)),
    "phi, grouped": ("phi", {"num_key_value_heads": 2}),
    "phi, norms of queries and keys": ("phi", {"qk_layernorm": True}),
    "phi, exact gelu": ("phi", {"hidden_act": "gelu"}),
    "phi, other epsilon": ("phi", {"layer_norm_eps": 1e-2}),
    "phi, linear": ("phi", {"rope_scaling": {"type": "linear", "factor": 4.0}}),
    "phi, dynamic": ("phi", {"rope_scaling": {"type": "dynamic", "factor": 4.0}, "max_position_embeddings": 64}),
    "phi, yarn": ("phi", {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}}),
    "phi, no head": ("phi-embedding", {}),
    "phi, labels": ("phi-classifier", {"num_labels": 3}),
    "phi3": ("phi3", {}),
    "phi3, grouped": ("phi3", {"num_key_value_heads": 2, "tie_word_embeddings": True}),
    "phi3, wide heads": ("phi3", {"head_dim": 24, "hidden_act": "gelu", "rms_norm_eps": 1e-2}),
    "phi3, window": ("phi3", {"sliding_window": 23, "rope_theta": 500.0}),
    "phi3, window, and keys of others": ("phi3", {"sliding_window": 23, "use_sliding_window": False}),
    "phi3, a part is rotated": ("phi3", {"partial_rotary_factor": 0.75, "num_key_value_heads": 1}),
    "phi3, long": ("phi3", longrope()),
    "phi3, short": ("phi3", longrope(original=128)),
    "phi3, long, a part is rotated": ("phi3", {**longrope(6), "partial_rotary_factor": 0.75}),
    "phi3, factor": ("phi3", longrope(factor=8.0)),
    "phi3, attention factor": ("phi3", longrope(attention_factor=1.7)),
    "phi3, no head": ("phi3-embedding", {}),
    "phi3, labels": ("phi3-classifier", {"num_labels": 3}),
    "phimoe": ("phimoe", EXPERTS),
    "phimoe, many share the weight": ("phimoe", {**EXPERTS, "router_jitter_noise": 0.4}),
    "phimoe, none shares the weight": ("phimoe", {**EXPERTS, "router_jitter_noise": 0.0}),
    "phimoe, biases": ("phimoe", {**EXPERTS, "attention_bias": True, "lm_head_bias": True}),
    "phimoe, window": ("phimoe", {**EXPERTS, "sliding_window": 23, "rope_theta": 500.0}),
    "phimoe, tied": ("phimoe", {**EXPERTS, "tie_word_embeddings": True, "hidden_act": "gelu", "rms_norm_eps": 1e-2}),
    "phimoe, short": ("phimoe", {**EXPERTS, **longrope(original=128, **MSCALES)}),
    "phimoe, no head": ("phimoe-embedding", EXPERTS),
    "phimoe, labels": ("phimoe-classifier", {**EXPERTS, "num_labels": 3}),
}


@pytest.mark.parametrize("case", CASES)
def test_the_original_gives_the_same_results(case: str) -> None:
    name, changes = CASES[case]
    check_parity(CARDS[name], {**BASE, **changes})


def test_long_contexts_of_phimoe_have_the_long_list() -> None:
    """As in the original code. transformers takes the short list for all, so there it is given the long one twice."""
    transformers = pytest.importorskip("transformers")
    config = {**BASE, **EXPERTS, **longrope(**MSCALES, original_max_position_embeddings=64)}

    def original(config: dict[str, Any]) -> torch.nn.Module:
        scaling = {**config.pop("rope_scaling")}
        scaling["short_factor"] = scaling["long_factor"]
        model: torch.nn.Module = transformers.PhimoeForCausalLM(
            transformers.PhimoeConfig(**config, rope_scaling=scaling, attn_implementation="eager")
        )
        return model

    check_parity(CARDS["phimoe"], config, original)


def test_experts_by_the_names_that_transformers_has_in_memory() -> None:
    config = {**BASE, **EXPERTS}
    tensors = random_checkpoint(CARDS["phimoe"], config)
    renamed = {k.replace("moe.gate.", "moe.router.").replace("block_sparse_moe", "mlp"): v for k, v in tensors.items()}
    assert renamed.keys() != tensors.keys()
    found = [run_tokens(*build_model(CARDS["phimoe"], config, form), list(range(9))) for form in (tensors, renamed)]
    assert torch.equal(*found)
