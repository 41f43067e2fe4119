"""The configuration of Phi-1, 1.5 and 2, read from ``config.json``."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import model_validator

from dovetail.api import Activation, DecoderConfig, Epsilon


class PhiConfig(DecoderConfig):
    """Keys of PhiConfig in transformers, with their defaults."""

    rope_defaults: ClassVar[dict[str, Any]] = {"partial_rotary_factor": 0.5}

    hidden_act: Activation = "gelu_tanh"
    layer_norm_eps: Epsilon = 1e-5
    qk_layernorm: bool = False

    @model_validator(mode="after")
    def _check_phi(self) -> PhiConfig:
        if (kind := self.rope_for(0).rope_type) != "default":
            raise ValueError(f"the rotary embedding {kind!r} is not supported, only one without scaling")
        return self
