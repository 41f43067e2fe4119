"""The configuration of Baichuan, read from ``config.json``."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import model_validator

from dovetail.api import DecoderConfig, Epsilon, LayerType, Positions, alibi_slopes

BAICHUAN_2 = 125696
"""The vocabulary of Baichuan 2, by which its configuration differs from that of the first one."""


class BaichuanConfig(DecoderConfig):
    """Keys of BaichuanConfig in the published checkpoints' repositories, with their defaults."""

    aliases: ClassVar[dict[str, str]] = {"model_max_length": "max_position_embeddings"}
    supported_layer_types: ClassVar[tuple[LayerType, ...]] = ("full_attention",)
    partial_rotary: ClassVar[bool] = False

    max_position_embeddings: Positions = 4096
    rms_norm_eps: Epsilon = 1e-6
    position_embedding: Literal["rope", "alibi"]
    """Of files without this key, ``alibi`` for those that say ``model_max_length`` and not ``max_position_embeddings``: the
    configurations of the 13B models have no such key, and their code is another one than that of the 7B.
    """
    normalized_head: bool
    """Whether the head's rows count with the length 1. Of files without this key, those of Baichuan 2's vocabulary."""
    projections: Literal["W_pack", "q_proj, k_proj, v_proj"] = "W_pack"
    """How the projections to queries, keys and values are stored; in GGUF files they are apart."""

    @model_validator(mode="before")
    @classmethod
    def _tell_apart(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("position_embedding") is not None:
            return data
        long, usual = data.get("model_max_length"), data.get("max_position_embeddings")
        return {**data, "position_embedding": "alibi" if long is not None and usual is None else "rope"}

    @classmethod
    def prepare(cls, data: dict[str, Any]) -> dict[str, Any]:
        data.setdefault("normalized_head", data.get("vocab_size") == BAICHUAN_2)
        data = super().prepare(data)
        return {**data, "rope": {}} if data.get("position_embedding") == "alibi" else data

    def slopes(self) -> tuple[float, ...] | None:
        return alibi_slopes(self.num_attention_heads) if self.position_embedding == "alibi" else None

    @model_validator(mode="after")
    def _check_baichuan(self) -> BaichuanConfig:
        if self.head_dim * self.num_attention_heads != self.hidden_size:
            raise ValueError(f"head_dim {self.head_dim} is not hidden_size / num_attention_heads")
        if self.num_key_value_heads != self.num_attention_heads:
            raise ValueError(f"num_key_value_heads is {self.num_key_value_heads}, wanted one for each head")
        return self
