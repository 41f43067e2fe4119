"""``/stats``: what the server is doing, request by request."""

from __future__ import annotations

import asyncio
import time

import httpx2
import pytest
from server_fakes import FakeEngine

from dovetail.engine.engine_request import Request
from dovetail.engine.messages import EngineStats, Overview
from dovetail.engine.request.params import SamplingParams
from dovetail.engine.step.overview import MAX_LISTED_REQUESTS, overview
from dovetail.server.operations import stats
from dovetail.server.settings import ServerSettings

STATS = EngineStats(
    running=2,
    waiting=3,
    kv_usage=0.25,
    prefix_queries=100,
    prefix_hits=40,
    preemptions=1,
    prompt_tokens=70,
    output_tokens=90,
)


def test_what_it_says(ask, engine: FakeEngine) -> None:
    engine.stats = STATS
    engine.adapters["poet"] = "/poet"
    engine.running = {"b", "a"}
    found = ask("GET", "/stats").json()
    assert 0 <= found.pop("uptime") < 60
    assert found == {
        "model": "fake/model",
        "models": ["fake/model", "poet"],
        "max_model_len": 512,
        "max_num_seqs": 4,
        "running": 2,
        "waiting": 3,
        "kv_cache_usage": 0.25,
        "prefix_cache": {"queries": 100, "hits": 40},
        "preemptions": 1,
        "prompt_tokens": 70,
        "output_tokens": 90,
        "requests": [
            {"id": id, "state": "running", "prompt_tokens": 5, "output_tokens": 2, "seconds": 0.25} for id in "ab"
        ],
        "requests_left_out": 3,
    }


def test_it_moves_with_the_requests(live: str, engine: FakeEngine, until) -> None:
    engine.delay, engine.words = 0.01, ("word ",) * 400
    with httpx2.stream("POST", f"{live}/v1/completions", json={"prompt": "x", "stream": True}) as stream:
        assert stream.status_code == 200
        assert len(httpx2.get(f"{live}/stats").json()["requests"]) == 1
    until(lambda: httpx2.get(f"{live}/stats").json()["requests"] == [])


def test_it_needs_the_key_and_an_engine(ask, engine: FakeEngine) -> None:
    assert ask("GET", "/stats", settings=ServerSettings(api_key=["k"])).status_code == 401
    engine.die()
    assert ask("GET", "/stats").status_code == 503


def request(name: str, prompt: int, output: int) -> Request:
    made = Request(name, [0] * (prompt + output), SamplingParams(), prompt, 100, frozenset())
    made.arrival_time = time.monotonic() - 5
    return made


def test_the_engine_s_overview() -> None:
    running, waiting = [request("a", 4, 2)], [request("b", 3, 0)]
    running[0].num_in_flight_tokens = 1
    found = overview(STATS, running, waiting)
    assert found.stats == STATS
    assert [(r.id, r.state, r.prompt_tokens, r.output_tokens) for r in found.requests] == [
        ("a", "running", 4, 3),
        ("b", "waiting", 3, 0),
    ]
    assert all(5 <= r.seconds < 6 for r in found.requests)
    assert found.num_omitted == 0


def test_an_overview_lists_so_many_and_no_more() -> None:
    many = [request(str(number), 1, 0) for number in range(MAX_LISTED_REQUESTS)]
    found = overview(STATS, many[:-1], many[:5])
    assert len(found.requests) == MAX_LISTED_REQUESTS
    assert [r.state for r in found.requests[-2:]] == ["running", "waiting"]
    assert found.num_omitted == 4


def test_it_gives_up_on_a_busy_engine(ask, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    async def busy() -> Overview:
        await asyncio.sleep(60)
        raise AssertionError

    monkeypatch.setattr(engine, "overview", busy)
    monkeypatch.setattr(stats, "ENGINE_SECONDS", 0.05)
    response = ask("GET", "/stats")
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "engine_busy"
