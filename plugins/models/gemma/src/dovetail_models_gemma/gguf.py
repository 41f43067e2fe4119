"""GGUF's names for Gemma 2's metadata and tensors.

Source: the GGUF specification in the ggml repository and llama.cpp's conversion of this architecture.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dovetail.api import GGUFNaming, Metadata

LARGEST = 46
"""Layers of the 27B model. No key says the scale of its scores, which is not that of the others."""


class GemmaNaming(GGUFNaming):
    """Translates GGUF's ``gemma2`` architecture; see :class:`dovetail.api.Naming`."""

    architectures = {"gemma2": "Gemma2ForCausalLM"}
    inner = GGUFNaming.inner | {
        "post_attention_norm": "post_attention_layernorm",
        "ffn_norm": "pre_feedforward_layernorm",
        "post_ffw_norm": "post_feedforward_layernorm",
    }

    def more(self, keys: Metadata, config: Mapping[str, Any]) -> dict[str, Any]:
        keys.require("attention.key_length")
        hidden, heads, layers = (config[key] for key in ("hidden_size", "num_attention_heads", "num_hidden_layers"))
        return {
            "sliding_window": keys.get("attention.sliding_window", 4096),
            "query_pre_attn_scalar": hidden / heads if layers == LARGEST else config["head_dim"],
            "attn_logit_softcapping": keys.get("attn_logit_softcapping", 50.0),
            "final_logit_softcapping": keys.get("final_logit_softcapping", 30.0),
            "norm_offset": 0.0,  # the conversion has added it
        }


NAMING = GemmaNaming()
