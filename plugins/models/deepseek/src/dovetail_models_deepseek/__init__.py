"""DeepSeek-V2 and V3: registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import ModelCard, NamingCard, decoder_cards, hookimpl


@hookimpl
def dovetail_register_models() -> list[ModelCard]:
    return [*_cards("V2", "DeepSeek-V2, V2.5, V2-Lite and Coder-V2"), *_cards("V3", "DeepSeek-V3 and R1")]


def _cards(version: str, summary: str) -> list[ModelCard]:
    return decoder_cards(
        f"deepseek-{version.lower()}",
        f"{summary}: latent attention and experts",
        f"Deepseek{version}",
        target="dovetail_models_deepseek.model:Deepseek",
        config=f"dovetail_models_deepseek.config:Deepseek{version}Config",
        experts=True,
        attention=("latent",),
        naming={
            "gguf": NamingCard(architectures=("deepseek2",), target=f"dovetail_models_deepseek.gguf:{version}_NAMING")
        },
    )
