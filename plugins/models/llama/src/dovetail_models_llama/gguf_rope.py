"""GGUF's RoPE scaling in all spellings.

Source: the GGUF specification in the ggml repository, and the keys that llama.cpp reads.
"""

from __future__ import annotations

import math
from typing import Any

from dovetail.api import Metadata

YARN_KEYS = {
    "beta_fast": "rope.scaling.yarn_beta_fast",
    "beta_slow": "rope.scaling.yarn_beta_slow",
    "mscale_all_dim": "rope.scaling.yarn_log_multiplier",
}


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
