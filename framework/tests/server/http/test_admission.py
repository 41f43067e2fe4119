"""How many requests may wait, and what those past it are told."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx2
import openai
import pytest
from server_fakes import FakeEngine

from dovetail.engine.messages import EngineStats
from dovetail.server.http.admission import Admission
from dovetail.server.http.errors import ApiError

ENDLESS = {"max_tokens": 400, "ignore_eos": True}


def test_without_a_limit_everybody_is_let_in() -> None:
    admission = Admission(FakeEngine(max_num_seqs=1))
    with admission.admit(10_000), admission.admit(10_000):
        assert admission.in_flight == 20_000
    assert admission.in_flight == 0


def test_what_runs_is_not_in_the_queue() -> None:
    admission = Admission(FakeEngine(max_num_seqs=4, max_num_queued_requests=2))
    with ExitStack() as stack:
        for _ in range(6):
            stack.enter_context(admission.admit(1))
        with pytest.raises(ApiError, match="2 requests may wait") as refused, admission.admit(1):
            pass
        assert refused.value.status == 429
        assert admission.in_flight == 6
    with admission.admit(1):
        pass


def test_a_queue_of_none_still_runs_what_has_a_place() -> None:
    admission = Admission(FakeEngine(max_num_seqs=2, max_num_queued_requests=0))
    with admission.admit(1), admission.admit(1), pytest.raises(ApiError), admission.admit(1):
        pass


def test_when_memory_lets_fewer_run_the_engine_s_own_count_decides() -> None:
    engine = FakeEngine(max_num_seqs=4, max_num_queued_requests=2)
    admission = Admission(engine)
    with admission.admit(1), admission.admit(1), admission.admit(1):
        engine.stats = EngineStats(running=1, waiting=2)
        with pytest.raises(ApiError), admission.admit(1):
            pass
        engine.stats = EngineStats(running=2, waiting=1)
        with admission.admit(1):
            pass


def test_requests_are_refused_as_a_whole() -> None:
    admission = Admission(FakeEngine(max_num_seqs=4, max_num_queued_requests=2))
    with admission.admit(3):
        with pytest.raises(ApiError), admission.admit(4):
            pass
        assert admission.in_flight == 3
        with admission.admit(3):
            pass


def test_alone_even_a_request_beyond_the_queue_is_served() -> None:
    admission = Admission(FakeEngine(max_num_seqs=4, max_num_queued_requests=2))
    with admission.admit(100):
        pass


def test_ended_sequences_make_room_before_their_request_ends() -> None:
    admission = Admission(FakeEngine(max_num_seqs=1, max_num_queued_requests=0))
    with admission.admit(3) as ticket:
        admission.release(ticket, 2)
        assert admission.in_flight == 1
        admission.release(ticket, 1)
        with admission.admit(1):
            assert admission.in_flight == 1
    assert admission.in_flight == 0


def test_when_to_come_back_follows_the_throughput() -> None:
    now = 0.0
    engine = FakeEngine(max_num_seqs=1, max_num_queued_requests=0)
    admission = Admission(engine, lambda: now)

    def told() -> int:
        with pytest.raises(ApiError) as refused, admission.admit(1):
            pass
        assert refused.value.headers is not None
        return int(refused.value.headers["Retry-After"])

    with admission.admit(8) as ticket:
        assert told() == 1
        for now in (10.0, 12.0, 14.0, 16.0):  # noqa: B007  # the clock
            admission.release(ticket, 1)
        # 4 ended within 6 s; 4 run or wait where 1 may: 4 must end before a fifth is let in.
        assert told() == 6
        now = 100.0
        assert told() == 1
    assert admission.in_flight == 0


def test_clients_are_told_and_those_who_leave_make_room(live: str, engine: FakeEngine, until) -> None:
    engine.delay, engine.max_num_seqs, engine.max_num_queued_requests = 0.01, 1, 1
    url = f"{live}/v1/completions"
    with httpx2.Client() as one, httpx2.Client() as two:
        streams = [client.stream("POST", url, json={"prompt": "a", "stream": True, **ENDLESS}) for client in (one, two)]
        for stream in streams:
            stream.__enter__()
        refused = httpx2.post(url, json={"prompt": "a", "stream": True})
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"] == {
            "message": "1 requests may wait (--max-num-queued-requests), and no more; try again in about 1 s",
            "type": "rate_limit_error",
            "param": None,
            "code": "queue_full",
        }
        client = openai.OpenAI(base_url=f"{live}/v1", api_key="none", max_retries=0)
        with client, pytest.raises(openai.RateLimitError):
            client.completions.create(model="fake/model", prompt="a")
        assert httpx2.get(f"{live}/load").json() == {"server_load": 2}
        streams[1].__exit__(None, None, None)
    until(lambda: len(engine.running) < 2)
    until(lambda: httpx2.post(url, json={"prompt": "a", "max_tokens": 1}).status_code == 200)


@pytest.mark.parametrize("body", [{"prompt": ["a"] * 4}, {"prompt": "a", "n": 4}, {"prompt": "a", "best_of": 4}])
def test_each_completion_counts(live: str, engine: FakeEngine, until, body: dict[str, object]) -> None:
    engine.delay, engine.max_num_seqs, engine.max_num_queued_requests = 0.05, 4, 0
    url = f"{live}/v1/completions"
    with ThreadPoolExecutor() as pool:
        running = pool.submit(httpx2.post, url, json={"prompt": "b", "max_tokens": 20, "ignore_eos": True})
        until(lambda: engine.running)
        assert httpx2.post(url, json=body).status_code == 429
        assert len(engine.asked) == 1
        assert httpx2.post(url, json={"prompt": ["a"] * 3, "max_tokens": 1}).status_code == 200
        assert running.result().status_code == 200
