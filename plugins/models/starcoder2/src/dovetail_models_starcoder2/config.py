"""The configuration of StarCoder2, read from ``config.json``."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import model_validator

from dovetail.api import Activation, DecoderConfig, Epsilon, Positions

Bias = bool | Literal["optional"]
"""Whether layers have biases; ``optional``: those in the checkpoint."""


class Starcoder2Config(DecoderConfig):
    """Keys of Starcoder2Config in transformers, with their defaults."""

    max_position_embeddings: Positions = 4096
    hidden_act: Activation = "gelu_tanh"
    norm_epsilon: Epsilon = 1e-5
    use_bias: Bias = True
    tie_word_embeddings: bool = True

    @classmethod
    def prepare(cls, data: dict[str, Any]) -> dict[str, Any]:
        data.setdefault("num_key_value_heads", 2)
        return super().prepare(data)

    @model_validator(mode="after")
    def _check_starcoder2(self) -> Starcoder2Config:
        first, *others = dict.fromkeys(map(self.rope_for, range(self.num_hidden_layers)))
        if others:
            raise ValueError("rotary embeddings that differ between layers are not supported")
        if first.partial_rotary_factor != 1.0:
            raise ValueError(f"partial_rotary_factor {first.partial_rotary_factor} is not supported, only 1")
        return self
