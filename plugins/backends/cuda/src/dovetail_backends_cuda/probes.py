"""Probes for an NVIDIA GPU that torch can use, without importing torch and without initialising the GPU."""

from __future__ import annotations

import ctypes
import os
import runpy
from importlib.util import find_spec
from pathlib import Path

AMPERE = (8, 0)
LIBRARY = "libnvidia-ml.so.1" if os.name != "nt" else "nvml.dll"


def cuda() -> str | None:
    """Why CUDA is not available, or None."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in ("", "-1"):
        return "CUDA_VISIBLE_DEVICES hides every GPU"
    return torch_lacks_cuda() or no_gpu()


def triton() -> str | None:
    """Why Triton's kernels cannot run, or None."""
    if reason := cuda():
        return reason
    if find_spec("triton") is None:
        return "triton is not installed"
    oldest = min(_capabilities())
    if oldest < AMPERE:
        return f"a GPU has compute capability {oldest[0]}.{oldest[1]}, wanted {AMPERE[0]}.{AMPERE[1]} or above"
    return None


def torch_lacks_cuda() -> str | None:
    """Why the installed torch cannot use CUDA, or None."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return "torch is not installed"
    facts = runpy.run_path(str(Path(spec.origin).with_name("version.py")))
    if facts.get("cuda") is None:
        return f"torch {facts.get('__version__', '')} was built without CUDA"
    return None


def no_gpu() -> str | None:
    """Why the driver has no usable GPU, or None. It uses NVML, which creates no context that a fork would break."""
    try:
        nvml = ctypes.CDLL(LIBRARY)
    except OSError:
        return f"there is no NVIDIA driver ({LIBRARY} cannot be loaded)"
    if code := nvml.nvmlInit_v2():
        return f"the NVIDIA driver does not answer (NVML error {code})"
    try:
        count = ctypes.c_uint()
        if code := nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)):
            return f"the NVIDIA driver does not list its GPUs (NVML error {code})"
        return None if count.value else "the NVIDIA driver has no GPU"
    finally:
        nvml.nvmlShutdown()


def _capabilities() -> list[tuple[int, int]]:
    """Compute capability of each GPU of a machine that has some."""
    nvml = ctypes.CDLL(LIBRARY)
    nvml.nvmlInit_v2()
    try:
        count, found = ctypes.c_uint(), []
        nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
        for index in range(count.value):
            handle, major, minor = ctypes.c_void_p(), ctypes.c_int(), ctypes.c_int()
            nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle))
            if not nvml.nvmlDeviceGetCudaComputeCapability(handle, ctypes.byref(major), ctypes.byref(minor)):
                found.append((major.value, minor.value))
        return found or [AMPERE]  # what does not tell is not refused
    finally:
        nvml.nvmlShutdown()
