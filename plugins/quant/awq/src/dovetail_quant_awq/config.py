"""The ``quantization_config`` of AutoAWQ and others that write AWQ's checkpoints."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


class AwqConfig(BaseModel):
    """Keys of ``quantization_config``, or of AutoAWQ's older ``quant_config.json``, that decide how tensors are read.

    ``modules_to_not_convert`` is none of them: a layer in full precision has other tensors, which is enough to know it. The
    key has parts of names, and of two layers with such a part, one may be quantized even so.
    """

    model_config = ConfigDict(populate_by_name=True)

    bits: Literal[4] = Field(validation_alias=AliasChoices("bits", "w_bit"))
    group_size: Literal[-1] | Annotated[int, Field(gt=0)] = Field(
        validation_alias=AliasChoices("group_size", "q_group_size")
    )
    """Columns that share a scale; -1 for all of a row."""
    version: Annotated[Literal["gemm", "gemv"], BeforeValidator(_lower)] = Field(
        "gemm", validation_alias=AliasChoices("version", "checkpoint_format", "format")
    )
    """Which packing: for products with matrices, along the rows; with vectors, along the columns."""
    zero_point: bool = True
    """False where all zero-points are in the middle of the codes; files may then lack them."""
    backend: Literal["autoawq"] = "autoawq"
