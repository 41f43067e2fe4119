"""GGUF's names for StableLM's metadata and tensors.

Source: the GGUF specification in the ggml repository and llama.cpp's conversion of this architecture.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dovetail.api import GGUFNaming, Metadata

LARGEST = 40
"""Layers of the 12B model, whose attention and MLP read the same norm, and which has norms of queries and keys. The key
``use_parallel_residual`` is true in files of the others, too.
"""


class StableLmNaming(GGUFNaming):
    """Translates GGUF's ``stablelm`` architecture; see :class:`dovetail.api.Naming`."""

    architectures = {"stablelm": "StableLmForCausalLM"}
    norm_eps = ("attention.layer_norm_epsilon", "layer_norm_eps")
    inner = GGUFNaming.inner | {"attn_q_norm": "self_attn.q_layernorm", "attn_k_norm": "self_attn.k_layernorm"}

    def more(self, keys: Metadata, config: Mapping[str, Any]) -> dict[str, Any]:
        largest = config["num_hidden_layers"] == LARGEST
        return {
            "partial_rotary_factor": keys.require("rope.dimension_count") / config["head_dim"],
            "use_qkv_bias": "optional",  # no key says: a file simply has them
            "use_parallel_residual": largest,
            "qk_layernorm": "stacked" if largest else False,
        }


NAMING = StableLmNaming()
