"""GGUF's names for StarCoder2's metadata and tensors.

Source: the GGUF specification in the ggml repository and llama.cpp's conversion of this architecture.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dovetail.api import GGUFNaming, Metadata


class Starcoder2Naming(GGUFNaming):
    """Translates GGUF's ``starcoder2`` architecture; see :class:`dovetail.api.Naming`."""

    architectures = {"starcoder2": "Starcoder2ForCausalLM"}
    norm_eps = ("attention.layer_norm_epsilon", "norm_epsilon")
    inner = {name: part for name, part in GGUFNaming.inner.items() if not part.startswith("mlp.")} | {
        "ffn_up": "mlp.c_fc",
        "ffn_down": "mlp.c_proj",
    }

    def more(self, keys: Metadata, config: Mapping[str, Any]) -> dict[str, Any]:
        return {"use_bias": "optional"}  # no key says: a file simply has them


NAMING = Starcoder2Naming()
