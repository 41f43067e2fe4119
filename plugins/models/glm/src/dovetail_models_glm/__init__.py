"""GLM-4 and GLM-4.5: registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import ModelCard, NamingCard, decoder_cards, hookimpl

MODEL, CONFIG = "dovetail_models_glm.model", "dovetail_models_glm.config"


@hookimpl
def dovetail_register_models() -> list[ModelCard]:
    config = f"{CONFIG}:GlmConfig"
    return [
        *decoder_cards("glm", "GLM-4 of 2024 and GLM-Edge", "Glm", target=f"{MODEL}:Glm", config=config),
        *decoder_cards(
            "glm4",
            "GLM-4-0414 and GLM-Z1",
            "Glm4",
            target=f"{MODEL}:Glm4",
            config=config,
            naming=_naming("glm4"),
        ),
        *decoder_cards(
            "glm4-moe",
            "GLM-4.5, 4.6 and 4.7: experts",
            "Glm4Moe",
            target=f"{MODEL}:Glm4Moe",
            config=f"{CONFIG}:GlmMoeConfig",
            experts=True,
            forms=("ForCausalLM", "Model"),
            naming=_naming("glm4moe"),
        ),
    ]


def _naming(architecture: str) -> dict[str, NamingCard]:
    target = f"dovetail_models_glm.gguf:{architecture.upper()}"
    return {"gguf": NamingCard(architectures=(architecture,), target=target)}
