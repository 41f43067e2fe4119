"""Llama and its relatives: registration only, nothing heavy."""

from __future__ import annotations

from typing import Any

from dovetail.api import ModelCard, NamingCard, decoder_cards, hookimpl

PACKAGE = "dovetail_models_llama"


@hookimpl
def dovetail_register_models() -> list[ModelCard]:
    llama, *others = _cards("Llama", "LLaMA 1 to 3.x, Yi, SmolLM and others of the same block")
    return [
        llama.model_copy(update={"architectures": (*llama.architectures, "LLaMAForCausalLM")}),
        *others,
        *_cards(
            "Mistral",
            "Mistral, with its sliding window; e5-mistral",
            ("mistral", "llama"),
            mistral=NamingCard(architectures=("mistral",), target=f"{PACKAGE}.mistral:NAMING"),
            attention=("sliding",),
        ),
        *_cards("Granite", "Granite, with its four multipliers", forms=("ForCausalLM", "Model")),
        *_cards(
            "SmolLM3", "SmolLM 3: layers without rotary embeddings between those with them", attention=("sliding",)
        ),
    ]


def _cards(
    stem: str, summary: str, gguf: tuple[str, ...] = (), mistral: NamingCard | None = None, **more: Any
) -> list[ModelCard]:
    """
    Args:
        gguf: the architecture's names in GGUF, where they are others than its own.
        mistral: of Mistral's own files.
    """
    name = stem.lower()
    namings = {"gguf": NamingCard(architectures=gguf or (name,), target=f"{PACKAGE}.gguf:NAMING")}
    return decoder_cards(
        name,
        summary,
        stem,
        target=f"{PACKAGE}.model:Llama",
        config=f"{PACKAGE}.config:{stem}Config",
        naming=namings | ({} if mistral is None else {"mistral": mistral}),
        **more,
    )
