"""Configurations of the small formats; no torch here."""

from typing import Literal

from pydantic import BaseModel, Field


class GptqConfig(BaseModel):
    bits: Literal[2, 4, 8]
    group_size: int = Field(ge=-1)
    desc_act: bool = False
    checkpoint_format: Literal["gptq", "gptq_v2"] = "gptq"


class AwqConfig(BaseModel):
    bits: Literal[4]
    group_size: int = Field(ge=1)
    modules_to_not_convert: tuple[str, ...] = ()


class Fp8Config(BaseModel):
    activation_scheme: Literal["static", "dynamic"] = "dynamic"
    weight_block_size: tuple[int, int] | None = None
    ignored_layers: tuple[str, ...] = ()
