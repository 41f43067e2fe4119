"""OPT: registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import ModelCard, hookimpl


@hookimpl
def dovetail_register_models() -> list[ModelCard]:
    return [
        ModelCard(
            name="opt",
            summary="OPT and Galactica",
            architectures=("OPTForCausalLM",),
            target="dovetail_models_opt.model:OPTForCausalLM",
            config="dovetail_models_opt.config:OPTConfig",
        ),
        ModelCard(
            name="opt-embedding",
            summary="the same without a head",
            architectures=("OPTModel",),
            target="dovetail_models_opt.model:OPTModel",
            config="dovetail_models_opt.config:OPTConfig",
            tasks=("embed",),
            layer_kinds=("linear", "embedding"),
        ),
        ModelCard(
            name="opt-classifier",
            summary="the same with a head for the labels of a text",
            architectures=("OPTForSequenceClassification",),
            target="dovetail_models_opt.model:OPTForSequenceClassification",
            config="dovetail_models_opt.config:OPTConfig",
            tasks=("classify",),
            layer_kinds=("linear", "embedding"),
        ),
    ]
