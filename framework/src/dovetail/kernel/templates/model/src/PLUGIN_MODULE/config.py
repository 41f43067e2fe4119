"""What the model reads from ``config.json``. Imported before a model is chosen, so it must not import torch."""

from __future__ import annotations

from dovetail.api import AttentionRequirement, Epsilon, HeadCount, ModelConfig, Positions, Size
from pydantic import Field, model_validator


class PLUGIN_CLASSConfig(ModelConfig):
    """Keys without a default must be in the file; a value that cannot be honoured is refused with a sentence."""

    num_attention_heads: HeadCount
    num_key_value_heads: HeadCount
    intermediate_size: Size
    rms_norm_eps: Epsilon = 1e-6
    rope_theta: float = Field(default=10000.0, gt=1)
    sliding_window: Positions | None = None

    @model_validator(mode="after")
    def _check(self) -> PLUGIN_CLASSConfig:
        for key, divisor in (("hidden_size", "num_attention_heads"), ("num_attention_heads", "num_key_value_heads")):
            if getattr(self, key) % getattr(self, divisor):
                raise ValueError(f"{key} is not a multiple of {divisor}")
        return self

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    def attention_requirements(self) -> tuple[AttentionRequirement, ...]:
        return (AttentionRequirement(features=frozenset({"sliding"} if self.sliding_window else ()), head_dim=self.head_dim),)
