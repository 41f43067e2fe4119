"""GGUF's names for the metadata and tensors of Qwen 2 and 3 with experts. All layers have experts there.

Source: the GGUF specification in the ggml repository, the tables of its Python package, and what llama.cpp's
conversion writes and its models assume.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from dovetail.api import GGUFNaming, Metadata


class QwenMoeNaming(GGUFNaming):
    """What the architectures ``qwen2moe`` and ``qwen3moe`` share; see :class:`dovetail.api.Naming`.

    Attributes:
        renormalized: class attribute, whether the weights of a token's experts add up to 1. Files rarely say it.
    """

    inner = GGUFNaming.inner | GGUFNaming.experts
    renormalized: ClassVar[bool]

    def more(self, keys: Metadata, config: Mapping[str, Any]) -> dict[str, Any]:
        for key in ("rope.dimension_count", "attention.value_length"):
            keys.expect(key, config["head_dim"], f"the head size {config['head_dim']}")
        top_k = keys.require("expert_used_count")
        inner = keys.get("expert_feed_forward_length") or config["intermediate_size"] // max(top_k, 1)
        return {
            "num_experts": keys.require("expert_count"),
            "num_experts_per_tok": top_k,
            "moe_intermediate_size": inner,
            "norm_topk_prob": keys.get("expert_weights_norm", self.renormalized),
        }


class Qwen2MoeNaming(QwenMoeNaming):
    architectures = {"qwen2moe": "Qwen2MoeForCausalLM"}
    renormalized = False
    inner = QwenMoeNaming.inner | {
        "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
        "ffn_gate_shexp": "mlp.shared_expert.gate_proj",
        "ffn_up_shexp": "mlp.shared_expert.up_proj",
        "ffn_down_shexp": "mlp.shared_expert.down_proj",
    }

    def more(self, keys: Metadata, config: Mapping[str, Any]) -> dict[str, Any]:
        shared = keys.get("expert_shared_feed_forward_length") or config["intermediate_size"]
        return {**super().more(keys, config), "shared_expert_intermediate_size": shared}


class Qwen3MoeNaming(QwenMoeNaming):
    architectures = {"qwen3moe": "Qwen3MoeForCausalLM"}
    renormalized = True
    inner = QwenMoeNaming.inner | GGUFNaming.qk_norms


QWEN2_NAMING = Qwen2MoeNaming()
QWEN3_NAMING = Qwen3MoeNaming()
