"""Tests that a model's layers know where tokens are.

Letters: T tokens, H query heads, V channels of a value.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from dovetail.api import ModelCard
from dovetail.nn import Attention, AttentionBackend, AttentionSpec, Context, KVIndex, PoolingModel, Step
from dovetail.nn.attention import group_layers
from dovetail.testing.comparison import label, relative_error
from dovetail.testing.harness import (
    BlockTables,
    build_model,
    one_thread,
    parse_config,
    run_tokens,
)

Positions = Literal["all", "some", "none"]
TOKENS = 8
"""Even, so that every token's position changes if they are counted from the other end."""
LENGTH = 21
LEAST = 1e-4
"""Smaller relative differences are rounding."""


class _Nothing(AttentionBackend):
    """Attends to nothing, so that what a layer is given depends on no other layer's attention."""

    def allocate(self, spec: AttentionSpec, blocks: int) -> None:
        return None

    def prepare(self, step: Step, index: KVIndex, specs: frozenset[AttentionSpec]) -> None:
        return None

    def forward(
        self,
        q: Tensor,
        k: Tensor | None,
        v: Tensor | None,
        cache: Any,
        step: Step,
        index: KVIndex,
        spec: AttentionSpec,
        sinks: Tensor | None = None,
    ) -> Tensor:
        return q.new_zeros(q.shape[0], q.shape[1], spec.values)


def check_positions(
    card: ModelCard, config: Mapping[str, Any], positions: Positions, tensors: Mapping[str, Tensor]
) -> None:
    """Check that queries and keys depend on their token's position in all layers, in some, or in none, where those with
    ALiBi count as if they did; and, unless in none, that the order of earlier tokens changes a later one's result.

    Args:
        tensors: a checkpoint.

    Raises:
        AssertionError: names the layers.
    """
    who = label(card)
    model, ctx = build_model(card, config, tensors, max_tokens=LENGTH, attention=_Nothing)
    if not ctx.attention_layers:
        return
    counted = range(TOKENS)
    forward, backward = (_queries_and_keys(model, ctx, list(order)) for order in (counted, reversed(counted)))
    knowing: dict[str, list[int]] = {"queries": [], "keys": []}
    for layer, given in forward.items():
        distances = ctx.attention_layers[layer].spec.alibi_slopes is not None
        for name, here, there in zip(knowing, given, backward[layer], strict=True):
            # A layer that reads another's cache has no keys of its own. With ALiBi it is the backend that knows.
            if distances or here is None or there is None or relative_error(there.flatten(), here.flatten()) > LEAST:
                knowing[name].append(layer)
    for name, layers in knowing.items():
        lacking = [layer for layer in forward if layer not in layers]
        found = f"{name} of the attention layers {lacking or 'none'} of {len(forward)} do not depend on positions"
        expected = {"all": not lacking, "some": bool(lacking and layers), "none": not layers}
        assert expected[positions], (
            f"{who}: {found}, wanted {positions} to depend on them: pass rope to the layers, or say in check_model which "
            "layers know positions (positions='all', 'some' or 'none')"
        )
    assert knowing["queries"] == knowing["keys"] or positions == "none", (
        f"{who}: queries depend on positions in the attention layers {knowing['queries']}, keys in {knowing['keys']}"
    )
    if positions != "none":
        _check_order(card, config, tensors)


@one_thread()
def _queries_and_keys(
    model: PoolingModel, ctx: Context, positions: list[int]
) -> dict[int, tuple[Tensor, Tensor | None]]:
    """What each attention layer is given for tokens at these positions."""
    found: dict[int, tuple[Tensor, Tensor | None]] = {}

    def record(layer: int, module: Attention, arguments: tuple[Any, ...]) -> None:
        q, k, _, _, *rotation = arguments
        if rotation:  # which is for the backend to do
            q, k = rotation[0](q).split((module.spec.num_heads, module.spec.num_kv_heads), 1)
        found[layer] = q, k

    specs = [group.spec for group in group_layers(ctx.attention_layers)]
    step = BlockTables([TOKENS], ctx.backend.block_size).step({0: [1] * TOKENS}, ctx.device, specs)
    with ExitStack() as stack, torch.inference_mode():
        for number, layer in enumerate(ctx.attention_layers):
            stack.callback(layer.register_forward_pre_hook(partial(record, number)).remove)
        model(replace(step, positions=torch.tensor(positions, device=ctx.device)))
    assert found, "its attention layers are not called"
    return found


def _check_order(card: ModelCard, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    model, ctx = build_model(card, config, tensors, max_tokens=LENGTH)
    if not any(map(_sees_others, (layer.spec for layer in ctx.attention_layers))):
        return
    vocabulary = parse_config(card, config).vocab_size
    early = torch.randint(vocabulary, (LENGTH - 1,), generator=torch.Generator().manual_seed(0)).tolist()
    last = [run_tokens(model, ctx, [*order, 0])[-1] for order in (early, early[::-1])]
    assert relative_error(last[1], last[0]) > LEAST, (
        f"{label(card)}: the last token of a prompt gives the same result if the tokens before it are in another order"
    )


def _sees_others(spec: AttentionSpec) -> bool:
    """Whether the last of the tokens sees any other."""
    return (spec.window is None or spec.window > 1) and (spec.chunk is None or (LENGTH - 1) % spec.chunk > 0)
