"""Every failure is OpenAI's error object, with the right status."""

from __future__ import annotations

from typing import Any

import pytest
from server_fakes import FakeEngine

from dovetail.engine.request.outputs import Delta
from dovetail.server.settings import ServerSettings

JSON = {"content-type": "application/json"}
PATH = "/v1/chat/completions"


def error_of(response: Any, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["x-request-id"]
    body = response.json()
    assert list(body) == ["error"]
    assert list(body["error"]) == ["message", "type", "param", "code"]
    error: dict[str, Any] = body["error"]
    expected = "server_error" if status >= 500 else "rate_limit_error" if status == 429 else "invalid_request_error"
    assert error["type"] == expected
    return error


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"temperature": "hot"}, "temperature", "found 'hot'"),
        ({"temperature": True}, "temperature", "found true"),
        ({"temperature": -1}, "temperature", "between 0 and 100"),
        ({"top_p": 0}, "top_p", "(0, 1]"),
        ({"n": 0}, "n", "at least 1"),
        ({"n": 10**30}, "n", "at most 2147483647"),
        ({"n": 10**9}, "n", "1024"),
        ({"max_tokens": 1.5}, "max_tokens", "found 1.5"),
        ({"max_tokens": 0}, "max_tokens", "at least 1"),
        ({"max_tokens": 10**6}, "max_tokens", "at most"),
        ({"min_tokens": 10**6}, "min_tokens", "at most"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens", "one of them"),
        ({"stop": [1]}, "stop", "a text or a list of texts"),
        ({"stop": {"Double": "x"}}, "stop", "a text or a list of texts"),
        ({"stop_token_ids": ["a"]}, "stop_token_ids[0]", "integer"),
        ({"seed": 2**63}, "seed", "64 bits"),
        ({"stream": "yes"}, "stream", "boolean"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage", "found 1"),
        ({"messages": []}, "messages", "empty"),
        ({"messages": "hi"}, "messages", "list"),
        ({"messages": ["hi"]}, "messages[0]", "found 'hi'"),
        ({"messages": [{"content": "a"}]}, "messages[0].role", "required"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "required"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content", "content parts"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content", "image_url"),
        ({"messages": [{"role": "function", "content": "a"}]}, "messages[0].name", "required"),
        ({"messages": [{"role": "refused", "content": "a"}]}, "messages", "refuses the role"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content", "content parts"),
        ({"messages": [{"role": "user", "content": [{"text": 5}]}]}, "messages[0].content", "content parts"),
        ({"messages": [{"role": "a", "tool_calls": [{}]}]}, "messages[0].tool_calls[0].function", "required"),
        ({"tools": [{}]}, "tools[0].type", "required"),
        ({"tool_choice": "required"}, "tool_choice", "has no tools"),
        ({"logprobs": 0}, "logprobs", "boolean"),
        ({"top_logprobs": 2}, "top_logprobs", "needs logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "20"),
        ({"logprobs": True, "top_logprobs": -1}, "top_logprobs", "0"),
        ({"prompt_logprobs": "1"}, "prompt_logprobs", "integer"),
        ({"prompt_logprobs": -2}, "prompt_logprobs", "-1"),
        ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs", "stream"),
        ({"logit_bias": {"a": 1}}, "logit_bias", "token ids"),
        ({"logit_bias": {"5": 101}}, "logit_bias", "100"),
        ({"logit_bias": {"5": "1"}}, "logit_bias.5", "number"),
        ({"logit_bias": [5]}, "logit_bias", "dictionary"),
        ({"bad_words": "no"}, "bad_words", "list"),
        ({"allowed_token_ids": []}, "allowed_token_ids", "non-empty"),
        ({"allowed_token_ids": ["a"]}, "allowed_token_ids[0]", "integer"),
        ({"best_of": 2, "n": 3}, "best_of", "at least n (3)"),
        ({"best_of": 2000}, "best_of", "1024"),
        ({"best_of": 2, "stream": True}, "best_of", "streamed"),
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens", "at least 1"),
        ({"truncate_prompt_tokens": -2}, "truncate_prompt_tokens", "-1"),
        ({"truncate_prompt_tokens": "1"}, "truncate_prompt_tokens", "integer"),
        ({"priority": 1}, "priority", "--scheduling-policy fcfs"),
        ({"priority": "1"}, "priority", "integer"),
        ({"priority": 10**30}, "priority", "less than"),
        ({"cache_salt": ""}, "cache_salt", "empty"),
        ({"cache_salt": 5}, "cache_salt", "string"),
        ({"return_token_ids": 1}, "return_token_ids", "boolean"),
        ({"return_tokens_as_token_ids": 1}, "return_tokens_as_token_ids", "boolean"),
        ({"spaces_between_special_tokens": 1}, "spaces_between_special_tokens", "boolean"),
        ({"early_stopping": True}, "early_stopping", "not supported yet"),
        ({"thinking": "yes"}, "thinking", "boolean"),
    ],
)
def test_bad_values_are_named(chat, engine: FakeEngine, body: dict[str, Any], param: str, words: str) -> None:
    error = error_of(chat(**body), 400)
    assert error["param"] == param
    assert words in error["message"]
    assert not engine.asked


def test_null_asks_for_nothing(chat) -> None:
    assert chat(tools=None, logprobs=None, colour=None, suffix=None).status_code == 200


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b'{"temperature": NaN}', "not valid JSON"),
        (b'{"temperature": -Infinity}', "not valid JSON"),
        (b'{"temperature": 1e999}', "not valid JSON"),
        (b'"\xff"', "not valid JSON"),
        (b'{"model": "\\ud800"}', "not valid JSON"),
        (b"[" * 50_000, "nested too deeply"),
        (b"[]", "a JSON object"),
        (b"null", "a JSON object"),
    ],
)
def test_malformed_json(ask, raw: bytes, words: str) -> None:
    error = error_of(ask("POST", PATH, content=raw, headers=JSON), 400)
    assert words in error["message"]
    assert error["code"] == "invalid_json"


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_other_content_types(ask, kind: str) -> None:
    error_of(ask("POST", PATH, content=b"{}", headers={"content-type": kind}), 415)


