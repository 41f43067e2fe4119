"""What the engine needs of a configuration; the rest is read by transformers' own class when the model is built."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import model_validator

from dovetail.api import AttentionFeature, DecoderConfig

TURNING = ("dynamic", "longrope")
"""Types of rotary embeddings whose code looks at the longest position of a whole batch."""


class TransformersConfig(DecoderConfig):
    """Keys that all decoders have. ``original`` is the file as it is."""

    rotary: ClassVar[bool] = False

    hidden_act: str = ""  # type: ignore[assignment]  # whatever transformers knows
    original: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _keep_file(cls, data: Any) -> Any:
        return {**data, "original": dict(data)} if isinstance(data, dict) else data

    @classmethod
    def prepare(cls, data: dict[str, Any]) -> dict[str, Any]:
        # Of which transformers' class knows the defaults, and which only the layers themselves use.
        data.setdefault("intermediate_size", 1)
        for key in ("rope_scaling", "rope_parameters"):
            if isinstance(rope := data.get(key), dict):
                for kind in (rope, *(value for value in rope.values() if isinstance(value, dict))):
                    if (name := kind.get("rope_type", kind.get("type"))) in TURNING:
                        raise ValueError(
                            f"the rotary embedding {name!r} is not supported: transformers computes it from the longest of the requests "
                            "that happen to be computed together"
                        )
        return super().prepare(data)

    def attention_features(self, layer: int) -> frozenset[AttentionFeature]:
        features = set(super().attention_features(layer))
        if self.original.get("attn_logit_softcapping"):
            features.add("softcap")
        return frozenset(features)
