"""GGUF's names for InternLM2's metadata and tensors.

Source: the GGUF specification in the ggml repository and llama.cpp's conversion of this architecture, which takes queries,
keys and values apart, and writes rotary pairs as adjacent rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dovetail.api import GGUFNaming, Metadata


class InternLM2Naming(GGUFNaming):
    """Translates GGUF's ``internlm2`` architecture; see :class:`dovetail.api.Naming`."""

    architectures = {"internlm2": "InternLM2ForCausalLM"}
    adjacent = True
    rotated = ("attention.wq", "attention.wk")
    outer = {"token_embd": "model.tok_embeddings", "output_norm": "model.norm", "output": "output"}
    inner = {
        "attn_norm": "attention_norm",
        "attn_q": "attention.wq",
        "attn_k": "attention.wk",
        "attn_v": "attention.wv",
        "attn_output": "attention.wo",
        "ffn_norm": "ffn_norm",
        "ffn_gate": "feed_forward.w1",
        "ffn_up": "feed_forward.w3",
        "ffn_down": "feed_forward.w2",
    }

    def more(self, keys: Metadata, config: Mapping[str, Any]) -> dict[str, Any]:
        # No key describes biases: a file simply has them.
        return {"projections": "wq, wk, wv", "bias": "optional"}


NAMING = InternLM2Naming()
