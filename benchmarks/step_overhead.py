"""Python per step: scheduling and preparing the batch for many running requests, with and without prefix caching, against a construction request by
request.

python benchmarks/step_overhead.py [--requests 256]
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable

import torch
from common import heading, median_seconds

from dovetail.engine.engine_request import Request
from dovetail.engine.kv.groups import CacheGroup
from dovetail.engine.kv.manager import KVCacheManager
from dovetail.engine.request.params import SamplingParams
from dovetail.engine.sampling.wants import wants_of
from dovetail.engine.step.batch import Batch
from dovetail.engine.step.scheduler import Schedule, Scheduler
from dovetail.testing.reference import ReferencePlatform

BLOCK, PROMPT, LONGEST, STEPS = 16, 128, 8192, 50


class Engine:
    """All of a step but the model and what it samples."""

    def __init__(self, count: int, caching: bool, prompt: int = PROMPT) -> None:
        kv = KVCacheManager([CacheGroup("full", 1)], [1 + count * LONGEST // BLOCK], BLOCK, caching)
        self.scheduler = Scheduler(count, count * prompt, kv)
        self.batch = Batch(count, LONGEST, BLOCK, 1, ReferencePlatform())
        self.rng = random.Random(0)
        self.prompt = prompt
        for i in range(count):
            self.add(str(i))

    def add(self, name: str) -> Request:
        tokens = [self.rng.randrange(1000) for _ in range(self.prompt)]
        request = Request(name, tokens, SamplingParams(), self.prompt, LONGEST, frozenset())
        self.scheduler.add(request)
        return request

    def step(self, inputs: Callable[[Schedule], object]) -> None:
        schedule = self.scheduler.schedule()
        inputs(schedule)
        for request, tokens in schedule.tokens.items():
            request.computed += tokens
            self.batch.append(request, self.rng.randrange(1000))

    def prepare(self, schedule: Schedule) -> None:
        work = self.batch.begin(schedule)
        wants_of(work.sampled)
        self.batch.step(work, None)

    def decode(self, inputs: Callable[[Schedule], object]) -> None:
        for _ in range(STEPS):
            self.step(inputs)


def slow_inputs(schedule: Schedule) -> list[torch.Tensor]:
    """The same inputs, a token at a time: what the vectorised preparation is compared with."""
    tokens, positions, slots, tables = [], [], [], []
    for request, count in schedule.tokens.items():
        assert request.kv is not None
        table = request.kv.tables[0]
        tables.append(torch.tensor(table, dtype=torch.int32))
        for position in range(request.computed, request.computed + count):
            tokens.append(request.tokens[position])
            positions.append(position)
            slots.append(table[position // BLOCK] * BLOCK + position % BLOCK)
    padded = torch.nn.utils.rnn.pad_sequence(tables, batch_first=True)
    return [torch.tensor(tokens), torch.tensor(positions), torch.tensor(slots), padded]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=256)
    count = parser.parse_args().requests
    print(heading("benchmarks/step_overhead.py"))
    print(f"{count} running requests, one token each, per step:")
    for caching in (True, False):
        engine = Engine(count, caching)
        engine.step(engine.prepare)
        scheduling = median_seconds(lambda e=engine: e.decode(lambda schedule: None)) / STEPS
        ours = median_seconds(lambda e=engine: e.decode(e.prepare)) / STEPS
        print(
            f"  prefix caching {'on ' if caching else 'off'}: scheduling and bookkeeping {scheduling * 1e3:6.3f} ms,",
            end="",
        )
        print(f" with batch preparation {ours * 1e3:6.3f} ms")
    # Blocks of the persistent rows are up to date again before the slow construction is timed.
    slow = median_seconds(lambda: engine.decode(slow_inputs)) / STEPS
    print(f"  preparation token by token: {slow * 1e3:6.3f} ms ({slow / ours:.1f} times)")

    print("one prompt of 4,096 tokens, none of them in the cache, from its arrival to its first step's inputs:")
    for caching in (True, False):
        engine = Engine(1, caching, prompt=4096)
        engine.step(engine.prepare)

        def one(engine: Engine = engine) -> None:
            engine.scheduler.remove(engine.scheduler.running[0])
            engine.batch = Batch(1, LONGEST, BLOCK, 1, ReferencePlatform())
            engine.add("next")
            engine.step(engine.prepare)

        print(f"  prefix caching {'on ' if caching else 'off'}: {median_seconds(one) * 1e3:6.3f} ms")


if __name__ == "__main__":
    main()
