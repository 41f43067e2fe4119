"""Probes of features that not every CPU has."""

from __future__ import annotations


def int4() -> str | None:
    """Why this machine's torch cannot run the 4-bit product well, or None."""
    import torch

    if not hasattr(torch.ops.aten, "_weight_int4pack_mm_for_cpu"):
        return "this torch has no 4-bit matrix product for the CPU"
    capability = torch.backends.cpu.get_cpu_capability()
    return (
        None if capability in ("AVX2", "AVX512") else f"torch vectorises it for AVX2 and AVX-512, not for {capability}"
    )
