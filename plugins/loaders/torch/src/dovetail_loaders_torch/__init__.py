"""Reads what ``torch.save`` wrote, and runs no code that a file has."""

from __future__ import annotations

from dovetail.api import LoaderCard, hookimpl

RANK = 40
"""Lower than that of formats which are made to be mapped: a folder may have the weights in both."""


@hookimpl
def dovetail_register_loaders() -> list[LoaderCard]:
    return [
        LoaderCard(
            name="torch",
            summary="files of torch.save (.bin, .pt, .pth), one or many with an index",
            recognises=("*.bin", "*.pt", "*.pth"),
            inspect="dovetail_loaders_torch.inspection:inspect",
            target="dovetail_loaders_torch.loading:load",
            rank=RANK,
        )
    ]
