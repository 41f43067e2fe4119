"""The configurations of OLMo 2 and 3, read from ``config.json``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from dovetail.api import WINDOW_KEYS, WINDOW_RULES, DecoderConfig, Epsilon, every_nth_full, quote_foreign

FULL, SLIDING = "full_attention", "sliding_attention"
THETA = 500000.0


class OlmoConfig(DecoderConfig):
    """Keys that Olmo2Config and Olmo3Config have in common in transformers, with their defaults."""

    partial_rotary: ClassVar[bool] = False

    rms_norm_eps: Epsilon = 1e-5
    attention_bias: bool = False


class Olmo2Config(OlmoConfig):
    """Keys of Olmo2Config in transformers, with their defaults. No layer has a window."""

    unread: ClassVar[tuple[str, ...]] = WINDOW_KEYS


class Olmo3Config(OlmoConfig):
    """Keys of Olmo3Config in transformers, with their defaults. ``rope_scaling`` is of layers without a window."""

    unread: ClassVar[tuple[str, ...]] = WINDOW_RULES
    if_missing: ClassVar[dict[str, Any]] = {"sliding_window": 4096}
    rope_by_type: ClassVar[bool] = True
    rope_defaults: ClassVar[dict[str, Any]] = {FULL: {"rope_theta": THETA}, SLIDING: {"rope_theta": THETA}}

    @classmethod
    def prepare(cls, data: dict[str, Any]) -> dict[str, Any]:
        theta = data.get("rope_theta")
        if theta not in (None, THETA):
            raise ValueError(
                f"rope_theta is {quote_foreign(theta)}, and does not say of which layers: wanted rope_parameters with "
                f"{FULL} and {SLIDING}"
            )
        return super().prepare(data)

    @classmethod
    def usual_layer_types(cls, data: Mapping[str, Any], layers: int) -> Iterable[str]:
        return every_nth_full(4, layers)
