"""Results against transformers, over tiny random models that between them use every branch of the configurations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dovetail_models_qwen_moe import dovetail_register_models
from torch import Tensor

from dovetail.testing import build_model, check_parity, run_tokens

transformers = pytest.importorskip("transformers")

CARDS = {card.name: card for card in dovetail_register_models()}
BOTH = ["qwen2-moe", "qwen3-moe"]

SMALL: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 112,
    "moe_intermediate_size": 40,
    "num_experts": 5,
    "num_experts_per_tok": 3,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
SHARED = {"shared_expert_intermediate_size": 56}
PUBLISHED = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "decoder_sparse_step": 1,
    "eos_token_id": 2,
    "head_dim": 16,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "max_window_layers": 48,
    "mlp_only_layers": [],
    "norm_topk_prob": True,
    "output_router_logits": False,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "router_aux_loss_coef": 0.001,
    "sliding_window": None,
    "use_cache": True,
    "use_sliding_window": False,
}
"""What the file of Qwen3-30B-A3B has beside sizes."""
WINDOW = {"use_sliding_window": True, "sliding_window": 9}
LONGROPE = {"type": "longrope", "short_factor": [1.5] * 8, "long_factor": [1.0 + i for i in range(8)]}

CASES: dict[str, dict[str, Any]] = {
    "usual": {},
    "published": PUBLISHED,
    "weights that add up to 1": {"norm_topk_prob": True},
    "one expert": {"num_experts_per_tok": 1},
    "all experts": {"num_experts_per_tok": 5},
    "experts in every second layer": {"decoder_sparse_step": 2},
    "layers without experts": {"mlp_only_layers": [0, 2, 9]},
    "both": {"decoder_sparse_step": 2, "mlp_only_layers": [1]},
    "tied": {"tie_word_embeddings": True},
    "wide heads": {"head_dim": 24},
    "other epsilon": {"rms_norm_eps": 1e-2},
    "gelu": {"hidden_act": "gelu"},
    "window": WINDOW,
    "window in few layers": {**WINDOW, "max_window_layers": 2},
    "window that is not used": {"sliding_window": 9, "max_window_layers": 0},
    "theta": {"rope_theta": 300.0},
    "linear": {"rope_parameters": {"rope_type": "linear", "rope_theta": 300.0, "factor": 4.0}},
    "yarn": {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}},
    "longrope": {"rope_scaling": {**LONGROPE, "original_max_position_embeddings": 32}},
}


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("case", CASES)
def test_logits(name: str, case: str) -> None:
    check_parity(CARDS[name], {**SMALL, **SHARED, **CASES[case]}, chunks=(None, 40))


def test_what_only_one_of_them_has() -> None:
    mixed = ["full_attention", "sliding_attention", "sliding_attention"]
    check_parity(CARDS["qwen2-moe"], {**SMALL, **SHARED, **WINDOW, "layer_types": mixed})
    check_parity(CARDS["qwen2-moe"], {**SMALL, **SHARED, "qkv_bias": False})
    check_parity(CARDS["qwen3-moe"], {**SMALL, "attention_bias": True})
    check_parity(CARDS["qwen3-moe"], {**SMALL, **WINDOW, "layer_types": mixed})  # which no layer follows


@pytest.mark.parametrize("name", BOTH)
def test_other_tasks(name: str) -> None:
    check_parity(CARDS[f"{name}-embedding"], {**SMALL, **SHARED, **WINDOW})
    check_parity(CARDS[f"{name}-classifier"], {**SMALL, **SHARED, "num_labels": 5})


def reference(name: str, changes: dict[str, Any]) -> Any:
    """A random model, its norms and biases included."""
    torch.manual_seed(1)
    cls = getattr(transformers, CARDS[name].architectures[0])
    whole = {**SMALL, **SHARED, **changes}
    model = cls(cls.config_class(**whole, initializer_range=0.15, attn_implementation="eager")).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith("norm.weight"):
                parameter.copy_(1 + 0.3 * torch.randn_like(parameter))
            elif key.endswith("bias"):
                parameter.copy_(0.5 * torch.randn_like(parameter))
    return model


def split(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The checkpoint of published files, with a tensor for each matrix, from that in memory."""
    found = {}
    for name, value in tensors.items():
        prefix = name.rpartition(".")[0]
        if name.endswith("experts.gate_up_proj"):
            for expert, both in enumerate(value):
                gate, up = both.chunk(2)
                found |= {f"{prefix}.{expert}.gate_proj.weight": gate, f"{prefix}.{expert}.up_proj.weight": up}
        elif name.endswith("experts.down_proj"):
            found |= {f"{prefix}.{expert}.down_proj.weight": down for expert, down in enumerate(value)}
        else:
            found[name] = value
    return found


@pytest.mark.parametrize("name", BOTH)
def test_experts_in_stacks_and_one_by_one(name: str) -> None:
    theirs = reference(name, {})
    tokens = list(range(60))
    with torch.no_grad():
        wanted = theirs(torch.tensor([tokens])).logits[0]
    stacked = dict(theirs.state_dict())
    separate = split(stacked)
    assert "model.layers.0.mlp.experts.4.down_proj.weight" in separate
    for tensors in (stacked, separate):
        found = run_tokens(*build_model(CARDS[name], theirs.config.to_dict(), tensors), tokens)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)


@pytest.mark.sweep
@pytest.mark.parametrize("name", BOTH)
def test_long_prompts_and_their_continuations(name: str) -> None:
    theirs = reference(name, {**WINDOW, "max_position_embeddings": 512, "decoder_sparse_step": 2})
    tokens = torch.randint(0, SMALL["vocab_size"], (200,), generator=torch.Generator().manual_seed(2)).tolist()
    with torch.no_grad():
        for _ in range(64):
            tokens.append(int(theirs(torch.tensor([tokens])).logits[0, -1].argmax()))
        wanted = theirs(torch.tensor([tokens])).logits[0]
    model, ctx = build_model(CARDS[name], theirs.config.to_dict(), dict(theirs.state_dict()), max_tokens=len(tokens))
    found = run_tokens(model, ctx, tokens, [130, 70, *[1] * 64])
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)
    assert found[199:-1].argmax(-1).tolist() == tokens[200:]
