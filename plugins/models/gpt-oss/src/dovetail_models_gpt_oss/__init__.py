"""gpt-oss: registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import ModelCard, NamingCard, decoder_cards, hookimpl


@hookimpl
def dovetail_register_models() -> list[ModelCard]:
    return decoder_cards(
        "gpt-oss",
        "gpt-oss: experts, attention sinks, and a sliding window in every second layer",
        "GptOss",
        target="dovetail_models_gpt_oss.model:GptOss",
        config="dovetail_models_gpt_oss.config:GptOssConfig",
        experts=True,
        attention=("sliding", "sinks"),
        naming={"gguf": NamingCard(architectures=("gpt-oss",), target="dovetail_models_gpt_oss.gguf:NAMING")},
    )
