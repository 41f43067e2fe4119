"""Random weights in place of a checkpoint."""

from __future__ import annotations

from dovetail.api import REFERENCE, LoaderCard, hookimpl


@hookimpl
def dovetail_register_loaders() -> list[LoaderCard]:
    return [
        LoaderCard(
            name="dummy",
            summary="random weights for any config.json, to measure speed without a checkpoint",
            recognises=(),
            inspect="dovetail_loaders_dummy.inspection:inspect",
            target="dovetail_loaders_dummy.loading:load",
            rank=REFERENCE,
        )
    ]
