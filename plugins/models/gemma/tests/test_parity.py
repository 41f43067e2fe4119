"""Logits against transformers, over tiny random models that between them use every branch of the configuration."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dovetail_models_gemma import dovetail_register_models

from dovetail.testing import build_model, check_parity, run_tokens
from dovetail.testing.comparison import relative_error, tolerance

transformers = pytest.importorskip("transformers")

CARDS = {card.architectures[0]: card for card in dovetail_register_models()}

BASE: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 60,  # its root is not a number of 8 bits
    "intermediate_size": 112,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "initializer_range": 0.15,
    "attn_implementation": "eager",
}
CAPS = {"attn_logit_softcapping": 3.0, "final_logit_softcapping": 5.0, "query_pre_attn_scalar": 16}

YARN = {"rope_type": "yarn", "rope_theta": 300.0, "factor": 4.0, "original_max_position_embeddings": 64}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "1": ("Gemma", {}),
    "1, untied": ("Gemma", {"tie_word_embeddings": False}),
    "1, biases": ("Gemma", {"attention_bias": True}),
    "1, theta": ("Gemma", {"rope_parameters": {"rope_type": "default", "rope_theta": 300.0}}),
    "1, gelu is its approximation": ("Gemma", {"hidden_act": "gelu"}),
    "1, relu and linear": (
        "Gemma",
        {"hidden_act": "relu", "rope_parameters": {"rope_type": "linear", "rope_theta": 300.0, "factor": 4.0}},
    ),
    "2, exact gelu and yarn": ("Gemma2", {**CAPS, "hidden_activation": "gelu", "rope_parameters": YARN}),
    "2": ("Gemma2", {**CAPS, "sliding_window": 37}),
    "2, other scale": ("Gemma2", {**CAPS, "query_pre_attn_scalar": 4}),
    "2, no caps": ("Gemma2", {"attn_logit_softcapping": None, "final_logit_softcapping": None}),
    "2, layer types": (
        "Gemma2",
        {**CAPS, "sliding_window": 9, "layer_types": ["full_attention", "full_attention", "sliding_attention"]},
    ),
}


def reference(family: str, changes: dict[str, Any]) -> Any:
    """A random model of the family, its norms and biases included."""
    torch.manual_seed(1)
    config = getattr(transformers, f"{family}Config")(**{**BASE, **changes})
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.copy_(0.3 * torch.randn_like(parameter))
            elif name.endswith("bias"):
                parameter.copy_(0.5 * torch.randn_like(parameter))
    return model


def prepared(case: str) -> tuple[Any, Any, dict[str, Any], dict[str, torch.Tensor], torch.Tensor]:
    """The reference, and our card, configuration, checkpoint and prompt for it."""
    family, changes = CASES[case]
    theirs = reference(family, changes)
    tensors = dict(theirs.state_dict())
    if theirs.config.tie_word_embeddings:
        del tensors["lm_head.weight"]  # as saved checkpoints have it
    tokens = torch.randint(0, BASE["vocab_size"], (200,), generator=torch.Generator().manual_seed(2))
    return theirs, CARDS[f"{family}ForCausalLM"], theirs.config.to_dict(), tensors, tokens


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_those_of_transformers(case: str) -> None:
    theirs, card, config, tensors, tokens = prepared(case)
    with torch.no_grad():
        wanted = theirs(tokens[None]).logits[0]
    assert wanted.std() > 0.05, "the reference's logits are too flat to show a difference"
    model, ctx = build_model(card, config, tensors, max_tokens=len(tokens))
    for chunks in (None, [1, 130, 1, 1, 67]):
        torch.testing.assert_close(run_tokens(model, ctx, tokens.tolist(), chunks), wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("case", ["1", "2"])
def test_logits_in_bfloat16_differ_by_rounding_only(case: str) -> None:
    theirs, card, config, tensors, tokens = prepared(case)
    with torch.no_grad():
        exact = theirs(tokens[None]).logits[0]
        rounded = theirs.bfloat16()(tokens[None]).logits[0].float()
    model, ctx = build_model(card, config, tensors, dtype="bfloat16", max_tokens=len(tokens))
    error = relative_error(run_tokens(model, ctx, tokens.tolist()).flatten(), exact.flatten())
    assert error < tolerance(torch.bfloat16, 8)
    assert error < 1.5 * relative_error(rounded.flatten(), exact.flatten())


def test_the_factor_on_embeddings_is_rounded_to_their_dtype() -> None:
    _, card, config, tensors, tokens = prepared("1")
    model, _ = build_model(card, config, tensors, dtype="bfloat16")
    theirs = reference(*CASES["1"]).bfloat16()
    assert model.embedding_multiplier != 60**0.5
    wanted = theirs.get_input_embeddings()(tokens)
    assert torch.equal(model.embedding(tokens) * model.embedding_multiplier, wanted)


SMALL = {key: value for key, value in BASE.items() if key not in ("initializer_range", "attn_implementation")}
PATTERN = {"num_hidden_layers": 4, "sliding_window": 9, "sliding_window_pattern": 3}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        PATTERN,
        {
            **PATTERN,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            "rope_theta": 5e4,
            "rope_local_base_freq": 700.0,
        },
        {"query_pre_attn_scalar": 5, "tie_word_embeddings": False, "attention_bias": True},
        {
            "final_logit_softcapping": 5.0,
            "attn_logit_softcapping": 3.0,  # which no layer follows
            "sliding_window": 9,
            "layer_types": ["full_attention", "sliding_attention"] * 2,
            "num_hidden_layers": 4,
        },
    ],
    ids=lambda changes: " ".join(changes) or "usual",
)
def test_gemma_3(changes: dict[str, Any]) -> None:
    check_parity(CARDS["Gemma3ForCausalLM"], {**SMALL, **changes})


def test_labels() -> None:
    check_parity(CARDS["Gemma3TextForSequenceClassification"], {**SMALL, **PATTERN, "num_labels": 3})
