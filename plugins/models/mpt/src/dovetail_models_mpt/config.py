"""The configuration of MPT, read from ``config.json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from dovetail.api import DecoderConfig, Epsilon, LayerType, alibi_slopes, quote_foreign

Number = Annotated[float, Field(gt=0, le=2.0**27)]
ATTENTION = ("clip_qkv", "softmax_scale", "alibi", "alibi_bias_max")
"""Keys of ``attn_config`` that are fields here."""
USUAL = {"attn_type": "multihead_attention", "prefix_lm": False, "qk_ln": False, "attn_uses_sequence_id": False}
"""Keys of ``attn_config`` with the only values that are supported."""


class MptConfig(DecoderConfig):
    """Keys of MptConfig in transformers, with their defaults, and what the original code makes of them."""

    aliases: ClassVar[Mapping[str, str]] = {"max_seq_len": "max_position_embeddings"}
    supported_layer_types: ClassVar[tuple[LayerType, ...]] = ("full_attention",)
    rotary: ClassVar[bool] = False

    layer_norm_epsilon: Epsilon = 1e-5
    tie_word_embeddings: bool = True
    hidden_act: Literal["gelu"] = "gelu"
    no_bias: Literal[True] = True
    norm_type: Literal["low_precision_layernorm", "layernorm"] = "low_precision_layernorm"
    expansion_ratio: Literal[4] = 4
    clip_qkv: Number | None = None
    """Queries, keys and values are cut off at this number and its negative."""
    softmax_scale: Number | None = None
    """On the products of queries and keys; None for ``head_dim ** -0.5``."""
    alibi: Literal[True] = True
    alibi_bias_max: Number = 8.0
    """The exponent of the last head's slope."""

    @classmethod
    def prepare(cls, data: dict[str, Any]) -> dict[str, Any]:
        inner = data.pop("attn_config", {})
        if not isinstance(inner, dict):
            raise ValueError(f"attn_config is {quote_foreign(inner)}, wanted an object")
        for key, usual in USUAL.items():
            if (value := inner.get(key)) is not None and value != usual:
                raise ValueError(f"attn_config's {key} is {quote_foreign(value)}, which is not supported, only {usual}")
        data |= {key: inner[key] for key in ATTENTION if inner.get(key) is not None}
        if (scale := data.get("logit_scale")) is not None:
            raise ValueError(f"logit_scale is {quote_foreign(scale)}, which is not supported, only none")
        if type(hidden := data.get("hidden_size")) is int:
            data["intermediate_size"] = 4 * hidden
        return super().prepare(data)

    def slopes(self) -> tuple[float, ...]:
        return alibi_slopes(self.num_attention_heads, self.alibi_bias_max)

    @model_validator(mode="after")
    def _check_mpt(self) -> MptConfig:
        if self.head_dim * self.num_attention_heads != self.hidden_size:
            raise ValueError(f"head_dim {self.head_dim} is not hidden_size / num_attention_heads")
        if self.num_key_value_heads != self.num_attention_heads:
            raise ValueError(f"num_key_value_heads is {self.num_key_value_heads}, wanted one for each head")
        return self
