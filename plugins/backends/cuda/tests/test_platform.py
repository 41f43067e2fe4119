"""Probes without a GPU; copies, graphs and memory with one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from dovetail_backends_cuda import probes

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def test_the_probe_agrees_with_torch_and_does_without_it() -> None:
    code = "import sys; from dovetail_backends_cuda.probes import cuda; print(cuda()); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip() == "None") == torch.cuda.is_available()


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_hidden_devices(hidden: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert probes.cuda() == "CUDA_VISIBLE_DEVICES hides every GPU"


def test_a_machine_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "LIBRARY", "libnowhere.so")
    assert "libnowhere.so cannot be loaded" in str(probes.no_gpu())


@pytest.mark.parametrize("facts", ["__version__ = '2.0+cpu'\ncuda = None\n", "__version__ = '2.0+cpu'\n"])
def test_a_torch_without_cuda(facts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").touch()
    (tmp_path / "torch" / "version.py").write_text(facts)
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from dovetail_backends_cuda.probes import torch_lacks_cuda; print(torch_lacks_cuda())"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "torch 2.0+cpu was built without CUDA"


@gpu
def test_copies_do_not_wait() -> None:
    from dovetail_backends_cuda.platform import CudaPlatform

    platform = CudaPlatform()
    values = np.arange(1000, dtype=np.int64)
    torch.cuda.set_sync_debug_mode("error")
    try:
        there = platform.upload(values)
        values[:] = 0  # the array may be reused at once
        arrived = platform.fetch(there * 2)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert there.device == platform.device
    assert np.array_equal(arrived(), 2 * np.arange(1000))


@gpu
def test_graphs_share_their_memory_and_run_in_turn() -> None:
    from dovetail_backends_cuda.platform import CudaPlatform

    platform = CudaPlatform()
    x, found = torch.ones(1 << 20, device="cuda"), {}

    def work(n: int) -> None:
        found[n] = (x + n).exp().sum()

    before = torch.cuda.memory_reserved()
    runs = {n: platform.capture(lambda n=n: work(n)) for n in range(1, 9)}  # type: ignore[misc]
    assert torch.cuda.memory_reserved() - before < 8 * x.nbytes
    x.zero_()
    for n in (3, 1, 8):
        runs[n]()
        assert found[n].item() == pytest.approx(float(np.exp(n)) * 2**20, rel=1e-4)


@gpu
def test_the_cache_gets_what_is_free_and_not_reserved() -> None:
    from dovetail_backends_cuda.platform import CudaPlatform

    platform = CudaPlatform()
    memory = platform.memory()
    assert 0 < memory.free <= memory.total
    assert platform.kv_cache_bytes(1.0, 1 << 30) <= platform.memory().free - (1 << 30) + (1 << 26)
    assert platform.kv_cache_bytes(0.5, 0) < platform.kv_cache_bytes(0.9, 0)
    assert platform.kv_cache_bytes(0.9, memory.total) == 0
    held = torch.empty(4 << 30, dtype=torch.uint8, device="cuda")
    less = platform.kv_cache_bytes(0.9, 0)
    del held
    assert less + (4 << 30) == pytest.approx(platform.kv_cache_bytes(0.9, 0), abs=1 << 28)
