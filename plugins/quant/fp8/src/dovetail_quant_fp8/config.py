"""The ``quantization_config`` of checkpoints in 8-bit floats."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

Unit = Annotated[int, Field(gt=0)]


class Fp8Config(BaseModel):
    """Keys of ``quantization_config`` that decide how tensors are read. Which layers are left out
    (``modules_to_not_convert``, ``ignored_layers``) is seen by their tensors.
    """

    activation_scheme: Literal["dynamic", "static"] = "dynamic"
    """``static``: the file has scales of activations."""
    weight_block_size: tuple[Unit, Unit] | None = Field(default=None, strict=False)
    """Rows and columns that share a scale; None for one scale in all, or one a row."""
