"""MPT: registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import ModelCard, NamingCard, decoder_cards, hookimpl


@hookimpl
def dovetail_register_models() -> list[ModelCard]:
    first, *others = decoder_cards(
        "mpt",
        "MPT 7B and 30B",
        "Mpt",
        target="dovetail_models_mpt.model:Mpt",
        config="dovetail_models_mpt.config:MptConfig",
        attention=("alibi",),
        naming={"gguf": NamingCard(architectures=("mpt",), target="dovetail_models_mpt.gguf:NAMING")},
    )
    return [first.model_copy(update={"architectures": ("MptForCausalLM", "MPTForCausalLM")}), *others]
