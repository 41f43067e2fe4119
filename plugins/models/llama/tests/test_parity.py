"""Logits against transformers, over tiny random models that between them use every branch of the configuration."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dovetail_models_llama import dovetail_register_models

from dovetail.testing import build_model, check_parity, run_tokens

transformers = pytest.importorskip("transformers")

CARDS = {card.name: card for card in dovetail_register_models()}
SMOLLM3 = [card for name, card in CARDS.items() if name.startswith("smollm3")]

BASE: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.15,
    "attn_implementation": "eager",
}
SMALL = {key: value for key, value in BASE.items() if key not in ("initializer_range", "attn_implementation")}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}

LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0 + 0.05 * i for i in range(8)],
    "long_factor": [1.5 + 0.8 * i for i in range(8)],
}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "grouped": ("Llama", {}),
    "every head its own": ("Llama", {"num_key_value_heads": 4}),
    "one key-value head": ("Llama", {"num_key_value_heads": 1}),
    "tied": ("Llama", {"tie_word_embeddings": True}),
    "attention biases": ("Llama", {"attention_bias": True}),
    "mlp biases": ("Llama", {"mlp_bias": True}),
    "wide heads": ("Llama", {"head_dim": 48}),
    "narrow heads": ("Llama", {"head_dim": 8, "num_attention_heads": 8, "num_key_value_heads": 2}),
    "other epsilon": ("Llama", {"rms_norm_eps": 1e-2}),
    "theta": ("Llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
    "linear": ("Llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}}),
    "dynamic": (
        "Llama",
        {
            "max_position_embeddings": 64,
            "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0},
        },
    ),
    "dynamic, short prompt": (
        "Llama",
        {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}},
    ),
    "yarn": ("Llama", {"rope_parameters": YARN}),
    "yarn, attention factor": ("Llama", {"rope_parameters": {**YARN, "attention_factor": 1.3}}),
    "yarn, mscale": ("Llama", {"rope_parameters": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.0}}),
    "yarn, betas": ("Llama", {"rope_parameters": {**YARN, "beta_fast": 16, "beta_slow": 2, "truncate": False}}),
    "llama3": ("Llama", {"rope_parameters": LLAMA3}),
    "longrope, long": ("Llama", {"rope_parameters": {**LONGROPE, "original_max_position_embeddings": 64}}),
    "longrope, short": ("Llama", {"rope_parameters": {**LONGROPE, "original_max_position_embeddings": 256}}),
    "longrope, factor": (
        "Llama",
        {"rope_parameters": {**LONGROPE, "factor": 4.0, "original_max_position_embeddings": 64}},
    ),
    "mistral": ("Mistral", {"sliding_window": None}),
    "mistral, window": ("Mistral", {"sliding_window": 37}),
    "mistral, window of one": ("Mistral", {"sliding_window": 1}),
    "mistral, long window": ("Mistral", {"sliding_window": 4096}),
    "granite": (
        "Granite",
        {
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.22,
            "attention_multiplier": 0.05,
            "logits_scaling": 4.0,
            "tie_word_embeddings": True,
        },
    ),
    "granite, defaults": ("Granite", {}),
}


def reference(family: str, changes: dict[str, Any]) -> Any:
    """A random model of the family, its norms and biases included."""
    torch.manual_seed(1)
    config = getattr(transformers, f"{family}Config")(**{**BASE, **changes})
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                parameter.copy_(1 + 0.3 * torch.randn_like(parameter))
            elif name.endswith("bias"):
                parameter.copy_(0.5 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_those_of_transformers(case: str) -> None:
    family, changes = CASES[case]
    theirs = reference(family, changes)
    tokens = torch.randint(0, BASE["vocab_size"], (200,), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        wanted = theirs(tokens[None]).logits[0]
    assert wanted.std() > 0.05, "the reference's logits are too flat to show a difference"
    config = theirs.config.to_dict() | {"architectures": [f"{family}ForCausalLM"]}
    tensors = dict(theirs.state_dict())
    if config["tie_word_embeddings"]:
        del tensors["lm_head.weight"]  # as saved checkpoints have it
    model, ctx = build_model(CARDS[family.lower()], config, tensors, max_tokens=len(tokens))
    for chunks in (None, 64, [1, 130, 1, 1, 67]):
        torch.testing.assert_close(run_tokens(model, ctx, tokens.tolist(), chunks), wanted, rtol=0, atol=1e-4)


KEYS_OF_OTHERS = {
    "sliding_window": 9,
    "use_sliding_window": True,
    "max_window_layers": 1,
    "embedding_multiplier": 3.0,
    "residual_multiplier": 0.5,
    "attention_multiplier": 0.3,
    "logits_scaling": 3.0,
}


def test_keys_that_only_other_models_have_change_nothing() -> None:
    mixed = {"layer_types": ["sliding_attention", "full_attention", "full_attention"]}
    check_parity(CARDS["llama"], {**SMALL, **KEYS_OF_OTHERS, **mixed})
    check_parity(CARDS["mistral"], {**SMALL, **KEYS_OF_OTHERS, "use_sliding_window": False, **mixed})
    check_parity(CARDS["granite"], {**SMALL, **KEYS_OF_OTHERS, **mixed})


@pytest.mark.parametrize("name", ["llama", "mistral", "granite"])
def test_hidden_states_without_a_head(name: str) -> None:
    check_parity(CARDS[f"{name}-embedding"], SMALL)


@pytest.mark.parametrize("labels", [1, 5])
def test_labels(labels: int) -> None:
    check_parity(CARDS["llama-classifier"], {**SMALL, "num_labels": labels})
    with_names = {"id2label": {str(i): f"L{i}" for i in range(labels)}}
    check_parity(CARDS["mistral-classifier"], {**SMALL, **with_names, "sliding_window": 9})


PUBLISHED = {
    "attention_bias": False,
    "bos_token_id": None,
    "layer_types": ["full_attention"] * 3,
    "max_window_layers": 28,
    "mlp_bias": False,
    "no_rope_layer_interval": 4,
    "no_rope_layers": [1, 0, 1],
    "rope_scaling": None,
    "rope_theta": 5000000.0,
    "sliding_window": None,
    "use_sliding_window": False,
}
"""What the file of SmolLM3-3B has."""
SMALL_3 = {**SMALL, "pad_token_id": None}
NO_ROPE = {"no_rope_layer_interval": 2}
WINDOW = {"use_sliding_window": True, "sliding_window": 9}
SMOLLM3_CASES: dict[str, dict[str, Any]] = {
    "usual": {},
    "published": PUBLISHED,
    "interval": NO_ROPE,
    "no rotary embeddings": {"no_rope_layer_interval": 1},
    "window without positions": {**NO_ROPE, **WINDOW},
    "window elsewhere": {**WINDOW, "layer_types": ["sliding_attention", "full_attention", "full_attention"]},
    "biases": {**NO_ROPE, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False},
    "yarn": {**NO_ROPE, "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}},
}


@pytest.mark.parametrize("case", SMOLLM3_CASES)
def test_layers_without_positions(case: str) -> None:
    check_parity(SMOLLM3[0], {**SMALL_3, **SMOLLM3_CASES[case]})


def test_other_tasks_with_layers_without_positions() -> None:
    check_parity(SMOLLM3[1], {**SMALL_3, **NO_ROPE})
    check_parity(SMOLLM3[2], {**SMALL_3, **NO_ROPE, "num_labels": 5})
