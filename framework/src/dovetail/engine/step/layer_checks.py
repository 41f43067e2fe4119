"""Compares the attention layers of a model with what the backend was chosen for."""

from __future__ import annotations

from torch import nn

from dovetail.api.config import AttentionRequirement
from dovetail.api.errors import PluginError
from dovetail.kernel.plan import Plan
from dovetail.nn.attention import AttentionSpec
from dovetail.nn.context import Context


def check_attention_layers(model: nn.Module, ctx: Context, plan: Plan) -> None:
    """Check that no layer asks the attention backend for more than the configuration said. The backend was chosen by
    that, so it may not do the rest, and give other tokens without a word.

    Raises:
        PluginError: names the model's package, the layer and what it asks for.
    """
    names = {id(module): name for name, module in model.named_modules()}
    for number, layer in enumerate(ctx.attention_layers):
        fault = _explain_excess(layer.spec, plan.attention_requirements)
        if fault is not None:
            part, backend = plan.model_part.part, plan.attention.part
            name = names.get(id(layer)) or f"number {number}"
            raise PluginError(
                f"the model {part.name} of {part.distribution} {part.version}: its attention layer {name} asks for {fault}, "
                f"which attention_requirements() does not say, so the attention backend {backend.name} was not chosen for it",
                "update the plugin that offers the model",
            )


def _explain_excess(spec: AttentionSpec, planned: tuple[AttentionRequirement, ...]) -> str | None:
    """What a layer asks for beyond every requirement, or None."""
    sized = [r for r in planned if (r.head_dim, r.values) == (spec.head_dim, spec.values)]
    if not sized:
        values = f" with values of {spec.values}" if spec.values != spec.head_dim else ""
        return f"heads of {spec.head_dim}{values}"
    # A layer may ask for less, but not for what only other layers were to ask for; and to be causal is not less.
    alike = [r for r in sized if ("bidirectional" in r.features) != spec.causal]
    if not alike:
        return f"{'causal' if spec.causal else 'bidirectional'} attention"
    missing = min((spec.features - r.features for r in alike), key=len)
    return f"{', '.join(sorted(missing))} attention" if missing else None
