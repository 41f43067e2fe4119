"""Reads safetensors checkpoints."""

from __future__ import annotations

from dovetail.api import LoaderCard, hookimpl

RANK = 60
"""Above the other loaders: where a folder holds the same weights twice, these load without conversion."""


@hookimpl
def dovetail_register_loaders() -> list[LoaderCard]:
    return [
        LoaderCard(
            name="safetensors",
            summary="safetensors files, one or many with an index",
            recognises=("*.safetensors",),
            inspect="dovetail_loaders_safetensors.inspection:inspect",
            target="dovetail_loaders_safetensors.loading:load",
            rank=RANK,
        )
    ]
