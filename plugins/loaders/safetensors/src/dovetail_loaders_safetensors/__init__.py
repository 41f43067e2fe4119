"""Reads safetensors checkpoints."""

from __future__ import annotations

from dovetail.api import LoaderCard, hookimpl

RANK = 60
"""Higher than other loaders: if a folder has the weights in two formats, these load without conversion."""


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
