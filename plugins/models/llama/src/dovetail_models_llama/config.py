"""The configuration of Llama's relatives, read from ``config.json``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from dovetail.api import (
    AttentionRequirement,
    Epsilon,
    HeadCount,
    HeadDim,
    ModelConfig,
    Positions,
    Size,
    quote_foreign,
    scaled_length,
)

ROPE_KEYS = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "longrope": (),
}
"""Value of ``rope_type`` → its required keys."""

NUMBERS = {
    "factor",
    "original_max_position_embeddings",
    "low_freq_factor",
    "high_freq_factor",
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "extrapolation_factor",
    "mscale",
    "mscale_all_dim",
    "partial_rotary_factor",
}
"""Keys of a scaling that hold a number above 0, where they are given."""
FACTOR_LISTS = ("long_factor", "short_factor")
MAX_NUMBER = 2.0**27
"""The largest of these numbers: with it, no product of two of them leaves the range of float32."""

Multiplier = Annotated[float, Field(gt=0, le=MAX_NUMBER)]

Bias = bool | Literal["optional"]
"""Whether layers have biases; ``optional``: those in the checkpoint."""


class LlamaConfig(ModelConfig):
    """Keys of LlamaConfig, MistralConfig and GraniteConfig in transformers, with their defaults."""

    num_attention_heads: HeadCount
    num_key_value_heads: HeadCount
    """As many as query heads, where the file has none."""
    head_dim: HeadDim
    """hidden_size / num_attention_heads, where the file has none."""
    intermediate_size: Size
    hidden_act: str = "silu"
    rms_norm_eps: Epsilon = 1e-6
    rope_theta: Annotated[float, Field(gt=1, le=1e15)] = 10000.0
    rope_scaling: dict[str, Any] = {}
    attention_bias: Bias = False
    mlp_bias: Bias = False
    sliding_window: Positions | None = None
    # Granite's scalar multipliers; None leaves the usual value.
    embedding_multiplier: Multiplier = 1.0
    residual_multiplier: Multiplier = 1.0
    attention_multiplier: Multiplier | None = None
    logits_scaling: Multiplier = 1.0

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        data = {k: v for k, v in data.items() if v is not None}
        data["rope_theta"], data["rope_scaling"] = _rope(data)
        heads, hidden = data.get("num_attention_heads"), data.get("hidden_size")
        # Of nonsense there is nothing to divide; the fields themselves say what is wrong with it.
        if _is_none(data.get("num_key_value_heads")) and heads is not None:
            data["num_key_value_heads"] = heads
        if _is_none(data.get("head_dim")) and type(heads) is int and type(hidden) is int and heads > 0:
            data["head_dim"] = hidden // heads
        if heads is None or hidden is None:  # which is told, and not what would follow from them
            data = {"num_key_value_heads": 1, "head_dim": 2, **data}
        if _is_none(data.get("sliding_window")):
            data.pop("sliding_window", None)
        names = data.get("architectures")
        if data.get("model_type") == "granite" or (isinstance(names, list) and "GraniteForCausalLM" in names):
            data.setdefault("attention_multiplier", 1.0)
        return data

    @model_validator(mode="after")
    def _supported(self) -> LlamaConfig:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of num_key_value_heads {self.num_key_value_heads}"
            )
        if self.hidden_act not in ("silu", "swish"):
            raise ValueError(f"hidden_act {quote_foreign(self.hidden_act)} is not supported, only silu")
        if self.head_dim % 2:
            raise ValueError(f"head_dim {self.head_dim} is odd, and rotary embeddings turn pairs")
        scaling = self.rope_scaling
        kind = scaling.get("rope_type", "default")
        if lacking := [k for k in ROPE_KEYS[kind] if k not in scaling]:
            raise ValueError(f"rope_scaling of type {kind!r} lacks {', '.join(lacking)}")
        if kind == "default" and scaling.get("factor", 1.0) != 1.0:
            raise ValueError(f"rope_scaling has the factor {scaling['factor']} and names no rope_type")
        for key in FACTOR_LISTS:
            if key in scaling and len(scaling[key]) != self.head_dim // 2:
                raise ValueError(f"rope_scaling's {key} has {len(scaling[key])} numbers, wanted {self.head_dim // 2}")
        if kind == "llama3" and scaling["low_freq_factor"] >= scaling["high_freq_factor"]:
            raise ValueError("rope_scaling's low_freq_factor is not below its high_freq_factor")
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
        return (AttentionRequirement(features=frozenset({"sliding"} if self.window else ()), head_dim=self.head_dim),)


def _rope(data: dict[str, Any]) -> tuple[float, dict[str, Any]]:
    """Base and scaling of the rotary embedding, from any of their places in the configuration.

    Newer files have both in ``rope_parameters``, possibly by kind of layer. Older ones have ``rope_theta``,
    ``rope_scaling`` and the trained length as separate keys.
    """
    given = {key: data.pop(key, None) or {} for key in ("rope_parameters", "rope_scaling")}
    for key, value in given.items():
        _require(isinstance(value, dict), key, value, "an object")
    parameters = given["rope_parameters"].get("full_attention", given["rope_parameters"])
    _require(isinstance(parameters, dict), "rope_parameters' full_attention", parameters, "an object")
    scaling = {k: v for k, v in (given["rope_scaling"] or parameters).items() if v is not None}
    theta = scaling.pop("rope_theta", parameters.get("rope_theta", data.get("rope_theta", 10000.0)))
    kind = scaling.pop("rope_type", scaling.get("type"))
    scaling.pop("type", None)
    if kind is not None:
        kind = "longrope" if kind == "su" else kind
        known = isinstance(kind, str) and kind in ROPE_KEYS
        _require(known, "rope_scaling's rope_type", kind, f"one of {', '.join(ROPE_KEYS)}")
        scaling["rope_type"] = kind
    for key in ("original_max_position_embeddings", "partial_rotary_factor"):
        if key in data and (key == "partial_rotary_factor" or scaling):
            scaling.setdefault(key, data[key])
    for key in NUMBERS & set(scaling):
        _require(_is_number(scaling[key]), f"rope_scaling's {key}", scaling[key], NUMBER)
    for key in set(FACTOR_LISTS) & set(scaling):
        listed = isinstance(scaling[key], list) and all(map(_is_number, scaling[key]))
        _require(listed, f"rope_scaling's {key}", scaling[key], f"a list with {NUMBER} for each pair of channels")
    return theta, scaling


NUMBER = f"a number above 0 and at most {MAX_NUMBER:.0f}"


def _require(fits: bool, key: str, value: Any, wanted: str) -> None:
    if not fits:
        raise ValueError(f"{key} is {quote_foreign(value)}, wanted {wanted}")


def _is_number(value: Any) -> bool:
    """Whether it is a number that a scaling can compute with. NaN is not above 0."""
    return type(value) in (int, float) and 0 < value <= MAX_NUMBER


def _is_none(value: Any) -> bool:
    """Whether a key stands for none: it is not there, or 0, as some files write it."""
    return value is None or (type(value) is int and value == 0)
