"""The configurations of OLMo 2 and 3, read from ``config.json``."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import model_validator

from dovetail.api import DecoderConfig, Epsilon, quote_foreign

FULL, SLIDING = "full_attention", "sliding_attention"
THETA = 500000.0


class OlmoConfig(DecoderConfig):
    """Keys that Olmo2Config and Olmo3Config have in common in transformers, with their defaults."""

    rms_norm_eps: Epsilon = 1e-5
    attention_bias: bool = False

    @model_validator(mode="after")
    def _check_olmo(self) -> OlmoConfig:
        for rope in self.rope.values():
            if rope.partial_rotary_factor != 1.0:
                raise ValueError(f"partial_rotary_factor {rope.partial_rotary_factor} is not supported, only 1")
            if rope.rope_type == "longrope" and rope.long_factor is None:
                raise ValueError("the rotary embedding of the type 'longrope' lacks long_factor and short_factor")
        return self


class Olmo2Config(OlmoConfig):
    """Keys of Olmo2Config in transformers, with their defaults. No layer has a window."""

    @classmethod
    def prepare(cls, data: dict[str, Any]) -> dict[str, Any]:
        for key in ("sliding_window", "layer_types"):
            data.pop(key, None)
        return super().prepare(data)


class Olmo3Config(OlmoConfig):
    """Keys of Olmo3Config in transformers, with their defaults. ``rope_scaling`` is of layers without a window."""

    rope_defaults: ClassVar[dict[str, Any]] = {FULL: {"rope_theta": THETA}, SLIDING: {"rope_theta": THETA}}

    @model_validator(mode="before")
    @classmethod
    def _read_olmo3(cls, data: Any) -> Any:
        # Null is no window, and not the default.
        return {"sliding_window": 4096, **data} if isinstance(data, dict) else data

    @classmethod
    def prepare(cls, data: dict[str, Any]) -> dict[str, Any]:
        layers, theta, rope = (data.get(key) for key in ("num_hidden_layers", "rope_theta", "rope_parameters"))
        if "layer_types" not in data and type(layers) is int and 0 < layers <= 10_000:
            data["layer_types"] = tuple(SLIDING if (layer + 1) % 4 else FULL for layer in range(layers))
        if theta not in (None, THETA):
            raise ValueError(
                f"rope_theta is {quote_foreign(theta)}, and does not say of which layers: wanted rope_parameters with "
                f"{FULL} and {SLIDING}"
            )
        if isinstance(rope, dict) and rope and not {FULL, SLIDING} & set(rope):
            raise ValueError(
                f"rope_parameters does not say of which layers it is: wanted objects for {FULL} and {SLIDING}"
            )
        return super().prepare(data)
