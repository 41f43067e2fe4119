"""Milliseconds to sample a batch, by what its requests ask for, against one row at a time.

python benchmarks/sampler.py [--requests 64] [--vocabulary 49152]
"""

from __future__ import annotations

import argparse

import torch
from common import heading, median_seconds

from dovetail.engine.params import SamplingParams
from dovetail.engine.request import Request
from dovetail.engine.sampler import sample

GREEDY = SamplingParams(temperature=0)
KINDS = {
    "all greedy": lambda i: GREEDY,
    "one random, the others greedy": lambda i: GREEDY if i else SamplingParams(),
    "temperature": lambda i: SamplingParams(temperature=0.8),
    "temperature, seeded": lambda i: SamplingParams(temperature=0.8, seed=i),
    "top_k 40, top_p 0.9": lambda i: SamplingParams(top_k=40, top_p=0.9),
    "top_p 0.9": lambda i: SamplingParams(top_p=0.9),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--vocabulary", type=int, default=49152)
    args = parser.parse_args()
    print(heading("benchmarks/sampler.py"))
    logits = torch.randn(args.requests, args.vocabulary, generator=torch.Generator().manual_seed(0)) * 3
    for name, make in KINDS.items():
        requests = [Request(str(i), [1, 2, 3], make(i), 3, 1000, frozenset({0})) for i in range(args.requests)]

        def one_by_one(requests: list[Request] = requests) -> None:
            for row, request in enumerate(requests):
                sample(logits[row : row + 1].clone(), [request])

        together = median_seconds(lambda requests=requests: sample(logits.clone(), requests))  # type: ignore[misc]
        alone = median_seconds(one_by_one)
        print(f"  {name:<30} {together * 1e3:7.1f} ms together {alone * 1e3:7.1f} ms one by one")


if __name__ == "__main__":
    main()
