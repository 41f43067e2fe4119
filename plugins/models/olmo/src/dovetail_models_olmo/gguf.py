"""GGUF's names for the metadata and tensors of OLMo 2 and 3, which have one architecture there.

Source: the GGUF specification in the ggml repository, the tables of its Python package, and what llama.cpp's
conversion writes and its model assumes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dovetail.api import GGUFNaming, Metadata


class Olmo2Naming(GGUFNaming):
    """Files without a window; see :class:`dovetail.api.Naming`."""

    architectures = {"olmo2": "Olmo2ForCausalLM"}
    inner = {
        **{old: new for old, new in GGUFNaming.inner.items() if not old.endswith("_norm")},
        **GGUFNaming.qk_norms,
        "post_attention_norm": "post_attention_layernorm",
        "post_ffw_norm": "post_feedforward_layernorm",
    }

    def more(self, keys: Metadata, config: Mapping[str, Any]) -> dict[str, Any]:
        for key in ("rope.dimension_count", "attention.value_length"):
            keys.expect(key, config["head_dim"], f"the head size {config['head_dim']}")
        keys.expect("attention.sliding_window", 0, "none, as in an OLMo 2")
        return {}


class Olmo3Naming(Olmo2Naming):
    """Files with a window: in three of four layers, whose rotary embeddings are not scaled. No key says either."""

    architectures = {"olmo2": "Olmo3ForCausalLM"}

    def more(self, keys: Metadata, config: Mapping[str, Any]) -> dict[str, Any]:
        for key in ("rope.dimension_count", "attention.value_length"):
            keys.expect(key, config["head_dim"], f"the head size {config['head_dim']}")
        keys.require("attention.sliding_window")
        theta = {"rope_theta": config["rope_theta"]}
        ropes = {"full_attention": {**config.get("rope_scaling", {}), **theta}, "sliding_attention": theta}
        return {"rope_theta": None, "rope_scaling": None, "rope_parameters": ropes}


OLMO2_NAMING = Olmo2Naming()
OLMO3_NAMING = Olmo3Naming()
