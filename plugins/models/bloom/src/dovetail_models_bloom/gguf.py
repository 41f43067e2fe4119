"""GGUF's names for Bloom's metadata and tensors.

Source: the GGUF specification in the ggml repository and llama.cpp's conversion of this architecture, which writes the
rows of queries, keys and values one after the other.
"""

from __future__ import annotations

from dovetail.api import GGUFNaming


class BloomNaming(GGUFNaming):
    """Translates GGUF's ``bloom`` architecture; see :class:`dovetail.api.Naming`."""

    architectures = {"bloom": "BloomForCausalLM"}
    norm_eps = ("attention.layer_norm_epsilon", "layer_norm_epsilon")
    layers = "transformer.h"
    outer = {
        "token_embd": "transformer.word_embeddings",
        "token_embd_norm": "transformer.word_embeddings_layernorm",
        "output_norm": "transformer.ln_f",
        "output": "lm_head",
    }
    inner = {
        "attn_norm": "input_layernorm",
        "attn_qkv": "self_attention.query_key_value",
        "attn_output": "self_attention.dense",
        "ffn_norm": "post_attention_layernorm",
        "ffn_up": "mlp.dense_h_to_4h",
        "ffn_down": "mlp.dense_4h_to_h",
    }


NAMING = BloomNaming()
