"""GGUF's names for Baichuan's metadata and tensors.

Source: the GGUF specification in the ggml repository and llama.cpp's conversion of this architecture, which takes queries,
keys and values apart, and writes rotary pairs as adjacent rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dovetail.api import GGUFNaming, Metadata

ALIBI_LAYERS = 40
"""Of the models of 13B: no key says that they have ALiBi."""


class BaichuanNaming(GGUFNaming):
    """Translates GGUF's ``baichuan`` architecture; see :class:`dovetail.api.Naming`."""

    architectures = {"baichuan": "BaichuanForCausalLM"}
    adjacent = True

    def more(self, keys: Metadata, config: Mapping[str, Any]) -> dict[str, Any]:
        biased = config["num_hidden_layers"] == ALIBI_LAYERS
        return {"projections": "q_proj, k_proj, v_proj", "position_embedding": "alibi" if biased else "rope"}


NAMING = BaichuanNaming()
