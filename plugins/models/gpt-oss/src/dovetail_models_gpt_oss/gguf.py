"""GGUF's names for gpt-oss' metadata and tensors.

Source: the GGUF specification in the ggml repository, the tables of its Python package, and what llama.cpp's
conversion writes and its model assumes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dovetail.api import GGUFNaming, Metadata


class GptOssNaming(GGUFNaming):
    """Translates GGUF's ``gpt-oss`` architecture; see :class:`dovetail.api.Naming`."""

    architectures = {"gpt-oss": "GptOssForCausalLM"}
    inner = {
        **GGUFNaming.inner,
        **GGUFNaming.experts,
        "post_attention_norm": "post_attention_layernorm",
        "ffn_gate_inp": "mlp.router",
    }

    def rename(self, name: str) -> str | None:
        """Sinks are a plain tensor, which has a suffix in GGUF alone."""
        if name.endswith(".attn_sinks.weight"):
            return f"{self.layers}.{name.split('.')[1]}.self_attn.sinks"
        return super().rename(name)

    def more(self, keys: Metadata, config: Mapping[str, Any]) -> dict[str, Any]:
        for key in ("rope.dimension_count", "attention.value_length"):
            keys.expect(key, config["head_dim"], f"the head size {config['head_dim']}")
        scaling = config.get("rope_scaling")
        if scaling and scaling["rope_type"] == "yarn":
            scaling = {**scaling, "truncate": False}  # as it was trained; no key says it
        return {
            "sliding_window": keys.get("attention.sliding_window", 128),
            "rope_theta": keys.get("rope.freq_base", 150000.0),
            "rope_scaling": scaling or {"rope_type": "default"},
            "num_local_experts": keys.require("expert_count"),
            "num_experts_per_tok": keys.require("expert_used_count"),
            "intermediate_size": keys.get("expert_feed_forward_length") or config["intermediate_size"],
        }


NAMING = GptOssNaming()
