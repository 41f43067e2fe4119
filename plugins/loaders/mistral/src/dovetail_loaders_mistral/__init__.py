"""Reads models in Mistral's own files."""

from __future__ import annotations

from dovetail.api import LoaderCard, hookimpl

RANK = 70
"""Higher than loaders of all files of this kind, whose tensors have other names."""


@hookimpl
def dovetail_register_loaders() -> list[LoaderCard]:
    return [
        LoaderCard(
            name="mistral",
            summary="Mistral's own files: params.json, consolidated safetensors, tekken.json or tokenizer.model.v*",
            recognises=("consolidated*.safetensors",),
            accepts="dovetail_loaders_mistral.inspection:accepts",
            inspect="dovetail_loaders_mistral.inspection:inspect",
            target="dovetail_loaders_mistral.loading:load",
            rank=RANK,
        )
    ]
