"""Baichuan: registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import ModelCard, NamingCard, hookimpl


@hookimpl
def dovetail_register_models() -> list[ModelCard]:
    return [
        ModelCard(
            name="baichuan",
            summary="Baichuan and Baichuan 2",
            architectures=("BaichuanForCausalLM", "BaiChuanForCausalLM"),
            target="dovetail_models_baichuan.model:BaichuanForCausalLM",
            config="dovetail_models_baichuan.config:BaichuanConfig",
            attention=("alibi",),
            naming={"gguf": NamingCard(architectures=("baichuan",), target="dovetail_models_baichuan.gguf:NAMING")},
        )
    ]
