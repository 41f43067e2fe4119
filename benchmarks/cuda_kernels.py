"""The CUDA backend's Triton kernels on a GPU: the error against float32, then microseconds in a captured graph, beside torch's.

    python benchmarks/cuda_kernels.py [--only one some attention pointwise] [--tilings] [--seconds 600]

Shapes are those of Llama-3.1-8B in bfloat16. A kernel whose error is above its limit is not timed, and the exit status is 1. Each graph goes through
several matrices or caches, together larger than the level-2 cache, as a decode step does. "alone" means that kernels are launched one after the other;
otherwise they are launched dependently. With --tilings, products are also timed with others than the chosen tiling. Needs the plugin dovetail-backends-cuda.
"""

# ruff: noqa: B023 - what a loop defines is called within its round

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from common import heading
from dovetail_backends_cuda import launch, operations, pointwise
from dovetail_backends_cuda.attention import GatherAttention
from dovetail_backends_cuda.paged import PagedAttention
from dovetail_backends_cuda.products import (
    SOME,
    TiledMatrix,
    Tiling,
    choose_tiling,
    multiply_one,
    multiply_some,
)
from torch import Tensor

from dovetail.nn import AttentionSpec, KVIndex, Ops, Rope, Rotation, Step

BF16 = torch.bfloat16
CUDA = torch.device("cuda")
CHANNELS, INNER, VOCABULARY, HEADS, KV_HEADS, DIM = 4096, 14336, 128256, 32, 8, 128
SHAPES = {
    "qkv": (6144, CHANNELS),
    "out": (CHANNELS, CHANNELS),
    "gate-up": (2 * INNER, CHANNELS),
    "down": (CHANNELS, INNER),
    "head": (VOCABULARY, CHANNELS),
}
COLD_BYTES = 400_000_000
"""Of all matrices or caches of a graph together."""
LIMIT = 5e-3
"""Of the norm of the error to the norm of the reference: bfloat16's rounding alone is 1.7e-3."""
TILINGS = {
    4: [],
    16: [Tiling(32, 256, 5), Tiling(64, 128, 8, True), Tiling(64, 256, 5, True), Tiling(128, 128, 5, True)],
    32: [Tiling(64, 128, 6, True), Tiling(64, 256, 4, True), Tiling(128, 128, 5, True)],
    64: [Tiling(32, 128, 5), Tiling(128, 128, 4), Tiling(64, 128, 6, True), Tiling(128, 128, 4, True)],
}
"""Tokens, and what else is timed with --tilings than what is chosen."""
SCENES = ((1, 208), (1, 8192), (16, 208), (16, 6000), (64, 208), (64, 1500), (256, 208), (256, 750))
"""Requests and their length."""

failures: list[str] = []


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, device=CUDA, dtype=BF16)


def error(found: Tensor, wanted: Tensor) -> float:
    return float((found.float() - wanted.float()).norm() / wanted.float().norm())


