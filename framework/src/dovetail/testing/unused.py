"""Tests that a model uses every layer and every tensor that it asks a checkpoint for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from dovetail.api import ModelCard
from dovetail.api.text import join_names
from dovetail.nn import CausalLM, Context, HeadSections, HeadStack, PoolingModel
from dovetail.nn.layers import WeightLayer
from dovetail.testing.comparison import label
from dovetail.testing.harness import build_model, one_thread, parse_config, random_checkpoint, run_tokens

LENGTH = 12


def check_all_is_used(
    card: ModelCard, config: Mapping[str, Any], more: Callable[[PoolingModel, Context], Tensor] | None = None
) -> None:
    """Check that the outputs depend on what each layer computes, and on each plain tensor: change one after the other,
    and compare bit by bit.

    Args:
        more: of the model's outputs, besides those for a prompt of text.

    Raises:
        AssertionError: names the layers and tensors.
    """
    tensors = random_checkpoint(card, config, optional=True)
    model, ctx = build_model(card, config, tensors, max_tokens=LENGTH)
    vocabulary = parse_config(card, config).vocab_size
    prompt = torch.randint(vocabulary, (LENGTH,), generator=torch.Generator().manual_seed(0)).tolist()
    labelled = not isinstance(model, CausalLM) and bool({"classify", "score"} & set(card.tasks))

    def run() -> tuple[Tensor, ...]:
        hidden = run_tokens(model, ctx, prompt)
        found = (hidden, _pooled_logits(model, ctx, hidden)) if labelled else (hidden,)
        return found if more is None else (*found, more(model, ctx))

    before = run()

    def matters() -> bool:
        return any(not torch.equal(old, new) for old, new in zip(before, run(), strict=True))

    unused = []
    for layer in dict.fromkeys(ctx.layers.values()):
        if not _changed_layer(layer, matters):
            unused += list(layer.parts) if layer.kind != "experts" else list(layer.parts)[:1]
    for name, slot in ctx.vectors.items():
        value = tensors[name].to(slot.dtype or ctx.dtype)
        slot.assign(_changed(value))
        if not matters():
            unused.append(name)
        slot.assign(value)
    assert not unused, (
        f"{label(card)}: its outputs do not depend on {join_names(unused)}, which checkpoints must have: use in forward what "
        "the context made, or do not make it"
    )


def _changed_layer(layer: WeightLayer, matters: Callable[[], bool]) -> bool:
    """Whether it matters what a layer computes."""
    if isinstance(layer, HeadSections):  # which the model multiplies by itself
        sections, layer.sections = layer.sections, tuple(map(_changed, layer.sections))
        found = matters()
        layer.sections = sections
        return found
    if isinstance(layer, HeadStack):
        matrices, layer.matrices = layer.matrices, _changed(layer.matrices)
        found = matters()
        layer.matrices = matrices
        return found
    hook = layer.register_forward_hook(lambda module, arguments, out: _changed(out))
    found = matters()
    hook.remove()
    return found


def _changed(value: Tensor) -> Tensor:
    """Other numbers everywhere, by differences that no norm removes."""
    return value + torch.arange(value.numel(), device=value.device).sin().to(value.dtype).view_as(value)


@one_thread()
def _pooled_logits(model: PoolingModel, ctx: Context, hidden: Tensor) -> Tensor:
    with torch.inference_mode():
        return model.pooled_logits(hidden.to(ctx.dtype))
