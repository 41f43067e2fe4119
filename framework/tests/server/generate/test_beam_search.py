"""Beam search over HTTP, and texts that are filled in."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import pytest
from server_fakes import FakeEngine

from dovetail.engine.request.outputs import Delta, Logprob
from dovetail.engine.request.params import SamplingParams

A, B, END = ord("a"), ord("b"), 256
NEXT = {A: {A: -0.1, B: -2.4, END: -5.0}, B: {END: -0.01, A: -6.0, B: -7.0}}
"""Last token → logprobs of what may follow; ``x`` begins."""
START = {A: -1.0, B: -1.2, END: -20.0}


@pytest.fixture
def searched(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """An engine with a distribution."""
    engine.eos_ids = frozenset({END})

    async def generate(
        request_id: str, prompt_token_ids: list[int], params: SamplingParams, **options: Any
    ) -> AsyncGenerator[list[Delta], None]:
        engine.asked.append((prompt_token_ids, params))
        found = NEXT.get(prompt_token_ids[-1], START)
        likeliest = sorted(found, key=lambda token: -found[token])[: params.logprobs]
        position = {token: Logprob(found[token], rank) for rank, token in enumerate(likeliest, 1)}
        yield [Delta(0, "", [likeliest[0]], "length", logprobs=[position])]

    monkeypatch.setattr(engine, "generate", generate)
    return engine


def test_the_likeliest_completions_the_best_first(complete, searched: FakeEngine) -> None:
    response = complete(prompt="x", use_beam_search=True, n=2, max_tokens=3, length_penalty=0)
    assert response.status_code == 200, response.text
    body = response.json()
    # b and the end: -1.21; three times a: -1.2.
    assert [(choice["text"], choice["finish_reason"]) for choice in body["choices"]] == [
        ("aaa", "length"),
        ("b", "stop"),
    ]
    assert body["usage"]["completion_tokens"] == 5
    assert all(params.max_tokens == 1 for _, params in searched.asked)
    shorter = complete(prompt="x", use_beam_search=True, n=2, max_tokens=3, length_penalty=-3).json()
    assert shorter["choices"][0]["text"] == "b"


def test_the_chat_route_searches_too_and_gives_logprobs(chat, searched: FakeEngine) -> None:
    body = chat(use_beam_search=True, n=2, max_tokens=2, logprobs=True).json()
    assert len(body["choices"]) == 2
    assert all(len(choice["logprobs"]["content"]) == 2 for choice in body["choices"])


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"use_beam_search": True, "stream": True}, "stream"),
        ({"use_beam_search": True, "stop": "x"}, "stop"),
        ({"use_beam_search": True, "presence_penalty": 1}, "presence_penalty"),
        ({"use_beam_search": True, "temperature": 0.5}, "temperature"),
        ({"length_penalty": 2}, "length_penalty"),
    ],
)
def test_what_a_search_cannot_do_is_refused(chat, body: dict[str, Any], param: str) -> None:
    response = chat(**body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


def test_a_text_between_two_others(complete, engine: FakeEngine) -> None:
    ids = {"<fim_prefix>": 1, "<fim_suffix>": 2, "<fim_middle>": 3}
    engine.tokenizer.token_to_id = ids.get  # type: ignore[method-assign]
    assert complete(prompt="ab", suffix="cd").status_code == 200
    assert engine.asked[0][0] == [1, *b"ab", 2, *b"cd", 3]


def test_a_model_that_cannot_fill_in_says_so(complete) -> None:
    response = complete(prompt="ab", suffix="cd")
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "suffix"
    assert complete(prompt="ab", suffix="").status_code == 200
