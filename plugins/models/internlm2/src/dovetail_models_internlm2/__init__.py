"""InternLM2: registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import ModelCard, NamingCard, decoder_cards, hookimpl


@hookimpl
def dovetail_register_models() -> list[ModelCard]:
    return decoder_cards(
        "internlm2",
        "InternLM2 and InternLM2.5",
        "InternLM2",
        target="dovetail_models_internlm2.model:InternLM2",
        config="dovetail_models_internlm2.config:InternLM2Config",
        naming={"gguf": NamingCard(architectures=("internlm2",), target="dovetail_models_internlm2.gguf:NAMING")},
    )
