"""GGUF's names for Gemma 2's metadata and tensors.

Source: the GGUF specification in the ggml repository and llama.cpp's conversion of this architecture.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dovetail.api import Metadata, TableNaming

TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "post_ffw_norm": "post_feedforward_layernorm",
}
LARGEST = 46
"""Layers of the 27B model. No key says the scale of its scores, which is not that of the others."""


class GemmaNaming(TableNaming):
    """Translates GGUF's ``gemma2`` architecture; see :class:`dovetail.api.Naming`."""

    outer, inner, block = TOP, LAYER, "blk"

    def config(self, architecture: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
        keys = Metadata("GGUF", architecture, metadata)
        hidden, heads, head_dim = (
            keys.require(key) for key in ("embedding_length", "attention.head_count", "attention.key_length")
        )
        layers = keys.require("block_count")
        return {
            "architectures": ["Gemma2ForCausalLM"],
            "model_type": architecture,
            "vocab_size": keys.require("vocab_size"),
            "hidden_size": hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": keys.get("attention.head_count_kv", heads),
            "head_dim": head_dim,
            "intermediate_size": keys.require("feed_forward_length"),
            "max_position_embeddings": keys.require("context_length"),
            "rms_norm_eps": keys.require("attention.layer_norm_rms_epsilon"),
            "rope_theta": keys.get("rope.freq_base", 10000.0),
            "sliding_window": keys.get("attention.sliding_window", 4096),
            "query_pre_attn_scalar": hidden / heads if layers == LARGEST else head_dim,
            "attn_logit_softcapping": keys.get("attn_logit_softcapping", 50.0),
            "final_logit_softcapping": keys.get("final_logit_softcapping", 30.0),
            "tie_word_embeddings": bool(metadata.get("tied_embeddings")),
            "norm_offset": 0.0,  # the conversion has added it
        }


NAMING = GemmaNaming()
