"""GGUF types on a CPU: unpacking against the ``gguf`` package, and multiplying by them against a plain float32 product.

    python benchmarks/quant_gguf.py [--threads 2] [--seconds 0.2] [type …]

Times are the best of those that fit in ``--seconds``. The weight is 2048 x 2048, of random codes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import gguf
import numpy as np
import torch
import torch.nn.functional as F
from dovetail_quant_gguf.format import GgufWeight
from dovetail_quant_gguf.types import TYPES

from dovetail.nn import StoredWeight, WeightKernel
from dovetail.nn.affine import AffineKernel
from dovetail.nn.dense import DequantizeKernel

SIZE = 2048
TOKENS = (1, 128)


def best(work: Callable[[], Any], seconds: float) -> float:
    """Seconds of the fastest run, after one that is not counted."""
    work()
    fastest, end = float("inf"), time.perf_counter() + seconds
    while fastest == float("inf") or time.perf_counter() < end:
        start = time.perf_counter()
        work()
        fastest = min(fastest, time.perf_counter() - start)
    return fastest


def packed(name: str) -> torch.Tensor:
    """uint8 ``[SIZE, bytes of a row]``, random but for finite scales."""
    layout = TYPES[name]
    blocks = np.random.default_rng(0).integers(0, 256, (SIZE * SIZE // layout.weights, layout.bytes), dtype=np.uint8)
    for field in layout.floats:
        for byte, mask in field:
            blocks[:, byte] &= ~np.uint8(1 << (mask.bit_length() - 1))
    return torch.from_numpy(blocks.reshape(SIZE, -1))


def products(weight: StoredWeight, kernel: type[WeightKernel], seconds: float) -> str:
    built = kernel(weight, "linear", torch.device("cpu"), torch.float32)
    times = [best(partial(built, torch.randn(tokens, SIZE)), seconds) * 1e3 for tokens in TOKENS]
    return " ".join(f"{t:7.2f}" for t in times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("types", nargs="*", default=list(TYPES), metavar="type")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=0.2)
    args = parser.parse_args()
    if unknown := sorted(set(args.types) - set(TYPES)):
        parser.error(f"unknown types {', '.join(unknown)}; known: {', '.join(TYPES)}")
    torch.set_num_threads(args.threads)

    millions = SIZE * SIZE / 1e6
    dense = torch.randn(SIZE, SIZE)
    plain = [best(partial(F.linear, torch.randn(tokens, SIZE), dense), args.seconds) * 1e3 for tokens in TOKENS]
    print(f"F.linear, float32: {' '.join(f'{t:.2f}' for t in plain)} ms for {' and '.join(map(str, TOKENS))} tokens\n")
    print("          unpacking, ms per million        product, ms for 1 and 128 tokens   bits per weight")
    print("type         gguf    ours  speedup       dequantize           affine        file  affine")
    for name in args.types:
        data = packed(name)
        weight = GgufWeight.of(data, name)
        type = gguf.GGMLQuantizationType[name.upper()]
        theirs = best(partial(gguf.quants.dequantize, data.numpy(), type), args.seconds) * 1e3 / millions
        ours = best(partial(weight.dense, torch.float32), args.seconds) * 1e3 / millions
        line = f"{name:8s} {theirs:8.2f} {ours:7.2f} {theirs / ours:7.0f}x"
        line += f"    {products(weight, DequantizeKernel, args.seconds)}"
        bits = f"{weight.nbytes * 8 / SIZE**2:10.2f}"
        if TYPES[name].affine_bits is not None:
            kernel = AffineKernel(weight, "linear", torch.device("cpu"), torch.float32)
            line += f"  {products(weight, AffineKernel, args.seconds)}"
            bits += f" {kernel.nbytes * 8 / SIZE**2:7.2f}"
        else:
            line += " " * 17
        print(line + bits, flush=True)


if __name__ == "__main__":
    main()
