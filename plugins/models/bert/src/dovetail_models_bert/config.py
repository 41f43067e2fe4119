"""The configurations of BERT and its relatives, read from ``config.json``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from dovetail.api import (
    Activation,
    AttentionFeature,
    DecoderConfig,
    Epsilon,
    PoolingType,
    Positions,
    Size,
    quote_foreign,
)

GATED = {"swiglu": "silu", "geglu": "gelu"}
"""Nomic's name of a gated MLP → the activation of its gate."""
NOMIC_ONLY = {
    "prenorm": False,
    "parallel_block": False,
    "causal": False,
    "use_rms_norm": False,
    "rotary_emb_scale_base": None,
    "moe_every_n_layers": 0,
}
"""Keys of Nomic's configurations → the only value that is supported."""


class EncoderConfig(DecoderConfig):
    """What all have: every token sees the whole text."""

    def attention_features(self, layer: int) -> frozenset[AttentionFeature]:
        return super().attention_features(layer) | {"bidirectional"}


class BertConfig(EncoderConfig):
    """Keys of BertConfig in transformers, with their defaults."""

    rotary: ClassVar[bool] = False

    max_position_embeddings: Positions = 512
    type_vocab_size: Size = 2
    hidden_act: Activation = "gelu"
    layer_norm_eps: Epsilon = 1e-12
    pooling_type: PoolingType | None = None
    """What a GGUF file says; other files of the checkpoint say it otherwise."""

    @classmethod
    def prepare(cls, data: dict[str, Any]) -> dict[str, Any]:
        if data.get("is_decoder") or data.get("add_cross_attention"):
            raise ValueError("is_decoder and add_cross_attention are not supported, only encoders")
        if (kind := data.get("position_embedding_type", "absolute")) != "absolute":
            raise ValueError(f"position_embedding_type {quote_foreign(kind)} is not supported, only absolute")
        return super().prepare(data)

    @property
    def position_offset(self) -> int:
        """The number of a prompt's first position."""
        return 0

    def pooling(self) -> PoolingType | None:
        return self.pooling_type


class RobertaConfig(BertConfig):
    """Keys of RobertaConfig and XLMRobertaConfig in transformers, with their defaults."""

    pad_token_id: int = Field(default=1, ge=0)

    @property
    def position_offset(self) -> int:
        """Positions are numbered from here: the padding token has one of its own, and those before it none."""
        return self.pad_token_id + 1

    def context_length(self) -> int:
        return self.max_position_embeddings - self.position_offset

    def longest_context(self) -> int:
        return self.context_length()


class ModernBertConfig(EncoderConfig):
    """Keys of ModernBertConfig in transformers, with their defaults.

    ``sliding_window`` counts the token itself and those on one side of it: half of ``local_attention``, and one more.
    """

    rope_defaults: ClassVar[dict[str, Any]] = {
        "full_attention": {"rope_theta": 160_000.0},
        "sliding_attention": {"rope_theta": 10_000.0},
    }
    partial_rotary: ClassVar[bool] = False

    max_position_embeddings: Positions = 8192
    hidden_act: Activation = "gelu"
    norm_eps: Epsilon = 1e-5
    norm_bias: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    local_attention: Positions = 128
    """Tokens that a layer with a window sees, on both sides together."""
    classifier_pooling: Literal["cls", "mean"] = "cls"
    classifier_bias: bool = False
    classifier_activation: Activation = "gelu"

    @classmethod
    def prepare(cls, data: dict[str, Any]) -> dict[str, Any]:
        both = data.get("local_attention", 128)
        if type(both) is int:
            data["sliding_window"] = both // 2 + 1
        scaling = data.get("rope_scaling")
        if isinstance(scaling, Mapping) and not any(isinstance(value, Mapping) for value in scaling.values()):
            data["rope_scaling"] = {"full_attention": scaling, "sliding_attention": scaling}
        return super().prepare(data)

    @classmethod
    def usual_layer_types(cls, data: Mapping[str, Any], layers: int) -> Iterable[str]:
        """The first of every three layers sees everything, or of so many as ``global_attn_every_n_layers`` says."""
        every = data.get("global_attn_every_n_layers", 3)
        if type(every) is not int or every < 1:
            raise ValueError(
                f"global_attn_every_n_layers is {quote_foreign(every)}, wanted a positive number of layers"
            )
        return ("sliding_attention" if layer % every else "full_attention" for layer in range(layers))

    def pooling(self) -> PoolingType | None:
        return self.classifier_pooling


class NomicBertConfig(EncoderConfig):
    """Keys of the published files of nomic-embed-text, and of NomicBertConfig in transformers, with its defaults."""

    aliases: ClassVar[Mapping[str, str]] = {
        "layer_norm_epsilon": "layer_norm_eps",
        "rotary_emb_fraction": "partial_rotary_factor",
    }
    rope_defaults: ClassVar[dict[str, Any]] = {"rope_theta": 1000.0}

    max_position_embeddings: Positions = 2048
    """``max_trained_positions`` in files that have it. The ``n_positions`` beside it are for a scaled embedding."""
    type_vocab_size: Size = 2
    layer_norm_eps: Epsilon = 1e-12
    qkv_proj_bias: bool = False
    """Of the output projection, too."""
    mlp_fc1_bias: bool = False
    rotary_emb_interleaved: bool = False
    pooling_type: PoolingType | None = None
    """What a GGUF file says; other files of the checkpoint say it otherwise."""

    @classmethod
    def prepare(cls, data: dict[str, Any]) -> dict[str, Any]:
        for key, only in NOMIC_ONLY.items():
            if key in data and data[key] != only:
                raise ValueError(f"{key} {quote_foreign(data[key])} is not supported, only {only}")
        if (kind := data.get("activation_function")) is not None:
            if kind not in GATED:
                raise ValueError(f"activation_function {quote_foreign(kind)} is not supported, only {', '.join(GATED)}")
            data["hidden_act"] = GATED[kind]
        if data.get("mlp_fc1_bias", False) != data.get("mlp_fc2_bias", False):
            raise ValueError("mlp_fc1_bias and mlp_fc2_bias differ, which is not supported")
        if "max_trained_positions" in data:
            data["max_position_embeddings"] = data["max_trained_positions"]
        if "rotary_scaling_factor" in data:
            data.setdefault("rope_scaling", {"rope_type": "dynamic", "factor": data["rotary_scaling_factor"]})
        return super().prepare(data)

    def pooling(self) -> PoolingType | None:
        return self.pooling_type
