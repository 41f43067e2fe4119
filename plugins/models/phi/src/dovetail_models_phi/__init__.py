"""Phi-1 to Phi-4: registration only, nothing heavy."""

from __future__ import annotations

from typing import Any

from dovetail.api import ModelCard, NamingCard, hookimpl

PACKAGE = "dovetail_models_phi"


def _cards(
    family: str, summary: str, gguf: tuple[str, str], layer_kinds: tuple[Any, ...] = (), **more: Any
) -> list[ModelCard]:
    """A family's cards: with a head for text, without one, and with one for labels."""
    prefix, architecture, naming = family.capitalize(), *gguf

    def card(suffix: str, what: str, head: str, **own: Any) -> ModelCard:
        return ModelCard(
            name=f"{family}{suffix}",
            summary=what,
            architectures=(f"{prefix}{head}",),
            target=f"{PACKAGE}.model:{prefix}{head}",
            config=f"{PACKAGE}.config:{prefix}Config",
            **more,
            **own,
        )

    kinds = ("linear", "embedding", *layer_kinds)
    naming_card = NamingCard(architectures=(architecture,), target=f"{PACKAGE}.gguf:{naming}")
    return [
        card("", summary, "ForCausalLM", layer_kinds=(*kinds, "head"), naming={"gguf": naming_card}),
        card("-embedding", f"{summary}: without a head", "Model", tasks=("embed",), layer_kinds=kinds),
        card(
            "-classifier",
            f"{summary}: with a head for the labels of a text",
            "ForSequenceClassification",
            tasks=("classify",),
            layer_kinds=kinds,
        ),
    ]


@hookimpl
def dovetail_register_models() -> list[ModelCard]:
    return [
        *_cards("phi", "Phi-1, Phi-1.5 and Phi-2", ("phi2", "NAMING")),
        *_cards("phi3", "Phi-3, Phi-3.5 and Phi-4", ("phi3", "PHI3"), attention=("sliding",)),
        *_cards("phimoe", "Phi-3.5-MoE", ("phimoe", "PHIMOE"), ("experts",), attention=("sliding",)),
    ]
