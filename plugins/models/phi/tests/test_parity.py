"""Logits against transformers, over tiny random models that between them use every branch of the configuration."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dovetail_models_phi import dovetail_register_models

from dovetail.testing import build_model, run_tokens
from dovetail.testing.comparison import relative_error, tolerance

transformers = pytest.importorskip("transformers")

(CARD,) = dovetail_register_models()

BASE: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "initializer_range": 0.15,
    "attn_implementation": "eager",
}


def rotated(part: float, theta: float = 10000.0) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": theta, "partial_rotary_factor": part}}


CASES: dict[str, dict[str, Any]] = {
    "usual": {},
    "a quarter is rotated": rotated(0.25),
    "all is rotated": rotated(1.0, 500.0),
    "grouped": {"num_key_value_heads": 2},
    "norms of queries and keys": {"qk_layernorm": True},
    "exact gelu": {"hidden_act": "gelu"},
    "other epsilon": {"layer_norm_eps": 1e-2},
}


def reference(changes: dict[str, Any]) -> Any:
    """A random model, its norms and biases included."""
    torch.manual_seed(1)
    model = transformers.PhiForCausalLM(transformers.PhiConfig(**{**BASE, **changes})).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "layernorm" in name and name.endswith("weight"):
                parameter.copy_(1 + 0.3 * torch.randn_like(parameter))
            elif name.endswith("bias"):
                parameter.copy_(0.5 * torch.randn_like(parameter))
    return model


def prompt() -> torch.Tensor:
    return torch.randint(0, BASE["vocab_size"], (200,), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_those_of_transformers(case: str) -> None:
    theirs, tokens = reference(CASES[case]), prompt()
    with torch.no_grad():
        wanted = theirs(tokens[None]).logits[0]
    assert wanted.std() > 0.05, "the reference's logits are too flat to show a difference"
    model, ctx = build_model(CARD, theirs.config.to_dict(), dict(theirs.state_dict()), max_tokens=len(tokens))
    for chunks in (None, [1, 130, 1, 1, 67]):
        torch.testing.assert_close(run_tokens(model, ctx, tokens.tolist(), chunks), wanted, rtol=0, atol=1e-4)


def test_logits_in_bfloat16_differ_by_rounding_only() -> None:
    theirs, tokens = reference({}), prompt()
    with torch.no_grad():
        exact = theirs(tokens[None]).logits[0]
        rounded = theirs.bfloat16()(tokens[None]).logits[0].float()
    model, ctx = build_model(CARD, theirs.config.to_dict(), dict(theirs.state_dict()), dtype="bfloat16", max_tokens=200)
    error = relative_error(run_tokens(model, ctx, tokens.tolist()).flatten(), exact.flatten())
    assert error < tolerance(torch.bfloat16, 4)
    assert error < 1.5 * relative_error(rounded.flatten(), exact.flatten())


def test_the_published_configuration_of_phi_2_is_read() -> None:
    """It has the part that is rotated beside the other keys, and rotary embeddings have no object of their own."""
    theirs, tokens = reference(rotated(0.5)), prompt()
    config = {k: v for k, v in theirs.config.to_dict().items() if k != "rope_parameters"}
    old = {**config, "partial_rotary_factor": 0.5, "rope_theta": 10000.0, "rope_scaling": None}
    tensors = dict(theirs.state_dict())
    wanted = run_tokens(*build_model(CARD, theirs.config.to_dict(), tensors), tokens.tolist())
    assert torch.equal(run_tokens(*build_model(CARD, old, tensors), tokens.tolist()), wanted)
    other = {**old, "partial_rotary_factor": 0.25}
    assert not torch.equal(run_tokens(*build_model(CARD, other, tensors), tokens.tolist()), wanted)
