"""The configuration of Phi-1, 1.5 and 2, read from ``config.json``."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from dovetail.api import AttentionRequirement, Epsilon, HeadCount, ModelConfig, Size, quote_foreign

ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu", "silu": "silu"}
"""Name in the file → operation."""


class PhiConfig(ModelConfig):
    """Keys of PhiConfig in transformers, with their defaults."""

    num_attention_heads: HeadCount
    num_key_value_heads: HeadCount
    """As many as query heads, where the file has none."""
    intermediate_size: Size
    hidden_act: str = "gelu_new"
    layer_norm_eps: Epsilon = 1e-5
    rope_theta: Annotated[float, Field(gt=1, le=1e15)] = 10000.0
    partial_rotary_factor: Annotated[float, Field(gt=0, le=1)] = 0.5
    qk_layernorm: bool = False

    @model_validator(mode="before")
    @classmethod
    def _read_phi(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        data = {k: v for k, v in data.items() if v is not None}
        if "num_attention_heads" in data:
            data.setdefault("num_key_value_heads", data["num_attention_heads"])
        rope = data.get("rope_parameters") or data.get("rope_scaling") or {}
        if not isinstance(rope, dict) or rope.get("rope_type", rope.get("type", "default")) != "default":
            raise ValueError(f"the rotary embedding {quote_foreign(rope)} is not supported, only one without scaling")
        for key in ("rope_theta", "partial_rotary_factor"):
            data[key] = rope.get(key, data.get(key))
        return data

    @model_validator(mode="after")
    def _check_phi(self) -> PhiConfig:
        if self.hidden_size % self.num_attention_heads or self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} cannot be divided among {self.num_attention_heads} query heads, or these among "
                f"{self.num_key_value_heads} key-value heads"
            )
        if self.hidden_act not in ACTIVATIONS:
            raise ValueError(f"hidden_act {quote_foreign(self.hidden_act)} is not one of {', '.join(ACTIVATIONS)}")
        if self.rotary_dim % 2 or not self.rotary_dim:
            raise ValueError(
                f"head_dim {self.head_dim} times the partial_rotary_factor {self.partial_rotary_factor} is {self.rotary_dim}, "
                "and rotary embeddings turn pairs"
            )
        return self

    @property
    def activation(self) -> str:
        return ACTIVATIONS[self.hidden_act]

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def rotary_dim(self) -> int:
        """Channels of a head that are rotated."""
        return int(self.head_dim * self.partial_rotary_factor)

    def attention_requirements(self) -> tuple[AttentionRequirement, ...]:
        return (AttentionRequirement(head_dim=self.head_dim),)
