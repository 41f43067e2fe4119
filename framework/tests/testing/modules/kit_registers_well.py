from dovetail.api import ModelCard, hookimpl


@hookimpl
def dovetail_register_models() -> list[ModelCard]:
    return [
        ModelCard(
            name="small",
            architectures=("SmallForCausalLM",),
            target="kit_models:Small",
            config="kit_config:SmallConfig",
        )
    ]
