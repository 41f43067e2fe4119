from dovetail.api import AttentionCard, LoaderCard, ModelCard, PlatformCard, QuantFormatCard, hookimpl


@hookimpl
def dovetail_register_models() -> list[ModelCard]:
    return [
        ModelCard(name="heavy", architectures=("A",), target="kit_models:Small", config="kit_models:SmallConfig"),
        ModelCard(name="no-config", architectures=("B",), target="kit_models:Small", config="kit_config:Missing"),
        ModelCard(name="no-head", architectures=("D",), target="kit_models:Vectors", config="kit_models:SmallConfig"),
        ModelCard(name="not-config", architectures=("C",), target="kit_models:Small", config="kit_quant:RowWeight"),
    ]


@hookimpl
def dovetail_register_attention() -> list[AttentionCard]:
    return [AttentionCard(name="not-attention", target="kit_models:Small", devices=("cpu",), dtypes=("float32",))]


@hookimpl
def dovetail_register_loaders() -> list[LoaderCard]:
    return [
        LoaderCard(name="not-callable", recognises=("*.npz",), inspect="kit_config:TINY", target="kit_loader:load"),
    ]


@hookimpl
def dovetail_register_platforms() -> list[PlatformCard]:
    return [PlatformCard(name="abstract", device="cpu", target="dovetail.nn:Platform", probe="no_such_module:probe")]


@hookimpl
def dovetail_register_quantization() -> list[QuantFormatCard]:
    return [
        QuantFormatCard(name="not-config", types={"int8": ()}, target="kit_quant:RowFormat", config="kit_config:TINY")
    ]
