"""What LoRA adapters cost a decode step: a stack of a model's linear layers, with and without them.

python benchmarks/lora.py [--channels 1024] [--layers 8] [--loras 4] [--rank 16] [--device cpu]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from common import heading
from torch import Tensor

from dovetail.nn import Context, GatedMLP, Linear, Ops, Step
from dovetail.nn.dense import DenseKernel, DenseWeight
from dovetail.testing import ReferenceAttention

BATCHES = (1, 16, 64)
REPEATS = 31


class Stack:
    """The linear layers of so many blocks, each input normalised so that values stay near one."""

    def __init__(
        self, layers: int, channels: int, loras: int, rank: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        attention = ReferenceAttention(device=device, dtype=dtype, kv_dtype=dtype, block_size=16)
        self.ctx = Context(
            device=device,
            dtype=dtype,
            ops=Ops(),
            attention=attention,
            max_tokens=64,
            max_loras=loras,
            max_lora_rank=rank,
        )
        self.blocks: list[tuple[Linear, Linear, GatedMLP]] = []
        for i in range(layers):
            qkv = self.ctx.linear({f"{i}.q": channels, f"{i}.k": channels // 4, f"{i}.v": channels // 4}, channels)
            self.blocks.append(
                (qkv, self.ctx.linear(f"{i}.o", channels, channels), GatedMLP(self.ctx, str(i), channels, 3 * channels))
            )
        for layer in dict.fromkeys(self.ctx.layers.values()):
            weights = {
                part: DenseWeight.of(torch.randn(n, k, device=device, dtype=dtype) * k**-0.5, "dense")
                for part, (n, k) in layer.parts.items()
            }
            layer.finish(weights, lambda w, kind: DenseKernel(w, kind, device, dtype))
        for slot in range(1, loras + 1):
            adapter = {
                part: (
                    torch.randn(rank, layer.parts[part][1], dtype=dtype) * layer.parts[part][1] ** -0.5,
                    torch.randn(layer.parts[part][0], rank, dtype=dtype) * rank**-0.5,
                )
                for part, layer in self.ctx.layers.items()
            }
            assert self.ctx.adapters is not None
            self.ctx.adapters.write(slot, adapter)

    def __call__(self, x: Tensor, chosen: Tensor | None) -> Tensor:
        if self.ctx.adapters is not None:
            none = x.new_zeros(0, dtype=torch.int64)
            self.ctx.adapters.begin_step(Step(none, none, none, none, none, (), 1, 1, adapters=chosen))
        for qkv, out, mlp in self.blocks:
            x = out(torch.nn.functional.normalize(qkv(x)[:, : x.shape[1]])) + x
            x = mlp(torch.nn.functional.normalize(x)) + x
        return x


def repeatable(work: Callable[[], Tensor], device: torch.device) -> Callable[[], object]:
    """On a GPU a captured graph, as the engine runs decode steps; elsewhere the work itself."""
    if device.type != "cuda":
        return work
    graph = torch.cuda.CUDAGraph()
    work()
    with torch.cuda.graph(graph):
        work()

    def replay() -> None:
        graph.replay()
        torch.cuda.synchronize()

    return replay


def medians(runs: list[Callable[[], object]]) -> list[float]:
    """Median seconds of each, taken in turns, so that a machine that slows down slows all of them."""
    times: list[list[float]] = [[] for _ in runs]
    for repeat in range(REPEATS + 1):
        for run, found in zip(runs, times, strict=True):
            started = time.perf_counter()
            run()
            if repeat:
                found.append(time.perf_counter() - started)
    return [statistics.median(found) for found in times]


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--channels", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--loras", type=int, default=4)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    torch.manual_seed(0)
    base, adapted = (
        Stack(options.layers, options.channels, loras, options.rank, device, dtype) for loras in (0, options.loras)
    )
    assert adapted.ctx.adapters is not None
    weights = sum(layer.nbytes for layer in dict.fromkeys(base.ctx.layers.values()))
    print(heading("benchmarks/lora.py"))
    print(
        f"{options.layers} blocks of {options.channels} channels on {device} in {options.dtype}: weights {weights / 2**20:.0f} MiB, "
        f"{options.loras} slots of rank {options.rank} {adapted.ctx.adapters.nbytes / 2**20:.0f} MiB"
    )
    print("one token each; ms a step, and times the model without slots")
    print(f"{'requests':>8} {'no slots':>10} {'no adapter':>18} {'one adapter':>18} {f'{options.loras} adapters':>18}")
    for batch in BATCHES:
        x = torch.randn(batch, options.channels, device=device, dtype=dtype)
        one = torch.ones(batch, dtype=torch.int64, device=device)
        several = torch.arange(batch, device=device) % options.loras + 1
        cases: list[tuple[Stack, Tensor | None]] = [(base, None), (adapted, None), (adapted, one), (adapted, several)]
        runs = [
            repeatable(lambda stack=stack, chosen=chosen, x=x: stack(x, chosen), device)  # type: ignore[misc]
            for stack, chosen in cases
        ]
        times = medians(runs)
        row = [f"{batch:8} {times[0] * 1e3:10.3f}"]
        row += [f"{seconds * 1e3:10.3f} {seconds / times[0]:6.2f}x" for seconds in times[1:]]
        print(" ".join(row))


if __name__ == "__main__":
    main()
