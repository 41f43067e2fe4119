"""The table of ggml's quantized types."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dovetail_quant_gguf import blocks, codebooks, iquants, kquants, legacy, ternary
from dovetail_quant_gguf.blocks import Unpack

Field = tuple[tuple[int, int], ...]
"""Bytes of a block with masks: a floating-point field that is infinite or not a number exactly when all masked bits are set."""


@dataclass(frozen=True)
class GgmlType:
    """One type's layout.

    Attributes:
        weights: in a block.
        bytes: of a block.
        unpack: uint8 ``[B, bytes]`` → its codes, scales and minimums.
        affine_bits: the codes fit in this many bits and can be converted to ``affine`` unchanged; None for codes that
            are indices of a table.
        floats: the floating-point fields of a block.
    """

    weights: int
    bytes: int
    unpack: Unpack
    affine_bits: int | None
    floats: tuple[Field, ...]

    def dequantize(self, data: Tensor) -> Tensor:
        """uint8 ``[B, bytes]`` → float32 ``[B, weights]``."""
        return blocks.dequantize(self.unpack(data))

    def has_bad_scale(self, data: Tensor) -> Tensor:
        """Which blocks hold a scale that is not finite: uint8 ``[B, bytes]`` → bool ``[B]``."""
        found = data.new_zeros(data.shape[0]).bool()
        for field in self.floats:
            bad = [(data[:, byte] & mask) == mask for byte, mask in field]
            found |= bad[0] if len(bad) == 1 else bad[0] & bad[1]
        return found


def _half(at: int) -> Field:
    """A float16 field: its exponent is in the upper byte."""
    return ((at + 1, 0x7C),)


TYPES: dict[str, GgmlType] = {
    "q4_0": GgmlType(32, 18, legacy.q4_0, 4, (_half(0),)),
    "q4_1": GgmlType(32, 20, legacy.q4_1, 4, (_half(0), _half(2))),
    "q5_0": GgmlType(32, 22, legacy.q5_0, 5, (_half(0),)),
    "q5_1": GgmlType(32, 24, legacy.q5_1, 5, (_half(0), _half(2))),
    "q8_0": GgmlType(32, 34, legacy.q8_0, 8, (_half(0),)),
    "q2_k": GgmlType(256, 84, kquants.q2_k, 2, (_half(80), _half(82))),
    "q3_k": GgmlType(256, 110, kquants.q3_k, 3, (_half(108),)),
    "q4_k": GgmlType(256, 144, kquants.q4_k, 4, (_half(0), _half(2))),
    "q5_k": GgmlType(256, 176, kquants.q5_k, 5, (_half(0), _half(2))),
    "q6_k": GgmlType(256, 210, kquants.q6_k, 6, (_half(208),)),
    "tq1_0": GgmlType(256, 54, ternary.tq1_0, 2, (_half(52),)),
    "tq2_0": GgmlType(256, 66, ternary.tq2_0, 2, (_half(64),)),
    "iq1_s": GgmlType(256, 50, iquants.iq1_s, None, (_half(0),)),
    "iq1_m": GgmlType(256, 56, iquants.iq1_m, None, (((55, 0x70), (53, 0xC0)),)),
    "iq2_xxs": GgmlType(256, 66, iquants.iq2_xxs, None, (_half(0),)),
    "iq2_xs": GgmlType(256, 74, iquants.iq2_xs, None, (_half(0),)),
    "iq2_s": GgmlType(256, 82, iquants.iq2_s, None, (_half(0),)),
    "iq3_xxs": GgmlType(256, 98, iquants.iq3_xxs, None, (_half(0),)),
    "iq3_s": GgmlType(256, 110, iquants.iq3_s, None, (_half(0),)),
    "iq4_nl": GgmlType(32, 18, codebooks.iq4_nl, None, (_half(0),)),
    "iq4_xs": GgmlType(256, 136, codebooks.iq4_xs, None, (_half(0),)),
    "mxfp4": GgmlType(32, 17, codebooks.mxfp4, None, (((0, 0xFF),),)),
    "nvfp4": GgmlType(64, 36, codebooks.nvfp4, None, ()),
}
