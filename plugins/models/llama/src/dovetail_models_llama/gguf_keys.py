"""GGUF's metadata by key, and its RoPE scaling in all spellings.

Source: the GGUF specification in the ggml repository, and the keys that llama.cpp reads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dovetail.api import ConfigError

YARN_KEYS = {
    "beta_fast": "rope.scaling.yarn_beta_fast",
    "beta_slow": "rope.scaling.yarn_beta_slow",
    "mscale_all_dim": "rope.scaling.yarn_log_multiplier",
}


class Keys:
    """The metadata of one architecture."""

    def __init__(self, architecture: str, metadata: Mapping[str, Any]) -> None:
        self.architecture = architecture
        self._metadata = metadata

    def get(self, key: str, default: Any = None) -> Any:
        """A value. For a list with an entry for each layer, the value that all layers share.

        Raises:
            ConfigError: the layers differ.
        """
        value = self._metadata.get(f"{self.architecture}.{key}", default)
        if not isinstance(value, (list, tuple)):
            return value
        if len(set(value)) == 1:
            return value[0]
        raise ConfigError(
            f"the GGUF metadata says {self.architecture}.{key} = {value}, wanted one value for all layers",
            "this variant needs a model plugin of its own",
        )

    def require(self, key: str) -> Any:
        """A required value.

        Raises:
            ConfigError: it is not.
        """
        value = self.get(key)
        if value is None:
            raise ConfigError(
                f"the GGUF metadata lacks the key {self.architecture}.{key}",
                "convert the model again, or give its config.json with --hf-config-path",
            )
        return value

    def expect(self, key: str, wanted: Any, meaning: str, hint: str) -> None:
        """Require one value; it is the default if the key is missing.

        Raises:
            ConfigError: there is another value.
        """
        value = self.get(key, wanted)
        if value != wanted:
            raise ConfigError(f"the GGUF metadata says {self.architecture}.{key} = {value}, wanted {meaning}", hint)


def rope_scaling(keys: Keys) -> dict[str, Any] | None:
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
        raise ConfigError(
            f"the GGUF metadata says {keys.architecture}.rope.scaling.factor = {factor}, wanted a positive number",
            "convert the model again, or give another one with --hf-overrides",
        )
    scaling: dict[str, Any] = {"rope_type": kind}
    if original := keys.get("rope.scaling.original_context_length"):
        scaling["original_max_position_embeddings"] = original
    if kind == "longrope":
        return scaling | {"attention_factor": attention}
    if kind == "yarn":
        return scaling | {"factor": factor} | _yarn(keys, factor, attention)
    if attention != 1.0:
        raise ConfigError(
            f"the GGUF metadata says {keys.architecture}.rope.scaling.attn_factor = {attention} for RoPE scaling of the type "
            f"{kind!r}, wanted 1",
            "this variant needs a model plugin of its own",
        )
    return None if kind == "none" or factor == 1.0 else scaling | {"factor": factor}


def _yarn(keys: Keys, factor: float, attention: float) -> dict[str, Any]:
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
