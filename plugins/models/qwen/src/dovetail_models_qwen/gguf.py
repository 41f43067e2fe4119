"""GGUF's names for the metadata and tensors of Qwen 2 and 3.

Source: the GGUF specification in the ggml repository, the tables of its Python package, and llama.cpp's conversion of
these architectures.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dovetail.api import GGUFNaming, Metadata

RANK = 4
"""The pooling type of rerankers, whose head has two of the vocabulary's rows."""


class QwenNaming(GGUFNaming):
    """What the architectures ``qwen2`` and ``qwen3`` share; see :class:`dovetail.api.Naming`."""

    def more(self, keys: Metadata, config: Mapping[str, Any]) -> dict[str, Any]:
        for key in ("rope.dimension_count", "attention.value_length"):
            keys.expect(key, config["head_dim"], f"the head size {config['head_dim']}")
        if keys.get("pooling_type") == RANK:
            raise keys.refuse("pooling_type", RANK, "a model with the whole head, or none")
        return {}


class Qwen2Naming(QwenNaming):
    architectures = {"qwen2": "Qwen2ForCausalLM"}


class Qwen3Naming(QwenNaming):
    architectures = {"qwen3": "Qwen3ForCausalLM"}
    inner = GGUFNaming.inner | GGUFNaming.qk_norms


QWEN2_NAMING = Qwen2Naming()
QWEN3_NAMING = Qwen3Naming()
