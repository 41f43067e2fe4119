"""Reads GGUF files: weights, configuration, tokenizer and chat template."""

from __future__ import annotations

from dovetail.api import LoaderCard, hookimpl


@hookimpl
def dovetail_register_loaders() -> list[LoaderCard]:
    return [
        LoaderCard(
            name="gguf",
            summary="GGUF files, whole or split, with the tokenizer and chat template inside them",
            recognises=("*.gguf",),
            signatures=("GGUF",),
            inspect="dovetail_loaders_gguf.inspection:inspect",
            target="dovetail_loaders_gguf.loading:load",
        )
    ]
