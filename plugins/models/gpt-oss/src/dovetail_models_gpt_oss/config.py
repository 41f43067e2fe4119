"""The configuration of gpt-oss, read from ``config.json``."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator

from dovetail.api import AttentionFeature, DecoderConfig, Epsilon, Positions, check_routing

Count = Annotated[int, Field(gt=0, le=4096)]
Positive = Annotated[float, Field(gt=0, le=2.0**27)]

MISSING = {"sliding_window": 128, "num_key_value_heads": 8, "head_dim": 64}
"""Values of keys for which null means something else than no key."""
YARN = {"rope_type": "yarn", "factor": 32.0, "truncate": False, "original_max_position_embeddings": 4096}
"""The scaling of files that say nothing of one."""


class GptOssConfig(DecoderConfig):
    """Keys of GptOssConfig in transformers, with their defaults. ``intermediate_size`` is that of each expert, and
    ``hidden_act`` changes nothing.
    """

    aliases: ClassVar[dict[str, str]] = {"num_experts": "num_local_experts"}
    rope_defaults: ClassVar[dict[str, Any]] = {"rope_theta": 150000.0}

    max_position_embeddings: Positions = 131072
    rms_norm_eps: Epsilon = 1e-5
    attention_bias: bool = True
    num_local_experts: Count = 128
    num_experts_per_tok: Count = 4
    swiglu_alpha: float = 1.702
    swiglu_limit: Positive = 7.0

    @model_validator(mode="before")
    @classmethod
    def _read_gpt_oss(cls, data: Any) -> Any:
        return {**MISSING, **data} if isinstance(data, dict) else data

    @classmethod
    def prepare(cls, data: dict[str, Any]) -> dict[str, Any]:
        layers = data.get("num_hidden_layers")
        if "layer_types" not in data and type(layers) is int and 0 < layers <= 10_000:
            types = ("sliding_attention", "full_attention")
            data["layer_types"] = tuple(types[layer % 2] for layer in range(layers))
        if not data.get("rope_scaling") and "rope_parameters" not in data:
            data["rope_scaling"] = YARN
        return super().prepare(data)

    @model_validator(mode="after")
    def _check_gpt_oss(self) -> GptOssConfig:
        names = ("num_local_experts", "num_experts_per_tok")
        check_routing(self.num_local_experts, self.num_experts_per_tok, names=names)
        for rope in self.rope.values():
            if rope.partial_rotary_factor != 1.0:
                raise ValueError(f"partial_rotary_factor {rope.partial_rotary_factor} is not supported, only 1")
            if rope.rope_type == "longrope" and rope.long_factor is None:
                raise ValueError("the rotary embedding of the type 'longrope' lacks long_factor and short_factor")
        return self

    def attention_features(self, layer: int) -> frozenset[AttentionFeature]:
        return super().attention_features(layer) | {"sinks"}
