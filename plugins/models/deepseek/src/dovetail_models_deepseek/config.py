"""The configurations of DeepSeek-V2 and V3, read from ``config.json``."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from dovetail.api import (
    AttentionFeature,
    AttentionRequirement,
    DecoderConfig,
    Epsilon,
    HeadDim,
    LayerType,
    Positions,
    Size,
    check_routing,
)

Count = Annotated[int, Field(gt=0, le=4096)]
ROUTING = ("n_routed_experts", "num_experts_per_tok", "n_group", "topk_group")


class LatentConfig(DecoderConfig):
    """What both versions have: latent attention, and experts in most layers. ``head_dim`` is what is rotated of a head,
    ``qk_rope_head_dim``.
    """

    aliases: ClassVar[dict[str, str]] = {"num_experts": "n_routed_experts", "num_local_experts": "n_routed_experts"}
    supported_layer_types: ClassVar[tuple[LayerType, ...]] = ("full_attention",)
    if_null: ClassVar[dict[str, Any]] = {"q_lora_rank": 0}

    rms_norm_eps: Epsilon = 1e-6
    attention_bias: bool = False
    mlp_bias: bool = False
    kv_lora_rank: Size = 512
    q_lora_rank: int = Field(default=1536, ge=0, le=2**24)
    """0 for queries that are projected at once, where the file has null."""
    qk_nope_head_dim: HeadDim = 128
    qk_rope_head_dim: HeadDim = Field(default=64, multiple_of=2)
    v_head_dim: HeadDim = 128
    moe_intermediate_size: Size
    n_routed_experts: Count
    n_shared_experts: int = Field(ge=0, le=4096)
    num_experts_per_tok: Count
    n_group: Count
    topk_group: Count
    topk_method: str
    scoring_func: Literal["softmax", "sigmoid"]
    norm_topk_prob: bool
    routed_scaling_factor: float = Field(gt=0)
    first_k_dense_replace: int = Field(ge=0)
    moe_layer_freq: int = Field(default=1, gt=0)
    rope_interleave: bool = True
    up_projections: Literal["kv_b_proj", "k_b_proj, v_b_proj"] = "kv_b_proj"
    """How the projections of latent rows to keys and values are stored; in newer GGUF files they are apart, a matrix of
    each head, of which those of the keys are transposed.
    """

    @classmethod
    def prepare(cls, data: dict[str, Any]) -> dict[str, Any]:
        data["head_dim"] = data.get("qk_rope_head_dim", cls.model_fields["qk_rope_head_dim"].default)
        return super().prepare(data)

    @model_validator(mode="after")
    def _check_deepseek(self) -> LatentConfig:
        if self.num_key_value_heads != self.num_attention_heads:
            raise ValueError(
                f"num_key_value_heads is {self.num_key_value_heads}, wanted num_attention_heads, which is "
                f"{self.num_attention_heads}: all heads share a latent row"
            )
        if (part := self.rope_for(0).partial_rotary_factor) != 1.0:
            raise ValueError(f"partial_rotary_factor is {part}, wanted 1: qk_rope_head_dim says what is rotated")
        experts, chosen = self.n_routed_experts, self.num_experts_per_tok
        check_routing(experts, chosen, *self.groups, bias=self.has_correction, names=ROUTING)
        return self

    @property
    def groups(self) -> tuple[int, int]:
        """Groups of experts, and from how many of them a token's experts come."""
        return (1, 1) if self.topk_method == "greedy" else (self.n_group, self.topk_group)

    @property
    def has_correction(self) -> bool:
        """Whether scores have a bias for the choice of experts."""
        return self.topk_method == "noaux_tc"

    @property
    def attention_scale(self) -> float:
        """On the products of queries and keys. A rotary embedding with ``mscale_all_dim`` (YaRN; Peng et al., 2023)
        scales them by the square of its factor.
        """
        rope, usual = self.rope_for(0), (self.qk_nope_head_dim + self.qk_rope_head_dim) ** -0.5
        if rope.rope_type == "default" or not rope.mscale_all_dim or (rope.factor or 1.0) <= 1:
            return usual
        return usual * (0.1 * rope.mscale_all_dim * math.log(rope.factor or 1.0) + 1.0) ** 2

    def has_experts(self, layer: int) -> bool:
        return layer >= self.first_k_dense_replace and layer % self.moe_layer_freq == 0

    def attention_features(self, layer: int) -> frozenset[AttentionFeature]:
        return frozenset({"latent"})

    def attention_requirements(self) -> tuple[AttentionRequirement, ...]:
        row = self.kv_lora_rank + self.qk_rope_head_dim
        return (AttentionRequirement(features=frozenset({"latent"}), head_dim=row, value_dim=self.kv_lora_rank),)


class DeepseekV2Config(LatentConfig):
    """Keys of DeepseekV2Config in transformers, with their defaults, and those that published files have besides."""

    moe_intermediate_size: Size = 1407
    n_routed_experts: Count = 64
    n_shared_experts: int = Field(default=2, ge=0, le=4096)
    n_group: Count = 1
    topk_group: Count = 1
    topk_method: Literal["greedy", "group_limited_greedy"] = "greedy"
    scoring_func: Literal["softmax"] = "softmax"
    norm_topk_prob: Literal[False] = False
    """Implementations differ in what it does to ``routed_scaling_factor``, and no model was trained with it."""
    routed_scaling_factor: float = Field(default=1.0, gt=0)
    first_k_dense_replace: int = Field(default=0, ge=0)
    rope_interleave: Literal[True] = True


class DeepseekV3Config(LatentConfig):
    """Keys of DeepseekV3Config in transformers, with their defaults, and those that published files have besides."""

    if_null: ClassVar[dict[str, Any]] = {"norm_topk_prob": False, "rope_interleave": False}

    max_position_embeddings: Positions = 4096
    moe_intermediate_size: Size = 2048
    n_routed_experts: Count = 256
    n_shared_experts: int = Field(default=1, ge=0, le=4096)
    num_experts_per_tok: Count = 8
    n_group: Count = 8
    topk_group: Count = 4
    topk_method: Literal["noaux_tc"] = "noaux_tc"
    scoring_func: Literal["sigmoid"] = "sigmoid"
    norm_topk_prob: bool = True
    routed_scaling_factor: float = Field(default=2.5, gt=0)
    first_k_dense_replace: int = Field(default=3, ge=0)
