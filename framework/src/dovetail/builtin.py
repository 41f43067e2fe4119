"""The framework's own parts, registered through the same hooks as everyone else's."""

from __future__ import annotations

from dovetail.api import (
    PORTABLE,
    REFERENCE,
    ProposerCard,
    QuantFormatCard,
    QuantKernelCard,
    SourceCard,
    hookimpl,
)

_FLOATS = ("float32", "bfloat16", "float16")


@hookimpl
def dovetail_register_quantization() -> list[QuantFormatCard | QuantKernelCard]:
    return [
        QuantFormatCard(
            name="dense",
            summary="full-precision weights",
            target="dovetail.nn.dense:DenseFormat",
            types=dict.fromkeys((*_FLOATS, "float64"), ("dense",)),
        ),
        QuantKernelCard(
            name="dense",
            summary="the library's matrix product",
            target="dovetail.nn.dense:DenseKernel",
            packings=("dense",),
            devices=("*",),
            dtypes=_FLOATS,
            kinds=("linear", "head", "embedding"),
        ),
        QuantKernelCard(
            name="affine",
            summary="integer codes with scales and minimums, unpacked slice by slice",
            target="dovetail.nn.affine:AffineKernel",
            packings=("affine",),
            devices=("*",),
            dtypes=_FLOATS,
            rank=PORTABLE,
        ),
        QuantKernelCard(
            name="scaled-float",
            summary="8-bit floats with scales, unpacked slice by slice",
            target="dovetail.nn.float_kernels:ScaledFloatKernel",
            packings=("scaled_float",),
            devices=("*",),
            dtypes=_FLOATS,
            rank=PORTABLE,
        ),
        QuantKernelCard(
            name="codebook",
            summary="codes of a table with scales, unpacked slice by slice",
            target="dovetail.nn.float_kernels:CodebookKernel",
            packings=("codebook",),
            devices=("*",),
            dtypes=_FLOATS,
            rank=PORTABLE,
        ),
        QuantKernelCard(
            name="float4",
            summary="4-bit floats with scales, unpacked slice by slice",
            target="dovetail.nn.float_kernels:Float4Kernel",
            packings=("float4",),
            devices=("*",),
            dtypes=_FLOATS,
            rank=PORTABLE,
        ),
        QuantKernelCard(
            name="dequantize",
            summary="the reference: dequantize a slice, multiply",
            target="dovetail.nn.dense:DequantizeKernel",
            packings=("*",),
            devices=("*",),
            dtypes=_FLOATS,
            kinds=("linear", "head", "embedding"),
            rank=REFERENCE,
        ),
        QuantKernelCard(
            name="grouped-experts",
            summary="experts with the tokens that chose them, one after the other",
            target="dovetail.nn.experts:GroupedExperts",
            packings=("*",),
            devices=("cpu",),
            dtypes=_FLOATS,
            kinds=("experts",),
        ),
        QuantKernelCard(
            name="every-expert",
            summary="the reference: every expert computes every token",
            target="dovetail.nn.experts:EveryExpert",
            packings=("*",),
            devices=("*",),
            dtypes=_FLOATS,
            kinds=("experts",),
            rank=REFERENCE,
        ),
    ]


@hookimpl
def dovetail_register_sources() -> list[SourceCard]:
    return [
        SourceCard(
            name="demo",
            summary="no reference: the model of the extra dovetail[demo]",
            target="dovetail.sources:find_demo",
            rank=90,
        ),
        SourceCard(name="path", summary="a folder or file", target="dovetail.sources:find_path", rank=80),
        SourceCard(name="hub", summary="org/name on the Hugging Face hub", target="dovetail.sources:find_hub", rank=10),
    ]


@hookimpl
def dovetail_register_proposers() -> list[ProposerCard]:
    return [
        ProposerCard(
            name="draft_model",
            summary="a smaller model with the same vocabulary guesses ahead",
            target="dovetail.engine.step.draft_model:DraftModel",
            config="dovetail.api:DraftOptions",
            model=True,
        )
    ]
