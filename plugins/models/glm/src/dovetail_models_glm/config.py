"""The configurations of GLM-4 and GLM-4.5, read from ``config.json``."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from dovetail.api import DecoderConfig, Epsilon, LayerType, Positions, Size, check_routing

Count = Annotated[int, Field(gt=0, le=4096)]
Bias = bool | Literal["optional"]
"""Whether q, k and v have biases; ``optional``: those in the checkpoint."""
ROUTING = ("n_routed_experts", "num_experts_per_tok", "n_group", "topk_group")


class GlmConfig(DecoderConfig):
    """Keys of GlmConfig and Glm4Config in transformers, with their defaults."""

    supported_layer_types: ClassVar[tuple[LayerType, ...]] = ("full_attention",)
    if_null: ClassVar[dict[str, Any]] = {"partial_rotary_factor": 1.0}
    rope_defaults: ClassVar[dict[str, Any]] = {"partial_rotary_factor": 0.5}
    usual: ClassVar[dict[str, int]] = {"num_key_value_heads": 2, "head_dim": 128}
    """Keys of which transformers' default is a number of its own."""

    max_position_embeddings: Positions = 131072
    rms_norm_eps: Epsilon = 1.5625e-07
    attention_bias: Bias = True

    @classmethod
    def prepare(cls, data: dict[str, Any]) -> dict[str, Any]:
        return super().prepare(cls.usual | data)


class GlmMoeConfig(GlmConfig):
    """Keys of Glm4MoeConfig in transformers, with their defaults."""

    aliases: ClassVar[dict[str, str]] = {"num_local_experts": "n_routed_experts"}
    usual: ClassVar[dict[str, int]] = {"num_key_value_heads": 8}

    rms_norm_eps: Epsilon = 1e-5
    attention_bias: Bias = False
    use_qk_norm: bool = False
    moe_intermediate_size: Size = 1408
    n_routed_experts: Count = 128
    n_shared_experts: int = Field(default=1, ge=0, le=4096)
    num_experts_per_tok: Count = 8
    n_group: Count = 1
    topk_group: Count = 1
    norm_topk_prob: bool = True
    routed_scaling_factor: float = Field(default=1.0, gt=0)
    first_k_dense_replace: int = Field(default=1, ge=0)

    @model_validator(mode="after")
    def _check_routing(self) -> GlmMoeConfig:
        check_routing(*(getattr(self, name) for name in ROUTING), bias=True, names=ROUTING)
        return self
