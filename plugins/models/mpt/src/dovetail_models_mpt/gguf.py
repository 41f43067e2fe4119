"""GGUF's names for MPT's metadata and tensors.

Source: the GGUF specification in the ggml repository and llama.cpp's conversion of this architecture.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dovetail.api import GGUFNaming, Metadata


class MptNaming(GGUFNaming):
    """Translates GGUF's ``mpt`` architecture; see :class:`dovetail.api.Naming`."""

    architectures = {"mpt": "MptForCausalLM"}
    norm_eps = ("attention.layer_norm_epsilon", "layer_norm_epsilon")
    layers = "transformer.blocks"
    outer = {"token_embd": "transformer.wte", "output_norm": "transformer.norm_f", "output": "lm_head"}
    inner = {
        "attn_norm": "norm_1",
        "attn_qkv": "attn.Wqkv",
        "attn_output": "attn.out_proj",
        "ffn_norm": "norm_2",
        "ffn_up": "ffn.up_proj",
        "ffn_down": "ffn.down_proj",
    }

    def more(self, keys: Metadata, config: Mapping[str, Any]) -> dict[str, Any]:
        largest = keys.require("attention.max_alibi_bias")
        if not largest:
            raise keys.refuse(
                "attention.max_alibi_bias", largest, "a positive number: learned positions are not supported"
            )
        return {"alibi_bias_max": largest, "clip_qkv": keys.get("attention.clamp_kqv") or None}


NAMING = MptNaming()
