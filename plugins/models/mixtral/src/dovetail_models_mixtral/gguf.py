"""GGUF's names for Mixtral's metadata and tensors. The container calls it ``llama``, with a number of experts.

Source: the GGUF specification in the ggml repository and llama.cpp's conversion of this architecture.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from dovetail.api import GGUFNaming, Metadata

EXPERTS = {"ffn_gate": "w1", "ffn_up": "w3", "ffn_down": "w2"}


class MixtralNaming(GGUFNaming):
    """Translates GGUF's ``llama`` architecture with experts; see :class:`dovetail.api.Naming`."""

    architectures = {"llama": "MixtralForCausalLM"}
    adjacent = True
    inner = {name: part for name, part in GGUFNaming.inner.items() if not part.startswith("mlp.")} | {
        "attn_rot_embd": "self_attn.rotary_emb",
        "ffn_gate_inp": "block_sparse_moe.gate",
        **{f"{name}_exps": f"block_sparse_moe.experts.{part}" for name, part in EXPERTS.items()},
    }

    def more(self, keys: Metadata, config: Mapping[str, Any]) -> dict[str, Any]:
        if not keys.get("expert_count"):
            raise keys.refuse("expert_count", 0, "experts")
        for key in ("rope.dimension_count", "attention.value_length"):
            keys.expect(key, config["head_dim"], str(config["head_dim"]))
        return {
            "model_type": "mixtral",
            "num_local_experts": keys.get("expert_count"),
            "num_experts_per_tok": keys.require("expert_used_count"),
        }

    def rename(self, name: str) -> str | None:
        """Files of 2023 have a tensor for each expert."""
        match = re.fullmatch(r"blk\.(\d+)\.(ffn_\w+?)\.(\d+)\.(\w+)", name)
        if match is None or match[2] not in EXPERTS:
            return super().rename(name)
        return f"{self.layers}.{match[1]}.block_sparse_moe.experts.{match[3]}.{EXPERTS[match[2]]}.{match[4]}"


NAMING = MixtralNaming()
