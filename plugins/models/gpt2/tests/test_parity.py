"""Logits against transformers, over tiny random models that between them use every branch of the configuration."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dovetail_models_gpt2 import dovetail_register_models

from dovetail.testing import build_model, run_tokens
from dovetail.testing.comparison import relative_error, tolerance

transformers = pytest.importorskip("transformers")

(CARD,) = dovetail_register_models()

BASE: dict[str, Any] = {
    "vocab_size": 97,
    "n_embd": 64,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 256,
    "initializer_range": 0.15,
    "attn_implementation": "eager",
}

CASES: dict[str, dict[str, Any]] = {
    "usual": {},
    "untied": {"tie_word_embeddings": False},
    "inner": {"n_inner": 80},
    "exact gelu": {"activation_function": "gelu"},
    "relu": {"activation_function": "relu"},
    "keys of others": {"hidden_act": "relu", "sliding_window": 9, "layer_types": ["sliding_attention"] * 3},
    "scores as they are": {"scale_attn_weights": False},
    "scores by layer": {"scale_attn_by_inverse_layer_idx": True},
    "other epsilon": {"layer_norm_epsilon": 1e-2},
}


def reference(changes: dict[str, Any]) -> Any:
    """A random model, its norms and biases included."""
    torch.manual_seed(1)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**{**BASE, **changes})).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "ln_" in name and name.endswith("weight"):
                parameter.copy_(1 + 0.3 * torch.randn_like(parameter))
            elif name.endswith("bias"):
                parameter.copy_(0.5 * torch.randn_like(parameter))
    return model


def checkpoint(model: Any) -> dict[str, torch.Tensor]:
    """As it is saved: without what is tied."""
    tied = model.config.tie_word_embeddings
    return {name: value for name, value in model.state_dict().items() if not (tied and name == "lm_head.weight")}


def prompt() -> torch.Tensor:
    return torch.randint(0, BASE["vocab_size"], (200,), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_those_of_transformers(case: str) -> None:
    theirs, tokens = reference(CASES[case]), prompt()
    with torch.no_grad():
        wanted = theirs(tokens[None]).logits[0]
    assert wanted.std() > 0.05, "the reference's logits are too flat to show a difference"
    model, ctx = build_model(CARD, theirs.config.to_dict(), checkpoint(theirs), max_tokens=len(tokens))
    for chunks in (None, [1, 130, 1, 1, 67]):
        torch.testing.assert_close(run_tokens(model, ctx, tokens.tolist(), chunks), wanted, rtol=0, atol=1e-4)


def test_logits_in_bfloat16_differ_by_rounding_only() -> None:
    theirs, tokens = reference({}), prompt()
    with torch.no_grad():
        exact = theirs(tokens[None]).logits[0]
        rounded = theirs.bfloat16()(tokens[None]).logits[0].float()
    model, ctx = build_model(CARD, theirs.config.to_dict(), checkpoint(theirs), dtype="bfloat16", max_tokens=200)
    error = relative_error(run_tokens(model, ctx, tokens.tolist()).flatten(), exact.flatten())
    assert error < tolerance(torch.bfloat16, 4)
    assert error < 1.5 * relative_error(rounded.flatten(), exact.flatten())


def test_checkpoints_with_and_without_prefix_and_with_saved_masks() -> None:
    theirs, tokens = reference({}), prompt().tolist()
    tensors = checkpoint(theirs)
    bare = {name.removeprefix("transformer."): value for name, value in tensors.items()}
    assert bare.keys() != tensors.keys()
    masks = {"h.0.attn.bias": torch.ones(1, 1, 256, 256), "h.0.attn.masked_bias": torch.tensor(-1e4)}
    wanted = run_tokens(*build_model(CARD, theirs.config.to_dict(), tensors), tokens)
    for form in (bare, bare | masks, tensors | {f"transformer.{name}": value for name, value in masks.items()}):
        assert torch.equal(run_tokens(*build_model(CARD, theirs.config.to_dict(), form), tokens), wanted)
