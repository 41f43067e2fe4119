"""The configuration of Bloom, read from ``config.json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import model_validator

from dovetail.api import DecoderConfig, Epsilon, LayerType, alibi_slopes


class BloomConfig(DecoderConfig):
    """Keys of BloomConfig in transformers, with their defaults."""

    aliases: ClassVar[Mapping[str, str]] = {"n_embed": "hidden_size", "seq_length": "max_position_embeddings"}
    supported_layer_types: ClassVar[tuple[LayerType, ...]] = ("full_attention",)
    rotary: ClassVar[bool] = False

    layer_norm_epsilon: Epsilon = 1e-5
    tie_word_embeddings: bool = True
    apply_residual_connection_post_layernorm: bool = False
    hidden_act: Literal["gelu_tanh"] = "gelu_tanh"

    @classmethod
    def prepare(cls, data: dict[str, Any]) -> dict[str, Any]:
        if type(hidden := data.get("hidden_size")) is int:
            data["intermediate_size"] = 4 * hidden
        return super().prepare(data)

    def slopes(self) -> tuple[float, ...]:
        return alibi_slopes(self.num_attention_heads)

    @model_validator(mode="after")
    def _check_bloom(self) -> BloomConfig:
        if self.apply_residual_connection_post_layernorm:
            raise ValueError("apply_residual_connection_post_layernorm is not supported, only the usual residual")
        if self.head_dim * self.num_attention_heads != self.hidden_size:
            raise ValueError(f"head_dim {self.head_dim} is not hidden_size / num_attention_heads")
        if self.num_key_value_heads != self.num_attention_heads:
            raise ValueError(f"num_key_value_heads is {self.num_key_value_heads}, wanted one for each head")
        return self
