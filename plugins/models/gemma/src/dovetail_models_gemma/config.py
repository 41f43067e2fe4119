"""The configurations of Gemma 1 and 2, read from ``config.json``."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from dovetail.api import (
    AttentionFeature,
    AttentionRequirement,
    Epsilon,
    HeadCount,
    HeadDim,
    ModelConfig,
    Positions,
    Size,
    quote_foreign,
)

Positive = Annotated[float, Field(gt=0, le=2.0**27)]

TANH = ("gelu", "gelu_pytorch_tanh", "gelu_tanh", "gelu_new")
"""Names of the one activation that Gemma has. Old files write ``gelu`` and mean this one too."""
FULL, SLIDING = "full_attention", "sliding_attention"


class GemmaConfig(ModelConfig):
    """Keys of GemmaConfig in transformers, with their defaults."""

    num_attention_heads: HeadCount
    num_key_value_heads: HeadCount
    """As many as query heads, where the file has none."""
    head_dim: HeadDim = 256
    intermediate_size: Size
    rms_norm_eps: Epsilon = 1e-6
    rope_theta: Annotated[float, Field(gt=1, le=1e15)] = 10000.0
    attention_bias: bool = False
    tie_word_embeddings: bool = True
    norm_offset: float = 1.0
    """Added to the stored scales of the norms. GGUF files have the sums."""

    @model_validator(mode="before")
    @classmethod
    def _read_gemma(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        data = {k: v for k, v in data.items() if v is not None}
        if "num_attention_heads" in data:
            data.setdefault("num_key_value_heads", data["num_attention_heads"])
        activation = data.get("hidden_activation") or data.get("hidden_act") or TANH[0]
        if activation not in TANH:
            raise ValueError(f"the activation {quote_foreign(activation)} is not supported, only {', '.join(TANH)}")
        if data.get("use_bidirectional_attention"):
            raise ValueError("use_bidirectional_attention is not supported, only causal attention")
        rope = data.get("rope_parameters") or data.get("rope_scaling") or {}
        if not isinstance(rope, dict) or rope.get("rope_type", rope.get("type", "default")) != "default":
            raise ValueError(f"the rotary embedding {quote_foreign(rope)} is not supported, only one without scaling")
        data["rope_theta"] = rope.get("rope_theta", data.get("rope_theta"))
        return data

    @model_validator(mode="after")
    def _check_gemma(self) -> GemmaConfig:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of num_key_value_heads {self.num_key_value_heads}"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim {self.head_dim} is odd, and rotary embeddings turn pairs")
        return self

    def window(self, layer: int) -> int | None:
        """The window of a layer, in tokens; None if it sees everything before it."""
        return None

    @property
    def scale(self) -> float:
        """On the products of queries and keys."""
        return self.head_dim**-0.5

    def attention_requirements(self) -> tuple[AttentionRequirement, ...]:
        return (AttentionRequirement(head_dim=self.head_dim),)


class Gemma2Config(GemmaConfig):
    """Keys of Gemma2Config in transformers, with their defaults."""

    sliding_window: Positions | None = None
    layer_types: tuple[str, ...] = Field(default=(), strict=False)
    """One for each layer; where the file has none, every second layer is full, and the first is not."""
    query_pre_attn_scalar: Positive = 256.0
    """Scores are divided by its square root."""
    attn_logit_softcapping: Positive | None = None
    final_logit_softcapping: Positive | None = None

    @model_validator(mode="before")
    @classmethod
    def _read_gemma2(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        # A key with null means none; only one that is missing means the default.
        data = {
            "sliding_window": 4096,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
            **data,
        }
        layers = data.get("num_hidden_layers")
        if data.get("layer_types") is None and type(layers) is int and 0 < layers <= 10_000:
            data["layer_types"] = tuple((SLIDING, FULL)[layer % 2] for layer in range(layers))
        return data

    @model_validator(mode="after")
    def _check_gemma2(self) -> Gemma2Config:
        if len(self.layer_types) != self.num_hidden_layers:
            raise ValueError(
                f"layer_types has {len(self.layer_types)} entries, wanted one for each of {self.num_hidden_layers} layers"
            )
        for kind in self.layer_types:
            if kind not in (FULL, SLIDING):
                raise ValueError(f"the layer type {quote_foreign(kind)} is not supported, only {FULL} and {SLIDING}")
        return self

    def window(self, layer: int) -> int | None:
        shorter = self.sliding_window is not None and self.sliding_window < self.max_position_embeddings
        return self.sliding_window if shorter and self.layer_types[layer] == SLIDING else None

    @property
    def scale(self) -> float:
        return self.query_pre_attn_scalar**-0.5

    def attention_requirements(self) -> tuple[AttentionRequirement, ...]:
        every: frozenset[AttentionFeature] = frozenset({"softcap"} if self.attn_logit_softcapping else ())
        kinds = dict.fromkeys(
            every | {"sliding"} if self.window(layer) else every for layer in range(self.num_hidden_layers)
        )
        return tuple(AttentionRequirement(features=features, head_dim=self.head_dim) for features in kinds)
