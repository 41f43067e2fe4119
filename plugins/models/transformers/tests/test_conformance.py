"""Registration, what the card accepts, and the conformance kit."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import dovetail_models_transformers
import pytest
from dovetail_models_transformers.names import architectures, unsupported_reason

from dovetail.testing import check_model, check_registration

pytest.importorskip("transformers")

(CARD,) = dovetail_models_transformers.dovetail_register_models()


def test_registration() -> None:
    check_registration(dovetail_models_transformers)


BASE: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CAPPED = {
    "architectures": ["Gemma2ForCausalLM"],
    "model_type": "gemma2",
    "head_dim": 12,
    "sliding_window": 9,
    "layer_types": ["sliding_attention", "full_attention"],
    "attn_logit_softcapping": 30.0,
    "tie_word_embeddings": True,
}
EXPERTS = {
    "architectures": ["OlmoeForCausalLM"],
    "model_type": "olmoe",
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "tie_word_embeddings": False,
}


def test_every_claim() -> None:
    check_model(CARD, BASE | CAPPED, BASE | EXPERTS)


def test_architectures_are_read_without_torch() -> None:
    assert architectures()["Olmo2ForCausalLM"] == "olmo2"
    assert len(architectures()) > 100
    code = "import sys; from dovetail_models_transformers.names import architectures; print(len(architectures()) > 100, 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "True False\n"


@pytest.mark.parametrize(
    ("name", "config", "told"),
    [
        ("Olmo2ForCausalLM", {"model_type": "olmo2"}, None),
        ("NutForCausalLM", {"model_type": "nut"}, "has no NutForCausalLM among"),
        (
            "NutForCausalLM",
            {"model_type": "nut", "auto_map": {"AutoModel": "x"}},
            "code that comes with a checkpoint is not run",
        ),
        ("Olmo2ForCausalLM", {"model_type": "llama"}, "for the model_type 'olmo2', and config.json says 'llama'"),
        ("Olmo2ForCausalLM", {}, "config.json says None"),
    ],
)
def test_what_is_accepted(name: str, config: dict[str, object], told: str | None) -> None:
    reason = unsupported_reason(name, config)
    assert reason is None if told is None else told in str(reason)
