"""Probes for an NVIDIA GPU that torch can use, without importing torch and without initialising the GPU."""

from __future__ import annotations

import ctypes
import os
import runpy
from importlib.util import find_spec
from pathlib import Path

LIBRARY = "libnvidia-ml.so.1" if os.name != "nt" else "nvml.dll"


def cuda() -> str | None:
    """Why CUDA is not available, or None."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in ("", "-1"):
        return "CUDA_VISIBLE_DEVICES hides every GPU"
    return torch_lacks_cuda() or no_gpu()


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
