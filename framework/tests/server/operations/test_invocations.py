"""One route for all bodies."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest
from server_fakes import FakeEngine, serving

from dovetail.kernel.plan_parts import PoolingPlan
from dovetail.server.settings import ServerSettings

PATH = "/invocations"
POOLING = PoolingPlan(type="last", normalize=True, reason="the default")
QUESTION = {"messages": [{"role": "user", "content": "Why?"}]}


@pytest.mark.parametrize(
    ("asked", "tasks", "kind"),
    [
        (QUESTION, "generate", "chat.completion"),
        ({"prompt": "a"}, "generate", "text_completion"),
        ({"input": "a"}, "embed", "list"),
        (QUESTION, "embed", "list"),
        ({"text_1": "a", "text_2": "b"}, "embed", "list"),
        ({"queries": "a", "documents": ["b"]}, "embed", "list"),
    ],
)
def test_a_body_finds_its_route(ask, engine: FakeEngine, asked: dict[str, Any], tasks: str, kind: str) -> None:
    engine.plan.tasks, engine.plan.pooling = (tasks,), POOLING
    response = ask("POST", PATH, json=asked)
    assert response.status_code == 200, response.text
    assert response.json()["object"] == kind


def test_reranking(ask, engine: FakeEngine) -> None:
    engine.plan.tasks, engine.plan.pooling = ("embed",), POOLING
    assert "results" in ask("POST", PATH, json={"query": "a", "documents": ["b", "c"]}).json()


def test_a_stream_is_that_of_the_route(ask) -> None:
    asked = {**QUESTION, "stream": True, "seed": 1}
    here, there = (ask("POST", path, json=asked) for path in (PATH, "/v1/chat/completions"))
    assert here.headers["content-type"] == there.headers["content-type"]
    assert here.text.count("data: ") == there.text.count("data: ") > 3


@pytest.mark.parametrize(
    ("given", "status", "code"),
    [
        ({"json": {"colour": 1}}, 400, "missing_required_parameter"),
        ({"json": {**QUESTION, "temperature": "hot"}}, 400, "invalid_value"),
        ({"json": {**QUESTION, "model": "other"}}, 404, "model_not_found"),
        ({"json": {"input": "a"}}, 400, "unsupported_task"),
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 400, "invalid_json"),
        ({"content": b"{}"}, 415, None),
    ],
)
def test_failures_are_those_of_the_route(ask, given: dict[str, Any], status: int, code: str | None) -> None:
    response = ask("POST", PATH, **given)
    assert response.status_code == status, response.text
    assert response.json()["error"]["code"] == code


def test_it_wants_a_key_and_knows_its_prefix(engine: FakeEngine, ask) -> None:
    settings = ServerSettings(api_key=["secret"], root_path="/llm")
    assert ask("POST", PATH, json=QUESTION, settings=settings).status_code == 401
    headers = {"authorization": "Bearer secret"}
    for path in (PATH, "/llm" + PATH):
        assert ask("POST", path, json=QUESTION, settings=settings, headers=headers).status_code == 200


def test_a_client_that_leaves_ends_its_request(engine: FakeEngine, until) -> None:
    engine.delay, engine.words = 0.01, ("word ",) * 400
    with (
        serving(engine, ServerSettings()) as url,
        httpx2.stream("POST", url + PATH, json={**QUESTION, "stream": True}) as response,
    ):
        next(response.iter_lines())
        until(lambda: engine.aborted)
