"""Captured and uncaptured steps, limits to memory, and bounds."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from dovetail_backends_cuda import attention
from dovetail_backends_cuda.attention import GatherAttention

from dovetail.testing.comparison import assert_close, tolerance

from .steps import decode

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")),
]
LENGTHS = [5, 16, 17, 1, 300, 64, 250]
on_devices = pytest.mark.parametrize("device", DEVICES)
windows = pytest.mark.parametrize("window", [None, 1, 16, 17, 100, 1000])


@on_devices
@windows
def test_a_step_without_lengths_does_what_one_with_lengths_does(device: str, window: int | None) -> None:
    scene = decode(LENGTHS, torch.device(device), torch.float32, window)
    wanted = scene.run(scene.step)
    for bound in (300, 512, 1024):
        assert_close(scene.run(scene.captured(bound)), wanted, tolerance(torch.float32), f"with a bound of {bound}")


@on_devices
@pytest.mark.parametrize(
    "features",
    [
        {"chunk": 1},
        {"chunk": 17},
        {"chunk": 100},
        {"chunk": 1000},
        {"softcap": 1.5, "sinks": True, "window": 17},
        {"value_dim": 32, "softcap": 1.5},
        {"alibi_slopes": (0.4, 0.3, 0.2, 0.1), "num_heads": 4, "window": 40},
        {"alibi_slopes": (0.4, 0.3, 0.2, 0.1), "num_heads": 4, "chunk": 100},
        {"num_kv_heads": 1, "head_dim": 80, "value_dim": 64, "latent": True, "chunk": 40},
    ],
    ids=str,
)
def test_so_it_does_with_every_feature(device: str, features: dict[str, Any]) -> None:
    scene = decode(LENGTHS, torch.device(device), torch.float32, **features)
    wanted = scene.run(scene.step)
    for bound in (300, 512):
        assert_close(scene.run(scene.captured(bound)), wanted, tolerance(torch.float32), f"with a bound of {bound}")


@on_devices
@windows
@pytest.mark.parametrize("bytes", [1, 1 << 17, 1 << 19])
def test_memory_can_be_limited(device: str, window: int | None, bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = decode(LENGTHS, torch.device(device), torch.bfloat16 if device == "cuda" else torch.float32, window)
    wanted = [scene.run(step) for step in (scene.step, scene.captured(512))]
    monkeypatch.setattr(attention, "GATHER_BYTES", bytes)
    monkeypatch.setattr(attention, "SCORE_BYTES", bytes)
    for step, whole in zip((scene.step, scene.captured(512)), wanted, strict=True):
        index = step.kv[0]
        work = scene.backend.prepare(step, index, frozenset({scene.spec}))
        assert len(work) > 1 or bytes > 1
        assert_close(scene.run(step), whole, tolerance(whole.dtype), f"within {bytes} bytes")


@on_devices
def test_padding_requests_change_nothing(device: str) -> None:
    scene = decode([40, 9, 1, 1, 1], torch.device(device), torch.float32)
    wanted = scene.run(scene.captured(256))[:2]
    pad = scene.captured(256)
    pad.kv[0].block_tables[2:] = 0  # the block that no request owns
    pad.kv[0].slot_mapping[2:] = 0
    assert torch.equal(scene.run(pad)[:2], wanted)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("window", [None, 100])
def test_a_graph_gives_the_same_bits(window: int | None) -> None:
    from dovetail_backends_cuda.platform import CudaPlatform

    scene = decode(
        LENGTHS * 3, torch.device("cuda"), torch.bfloat16, window, num_heads=32, num_kv_heads=8, head_dim=128
    )
    step = scene.captured(320)
    out: list[torch.Tensor] = []
    with torch.inference_mode():
        replay = CudaPlatform().capture(lambda: out.append(scene.run(step)))
        for run in range(3):
            for x in scene.qkv:
                assert x is not None
                x.normal_()
            replay()
            captured = out[-1].clone()
            assert torch.equal(captured, scene.run(step)), f"run {run} with the bound"
            assert torch.equal(captured, scene.run(scene.step)), f"run {run} with its own lengths"


@pytest.mark.parametrize("longest", [2, 256, 257, 300, 4096, 5000, 131072])
def test_bounds_ascend_and_end_in_the_longest(longest: int) -> None:
    backend = GatherAttention(device=torch.device("cpu"), dtype=torch.float32, kv_dtype=torch.float32, block_size=16)
    bounds = backend.capture_lengths(longest)
    assert bounds[-1] == longest
    assert list(bounds) == sorted(set(bounds))
    assert all(b <= a * 1.25 for a, b in pairwise(bounds))
