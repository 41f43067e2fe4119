"""The configuration of StarCoder2, read from ``config.json``."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from dovetail.api import WINDOW_RULES, Activation, DecoderConfig, Epsilon, Positions

Bias = bool | Literal["optional"]
"""Whether layers have biases; ``optional``: those in the checkpoint."""


class Starcoder2Config(DecoderConfig):
    """Keys of Starcoder2Config in transformers, with their defaults. All layers have the window, or none."""

    unread: ClassVar[tuple[str, ...]] = ("layer_types", *WINDOW_RULES)
    partial_rotary: ClassVar[bool] = False
    one_rope: ClassVar[bool] = True

    max_position_embeddings: Positions = 4096
    hidden_act: Activation = "gelu_tanh"
    norm_epsilon: Epsilon = 1e-5
    use_bias: Bias = True
    tie_word_embeddings: bool = True

    @classmethod
    def prepare(cls, data: dict[str, Any]) -> dict[str, Any]:
        data.setdefault("num_key_value_heads", 2)
        return super().prepare(data)
