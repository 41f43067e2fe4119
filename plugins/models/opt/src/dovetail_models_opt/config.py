"""The configuration of OPT, read from ``config.json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import model_validator

from dovetail.api import Activation, DecoderConfig, LayerType, Size


class OPTConfig(DecoderConfig):
    """Keys of OPTConfig in transformers, with their defaults."""

    aliases: ClassVar[Mapping[str, str]] = {"_remove_final_layer_norm": "remove_final_layer_norm"}
    unread: ClassVar[tuple[str, ...]] = ("hidden_act", "hidden_activation")
    supported_layer_types: ClassVar[tuple[LayerType, ...]] = ("full_attention",)
    rotary: ClassVar[bool] = False

    hidden_act: Activation = "relu"
    do_layer_norm_before: bool = True
    remove_final_layer_norm: bool = False
    word_embed_proj_dim: Size
    """Channels of the embedding and of what the head reads; ``hidden_size``, where the file has none."""
    enable_bias: bool = True
    layer_norm_elementwise_affine: bool = True
    tie_word_embeddings: bool = True

    @classmethod
    def prepare(cls, data: dict[str, Any]) -> dict[str, Any]:
        if "ffn_dim" in data:
            data["intermediate_size"] = data["ffn_dim"]  # which has no other name
        if "hidden_size" in data:
            data.setdefault("word_embed_proj_dim", data["hidden_size"])
        return super().prepare(data)

    @model_validator(mode="after")
    def _check_opt(self) -> OPTConfig:
        if self.head_dim * self.num_attention_heads != self.hidden_size:
            raise ValueError(f"head_dim {self.head_dim} is not hidden_size / num_attention_heads")
        if self.num_key_value_heads != self.num_attention_heads:
            raise ValueError(f"num_key_value_heads is {self.num_key_value_heads}, wanted one for each head")
        return self

    @property
    def projects(self) -> bool:
        """Whether embeddings have another size than the layers."""
        return self.word_embed_proj_dim != self.hidden_size

    @property
    def ends_with_norm(self) -> bool:
        return self.do_layer_norm_before and not self.remove_final_layer_norm
