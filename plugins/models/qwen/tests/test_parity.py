"""Results against transformers, over tiny random models that between them use every branch of the configurations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dovetail_models_qwen import dovetail_register_models

from dovetail.testing import build_model, check_parity, run_tokens

transformers = pytest.importorskip("transformers")

CARDS = {card.name: card for card in dovetail_register_models()}

SMALL: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
PUBLISHED = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "max_window_layers": 28,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "use_cache": True,
    "use_sliding_window": False,
}
"""What the files of Qwen3-0.6B and 8B have beside sizes."""
WINDOW = {"use_sliding_window": True, "sliding_window": 9}
MIXED = {**WINDOW, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
LONGROPE = {"type": "longrope", "short_factor": [1.5] * 8, "long_factor": [1.0 + i for i in range(8)]}

CASES: dict[str, dict[str, Any]] = {
    "grouped": {},
    "every head its own": {"num_key_value_heads": 4},
    "key-value heads are null": {"num_key_value_heads": None},
    "tied": {"tie_word_embeddings": True},
    "wide heads": {"head_dim": 24},
    "other epsilon": {"rms_norm_eps": 1e-2},
    "gelu": {"hidden_act": "gelu"},
    "published": PUBLISHED,
    "window in the last layer": {**WINDOW, "max_window_layers": 2},
    "window in all layers": {**WINDOW, "max_window_layers": 0},
    "window that is not used": {"sliding_window": 9, "max_window_layers": 0},
    "window of null": {"use_sliding_window": True, "sliding_window": None, "max_window_layers": 0},
    "layer types": MIXED,
    "theta": {"rope_theta": 300.0},
    "parameters": {"rope_parameters": {"rope_type": "linear", "rope_theta": 300.0, "factor": 4.0}},
    "dynamic": {"max_position_embeddings": 64, "rope_scaling": {"type": "dynamic", "factor": 2.0}},
    "yarn": {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}},
    "llama3": {
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        }
    },
    "longrope": {"head_dim": 16, "rope_scaling": {**LONGROPE, "original_max_position_embeddings": 32}},
}


@pytest.mark.parametrize("name", ["qwen2", "qwen3"])
@pytest.mark.parametrize("case", CASES)
def test_logits(name: str, case: str) -> None:
    usual = {"head_dim": 16} if name == "qwen3" else {}
    check_parity(CARDS[name], {**SMALL, **usual, **CASES[case]}, chunks=(None, 40))


def test_what_only_the_third_has() -> None:
    check_parity(CARDS["qwen3"], SMALL)  # whose heads have 128 channels where the file is silent
    check_parity(CARDS["qwen3"], {**SMALL, "head_dim": 16, "attention_bias": True})


@pytest.mark.parametrize("name", ["qwen2", "qwen3"])
def test_hidden_states_without_a_head(name: str) -> None:
    check_parity(CARDS[f"{name}-embedding"], {**SMALL, **MIXED})
    check_parity(CARDS[f"{name}-embedding"], {**SMALL, "is_causal": False}, chunks=(None,))


@pytest.mark.parametrize("name", ["qwen2", "qwen3"])
@pytest.mark.parametrize("labels", [1, 5])
def test_labels(name: str, labels: int) -> None:
    check_parity(CARDS[f"{name}-classifier"], {**SMALL, **MIXED, "num_labels": labels})


def reference(name: str, changes: dict[str, Any]) -> Any:
    """A random model, its norms and biases included."""
    torch.manual_seed(1)
    cls = getattr(transformers, CARDS[name].architectures[0])
    model = cls(cls.config_class(**{**SMALL, **changes}, initializer_range=0.15, attn_implementation="eager")).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith("norm.weight"):
                parameter.copy_(1 + 0.3 * torch.randn_like(parameter))
            elif key.endswith("bias"):
                parameter.copy_(0.5 * torch.randn_like(parameter))
    return model


@pytest.mark.sweep
@pytest.mark.parametrize("name", ["qwen2", "qwen3"])
def test_long_prompts_and_their_continuations(name: str) -> None:
    theirs = reference(name, {**MIXED, "max_position_embeddings": 512, "head_dim": 16})
    tokens = torch.randint(0, SMALL["vocab_size"], (200,), generator=torch.Generator().manual_seed(2)).tolist()
    with torch.no_grad():
        for _ in range(64):
            tokens.append(int(theirs(torch.tensor([tokens])).logits[0, -1].argmax()))
        wanted = theirs(torch.tensor([tokens])).logits[0]
    model, ctx = build_model(CARDS[name], theirs.config.to_dict(), dict(theirs.state_dict()), max_tokens=len(tokens))
    found = run_tokens(model, ctx, tokens, [130, 70, *[1] * 64])
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)
    assert found[199:-1].argmax(-1).tolist() == tokens[200:]
