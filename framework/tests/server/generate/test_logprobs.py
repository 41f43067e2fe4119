"""Logprobs, echo, token ids and cached tokens, whole and streamed, as OpenAI's client reads them."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import openai
import pytest
from server_fakes import WORDS, FakeEngine, FakeTokenizer

from dovetail.engine.request.outputs import Delta, Logprob
from dovetail.server.generate.logprobs import CompletionLogprobs, TokenFormatter, chat_logprobs

TEXT = "".join(WORDS)
MESSAGES: Any = [{"role": "user", "content": "a"}]
LETTERS = list("abcdefgh")


@pytest.fixture
def client(live: str) -> Any:
    with openai.OpenAI(base_url=f"{live}/v1", api_key="none", max_retries=0) as made:
        yield made


def chunks(response: httpx2.Response) -> list[Any]:
    assert response.status_code == 200, response.text
    *lines, done = response.text.strip().split("\n\n")
    assert done == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines]


@pytest.mark.parametrize("top", [None, 0, 2, 4])
def test_chat(client: openai.OpenAI, top: int | None) -> None:
    options: Any = {} if top is None else {"top_logprobs": top}
    answer = client.chat.completions.create(model="fake/model", messages=MESSAGES, logprobs=True, n=2, **options)
    for choice in answer.choices:
        assert choice.logprobs is not None
        content = choice.logprobs.content
        assert content is not None
        assert [entry.token for entry in content] == LETTERS
        assert content[0].logprob == -3
        assert content[0].bytes == [ord("a")]
        shown = {None: [], 0: [], 2: ["1", "2"], 4: ["1", "2", "a", "4"]}[top]
        assert [entry.token for entry in content[0].top_logprobs] == shown
        assert [entry.logprob for entry in content[0].top_logprobs] == [-1, -2, -3, -4][: len(shown)]


def test_chat_streamed(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="fake/model", messages=MESSAGES, logprobs=True, top_logprobs=1, stream=True
    )
    found = [
        entry
        for chunk in stream
        for choice in chunk.choices
        if choice.logprobs
        for entry in choice.logprobs.content or []
    ]
    assert [entry.token for entry in found] == LETTERS
    assert [entry.top_logprobs[0].token for entry in found] == ["1"] * 8
    with client.chat.completions.stream(model="fake/model", messages=MESSAGES, logprobs=True) as joined:
        logprobs = joined.get_final_completion().choices[0].logprobs
    assert logprobs is not None
    assert [entry.token for entry in logprobs.content or []] == LETTERS


@pytest.mark.parametrize("top", [0, 2, 4])
def test_completions(client: openai.OpenAI, engine: FakeEngine, top: int) -> None:
    answer = client.completions.create(model="fake/model", prompt=["a", "b"], logprobs=top, max_tokens=3)
    assert [params.logprobs for _, params in engine.asked] == [top] * 2
    for choice in answer.choices:
        logprobs = choice.logprobs
        assert logprobs is not None
        assert logprobs.tokens == LETTERS[:3]
        assert logprobs.token_logprobs == [-3.0] * 3
        assert logprobs.text_offset == [0, 1, 2]
        assert logprobs.top_logprobs is not None
        shown = {0: {"a": -3}, 2: {"a": -3, "1": -1, "2": -2}, 4: {"a": -3, "1": -1, "2": -2, "4": -4}}[top]
        assert logprobs.top_logprobs[0] == shown


def test_completions_with_echo_show_the_prompt_s_too(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="fake/model", prompt="xyz", logprobs=1, echo=True, max_tokens=2, n=2)
    for choice in whole.choices:
        logprobs = choice.logprobs
        assert choice.text == "xyz" + "".join(WORDS[:2])
        assert logprobs is not None
        assert logprobs.tokens == ["<s>", "x", "y", "z", "a", "b"]
        assert logprobs.token_logprobs == [None, -3, -3, -3, -3, -3]
        assert logprobs.text_offset == [0, 3, 4, 5, 6, 7]
        assert logprobs.top_logprobs is not None
        assert logprobs.top_logprobs[:2] == [None, {"x": -3, "1": -1}]
    stream = client.completions.create(
        model="fake/model", prompt="xyz", logprobs=1, echo=True, max_tokens=2, n=2, stream=True
    )
    joined: list[Any] = [{"text": "", "tokens": [], "text_offset": []} for _ in range(2)]
    for chunk in stream:
        choice = chunk.choices[0]
        assert choice.logprobs is not None
        joined[choice.index]["text"] += choice.text
        joined[choice.index]["tokens"] += choice.logprobs.tokens or []
        joined[choice.index]["text_offset"] += choice.logprobs.text_offset or []
    for got, choice in zip(joined, whole.choices, strict=True):
        assert choice.logprobs is not None
        assert got == {
            "text": choice.text,
            "tokens": choice.logprobs.tokens,
            "text_offset": choice.logprobs.text_offset,
        }


@pytest.mark.parametrize("stream", [False, True])
def test_scoring_a_prompt(complete, engine: FakeEngine, stream: bool) -> None:
    response = complete(
        prompt="xyz",
        logprobs=0,
        echo=True,
        max_tokens=0,
        stream=stream,
        stream_options={"include_usage": True} if stream else None,
    )
    if stream:
        *pieces, last = chunks(response)
        assert len(pieces) == 1
        choice, usage = pieces[0]["choices"][0], last["usage"]
    else:
        choice, usage = response.json()["choices"][0], response.json()["usage"]
    assert engine.asked[0][1].max_tokens == 1
    assert choice["text"] == "xyz"
    assert choice["finish_reason"] == "length"
    assert choice["logprobs"]["tokens"] == ["<s>", "x", "y", "z"]
    assert usage["completion_tokens"] == 0
    assert complete(max_tokens=0).status_code == 400
    assert complete(max_tokens=0, echo=True, min_tokens=2).status_code == 400


def test_echo_shows_what_truncation_left(complete, engine: FakeEngine) -> None:
    body = complete(prompt=["wxyz", "a"], echo=True, truncate_prompt_tokens=2, max_tokens=1).json()
    assert [prompt for prompt, _ in engine.asked] == [[*b"yz"], [256, *b"a"]]
    assert [choice["text"] for choice in body["choices"]] == ["yzParis", "aParis"]
    assert body["usage"]["prompt_tokens"] == 4


def test_truncation_to_the_context_makes_long_prompts_fit(complete, chat, engine: FakeEngine) -> None:
    assert complete(prompt="x" * 600, truncate_prompt_tokens=-1, max_tokens=10).status_code == 200
    assert len(engine.asked[0][0]) == engine.max_model_len - 10
    assert complete(prompt="x" * 600, truncate_prompt_tokens=512).status_code == 400
    long = [{"role": "user", "content": "x" * 600}]
    assert chat(messages=long, truncate_prompt_tokens=-1, max_tokens=10).status_code == 200


def test_prompt_logprobs(complete, chat) -> None:
    body = complete(prompt=["ab", "c"], prompt_logprobs=1, n=2).json()
    first, same, second, _ = (choice["prompt_logprobs"] for choice in body["choices"])
    assert first == same
    assert first == [
        None,
        {
            "97": {"logprob": -3.0, "rank": 3, "decoded_token": "a"},
            "49": {"logprob": -1.0, "rank": 1, "decoded_token": "1"},
        },
        {
            "98": {"logprob": -3.0, "rank": 3, "decoded_token": "b"},
            "49": {"logprob": -1.0, "rank": 1, "decoded_token": "1"},
        },
    ]
    assert len(second) == 2
    body = chat(prompt_logprobs=0).json()
    assert len(body["prompt_logprobs"]) == body["usage"]["prompt_tokens"]
    assert "prompt_logprobs" not in chat().json()


def test_token_ids(complete, chat, engine: FakeEngine) -> None:
    whole = complete(prompt=[[256, 97], [98]], n=2, return_token_ids=True, max_tokens=2).json()
    assert [c["prompt_token_ids"] for c in whole["choices"]] == [[256, 97]] * 2 + [[98]] * 2
    assert [c["token_ids"] for c in whole["choices"]] == [[97, 98]] * 4
    streamed = chunks(complete(prompt="a", return_token_ids=True, max_tokens=2, stream=True))
    choices = [chunk["choices"][0] for chunk in streamed]
    assert [choice.get("prompt_token_ids") for choice in choices] == [[256, 97], None]
    assert [choice["token_ids"] for choice in choices] == [[97], [98]]

    whole = chat(return_token_ids=True, max_tokens=2).json()
    assert whole["prompt_token_ids"] == engine.asked[-1][0]
    assert whole["choices"][0]["token_ids"] == [97, 98]
    streamed = chunks(chat(return_token_ids=True, max_tokens=2, stream=True))
    assert [chunk.get("prompt_token_ids") for chunk in streamed] == [engine.asked[-1][0], None, None, None]
    assert [chunk["choices"][0].get("token_ids") for chunk in streamed] == [None, [97], [98], None]


def test_tokens_as_ids(complete, chat) -> None:
    logprobs = complete(logprobs=1, max_tokens=2, return_tokens_as_token_ids=True).json()["choices"][0]["logprobs"]
    assert logprobs["tokens"] == ["token_id:97", "token_id:98"]
    assert set(logprobs["top_logprobs"][0]) == {"token_id:97", "token_id:49"}
    assert logprobs["text_offset"] == [0, 1]
    body = chat(logprobs=True, top_logprobs=1, max_tokens=1, return_tokens_as_token_ids=True).json()
    (entry,) = body["choices"][0]["logprobs"]["content"]
    assert (entry["token"], entry["top_logprobs"][0]["token"], entry["bytes"]) == ("token_id:97", "token_id:49", [97])


def test_cached_tokens_of_a_prompt_count_once(client: openai.OpenAI, complete) -> None:
    usage = client.chat.completions.create(model="fake/model", messages=MESSAGES, n=2).usage
    assert usage is not None
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens == 3
    assert complete(prompt=["a", "b"], n=3).json()["usage"]["prompt_tokens_details"] == {"cached_tokens": 6}
    streamed = chunks(complete(prompt=["a", "b"], n=3, stream=True, stream_options={"include_usage": True}))
    assert streamed[-1]["usage"]["prompt_tokens_details"] == {"cached_tokens": 6}


def test_logprobs_of_text_that_is_held_back_are_sent_with_their_tokens(complete, chat, engine: FakeEngine) -> None:
    engine.words = ("", "Paris")
    choices = [chunk["choices"][0] for chunk in chunks(complete(logprobs=0, stream=True))]
    assert [(choice["text"], choice["logprobs"]["tokens"]) for choice in choices] == [("", ["a"]), ("Paris", ["b"])]
    choices = [chunk["choices"][0] for chunk in chunks(chat(logprobs=True, stream=True))]
    assert [choice["logprobs"] and choice["logprobs"]["content"][0]["token"] for choice in choices] == [
        None,
        "a",
        "b",
        None,
    ]


def test_parts_of_characters_keep_their_bytes() -> None:
    bread = "🥖".encode()
    names = TokenFormatter(FakeTokenizer())
    positions = [{byte: Logprob(-1.0, 1)} for byte in bread]
    content = chat_logprobs(names, list(bread), positions, 0)["content"]
    assert b"".join(bytes(entry["bytes"]) for entry in content) == bread
    tokens = [ord("a"), *bread, ord("b")]
    shown = CompletionLogprobs(names, 0).show(tokens, [{token: Logprob(-1.0, 1)} for token in tokens])
    assert shown["text_offset"] == [0, 1, 1, 1, 1, 2]


def test_impossible_tokens_are_written_in_json() -> None:
    names = TokenFormatter(FakeTokenizer())
    position = {97: Logprob(float("-inf"), 200), 98: Logprob(0.0, 1)}
    (entry,) = chat_logprobs(names, [97], [position], 2)["content"]
    assert entry["logprob"] == -9999.0
    assert [other["token"] for other in entry["top_logprobs"]] == ["b", "a"]
    assert CompletionLogprobs(names, 1).show([97], [position])["top_logprobs"] == [{"a": -9999.0, "b": 0.0}]


def test_several_tokens_in_one_delta(chat, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    async def generate(*_: object, **__: object) -> Any:
        position = [{97: Logprob(-1.0, 1)}, {98: Logprob(-2.0, 1)}]
        yield [Delta(0, "ab", [97, 98], "stop", logprobs=position)]

    monkeypatch.setattr(engine, "generate", generate)
    content = chat(logprobs=True).json()["choices"][0]["logprobs"]["content"]
    assert [(entry["token"], entry["logprob"]) for entry in content] == [("a", -1.0), ("b", -2.0)]
