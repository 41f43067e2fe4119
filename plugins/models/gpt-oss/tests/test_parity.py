"""Results against transformers, over tiny random models that between them use every branch of the configuration."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dovetail_models_gpt_oss import dovetail_register_models

from dovetail.testing import build_model, check_parity, run_tokens

transformers = pytest.importorskip("transformers")

CARD, EMBEDDING, CLASSIFIER = dovetail_register_models()

SMALL: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 40,
    "num_local_experts": 7,
    "num_experts_per_tok": 3,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "sliding_window": 9,
    "max_position_embeddings": 128,
}
PUBLISHED = {
    "attention_bias": True,
    "attention_dropout": 0.0,
    "eos_token_id": 2,
    "experts_per_token": 3,
    "hidden_act": "silu",
    "initial_context_length": 4096,
    "initializer_range": 0.02,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "max_position_embeddings": 131072,
    "output_router_logits": False,
    "pad_token_id": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "factor": 32.0,
        "original_max_position_embeddings": 4096,
        "rope_type": "yarn",
        "truncate": False,
    },
    "rope_theta": 150000,
    "router_aux_loss_coef": 0.9,
    "swiglu_limit": 7.0,
    "tie_word_embeddings": False,
    "use_cache": True,
}
"""What the file of gpt-oss-20b has beside sizes."""
YARN = {"rope_type": "yarn", "rope_theta": 300.0, "factor": 4.0, "original_max_position_embeddings": 32}
LONGROPE = {"type": "longrope", "short_factor": [1.5] * 8, "long_factor": [1.0 + i for i in range(8)]}

CASES: dict[str, dict[str, Any]] = {
    "usual": {},
    "published": PUBLISHED,
    "one expert": {"num_experts_per_tok": 1},
    "all experts": {"num_experts_per_tok": 7},
    "no biases": {"attention_bias": False},
    "tied": {"tie_word_embeddings": True},
    "other epsilon": {"rms_norm_eps": 1e-2},
    "every head its own": {"num_key_value_heads": 8},
    "a clamp within the values": {"swiglu_limit": 0.5},
    "another alpha": {"swiglu_alpha": 0.7},
    "no windows": {"layer_types": ["full_attention"] * 4},
    "other windows": {"layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]},
    "no scaling": {"rope_parameters": {"rope_type": "default", "rope_theta": 300.0}},
    "theta alone": {"rope_theta": 300.0},
    "truncated": {"rope_parameters": YARN},
    "not truncated": {"rope_parameters": {**YARN, "truncate": False}},
    "linear": {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    "longrope": {"rope_scaling": {**LONGROPE, "original_max_position_embeddings": 32}},
}


@pytest.mark.parametrize("case", CASES)
def test_logits(case: str) -> None:
    check_parity(CARD, {**SMALL, **CASES[case]})


def test_other_tasks() -> None:
    check_parity(EMBEDDING, SMALL)
    check_parity(CLASSIFIER, {**SMALL, "num_labels": 5})


@pytest.mark.sweep
def test_long_prompts_and_their_continuations() -> None:
    torch.manual_seed(1)
    cls = transformers.GptOssForCausalLM
    theirs = cls(cls.config_class(**SMALL, initializer_range=0.15, attn_implementation="eager")).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if name.endswith(("norm.weight", "bias", "sinks")):
                parameter.add_(0.3 * torch.randn_like(parameter))
    tokens = torch.randint(0, SMALL["vocab_size"], (200,), generator=torch.Generator().manual_seed(2)).tolist()
    with torch.no_grad():
        tokens = theirs.generate(torch.tensor([tokens]), max_new_tokens=64, do_sample=False)[0].tolist()
        wanted = theirs(torch.tensor([tokens])).logits[0]
    model, ctx = build_model(CARD, theirs.config.to_dict(), dict(theirs.state_dict()), max_tokens=len(tokens))
    found = run_tokens(model, ctx, tokens, [130, 70, *[1] * 64])
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)
    assert found[199:-1].argmax(-1).tolist() == tokens[200:]
