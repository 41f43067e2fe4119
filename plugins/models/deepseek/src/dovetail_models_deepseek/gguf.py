"""GGUF's names for the metadata and tensors of DeepSeek-V2 and V3, which share an architecture there.

Source: the GGUF specification in the ggml repository, the tables of its Python package, and llama.cpp's conversion of
this architecture.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from dovetail.api import GGUFNaming, Metadata

SOFTMAX, SIGMOID = 1, 2
"""Values of ``expert_gating_func``; files that are older than the key have softmax."""
GROUPS = {160: (8, 3), 256: (8, 4)}
"""Experts → groups, and those that a token's experts come from, of DeepSeek-V2 and V3, where a file says nothing."""


class DeepseekNaming(GGUFNaming):
    """Translates GGUF's ``deepseek2`` architecture; see :class:`dovetail.api.Naming`.

    Attributes:
        gating: class attribute, the only value of ``expert_gating_func`` that is not refused.
    """

    gating: ClassVar[int]
    inner = (
        GGUFNaming.inner
        | GGUFNaming.experts
        | {
            "attn_q_a": "self_attn.q_a_proj",
            "attn_q_b": "self_attn.q_b_proj",
            "attn_q_a_norm": "self_attn.q_a_layernorm",
            "attn_kv_a_mqa": "self_attn.kv_a_proj_with_mqa",
            "attn_kv_a_norm": "self_attn.kv_a_layernorm",
            "attn_kv_b": "self_attn.kv_b_proj",
            "attn_k_b": "self_attn.k_b_proj",
            "attn_v_b": "self_attn.v_b_proj",
            "ffn_gate_shexp": "mlp.shared_experts.gate_proj",
            "ffn_up_shexp": "mlp.shared_experts.up_proj",
            "ffn_down_shexp": "mlp.shared_experts.down_proj",
        }
    )

    def rename(self, name: str) -> str | None:
        found = re.sub(r"^blk\.(\d+)\.exp_probs_b\.bias$", r"model.layers.\1.mlp.gate.e_score_correction_bias", name)
        return found if found != name else super().rename(name)

    def config(self, architecture: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
        keys = Metadata("GGUF", architecture, metadata)
        if (gating := keys.get("expert_gating_func") or SOFTMAX) != self.gating:
            raise keys.refuse("expert_gating_func", gating, f"{self.gating} for {self.architectures[architecture]}")
        return super().config(architecture, metadata)

    def more(self, keys: Metadata, config: Mapping[str, Any]) -> dict[str, Any]:
        apart = keys.get("attention.key_length_mla") is not None  # then the others are of latent rows
        key, value = (f"attention.{part}_length{'_mla' if apart else ''}" for part in ("key", "value"))
        rotated, experts = keys.require("rope.dimension_count"), keys.require("expert_count")
        usual, usual_top = GROUPS.get(experts, (1, 1))
        more: dict[str, Any] = {
            "num_key_value_heads": config["num_attention_heads"],
            "partial_rotary_factor": None,
            "q_lora_rank": keys.get("attention.q_lora_rank") or 0,
            "kv_lora_rank": keys.require("attention.kv_lora_rank"),
            "qk_rope_head_dim": rotated,
            "qk_nope_head_dim": keys.require(key) - rotated,
            "v_head_dim": keys.require(value),
            "up_projections": "k_b_proj, v_b_proj" if apart else "kv_b_proj",
            "moe_intermediate_size": keys.require("expert_feed_forward_length"),
            "n_routed_experts": experts,
            "num_experts_per_tok": keys.require("expert_used_count"),
            "n_shared_experts": keys.get("expert_shared_count") or 0,
            "first_k_dense_replace": keys.get("leading_dense_block_count") or 0,
            "norm_topk_prob": bool(keys.get("expert_weights_norm", False)),
            "routed_scaling_factor": keys.get("expert_weights_scale") or 1.0,
            "n_group": keys.get("expert_group_count") or usual,
            "topk_group": keys.get("expert_group_used_count") or usual_top,
        }
        scaling = config.get("rope_scaling", {})
        if scale := scaling.get("mscale_all_dim"):
            # The file has a tenth of it. The original's mscale is the same in all models, so cos and sin have the factor 1.
            more["rope_scaling"] = {**scaling, "mscale_all_dim": 10 * scale, "mscale": 10 * scale}
        return more


class DeepseekV2Naming(DeepseekNaming):
    architectures = {"deepseek2": "DeepseekV2ForCausalLM"}
    gating = SOFTMAX

    def more(self, keys: Metadata, config: Mapping[str, Any]) -> dict[str, Any]:
        more = super().more(keys, config)
        return more | {"topk_method": "group_limited_greedy" if more["n_group"] > 1 else "greedy"}


class DeepseekV3Naming(DeepseekNaming):
    architectures = {"deepseek2": "DeepseekV3ForCausalLM"}
    gating = SIGMOID


V2_NAMING = DeepseekV2Naming()
V3_NAMING = DeepseekV3Naming()
