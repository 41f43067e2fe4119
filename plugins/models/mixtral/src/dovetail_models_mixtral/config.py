"""The configuration of Mixtral, read from ``config.json``."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from dovetail.api import (
    AttentionRequirement,
    Epsilon,
    HeadCount,
    HeadDim,
    ModelConfig,
    Positions,
    Size,
    quote_foreign,
)

ExpertCount = Annotated[int, Field(gt=0, le=4096)]


class MixtralConfig(ModelConfig):
    """Keys of MixtralConfig in transformers, with their defaults."""

    num_attention_heads: HeadCount
    num_key_value_heads: HeadCount
    """As many as query heads, where the file has none."""
    head_dim: HeadDim
    """hidden_size / num_attention_heads, where the file has none."""
    intermediate_size: Size
    """Inner channels of each expert."""
    num_local_experts: ExpertCount = 8
    num_experts_per_tok: ExpertCount = 2
    hidden_act: str = "silu"
    rms_norm_eps: Epsilon = 1e-5
    rope_theta: Annotated[float, Field(gt=1, le=1e15)] = 1e6
    sliding_window: Positions | None = None

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        data = {key: value for key, value in data.items() if value is not None}
        for key in ("rope_scaling", "rope_parameters"):
            rope = data.pop(key, {})
            if not isinstance(rope, dict):
                raise ValueError(f"{key} is {quote_foreign(rope)}, wanted an object")
            if (kind := rope.get("rope_type", rope.get("type", "default"))) != "default":
                raise ValueError(f"{key}'s rope_type {quote_foreign(kind)} is not supported, only default")
            if "rope_theta" in rope:
                data["rope_theta"] = rope["rope_theta"]
        heads, hidden = data.get("num_attention_heads"), data.get("hidden_size")
        # Of nonsense there is nothing to divide; the fields themselves say what is wrong with it.
        data.setdefault("num_key_value_heads", 1 if heads is None else heads)
        whole = type(heads) is int and type(hidden) is int and heads > 0
        data.setdefault("head_dim", hidden // heads if whole else 2)
        return data

    @model_validator(mode="after")
    def _supported(self) -> MixtralConfig:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of num_key_value_heads {self.num_key_value_heads}"
            )
        if self.num_experts_per_tok > self.num_local_experts:
            raise ValueError(
                f"num_experts_per_tok {self.num_experts_per_tok} is more than num_local_experts {self.num_local_experts}"
            )
        if self.hidden_act not in ("silu", "swish"):
            raise ValueError(f"hidden_act {quote_foreign(self.hidden_act)} is not supported, only silu")
        if self.head_dim % 2:
            raise ValueError(f"head_dim {self.head_dim} is odd, and rotary embeddings turn pairs")
        return self

    @property
    def window(self) -> int | None:
        """The sliding window if it is shorter than the longest context, else None."""
        shorter = self.sliding_window and self.sliding_window < self.longest_context()
        return self.sliding_window if shorter else None

    def attention_requirements(self) -> tuple[AttentionRequirement, ...]:
        return (AttentionRequirement(features=frozenset({"sliding"} if self.window else ()), head_dim=self.head_dim),)
