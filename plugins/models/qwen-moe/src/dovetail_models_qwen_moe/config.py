"""The configurations of Qwen 2 and 3 with experts, read from ``config.json``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator

from dovetail.api import DecoderConfig, Epsilon, Positions, Size, check_routing

Count = Annotated[int, Field(gt=0, le=4096)]


class QwenMoeConfig(DecoderConfig):
    """Keys that Qwen2MoeConfig and Qwen3MoeConfig have in common in transformers, with their defaults."""

    aliases: ClassVar[dict[str, str]] = {"num_local_experts": "num_experts"}
    partial_rotary: ClassVar[bool] = False

    max_position_embeddings: Positions = 32768
    rms_norm_eps: Epsilon = 1e-6
    use_sliding_window: bool = False
    num_experts: Count
    num_experts_per_tok: Count
    moe_intermediate_size: Size
    norm_topk_prob: bool = False
    decoder_sparse_step: int = Field(default=1, gt=0)
    """Each so-manieth layer has experts."""
    mlp_only_layers: tuple[int, ...] = Field(default=(), strict=False)
    """Layers that have none in any case."""

    @classmethod
    def prepare(cls, data: dict[str, Any]) -> dict[str, Any]:
        data.setdefault("use_sliding_window", False)
        return super().prepare(data)

    @model_validator(mode="after")
    def _check_qwen(self) -> QwenMoeConfig:
        check_routing(self.num_experts, self.num_experts_per_tok, names=("num_experts", "num_experts_per_tok"))
        return self

    def has_experts(self, layer: int) -> bool:
        return layer not in self.mlp_only_layers and (layer + 1) % self.decoder_sparse_step == 0


class Qwen2MoeConfig(QwenMoeConfig):
    """Keys of Qwen2MoeConfig in transformers, with their defaults."""

    unread: ClassVar[tuple[str, ...]] = ("sliding_window_pattern",)
    if_missing: ClassVar[dict[str, Any]] = {"sliding_window": 4096, "num_key_value_heads": 16}

    num_experts: Count = 60
    num_experts_per_tok: Count = 4
    moe_intermediate_size: Size = 1408
    shared_expert_intermediate_size: Size = 5632
    qkv_bias: bool = True
    max_window_layers: int = Field(default=28, ge=0)
    """Of so many layers, every second has the window, from the first. ``layer_types`` replaces it."""

    @classmethod
    def usual_layer_types(cls, data: Mapping[str, Any], layers: int) -> Iterable[str]:
        windows = data.get("max_window_layers", 28)
        if data["use_sliding_window"] is not True or type(windows) is not int:
            return super().usual_layer_types(data, layers)
        sees = ("sliding_attention", "full_attention")
        return tuple(sees[layer % 2 if layer < windows else 1] for layer in range(layers))


class Qwen3MoeConfig(QwenMoeConfig):
    """Keys of Qwen3MoeConfig in transformers, with their defaults. Either all layers have the window or none."""

    unread: ClassVar[tuple[str, ...]] = ("layer_types", "max_window_layers", "sliding_window_pattern")
    if_missing: ClassVar[dict[str, Any]] = {"sliding_window": 4096, "num_key_value_heads": 4}

    num_experts: Count = 128
    num_experts_per_tok: Count = 8
    moe_intermediate_size: Size = 768
    attention_bias: bool = False
