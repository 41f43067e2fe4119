"""Phi-1, 1.5 and 2: registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import ModelCard, NamingCard, hookimpl


@hookimpl
def dovetail_register_models() -> list[ModelCard]:
    return [
        ModelCard(
            name="phi",
            summary="Phi-1, Phi-1.5 and Phi-2",
            architectures=("PhiForCausalLM",),
            target="dovetail_models_phi.model:PhiForCausalLM",
            config="dovetail_models_phi.config:PhiConfig",
            naming={"gguf": NamingCard(architectures=("phi2",), target="dovetail_models_phi.gguf:NAMING")},
        )
    ]
