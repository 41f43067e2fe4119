"""GPT-NeoX: registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import ModelCard, NamingCard, hookimpl


@hookimpl
def dovetail_register_models() -> list[ModelCard]:
    return [
        ModelCard(
            name="gpt-neox",
            summary="GPT-NeoX, Pythia, Dolly 2, RedPajama-INCITE",
            architectures=("GPTNeoXForCausalLM",),
            target="dovetail_models_gpt_neox.model:GPTNeoXForCausalLM",
            config="dovetail_models_gpt_neox.config:GPTNeoXConfig",
            naming={"gguf": NamingCard(architectures=("gptneox",), target="dovetail_models_gpt_neox.gguf:NAMING")},
        ),
        ModelCard(
            name="gpt-neox-embedding",
            summary="the same without a head",
            architectures=("GPTNeoXModel",),
            target="dovetail_models_gpt_neox.model:GPTNeoXModel",
            config="dovetail_models_gpt_neox.config:GPTNeoXConfig",
            tasks=("embed",),
            layer_kinds=("linear", "embedding"),
        ),
        ModelCard(
            name="gpt-neox-classifier",
            summary="the same with a head for the labels of a text",
            architectures=("GPTNeoXForSequenceClassification",),
            target="dovetail_models_gpt_neox.model:GPTNeoXForSequenceClassification",
            config="dovetail_models_gpt_neox.config:GPTNeoXConfig",
            tasks=("classify",),
            layer_kinds=("linear", "embedding"),
        ),
    ]
