"""GGUF's names for Phi-2's metadata and tensors.

Source: the GGUF specification in the ggml repository and llama.cpp's conversion of this architecture.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dovetail.api import Metadata, TableNaming

TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.final_layernorm", "output": "lm_head"}
LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.dense",
    "ffn_up": "mlp.fc1",
    "ffn_down": "mlp.fc2",
}


class PhiNaming(TableNaming):
    """Translates GGUF's ``phi2`` architecture; see :class:`dovetail.api.Naming`."""

    outer, inner, block = TOP, LAYER, "blk"

    def config(self, architecture: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
        keys = Metadata("GGUF", architecture, metadata)
        hidden, heads = keys.require("embedding_length"), keys.require("attention.head_count")
        return {
            "architectures": ["PhiForCausalLM"],
            "model_type": architecture,
            "vocab_size": keys.require("vocab_size"),
            "hidden_size": hidden,
            "num_hidden_layers": keys.require("block_count"),
            "num_attention_heads": heads,
            "num_key_value_heads": keys.get("attention.head_count_kv", heads),
            "intermediate_size": keys.require("feed_forward_length"),
            "max_position_embeddings": keys.require("context_length"),
            "layer_norm_eps": keys.require("attention.layer_norm_epsilon"),
            "rope_theta": keys.get("rope.freq_base", 10000.0),
            "partial_rotary_factor": keys.require("rope.dimension_count") / (hidden // heads),
            "tie_word_embeddings": bool(metadata.get("tied_embeddings")),
        }


NAMING = PhiNaming()
