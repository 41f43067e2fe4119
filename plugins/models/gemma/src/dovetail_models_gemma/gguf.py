"""GGUF's names for Gemma 2's and 3's metadata and tensors.

Source: the GGUF specification in the ggml repository and llama.cpp's conversion of this architecture.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dovetail.api import GGUFNaming, Metadata

LARGEST, LARGEST_3 = 46, 62
"""Layers of the 27B models. No key says the scale of their scores, which is not that of the others."""


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


class Gemma3Naming(GemmaNaming):
    """Translates GGUF's ``gemma3`` architecture."""

    architectures = {"gemma3": "Gemma3ForCausalLM"}
    inner = GemmaNaming.inner | GGUFNaming.qk_norms

    def more(self, keys: Metadata, config: Mapping[str, Any]) -> dict[str, Any]:
        more = super().more(keys, config)
        largest = config["num_hidden_layers"] == LARGEST_3
        return more | {
            "sliding_window": keys.get("attention.sliding_window", 4096),
            "rope_theta": keys.get("rope.freq_base", 1e6),
            "rope_local_base_freq": keys.get("rope.freq_base_swa", 1e4),
            "query_pre_attn_scalar": config["hidden_size"] / config["num_attention_heads"]
            if largest
            else config["head_dim"],
            "final_logit_softcapping": keys.get("final_logit_softcapping"),
        }


NAMING = GemmaNaming()
NAMING_3 = Gemma3Naming()
