"""Phi-1 to Phi-4: registration only, nothing heavy."""

from __future__ import annotations

from typing import Any

from dovetail.api import ModelCard, NamingCard, decoder_cards, hookimpl

PACKAGE = "dovetail_models_phi"


@hookimpl
def dovetail_register_models() -> list[ModelCard]:
    return [
        *_cards("phi", "Phi-1, Phi-1.5 and Phi-2", "phi2:NAMING"),
        *_cards("phi3", "Phi-3, Phi-3.5 and Phi-4", "phi3:PHI3", attention=("sliding",)),
        *_cards("phimoe", "Phi-3.5-MoE", "phimoe:PHIMOE", experts=True, attention=("sliding",)),
    ]


def _cards(name: str, summary: str, gguf: str, **more: Any) -> list[ModelCard]:
    """
    Args:
        gguf: the architecture's name in GGUF, and that of its naming.
    """
    stem = name.capitalize()
    architecture, naming = gguf.split(":")
    return decoder_cards(
        name,
        summary,
        stem,
        target=f"{PACKAGE}.model:{stem}",
        config=f"{PACKAGE}.config:{stem}Config",
        naming={"gguf": NamingCard(architectures=(architecture,), target=f"{PACKAGE}.gguf:{naming}")},
        **more,
    )
