"""What the model reads from ``config.json``. Imported before a model is chosen, so it must not import torch."""

from __future__ import annotations

from dovetail.api import AttentionRequirement, ModelConfig
from pydantic import Field, model_validator


class PLUGIN_CLASSConfig(ModelConfig):
    """Keys without a default must be in the file; a value that cannot be honoured is refused with a sentence."""

    num_attention_heads: int = Field(gt=0)
    num_key_value_heads: int = Field(gt=0)
    intermediate_size: int = Field(gt=0)
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    sliding_window: int | None = Field(default=None, gt=0)

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
        return (AttentionRequirement(kind="sliding" if self.sliding_window else "full", head_dim=self.head_dim),)
