"""Any causal language model that transformers has and no other package names: registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import ModelCard, hookimpl


@hookimpl
def dovetail_register_models() -> list[ModelCard]:
    return [
        ModelCard(
            name="transformers",
            summary="any causal language model of transformers, by its own code",
            architectures=("*ForCausalLM", "*LMHeadModel"),
            accepts="dovetail_models_transformers.names:unsupported_reason",
            target="dovetail_models_transformers.model:TransformersForCausalLM",
            config="dovetail_models_transformers.config:TransformersConfig",
            attention=("sliding", "softcap"),
            layer_kinds=("linear", "head", "embedding", "experts"),
            rank=0,
        )
    ]
