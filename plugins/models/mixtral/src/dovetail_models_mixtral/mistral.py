"""The names of Mistral's own files for Mixtral's metadata and tensors.

Source: the package ``mistral-inference``.
"""

from __future__ import annotations

import re
from typing import Any

from dovetail.api import MistralNaming, Params

COUNTS = ("num_experts", "num_experts_per_tok")


class SparseNaming(MistralNaming):
    """Translates Mistral's files with experts; see :class:`dovetail.api.Naming`."""

    architecture = "MixtralForCausalLM"
    model_type = "mixtral"
    inner = MistralNaming.inner | {"feed_forward.gate": "block_sparse_moe.gate"}

    def more(self, params: Params) -> dict[str, Any]:
        params.expect_keys("moe", COUNTS)
        experts, active = (params.count(f"moe.{name}") for name in COUNTS)
        return {"num_local_experts": experts, "num_experts_per_tok": active}

    def rename(self, name: str) -> str | None:
        """Each expert's three matrices have the names that the model has for them."""
        match = re.fullmatch(r"layers\.(\d+)\.feed_forward\.(experts\.\d+\.w[123]\.\w+)", name)
        if match is None:
            return super().rename(name)
        return f"{self.layers}.{match[1]}.block_sparse_moe.{match[2]}"


NAMING = SparseNaming()
