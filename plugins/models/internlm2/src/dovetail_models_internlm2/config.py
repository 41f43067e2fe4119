"""The configuration of InternLM2, read from ``config.json``."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import model_validator

from dovetail.api import DecoderConfig, Epsilon, LayerType

SCALINGS = ("default", "linear", "dynamic")


class InternLM2Config(DecoderConfig):
    """Keys of InternLM2Config in the published checkpoints' repositories, with their defaults."""

    supported_layer_types: ClassVar[tuple[LayerType, ...]] = ("full_attention",)
    partial_rotary: ClassVar[bool] = False

    rms_norm_eps: Epsilon = 1e-6
    bias: bool | Literal["optional"] = True
    """Whether the projections of attention have biases; ``optional``: those in the checkpoint."""
    projections: Literal["wqkv", "wq, wk, wv"] = "wqkv"
    """How the projections to queries, keys and values are stored; in GGUF files they are apart."""

    @model_validator(mode="after")
    def _check_internlm2(self) -> InternLM2Config:
        if self.head_dim * self.num_attention_heads != self.hidden_size:
            raise ValueError(f"head_dim {self.head_dim} is not hidden_size / num_attention_heads")
        if (kind := self.rope_for(0).rope_type) not in SCALINGS:
            raise ValueError(f"the rotary embedding {kind!r} is not supported, only {', '.join(SCALINGS)}")
        return self
