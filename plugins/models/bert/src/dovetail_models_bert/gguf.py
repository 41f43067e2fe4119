"""GGUF's names for the metadata and tensors of BERT, RoBERTa and Nomic's BERT.

Source: the tables of GGUF's Python package, and llama.cpp's conversion of these architectures.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from dovetail.api import GGUFNaming, Metadata

POOLING = {0: None, 1: "mean", 2: "cls", 3: "last"}
"""GGUF's ``pooling_type`` → ours. Zero is none: the vectors of all tokens."""
EMBEDDINGS = {"token_embd": "embeddings.word_embeddings", "token_types": "embeddings.token_type_embeddings"}


class BertNaming(GGUFNaming):
    """Translates GGUF's ``bert``; see :class:`dovetail.api.Naming`. Of RoBERTa's positions the file lacks those that no
    token has, so they are numbered as BERT's.
    """

    architectures = {"bert": "BertModel"}
    norm_eps = ("attention.layer_norm_epsilon", "layer_norm_eps")
    layers: ClassVar[str] = "encoder.layer"
    outer = EMBEDDINGS | {"position_embd": "embeddings.position_embeddings", "token_embd_norm": "embeddings.LayerNorm"}
    inner = {
        "attn_q": "attention.self.query",
        "attn_k": "attention.self.key",
        "attn_v": "attention.self.value",
        "attn_output": "attention.output.dense",
        "attn_output_norm": "attention.output.LayerNorm",
        "ffn_up": "intermediate.dense",
        "ffn_down": "output.dense",
        "layer_output_norm": "output.LayerNorm",
    }

    def config(self, architecture: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
        found = super().config(architecture, metadata)
        return found | {"type_vocab_size": metadata.get("tokenizer.ggml.token_type_count", 2)}

    def more(self, keys: Metadata, config: Mapping[str, Any]) -> dict[str, Any]:
        keys.expect("attention.causal", False, "attention in both directions")
        if (kind := keys.get("pooling_type", 0)) not in POOLING:
            raise keys.refuse("pooling_type", kind, f"one of {', '.join(map(str, POOLING))}: a model for embeddings")
        return {"pooling_type": POOLING[kind]}


class NomicBertNaming(BertNaming):
    """Translates GGUF's ``nomic-bert``."""

    architectures = {"nomic-bert": "NomicBertModel"}
    layers: ClassVar[str] = "encoder.layers"
    outer = EMBEDDINGS | {"token_embd_norm": "emb_ln"}
    inner = {
        "attn_qkv": "attn.Wqkv",
        "attn_output": "attn.out_proj",
        "attn_output_norm": "norm1",
        "ffn_up": "mlp.fc11",
        "ffn_gate": "mlp.fc12",
        "ffn_down": "mlp.fc2",
        "layer_output_norm": "norm2",
    }

    def more(self, keys: Metadata, config: Mapping[str, Any]) -> dict[str, Any]:
        return super().more(keys, config) | {"rope_theta": keys.get("rope.freq_base", 1000.0)}


BERT = BertNaming()
NOMIC_BERT = NomicBertNaming()
