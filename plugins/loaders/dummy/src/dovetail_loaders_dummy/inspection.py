"""The description of a checkpoint that does not exist; without torch."""

from __future__ import annotations

from dovetail.api import Checkpoint

TYPE = "bfloat16"
"""The stored type of every tensor. Formats convert it to the activations' dtype, as for files."""


def inspect(path: str, files: tuple[str, ...]) -> Checkpoint:
    """A checkpoint without files and with one type. The model decides the number of tensors, so the plan counts
    none.
    """
    return Checkpoint(path=path, files=(), tensor_types={TYPE: 0})
