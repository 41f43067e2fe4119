"""GGUF's names for GPT-2's metadata and tensors.

Source: the GGUF specification in the ggml repository and llama.cpp's conversion of this architecture.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dovetail.api import Metadata, TableNaming

TOP = {
    "token_embd": "transformer.wte",
    "position_embd": "transformer.wpe",
    "output_norm": "transformer.ln_f",
    "output": "lm_head",
}
LAYER = {
    "attn_norm": "ln_1",
    "attn_qkv": "attn.c_attn",
    "attn_output": "attn.c_proj",
    "ffn_norm": "ln_2",
    "ffn_up": "mlp.c_fc",
    "ffn_down": "mlp.c_proj",
}


class GPT2Naming(TableNaming):
    """Translates GGUF's ``gpt2`` architecture; see :class:`dovetail.api.Naming`."""

    outer, inner, block = TOP, LAYER, "blk"
    layers = "transformer.h"

    def config(self, architecture: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
        keys = Metadata("GGUF", architecture, metadata)
        return {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": architecture,
            "vocab_size": keys.require("vocab_size"),
            "n_embd": keys.require("embedding_length"),
            "n_layer": keys.require("block_count"),
            "n_head": keys.require("attention.head_count"),
            "n_inner": keys.require("feed_forward_length"),
            "n_positions": keys.require("context_length"),
            "layer_norm_epsilon": keys.require("attention.layer_norm_epsilon"),
            "tie_word_embeddings": bool(metadata.get("tied_embeddings")),
        }


NAMING = GPT2Naming()
