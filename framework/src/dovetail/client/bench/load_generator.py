"""Sends the requests of a benchmark at their scheduled times."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import numpy as np

from dovetail.client.bench.datasets import Sample
from dovetail.client.bench.options import ServeOptions
from dovetail.client.bench.stream import Outcome, measure
from dovetail.client.http import LOOPBACK, ClientError

CONNECT_SECONDS = 60
"""Connect timeout. With a thousand connections at once, a server may need a while to accept the last."""


def arrival_times(count: int, rate: float, burstiness: float, seed: int) -> list[float]:
    """When each request is sent, in seconds from the start: gamma-distributed gaps, scaled so that the last request is
    sent at ``count / rate``.

    Scaling removes a difference between seeds that does not depend on the server.
    """
    if math.isinf(rate):
        return [0.0] * count
    gaps = np.random.default_rng(seed).gamma(burstiness, 1 / (rate * burstiness), count)
    times = np.cumsum(gaps)
    found: list[float] = (times * (count / rate / times[-1])).tolist()
    return found


def connect(root: str, api_key: str | None) -> aiohttp.ClientSession:
    """A client with as many connections as there are requests."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
        trust_env=urlsplit(root).hostname not in LOOPBACK,
    )


class Load:
    """The requests of one benchmark.

    Args:
        session: from :func:`connect`.
        root: the server's URL.
        model: its name there.
    """

    def __init__(self, session: aiohttp.ClientSession, root: str, model: str, options: ServeOptions) -> None:
        self.session = session
        self.root = root
        self.model = model
        self.options = options

    async def send(self, sample: Sample) -> Outcome:
        """Send one request."""
        return await measure(self.session, self.root + self.options.endpoint, self._body(sample), sample.input_len)

    async def run(self, samples: Sequence[Sample], progress: Callable[[], object]) -> tuple[list[Outcome], float]:
        """Send all requests. Returns their outcomes in order, and the seconds from the first start to the last end.

        Args:
            progress: called after each request.
        """
        options = self.options
        limit: Any = asyncio.Semaphore(options.max_concurrency) if options.max_concurrency else contextlib.nullcontext()

        async def one(sample: Sample) -> Outcome:
            async with limit:
                outcome = await self.send(sample)
            progress()
            return outcome

        tasks = []
        with _without_gc():
            started = time.perf_counter()
            when = arrival_times(len(samples), options.request_rate, options.burstiness, options.seed)
            for sample, at in zip(samples, when, strict=True):
                if (wait := started + at - time.perf_counter()) > 0:
                    await asyncio.sleep(wait)
                tasks.append(asyncio.create_task(one(sample)))
            outcomes = await asyncio.gather(*tasks)
            return outcomes, time.perf_counter() - started

    def _body(self, sample: Sample) -> dict[str, Any]:
        options = self.options
        body: dict[str, Any] = {"model": self.model, "stream": True, "stream_options": {"include_usage": True}}
        if options.is_chat:
            body |= {
                "messages": [{"role": "user", "content": sample.prompt}],
                "max_completion_tokens": sample.output_len,
            }
        else:
            body |= {"prompt": sample.prompt, "max_tokens": sample.output_len}
        if options.ignore_eos:
            body["ignore_eos"] = True
        return body | options.extra_body

    async def count_tokens(self, text: str) -> int:
        """The length of a text, counted by the server's tokenizer.

        Raises:
            ClientError: the server does not answer.
        """
        body = {"model": self.model, "prompt": text, "add_special_tokens": False}
        try:
            async with self.session.post(f"{self.root}/tokenize", json=body) as answer:
                answer.raise_for_status()
                return int((await answer.json())["count"])
        except (aiohttp.ClientError, OSError, ValueError, KeyError, TypeError) as error:
            message = f"{self.root}/tokenize cannot be asked for the lengths that the dataset needs ({error})"
            raise ClientError(message, "take the dataset random or custom") from None


@contextlib.contextmanager
def _without_gc() -> Iterator[None]:
    """Exclude existing objects from garbage collection, which would otherwise scan all prompts repeatedly."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
