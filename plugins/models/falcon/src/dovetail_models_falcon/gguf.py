"""GGUF's names for Falcon's metadata and tensors.

Source: the GGUF specification in the ggml repository and llama.cpp's conversion of this architecture, which writes the
rows of queries, keys and values one after the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dovetail.api import GGUFNaming, Metadata

TWO_NORMS = 8192
"""Channels of the smallest model whose attention and MLP have a norm each, which no key says: Falcon 40B. Falcon 2 11B,
of the same number of layers, has one for both.
"""


class FalconNaming(GGUFNaming):
    """Translates GGUF's ``falcon`` architecture; see :class:`dovetail.api.Naming`."""

    architectures = {"falcon": "FalconForCausalLM"}
    norm_eps = ("attention.layer_norm_epsilon", "layer_norm_epsilon")
    layers = "transformer.h"
    outer = {"token_embd": "transformer.word_embeddings", "output_norm": "transformer.ln_f", "output": "lm_head"}
    inner = {
        "attn_norm": "input_layernorm",
        "attn_norm_2": "ln_attn",
        "attn_qkv": "self_attention.query_key_value",
        "attn_output": "self_attention.dense",
        "ffn_up": "mlp.dense_h_to_4h",
        "ffn_down": "mlp.dense_4h_to_h",
    }

    def more(self, keys: Metadata, config: Mapping[str, Any]) -> dict[str, Any]:
        heads = keys.require("attention.head_count_kv")
        if heads == config["num_attention_heads"]:
            raise keys.refuse("attention.head_count_kv", heads, "fewer than heads: the others have ALiBi")
        new = heads > 1
        two = new and config["hidden_size"] >= TWO_NORMS
        return {
            "new_decoder_architecture": new,
            "num_ln_in_parallel_attn": 2 if two else 1,
            "mlp_norm": "input_layernorm",
            "ffn_hidden_size": config["intermediate_size"],
        }


NAMING = FalconNaming()
