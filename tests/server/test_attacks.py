"""Requests whose cost their sender chooses: whatever they are, nobody else waits, and little memory stays taken."""

from __future__ import annotations

import json
import random
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from ..heartbeat import Heartbeat
from ..serving import Server, serving, until
from ..tiny import write_checkpoint

pytestmark = pytest.mark.alone

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
JSON = {"Content-Type": "application/json"}
SECONDS = 0.1
"""How long ``/health`` may take under each attack, on a quiet machine."""
GRACE = 3
"""The test's own threads and the attack's body take time, too."""
MEGABYTES = 300
"""What may stay taken after an attack."""
WORDS = random.Random(0)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = write_checkpoint(tmp_path_factory.mktemp("tiny"))
    with serving(str(folder), "--served-model-name", "m") as running:
        for _ in range(3):
            httpx2.post(running.url + COMPLETIONS, json={"prompt": "a", "max_tokens": 4})
        yield running
        assert not any("Traceback" in line for line in running.log), running.log


def word(length: int) -> str:
    return "".join(WORDS.choices("abcdefghijklmnopqrstuvwxyz", k=length))


def complete(**fields: Any) -> bytes:
    return json.dumps({"prompt": "a", "max_tokens": 8, "ignore_eos": True, **fields}).encode()


def listed(name: str, entry: str, count: int) -> bytes:
    return f'{{"prompt": "a", "max_tokens": 1, "{name}": [{",".join([entry] * count)}]}}'.encode()


ONLY_A = {"allowed_token_ids": [64]}
"""The output is this letter again and again, which begins what is to be found in it."""

