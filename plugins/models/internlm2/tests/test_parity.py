"""Results against transformers' Llama: the original is Llama's block under other names, and its own code is published with
its checkpoints only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from dovetail_models_internlm2 import dovetail_register_models
from torch import Tensor, nn

from dovetail.testing import check_parity

CARDS = {card.name: card for card in dovetail_register_models()}

BASE: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 96,
}
NAMES = {
    "embed_tokens": "tok_embeddings",
    "lm_head": "output",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.up_proj": "feed_forward.w3",
    "mlp.down_proj": "feed_forward.w2",
}


def to_internlm2(tensors: Mapping[str, Tensor], kv_heads: int) -> dict[str, Tensor]:
    """Llama's tensors under InternLM2's names. For each key-value head, ``wqkv`` has the rows of its queries, then those of
    the key, then those of the value.
    """
    out: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if match := re.fullmatch(r"(.*)\.self_attn\.q_proj\.(weight|bias)", name):
            parts = [tensors[f"{match[1]}.self_attn.{part}_proj.{match[2]}"] for part in "qkv"]
            grouped = [part.unflatten(0, (kv_heads, -1)) for part in parts]
            out[f"{match[1]}.attention.wqkv.{match[2]}"] = torch.cat(grouped, 1).flatten(0, 1)
        elif not re.search(r"\.[kv]_proj\.", name):
            for theirs, ours in NAMES.items():
                name = name.replace(theirs, ours)
            out[name] = value
    return out


class Llama(nn.Module):
    """transformers' Llama, whose checkpoint has InternLM2's names."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        transformers: Any = pytest.importorskip("transformers")
        name = config["architectures"][0].replace("InternLM2", "Llama")
        own = {key: value for key, value in config.items() if key not in ("architectures", "bias")}
        own |= {"attention_bias": config.get("bias", True), "attn_implementation": "eager"}
        self.kv_heads = config.get("num_key_value_heads", config["num_attention_heads"])
        self.model = getattr(transformers, name)(transformers.LlamaConfig(**own))

    def forward(self, ids: Tensor) -> Any:
        return self.model(ids)

    def state_dict(self, *args: Any, keep_vars: bool = False, **kwargs: Any) -> dict[str, Any]:
        tensors: dict[str, Any] = self.model.state_dict(keep_vars=keep_vars)
        return tensors if keep_vars else to_internlm2(tensors, self.kv_heads)


def scaled(kind: str) -> dict[str, Any]:
    return {"rope_scaling": {"type": kind, "factor": 4.0}, "rope_theta": 500.0}


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "groups": ("internlm2", {}),
    "every head its own": ("internlm2", {"num_key_value_heads": 4}),
    "one key-value head": ("internlm2", {"num_key_value_heads": 1}),
    "no biases, tied": ("internlm2", {"bias": False, "tie_word_embeddings": True}),
    "other activation and epsilon": ("internlm2", {"hidden_act": "gelu", "rms_norm_eps": 1e-2}),
    "linear": ("internlm2", scaled("linear")),
    "dynamic": ("internlm2", scaled("dynamic")),
    "no head": ("internlm2-embedding", {}),
    "labels": ("internlm2-classifier", {"num_labels": 3}),
}


@pytest.mark.parametrize("case", CASES)
def test_llama_gives_the_same_results(case: str) -> None:
    name, changes = CASES[case]
    check_parity(CARDS[name], {**BASE, **changes}, Llama)
