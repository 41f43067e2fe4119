"""GGUF's names for Mixtral's metadata and tensors. The container calls it ``llama``, with a number of experts.

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
    "attn_rot_embd": "self_attn.rotary_emb",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate_inp": "block_sparse_moe.gate",
}
EXPERTS = {"ffn_gate": "w1", "ffn_up": "w3", "ffn_down": "w2"}
VARIANT = "this variant needs a model plugin of its own"


class MixtralNaming:
    """Translates GGUF's ``llama`` architecture with experts; see :class:`dovetail.api.Naming`."""

    def config(self, architecture: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
        def get(key: str, default: Any = None) -> Any:
            return metadata.get(f"{architecture}.{key}", default)

        def require(key: str) -> Any:
            if (value := get(key)) is None:
                raise ConfigError(
                    f"the GGUF metadata lacks the key {architecture}.{key}",
                    "convert the model again, or give its config.json with --hf-config-path",
                )
            return value

        def expect(key: str, default: Any, *wanted: Any) -> None:
            if (value := get(key, default)) not in wanted:
                raise ConfigError(f"the GGUF metadata says {architecture}.{key} = {value}, wanted {wanted[0]}", VARIANT)

        if not get("expert_count"):
            raise ConfigError(f"the GGUF metadata says {architecture}.expert_count = 0, wanted experts", VARIANT)
        heads, hidden = require("attention.head_count"), require("embedding_length")
        head_dim = get("attention.key_length") or hidden // heads
        for key in ("rope.dimension_count", "attention.value_length"):
            expect(key, head_dim, head_dim)
        expect("rope.scaling.type", "none", "none", "linear")
        expect("rope.scaling.factor", 1.0, 1.0, 0.0)
        return {
            "architectures": ["MixtralForCausalLM"],
            "model_type": "mixtral",
            "vocab_size": require("vocab_size"),
            "hidden_size": hidden,
            "num_hidden_layers": require("block_count"),
            "num_attention_heads": heads,
            "num_key_value_heads": get("attention.head_count_kv", heads),
            "head_dim": head_dim,
            "intermediate_size": require("feed_forward_length"),
            "num_local_experts": get("expert_count"),
            "num_experts_per_tok": require("expert_used_count"),
            "max_position_embeddings": require("context_length"),
            "rms_norm_eps": require("attention.layer_norm_rms_epsilon"),
            "rope_theta": get("rope.freq_base", 10000.0),
            "sliding_window": get("attention.sliding_window") or None,
            "tie_word_embeddings": bool(metadata.get("tied_embeddings")),
        }

    def rename(self, name: str) -> str | None:
        stem, _, component = name.rpartition(".")
        if stem in TOP:
            return f"{TOP[stem]}.{component}"
        match = re.fullmatch(r"blk\.(\d+)\.(\w+?)(_exps|\.\d+)?", stem)
        if match is None:
            return name
        prefix, part, stacked = f"model.layers.{match[1]}", match[2], match[3]
        if stacked is None:
            return f"{prefix}.{LAYER[part]}.{component}" if part in LAYER else name
        if part not in EXPERTS:
            return name
        # Files of 2023 have a tensor for each expert.
        expert = "" if stacked == "_exps" else stacked
        return f"{prefix}.block_sparse_moe.experts{expert}.{EXPERTS[part]}.{component}"

    def row_order(self, name: str, config: Mapping[str, Any]) -> np.ndarray | None:
        """In GGUF, each rotary pair of q and k is two adjacent rows; the model expects the two halves of a head."""
        match = re.search(r"\.self_attn\.([qk])_proj\.weight$", name)
        if match is None:
            return None
        heads = config["num_attention_heads"] if match[1] == "q" else config["num_key_value_heads"]
        rows = np.arange(heads * config["head_dim"]).reshape(heads, config["head_dim"] // 2, 2)
        return rows.transpose(0, 2, 1).reshape(-1)


NAMING = MixtralNaming()
