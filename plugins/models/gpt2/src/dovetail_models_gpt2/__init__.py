"""GPT-2: registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import ModelCard, NamingCard, hookimpl


@hookimpl
def dovetail_register_models() -> list[ModelCard]:
    return [
        ModelCard(
            name="gpt2",
            summary="GPT-2, DistilGPT-2 and others of the same block",
            architectures=("GPT2LMHeadModel",),
            target="dovetail_models_gpt2.model:GPT2LMHeadModel",
            config="dovetail_models_gpt2.config:GPT2Config",
            naming={"gguf": NamingCard(architectures=("gpt2",), target="dovetail_models_gpt2.gguf:NAMING")},
        )
    ]
