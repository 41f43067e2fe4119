"""Kernels compile for a GPU, with or without one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")


def test_the_kernels_compile(tmp_path: Path) -> None:
    # In a process of its own, because Triton decides at import whether it interprets.
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    script = Path(__file__).with_name("compile_kernels.py")
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    kernels = (
        "_add_kernel _add_norm_kernel _angles_kernel _best_kernel _best_of_parts_kernel _copy_kernel _decode_inputs_kernel "
        "_list_kernel _one_down_kernel _one_kernel _one_up_kernel _product_kernel _route_kernel _silu_mul_kernel _some_kernel "
        "decode_kernel plan_kernel write_kernel"
    )
    assert done.stdout.split() == kernels.split()
