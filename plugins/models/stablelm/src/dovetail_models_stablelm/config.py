"""The configuration of StableLM, read from ``config.json``."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import model_validator

from dovetail.api import DecoderConfig, Epsilon, LayerType, Positions

Bias = bool | Literal["optional"]
"""Whether layers have biases; ``optional``: those in the checkpoint."""


class StableLmConfig(DecoderConfig):
    """Keys of StableLmConfig in transformers, with their defaults."""

    supported_layer_types: ClassVar[tuple[LayerType, ...]] = ("full_attention",)
    rope_defaults: ClassVar[dict[str, Any]] = {"partial_rotary_factor": 0.25}

    max_position_embeddings: Positions = 4096
    layer_norm_eps: Epsilon = 1e-5
    use_qkv_bias: Bias = False
    qk_layernorm: bool | Literal["stacked"] = False
    """``stacked``: the norms of all heads are one tensor in the checkpoint."""
    use_parallel_residual: bool = False

    @classmethod
    def prepare(cls, data: dict[str, Any]) -> dict[str, Any]:
        data.setdefault("num_key_value_heads", 32)
        return super().prepare(data)

    @model_validator(mode="after")
    def _check_stablelm(self) -> StableLmConfig:
        if self.head_dim * self.num_attention_heads != self.hidden_size:
            raise ValueError(f"head_dim {self.head_dim} is not hidden_size / num_attention_heads")
        return self
