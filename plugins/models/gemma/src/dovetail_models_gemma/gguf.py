"""GGUF's names for Gemma 2's metadata and tensors.

Source: the GGUF specification in the ggml repository and llama.cpp's conversion of this architecture.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from dovetail.api import ConfigError

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


class GemmaNaming:
    """Translates GGUF's ``gemma2`` architecture; see :class:`dovetail.api.Naming`."""

    def config(self, architecture: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
        def get(key: str, default: Any = None) -> Any:
            value = metadata.get(f"{architecture}.{key}", default)
            if value is None:
                raise ConfigError(
                    f"the GGUF metadata lacks the key {architecture}.{key}",
                    "convert the model again, or give its config.json with --hf-config-path",
                )
            return value

        hidden, heads, head_dim = (
            get(key) for key in ("embedding_length", "attention.head_count", "attention.key_length")
        )
        layers = get("block_count")
        return {
            "architectures": ["Gemma2ForCausalLM"],
            "model_type": architecture,
            "vocab_size": get("vocab_size"),
            "hidden_size": hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": get("attention.head_count_kv", heads),
            "head_dim": head_dim,
            "intermediate_size": get("feed_forward_length"),
            "max_position_embeddings": get("context_length"),
            "rms_norm_eps": get("attention.layer_norm_rms_epsilon"),
            "rope_theta": get("rope.freq_base", 10000.0),
            "sliding_window": get("attention.sliding_window", 4096),
            "query_pre_attn_scalar": hidden / heads if layers == LARGEST else head_dim,
            "attn_logit_softcapping": get("attn_logit_softcapping", 50.0),
            "final_logit_softcapping": get("final_logit_softcapping", 30.0),
            "tie_word_embeddings": bool(metadata.get("tied_embeddings")),
            "norm_offset": 0.0,  # the conversion has added it
        }

    def rename(self, name: str) -> str | None:
        stem, _, component = name.rpartition(".")
        if stem in TOP:
            return f"{TOP[stem]}.{component}"
        match = re.fullmatch(r"blk\.(\d+)\.(\w+)", stem)
        if match and match[2] in LAYER:
            return f"model.layers.{match[1]}.{LAYER[match[2]]}.{component}"
        return name

    def row_order(self, name: str, config: Mapping[str, Any]) -> np.ndarray | None:
        return None


NAMING = GemmaNaming()
