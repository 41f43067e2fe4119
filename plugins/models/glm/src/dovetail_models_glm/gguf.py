"""GGUF's names for the metadata and tensors of GLM-4-0414 and GLM-4.5.

Source: the GGUF specification in the ggml repository and llama.cpp's conversion of these architectures.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from dovetail.api import GGUFNaming, Metadata

SIGMOID = 2
"""Of ``expert_gating_func``."""
LARGE = 92
"""Layers of the large GLM-4.5, which has norms of queries and keys. No key says so; GLM-4.5-Air has 46, and none."""


class Glm4Naming(GGUFNaming):
    """Translates GGUF's ``glm4`` architecture; see :class:`dovetail.api.Naming`."""

    architectures = {"glm4": "Glm4ForCausalLM"}
    inner = {name: part for name, part in GGUFNaming.inner.items() if name != "ffn_gate"} | {
        "ffn_up": "mlp.gate_up_proj",
        "post_attention_norm": "post_self_attn_layernorm",
        "post_ffw_norm": "post_mlp_layernorm",
    }

    def more(self, keys: Metadata, config: Mapping[str, Any]) -> dict[str, Any]:
        keys.expect("nextn_predict_layers", 0, "no layers that predict further tokens")
        # The files of models that see have sections, and rows in another order.
        if sections := keys.get("rope.dimension_sections"):
            raise keys.refuse("rope.dimension_sections", sections, "none")
        return {"attention_bias": "optional"}  # no key describes them


class Glm4MoeNaming(GGUFNaming):
    """Translates GGUF's ``glm4moe`` architecture; see :class:`dovetail.api.Naming`."""

    architectures = {"glm4moe": "Glm4MoeForCausalLM"}
    inner = (
        {name: part for name, part in GGUFNaming.inner.items() if name != "ffn_norm"}
        | GGUFNaming.qk_norms
        | GGUFNaming.experts
        | {f"ffn_{part}_shexp": f"mlp.shared_experts.{part}_proj" for part in ("gate", "up", "down")}
        | {"post_attention_norm": "post_attention_layernorm"}
    )

    def more(self, keys: Metadata, config: Mapping[str, Any]) -> dict[str, Any]:
        keys.expect("expert_gating_func", SIGMOID, f"{SIGMOID}, which is the sigmoid")
        layers = config["num_hidden_layers"] - keys.get("nextn_predict_layers", 0)
        return {
            "num_hidden_layers": layers,
            "attention_bias": "optional",  # no key describes them
            "use_qk_norm": layers == LARGE,
            "n_routed_experts": keys.require("expert_count"),
            "num_experts_per_tok": keys.require("expert_used_count"),
            "n_shared_experts": keys.require("expert_shared_count"),
            "moe_intermediate_size": keys.require("expert_feed_forward_length"),
            "first_k_dense_replace": keys.require("leading_dense_block_count"),
            "routed_scaling_factor": keys.get("expert_weights_scale", 1.0),
            "norm_topk_prob": keys.get("expert_weights_norm", True),
            "n_group": keys.get("expert_group_count", 1),
            "topk_group": keys.get("expert_group_used_count", 1),
        }

    def rename(self, name: str) -> str | None:
        """Further tensors of the layers that predict further tokens are named as if they were the model's."""
        name = re.sub(r"^blk\.(\d+)\.nextn\.", rf"{self.layers}.\1.nextn_", name)
        return super().rename(
            re.sub(r"^blk\.(\d+)\.exp_probs_b\.bias$", rf"{self.layers}.\1.mlp.gate.e_score_correction_bias", name)
        )


GLM4 = Glm4Naming()
GLM4MOE = Glm4MoeNaming()
