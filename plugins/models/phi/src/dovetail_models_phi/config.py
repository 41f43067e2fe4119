"""The configurations of Phi, Phi-3 and Phi-3.5-MoE, read from ``config.json``."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from dovetail.api import WINDOW_RULES, Activation, DecoderConfig, Epsilon, LayerType, Positions, check_routing

ExpertCount = Annotated[int, Field(gt=0, le=4096)]
Noise = Annotated[float, Field(ge=0, le=2.0**27)]
Bias = bool | Literal["optional"]
"""Whether layers have biases; ``optional``: those in the checkpoint."""

LENGTH = "original_max_position_embeddings"
USUAL = "default"
LONG = "longrope"


class PhiConfig(DecoderConfig):
    """Keys of PhiConfig in transformers, with their defaults."""

    supported_layer_types: ClassVar[tuple[LayerType, ...]] = ("full_attention",)
    rope_defaults: ClassVar[dict[str, Any]] = {"partial_rotary_factor": 0.5}
    one_rope: ClassVar[bool] = True

    hidden_act: Activation = "gelu_tanh"
    layer_norm_eps: Epsilon = 1e-5
    qk_layernorm: bool = False


class LongDecoderConfig(DecoderConfig):
    """What Phi-3 and Phi-3.5-MoE have in common: rotary embeddings with a list of divisors for short contexts, and one for
    long ones, or without scaling. All layers have the window, or none.
    """

    unread: ClassVar[tuple[str, ...]] = ("layer_types", *WINDOW_RULES)
    one_rope: ClassVar[bool] = True
    rope_tensors: ClassVar[bool] = True

    rms_norm_eps: Epsilon = 1e-5

    @model_validator(mode="after")
    def _check_rotary(self) -> LongDecoderConfig:
        if (kind := self.rope_for(0).rope_type) not in (USUAL, LONG):
            raise ValueError(f"the rotary embedding {kind!r} is not supported, only {USUAL!r} and {LONG!r}")
        return self


class Phi3Config(LongDecoderConfig):
    """Keys of Phi3Config in transformers, with their defaults."""

    unread: ClassVar[tuple[str, ...]] = (*LongDecoderConfig.unread, "rotary_pct", "rope_pct", "rotary_dim")

    max_position_embeddings: Positions = 4096

    @classmethod
    def prepare(cls, data: dict[str, Any]) -> dict[str, Any]:
        # The original length is only read beside the objects, and has a default.
        data.setdefault(LENGTH, 4096)
        for key in ("rope_parameters", "rope_scaling"):
            if isinstance(inner := data.get(key), dict):
                data[key] = {name: value for name, value in inner.items() if name != LENGTH}
        return super().prepare(data)


class PhimoeConfig(LongDecoderConfig):
    """Keys of PhimoeConfig in transformers, with their defaults. ``intermediate_size`` is that of each expert."""

    if_missing: ClassVar[dict[str, Any]] = {"num_key_value_heads": 8}
    rope_defaults: ClassVar[dict[str, Any]] = {"rope_theta": 1e6}
    partial_rotary: ClassVar[bool] = False
    rope_mscales: ClassVar[bool] = True

    max_position_embeddings: Positions = 131072
    attention_bias: Bias = False
    lm_head_bias: Bias = False
    num_local_experts: ExpertCount = 16
    num_experts_per_tok: ExpertCount = 2
    router_jitter_noise: Noise = 0.01
    """How far a router's logit may be below the largest, relatively and halved, to share the weight with it."""

    @model_validator(mode="after")
    def _check_phimoe(self) -> PhimoeConfig:
        names = ("num_local_experts", "num_experts_per_tok")
        check_routing(self.num_local_experts, self.num_experts_per_tok, names=names)
        if self.num_experts_per_tok != 2:
            raise ValueError(f"num_experts_per_tok is {self.num_experts_per_tok}, wanted 2: the router chooses two")
        rope = self.rope_for(0)
        if rope.rope_type == LONG and (rope.long_mscale is None or rope.short_mscale is None):
            raise ValueError(f"the rotary embedding {LONG!r} lacks long_mscale or short_mscale")
        return self
