"""The configurations of BERT and RoBERTa, read from ``config.json``."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from dovetail.api import Activation, AttentionFeature, DecoderConfig, Epsilon, Positions, Size, quote_foreign


class BertConfig(DecoderConfig):
    """Keys of BertConfig in transformers, with their defaults."""

    rotary: ClassVar[bool] = False

    max_position_embeddings: Positions = 512
    type_vocab_size: Size = 2
    hidden_act: Activation = "gelu"
    layer_norm_eps: Epsilon = 1e-12

    @classmethod
    def prepare(cls, data: dict[str, Any]) -> dict[str, Any]:
        if data.get("is_decoder") or data.get("add_cross_attention"):
            raise ValueError("is_decoder and add_cross_attention are not supported, only encoders")
        if (kind := data.get("position_embedding_type", "absolute")) != "absolute":
            raise ValueError(f"position_embedding_type {quote_foreign(kind)} is not supported, only absolute")
        return super().prepare(data)

    @property
    def position_offset(self) -> int:
        """The number of a prompt's first position."""
        return 0

    def attention_features(self, layer: int) -> frozenset[AttentionFeature]:
        return frozenset({"bidirectional"})


class RobertaConfig(BertConfig):
    """Keys of RobertaConfig and XLMRobertaConfig in transformers, with their defaults."""

    pad_token_id: int = Field(default=1, ge=0)

    @property
    def position_offset(self) -> int:
        """Positions are numbered from here: the padding token has one of its own, and those before it none."""
        return self.pad_token_id + 1

    def context_length(self) -> int:
        return self.max_position_embeddings - self.position_offset

    def longest_context(self) -> int:
        return self.context_length()
