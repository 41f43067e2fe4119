"""A snapshot of the engine for monitoring: its requests and their state."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import chain, islice

from dovetail.engine.args import EngineArgs
from dovetail.engine.engine_request import Request
from dovetail.engine.messages import EngineStats, Overview, RequestStats

MAX_LISTED_REQUESTS = 200
"""Maximum number of listed requests. The engine computes nothing while it makes the list."""


def overview(stats: EngineStats, running: Sequence[Request], waiting: Sequence[Request]) -> Overview:
    """List the running requests, then the waiting ones, in the scheduler's order."""
    now = time.monotonic()
    named = chain((("running", request) for request in running), (("waiting", request) for request in waiting))
    listed = [
        RequestStats(
            request.id, state, request.num_prompt_tokens, request.num_output_tokens, now - request.arrival_time
        )
        for state, request in islice(named, MAX_LISTED_REQUESTS)
    ]
    return Overview(stats, listed, len(running) + len(waiting) - len(listed))


def describe_cache(args: EngineArgs, dtype: str, counts: Sequence[int]) -> dict[str, str]:
    """The configuration of the KV cache, under the names that monitoring tools know.

    Args:
        counts: blocks of each group. The first one is reported.
    """
    return {
        "block_size": str(args.block_size),
        "cache_dtype": dtype,
        "enable_prefix_caching": str(args.enable_prefix_caching),
        "gpu_memory_utilization": str(args.gpu_memory_utilization),
        "num_gpu_blocks": str(counts[0] if counts else 0),
    }
