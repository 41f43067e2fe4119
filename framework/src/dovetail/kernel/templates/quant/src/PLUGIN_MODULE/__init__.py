"""PLUGIN_SUMMARY: registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import QuantFormatCard, hookimpl


@hookimpl
def dovetail_register_quantization() -> list[QuantFormatCard]:
    return [
        QuantFormatCard(
            name="PLUGIN_NAME",
            summary="PLUGIN_SUMMARY",
            target="PLUGIN_MODULE.format:PLUGIN_CLASSFormat",
            methods=("PLUGIN_NAME",),
            # The stored type of the first component, and the packings that kernels written for others can take it in.
            types={"int8": ("affine",)},
            kinds=("linear", "head"),
        )
    ]
