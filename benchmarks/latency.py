"""What requests wait for, on the embedded model: a prompt's first token when its beginning is cached and when it is not, and the pauses of running
streams while a long prompt is computed beside them.

python benchmarks/latency.py [--dtype float32] [--streams 4] [--prompt 4000]
"""

from __future__ import annotations

import argparse
import random
import statistics
import time

from common import heading

from dovetail.engine.args import EngineArgs
from dovetail.engine.messages import NewRequest
from dovetail.engine.request.params import SamplingParams
from dovetail.engine.setup import make_plan
from dovetail.engine.step.core import EngineCore


def first_token(core: EngineCore, name: str, prompt: list[int]) -> float:
    """Seconds from a request's arrival to its only token."""
    started = time.perf_counter()
    core.add(NewRequest(name, prompt, SamplingParams(temperature=0, max_tokens=1)))
    while not core.idle:
        core.step()
    return time.perf_counter() - started


def pauses(core: EngineCore, streams: int, prompt: list[int], tokens: int) -> tuple[list[float], float]:
    """Seconds between the tokens of each stream while a long prompt is computed beside them, and until that one's first token."""
    greedy = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
    for i in range(streams):
        core.add(NewRequest(f"stream-{i}", prompt[i : i + 32], greedy))
    last: dict[str, float] = {}
    gaps: list[float] = []
    arrived = first = 0.0
    while not core.idle:
        outputs = core.step()
        now = time.perf_counter()
        for output in outputs:
            if output.id.startswith("stream"):
                if output.id in last:
                    gaps.append(now - last[output.id])
                last[output.id] = now
            elif not first:
                first = now - arrived
        if not arrived and len(gaps) > streams * tokens // 5:
            arrived = now
            core.add(NewRequest("long", prompt, SamplingParams(temperature=0, max_tokens=1)))
    return gaps, first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--prompt", type=int, default=4000)
    parser.add_argument("--tokens", type=int, default=400, help="of each stream")
    options = parser.parse_args()
    rng = random.Random(0)
    prompt = [rng.randrange(1000, 40000) for _ in range(options.prompt)]
    plan = make_plan(EngineArgs(dtype=options.dtype))
    print(heading("benchmarks/latency.py"))
    core = EngineCore(plan, EngineArgs(dtype=options.dtype))
    cold, warm = first_token(core, "cold", prompt), first_token(core, "warm", prompt)
    print(
        f"{options.dtype}: first token of {len(prompt)} tokens {cold:.2f} s, the second time {warm:.3f} s ({cold / warm:.0f} times faster)"
    )
    for slowdown in (0.0, 2.0):
        core = EngineCore(plan, EngineArgs(dtype=options.dtype, max_decode_slowdown=slowdown))
        gaps, first = pauses(core, options.streams, prompt, options.tokens)
        middle, late = statistics.median(gaps), statistics.quantiles(gaps, n=100)[98]
        print(
            f"--max-decode-slowdown {slowdown:g}: {options.streams} streams, between tokens p50 {middle * 1e3:.0f} ms, p99 {late * 1e3:.0f} ms "
            f"({late / middle:.1f} times), longest {max(gaps) * 1e3:.0f} ms; first token of the long prompt after {first:.1f} s"
        )


if __name__ == "__main__":
    main()
