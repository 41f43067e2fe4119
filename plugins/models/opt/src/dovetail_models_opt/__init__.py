"""OPT: registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import ModelCard, decoder_cards, hookimpl


@hookimpl
def dovetail_register_models() -> list[ModelCard]:
    return decoder_cards(
        "opt",
        "OPT and Galactica",
        "OPT",
        target="dovetail_models_opt.model:OPT",
        config="dovetail_models_opt.config:OPTConfig",
    )
