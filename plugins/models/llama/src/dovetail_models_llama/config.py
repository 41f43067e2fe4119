"""The configuration of Llama's relatives, read from ``config.json``."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from dovetail.api import AttentionRequirement, ModelConfig

ROPE_TYPES = ("default", "linear", "dynamic", "yarn", "llama3")


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
    attention_bias: bool = False
    mlp_bias: bool = False
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
        # Newer files keep theta and scaling together under rope_parameters.
        parameters = data.pop("rope_parameters", None) or {}
        scaling = dict(data.get("rope_scaling") or parameters)
        data["rope_theta"] = parameters.get("rope_theta", data.get("rope_theta", 10000.0))
        if "type" in scaling:
            scaling.setdefault("rope_type", scaling["type"])
        data["rope_scaling"] = scaling
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
        kind = self.rope_scaling.get("rope_type", "default")
        if kind not in ROPE_TYPES:
            raise ValueError(f"rope_scaling's rope_type {kind!r} is not supported, only {', '.join(ROPE_TYPES)}")
        needed = {
            "linear": ("factor",),
            "dynamic": ("factor",),
            "yarn": ("factor",),
            "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
        }.get(kind, ())
        if lacking := [k for k in needed if k not in self.rope_scaling]:
            raise ValueError(f"rope_scaling of type {kind!r} lacks {', '.join(lacking)}")
        return self

    @property
    def window(self) -> int | None:
        """The sliding window where it is shorter than the context, else None."""
        shorter = self.sliding_window and self.sliding_window < self.max_position_embeddings
        return self.sliding_window if shorter else None

    def context_length(self) -> int:
        """yarn is made for its factor times the original length, which files do not always write into max_position_embeddings."""
        scaling = self.rope_scaling
        original = scaling.get("original_max_position_embeddings")
        if scaling.get("rope_type") == "yarn" and original:
            return max(self.max_position_embeddings, int(original * scaling["factor"]))
        return self.max_position_embeddings

    def attention_requirements(self) -> tuple[AttentionRequirement, ...]:
        return (AttentionRequirement(kind="sliding" if self.window else "full", head_dim=self.head_dim),)
