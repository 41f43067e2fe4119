"""The configurations of Command R and its relatives, read from ``config.json``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from dovetail.api import WINDOW_KEYS, DecoderConfig, Epsilon, Positions, every_nth_full

Multiplier = Annotated[float, Field(gt=0, le=2.0**27)]


class CohereConfig(DecoderConfig):
    """Keys of CohereConfig in transformers, with their defaults. No layer has a window."""

    unread: ClassVar[tuple[str, ...]] = WINDOW_KEYS
    rope_defaults: ClassVar[dict[str, Any]] = {"rope_theta": 500000.0}
    partial_rotary: ClassVar[bool] = False

    max_position_embeddings: Positions = 8192
    tie_word_embeddings: bool = True
    layer_norm_eps: Epsilon = 1e-5
    attention_bias: bool = False
    logit_scale: Multiplier = 0.0625
    use_qk_norm: bool = False


class Cohere2Config(CohereConfig):
    """Keys of Cohere2Config in transformers, with their defaults. Layers with the window have rotary embeddings, and
    the others have no positions.
    """

    unread: ClassVar[tuple[str, ...]] = ("use_qk_norm", "head_dim", "use_sliding_window", "max_window_layers")
    rope_defaults: ClassVar[dict[str, Any]] = {}
    if_missing: ClassVar[dict[str, Any]] = {"sliding_window": 4096}

    @classmethod
    def usual_layer_types(cls, data: Mapping[str, Any], layers: int) -> Iterable[str]:
        return every_nth_full(data.get("sliding_window_pattern", 4), layers)

    def has_rope(self, layer: int) -> bool:
        return self.layer_types[layer] == "sliding_attention"
