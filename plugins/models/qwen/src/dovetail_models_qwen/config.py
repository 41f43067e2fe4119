"""The configurations of Qwen 2 and 3, read from ``config.json``."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field, model_validator

from dovetail.api import AttentionFeature, DecoderConfig, Epsilon, HeadDim, Positions


class Qwen2Config(DecoderConfig):
    """Keys of Qwen2Config in transformers, with their defaults."""

    unread: ClassVar[tuple[str, ...]] = ("sliding_window_pattern",)
    if_missing: ClassVar[dict[str, Any]] = {"sliding_window": 4096, "num_key_value_heads": 32}
    partial_rotary: ClassVar[bool] = False
    bidirectional: ClassVar[bool] = True

    max_position_embeddings: Positions = 32768
    rms_norm_eps: Epsilon = 1e-6
    use_sliding_window: bool = False
    max_window_layers: int = Field(default=28, ge=0)
    """So many layers see everything, and those after them have the window. ``layer_types`` replaces it."""

    @classmethod
    def prepare(cls, data: dict[str, Any]) -> dict[str, Any]:
        data.setdefault("use_sliding_window", False)
        data.setdefault("max_window_layers", 28)
        return super().prepare(data)

    @model_validator(mode="after")
    def _check_qwen(self) -> Qwen2Config:
        if not self.is_causal and "sliding_attention" in self.layer_types:
            raise ValueError("is_causal is false and a layer has a window, which is not supported together")
        return self

    def attention_features(self, layer: int) -> frozenset[AttentionFeature]:
        sight: frozenset[AttentionFeature] = frozenset() if self.is_causal else frozenset({"bidirectional"})
        return super().attention_features(layer) | sight


class Qwen3Config(Qwen2Config):
    """Keys of Qwen3Config in transformers, with their defaults."""

    head_dim: HeadDim = 128
    attention_bias: bool = False

    @classmethod
    def prepare(cls, data: dict[str, Any]) -> dict[str, Any]:
        data.setdefault("head_dim", 128)
        return super().prepare(data)
