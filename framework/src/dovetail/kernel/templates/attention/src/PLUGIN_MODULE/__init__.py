"""PLUGIN_SUMMARY: registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import REFERENCE, AttentionCard, hookimpl


@hookimpl
def dovetail_register_attention() -> list[AttentionCard]:
    return [
        AttentionCard(
            name="PLUGIN_NAME",
            summary="PLUGIN_SUMMARY",
            target="PLUGIN_MODULE.attention:PLUGIN_CLASSAttention",
            devices=("*",),
            dtypes=("float32", "bfloat16", "float16"),
            # What layers may ask for beside causal attention over everything; dovetail.nn.AttentionSpec explains each.
            # A model that needs one that is not here gets another backend.
            features=("sliding", "shared_cache"),
            # Raise it to PORTABLE or TUNED once it is faster than what others bring: `auto` takes the highest.
            rank=REFERENCE,
        )
    ]
