"""Streams that have nothing to tell for long."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from server_fakes import WORDS, FakeEngine, serving

from dovetail.engine.request.outputs import Delta
from dovetail.server.settings import ServerSettings

TEXT = "".join(WORDS)
QUESTION: Any = [{"role": "user", "content": "Why?"}]
ASKED: Any = {"model": "fake/model", "messages": QUESTION, "stream": True}
PING = ": waiting"


@pytest.fixture
def url(engine: FakeEngine) -> Iterator[str]:
    """A server whose engine takes several times as long for a token as the server is patient."""
    engine.delay = 0.1
    with serving(engine, ServerSettings(sse_ping_interval=0.02)) as url:
        yield url


def told(response: httpx2.Response) -> list[str]:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    return [event for event in response.text.split("\n\n") if event]


def test_comments_come_before_the_first_token_and_between_tokens(url: str) -> None:
    events = told(httpx2.post(f"{url}/v1/chat/completions", json=ASKED))
    assert events[0] == PING, "the stream has begun before there was a token"
    first, last = (next(i for i, event in enumerate(events) if text in event) for text in (WORDS[0], WORDS[-1]))
    assert PING in events[first:last]
    assert events[-1] == "data: [DONE]"
    assert all(event == PING or event.startswith("data: ") for event in events)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses", "/v1/completions"])
def test_the_events_are_those_of_a_stream_that_is_quick(url: str, engine: FakeEngine, path: str) -> None:
    asked = {
        "/v1/chat/completions": ASKED,
        "/v1/messages": {**ASKED, "max_tokens": 99},
        "/v1/responses": {"input": "Why?", "stream": True, "store": False},
        "/v1/completions": {"prompt": "Why?", "stream": True},
    }[path]
    slow = told(httpx2.post(url + path, json=asked))
    assert PING in slow
    engine.delay = 0.0
    with serving(engine, ServerSettings()) as patient:
        quick = told(httpx2.post(patient + path, json=asked))
    assert PING not in quick
    assert len([event for event in slow if event != PING]) == len(quick)


def test_a_response_in_the_background_is_followed_with_comments(url: str) -> None:
    events = told(httpx2.post(f"{url}/v1/responses", json={"input": "Why?", "stream": True, "background": True}))
    first, last = (next(i for i, event in enumerate(events) if text in event) for text in (WORDS[0], WORDS[-1]))
    assert PING in events[:first]
    assert PING in events[first:last]
    assert "response.completed" in events[-1]


def test_clients_pass_over_them(url: str) -> None:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        chunks = list(client.chat.completions.create(**ASKED))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == TEXT
        with client.responses.stream(model="fake/model", input="Why?") as stream:
            assert stream.get_final_response().output_text == TEXT
    with (
        anthropic.Anthropic(base_url=url, api_key="none", max_retries=0) as client,
        client.messages.stream(model="fake/model", max_tokens=99, messages=QUESTION) as stream,
    ):
        assert stream.get_final_text() == TEXT


@pytest.mark.parametrize(
    "failure", [RuntimeError("secret detail"), Delta(0, "", [], "error", error="the cache is broken")]
)
def test_what_fails_after_a_comment_is_an_event(url: str, engine: FakeEngine, failure: Any) -> None:
    engine.fail_at, engine.failure = 0, failure
    events = told(httpx2.post(f"{url}/v1/chat/completions", json=ASKED))
    assert events[0] == PING
    assert '"error"' in events[-1]
    assert "secret" not in events[-1]


def test_what_fails_at_once_has_its_status(live: str, engine: FakeEngine) -> None:
    engine.fail_at = 0
    assert httpx2.post(f"{live}/v1/chat/completions", json=ASKED).status_code == 500


def test_a_client_that_leaves_while_it_waits_ends_its_request(url: str, engine: FakeEngine, until: Any) -> None:
    engine.delay = 30.0
    with httpx2.stream("POST", f"{url}/v1/chat/completions", json=ASKED) as response:
        assert next(response.iter_lines()) == PING
    until(lambda: engine.aborted and not engine.running)


def test_a_server_may_send_none(engine: FakeEngine) -> None:
    engine.delay = 0.1
    with serving(engine, ServerSettings(sse_ping_interval=0)) as url:
        assert PING not in told(httpx2.post(f"{url}/v1/chat/completions", json=ASKED))
