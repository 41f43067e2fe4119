"""How GGUF names Llama's metadata and tensors, and in which order it keeps their rows.

Source: the GGUF specification in the ggml repository and llama.cpp's conversion of these architectures.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from dovetail.api import ConfigError

ARCHITECTURES = {"granite": "GraniteForCausalLM", "mistral": "MistralForCausalLM"}

TOP = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "rope_freqs": "rope_freqs",
}
LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


class LlamaNaming:
    """Translates GGUF's ``llama`` and ``granite`` architectures; see :class:`dovetail.api.Naming`."""

    def config(self, architecture: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
        def get(key: str, default: Any = None, required: bool = False) -> Any:
            value = metadata.get(f"{architecture}.{key}", default)
            if value is None and required:
                raise ConfigError(
                    f"the GGUF metadata lacks the key {architecture}.{key}",
                    "convert the model again, or give its config.json with --hf-config-path",
                )
            return value

        heads, hidden = get("attention.head_count", required=True), get("embedding_length", required=True)
        experts = get("expert_count", 0)
        if experts:
            raise ConfigError(
                f"the GGUF metadata says {architecture}.expert_count = {experts}, wanted a dense model",
                "install a plugin for its mixture-of-experts architecture",
            )
        head_dim = get("attention.key_length") or hidden // heads
        rotated = get("rope.dimension_count", head_dim)
        if rotated != head_dim:
            raise ConfigError(
                f"the GGUF metadata says {architecture}.rope.dimension_count = {rotated}, wanted the head size {head_dim}",
                "this variant needs a model plugin of its own",
            )
        config = {
            "architectures": [ARCHITECTURES.get(architecture, "LlamaForCausalLM")],
            "model_type": architecture,
            "vocab_size": get("vocab_size", required=True),
            "hidden_size": hidden,
            "num_hidden_layers": get("block_count", required=True),
            "num_attention_heads": heads,
            "num_key_value_heads": get("attention.head_count_kv", heads),
            "head_dim": head_dim,
            "intermediate_size": get("feed_forward_length", required=True),
            "max_position_embeddings": get("context_length", required=True),
            "rms_norm_eps": get("attention.layer_norm_rms_epsilon", required=True),
            "rope_theta": get("rope.freq_base", 10000.0),
            "sliding_window": get("attention.sliding_window"),
            "tie_word_embeddings": bool(metadata.get("tied_embeddings")),
            "attention_bias": bool(metadata.get("attention_bias")),
        }
        scaling = get("rope.scaling.type", "none")
        if scaling != "none":
            config["rope_scaling"] = {
                "rope_type": scaling,
                "factor": get("rope.scaling.factor", required=True),
                "original_max_position_embeddings": get("rope.scaling.original_context_length"),
            }
        for key, name in (
            ("embedding_multiplier", "embedding_scale"),
            ("residual_multiplier", "residual_scale"),
            ("attention_multiplier", "attention.scale"),
            ("logits_scaling", "logit_scale"),
        ):
            if (value := get(name)) is not None:
                config[key] = value
        return config

    def rename(self, name: str) -> str | None:
        stem, _, component = name.rpartition(".")
        if stem in TOP:
            return f"{TOP[stem]}.{component}"
        match = re.fullmatch(r"blk\.(\d+)\.(\w+)", stem)
        if match and match[2] in LAYER:
            return f"model.layers.{match[1]}.{LAYER[match[2]]}.{component}"
        return name

    def row_order(self, name: str, config: Mapping[str, Any]) -> np.ndarray | None:
        """Rows of q and k stand with each rotary pair side by side; models here keep the halves of a head apart."""
        match = re.search(r"\.self_attn\.([qk])_proj\.(weight|bias)$", name)
        if match is None:
            return None
        heads = config["num_attention_heads"] if match[1] == "q" else config["num_key_value_heads"]
        rows = np.arange(heads * config["head_dim"]).reshape(heads, config["head_dim"] // 2, 2)
        return rows.transpose(0, 2, 1).reshape(-1)


NAMING = LlamaNaming()
