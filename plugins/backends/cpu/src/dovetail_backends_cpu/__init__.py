"""The CPU: a platform, a paged attention backend and a 4-bit matrix product. Registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import PORTABLE, TUNED, AttentionCard, PlatformCard, QuantKernelCard, hookimpl

_DTYPES = ("float32", "bfloat16", "float16")


@hookimpl
def dovetail_register_platforms() -> list[PlatformCard]:
    # Ranked low: where a device with more memory bandwidth is present, `auto` should take that one.
    return [
        PlatformCard(
            name="cpu",
            summary="the host's processor",
            device="cpu",
            target="dovetail_backends_cpu.platform:CpuPlatform",
            dtypes=_DTYPES,
            default_dtype="float32",
            rank=10,
        )
    ]


@hookimpl
def dovetail_register_attention() -> list[AttentionCard]:
    return [
        AttentionCard(
            name="cpu-sdpa",
            summary="paged attention from torch's fused CPU kernel",
            target="dovetail_backends_cpu.attention:SdpaAttention",
            devices=("cpu",),
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
            kv_dtypes=("float8_e4m3fn", "float8_e5m2"),
            rank=PORTABLE,
        )
    ]


@hookimpl
def dovetail_register_quantization() -> list[QuantKernelCard]:
    return [
        QuantKernelCard(
            name="cpu-int4",
            summary="torch's vectorised 4-bit product, for bfloat16 activations",
            target="dovetail_backends_cpu.int4:Int4Kernel",
            packings=("affine",),
            devices=("cpu",),
            dtypes=("bfloat16",),
            probe="dovetail_backends_cpu.probes:int4",
            rank=TUNED,
        )
    ]
