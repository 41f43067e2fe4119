"""Logits against transformers, over tiny random models in both layouts of their experts."""

from __future__ import annotations

from typing import Any

import dovetail_models_mixtral
import pytest
import torch
from torch import Tensor

from dovetail.testing import build_model, run_tokens

transformers = pytest.importorskip("transformers")

(CARD,) = dovetail_models_mixtral.dovetail_register_models()

BASE: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 4,
    "max_position_embeddings": 512,
    "initializer_range": 0.15,
    "attn_implementation": "eager",
    "experts_implementation": "eager",
}

CASES: dict[str, dict[str, Any]] = {
    "two of four": {},
    "one of eight": {"num_local_experts": 8, "num_experts_per_tok": 1},
    "all of three": {"num_local_experts": 3, "num_experts_per_tok": 3},
    "window": {"sliding_window": 37},
    "window, and keys of others": {
        "sliding_window": 37,
        "use_sliding_window": False,
        "layer_types": ["full_attention"] * 3,
    },
    "tied": {"tie_word_embeddings": True},
    "wide heads": {"head_dim": 48},
    "theta": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
}


def reference(changes: dict[str, Any]) -> Any:
    """A random model, its norms included."""
    torch.manual_seed(1)
    model = transformers.MixtralForCausalLM(transformers.MixtralConfig(**{**BASE, **changes})).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                parameter.copy_(1 + 0.3 * torch.randn_like(parameter))
    return model


def split(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The layout of published checkpoints, with a tensor for each matrix, from that of transformers 5."""
    found = {}
    for name, value in tensors.items():
        prefix = name.replace(".mlp.", ".block_sparse_moe.").rpartition(".")[0]
        if name.endswith("experts.gate_up_proj"):
            for expert, both in enumerate(value):
                gate, up = both.chunk(2)
                found |= {f"{prefix}.{expert}.w1.weight": gate, f"{prefix}.{expert}.w3.weight": up}
        elif name.endswith("experts.down_proj"):
            found |= {f"{prefix}.{expert}.w2.weight": down for expert, down in enumerate(value)}
        else:
            found[name.replace(".mlp.", ".block_sparse_moe.")] = value
    return found


def checkpoint(theirs: Any, layout: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    config = theirs.config.to_dict() | {"architectures": ["MixtralForCausalLM"]}
    tensors = dict(theirs.state_dict())
    if config["tie_word_embeddings"]:
        del tensors["lm_head.weight"]  # as saved checkpoints have it
    return config, tensors if layout == "stacked" else split(tensors)


@pytest.mark.parametrize("layout", ["stacked", "separate"])
@pytest.mark.parametrize("case", CASES)
def test_logits_equal_those_of_transformers(case: str, layout: str) -> None:
    theirs = reference(CASES[case])
    tokens = torch.randint(0, BASE["vocab_size"], (100,), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        wanted = theirs(tokens[None]).logits[0]
    assert wanted.std() > 0.05, "the reference's logits are too flat to show a difference"
    config, tensors = checkpoint(theirs, layout)
    assert ("model.layers.0.block_sparse_moe.experts.0.w1.weight" in tensors) == (layout == "separate")
    model, ctx = build_model(CARD, config, tensors, max_tokens=len(tokens))
    for chunks in (None, [1, 40, 1, 1, 57]):
        torch.testing.assert_close(run_tokens(model, ctx, tokens.tolist(), chunks), wanted, rtol=0, atol=1e-4)
