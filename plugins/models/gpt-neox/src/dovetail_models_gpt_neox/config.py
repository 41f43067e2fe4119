"""The configuration of GPT-NeoX, read from ``config.json``."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import model_validator

from dovetail.api import Activation, DecoderConfig, Epsilon, LayerType

Bias = bool | Literal["optional"]
"""Whether layers have biases; ``optional``: those in the checkpoint."""


class GPTNeoXConfig(DecoderConfig):
    """Keys of GPTNeoXConfig in transformers, with their defaults."""

    supported_layer_types: ClassVar[tuple[LayerType, ...]] = ("full_attention",)
    rope_defaults: ClassVar[dict[str, Any]] = {"partial_rotary_factor": 0.25}

    hidden_act: Activation = "gelu"
    layer_norm_eps: Epsilon = 1e-5
    use_parallel_residual: bool = True
    attention_bias: Bias = True

    @classmethod
    def prepare(cls, data: dict[str, Any]) -> dict[str, Any]:
        # Beside their object, rotary embeddings are only described by rotary_emb_base and rotary_pct.
        return super().prepare({k: v for k, v in data.items() if k not in ("rope_theta", "partial_rotary_factor")})

    @model_validator(mode="after")
    def _check_gpt_neox(self) -> GPTNeoXConfig:
        if self.head_dim * self.num_attention_heads != self.hidden_size:
            raise ValueError(f"head_dim {self.head_dim} is not hidden_size / num_attention_heads")
        if self.num_key_value_heads != self.num_attention_heads:
            raise ValueError(f"num_key_value_heads is {self.num_key_value_heads}, wanted one for each head")
        return self
