"""GGUF's names for Llama's metadata and tensors.

Source: the GGUF specification in the ggml repository and llama.cpp's conversion of these architectures.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dovetail.api import GGUFNaming, Metadata

MULTIPLIERS = {
    "embedding_multiplier": "embedding_scale",
    "residual_multiplier": "residual_scale",
    "attention_multiplier": "attention.scale",
    "logits_scaling": "logit_scale",
}


class LlamaNaming(GGUFNaming):
    """Translates GGUF's ``llama``, ``granite`` and ``smollm3`` architectures; see :class:`dovetail.api.Naming`.

    In a ``smollm3`` every fourth layer has no rotary embedding, which no key says.
    """

    architectures = {
        "llama": "LlamaForCausalLM",
        "mistral": "MistralForCausalLM",
        "granite": "GraniteForCausalLM",
        "smollm3": "SmolLM3ForCausalLM",
    }
    adjacent = True
    outer = GGUFNaming.outer | {
        "rope_freqs": "rope_freqs",
        "rope_factors_long": "rope_factors_long",
        "rope_factors_short": "rope_factors_short",
    }
    inner = GGUFNaming.inner | {"attn_rot_embd": "self_attn.rotary_emb"}

    def more(self, keys: Metadata, config: Mapping[str, Any]) -> dict[str, Any]:
        keys.expect("expert_count", 0, "a dense model", "install a plugin for its mixture-of-experts architecture")
        for key in ("rope.dimension_count", "attention.value_length"):
            keys.expect(key, config["head_dim"], f"the head size {config['head_dim']}")
        # No key describes biases: a file simply has the tensors, possibly only for some layers.
        more: dict[str, Any] = {"attention_bias": "optional", "mlp_bias": "optional"}
        for key, name in MULTIPLIERS.items():
            if value := keys.get(name):  # 0 means none
                more[key] = value
        if keys.architecture == "llama" and keys.get("attention.sliding_window"):  # as some files of Mistral have it
            more["architectures"] = ["MistralForCausalLM"]
        if keys.architecture == "granite":
            # Hugging Face's Granite multiplies by 1 where its configuration is silent; a GGUF file means the usual scale.
            more.setdefault("attention_multiplier", config["head_dim"] ** -0.5)
            # llama.cpp takes this key for whether Granite has rotary embeddings at all.
            keys.expect(
                "rope.scaling.finetuned", True, "rotary embeddings", "this variant needs a model plugin of its own"
            )
        return more


NAMING = LlamaNaming()
