"""GGUF's names for Llama's metadata and tensors, and its order of their rows.

Source: the GGUF specification in the ggml repository and llama.cpp's conversion of these architectures.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from dovetail.api import Metadata, TableNaming, rotary_halves
from dovetail_models_llama.gguf_rope import rope_scaling

ARCHITECTURES = {"granite": "GraniteForCausalLM", "mistral": "MistralForCausalLM"}

TOP = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "rope_freqs": "rope_freqs",
    "rope_factors_long": "rope_factors_long",
    "rope_factors_short": "rope_factors_short",
}
LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_rot_embd": "self_attn.rotary_emb",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


MULTIPLIERS = {
    "embedding_multiplier": "embedding_scale",
    "residual_multiplier": "residual_scale",
    "attention_multiplier": "attention.scale",
    "logits_scaling": "logit_scale",
}


class LlamaNaming(TableNaming):
    """Translates GGUF's ``llama`` and ``granite`` architectures; see :class:`dovetail.api.Naming`."""

    outer, inner, block = TOP, LAYER, "blk"

    def config(self, architecture: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
        keys = Metadata("GGUF", architecture, metadata)
        heads, hidden = keys.require("attention.head_count"), keys.require("embedding_length")
        keys.expect("expert_count", 0, "a dense model", "install a plugin for its mixture-of-experts architecture")
        head_dim = keys.get("attention.key_length") or hidden // heads
        for key in ("rope.dimension_count", "attention.value_length"):
            keys.expect(key, head_dim, f"the head size {head_dim}")
        config = {
            "architectures": [ARCHITECTURES.get(architecture, "LlamaForCausalLM")],
            "model_type": architecture,
            "vocab_size": keys.require("vocab_size"),
            "hidden_size": hidden,
            "num_hidden_layers": keys.require("block_count"),
            "num_attention_heads": heads,
            "num_key_value_heads": keys.get("attention.head_count_kv", heads),
            "head_dim": head_dim,
            "intermediate_size": keys.require("feed_forward_length"),
            "max_position_embeddings": keys.require("context_length"),
            "rms_norm_eps": keys.require("attention.layer_norm_rms_epsilon"),
            "rope_theta": keys.get("rope.freq_base", 10000.0),
            "sliding_window": keys.get("attention.sliding_window") or None,
            "tie_word_embeddings": bool(metadata.get("tied_embeddings")),
            # No key describes biases: a file simply has the tensors, possibly only for some layers.
            "attention_bias": "optional",
            "mlp_bias": "optional",
        }
        if scaling := rope_scaling(keys):
            config["rope_scaling"] = scaling
        for key, name in MULTIPLIERS.items():
            if value := keys.get(name):  # 0 means none
                config[key] = value
        if architecture == "granite":
            # Hugging Face's Granite multiplies by 1 where its configuration is silent; a GGUF file means the usual scale.
            config.setdefault("attention_multiplier", head_dim**-0.5)
            # llama.cpp takes this key for whether Granite has rotary embeddings at all.
            keys.expect(
                "rope.scaling.finetuned", True, "rotary embeddings", "this variant needs a model plugin of its own"
            )
        return config

    def row_order(self, name: str, config: Mapping[str, Any]) -> np.ndarray | None:
        """In GGUF, each rotary pair of q and k is two adjacent rows; the models here expect the two halves of a
        head.
        """
        match = re.search(r"\.self_attn\.([qk])_proj\.(weight|bias)$", name)
        if match is None:
            return None
        heads = config["num_attention_heads"] if match[1] == "q" else config["num_key_value_heads"]
        return np.array(rotary_halves(heads, config["head_dim"]))


NAMING = LlamaNaming()
