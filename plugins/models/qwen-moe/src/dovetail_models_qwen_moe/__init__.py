"""Qwen 2 and 3 with experts: registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import ModelCard, NamingCard, decoder_cards, hookimpl


@hookimpl
def dovetail_register_models() -> list[ModelCard]:
    return [*_cards("2", "Qwen 1.5 and 2 with experts"), *_cards("3", "Qwen 3 with experts")]


def _cards(generation: str, summary: str) -> list[ModelCard]:
    target = f"dovetail_models_qwen_moe.gguf:QWEN{generation}_NAMING"
    return decoder_cards(
        f"qwen{generation}-moe",
        summary,
        f"Qwen{generation}Moe",
        target="dovetail_models_qwen_moe.model:QwenMoe",
        config=f"dovetail_models_qwen_moe.config:Qwen{generation}MoeConfig",
        experts=True,
        attention=("sliding",),
        naming={"gguf": NamingCard(architectures=(f"qwen{generation}moe",), target=target)},
    )
