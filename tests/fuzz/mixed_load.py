"""Mixed load for a server: clients of all kinds at once, polite and rude, while its health and memory are watched."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx2
import psutil

PROBE_SECONDS = 0.05
FORMATS = 60
SETTLE_SECONDS = 2.0
"""Until what clients that left had asked for has ended."""


@dataclass
class Watched:
    """What was seen of a server under load.

    Attributes:
        longest_health: the longest that ``/health`` took, in seconds.
        megabytes: by module of the processes ("main" for the first), after each minute, with the load paused.
        statuses: how often each status was answered; 0 for connections that were lost.
        unexpected: answers with status 500, shortened.
    """

    longest_health: float = 0.0
    megabytes: dict[str, list[float]] = field(default_factory=dict)
    statuses: dict[int, int] = field(default_factory=dict)
    unexpected: list[str] = field(default_factory=list)

    def growth(self) -> dict[str, float]:
        """Megabytes that each process has gained since the end of the first minute."""
        return {name: values[-1] - values[0] for name, values in self.megabytes.items()}


Act = Callable[[httpx2.AsyncClient, random.Random], Awaitable[int]]
"""One visit of a client. Returns the status of the answer."""


def _text(rng: random.Random, words: int) -> str:
    return " ".join(
        rng.choice(("alpha", "beta", "<|im_start|>", "γάμμα", "🙂", "\x1b[31m", "0", "[INST]")) for _ in range(words)
    )


async def _post(client: httpx2.AsyncClient, path: str, body: Any) -> int:
    return (await client.post(path, json=body)).status_code


async def chat(client: httpx2.AsyncClient, rng: random.Random) -> int:
    messages = [{"role": "user", "content": _text(rng, rng.choice((1, 5, 20)))}]
    return await _post(client, "/v1/chat/completions", {"messages": messages, "max_tokens": rng.randint(1, 12)})


async def stream_and_leave(client: httpx2.AsyncClient, rng: random.Random) -> int:
    body = {"prompt": _text(rng, 8), "max_tokens": 200, "ignore_eos": True, "stream": True, "n": rng.choice((1, 1, 4))}
    left = rng.randint(0, 6)
    async with client.stream("POST", "/v1/completions", json=body) as response:
        async for _ in response.aiter_lines():
            left -= 1
            if left < 0:
                break
        return response.status_code


async def format(client: httpx2.AsyncClient, rng: random.Random) -> int:
    """An output format that nobody has asked for before."""
    name = f"field{rng.randrange(10**9)}"
    schema = {"type": "object", "properties": {name: {"type": "string", "maxLength": 5}}, "required": [name]}
    outputs = rng.choice(({"json": schema}, {"regex": f"{rng.randrange(10**6)}a{{20}}"}, {"choice": [name, "no"]}))
    return await _post(client, "/v1/completions", {"prompt": "x", "max_tokens": 8, "structured_outputs": outputs})


async def hostile_format(client: httpx2.AsyncClient, rng: random.Random) -> int:
    outputs = rng.choice(
        (
            {"regex": f"{rng.randrange(10**6)}a{{1000000}}"},
            {"choice": [f"{rng.randrange(10**9)}" * 20 for _ in range(2000)]},
            {"json": {"type": "string", "maxLength": 10**12}},
            {"regex": "(a{1000}){1000}"},
        )
    )
    return await _post(client, "/v1/completions", {"prompt": "x", "max_tokens": 2, "structured_outputs": outputs})


async def nonsense(client: httpx2.AsyncClient, rng: random.Random) -> int:
    value = rng.choice((None, -1, 2**64, 10**30, "x", [], {}, [[]], "é" * 1000, 1e308, True))
    name = rng.choice(("max_tokens", "n", "stop", "logit_bias", "seed", "temperature", "prompt", "bad_words", "top_k"))
    return await _post(client, "/v1/completions", {"prompt": "x", "max_tokens": 2, name: value})


async def tokenize(client: httpx2.AsyncClient, rng: random.Random) -> int:
    return await _post(client, "/tokenize", {"prompt": "word " * rng.choice((1, 100, 50_000))})


async def stops(client: httpx2.AsyncClient, rng: random.Random) -> int:
    body = {"prompt": "x", "max_tokens": 20, "ignore_eos": True}
    which = rng.choice(({"stop": ["ab" * 2000 + str(i) for i in range(60)]}, {"bad_words": ["abc" * 200] * 100}))
    return await _post(client, "/v1/completions", {**body, **which})


async def choices(client: httpx2.AsyncClient, rng: random.Random) -> int:
    ids = list(range(200)) * 50
    return await _post(client, "/v1/completions", {"prompt": "x", "max_tokens": 1, "n": 64, "allowed_token_ids": ids})


async def respond(client: httpx2.AsyncClient, rng: random.Random) -> int:
    body = {"input": _text(rng, 10), "max_output_tokens": 16, "background": rng.choice((True, False))}
    return await _post(client, "/v1/responses", body)


async def watch(client: httpx2.AsyncClient, rng: random.Random) -> int:
    return (await client.get(rng.choice(("/metrics", "/stats", "/v1/models", "/version", "/load")))).status_code


async def half_a_body(client: httpx2.AsyncClient, rng: random.Random) -> int:
    """A client that sends a part of what it announced, and goes."""

    async def parts() -> AsyncIterator[bytes]:
        yield b'{"prompt": "'
        await asyncio.sleep(rng.random() * 0.2)
        raise ConnectionAbortedError

    with contextlib.suppress(ConnectionAbortedError):
        await client.post("/v1/completions", content=parts(), headers={"content-type": "application/json"})
    return 0


ACTS: tuple[Act, ...] = (
    chat,
    chat,
    stream_and_leave,
    format,
    hostile_format,
    nonsense,
    tokenize,
    stops,
    choices,
    respond,
    watch,
    half_a_body,
)


async def fill_caches(url: str) -> None:
    """Ask for more formats than are kept compiled, so that memory is measured with full caches from the first minute on."""
    rng = random.Random("caches")
    async with httpx2.AsyncClient(base_url=url, timeout=120) as client:
        for _ in range(FORMATS):
            choices = [f"{rng.randrange(10**9)}" * 20 for _ in range(2000)]
            body = {"prompt": "x", "max_tokens": 1, "structured_outputs": {"choice": choices}}
            await _post(client, "/v1/completions", body)


async def run_load(url: str, pid: int, minutes: float, clients: int = 12, seed: int = 0) -> Watched:
    """Put a server under load.

    Args:
        pid: of its main process; memory is measured of it and of all its children.
    """
    seen = Watched()
    going = asyncio.Event()
    going.set()
    ended = asyncio.Event()

    async def visit(number: int) -> None:
        rng = random.Random(f"{seed}-{number}")
        async with httpx2.AsyncClient(base_url=url, timeout=120) as client:
            while not ended.is_set():
                await going.wait()
                try:
                    status = await rng.choice(ACTS)(client, rng)
                except httpx2.HTTPError:
                    status = 0
                seen.statuses[status] = seen.statuses.get(status, 0) + 1

    async def probe() -> None:
        async with httpx2.AsyncClient(base_url=url, timeout=60) as client:
            while not ended.is_set():
                started = time.perf_counter()
                response = await client.get("/health")
                seen.longest_health = max(seen.longest_health, time.perf_counter() - started)
                if response.status_code != 200:
                    seen.unexpected.append(f"/health: {response.status_code} {response.text[:200]}")
                await asyncio.sleep(PROBE_SECONDS)

    filling = asyncio.create_task(fill_caches(url))
    tasks = [asyncio.create_task(visit(number)) for number in range(clients)]
    health = asyncio.create_task(probe())
    left = minutes
    while left > 0:
        await asyncio.sleep(min(1.0, left) * 60)
        left -= 1
        going.clear()
        await asyncio.sleep(SETTLE_SECONDS)
        _measure(pid, seen)
        print(
            f"  {minutes - max(left, 0):.1f} min: {json.dumps({k: v[-1] for k, v in seen.megabytes.items()})}",
            flush=True,
        )
        going.set()
    ended.set()
    await asyncio.gather(filling, health, *tasks)
    return seen


def _measure(pid: int, seen: Watched) -> None:
    main = psutil.Process(pid)
    now: dict[str, float] = {}
    for process in (main, *main.children(recursive=True)):
        words = () if process == main else process.cmdline()
        module = next((word for word in words if word.startswith("dovetail.")), "main")
        now[module] = now.get(module, 0.0) + process.memory_full_info().uss / 2**20
    for module, megabytes in now.items():
        seen.megabytes.setdefault(module, []).append(round(megabytes, 1))
