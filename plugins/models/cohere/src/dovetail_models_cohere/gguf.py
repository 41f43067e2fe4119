"""GGUF's names for the metadata and tensors of Command R and its relatives.

Source: the GGUF specification in the ggml repository, the tables of its Python package, and what llama.cpp's
conversion writes and its models assume.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dovetail.api import GGUFNaming, Metadata

NORMED_LAYERS = 64
"""Models with so many layers or more have norms of queries and keys (Command R+). No key says it."""


class CohereNaming(GGUFNaming):
    """Translates GGUF's ``command-r`` architecture; see :class:`dovetail.api.Naming`."""

    architectures = {"command-r": "CohereForCausalLM"}
    norm_eps = ("attention.layer_norm_epsilon", "layer_norm_eps")
    inner = {old: new for old, new in GGUFNaming.inner.items() if old != "ffn_norm"} | GGUFNaming.qk_norms

    def more(self, keys: Metadata, config: Mapping[str, Any]) -> dict[str, Any]:
        for key in ("rope.dimension_count", "attention.value_length"):
            keys.expect(key, config["head_dim"], f"the head size {config['head_dim']}")
        return {
            "logit_scale": keys.require("logit_scale"),
            "use_qk_norm": config["num_hidden_layers"] >= NORMED_LAYERS,
        }


class Cohere2Naming(CohereNaming):
    """Translates GGUF's ``cohere2`` architecture, in which three of four layers have the window."""

    architectures = {"cohere2": "Cohere2ForCausalLM"}

    def more(self, keys: Metadata, config: Mapping[str, Any]) -> dict[str, Any]:
        keys.require("attention.sliding_window")
        return super().more(keys, config)


COHERE_NAMING = CohereNaming()
COHERE2_NAMING = Cohere2Naming()
