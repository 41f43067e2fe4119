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
from dovetail.engine.kv.groups import KVCacheGroup
from dovetail.engine.kv.manager import KVCacheManager
from dovetail.engine.request.params import SamplingParams
from dovetail.engine.sampling.metadata import build_sampling_metadata
from dovetail.engine.step.input_batch import InputBatch
from dovetail.engine.step.scheduler import Scheduler, SchedulerOutput
from dovetail.testing.reference import ReferencePlatform

BLOCK, PROMPT, LONGEST, STEPS = 16, 128, 8192, 50


class Engine:
    """All of a step but the model and what it samples."""

    def __init__(self, count: int, enable_caching: bool, prompt: int = PROMPT) -> None:
        kv = KVCacheManager([KVCacheGroup(1)], [1 + count * LONGEST // BLOCK], BLOCK, enable_caching)
        self.scheduler = Scheduler(count, count * prompt, kv)
        self.batch = InputBatch(count, LONGEST, BLOCK, 1, ReferencePlatform())
        self.rng = random.Random(0)
        self.prompt = prompt
        for i in range(count):
            self.add(str(i))

    def add(self, name: str) -> Request:
        tokens = [self.rng.randrange(1000) for _ in range(self.prompt)]
        request = Request(name, tokens, SamplingParams(), self.prompt, LONGEST, frozenset())
        self.scheduler.add(request)
        return request

    def step(self, inputs: Callable[[SchedulerOutput], object]) -> None:
        schedule = self.scheduler.schedule()
        inputs(schedule)
        for request, tokens in schedule.tokens.items():
            request.num_computed_tokens += tokens
            self.batch.append(request, self.rng.randrange(1000))

    def prepare(self, schedule: SchedulerOutput) -> None:
        work = self.batch.prepare_step(schedule)
        build_sampling_metadata(work.sampled_requests)
        self.batch.build_step(work, None)

    def decode(self, inputs: Callable[[SchedulerOutput], object]) -> None:
        for _ in range(STEPS):
            self.step(inputs)


def slow_inputs(schedule: SchedulerOutput) -> list[torch.Tensor]:
    """The same inputs, a token at a time: what the vectorised preparation is compared with."""
    tokens, positions, slots, tables = [], [], [], []
    for request, count in schedule.tokens.items():
        assert request.kv_blocks is not None
        table = request.kv_blocks.tables[0]
        tables.append(torch.tensor(table, dtype=torch.int32))
        for position in range(request.num_computed_tokens, request.num_computed_tokens + count):
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
    for enable_caching in (True, False):
        engine = Engine(count, enable_caching)
        engine.step(engine.prepare)
        scheduling = median_seconds(lambda e=engine: e.decode(lambda schedule: None)) / STEPS
        ours = median_seconds(lambda e=engine: e.decode(e.prepare)) / STEPS
        print(
            f"  prefix caching {'on ' if enable_caching else 'off'}: scheduling and bookkeeping {scheduling * 1e3:6.3f} ms,",
            end="",
        )
        print(f" with batch preparation {ours * 1e3:6.3f} ms")
    # Blocks of the persistent rows are up to date again before the slow construction is timed.
    slow = median_seconds(lambda: engine.decode(slow_inputs)) / STEPS
    print(f"  preparation token by token: {slow * 1e3:6.3f} ms ({slow / ours:.1f} times)")

    print("one prompt of 4,096 tokens, none of them in the cache, from its arrival to its first step's inputs:")
    for enable_caching in (True, False):
        engine = Engine(1, enable_caching, prompt=4096)
        engine.step(engine.prepare)

        def one(engine: Engine = engine) -> None:
            engine.scheduler.remove(engine.scheduler.running[0])
            engine.batch = InputBatch(1, LONGEST, BLOCK, 1, ReferencePlatform())
            engine.add("next")
            engine.step(engine.prepare)

        print(f"  prefix caching {'on ' if enable_caching else 'off'}: {median_seconds(one) * 1e3:6.3f} ms")


if __name__ == "__main__":
    main()