def test_unknown_model(chat, ask) -> None:
    error = error_of(chat(model="gpt-4o"), 404)
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert "fake/model" in error["message"]
    error_of(ask("GET", "/v1/models/no/such"), 404)


def test_unknown_route_and_method(ask) -> None:
    assert "/v1/nothing" in error_of(ask("GET", "/v1/nothing"), 404)["message"]
    response = ask("GET", "/v1/completions")
    assert "POST" in error_of(response, 405)["message"]
    assert response.headers["allow"] == "OPTIONS, POST"


def test_prompt_that_is_too_long(chat, complete) -> None:
    message = [{"role": "user", "content": "x" * 600}]
    error = error_of(chat(messages=message), 400)
    assert (error["code"], error["param"]) == ("context_length_exceeded", "messages")
    assert error_of(complete(prompt="x" * 511), 400)["param"] == "prompt"
    assert complete(prompt="x" * 510, max_tokens=1).status_code == 200


def test_body_that_is_too_large(ask) -> None:
    settings = ServerSettings(max_request_bytes=1024)

    async def pieces() -> Any:
        for _ in range(50):
            yield b" " * 100

    for content in (b" " * 2000, pieces()):
        error = error_of(ask("POST", PATH, content=content, headers=JSON, settings=settings), 413)
        assert "1024" in error["message"]
    lying = {**JSON, "content-length": "9" * 40}
    error_of(ask("POST", PATH, content=b"{}", headers=lying, settings=settings), 413)


def test_internal_errors_are_logged_and_not_told(chat, engine: FakeEngine, caplog: pytest.LogCaptureFixture) -> None:
    engine.fail_at = 0
    response = chat()
    error = error_of(response, 500)
    assert "secret" not in response.text
    assert response.headers["x-request-id"] in error["message"]
    assert "secret detail" in caplog.text
    assert response.headers["x-request-id"] in caplog.text


def test_errors_outside_of_routes(ask, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(text: str, add_special_tokens: bool = True) -> list[int]:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(engine.tokenizer, "encode", broken)
    response = ask("POST", "/v1/completions", json={"prompt": "a"})
    error_of(response, 500)
    assert "secret" not in response.text


def test_error_before_the_first_token_of_a_stream_has_a_status(chat, engine: FakeEngine) -> None:
    from dovetail.api.errors import RequestError

    engine.fail_at, engine.failure = 0, RequestError("no room", "wait", param="messages")
    assert error_of(chat(stream=True), 400)["message"] == "no room; wait"


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (RuntimeError("secret"), None),
        (Delta(0, "", [], "error", error="numbers went wrong"), "engine_error"),
        (Delta(0, "", [], "abort"), "server_stopping"),
    ],
)
def test_error_within_a_stream_is_an_event(chat, engine: FakeEngine, failure: Any, code: str | None) -> None:
    engine.fail_at, engine.failure = 3, failure
    response = chat(stream=True)
    assert response.status_code == 200
    last = response.text.strip().split("\n\n")[-1]
    assert last.startswith('data: {"error":{"message":')
    assert (f'"code":"{code}"' if code else '"code":null') in last
    assert "secret" not in response.text
    assert chat().status_code == (500 if code != "server_stopping" else 503)


def test_dead_engine(chat, ask, engine: FakeEngine) -> None:
    assert ask("GET", "/health").status_code == 200
    engine.die()
    assert "was killed" in error_of(ask("GET", "/health"), 503)["message"]
    error_of(ask("GET", "/ping"), 503)
    assert error_of(chat(), 503)["code"] == "engine_dead"
