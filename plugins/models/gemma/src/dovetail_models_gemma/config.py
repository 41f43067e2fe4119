"""The configurations of Gemma 1 to 3, read from ``config.json``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from dovetail.api import (
    WINDOW_RULES,
    Activation,
    AttentionFeature,
    DecoderConfig,
    Epsilon,
    HeadDim,
    Positions,
    every_nth_full,
)

Positive = Annotated[float, Field(gt=0, le=2.0**27)]

FULL, SLIDING = "full_attention", "sliding_attention"


class GemmaConfig(DecoderConfig):
    """Keys of GemmaConfig in transformers, with their defaults."""

    unread: ClassVar[tuple[str, ...]] = ("hidden_activation",)
    if_missing: ClassVar[dict[str, Any]] = {"num_key_value_heads": 16}
    partial_rotary: ClassVar[bool] = False
    one_rope: ClassVar[bool] = True

    max_position_embeddings: Positions = 8192
    head_dim: HeadDim = 256
    hidden_act: Activation = "gelu_tanh"
    rms_norm_eps: Epsilon = 1e-6
    attention_bias: bool = False
    tie_word_embeddings: bool = True
    norm_offset: float = 1.0
    """Added to the stored scales of the norms. GGUF files have the sums."""

    @classmethod
    def prepare(cls, data: dict[str, Any]) -> dict[str, Any]:
        if data.get("use_bidirectional_attention"):
            raise ValueError("use_bidirectional_attention is not supported, only causal attention")
        data["hidden_act"] = cls.activation(data)
        data.setdefault("head_dim", 256)
        return super().prepare(data)

    @classmethod
    def activation(cls, data: Mapping[str, Any]) -> Any:
        """Old files write ``gelu``, and mean its approximation."""
        name = data.get("hidden_act", "gelu_tanh")
        return "gelu_tanh" if name == "gelu" else name

    @property
    def scale(self) -> float:
        """On the products of queries and keys."""
        return self.head_dim**-0.5


class Gemma2Config(GemmaConfig):
    """Keys of Gemma2Config in transformers, with their defaults."""

    unread: ClassVar[tuple[str, ...]] = WINDOW_RULES
    if_missing: ClassVar[dict[str, Any]] = {
        "sliding_window": 4096,
        "num_key_value_heads": 4,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    }
    query_pre_attn_scalar: Positive = 256.0
    """Scores are divided by its square root."""
    attn_logit_softcapping: Positive | None = None
    final_logit_softcapping: Positive | None = None

    @classmethod
    def activation(cls, data: Mapping[str, Any]) -> Any:
        """Only this key says it."""
        return data.get("hidden_activation", "gelu_tanh")

    @classmethod
    def usual_layer_types(cls, data: Mapping[str, Any], layers: int) -> Iterable[str]:
        return every_nth_full(2 if "sliding_window" in data else 1, layers)

    def attention_features(self, layer: int) -> frozenset[AttentionFeature]:
        capped: frozenset[AttentionFeature] = frozenset({"softcap"} if self.attn_logit_softcapping else ())
        return super().attention_features(layer) | capped

    @property
    def scale(self) -> float:
        return self.query_pre_attn_scalar**-0.5


class Gemma3Config(Gemma2Config):
    """Keys of Gemma3TextConfig in transformers, with their defaults."""

    unread: ClassVar[tuple[str, ...]] = ("attn_logit_softcapping", "use_sliding_window", "max_window_layers")
    one_rope: ClassVar[bool] = False
    rope_by_type: ClassVar[bool] = True
    if_missing: ClassVar[dict[str, Any]] = {"sliding_window": 4096, "num_key_value_heads": 4}
    rope_defaults: ClassVar[dict[str, Any]] = {FULL: {"rope_theta": 1e6}, SLIDING: {"rope_theta": 1e4}}

    max_position_embeddings: Positions = 131072

    @classmethod
    def usual_layer_types(cls, data: Mapping[str, Any], layers: int) -> Iterable[str]:
        return every_nth_full(data.get("sliding_window_pattern", 6), layers)
