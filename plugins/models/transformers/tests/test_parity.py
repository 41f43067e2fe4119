"""transformers' code on the engine's parts gives what it gives by itself."""

from __future__ import annotations

from typing import Any

import dovetail_models_transformers
import pytest

from dovetail.api import ConfigError
from dovetail.testing import build_model, check_parity

pytest.importorskip("transformers")

(CARD,) = dovetail_models_transformers.dovetail_register_models()

BASE: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
ALTERNATING = {"sliding_window": 9, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
OLD = {"vocab_size": 61, "n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 128}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "post-norm": ("Olmo2ForCausalLM", BASE),
    "parallel, scaled logits": ("CohereForCausalLM", {**BASE, "logit_scale": 0.3}),
    "windows, layers without positions": ("Cohere2ForCausalLM", {**BASE, **ALTERNATING}),
    "soft caps, scaled embedding": ("Gemma2ForCausalLM", {**BASE, "head_dim": 16}),
    "experts": ("OlmoeForCausalLM", {**BASE, "num_experts": 6, "num_experts_per_tok": 2}),
    "experts of other names": ("MixtralForCausalLM", {**BASE, "num_local_experts": 4}),
    "learned positions": (
        "OPTForCausalLM",
        {**BASE, "ffn_dim": 80, "word_embed_proj_dim": 48, "num_key_value_heads": 4},
    ),
    "transposed weights": ("GPT2LMHeadModel", OLD),
    "adjacent pairs": ("GPTJForCausalLM", {**OLD, "rotary_dim": 8}),
}
KINDS = {
    "Olmo2ForCausalLM": "olmo2",
    "CohereForCausalLM": "cohere",
    "Cohere2ForCausalLM": "cohere2",
    "Gemma2ForCausalLM": "gemma2",
    "OlmoeForCausalLM": "olmoe",
    "MixtralForCausalLM": "mixtral",
    "OPTForCausalLM": "opt",
    "GPT2LMHeadModel": "gpt2",
    "GPTJForCausalLM": "gptj",
}


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_those_of_transformers(case: str) -> None:
    name, config = CASES[case]
    check_parity(CARD, {**config, "architectures": [name], "model_type": KINDS[name]})


@pytest.mark.parametrize(
    ("kind", "config", "told"),
    [
        ("BloomForCausalLM bloom", OLD, "BloomForCausalLM of transformers does not take an attention function"),
        (
            "LlamaForCausalLM llama",
            {**BASE, "rope_scaling": {"type": "dynamic", "factor": 2.0}},
            "'dynamic' is not supported",
        ),
        ("LlamaForCausalLM llama", {**BASE, "hidden_act": "mish?"}, "transformers refuses this configuration"),
    ],
)
def test_what_cannot_be_carried_is_refused(kind: str, config: dict[str, Any], told: str) -> None:
    name, model_type = kind.split()
    with pytest.raises(ConfigError, match=told):
        build_model(CARD, {**config, "architectures": [name], "model_type": model_type}, {})
