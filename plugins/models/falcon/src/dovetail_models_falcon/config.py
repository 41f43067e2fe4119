"""The configuration of Falcon, read from ``config.json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import model_validator

from dovetail.api import Activation, DecoderConfig, Epsilon, LayerType, alibi_slopes


class FalconConfig(DecoderConfig):
    """Keys of FalconConfig in transformers, with their defaults."""

    aliases: ClassVar[Mapping[str, str]] = {"activation": "hidden_act", "n_embed": "hidden_size"}
    unread: ClassVar[tuple[str, ...]] = ("hidden_act", "hidden_activation", "activation_function", "rotary_emb_base")
    if_null: ClassVar[dict[str, Any]] = {"multi_query": False, "parallel_attn": False}
    supported_layer_types: ClassVar[tuple[LayerType, ...]] = ("full_attention",)
    partial_rotary: ClassVar[bool] = False

    hidden_act: Activation = "gelu"
    layer_norm_epsilon: Epsilon = 1e-5
    tie_word_embeddings: bool = True
    bias: bool = False
    alibi: bool = False
    """Falcon-RW: scores fall with distance, and there are no rotary embeddings."""
    new_decoder_architecture: bool = False
    multi_query: bool = True
    parallel_attn: bool = True
    num_ln_in_parallel_attn: int = 1
    """2: attention and MLP each have a norm. The new architecture has them where the file is silent."""
    mlp_norm: Literal["ln_mlp", "input_layernorm"] = "ln_mlp"
    """Checkpoint name of the MLP's norm where attention has another; GGUF files have the name of the only one."""

    @classmethod
    def prepare(cls, data: dict[str, Any]) -> dict[str, Any]:
        new = data.get("new_decoder_architecture") is True
        if not new and data.get("multi_query") is not False:
            data["num_key_value_heads"] = 1
        if new:
            data.setdefault("num_ln_in_parallel_attn", 2)
        if type(hidden := data.get("hidden_size")) is int:
            data["intermediate_size"] = data.get("ffn_hidden_size", 4 * hidden)  # which has no other name
        data = super().prepare(data)
        return {**data, "rope": {}} if data.get("alibi") is True else data

    def slopes(self) -> tuple[float, ...] | None:
        """Falcon scales the sum of products and biases."""
        if not self.alibi:
            return None
        return tuple(slope * self.head_dim**-0.5 for slope in alibi_slopes(self.num_attention_heads))

    @model_validator(mode="after")
    def _check_falcon(self) -> FalconConfig:
        if self.head_dim * self.num_attention_heads != self.hidden_size:
            raise ValueError(f"head_dim {self.head_dim} is not hidden_size / num_attention_heads")
        norms = self.num_ln_in_parallel_attn
        if self.new_decoder_architecture:
            if not self.parallel_attn:
                raise ValueError("parallel_attn is false, which new_decoder_architecture has no norms for")
            if norms not in (1, 2):
                raise ValueError(f"num_ln_in_parallel_attn is {norms}, wanted 1 or 2")
            return self
        if norms != 1 and self.parallel_attn:
            raise ValueError(f"num_ln_in_parallel_attn is {norms}, wanted 1 without new_decoder_architecture")
        if not self.multi_query and self.num_key_value_heads != self.num_attention_heads:
            raise ValueError(f"num_kv_heads is {self.num_key_value_heads}, wanted one for each head, or multi_query")
        return self
