"""The configuration of Llama's relatives, read from ``config.json``."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from dovetail.api import AttentionRequirement, ModelConfig, scaled_length

ROPE_KEYS = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "longrope": (),
}
"""Value of ``rope_type`` → its required keys."""

NUMBERS = {"factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor", "attention_factor"}

Bias = bool | Literal["optional"]
"""Whether layers have biases; ``optional``: those in the checkpoint."""


class LlamaConfig(ModelConfig):
    """Keys of LlamaConfig, MistralConfig and GraniteConfig in transformers, with their defaults."""

    num_attention_heads: int = Field(gt=0)
    num_key_value_heads: int = Field(default=0, ge=0)
    """0: as many as query heads."""
    head_dim: int = Field(default=0, ge=0)
    """0: hidden_size / num_attention_heads."""
    intermediate_size: int = Field(gt=0)
    hidden_act: str = "silu"
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_scaling: dict[str, Any] = {}
    attention_bias: Bias = False
    mlp_bias: Bias = False
    sliding_window: int | None = None
    # Granite's scalar multipliers; None leaves the usual value.
    embedding_multiplier: float = 1.0
    residual_multiplier: float = 1.0
    attention_multiplier: float | None = None
    logits_scaling: float = 1.0

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        data = {k: v for k, v in data.items() if v is not None}
        data["rope_theta"], data["rope_scaling"] = _rope(data)
        heads, hidden = data.get("num_attention_heads"), data.get("hidden_size")
        if not data.get("num_key_value_heads") and heads:
            data["num_key_value_heads"] = heads
        if not data.get("head_dim") and isinstance(heads, int) and isinstance(hidden, int) and heads > 0:
            data["head_dim"] = hidden // heads
        if data.get("model_type") == "granite" or "GraniteForCausalLM" in data.get("architectures", ()):
            data.setdefault("attention_multiplier", 1.0)
        return data

    @model_validator(mode="after")
    def _supported(self) -> LlamaConfig:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of num_key_value_heads {self.num_key_value_heads}"
            )
        if self.hidden_act not in ("silu", "swish"):
            raise ValueError(f"hidden_act {self.hidden_act!r} is not supported, only silu")
        scaling = self.rope_scaling
        kind = scaling.get("rope_type", "default")
        if kind not in ROPE_KEYS:
            raise ValueError(f"rope_scaling's rope_type {kind!r} is not supported, only {', '.join(ROPE_KEYS)}")
        if lacking := [k for k in ROPE_KEYS[kind] if k not in scaling]:
            raise ValueError(f"rope_scaling of type {kind!r} lacks {', '.join(lacking)}")
        if kind == "default" and scaling.get("factor", 1.0) != 1.0:
            raise ValueError(f"rope_scaling has the factor {scaling['factor']} and names no rope_type")
        for key in ("long_factor", "short_factor"):
            if key in scaling and len(scaling[key]) != self.head_dim // 2:
                raise ValueError(f"rope_scaling's {key} has {len(scaling[key])} numbers, wanted {self.head_dim // 2}")
        if (part := scaling.get("partial_rotary_factor", 1.0)) != 1.0:
            raise ValueError(f"partial_rotary_factor {part} is not supported, only 1")
        return self

    @property
    def window(self) -> int | None:
        """The sliding window if it is shorter than the longest context, else None."""
        shorter = self.sliding_window and self.sliding_window < self.longest_context()
        return self.sliding_window if shorter else None

    def context_length(self) -> int:
        """A scaling with its original length is served completely, whatever max_position_embeddings says."""
        named = "original_max_position_embeddings" in self.rope_scaling
        return self.longest_context() if named else self.max_position_embeddings

    def longest_context(self) -> int:
        return scaled_length(self.max_position_embeddings, self.rope_scaling)

    def attention_requirements(self) -> tuple[AttentionRequirement, ...]:
        return (AttentionRequirement(kind="sliding" if self.window else "full", head_dim=self.head_dim),)


def _rope(data: dict[str, Any]) -> tuple[float, dict[str, Any]]:
    """Base and scaling of the rotary embedding, from any of their places in the configuration.

    Newer files have both in ``rope_parameters``, possibly by kind of layer. Older ones have ``rope_theta``,
    ``rope_scaling`` and the trained length as separate keys.
    """
    given = {key: data.pop(key, None) or {} for key in ("rope_parameters", "rope_scaling")}
    for key, value in given.items():
        if not isinstance(value, dict):
            raise ValueError(f"{key} is {value!r}, wanted an object")
    parameters = given["rope_parameters"].get("full_attention", given["rope_parameters"])
    scaling = {k: v for k, v in (given["rope_scaling"] or parameters).items() if v is not None}
    for key in NUMBERS & set(scaling):
        if not isinstance(scaling[key], (int, float)) or scaling[key] <= 0:
            raise ValueError(f"rope_scaling's {key} is {scaling[key]!r}, wanted a number above 0")
    theta = scaling.pop("rope_theta", parameters.get("rope_theta", data.get("rope_theta", 10000.0)))
    kind = scaling.pop("rope_type", scaling.get("type"))
    scaling.pop("type", None)
    if kind is not None:
        scaling["rope_type"] = {"su": "longrope"}.get(kind, kind)
    for key in ("original_max_position_embeddings", "partial_rotary_factor"):
        if key in data and (key == "partial_rotary_factor" or scaling):
            scaling.setdefault(key, data[key])
    return theta, scaling
