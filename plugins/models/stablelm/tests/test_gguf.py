"""GGUF's names and metadata of StableLM."""

from __future__ import annotations

from typing import Any

import dovetail_models_stablelm
import pytest
import torch
from dovetail_models_stablelm.config import StableLmConfig
from dovetail_models_stablelm.gguf import NAMING

from dovetail.api import ConfigError
from dovetail.testing import build_model, random_checkpoint, run_tokens

CARD, *_ = dovetail_models_stablelm.dovetail_register_models()

METADATA: dict[str, Any] = {
    "stablelm.vocab_size": 61,
    "stablelm.context_length": 128,
    "stablelm.embedding_length": 48,
    "stablelm.block_count": 2,
    "stablelm.feed_forward_length": 80,
    "stablelm.attention.head_count": 4,
    "stablelm.attention.head_count_kv": 2,
    "stablelm.attention.layer_norm_epsilon": 1e-5,
    "stablelm.rope.dimension_count": 6,
    "stablelm.use_parallel_residual": True,
}
LARGEST = METADATA | {"stablelm.block_count": 40}
TOP = ("token_embd.weight", "output_norm.weight", "output_norm.bias", "output.weight")
PLAIN = ("attn_output", "ffn_gate", "ffn_up", "ffn_down")
BIASED = ("attn_norm", "attn_q", "attn_k", "attn_v")
"""What llama.cpp's conversion writes."""


@pytest.mark.parametrize(
    ("metadata", "norms", "biased"), [(METADATA, (), ("ffn_norm",)), (LARGEST, ("attn_q_norm", "attn_k_norm"), ())]
)
def test_the_names_are_those_that_the_model_expects(
    metadata: dict[str, Any], norms: tuple[str, ...], biased: tuple[str, ...]
) -> None:
    config = NAMING.config("stablelm", metadata)
    names = [f"blk.{i}.{name}.weight" for i in range(config["num_hidden_layers"]) for name in (*PLAIN, *norms)]
    for name in (*BIASED, *biased):
        names += [f"blk.{i}.{name}.{part}" for i in range(config["num_hidden_layers"]) for part in ("weight", "bias")]
    expected = random_checkpoint(CARD, config, optional=True)
    assert {NAMING.rename(name) for name in (*TOP, *names)} == set(expected)


def test_norms_of_all_heads_in_one_tensor() -> None:
    config = NAMING.config("stablelm", LARGEST) | {"num_hidden_layers": 2}
    stacked = random_checkpoint(CARD, config)
    apart = {name: value for name, value in stacked.items() if "q_layernorm" not in name and "k_layernorm" not in name}
    for name in stacked.keys() - apart.keys():
        prefix = name.removesuffix(".weight")
        apart |= {f"{prefix}.norms.{head}.weight": value for head, value in enumerate(stacked[name])}
    found = run_tokens(*build_model(CARD, config, stacked), list(range(9)))
    assert torch.equal(found, run_tokens(*build_model(CARD, {**config, "qk_layernorm": True}, apart), list(range(9))))


def test_config() -> None:
    config = StableLmConfig.model_validate(NAMING.config("stablelm", METADATA))
    assert (config.rotary_dim(0), config.use_parallel_residual, config.qk_layernorm) == (6, False, False)
    whole = StableLmConfig.model_validate(NAMING.config("stablelm", METADATA | {"stablelm.rope.dimension_count": 12}))
    assert whole.rotary_dim(0) == 12
    with pytest.raises(ConfigError, match=r"lacks the key stablelm\.rope\.dimension_count"):
        NAMING.config("stablelm", {key: value for key, value in METADATA.items() if "rope" not in key})
