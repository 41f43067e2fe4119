"""The configuration of gpt-oss, read from ``config.json``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator

from dovetail.api import (
    WINDOW_RULES,
    AttentionFeature,
    DecoderConfig,
    Epsilon,
    Positions,
    check_routing,
    every_nth_full,
)

Count = Annotated[int, Field(gt=0, le=4096)]
Positive = Annotated[float, Field(gt=0, le=2.0**27)]

YARN = {"rope_type": "yarn", "factor": 32.0, "truncate": False, "original_max_position_embeddings": 4096}
"""The scaling of files that say nothing of one."""


class GptOssConfig(DecoderConfig):
    """Keys of GptOssConfig in transformers, with their defaults. ``intermediate_size`` is that of each expert, and
    ``hidden_act`` changes nothing.
    """

    aliases: ClassVar[dict[str, str]] = {"num_experts": "num_local_experts"}
    unread: ClassVar[tuple[str, ...]] = WINDOW_RULES
    if_missing: ClassVar[dict[str, Any]] = {"sliding_window": 128, "num_key_value_heads": 8, "head_dim": 64}
    rope_defaults: ClassVar[dict[str, Any]] = {"rope_theta": 150000.0}
    partial_rotary: ClassVar[bool] = False

    max_position_embeddings: Positions = 131072
    rms_norm_eps: Epsilon = 1e-5
    attention_bias: bool = True
    num_local_experts: Count = 128
    num_experts_per_tok: Count = 4
    swiglu_alpha: float = 1.702
    swiglu_limit: Positive = 7.0

    @classmethod
    def prepare(cls, data: dict[str, Any]) -> dict[str, Any]:
        if not data.get("rope_scaling") and "rope_parameters" not in data:
            data["rope_scaling"] = YARN
        return super().prepare(data)

    @classmethod
    def usual_layer_types(cls, data: Mapping[str, Any], layers: int) -> Iterable[str]:
        return every_nth_full(2, layers)

    @model_validator(mode="after")
    def _check_gpt_oss(self) -> GptOssConfig:
        names = ("num_local_experts", "num_experts_per_tok")
        check_routing(self.num_local_experts, self.num_experts_per_tok, names=names)
        return self

    def attention_features(self, layer: int) -> frozenset[AttentionFeature]:
        return super().attention_features(layer) | {"sinks"}
