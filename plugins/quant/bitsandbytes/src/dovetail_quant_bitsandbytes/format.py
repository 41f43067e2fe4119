"""The weights of bitsandbytes: 4-bit codes of a table (QLoRA; Dettmers et al., 2023), and LLM.int8() (2022).

Letters: N rows, K columns, G blocks in a row.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dovetail.api import CheckpointError, LazyTensor
from dovetail.nn import (
    Axis,
    CodebookWeight,
    Components,
    Field,
    QuantFormat,
    ScaledWeight,
    StoredWeight,
    WeightName,
    read_tensor,
)
from dovetail_quant_bitsandbytes.config import BitsAndBytesConfig

LEVELS = 16
ABSMAX, TABLE = ".weight.absmax", ".weight.quant_map"
OUTER_ABSMAX, OUTER_TABLE = ".weight.nested_absmax", ".weight.nested_quant_map"
ROWS, LAYOUT = ".SCB", ".weight_format"
MAX_STATE = 4096
"""Bytes of the description of a weight."""
HINT = "the file is damaged or was written by a version that is not supported; download it again"


@dataclass(frozen=True, eq=False, kw_only=True)
class TableWeight(StoredWeight):
    """Codes of a table, with a scale for each block of columns.

    Attributes:
        codes: uint8 ``[N, K / 2]``, two an entry; the even column is in the high half.
        scales: float32 ``[N, G]``.
        table: float32 ``[16]``.
        block: columns that share a scale.
    """

    codes: Tensor
    scales: Tensor
    table: Tensor
    block: int

    def fields(self) -> dict[str, Field]:
        return {
            "codes": Field(self.codes, rows=Axis(0), columns=Axis(1, 2)),
            "scales": Field(self.scales, rows=Axis(0), columns=Axis(1, self.block)),
            "table": Field(self.table),
        }

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        levels = self.table[self._apart().int()].unflatten(1, (-1, self.block))
        return (levels * self.scales[..., None]).flatten(1).to(dtype)

    def pack(self, packing: str) -> CodebookWeight | None:
        if packing != "codebook":
            return None
        return CodebookWeight(self._apart(), self.table, self.scales, 4, self.block)

    def _apart(self) -> Tensor:
        """The codes, uint8 ``[N, K]``."""
        return torch.stack([self.codes >> 4, self.codes & 15], -1).flatten(1)


class BitsAndBytesFormat(QuantFormat):
    """Reads weights of 4 bits in NF4 and FP4, and of 8 bits with a scale for each row."""

    config: BitsAndBytesConfig

    def components(self, weight: WeightName) -> Components:
        if self.config.load_in_8bit:
            return Components((".weight", ROWS), (LAYOUT,))
        outer = (OUTER_ABSMAX, OUTER_TABLE) if self.config.bnb_4bit_use_double_quant else ()
        return Components((".weight", ABSMAX, TABLE, self._state, *outer))

    @property
    def _state(self) -> str:
        """The component that describes a weight of 4 bits: JSON, in a tensor of bytes."""
        return f".weight.quant_state.bitsandbytes__{self.config.bnb_4bit_quant_type}"

    def shape(self, weight: WeightName, tensors: Mapping[str, LazyTensor]) -> tuple[int, ...]:
        if self.config.load_in_8bit:
            return tensors[".weight"].shape
        return _read_shape(tensors[self._state])

    def load(
        self, weight: WeightName, tensors: Mapping[str, LazyTensor], device: torch.device, dtype: torch.dtype
    ) -> StoredWeight:
        return (self._load_8bit(tensors) if self.config.load_in_8bit else self._load_4bit(tensors)).to(device)

    def _load_8bit(self, tensors: Mapping[str, LazyTensor]) -> ScaledWeight:
        n, k = tensors[".weight"].shape
        if LAYOUT in tensors and bool(read_tensor(tensors[LAYOUT], (1,), dtypes=(torch.uint8,)).any()):
            raise CheckpointError(f"tensor {tensors[LAYOUT].name} is not 0, wanted the order of rows and columns", HINT)
        largest = read_tensor(tensors[ROWS], (n, 1), finite=True).float()
        values = read_tensor(tensors[".weight"])
        return ScaledWeight(shape=(n, k), type="int8", values=values, scales=largest / 127, block=(1, 0))

    def _load_4bit(self, tensors: Mapping[str, LazyTensor]) -> TableWeight:
        state = tensors[self._state]
        (n, k), described = _read_shape(state), _read_state(state)
        block = _read_size(state, described, "blocksize")
        if k % block or k % 2:
            raise CheckpointError(
                f"tensor {tensors['.weight'].name} has blocks of {block} numbers, and rows of {k}, wanted whole blocks in each row",
                "use a checkpoint in another format",
            )
        absmax = tensors[ABSMAX]
        if self.config.bnb_4bit_use_double_quant:
            size = _read_size(state, described, "nested_blocksize")
            codes = read_tensor(absmax, (n * k // block,), dtypes=(torch.uint8,)).int()
            outer = read_tensor(tensors[OUTER_ABSMAX], (-(-len(codes) // size),), finite=True).float()
            table = read_tensor(tensors[OUTER_TABLE], (256,), finite=True).float()
            offset = described.get("nested_offset")
            if not isinstance(offset, float) or not math.isfinite(offset):
                raise _wrong(state, "nested_offset", offset)
            scales = table[codes] * outer.repeat_interleave(size)[: len(codes)] + offset
        else:
            scales = read_tensor(absmax, (n * k // block,), finite=True).float()
        return TableWeight(
            shape=(n, k),
            type="uint8",
            codes=read_tensor(tensors[".weight"], (n * k // 2,), dtypes=(torch.uint8,)).view(n, k // 2),
            scales=scales.view(n, k // block),
            table=read_tensor(tensors[TABLE], (LEVELS,), finite=True).float(),
            block=block,
        )


def _read_state(lazy: LazyTensor) -> dict[str, Any]:
    """The description of a weight.

    Raises:
        CheckpointError: it is none; names the tensor.
    """
    if len(lazy.shape) != 1 or not 0 < lazy.shape[0] <= MAX_STATE:
        raise CheckpointError(f"tensor {lazy.name} is {list(lazy.shape)}, wanted up to {MAX_STATE} bytes of JSON", HINT)
    try:
        found = json.loads(bytes(read_tensor(lazy, dtypes=(torch.uint8,)).tolist()))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"tensor {lazy.name} holds no JSON ({error})", HINT) from None
    if not isinstance(found, dict):
        raise CheckpointError(f"tensor {lazy.name} holds a JSON {type(found).__name__}, wanted an object", HINT)
    return found


def _read_shape(lazy: LazyTensor) -> tuple[int, int]:
    found = _read_state(lazy).get("shape")
    if not isinstance(found, list) or len(found) != 2 or any(type(size) is not int or size < 1 for size in found):
        raise _wrong(lazy, "shape", found)
    return found[0], found[1]


def _read_size(lazy: LazyTensor, described: Mapping[str, Any], key: str) -> int:
    found = described.get(key)
    if type(found) is not int or found < 1:
        raise _wrong(lazy, key, found)
    return found


def _wrong(lazy: LazyTensor, key: str, found: object) -> CheckpointError:
    return CheckpointError(f"tensor {lazy.name} says that {key} is {str(found)[:40]!r}, which it cannot be", HINT)
