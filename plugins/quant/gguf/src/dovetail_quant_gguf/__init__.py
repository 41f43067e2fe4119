"""GGUF's quantized types: registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import QuantFormatCard, hookimpl

AFFINE_TYPES = (
    *("q4_0", "q4_1", "q5_0", "q5_1", "q8_0"),
    *("q2_k", "q3_k", "q4_k", "q5_k", "q6_k"),
    *("tq1_0", "tq2_0"),
)
"""Types whose blocks are integer codes with scales and minimums."""

CODEBOOK_TYPES = (
    *("iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s", "iq4_nl", "iq4_xs"),
    *("mxfp4", "nvfp4"),
)
"""Types whose codes are indices of a table. As integers they would take up to four times their size, so they are not
converted to ``affine``.
"""


@hookimpl
def dovetail_register_quantization() -> list[QuantFormatCard]:
    return [
        QuantFormatCard(
            name="gguf",
            summary="the block-quantized types of ggml, kept as they are in the file",
            target="dovetail_quant_gguf.format:GgufFormat",
            types=dict.fromkeys(AFFINE_TYPES, ("affine",)) | dict.fromkeys(CODEBOOK_TYPES, ()),
        )
    ]
