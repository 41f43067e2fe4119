"""NVIDIA GPUs: a platform and paged attention from torch operations. Registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import PORTABLE, AttentionCard, PlatformCard, hookimpl

_DTYPES = ("bfloat16", "float16", "float32")


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
                "bidirectional",
                "value_dim",
                "latent",
                "shared_cache",
            ),
            probe="dovetail_backends_cuda.probes:cuda",
            rank=PORTABLE,
        )
    ]