ATTACKS: dict[str, tuple[str, Callable[[], bytes], int | None]] = {
    "as many bad words as there may be": (
        COMPLETIONS,
        lambda: complete(bad_words=[word(60) for _ in range(4096)]),
        200,
    ),
    "bad words of one beginning": (
        COMPLETIONS,
        lambda: complete(bad_words=["a" * 250 + word(4) for _ in range(1000)], max_tokens=100),
        200,
    ),
    "bad words too long": (COMPLETIONS, lambda: complete(bad_words=[word(180) for _ in range(4096)]), 400),
    "stops of one beginning": (
        COMPLETIONS,
        lambda: complete(stop=["a" * 200 + word(50) for _ in range(256)], n=64, max_tokens=100, **ONLY_A),
        200,
    ),
    "stops too long": (COMPLETIONS, lambda: complete(stop=["a" * 30_000 + word(4) for _ in range(256)]), 400),
    "allowed tokens of many choices": (
        COMPLETIONS,
        lambda: complete(n=1024, max_tokens=2, allowed_token_ids=[i % 255 for i in range(250_000)]),
        200,
    ),
    "stop tokens of many choices": (
        COMPLETIONS,
        lambda: complete(n=512, max_tokens=3, min_tokens=2, stop_token_ids=[i % 255 for i in range(4096)]),
        200,
    ),
    "biases of many choices": (
        COMPLETIONS,
        lambda: complete(n=512, max_tokens=2, logit_bias={str(i): 1 for i in range(256)}),
        200,
    ),
    "a long text to tokenize": ("/tokenize", lambda: json.dumps({"prompt": "hello wor " * 100_000}).encode(), 200),
    "a text too long to tokenize": ("/tokenize", lambda: json.dumps({"prompt": "hello wor " * 700_000}).encode(), 400),
    "prompts that are cut": (
        COMPLETIONS,
        lambda: complete(prompt=["a b c d " * 250] * 256, max_tokens=1, truncate_prompt_tokens=5),
        200,
    ),
    "token ids to text": ("/detokenize", lambda: b'{"tokens": [%s1]}' % (b"65," * 500_000), 200),
    "too many token ids": ("/detokenize", lambda: b'{"tokens": [%s1]}' % (b"65," * 2_700_000), 400),
    "many objects": (COMPLETIONS, lambda: listed("x", "{}", 60_000), 200),
    "too many objects": (COMPLETIONS, lambda: listed("x", "{}", 2_600_000), 400),
    "too many lists in place of prompts": (COMPLETIONS, lambda: listed("prompt", "[]", 2_600_000), 400),
    "too many texts": (COMPLETIONS, lambda: listed("x", '""', 2_600_000), 400),
    "too many fields": (
        COMPLETIONS,
        lambda: b'{"prompt": "a", %s}' % b",".join(b'"k%d":1' % i for i in range(600_000)),
        400,
    ),
    "many unknown fields": (
        COMPLETIONS,
        lambda: b'{"prompt": "a", "max_tokens": 1, %s}' % b",".join(b'"k%d":1' % i for i in range(60_000)),
        200,
    ),
    "a million digits": (COMPLETIONS, lambda: b'{"prompt": "a", "seed": 1%s}' % (b"0" * 1_000_000), 400),
    "long numbers": (COMPLETIONS, lambda: listed("x", "9" * 250, 30_000), 200),
    "numbers too long": (COMPLETIONS, lambda: listed("x", "9" * 4000, 1900), 400),
    "escapes": (COMPLETIONS, lambda: b'{"prompt": "%s"}' % (b"\\u00e9" * 1_300_000), 400),
    "wrong ids": (COMPLETIONS, lambda: listed("allowed_token_ids", '"x"', 250_000), 400),
    "wrong messages": (CHAT, lambda: json.dumps({"messages": [{"role": 1, "tool_calls": [1]}] * 16_384}).encode(), 400),
    "wrong calls": (
        CHAT,
        lambda: json.dumps({"messages": [{"role": "user", "tool_calls": [{}] * 60_000}]}).encode(),
        400,
    ),
    "wrong parts": (
        CHAT,
        lambda: json.dumps({"messages": [{"role": "user", "content": [{"type": "text"}] * 60_000}]}).encode(),
        400,
    ),
    "many parts": (
        CHAT,
        lambda: json.dumps({"messages": [{"role": "user", "content": [""] * 250_000}]}).encode(),
        400,
    ),
    "logprobs of a prompt for many choices": (
        COMPLETIONS,
        lambda: complete(prompt="ab" * 200, n=1024, logprobs=20, echo=True),
        400,
    ),
    "logprobs of prompts": (
        COMPLETIONS,
        lambda: complete(prompt=["ab" * 200] * 64, max_tokens=1, prompt_logprobs=10),
        200,
    ),
    "logprobs of many choices": (COMPLETIONS, lambda: complete(n=256, logprobs=20, max_tokens=16), 200),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_nobody_waits_for(server: Server, attack: str, slowness: Callable[[], float]) -> None:
    path, build, status = ATTACKS[attack]
    body = build()
    before = taken(server)
    with Heartbeat(server.url) as heart:
        time.sleep(0.05)
        answer = httpx2.post(server.url + path, content=body, headers=JSON, timeout=120)
        time.sleep(0.05)
    assert answer.status_code == status, answer.text[:500]
    if status != 200:
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
        assert len(answer.content) < 1000
    assert not heart.failure
    assert heart.worst < GRACE * SECONDS * slowness(), f"/health took {heart.worst:.2f} s"
    assert taken(server) - before < MEGABYTES * 2**20


def taken(server: Server) -> int:
    """Memory of the server's processes, in bytes."""
    return sum(process.memory_info().rss for process in server.family() if process.status() != psutil.STATUS_ZOMBIE)


def test_a_short_prompt_does_not_wait_for_long_ones(server: Server, slowness: Callable[[], float]) -> None:
    """As many long texts at once as there are threads for them, and more."""
    text = json.dumps({"prompt": "hello wor " * 100_000}).encode()
    with ThreadPoolExecutor(6) as pool:
        attacks = [
            pool.submit(httpx2.post, f"{server.url}/tokenize", content=text, headers=JSON, timeout=120)
            for _ in range(6)
        ]
        worst = 0.0
        while not all(attack.done() for attack in attacks):
            begun = time.monotonic()
            answer = httpx2.post(server.url + COMPLETIONS, content=complete(max_tokens=1), headers=JSON, timeout=120)
            worst = max(worst, time.monotonic() - begun)
            assert answer.status_code == 200
        assert [attack.result().status_code for attack in attacks] == [200] * 6
    assert worst < 0.5 * slowness()


def test_work_of_clients_who_left_is_dropped(server: Server, slowness: Callable[[], float]) -> None:
    """Their prompts take a minute to tokenize, and one who comes after them waits for none of it."""
    body = complete(prompt=["a b c d " * 950] * 1000, max_tokens=1, truncate_prompt_tokens=5)
    host, port = server.url.removeprefix("http://").split(":")
    head = f"POST {COMPLETIONS} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    for _ in range(4):
        with socket.create_connection((host, int(port))) as sock:
            sock.sendall(head.encode() + body)
            time.sleep(0.3)
    begun = time.monotonic()
    answer = httpx2.post(
        f"{server.url}/tokenize", content=json.dumps({"prompt": "a" * 70_000}).encode(), headers=JSON, timeout=120
    )
    assert answer.status_code == 200
    assert time.monotonic() - begun < 4 * slowness()
    until(lambda: httpx2.get(f"{server.url}/load").json()["server_load"] == 0, 10)


EXTREMES = (2**31, 2**63, 2**64, -(2**63) - 1, 10**30)
INTEGERS = {
    COMPLETIONS: (
        "seed",
        "n",
        "best_of",
        "max_tokens",
        "min_tokens",
        "top_k",
        "logprobs",
        "prompt_logprobs",
        "priority",
        "truncate_prompt_tokens",
    ),
    CHAT: ("seed", "n", "max_tokens", "max_completion_tokens", "top_logprobs", "top_k", "priority"),
    "/v1/messages": ("max_tokens", "top_k"),
    "/v1/responses": ("max_output_tokens", "top_logprobs", "max_tool_calls"),
    "/v1/embeddings": ("dimensions", "priority", "truncate_prompt_tokens"),
    "/rerank": ("top_n", "priority", "truncate_prompt_tokens"),
}
LISTS = ("stop_token_ids", "allowed_token_ids", "prompt")


@pytest.mark.parametrize("path", INTEGERS)
def test_integers_past_every_width(server: Server, path: str) -> None:
    """Each is served, or refused as the client's mistake."""
    base: dict[str, Any] = {
        "prompt": "a",
        "input": "a",
        "messages": [{"role": "user", "content": "a"}],
        "query": "a",
        "documents": ["a"],
    }
    names = {
        COMPLETIONS: ("prompt",),
        CHAT: ("messages",),
        "/v1/messages": ("messages",),
        "/rerank": ("query", "documents"),
    }
    given = {name: base[name] for name in names.get(path, ("input",))} | {"max_tokens": 1}
    bodies = [{**given, field: value} for field in INTEGERS[path] for value in EXTREMES]
    if path == COMPLETIONS:
        bodies += [{**given, field: [value]} for field in LISTS for value in EXTREMES]
        bodies += [{**given, "logit_bias": {str(value): 1}} for value in EXTREMES]
        bodies += [{**given, "logit_bias": {"1": value}} for value in EXTREMES]
    for body in bodies:
        answer = httpx2.post(server.url + path, content=json.dumps(body).encode(), headers=JSON, timeout=60)
        assert answer.status_code in (200, 400), (body, answer.text[:300])
        if answer.status_code == 400:
            assert answer.json()["error"]["type"] == "invalid_request_error"


def test_tokens_past_every_width(server: Server) -> None:
    for value in EXTREMES:
        answer = httpx2.post(f"{server.url}/detokenize", content=b'{"tokens": [%d]}' % value, headers=JSON)
        assert answer.status_code == 400, answer.text


def test_checkpoint_is_what_attacks_expect(server: Server, tmp_path: Path) -> None:
    """The letter of :data:`ONLY_A`, of which outputs consist."""
    answer = httpx2.post(server.url + COMPLETIONS, content=complete(**ONLY_A), headers=JSON).json()
    assert answer["choices"][0]["text"] == "a" * 8
