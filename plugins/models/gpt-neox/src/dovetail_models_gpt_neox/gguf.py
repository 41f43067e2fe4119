"""GGUF's names for GPT-NeoX's metadata and tensors.

Source: the GGUF specification in the ggml repository and llama.cpp's conversion of this architecture, which writes the
rows of queries, keys and values one after the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dovetail.api import GGUFNaming, Metadata


class GPTNeoXNaming(GGUFNaming):
    """Translates GGUF's ``gptneox`` architecture; see :class:`dovetail.api.Naming`."""

    architectures = {"gptneox": "GPTNeoXForCausalLM"}
    norm_eps = ("attention.layer_norm_epsilon", "layer_norm_eps")
    layers = "gpt_neox.layers"
    outer = {"token_embd": "gpt_neox.embed_in", "output_norm": "gpt_neox.final_layer_norm", "output": "embed_out"}
    inner = {
        "attn_norm": "input_layernorm",
        "attn_qkv": "attention.query_key_value",
        "attn_output": "attention.dense",
        "ffn_norm": "post_attention_layernorm",
        "ffn_up": "mlp.dense_h_to_4h",
        "ffn_down": "mlp.dense_4h_to_h",
    }

    def more(self, keys: Metadata, config: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "rotary_emb_base": config["rope_theta"],
            "rotary_pct": keys.require("rope.dimension_count") / config["head_dim"],
            "use_parallel_residual": keys.get("use_parallel_residual", True),
            "attention_bias": "optional",  # no key says: a file simply has them
        }


NAMING = GPTNeoXNaming()
