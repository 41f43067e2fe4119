"""Compiles the kernels for a Hopper GPU, as they are launched, without one. The interpreter takes what the compiler refuses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from dovetail_backends_cuda import experts, launch, paged, pointwise, products
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from dovetail.nn import AttentionSpec, ExpertWeights, HostLengths, KVIndex, Ops, Rope, Rotation, Step
from dovetail.nn.dense import DenseWeight

BF16 = torch.bfloat16
SHARED = 227 << 10
"""Bytes that a block may have."""
found: dict[str, int] = {}


def compile_only(run: Any) -> Any:
    def instead(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        kernel = run(self, *args, grid=grid, warmup=True, **options)
        found[self.__name__] = max(found.get(self.__name__, 0), kernel.metadata.shared)

    return instead


def attend(heads: int, dim: int, *, captured: bool = True, **features: Any) -> None:
    spec = AttentionSpec(heads, 2, dim, dim**-0.5, **features)
    backend = paged.PagedAttention(device=torch.device("cpu"), dtype=BF16, kv_dtype=BF16, block_size=16)
    ints = torch.zeros(16, dtype=torch.int32)
    index = KVIndex(torch.zeros(16, 16, dtype=torch.int32), ints.long())
    step = Step(ints, ints, ints, ints, ints, (index,), max_query_len=1, max_seq_len=256)
    if not captured:
        step.lengths = HostLengths([1] * 16, [1] * 16)
    index.metadata = backend.prepare(step, index, frozenset({spec}))
    qkv = torch.zeros(16, heads + 4, dim, dtype=BF16)
    angles = torch.zeros(16, dim // 2, dtype=BF16)
    rotation = Rotation(Rope(angles, angles), False, Ops.rope)
    sinks = torch.zeros(heads) if spec.sinks else None
    cache = torch.zeros(4, 16, 4 * dim, dtype=BF16)
    backend.forward_rotated(qkv[:, : heads + 2], qkv[:, heads + 2 :], rotation, cache, step, index, spec, sinks)


def main() -> None:
    JITFunction.run = compile_only(JITFunction.run)
    driver.set_active(
        SimpleNamespace(
            get_current_target=lambda: GPUTarget("cuda", 90, 32),
            get_current_device=lambda: 0,
            get_current_stream=lambda device: 0,
        )
    )
    launch.capability = lambda device: (9, 0)
    attend(8, 128)
    attend(8, 128, captured=False)
    attend(8, 256)
    attend(24, 80, sinks=True, softcap=20.0, window=100)
    x, matrix = torch.zeros(64, 1024, dtype=BF16), torch.zeros(256, 1024, dtype=BF16)
    pointwise.add_rms_norm(x, x, x[0], 1e-5)
    pointwise.rms_norm(x, x[0], 1e-5)
    pointwise.silu_mul(x)
    pointwise.likeliest(x)
    ints = torch.zeros(16, dtype=torch.int64)
    pointwise.decode_inputs(ints, ints, ints, torch.zeros(16, 32, dtype=torch.int32)[:, :20], 16)
    pointwise.rope_angles(ints, torch.zeros(40), 1.5, BF16)
    pointwise.copy(ints, ints)
    pointwise.route(x, 8)
    products.multiply_one(x[:1], matrix, True)
    products.multiply_some(x[:3], products.TiledMatrix(matrix))
    for tokens in (16, 64):
        products.multiply_some(x[:tokens], products.TiledMatrix(matrix), True)
    products.multiply_one(x[:1], matrix, norm=(x[0], 1e-5), residual=x[:1, :256])
    experts_of = ExpertWeights(
        *([DenseWeight.of(matrix, "bfloat16")] * 2 for matrix in (matrix, matrix, matrix.T)), 0, 2, 2, Ops.silu_mul
    )
    kernel = experts.TritonExperts(experts_of, None, x.device, BF16)
    for tokens in (1, 2, 200):
        choice = torch.zeros(tokens, 2, dtype=torch.int64)
        kernel(torch.zeros(tokens, 1024, dtype=BF16), choice, choice.float())
    large = {name: size for name, size in found.items() if size > SHARED}
    assert not large, f"more bytes of shared memory than a block may have: {large}"
    print(*sorted(found))


if __name__ == "__main__":
    main()
