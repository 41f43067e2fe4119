"""The ``quantization_config`` of AutoGPTQ, GPTQModel and others that write GPTQ's checkpoints."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, model_validator

Bits = Literal[2, 3, 4, 8]
GroupSize = Literal[-1] | Annotated[int, Field(gt=0)]
"""Columns that share a scale; -1 for all of a row."""


class Changes(BaseModel):
    """Of some layers, in GPTQModel's ``dynamic``."""

    bits: Bits | None = None
    group_size: GroupSize | None = None
    desc_act: bool | None = None


class GptqConfig(BaseModel):
    """Keys of ``quantization_config`` that decide how tensors are read."""

    bits: Bits
    group_size: GroupSize
    desc_act: bool = False
    """Columns were quantized in the order of their activations, so a group's are not neighbours: ``g_idx`` has them."""
    static_groups: bool = False
    """Groups were of neighbours even so."""
    lm_head: bool = False
    checkpoint_format: Literal["gptq", "gptq_v2"] = "gptq"
    """``gptq`` stores zero-points less 1."""
    pack_dtype: Literal["int32"] = "int32"
    dynamic: dict[str, Changes] = {}
    """Regular expression of names → what differs there; those that begin with ``-:`` leave layers out."""
    modules_in_block_to_quantize: tuple[tuple[str, ...], ...] | None = None
    """The only linear layers of a block that are quantized; None for all."""

    @model_validator(mode="before")
    @classmethod
    def _read_other_names(cls, data: Any) -> Any:
        """GPTQModel's newer files have ``format``, and older lists of modules have one level."""
        if not isinstance(data, dict):
            return data
        data = {key: value for key, value in data.items() if value is not None}
        if "format" in data:
            data.setdefault("checkpoint_format", data["format"])
        if data.get("is_marlin_format"):
            data["checkpoint_format"] = "marlin"
        modules = data.get("modules_in_block_to_quantize")
        if isinstance(modules, list) and modules and isinstance(modules[0], str):
            data["modules_in_block_to_quantize"] = [modules]
        return data
