"""GGUF's names for the metadata and tensors of Phi-2, Phi-3 and Phi-3.5-MoE.

Source: the GGUF specification in the ggml repository and llama.cpp's conversion of these architectures.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dovetail.api import GGUFNaming, Metadata

ATTENTION_FACTOR = "rope.scaling.attn_factor"


class PhiNaming(GGUFNaming):
    """Translates GGUF's ``phi2`` architecture; see :class:`dovetail.api.Naming`."""

    architectures = {"phi2": "PhiForCausalLM"}
    norm_eps = ("attention.layer_norm_epsilon", "layer_norm_eps")
    outer = GGUFNaming.outer | {"output_norm": "model.final_layernorm"}
    inner = {
        "attn_norm": "input_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.dense",
        "ffn_up": "mlp.fc1",
        "ffn_down": "mlp.fc2",
    }

    def more(self, keys: Metadata, config: Mapping[str, Any]) -> dict[str, Any]:
        return {"partial_rotary_factor": keys.require("rope.dimension_count") / config["head_dim"]}


class Phi3Naming(GGUFNaming):
    """Translates GGUF's ``phi3`` architecture; see :class:`dovetail.api.Naming`."""

    architectures = {"phi3": "Phi3ForCausalLM"}
    outer = GGUFNaming.outer | {name: name for name in ("rope_factors_long", "rope_factors_short")}
    inner = {
        "attn_norm": "input_layernorm",
        "attn_qkv": "self_attn.qkv_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_norm": "post_attention_layernorm",
        "ffn_up": "mlp.gate_up_proj",
        "ffn_down": "mlp.down_proj",
    }

    def config(self, architecture: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """No key names the scaling: files that have the lists as tensors have the factor on cos and sin."""
        if f"{architecture}.{ATTENTION_FACTOR}" in metadata:
            metadata = {f"{architecture}.rope.scaling.type": "longrope", **metadata}
        return super().config(architecture, metadata)

    def more(self, keys: Metadata, config: Mapping[str, Any]) -> dict[str, Any]:
        original = keys.get("rope.scaling.original_context_length")
        return {"original_max_position_embeddings": original or config["max_position_embeddings"]}


class PhimoeNaming(Phi3Naming):
    """Translates GGUF's ``phimoe`` architecture; see :class:`dovetail.api.Naming`."""

    architectures = {"phimoe": "PhimoeForCausalLM"}
    inner = {name: part for name, part in GGUFNaming.inner.items() if not part.startswith("mlp.")} | {
        "ffn_gate_inp": "block_sparse_moe.gate",
        "ffn_gate_exps": "block_sparse_moe.experts.w1",
        "ffn_up_exps": "block_sparse_moe.experts.w3",
        "ffn_down_exps": "block_sparse_moe.experts.w2",
    }

    def more(self, keys: Metadata, config: Mapping[str, Any]) -> dict[str, Any]:
        more = {
            "num_local_experts": keys.require("expert_count"),
            "num_experts_per_tok": keys.require("expert_used_count"),
            # No key describes biases: a file simply has the tensors.
            "attention_bias": "optional",
            "lm_head_bias": "optional",
        }
        if factor := keys.get(ATTENTION_FACTOR):
            scaling = {**config["rope_scaling"], "long_mscale": factor, "short_mscale": factor}
            more["rope_scaling"] = scaling
        return super().more(keys, config) | more


NAMING = PhiNaming()
PHI3 = Phi3Naming()
PHIMOE = PhimoeNaming()