def microseconds(calls: list[Callable[[], object]], replays: int = 15) -> float:
    """Median of one call, in a graph of all of them, which runs often enough that its launch does not count."""
    rounds = -(-32 // len(calls))
    for call in calls[:1]:
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(rounds):
            for call in calls:
                call()
    times = []
    for _ in range(replays):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    return 1e3 * statistics.median(times[3:]) / rounds / len(calls)


def report(
    name: str, found: Tensor, wanted: Tensor, calls: list[Callable[[], object]], nbytes: int = 0, alone: bool = True
) -> None:
    """Check the result, and time the calls, ``alone``: in both ways of launching."""
    try:
        size = error(found, wanted)
        text = f"{name:44s} error {size:.1e}"
        if not size < LIMIT:
            failures.append(name)
            print(text + " TOO LARGE", flush=True)
            return
        times = {}
        for launch.DEPENDENT in (False, True) if alone else (True,):
            times[launch.DEPENDENT] = microseconds(calls)
        rate = f" {nbytes / times[True] / 1e6:5.2f} TB/s" if nbytes else ""
        slow = f"  alone {times[False]:8.1f} us" if alone else ""
        print(f"{text}  {times[True]:8.1f} us{rate}{slow}", flush=True)
    except Exception as problem:
        failures.append(name)
        print(f"{name:44s} FAILED {type(problem).__name__}: {str(problem)[:300]}", flush=True)
    finally:
        launch.DEPENDENT = True


def baseline(name: str, calls: list[Callable[[], object]], nbytes: int = 0) -> None:
    taken = microseconds(calls)
    print(
        f"{name:44s}                {taken:8.1f} us" + (f" {nbytes / taken / 1e6:5.2f} TB/s" if nbytes else ""),
        flush=True,
    )


def matrices(n: int, k: int) -> list[Tensor]:
    return [random(n, k) * k**-0.5 for _ in range(max(1, min(16, COLD_BYTES // (2 * n * k))))]


def measure_one(args: argparse.Namespace) -> None:
    for name, (n, k) in SHAPES.items():
        weights = matrices(n, k)
        x = random(1, k)
        wanted = x.float() @ weights[0].float().T
        baseline(f"{name} 1: library", [lambda w=w: F.linear(x, w) for w in weights], 2 * n * k)
        calls = [lambda w=w: multiply_one(x, w) for w in weights]
        report(f"{name} 1", guarded(calls[0], wanted), wanted, calls, 2 * n * k)
        scale, residual = random(k), random(1, n)
        if name in ("out", "down"):
            wanted = wanted + residual.float()
            calls = [lambda w=w: multiply_one(x, w, residual=residual) for w in weights]
            report(f"{name} 1: added", guarded(calls[0], wanted), wanted, calls, 2 * n * k)
        if name in ("qkv", "gate-up"):
            normed = Ops.rms_norm(x.float(), scale.float(), 1e-5) @ weights[0].float().T
            gated = name == "gate-up"
            normed = Ops.silu_mul(normed) if gated else normed
            calls = [lambda w=w: multiply_one(x, w, gated, norm=(scale, 1e-5)) for w in weights]
            report(f"{name} 1: normed{', gated' * gated}", guarded(calls[0], normed), normed, calls, 2 * n * k)


def measure_some(args: argparse.Namespace) -> None:
    for tokens in TILINGS:
        for name, (n, k) in SHAPES.items():
            weights = matrices(n, k)
            tiled = [TiledMatrix(w) for w in weights]
            x = random(tokens, k)
            wanted = x.float() @ weights[0].float().T
            baseline(f"{name} {tokens}: library", [lambda w=w: F.linear(x, w) for w in weights], 2 * n * k)
            forms = (False, True) if name == "gate-up" else (False,)
            for gated in forms:
                chosen = choose_tiling(max(16, tokens), n, gated)
                truth = Ops.silu_mul(wanted) if gated else wanted
                for tiling in (chosen, *(t for t in TILINGS[tokens] if args.tilings and t != chosen)):
                    text = (
                        f"{tiling.rows} {tiling.columns} {tiling.stages}{' w' * tiling.weight_first}{', gated' * gated}"
                    )
                    calls = [lambda w=w, t=tiling, g=gated: multiply_some(x, w, g, t) for w in tiled]
                    found = guarded(calls[0], truth)
                    report(f"{name} {tokens}: {text}", found, truth, calls, 2 * n * k, tiling == chosen)
    for tokens in (5, 33, SOME):
        w, x = random(1000, 1024) / 32, random(tokens, 1024)
        wanted = x.float() @ w.float().T
        call = lambda x=x, w=w: multiply_some(x, TiledMatrix(w))  # noqa: E731
        report(f"odd rows {tokens}", guarded(call, wanted), wanted, [call], alone=False)


def guarded(call: Callable[[], Tensor], wanted: Tensor) -> Tensor:
    """What a kernel gives; NaN with a message if it fails."""
    try:
        found = call()
        torch.cuda.synchronize()
        return found
    except Exception as problem:
        print(f"  {type(problem).__name__}: {str(problem)[:500]}", flush=True)
        return torch.full_like(wanted, float("nan"))


def attention_scene(
    requests: int, length: int, block: int = 16, spec: AttentionSpec | None = None
) -> tuple[AttentionSpec, Step, Tensor, Tensor]:
    spec = spec or AttentionSpec(HEADS, KV_HEADS, DIM, DIM**-0.5)
    lengths = torch.randint(max(1, length - length // 8), length + 1, (requests,), device=CUDA)
    width = -(-length // block)
    tables = (1 + torch.randperm(requests * width, device=CUDA)).int().view(requests, width)
    positions = lengths - 1
    slots = tables.gather(1, (positions // block)[:, None])[:, 0].long() * block + positions % block
    step = Step(
        tokens=lengths,
        positions=positions,
        query_start=torch.arange(requests + 1, device=CUDA).int(),
        seq_lens=lengths.int(),
        logits_indices=lengths,
        kv=(KVIndex(tables, slots),),
        max_query_len=1,
        max_seq_len=length,
    )
    heads = spec.num_heads + 2 * spec.num_kv_heads
    return spec, step, random(requests, heads, spec.head_dim), positions


def measure_attention(args: argparse.Namespace) -> None:
    options = {"device": CUDA, "dtype": BF16, "kv_dtype": BF16, "block_size": 16}
    paged, gather = PagedAttention(**options), GatherAttention(**options)
    for requests, length in SCENES:
        spec, step, qkv, positions = attention_scene(requests, length)
        angles = positions[:, None].float() * 500000.0 ** (-torch.arange(DIM // 2, device=CUDA) / (DIM // 2))
        rotation = Rotation(Rope(angles.cos().to(BF16), angles.sin().to(BF16)), False, operations.rope)
        own = 2 * requests * length * KV_HEADS * DIM * 2
        blocks = 1 + requests * -(-length // 16)
        caches = [random(blocks, 16, 2 * KV_HEADS * DIM) for _ in range(max(1, min(8, COLD_BYTES // own)))]
        index = step.kv[0]
        heads = HEADS + KV_HEADS

        def attend(backend: GatherAttention, cache: Tensor) -> Tensor:
            return backend.forward_rotated(qkv[:, :heads], qkv[:, heads:], rotation, cache, step, index, spec)

        read = int(step.seq_lens.sum()) * KV_HEADS * DIM * 4
        index.metadata = gather.prepare(step, index, frozenset({spec}))
        wanted = attend(gather, caches[0])
        if length < 1000:
            baseline(f"{requests} x {length}: gather", [lambda c=c: attend(gather, c) for c in caches], read)
        index.metadata = paged.prepare(step, index, frozenset({spec}))
        calls = [lambda c=c: attend(paged, c) for c in caches]
        report(f"{requests} x {length}: paged", guarded(calls[0], wanted), wanted, calls, read)
    for sizes in (
        {"num_heads": 8, "num_kv_heads": 2, "head_dim": 64, "window": 100},
        {"num_heads": 6, "num_kv_heads": 2, "head_dim": 80},
        {"num_heads": 12, "num_kv_heads": 12, "head_dim": 96, "softcap": 20.0},
        {"num_heads": 5, "num_kv_heads": 1, "head_dim": 256, "window": 64},
        {"num_heads": 48, "num_kv_heads": 2, "head_dim": 128, "sinks": True},
    ):
        spec, step, qkv, _ = attention_scene(37, 300, spec=AttentionSpec(scale=sizes["head_dim"] ** -0.5, **sizes))
        cache = random(1 + 37 * 19, 16, 2 * spec.num_kv_heads * spec.head_dim)
        sinks = torch.randn(spec.num_heads, device=CUDA) if spec.sinks else None
        index = step.kv[0]
        parts = qkv.split((spec.num_heads, spec.num_kv_heads, spec.num_kv_heads), 1)
        index.metadata = gather.prepare(step, index, frozenset({spec}))
        wanted = gather.forward(*parts, cache, step, index, spec, sinks)
        index.metadata = paged.prepare(step, index, frozenset({spec}))
        call = lambda: paged.forward(*parts, cache, step, index, spec, sinks)  # noqa: E731
        report(f"paged {sizes}", guarded(call, wanted), wanted, [call], alone=False)


def measure_pointwise(args: argparse.Namespace) -> None:
    for tokens in (1, 16, 64, 256, 2048):
        x, residual, weight, both = (
            random(tokens, CHANNELS),
            random(tokens, CHANNELS),
            random(CHANNELS),
            random(tokens, 2 * INNER),
        )
        wanted = Ops.add_rms_norm(x.double(), residual.double(), weight.double(), 1e-5)[0]
        baseline(f"add and norm {tokens}: torch", [lambda: operations.add_rms_norm(x, residual, weight, 1e-5)])
        call = lambda: pointwise.add_rms_norm(x, residual, weight, 1e-5)  # noqa: E731
        report(f"add and norm {tokens}", guarded(lambda: call()[0], wanted), wanted, [call])
        gated = Ops.silu_mul(both.double())
        baseline(f"gate {tokens}: torch", [lambda: operations.silu_mul(both)])
        call = lambda: pointwise.silu_mul(both)  # noqa: E731
        report(f"gate {tokens}", guarded(call, gated), gated, [call])


PARTS = {"one": measure_one, "attention": measure_attention, "pointwise": measure_pointwise, "some": measure_some}


def parts(args: argparse.Namespace) -> Iterator[str]:
    began = time.perf_counter()
    for name in args.only:
        if time.perf_counter() - began > args.seconds:
            print(f"no time for {name}")
            continue
        started = time.perf_counter()
        yield name
        print(f"  {name}: {time.perf_counter() - started:.0f} s", flush=True)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--tilings", action="store_true")
    parser.add_argument("--seconds", type=float, default=600, help="begin no part after these")
    args = parser.parse_args()
    print(heading("benchmarks/cuda_kernels.py"), torch.cuda.get_device_name())
    for name in parts(args):
        PARTS[name](args)
    if failures:
        sys.exit(f"failed: {', '.join(failures)}")


if __name__ == "__main__":
    main()
