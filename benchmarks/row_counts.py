"""Seconds and memory of products whose number of rows changes from step to step, as a server's does: with few numbers of rows, and with every number.

oneDNN makes code for each number of rows, and keeps it for the process, so each way runs in a process of its own.

python benchmarks/row_counts.py [--dtype float32] [--steps 600] [--rows 300] [--threads 2] [--rounds 2]
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import time

import psutil
import torch
from common import heading

SHAPES = ((960, 576), (576, 576), (3072, 576), (576, 1536))
"""Rows and columns of SmolLM2-135M's weights."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--rows", type=int, default=300, help="the most rows of a step; fewer are likelier")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--way", choices=["few", "every"], help="run one of them in this process")
    args = parser.parse_args()
    if args.way:
        measure(args)
        return
    print(heading("benchmarks/row_counts.py"))
    for _ in range(args.rounds):
        for way in ("every", "few"):
            subprocess.run([sys.executable, *sys.argv, "--way", way], check=True)


def measure(args: argparse.Namespace) -> None:
    from dovetail_backends_cpu import row_invariant as cpu

    torch.set_num_threads(args.threads)
    if args.way == "every":
        cpu.round_rows = lambda rows: max(cpu.ROWS, rows)
    dtype = getattr(torch, args.dtype)
    weights = [cpu.lay_out(torch.randn(n, k, dtype=dtype)) for n, k in SHAPES]

    def step(rows: int) -> None:
        for weight in weights:
            cpu.linear(torch.zeros(rows, weight.shape[1], dtype=dtype), weight)

    process, draw = psutil.Process(), random.Random(0)
    with torch.inference_mode():
        step(1)
        before = process.memory_full_info().uss
        started = time.perf_counter()
        for _ in range(args.steps):
            step(min(draw.randint(1, args.rows), draw.randint(1, args.rows)))
        seconds = time.perf_counter() - started
    grown = (process.memory_full_info().uss - before) / 2**20
    name = {"every": "every number of rows", "few": "few numbers of rows"}[args.way]
    print(f"  {args.dtype}, {name:<20} {seconds:7.2f} s {grown:7.0f} MB", flush=True)


if __name__ == "__main__":
    main()
