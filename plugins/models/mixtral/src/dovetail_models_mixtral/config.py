"""The configuration of Mixtral, read from ``config.json``."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator

from dovetail.api import WINDOW_RULES, DecoderConfig, Epsilon, Positions, check_routing

ExpertCount = Annotated[int, Field(gt=0, le=4096)]


class MixtralConfig(DecoderConfig):
    """Keys of MixtralConfig in transformers, with their defaults. ``intermediate_size`` is that of each expert, and all
    layers have the window, or none.
    """

    unread: ClassVar[tuple[str, ...]] = ("layer_types", *WINDOW_RULES)
    if_missing: ClassVar[dict[str, Any]] = {"num_key_value_heads": 8}
    rope_defaults: ClassVar[dict[str, Any]] = {"rope_theta": 1e6}
    partial_rotary: ClassVar[bool] = False
    one_rope: ClassVar[bool] = True

    max_position_embeddings: Positions = 131072
    num_local_experts: ExpertCount = 8
    num_experts_per_tok: ExpertCount = 2
    rms_norm_eps: Epsilon = 1e-5

    @model_validator(mode="after")
    def _check_mixtral(self) -> MixtralConfig:
        check_routing(
            self.num_local_experts, self.num_experts_per_tok, names=("num_local_experts", "num_experts_per_tok")
        )
        return self
