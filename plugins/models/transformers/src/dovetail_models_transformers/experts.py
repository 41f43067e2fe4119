"""The stacks of experts that transformers 5 has in memory, and the names that checkpoints have for them."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from typing import Any

from torch import Tensor, nn

from dovetail.nn import Experts

EXPERT = re.compile(r"(.+)\.(\d+)\.(\w+)\.(\w+)")
"""Prefix, number, matrix and component, such as ``model.layers.0.mlp.experts.3.up_proj.weight``."""
PARTS = ("gate_proj", "up_proj", "down_proj")


def is_stack(module: nn.Module) -> bool:
    """Whether a module is a stack of gated experts as the engine has them: gate and up one after the other, no biases."""
    shapes = {name: value.dim() for name, value in module.named_parameters(recurse=False)}
    return shapes == {"gate_up_proj": 3, "down_proj": 3} and not getattr(module, "is_transposed", False)


def expert_names(name: str, module: Any) -> list[tuple[str, str, str]]:
    """Names of gate, up and down of each expert."""
    return [
        (f"{name}.{e}.gate_proj", f"{name}.{e}.up_proj", f"{name}.{e}.down_proj") for e in range(len(module.down_proj))
    ]


def read_expert_name(name: str, transforms: Sequence[Any], stacks: Collection[str]) -> str | None:
    """The engine's name of one expert's tensor, from a checkpoint's, or None for any other.

    Args:
        transforms: transformers' table of the model.
        stacks: names of the modules that are stacks.
    """
    match = EXPERT.fullmatch(name)
    if match is None:
        return None
    # The table is of weights; scales and the like of quantized ones have the same names before their last part.
    renamed = f"{match[1]}.{match[2]}.{match[3]}.weight"
    for transform in transforms:
        renamed, pattern = transform.rename_source_key(renamed)
        if pattern is None:
            continue
        stack, _, target = renamed.rpartition(".")
        if stack in stacks and target in ("gate_up_proj", "down_proj"):
            index = list(transform.source_patterns).index(pattern)
            part = "down_proj" if target == "down_proj" else PARTS[index]
            return f"{stack}.{match[2]}.{part}.{match[4]}"
    return None


def gated(x: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
    """``activation(gate) * up`` of both side by side."""
    gate, up = x.chunk(2, -1)
    return activation(gate) * up


class StackedExperts(nn.Module):
    """The engine's experts, called as transformers calls its own."""

    def __init__(self, layer: Experts, count: int) -> None:
        super().__init__()
        self.layer = layer
        self.num_experts = count

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        shape = hidden_states.shape
        out: Tensor = self.layer(hidden_states.reshape(-1, shape[-1]), top_k_index.long(), top_k_weights.float())
        return out.view(shape)
