"""The configuration of BERT, read from ``config.json``."""

from __future__ import annotations

from typing import Any

from pydantic import model_validator

from dovetail.api import AttentionRequirement, Epsilon, HeadCount, ModelConfig, Size, quote_foreign

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
}
"""Name in the file → operation."""


class BertConfig(ModelConfig):
    """Keys of BertConfig in transformers, with their defaults."""

    num_attention_heads: HeadCount
    intermediate_size: Size
    max_position_embeddings: Size = 512
    type_vocab_size: Size = 2
    hidden_act: str = "gelu"
    layer_norm_eps: Epsilon = 1e-12
    labels: Size = 2
    """``num_labels``, or the size of ``id2label``."""

    @model_validator(mode="before")
    @classmethod
    def _read_bert(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        data = {k: v for k, v in data.items() if v is not None}
        names = data.get("id2label")
        data["labels"] = data.get("num_labels") or (len(names) if isinstance(names, dict) else None)
        if data.get("is_decoder") or data.get("add_cross_attention"):
            raise ValueError("is_decoder and add_cross_attention are not supported, only encoders")
        if (kind := data.get("position_embedding_type") or "absolute") != "absolute":
            raise ValueError(f"position_embedding_type {quote_foreign(kind)} is not supported, only absolute")
        return data

    @model_validator(mode="after")
    def _check_bert(self) -> BertConfig:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}"
            )
        if self.hidden_act not in ACTIVATIONS:
            raise ValueError(f"hidden_act {quote_foreign(self.hidden_act)} is not one of {', '.join(ACTIVATIONS)}")
        return self

    @property
    def activation(self) -> str:
        return ACTIVATIONS[self.hidden_act]

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    def attention_requirements(self) -> tuple[AttentionRequirement, ...]:
        return (AttentionRequirement(features=frozenset({"bidirectional"}), head_dim=self.head_dim),)
