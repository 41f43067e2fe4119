"""Fixtures of tests that ask a server over a fake engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from server_fakes import FakeEngine, build_app, serving, serving_app, until

from dovetail.server.observe.counters import Counters
from dovetail.server.settings import ServerSettings
from dovetail.server.stored.database import create_store_file


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


Ask = Callable[..., httpx2.Response]


@pytest.fixture
def ask(engine: FakeEngine) -> Ask:
    """Send one request to the application, without a socket."""

    def send(method: str, path: str, *, settings: ServerSettings | None = None, **kwargs: Any) -> httpx2.Response:
        app = build_app(engine, settings or ServerSettings())

        async def run() -> httpx2.Response:
            transport = httpx2.ASGITransport(app)
            async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.request(method, path, **kwargs)

        return asyncio.run(run())

    return send


@pytest.fixture
def chat(ask: Ask) -> Ask:
    """Send a chat request with a question already in it."""

    def send(**body: Any) -> httpx2.Response:
        body.setdefault("messages", [{"role": "user", "content": "What is the capital of France?"}])
        return ask("POST", "/v1/chat/completions", json=body)

    return send


@pytest.fixture
def complete(ask: Ask) -> Ask:
    def send(**body: Any) -> httpx2.Response:
        body.setdefault("prompt", "The capital")
        return ask("POST", "/v1/completions", json=body)

    return send


@pytest.fixture(name="until")
def until_fixture() -> Callable[..., None]:
    return until


@pytest.fixture
def live(engine: FakeEngine) -> Iterator[str]:
    """The URL of a real server over ``engine``."""
    with serving(engine, ServerSettings()) as url:
        yield url


@pytest.fixture
def responses(live: str) -> Iterator[Ask]:
    """Send a request about responses to a server that lives as long as the test; without a path, one for a new response."""
    with httpx2.Client(base_url=live) as client:

        def send(path: str = "", method: str = "POST", **body: Any) -> httpx2.Response:
            if method == "GET":
                return client.get(f"/v1/responses{path}", params=body)
            if path or method != "POST":
                return client.request(method, f"/v1/responses{path}")
            return client.post("/v1/responses", json={"input": "Capital of France?", **body})

        yield send


@pytest.fixture
def openai_client(live: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{live}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def two(engine: FakeEngine, tmp_path: Path) -> Iterator[list[httpx2.Client]]:
    """Clients of two servers that share what is kept, as the processes of one do."""
    file, counters = create_store_file(tmp_path), Counters.create(3)
    assert counters.fd is not None
    with ExitStack() as stack:
        clients = []
        for number in (1, 2):
            app = build_app(engine, ServerSettings(), Counters.open(counters.fd, number), store=file)
            url = stack.enter_context(serving_app(app))
            clients.append(stack.enter_context(httpx2.Client(base_url=url)))
        yield clients
