"""GGUF's names for Phi-2's metadata and tensors.

Source: the GGUF specification in the ggml repository and llama.cpp's conversion of this architecture.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from dovetail.api import ConfigError

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


class PhiNaming:
    """Translates GGUF's ``phi2`` architecture; see :class:`dovetail.api.Naming`."""

    def config(self, architecture: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
        def get(key: str, default: Any = None) -> Any:
            value = metadata.get(f"{architecture}.{key}", default)
            if value is None:
                raise ConfigError(
                    f"the GGUF metadata lacks the key {architecture}.{key}",
                    "convert the model again, or give its config.json with --hf-config-path",
                )
            return value

        hidden, heads = get("embedding_length"), get("attention.head_count")
        return {
            "architectures": ["PhiForCausalLM"],
            "model_type": architecture,
            "vocab_size": get("vocab_size"),
            "hidden_size": hidden,
            "num_hidden_layers": get("block_count"),
            "num_attention_heads": heads,
            "num_key_value_heads": get("attention.head_count_kv", heads),
            "intermediate_size": get("feed_forward_length"),
            "max_position_embeddings": get("context_length"),
            "layer_norm_eps": get("attention.layer_norm_epsilon"),
            "rope_theta": get("rope.freq_base", 10000.0),
            "partial_rotary_factor": get("rope.dimension_count") / (hidden // heads),
            "tie_word_embeddings": bool(metadata.get("tied_embeddings")),
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


NAMING = PhiNaming()
