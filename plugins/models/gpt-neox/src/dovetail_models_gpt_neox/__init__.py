"""GPT-NeoX: registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import ModelCard, NamingCard, decoder_cards, hookimpl


@hookimpl
def dovetail_register_models() -> list[ModelCard]:
    return decoder_cards(
        "gpt-neox",
        "GPT-NeoX, Pythia, Dolly 2, RedPajama-INCITE",
        "GPTNeoX",
        target="dovetail_models_gpt_neox.model:GPTNeoX",
        config="dovetail_models_gpt_neox.config:GPTNeoXConfig",
        naming={"gguf": NamingCard(architectures=("gptneox",), target="dovetail_models_gpt_neox.gguf:NAMING")},
    )
