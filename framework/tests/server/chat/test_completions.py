"""The completions route."""

from __future__ import annotations

import json

import pytest
from server_fakes import WORDS, FakeEngine

from dovetail.server.settings import ServerSettings

TEXT = "".join(WORDS)


def test_whole_answer(complete, engine: FakeEngine) -> None:
    body = complete().json()
    assert body["object"] == "text_completion"
    assert body["id"].startswith("cmpl-")
    assert body["choices"] == [
        {"index": 0, "text": TEXT, "logprobs": None, "finish_reason": "stop", "stop_reason": None}
    ]
    assert engine.asked[0][0] == [256, *b"The capital"]
    assert engine.asked[0][1].max_tokens == 16


@pytest.mark.parametrize(
    ("prompt", "tokens"),
    [
        ("ab", [[256, 97, 98]]),
        (["ab", "c"], [[256, 97, 98], [256, 99]]),
        ([97, 98], [[97, 98]]),
        ([[97], [98, 99]], [[97], [98, 99]]),
    ],
)
def test_prompts(complete, engine: FakeEngine, prompt: object, tokens: list[list[int]]) -> None:
    body = complete(prompt=prompt, n=2, echo=True).json()
    assert [prompt for prompt, _ in engine.asked] == tokens
    assert [choice["index"] for choice in body["choices"]] == list(range(2 * len(tokens)))
    echoed = engine.tokenizer.decode(tokens[-1])
    assert body["choices"][-1]["text"] == echoed + TEXT
    assert body["usage"]["prompt_tokens"] == sum(map(len, tokens))
    assert body["usage"]["completion_tokens"] == 16 * len(tokens)


@pytest.mark.parametrize("prompt", [None, 3, {}, [], ["a", 1], [1.5], [[1], []], [[1], ["a"]], [-1], [True], [999]])
def test_prompts_that_are_none(complete, prompt: object) -> None:
    error = complete(prompt=prompt).json()["error"]
    assert error["param"] == "prompt"
    assert error["type"] == "invalid_request_error"


def test_stream_of_several_prompts(complete, engine: FakeEngine) -> None:
    engine.delay = 0.001
    response = complete(prompt=["a", "b", "c"], n=2, stream=True, echo=True, stream_options={"include_usage": True})
    lines = [line[6:] for line in response.text.split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    usage = json.loads(lines.pop())
    assert usage["usage"]["completion_tokens"] == 48
    texts, ends = [""] * 6, [None] * 6
    for line in lines:
        choice = json.loads(line)["choices"][0]
        texts[choice["index"]] += choice["text"]
        ends[choice["index"]] = choice["finish_reason"]
    assert texts == [prompt + TEXT for prompt in "aabbcc"]
    assert ends == ["stop"] * 6


def test_one_failing_prompt_ends_all(complete, engine: FakeEngine) -> None:
    engine.fail_at = 2
    assert complete(prompt=["a", "b"]).status_code == 500
    assert not engine.running


def test_limit_of_choices(ask) -> None:
    settings = ServerSettings(max_request_choices=5)
    fits = ask("POST", "/v1/completions", json={"prompt": ["a"] * 5}, settings=settings)
    assert fits.status_code == 200
    response = ask("POST", "/v1/completions", json={"prompt": ["a", "b"], "n": 3}, settings=settings)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "n"


def test_special_tokens_can_be_left_out(complete, engine: FakeEngine) -> None:
    complete(prompt="a", add_special_tokens=False)
    assert engine.asked[0][0] == [97]


def test_model_that_does_not_generate(complete, engine: FakeEngine) -> None:
    engine.plan.tasks = ("embed",)
    error = complete().json()["error"]
    assert "generate" in error["message"]
    assert "embed" in error["message"]
