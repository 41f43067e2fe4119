"""Milliseconds to sample a batch, by what its requests ask for.

python benchmarks/sampler.py [--requests 1 16 64 256] [--vocabulary 49152] [--text 200] [--threads 2]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from common import heading

from dovetail.engine.engine_request import Request
from dovetail.engine.request.params import SamplingParams
from dovetail.engine.sampling import SamplingTables, build_logit_edits, build_sampling_metadata, sample

KINDS: dict[str, Callable[[int], dict[str, Any]]] = {
    "greedy": lambda i: {"temperature": 0},
    "one random, the others greedy": lambda i: {"temperature": 0 if i else 1},
    "temperature": lambda i: {"temperature": 0.8},
    "min_p 0.05": lambda i: {"min_p": 0.05},
    "top_k 50": lambda i: {"top_k": 50},
    "top_p 0.9": lambda i: {"top_p": 0.9},
    "penalties": lambda i: {"frequency_penalty": 0.5, "repetition_penalty": 1.1, "temperature": 0},
    "presence penalty": lambda i: {"presence_penalty": 0.5, "temperature": 0},
    "logprobs 5": lambda i: {"logprobs": 5, "temperature": 0},
    "mixed": lambda i: MIXED[i % len(MIXED)],
}
MIXED: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 0.8},
    {"top_k": 50, "top_p": 0.95},
    {"top_p": 0.9},
    {"temperature": 0, "presence_penalty": 0.5},
    {"logit_bias": {7: 1.0}},
    {"min_p": 0.1},
    {"min_tokens": 9},
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, nargs="+", default=[1, 16, 64, 256])
    parser.add_argument("--vocabulary", type=int, default=49152)
    parser.add_argument("--text", type=int, default=200, help="tokens of each request, all different")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(heading("benchmarks/sampler.py"))
    print(f"  {'requests':<30}" + "".join(f"{count:>9}" for count in args.requests))
    for name, make in KINDS.items():
        times = (milliseconds(make, count, args.vocabulary, args.text) for count in args.requests)
        print(f"  {name:<30}" + "".join(f"{time:9.2f}" for time in times))


def milliseconds(make: Callable[[int], dict[str, Any]], count: int, vocabulary: int, text: int = 200) -> float:
    """One step of so many requests, from logits to tokens."""
    logits = torch.randn(count, vocabulary, generator=torch.Generator().manual_seed(0)) * 3
    scratch = torch.empty_like(logits)
    tables = SamplingTables(count, vocabulary, torch.device("cpu"), torch.from_numpy)
    requests: list[Request] = []
    tokens = torch.randperm(vocabulary, generator=torch.Generator().manual_seed(1))[:text].tolist()
    for row in range(count):
        params = SamplingParams(**{"max_tokens": 100, **make(row)})
        requests.append(Request(str(row), tokens, params, text // 2, 10 * text, frozenset({0}), seed=row))
        tables.set(row, requests[-1])
    tables.flush()
    rows, positions = torch.arange(count), torch.full((count,), text)

    def step() -> None:
        scratch.copy_(logits)  # sampling may change them
        edits = build_logit_edits([(request, ()) for request in requests], vocabulary, torch.from_numpy)
        sample(scratch, rows, positions, tables, build_sampling_metadata(requests), edits)

    return (least_seconds(step) - least_seconds(lambda: scratch.copy_(logits))) * 1e3


def least_seconds(work: Callable[[], object]) -> float:
    """Of 10 runs: other load on the machine only ever adds."""
    times = []
    for _ in range(10):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


if __name__ == "__main__":
    main()
