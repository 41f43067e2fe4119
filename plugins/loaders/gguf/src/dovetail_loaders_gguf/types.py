"""The tensor types of GGUF files, by their numbers.

Source: ``ggml_type`` in ggml.h. This is our own table, because importing the ``gguf`` package takes longer than reading
a header; a test compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GGMLType:
    """How ``block`` consecutive elements of a row are stored in ``nbytes`` bytes."""

    name: str
    """A torch dtype's name for plain types; for the others ggml's name in lower case."""
    block: int
    nbytes: int
    plain: bool = False


TYPES: dict[int, GGMLType] = {
    0: GGMLType("float32", 1, 4, plain=True),
    1: GGMLType("float16", 1, 2, plain=True),
    2: GGMLType("q4_0", 32, 18),
    3: GGMLType("q4_1", 32, 20),
    6: GGMLType("q5_0", 32, 22),
    7: GGMLType("q5_1", 32, 24),
    8: GGMLType("q8_0", 32, 34),
    9: GGMLType("q8_1", 32, 40),
    10: GGMLType("q2_k", 256, 84),
    11: GGMLType("q3_k", 256, 110),
    12: GGMLType("q4_k", 256, 144),
    13: GGMLType("q5_k", 256, 176),
    14: GGMLType("q6_k", 256, 210),
    15: GGMLType("q8_k", 256, 292),
    16: GGMLType("iq2_xxs", 256, 66),
    17: GGMLType("iq2_xs", 256, 74),
    18: GGMLType("iq3_xxs", 256, 98),
    19: GGMLType("iq1_s", 256, 50),
    20: GGMLType("iq4_nl", 32, 18),
    21: GGMLType("iq3_s", 256, 110),
    22: GGMLType("iq2_s", 256, 82),
    23: GGMLType("iq4_xs", 256, 136),
    24: GGMLType("int8", 1, 1, plain=True),
    25: GGMLType("int16", 1, 2, plain=True),
    26: GGMLType("int32", 1, 4, plain=True),
    27: GGMLType("int64", 1, 8, plain=True),
    28: GGMLType("float64", 1, 8, plain=True),
    29: GGMLType("iq1_m", 256, 56),
    30: GGMLType("bfloat16", 1, 2, plain=True),
    34: GGMLType("tq1_0", 256, 54),
    35: GGMLType("tq2_0", 256, 66),
    39: GGMLType("mxfp4", 32, 17),
    40: GGMLType("nvfp4", 64, 36),
    41: GGMLType("q1_0", 128, 18),
}
