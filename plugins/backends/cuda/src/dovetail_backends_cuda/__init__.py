"""NVIDIA GPUs: a platform, paged attention, and products of a few tokens. Registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import PORTABLE, TUNED, AttentionCard, PlatformCard, QuantKernelCard, hookimpl

_DTYPES = ("bfloat16", "float16", "float32")
_HALVES = ("bfloat16", "float16")


@hookimpl
def dovetail_register_platforms() -> list[PlatformCard]:
    return [
        PlatformCard(
            name="cuda",
            summary="an NVIDIA GPU",
            device="cuda",
            target="dovetail_backends_cuda.platform:CudaPlatform",
            dtypes=_DTYPES,
            default_dtype="bfloat16",
            probe="dovetail_backends_cuda.probes:cuda",
            rank=PORTABLE,
        )
    ]


@hookimpl
def dovetail_register_attention() -> list[AttentionCard]:
    return [
        AttentionCard(
            name="cuda-torch",
            summary="paged attention from torch operations: gather the blocks, then FlashAttention 2 as torch brings it",
            target="dovetail_backends_cuda.attention:GatherAttention",
            devices=("cuda",),
            dtypes=_DTYPES,
            features=(
                "sliding",
                "chunked",
                "softcap",
                "sinks",
                "alibi",
                "bidirectional",
                "value_dim",
                "latent",
                "shared_cache",
            ),
            probe="dovetail_backends_cuda.probes:cuda",
            rank=PORTABLE,
        ),
        AttentionCard(
            name="cuda-paged",
            summary="paged attention in Triton where each request decodes one token, otherwise as cuda-torch",
            target="dovetail_backends_cuda.paged:PagedAttention",
            devices=("cuda",),
            dtypes=_HALVES,
            features=("sliding", "softcap", "sinks", "shared_cache"),
            head_dims=(64, 80, 96, 128, 256),
            probe="dovetail_backends_cuda.probes:triton",
            rank=TUNED,
        ),
    ]


@hookimpl
def dovetail_register_quantization() -> list[QuantKernelCard]:
    return [
        QuantKernelCard(
            name="cuda-small-batch",
            summary="products of up to 64 tokens in Triton, of more by the library",
            target="dovetail_backends_cuda.products:SmallBatchKernel",
            packings=("dense",),
            devices=("cuda",),
            dtypes=_HALVES,
            probe="dovetail_backends_cuda.probes:triton",
            rank=TUNED,
        ),
        QuantKernelCard(
            name="cuda-experts",
            summary="mixtures of experts in Triton: each expert with the tokens that chose it",
            target="dovetail_backends_cuda.experts:TritonExperts",
            packings=("dense",),
            devices=("cuda",),
            dtypes=_HALVES,
            kinds=("experts",),
            probe="dovetail_backends_cuda.probes:triton",
            rank=TUNED,
        ),
    ]
