"""``dovetail bench startup``: the time from the start of a server's process to its first response."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from pathlib import Path

from dovetail.client.bench.options import StartupOptions
from dovetail.client.bench.report import write_json
from dovetail.client.http import ChatClient

PROMPT = "Once upon a time"


def run_startup(start: Callable[[], AbstractContextManager[str]], options: StartupOptions) -> int:
    """Start a server several times.

    Args:
        start: starts one, and returns its URL once ``/health`` reports ready.

    Raises:
        ClientError: the server refused a completion.
    """
    ready: list[float] = []
    answered: list[float] = []
    for _ in range(options.num_iters):
        started = time.perf_counter()
        with start() as url:
            ready.append(time.perf_counter() - started)
            with (
                ChatClient(url) as client,
                closing(
                    client.stream_completion(PROMPT, model=client.main_model(), max_tokens=1, ignore_eos=True)
                ) as pieces,
            ):
                next(pieces, None)
                answered.append(time.perf_counter() - started)
    for name, seconds in (("ready", ready), ("first token", answered)):
        print(
            f"{name}: median {statistics.median(seconds):.2f} s, fastest {min(seconds):.2f} s, slowest {max(seconds):.2f} s "
            f"({len(seconds)} starts)"
        )
    if options.output_json:
        write_json(Path(options.output_json), {"ready_seconds": ready, "first_token_seconds": answered})
    return 0
