"""Tensors come lazily, share memory with the file, and leave it again."""

from __future__ import annotations

import gc
import os
import warnings
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from dovetail_loaders_gguf.inspection import inspect
from dovetail_loaders_gguf.loading import load

from dovetail.api import CheckpointError

from .files import write

CPU = torch.device("cpu")


def test_values_and_shapes(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    packed = rng.integers(0, 256, (3, 2, 36), dtype=np.uint8)
    plain = {
        "f32": rng.standard_normal((3, 5), dtype=np.float32),
        "f64": rng.standard_normal(4),
        "i8": np.arange(3, dtype=np.int8),
        "i64": np.arange(3, dtype=np.int64),
    }
    half = np.array([0x3F80, 0xC000], dtype=np.uint16)
    tensors = {
        **plain,
        "q4_0": (packed, gguf.GGMLQuantizationType.Q4_0),
        "bf16": (half, gguf.GGMLQuantizationType.BF16),
    }
    file = write(tmp_path / "m.gguf", tensors)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = {t.name: (t, t.read()) for t in load(inspect(str(file), ()), {}, CPU)}
    for name, value in plain.items():
        lazy, read = found[name]
        assert lazy.shape == value.shape
        assert torch.equal(read, torch.from_numpy(value))
    lazy, read = found["q4_0"]
    assert (lazy.type, lazy.shape) == ("q4_0", (3, 2, 64))
    assert torch.equal(read, torch.from_numpy(packed.reshape(6, 36)))
    assert found["bf16"][1].tolist() == [1.0, -2.0]


def resident(file: Path) -> int:
    """Bytes of a file that this process has in memory."""
    total, ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ", 1)[0]:
            ours = line.endswith(str(file))
        elif ours and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="reads Linux's /proc")
def test_pages_leave_when_a_tensor_is_dropped(tmp_path: Path) -> None:
    size = 4 << 20
    file = write(tmp_path / "m.gguf", {f"t{i}": np.full(size // 4, i, dtype=np.float32) for i in range(3)})
    tensors = list(load(inspect(str(file), ()), {}, CPU))
    assert resident(file) < size
    first = tensors[0].read()
    view = tensors[1].read()[10:]
    assert float(first.sum() + view.sum()) == size // 4 - 10
    held = resident(file)
    assert held >= size
    del first
    gc.collect()
    assert resident(file) <= held - size // 2
    assert float(view.sum()) == size // 4 - 10  # whoever keeps a view of a dropped tensor still reads the file


def test_a_file_that_became_shorter_is_refused_when_it_is_read(tmp_path: Path) -> None:
    file = write(tmp_path / "m.gguf", {"t": np.ones(100_000, np.float32)})
    (lazy,) = load(inspect(str(file), ()), {}, CPU)
    os.truncate(file, 5000)
    with pytest.raises(CheckpointError, match="changed meanwhile"):
        lazy.read()


def test_an_empty_tensor_reads_as_such(tmp_path: Path) -> None:
    file = write(tmp_path / "m.gguf", {"t": np.ones((0, 32), np.float32), "u": np.ones(2, np.float32)})
    shapes = {t.name: tuple(t.read().shape) for t in load(inspect(str(file), ()), {}, CPU)}
    assert shapes == {"t": (0, 32), "u": (2,)}
