"""The ``quantization_config`` of bitsandbytes, as transformers writes it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, model_validator


class BitsAndBytesConfig(BaseModel):
    """Keys of ``quantization_config`` that decide how tensors are read. Which layers are left out
    (``llm_int8_skip_modules``) is seen by their tensors.
    """

    load_in_4bit: bool = False
    load_in_8bit: bool = False
    bnb_4bit_quant_type: Literal["fp4", "nf4"] = "fp4"
    bnb_4bit_use_double_quant: bool = False
    """Scales are quantized too."""
    bnb_4bit_quant_storage: Literal["uint8"] = "uint8"

    @model_validator(mode="after")
    def _check_bits(self) -> BitsAndBytesConfig:
        if self.load_in_4bit == self.load_in_8bit:
            raise ValueError("wanted one of load_in_4bit and load_in_8bit to be true")
        return self
