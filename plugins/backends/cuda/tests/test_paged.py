"""Decode steps of the paged backend beside those of the gathering one. Without a GPU, in Triton's interpreter, which has no bfloat16 products."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dovetail_backends_cuda.attention import GatherAttention

from dovetail.nn import Ops, Rope, Rotation
from dovetail.testing import check_attention
from dovetail.testing.comparison import assert_close, tolerance

from .steps import Scene, decode

pytest.importorskip("triton")

import dovetail_backends_cuda
from dovetail_backends_cuda import paged

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
DTYPES = [torch.bfloat16, torch.float16] if GPU else [torch.float32, torch.float16]
LENGTHS = [5, 64, 65, 1, 130]
CARD = next(card for card in dovetail_backends_cuda.dovetail_register_attention() if card.name == "cuda-paged")


def paged_scene(scene: Scene) -> Scene:
    """The same requests and caches for the other backend."""
    gather = scene.backend
    backend = paged.PagedAttention(
        device=gather.device, dtype=gather.dtype, kv_dtype=gather.kv_dtype, block_size=gather.block_size
    )
    return Scene(backend, scene.spec, scene.cache.clone(), scene.step, scene.qkv, scene.sinks)


def test_every_claim() -> None:
    # In the interpreter, which takes minutes for all, those that decide which of the kernels' paths are taken.
    small = {
        "devices": ("cpu",),
        "dtypes": ("float32",),
        "probe": None,
        "head_dims": (80,),
        "features": (),
        "block_sizes": (16,),
    }
    changes = {} if GPU else small
    check_attention(CARD.model_copy(update=changes))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "spec",
    [
        {"head_dim": 128},
        {"head_dim": 80, "num_heads": 6},
        {"head_dim": 96, "num_heads": 5, "num_kv_heads": 1, "window": 100},
        {"head_dim": 256, "num_heads": 2, "softcap": 1.5},
        {"num_heads": 48, "sinks": True, "window": 64},
        {"num_heads": 3, "num_kv_heads": 3, "sinks": True, "softcap": 5.0},
    ],
    ids=str,
)
def test_shares_of_the_work_give_the_same_as_whole_requests(spec: dict[str, Any], dtype: torch.dtype) -> None:
    scene = decode(LENGTHS, DEVICE, dtype, **spec)
    others = [paged_scene(scene) for _ in range(2)]
    wanted = scene.run(scene.step)
    for captured, other in enumerate(others):
        found = other.run(other.captured(256) if captured else other.step)
        assert_close(found, wanted, tolerance(dtype, 2), f"{spec}, captured: {captured}")


@pytest.mark.parametrize("extra", [1, 2, 7, 1000])
@pytest.mark.parametrize("lengths", [[1], [1, 1, 1], [100] * 3, [65, 1, 200]], ids=str)
def test_any_number_of_parts_gives_the_same(extra: int, lengths: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    dtype = DTYPES[0]
    scene = decode(lengths, DEVICE, dtype, num_heads=4, num_kv_heads=2, head_dim=16)
    other = paged_scene(scene)
    wanted = scene.run(scene.step)
    monkeypatch.setattr(paged.PagedAttention, "_limit", extra)
    assert_close(other.run(other.captured(256)), wanted, tolerance(dtype, 2), f"{extra} parts")


@pytest.mark.parametrize("rotated", [16, 8])
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("captured", [False, True])
def test_rotation_and_write_are_those_of_the_operations(rotated: int, interleaved: bool, captured: bool) -> None:
    dtype = DTYPES[0]
    scene = decode(LENGTHS, DEVICE, dtype, num_heads=20, num_kv_heads=2, head_dim=32)
    other = paged_scene(scene)
    q, k, v = scene.qkv
    assert k is not None
    assert v is not None
    qkv = torch.cat((q, k, v), 1)  # views of one product, as a model has them
    angles = torch.randn(len(LENGTHS), rotated, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    rope = Rope(angles.cos().to(dtype), angles.sin().to(dtype))
    found = []
    for each, step in ((scene, scene.step), (other, other.captured(256) if captured else other.step)):
        index = step.kv[0]
        index.metadata = each.backend.prepare(step, index, frozenset({each.spec}))
        out = each.backend.forward_rotated(
            qkv[:, :22], qkv[:, 22:], Rotation(rope, interleaved, Ops.rope), each.cache, step, index, each.spec
        )
        found.append((out, each.cache))
    for a, b in zip(*found, strict=True):
        assert_close(b, a, tolerance(dtype, 3), f"{rotated} pairs, interleaved {interleaved}")


def test_one_bound_serves_every_length() -> None:
    backend = paged.PagedAttention(device=DEVICE, dtype=torch.float16, kv_dtype=torch.float16, block_size=16)
    assert backend.capture_lengths(5000) == (5000,)
    assert isinstance(backend, GatherAttention)


@pytest.mark.skipif(not GPU, reason="needs a GPU")
@pytest.mark.parametrize("dependent", [True, False])
def test_a_graph_gives_the_same_bits(dependent: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from dovetail_backends_cuda import launch
    from dovetail_backends_cuda.platform import CudaPlatform

    monkeypatch.setattr(launch, "DEPENDENT", dependent)
    scene = paged_scene(decode(LENGTHS * 3, DEVICE, torch.bfloat16, num_heads=32, num_kv_heads=8, head_dim=128))
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
            assert torch.equal(captured, scene.run(step)), f"run {run}"
