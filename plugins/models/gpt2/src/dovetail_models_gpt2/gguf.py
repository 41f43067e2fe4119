"""GGUF's names for GPT-2's metadata and tensors.

Source: the GGUF specification in the ggml repository and llama.cpp's conversion of this architecture.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from dovetail.api import ConfigError

TOP = {"token_embd": "wte", "position_embd": "wpe", "output_norm": "ln_f", "output": "lm_head"}
LAYER = {
    "attn_norm": "ln_1",
    "attn_qkv": "attn.c_attn",
    "attn_output": "attn.c_proj",
    "ffn_norm": "ln_2",
    "ffn_up": "mlp.c_fc",
    "ffn_down": "mlp.c_proj",
}


class GPT2Naming:
    """Translates GGUF's ``gpt2`` architecture; see :class:`dovetail.api.Naming`."""

    def config(self, architecture: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
        def get(key: str) -> Any:
            value = metadata.get(f"{architecture}.{key}")
            if value is None:
                raise ConfigError(
                    f"the GGUF metadata lacks the key {architecture}.{key}",
                    "convert the model again, or give its config.json with --hf-config-path",
                )
            return value

        return {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": architecture,
            "vocab_size": get("vocab_size"),
            "n_embd": get("embedding_length"),
            "n_layer": get("block_count"),
            "n_head": get("attention.head_count"),
            "n_inner": get("feed_forward_length"),
            "n_positions": get("context_length"),
            "layer_norm_epsilon": get("attention.layer_norm_epsilon"),
            "tie_word_embeddings": bool(metadata.get("tied_embeddings")),
        }

    def rename(self, name: str) -> str | None:
        stem, _, component = name.rpartition(".")
        if stem in TOP:
            return f"{TOP[stem]}.{component}"
        match = re.fullmatch(r"blk\.(\d+)\.(\w+)", stem)
        if match and match[2] in LAYER:
            return f"h.{match[1]}.{LAYER[match[2]]}.{component}"
        return name

    def row_order(self, name: str, config: Mapping[str, Any]) -> np.ndarray | None:
        return None


NAMING = GPT2Naming()
