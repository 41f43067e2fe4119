"""GGUF's names for Phi-2's metadata and tensors.

Source: the GGUF specification in the ggml repository and llama.cpp's conversion of this architecture.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dovetail.api import GGUFNaming, Metadata


class PhiNaming(GGUFNaming):
    """Translates GGUF's ``phi2`` architecture; see :class:`dovetail.api.Naming`."""

    architectures = {"phi2": "PhiForCausalLM"}
    norm_eps = ("attention.layer_norm_epsilon", "layer_norm_eps")
    outer = GGUFNaming.outer | {"output_norm": "model.final_layernorm"}
    inner = {
        "attn_norm": "input_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.dense",
        "ffn_up": "mlp.fc1",
        "ffn_down": "mlp.fc2",
    }

    def more(self, keys: Metadata, config: Mapping[str, Any]) -> dict[str, Any]:
        return {"partial_rotary_factor": keys.require("rope.dimension_count") / config["head_dim"]}


NAMING = PhiNaming()
