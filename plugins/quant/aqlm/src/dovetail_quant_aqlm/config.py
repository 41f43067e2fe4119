"""The ``quantization_config`` of AQLM, as transformers writes it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class AqlmConfig(BaseModel):
    """Keys of ``quantization_config``. Which layers are left out (``linear_weights_not_to_quantize``) is seen by their
    tensors.
    """

    num_codebooks: int = Field(1, ge=1)
    nbits_per_codebook: int = Field(16, ge=1, le=16)
    in_group_size: int = Field(8, ge=1)
    """Columns of a vector."""
    out_group_size: Literal[1] = 1
    """Rows of a vector."""
