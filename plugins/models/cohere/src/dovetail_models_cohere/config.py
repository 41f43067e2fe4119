"""The configurations of Command R and its relatives, read from ``config.json``."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator

from dovetail.api import DecoderConfig, Epsilon, Positions, quote_foreign

Multiplier = Annotated[float, Field(gt=0, le=2.0**27)]

FULL, SLIDING = "full_attention", "sliding_attention"


class CohereConfig(DecoderConfig):
    """Keys of CohereConfig in transformers, with their defaults. No layer has a window."""

    rope_defaults: ClassVar[dict[str, Any]] = {"rope_theta": 500000.0}

    max_position_embeddings: Positions = 8192
    tie_word_embeddings: bool = True
    layer_norm_eps: Epsilon = 1e-5
    attention_bias: bool = False
    logit_scale: Multiplier = 0.0625
    use_qk_norm: bool = False

    @classmethod
    def prepare(cls, data: dict[str, Any]) -> dict[str, Any]:
        for key in ("sliding_window", "layer_types"):
            data.pop(key, None)
        return super().prepare(data)

    @model_validator(mode="after")
    def _check_cohere(self) -> CohereConfig:
        for rope in self.rope.values():
            if rope.partial_rotary_factor != 1.0:
                raise ValueError(f"partial_rotary_factor {rope.partial_rotary_factor} is not supported, only 1")
            if rope.rope_type == "longrope" and rope.long_factor is None:
                raise ValueError("the rotary embedding of the type 'longrope' lacks long_factor and short_factor")
        return self


class Cohere2Config(CohereConfig):
    """Keys of Cohere2Config in transformers, with their defaults. Layers with the window have rotary embeddings, and
    the others have no positions.
    """

    rope_defaults: ClassVar[dict[str, Any]] = {}

    @model_validator(mode="before")
    @classmethod
    def _read_cohere2(cls, data: Any) -> Any:
        # Null is no window, and not the default.
        return {"sliding_window": 4096, **data} if isinstance(data, dict) else data

    @classmethod
    def prepare(cls, data: dict[str, Any]) -> dict[str, Any]:
        layers, pattern = data.get("num_hidden_layers"), data.get("sliding_window_pattern", 4)
        if type(pattern) is not int or pattern < 1:
            raise ValueError(f"sliding_window_pattern is {quote_foreign(pattern)}, wanted a positive number of layers")
        if "layer_types" not in data and type(layers) is int and 0 < layers <= 10_000:
            data["layer_types"] = tuple(SLIDING if (layer + 1) % pattern else FULL for layer in range(layers))
        data["use_qk_norm"] = False  # which no layer reads here
        return super(CohereConfig, cls).prepare(data)

    def has_rope(self, layer: int) -> bool:
        return self.layer_types[layer] == SLIDING
