"""Python per step: scheduling and preparing the batch for many running requests, against a construction request by request.

python benchmarks/step_overhead.py [--requests 256]
"""

from __future__ import annotations

import argparse

import torch
from common import heading, median_seconds

from dovetail.engine.batch import Batch
from dovetail.engine.kv_cache import KVCacheManager
from dovetail.engine.params import SamplingParams
from dovetail.engine.request import Request
from dovetail.engine.scheduler import Schedule, Scheduler

BLOCK, PROMPT, LONGEST, STEPS = 16, 128, 4096, 50


def slow_inputs(schedule: Schedule) -> list[torch.Tensor]:
    """The same inputs, a token at a time: what the vectorised preparation is compared with."""
    tokens, positions, slots = [], [], []
    for request, count in schedule.tokens.items():
        for position in range(request.computed, request.computed + count):
            tokens.append(request.tokens[position])
            positions.append(position)
            slots.append(request.blocks[position // BLOCK] * BLOCK + position % BLOCK)
    tables = torch.zeros(len(schedule.tokens), max(len(r.blocks) for r in schedule.tokens), dtype=torch.int32)
    for row, request in enumerate(schedule.tokens):
        tables[row, : len(request.blocks)] = torch.tensor(request.blocks, dtype=torch.int32)
    return [torch.tensor(tokens), torch.tensor(positions), torch.tensor(slots), tables]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=256)
    count = parser.parse_args().requests
    scheduler = Scheduler(count, count * PROMPT, KVCacheManager(1 + count * LONGEST // BLOCK, BLOCK))
    batch = Batch(count, LONGEST, BLOCK, torch.device("cpu"))
    for i in range(count):
        scheduler.add(Request(str(i), [1] * PROMPT, SamplingParams(), PROMPT, LONGEST, frozenset()))

    def finish(schedule: Schedule) -> None:
        for request, tokens in schedule.tokens.items():
            request.computed += tokens
            batch.append(request, 1)

    def prepare_prefill() -> None:
        schedule = scheduler.schedule()
        batch.prepare(schedule)
        finish(schedule)

    def decode(inputs: object) -> None:
        for _ in range(STEPS):
            schedule = scheduler.schedule()
            inputs(schedule)  # type: ignore[operator]
            finish(schedule)

    prepare_prefill()
    scheduling = median_seconds(lambda: decode(lambda schedule: None)) / STEPS
    ours = median_seconds(lambda: decode(batch.prepare)) / STEPS
    # Blocks of the persistent rows are up to date again before the slow construction is timed.
    slow = median_seconds(lambda: decode(slow_inputs)) / STEPS
    print(heading("benchmarks/step_overhead.py"))
    print(f"{count} running requests, one token each, per step:")
    print(f"  schedule and bookkeeping        {scheduling * 1e3:7.3f} ms")
    print(f"  with batch preparation          {ours * 1e3:7.3f} ms")
    print(f"  with preparation token by token {slow * 1e3:7.3f} ms ({slow / ours:.1f} times)")


if __name__ == "__main__":
    main()
