"""The configuration of Llama's relatives, read from ``config.json``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from dovetail.api import DecoderConfig, Epsilon

Multiplier = Annotated[float, Field(gt=0, le=2.0**27)]

Bias = bool | Literal["optional"]
"""Whether layers have biases; ``optional``: those in the checkpoint."""


class LlamaConfig(DecoderConfig):
    """Keys of LlamaConfig, MistralConfig and GraniteConfig in transformers, with their defaults."""

    rms_norm_eps: Epsilon = 1e-6
    attention_bias: Bias = False
    mlp_bias: Bias = False
    # Granite's scalar multipliers; None leaves the usual value.
    embedding_multiplier: Multiplier = 1.0
    residual_multiplier: Multiplier = 1.0
    attention_multiplier: Multiplier | None = None
    logits_scaling: Multiplier = 1.0

    @classmethod
    def prepare(cls, data: dict[str, Any]) -> dict[str, Any]:
        names = data.get("architectures")
        if data.get("model_type") == "granite" or (isinstance(names, list) and "GraniteForCausalLM" in names):
            data.setdefault("attention_multiplier", 1.0)
        return super().prepare(data)

    @model_validator(mode="after")
    def _check_llama(self) -> LlamaConfig:
        if self.hidden_act != "silu":
            raise ValueError(f"hidden_act {self.hidden_act!r} is not supported, only silu")
        first, *others = dict.fromkeys(map(self.rope_for, range(self.num_hidden_layers)))
        if others:
            raise ValueError("rotary embeddings that differ between layers are not supported")
        if first.partial_rotary_factor != 1.0:
            raise ValueError(f"partial_rotary_factor {first.partial_rotary_factor} is not supported, only 1")
        return self
