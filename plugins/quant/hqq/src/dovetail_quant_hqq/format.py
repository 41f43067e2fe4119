"""HQQ's weights (Badri and Shaji, 2023).

HQQ lays a matrix out as another one, whose rows (axis 1) or columns (axis 0) are the groups, and packs that from below: the
highest bits of a byte are a code of the first rows, the lowest ones of the last. Here the codes are packed anew, along the
columns of the matrix itself.

Letters: N rows, K columns, G groups in a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dovetail.api import CheckpointError, LazyTensor
from dovetail.nn import (
    Axis,
    Components,
    Field,
    PackedWeight,
    QuantFormat,
    StoredWeight,
    WeightName,
    pack_integers,
    packed_axis,
    read_tensor,
    unpack_integers,
)
from dovetail_quant_hqq.config import HqqConfig

CODES, SCALE, ZERO = ".W_q", ".scale", ".zero"
BITS, GROUP, AXIS, SHAPE, VIEWED = ".nbits", ".group_size", ".axis", ".shape", ".view_as_float"
UNREAD = (
    ".packing",
    ".unpack_view_dtype",
    ".compute_dtype",
    ".quant_scale",
    ".quant_zero",
    ".offload_meta",
    ".encoded_state_dict",
    ".stores_quant_config",
    ".channel_wise",
    ".optimize",
    ".round_zero",
    ".bias",
)
"""Follow from the others, or are about how a weight was quantized."""
PLACES = {1: 8, 2: 4, 3: 10, 4: 2, 8: 1}
"""Bits → codes in an entry: a byte, and for 3 bits 30 bits of a 32-bit word."""
SCALES = (torch.float16, torch.bfloat16, torch.float32)
HINT = "the file is damaged or was written by a version that is not supported; download it again"
OTHER = "quantize the model with a group size that divides its columns (axis 1) or its rows (axis 0)"


@dataclass(frozen=True, eq=False, kw_only=True)
class ColumnGroups(StoredWeight):
    """A matrix whose groups are of rows, in one column each (axis 0): ``w[n, k] = (codes[n, k] - zeros[g, k]) *
    scales[g, k]``, g the group of n.

    Attributes:
        words: the codes, int32 ``[N, K * bits / 32]``.
        scales, zeros: ``[N / group size, K]``.
        groups: int64 ``[N]``, the group of each row; those of a group are no neighbours.
        bits: of a code.
    """

    words: Tensor
    scales: Tensor
    zeros: Tensor
    groups: Tensor
    bits: int

    def fields(self) -> dict[str, Field]:
        return {
            "words": Field(self.words, rows=Axis(0), columns=packed_axis(1, self.bits)),
            "scales": Field(self.scales, columns=Axis(1)),
            "zeros": Field(self.zeros, columns=Axis(1)),
            "groups": Field(self.groups, rows=Axis(0)),
        }

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        codes = unpack_integers(self.words, self.bits, 1).float()
        return codes.sub_(self.zeros[self.groups]).mul_(self.scales[self.groups].float()).to(dtype)


class HqqFormat(QuantFormat):
    """Reads HQQ's weights, with groups along either axis."""

    config: HqqConfig

    def components(self, weight: WeightName) -> Components:
        return Components((CODES, SCALE, ZERO, BITS, GROUP, AXIS, SHAPE), (VIEWED, *UNREAD))

    def shape(self, weight: WeightName, tensors: Mapping[str, LazyTensor]) -> tuple[int, ...]:
        return tuple(read_tensor(tensors[SHAPE], (2,), dtypes=(torch.int64,)).tolist())

    def load(
        self, weight: WeightName, tensors: Mapping[str, LazyTensor], device: torch.device, dtype: torch.dtype
    ) -> StoredWeight:
        n, k = self.shape(weight, tensors)
        bits, group, axis = (_read_number(tensors[part]) for part in (BITS, GROUP, AXIS))
        if VIEWED in tensors and bool(read_tensor(tensors[VIEWED], (1,), dtypes=(torch.uint8,)).any()):
            raise CheckpointError(
                f"tensor {tensors[VIEWED].name} is not 0: codes that are viewed as floats are not supported",
                "quantize the model with view_as_float off",
            )
        for part, value, known in ((BITS, bits, tuple(PLACES)), (AXIS, axis, (0, 1))):
            if value not in known:
                raise CheckpointError(
                    f"tensor {tensors[part].name} is {value}, wanted one of {', '.join(map(str, known))}", HINT
                )
        side, size = ("columns", k) if axis else ("rows", n)
        if group < 1 or size < 1 or size % group:
            raise CheckpointError(
                f"tensor {tensors[GROUP].name} is {group}, which does not divide the {size} {side} of the weight", OTHER
            )
        unit = packed_axis(1, bits).unit
        if k < 1 or k % unit:
            raise CheckpointError(
                f"tensor {tensors[SHAPE].name} says that the weight has {k} columns, wanted a multiple of {unit} for {bits} bits",
                "use a checkpoint of this model in another format",
            )
        rows, columns = (n * k // group, group) if axis else (group, n * k // group)
        words = pack_integers(_read_codes(tensors[CODES], bits, rows, columns).view(n, k), bits, 1).to(device)
        shape = (rows, 1) if axis else (1, columns)
        scales, zeros = (
            read_tensor(tensors[part], shape, dtypes=SCALES, finite=True).view(-1, k // group if axis else k).to(device)
            for part in (SCALE, ZERO)
        )
        kind = tensors[CODES].type
        if axis:
            return PackedWeight(
                shape=(n, k), type=kind, bits=bits, group=group, words=words, scales=scales, zeros=zeros
            )
        groups = torch.arange(n, device=device) % (n // group)
        return ColumnGroups(
            shape=(n, k), type=kind, words=words, scales=scales, zeros=zeros.float(), groups=groups, bits=bits
        )


def _read_number(lazy: LazyTensor) -> int:
    return int(read_tensor(lazy, (1,), dtypes=(torch.int32, torch.int64)))


def _read_codes(lazy: LazyTensor, bits: int, rows: int, columns: int) -> Tensor:
    """uint8 ``[rows, columns]``, without what fills the last words of 3 bits."""
    places = PLACES[bits]
    entries = read_tensor(lazy, (-(-rows // places), columns), dtypes=(torch.int32 if bits == 3 else torch.uint8,))
    mask = (1 << bits) - 1
    return torch.cat([((entries >> bits * place) & mask).to(torch.uint8) for place in reversed(range(places))])[:rows]
