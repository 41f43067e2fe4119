"""The configuration of GPT-2, read from ``config.json``."""

from __future__ import annotations

from typing import Any

from pydantic import model_validator

from dovetail.api import AttentionRequirement, Epsilon, HeadCount, ModelConfig, Size, quote_foreign

ALIASES = {
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_inner": "intermediate_size",
    "n_positions": "max_position_embeddings",
    "activation_function": "hidden_act",
}
"""Key in the file → field."""
ACTIVATIONS = {
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu": "gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
"""Name in the file → operation."""


class GPT2Config(ModelConfig):
    """Keys of GPT2Config in transformers, with their defaults."""

    num_attention_heads: HeadCount
    intermediate_size: Size
    """4 * hidden_size, where the file has none."""
    max_position_embeddings: Size = 1024
    hidden_act: str = "gelu_new"
    layer_norm_epsilon: Epsilon = 1e-5
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    tie_word_embeddings: bool = True

    @model_validator(mode="before")
    @classmethod
    def _read_gpt2(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        data = {ALIASES.get(k, k): v for k, v in data.items() if v is not None}
        if type(hidden := data.get("hidden_size")) is int:
            data.setdefault("intermediate_size", 4 * hidden)
        if data.get("add_cross_attention"):
            raise ValueError("add_cross_attention is not supported, only decoders alone")
        return data

    @model_validator(mode="after")
    def _check_gpt2(self) -> GPT2Config:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}"
            )
        if self.hidden_act not in ACTIVATIONS:
            raise ValueError(
                f"activation_function {quote_foreign(self.hidden_act)} is not one of {', '.join(ACTIVATIONS)}"
            )
        return self

    @property
    def activation(self) -> str:
        return ACTIVATIONS[self.hidden_act]

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    def scale(self, layer: int) -> float:
        """On the products of queries and keys."""
        usual = self.head_dim**-0.5 if self.scale_attn_weights else 1.0
        return usual / (layer + 1) if self.scale_attn_by_inverse_layer_idx else usual

    def attention_requirements(self) -> tuple[AttentionRequirement, ...]:
        return (AttentionRequirement(head_dim=self.head_dim),)
