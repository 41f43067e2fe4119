"""DeepSeek-V2 and V3: registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import ModelCard, hookimpl

SUMMARIES = {"V2": "DeepSeek-V2, V2.5, V2-Lite and Coder-V2", "V3": "DeepSeek-V3 and R1"}


def make_cards(version: str) -> list[ModelCard]:
    name, config = f"deepseek-{version.lower()}", f"dovetail_models_deepseek.config:Deepseek{version}Config"
    return [
        ModelCard(
            name=name,
            summary=f"{SUMMARIES[version]}: latent attention and experts",
            architectures=(f"Deepseek{version}ForCausalLM",),
            target="dovetail_models_deepseek.model:DeepseekForCausalLM",
            config=config,
            attention=("latent",),
            layer_kinds=("linear", "head", "embedding", "experts"),
        ),
        ModelCard(
            name=f"{name}-embedding",
            summary="the same without a head",
            architectures=(f"Deepseek{version}Model",),
            target="dovetail_models_deepseek.model:DeepseekModel",
            config=config,
            tasks=("embed",),
            attention=("latent",),
            layer_kinds=("linear", "embedding", "experts"),
        ),
        ModelCard(
            name=f"{name}-classifier",
            summary="the same with a head for the labels of a text",
            architectures=(f"Deepseek{version}ForSequenceClassification",),
            target="dovetail_models_deepseek.model:DeepseekForSequenceClassification",
            config=config,
            tasks=("classify",),
            attention=("latent",),
            layer_kinds=("linear", "embedding", "experts"),
        ),
    ]


@hookimpl
def dovetail_register_models() -> list[ModelCard]:
    return [*make_cards("V2"), *make_cards("V3")]
