"""The configuration of GPT-2, read from ``config.json``."""

from __future__ import annotations

from typing import Any, ClassVar

from dovetail.api import WINDOW_KEYS, Activation, DecoderConfig, Epsilon, Positions


class GPT2Config(DecoderConfig):
    """Keys of GPT2Config in transformers, with their defaults."""

    unread: ClassVar[tuple[str, ...]] = (*WINDOW_KEYS, "hidden_act", "hidden_activation", "n_ctx")
    rotary: ClassVar[bool] = False

    max_position_embeddings: Positions = 1024
    hidden_act: Activation = "gelu_tanh"
    layer_norm_epsilon: Epsilon = 1e-5
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    tie_word_embeddings: bool = True

    @classmethod
    def prepare(cls, data: dict[str, Any]) -> dict[str, Any]:
        if type(hidden := data.get("hidden_size")) is int:
            data.setdefault("intermediate_size", 4 * hidden)
        if data.get("add_cross_attention"):
            raise ValueError("add_cross_attention is not supported, only decoders alone")
        return super().prepare(data)

    def scale(self, layer: int) -> float:
        """On the products of queries and keys."""
        usual = self.head_dim**-0.5 if self.scale_attn_weights else 1.0
        return usual / (layer + 1) if self.scale_attn_by_inverse_layer_idx else usual
