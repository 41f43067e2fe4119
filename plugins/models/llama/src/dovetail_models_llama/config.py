"""The configuration of Llama's relatives, read from ``config.json``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from dovetail.api import MAX_LAYERS, WINDOW_KEYS, WINDOW_RULES, DecoderConfig, Epsilon, Positions

Multiplier = Annotated[float, Field(gt=0, le=2.0**27)]

Bias = bool | Literal["optional"]
"""Whether layers have biases; ``optional``: those in the checkpoint."""


class LlamaConfig(DecoderConfig):
    """Keys of LlamaConfig in transformers, with their defaults. No layer has a window."""

    unread: ClassVar[tuple[str, ...]] = WINDOW_KEYS
    partial_rotary: ClassVar[bool] = False
    one_rope: ClassVar[bool] = True
    rope_tensors: ClassVar[bool] = True

    rms_norm_eps: Epsilon = 1e-6
    attention_bias: Bias = False
    mlp_bias: Bias = False

    @model_validator(mode="after")
    def _check_llama(self) -> LlamaConfig:
        if self.hidden_act != "silu":
            raise ValueError(f"hidden_act {self.hidden_act!r} is not supported, only silu")
        return self


class MistralConfig(LlamaConfig):
    """Keys of MistralConfig in transformers, with their defaults. All layers have the window, or none."""

    unread: ClassVar[tuple[str, ...]] = ("layer_types", *WINDOW_RULES)
    if_missing: ClassVar[dict[str, Any]] = {"sliding_window": 4096, "num_key_value_heads": 8}

    max_position_embeddings: Positions = 131072


class GraniteConfig(LlamaConfig):
    """Keys of GraniteConfig in transformers, with their defaults."""

    embedding_multiplier: Multiplier = 1.0
    residual_multiplier: Multiplier = 1.0
    attention_multiplier: Multiplier = 1.0
    logits_scaling: Multiplier = 1.0


class SmolLM3Config(LlamaConfig):
    """Keys of SmolLM3Config in transformers, with their defaults. Where the file has no ``layer_types``, layers without
    a rotary embedding have the window.
    """

    unread: ClassVar[tuple[str, ...]] = ()
    if_missing: ClassVar[dict[str, Any]] = {"num_key_value_heads": 4}
    rope_defaults: ClassVar[dict[str, Any]] = {"rope_theta": 2e6}

    max_position_embeddings: Positions = 32768
    tie_word_embeddings: bool = True
    use_sliding_window: bool = False
    no_rope_layer_interval: int = Field(default=4, gt=0)
    """Each so-manieth layer has no rotary embedding."""
    no_rope_layers: tuple[int, ...] = Field(default=(), strict=False)
    """One for each layer, 0 for those without a rotary embedding; in place of the interval."""

    @classmethod
    def prepare(cls, data: dict[str, Any]) -> dict[str, Any]:
        layers, interval = data.get("num_hidden_layers"), data.get("no_rope_layer_interval", 4)
        if type(layers) is int and 0 < layers <= MAX_LAYERS and type(interval) is int and interval > 0:
            data.setdefault("no_rope_layers", [int((layer + 1) % interval != 0) for layer in range(layers)])
        data.setdefault("use_sliding_window", False)
        return super().prepare(data)

    @classmethod
    def usual_layer_types(cls, data: Mapping[str, Any], layers: int) -> Iterable[str]:
        windowed = data["use_sliding_window"] is True and "sliding_window" in data
        turned = data.get("no_rope_layers")
        if not windowed or not isinstance(turned, list) or len(turned) < layers:
            return ("full_attention",) * layers
        return tuple(("sliding_attention", "full_attention")[bool(flag)] for flag in turned[:layers])

    @model_validator(mode="after")
    def _check_smollm3(self) -> SmolLM3Config:
        if (found := len(self.no_rope_layers)) < self.num_hidden_layers:
            raise ValueError(
                f"no_rope_layers has {found} entries, wanted one for each of {self.num_hidden_layers} layers"
            )
        return self

    def has_rope(self, layer: int) -> bool:
        return self.no_rope_layers[layer] != 0
