"""The ``quantization_config`` of those who store weights in Marlin's order: its authors, AutoGPTQ and AutoAWQ."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import BaseModel, model_validator

MARLIN: Final = "marlin"


class MarlinConfig(BaseModel):
    """Keys of ``quantization_config`` that decide how tensors are read."""

    quant_method: Literal["marlin", "gptq", "awq"] = MARLIN
    checkpoint_format: Literal["marlin"]
    bits: Literal[4] = 4
    group_size: Literal[-1, 128]
    """Columns that share a scale; -1 for all of a row."""
    sym: Literal[True] = True
    desc_act: Literal[False] = False
    zero_point: Literal[False] = False

    @model_validator(mode="before")
    @classmethod
    def _find_format(cls, data: Any) -> Any:
        """The order of codes is said by the method, by AutoGPTQ's older key, or by AutoAWQ's."""
        if not isinstance(data, dict):
            return data
        found = data.get("checkpoint_format") or data.get("format") or data.get("version")
        if data.get("is_marlin_format") or data.get("quant_method", MARLIN) == MARLIN:
            found = MARLIN
        return {**data, "checkpoint_format": found.lower() if isinstance(found, str) else found}
