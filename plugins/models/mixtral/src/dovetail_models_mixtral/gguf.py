"""GGUF's names for Mixtral's metadata and tensors. The container calls it ``llama``, with a number of experts.

Source: the GGUF specification in the ggml repository and llama.cpp's conversion of this architecture.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from dovetail.api import Metadata, TableNaming, rotary_halves

TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_rot_embd": "self_attn.rotary_emb",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate_inp": "block_sparse_moe.gate",
}
EXPERTS = {"ffn_gate": "w1", "ffn_up": "w3", "ffn_down": "w2"}


class MixtralNaming(TableNaming):
    """Translates GGUF's ``llama`` architecture with experts; see :class:`dovetail.api.Naming`."""

    outer, inner, block = TOP, LAYER, "blk"

    def config(self, architecture: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
        keys = Metadata("GGUF", architecture, metadata)
        if not keys.get("expert_count"):
            raise keys.refuse("expert_count", 0, "experts")
        heads, hidden = keys.require("attention.head_count"), keys.require("embedding_length")
        head_dim = keys.get("attention.key_length") or hidden // heads
        for key in ("rope.dimension_count", "attention.value_length"):
            keys.expect(key, head_dim, str(head_dim))
        if (kind := keys.get("rope.scaling.type", "none")) not in ("none", "linear"):
            raise keys.refuse("rope.scaling.type", kind, "none")
        if keys.get("rope.scaling.factor"):  # 0 means none
            keys.expect("rope.scaling.factor", 1.0, "1.0")
        return {
            "architectures": ["MixtralForCausalLM"],
            "model_type": "mixtral",
            "vocab_size": keys.require("vocab_size"),
            "hidden_size": hidden,
            "num_hidden_layers": keys.require("block_count"),
            "num_attention_heads": heads,
            "num_key_value_heads": keys.get("attention.head_count_kv", heads),
            "head_dim": head_dim,
            "intermediate_size": keys.require("feed_forward_length"),
            "num_local_experts": keys.get("expert_count"),
            "num_experts_per_tok": keys.require("expert_used_count"),
            "max_position_embeddings": keys.require("context_length"),
            "rms_norm_eps": keys.require("attention.layer_norm_rms_epsilon"),
            "rope_theta": keys.get("rope.freq_base", 10000.0),
            "sliding_window": keys.get("attention.sliding_window") or None,
            "tie_word_embeddings": bool(metadata.get("tied_embeddings")),
        }

    def rename(self, name: str) -> str | None:
        match = re.fullmatch(r"blk\.(\d+)\.(ffn_\w+?)(_exps|\.\d+)\.(\w+)", name)
        if match is None or match[2] not in EXPERTS:
            return super().rename(name)
        # Files of 2023 have a tensor for each expert.
        expert = "" if match[3] == "_exps" else match[3]
        return f"{self.layers}.{match[1]}.block_sparse_moe.experts{expert}.{EXPERTS[match[2]]}.{match[4]}"

    def row_order(self, name: str, config: Mapping[str, Any]) -> np.ndarray | None:
        """In GGUF, each rotary pair of q and k is two adjacent rows; the model expects the two halves of a head."""
        match = re.search(r"\.self_attn\.([qk])_proj\.weight$", name)
        if match is None:
            return None
        heads = config["num_attention_heads"] if match[1] == "q" else config["num_key_value_heads"]
        return np.array(rotary_halves(heads, config["head_dim"]))


NAMING = MixtralNaming()
