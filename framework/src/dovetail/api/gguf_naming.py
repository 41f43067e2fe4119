"""What the namings of model packages share of GGUF: the keys and tensors that nearly all decoders have there.

Source: the GGUF specification in the ggml repository, and the names that its converters write.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from dovetail.api.naming import Metadata, TableNaming, rotary_halves

YARN_KEYS = {
    "beta_fast": "rope.scaling.yarn_beta_fast",
    "beta_slow": "rope.scaling.yarn_beta_slow",
    "mscale_all_dim": "rope.scaling.yarn_log_multiplier",
}


class GGUFNaming(TableNaming):
    """A decoder with rotary embeddings, RMS norms and a gated MLP. A subclass sets the architecture, and changes what
    differs.

    Class attributes:
        architectures: GGUF's name → that of ``config.json``.
        outer, inner: as in :class:`TableNaming`; a subclass adds to these or replaces some.
        qk_norms, experts: for ``inner`` of models that have norms of queries and keys, or a mixture of experts.
        adjacent: each rotary pair of q and k is two adjacent rows, as the converters of some architectures write them.
        norm_eps: GGUF's key of the norms' epsilon → that of ``config.json``.
    """

    block = "blk"
    outer: ClassVar[dict[str, str]] = {
        "token_embd": "model.embed_tokens",
        "output_norm": "model.norm",
        "output": "lm_head",
    }
    inner: ClassVar[dict[str, str]] = {
        "attn_norm": "input_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_norm": "post_attention_layernorm",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
    qk_norms: ClassVar[dict[str, str]] = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
    experts: ClassVar[dict[str, str]] = {
        "ffn_gate_inp": "mlp.gate",
        "ffn_gate_exps": "mlp.experts.gate_proj",
        "ffn_up_exps": "mlp.experts.up_proj",
        "ffn_down_exps": "mlp.experts.down_proj",
    }
    architectures: ClassVar[Mapping[str, str]]
    adjacent: ClassVar[bool] = False
    norm_eps: ClassVar[tuple[str, str]] = ("attention.layer_norm_rms_epsilon", "rms_norm_eps")

    def config(self, architecture: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """The keys of ``config.json``; see :meth:`dovetail.api.Naming.config`.

        Raises:
            ConfigError: a key is missing, or a value is not supported.
        """
        keys = Metadata("GGUF", architecture, metadata)
        heads, hidden = keys.require("attention.head_count"), keys.require("embedding_length")
        head_dim = keys.get("attention.key_length") or hidden // heads
        config = {
            "architectures": [self.architectures[architecture]],
            "model_type": architecture,
            "vocab_size": keys.require("vocab_size"),
            "hidden_size": hidden,
            "num_hidden_layers": keys.require("block_count"),
            "num_attention_heads": heads,
            "num_key_value_heads": keys.get("attention.head_count_kv", heads),
            "head_dim": head_dim,
            "intermediate_size": keys.require("feed_forward_length"),
            "max_position_embeddings": keys.require("context_length"),
            self.norm_eps[1]: keys.require(self.norm_eps[0]),
            "rope_theta": keys.get("rope.freq_base", 10000.0),
            "sliding_window": keys.get("attention.sliding_window") or None,
            "tie_word_embeddings": bool(metadata.get("tied_embeddings")),
        }
        if (rotated := keys.get("rope.dimension_count", head_dim)) != head_dim:
            config["partial_rotary_factor"] = rotated / head_dim
        if scaling := rope_scaling(keys):
            config["rope_scaling"] = scaling
        return config | self.more(keys, config)

    def more(self, keys: Metadata, config: Mapping[str, Any]) -> dict[str, Any]:
        """Keys of this architecture beside those that nearly all have, or in their place.

        Args:
            keys: the file's.
            config: the keys that nearly all have.
        """
        return {}

    def row_order(self, name: str, config: Mapping[str, Any]) -> Any | None:
        """In files with ``adjacent``, each rotary pair of q and k is two adjacent rows; models expect the two halves of
        a head.
        """
        if not self.adjacent:
            return None
        for part, heads in (("attn_q", "num_attention_heads"), ("attn_k", "num_key_value_heads")):
            if name.endswith((f".{self.inner[part]}.weight", f".{self.inner[part]}.bias")):
                return rotary_halves(config[heads], config["head_dim"])
        return None


def rope_scaling(keys: Metadata) -> dict[str, Any] | None:
    """The ``rope_scaling`` of ``config.json``, or None.

    The factor is ``rope.scaling.factor``, or in files of 2023 ``rope.scale_linear``; 0 and 1 mean no scaling. A factor
    without a type is linear.

    Raises:
        ConfigError: a value is not supported.
    """
    kind = keys.get("rope.scaling.type", "linear")
    factor = keys.get("rope.scaling.factor", keys.get("rope.scale_linear")) or 1.0
    attention = keys.get("rope.scaling.attn_factor") or 1.0
    if factor < 0:
        hint = "convert the model again, or give another one with --hf-overrides"
        raise keys.refuse("rope.scaling.factor", factor, "a positive number", hint)
    scaling: dict[str, Any] = {"rope_type": kind}
    if original := keys.get("rope.scaling.original_context_length"):
        scaling["original_max_position_embeddings"] = original
    if kind == "longrope":
        return scaling | {"attention_factor": attention}
    if kind == "yarn":
        return scaling | {"factor": factor} | _yarn(keys, factor, attention)
    if attention != 1.0:
        raise keys.refuse("rope.scaling.attn_factor", f"{attention} for RoPE scaling of the type {kind!r}", "1")
    return None if kind == "none" or factor == 1.0 else scaling | {"factor": factor}


def _yarn(keys: Metadata, factor: float, attention: float) -> dict[str, Any]:
    found = {name: value for name, key in YARN_KEYS.items() if (value := keys.get(key))}
    if "mscale_all_dim" in found:
        found["mscale"] = 1.0
    extrapolation = keys.get("rope.scaling.yarn_ext_factor", -1.0)
    if extrapolation >= 0:  # negative means none
        found["extrapolation_factor"] = extrapolation
    given = keys.get("rope.scaling.yarn_attn_factor")
    if given or attention != 1.0:
        ratio = _temperature(factor, 1.0) / _temperature(factor, found.get("mscale_all_dim", 0.0))
        found["attention_factor"] = (given or ratio) * attention
    return found


def _temperature(factor: float, scale: float) -> float:
    """YaRN's factor on cos and sin."""
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0
