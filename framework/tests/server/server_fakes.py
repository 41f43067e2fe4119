"""An engine without a model, which answers with words it was given, one in each step; and a real server over it."""

from __future__ import annotations

import asyncio
import math
import socket
import struct
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import uvicorn
from fastapi import FastAPI

from dovetail.api.cards import Task
from dovetail.api.errors import EngineDeadError, RequestError
from dovetail.engine.images.inputs import PromptWithImages
from dovetail.engine.messages import EngineStats, Overview, RequestStats
from dovetail.engine.output.pooled import Pooled
from dovetail.engine.request.checks import ModelLimits
from dovetail.engine.request.outputs import Delta, Logprob, PositionLogprobs
from dovetail.engine.request.params import SamplingParams
from dovetail.engine.request.pooling_params import PoolingParams, check_pooling, resolve_pooling_params
from dovetail.engine.templates.calls import RenderCall, run_call
from dovetail.engine.templates.facts import TemplateFacts, find_facts
from dovetail.engine.templates.rendered_prompt import RenderedPrompt
from dovetail.kernel.plan_parts import ParserPlan, PoolingPlan
from dovetail.server import app
from dovetail.server.http.http_protocol import build_protocol_class
from dovetail.server.settings import ServerSettings

FIRST_TOKEN = ord("a")
WORDS = ("Paris", " is", " the", " capital", " of", " France", ".", " 🥖")


@dataclass
class FakePlan:
    model: str = "fake/model"
    tasks: tuple[Task, ...] = ("generate",)
    max_model_len: int = 512
    tasks_reason: str = "what the model was made for"
    pooling: PoolingPlan | None = None
    config: dict[str, Any] = field(default_factory=dict)
    tool_parsers: tuple[ParserPlan, ...] = ()
    reasoning_parsers: tuple[ParserPlan, ...] = ()


class FakeTokenizer:
    """One token for each byte, and one that begins a text."""

    vocab_size = 257
    special_ids = frozenset({256})
    chat_template: Any = "{{ messages }}"
    chat_template_content_format: Literal["auto", "string", "openai"] = "auto"
    content_control_tokens: tuple[str, ...] = ()
    special_tokens: dict[str, str] = {}

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [256] * add_special_tokens + list(text.encode())

    def min_token_count(self, text: str) -> int:
        return len(text.encode())

    def encode_within(
        self,
        text: str,
        limit: int | None,
        *,
        pair: str | None = None,
        side: Literal["left", "right"] = "right",
        add_special_tokens: bool = True,
    ) -> list[int]:
        ids = list(text.encode()) + (self.encode(pair) if pair is not None else [])
        room = len(ids) if limit is None else limit - add_special_tokens
        return [256] * add_special_tokens + (ids[:room] if side == "right" else ids[max(len(ids) - room, 0) :])

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        begin = "<s>" if 256 in ids and not skip_special_tokens else ""
        return begin + bytes(i for i in ids if i < 256).decode(errors="replace")

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str | None]:
        return [self.token_bytes(i).decode("latin-1") for i in ids]

    def token_bytes(self, id: int) -> bytes:
        return bytes([id]) if id < 256 else b"<s>"

    def token_to_id(self, token: str) -> int | None:
        return 256 if token == "<s>" else None

    def find_chat_template(self, chat_template: str | None = None, *, with_tools: bool = False) -> str:
        if chat_template is None and self.chat_template is None:
            raise RequestError("the model has no chat template", param="messages")
        return str(chat_template or self.chat_template)

    def encode_rendered(self, prompt: RenderedPrompt, add_special_tokens: bool = False) -> list[int]:
        return self.encode(prompt.text, add_special_tokens)

    def apply_chat_template(self, messages: list[dict[str, Any]], **kwargs: Any) -> str:
        self.last = {"messages": messages, **kwargs}
        if any(message["role"] == "refused" for message in messages):
            raise RequestError("the chat template refuses the role", param="messages")
        return "".join(f"<{message['role']}>{message['content']}" for message in messages)


class FakeRenderer:
    """Renders with the fake tokenizer, in this process. What it finds out about templates is true."""

    def __init__(self, tokenizer: FakeTokenizer) -> None:
        self.tokenizer = tokenizer

    async def find_facts(self, template: str, patterns: Sequence[str] = ()) -> TemplateFacts:
        return find_facts(template, patterns)

    async def render(self, call: RenderCall) -> RenderedPrompt:
        if not isinstance(self.tokenizer, FakeTokenizer):
            return run_call(call, self.tokenizer.content_control_tokens)
        text = self.tokenizer.apply_chat_template(
            [*map(dict, call.messages)],
            tools=call.tools,
            documents=call.documents,
            add_generation_prompt=call.add_generation_prompt,
            continue_final_message=call.continue_final_message,
            chat_template=call.template,
            **call.variables,
        )
        return RenderedPrompt(text)

    def abort(self, error: Exception) -> None:
        pass


def position(token: int, count: int) -> PositionLogprobs:
    """The token is the third in rank, after two digits."""
    likeliest = {ord("0") + rank: Logprob(-float(rank), rank) for rank in range(1, 10) if rank != 3}
    top = {other: found for other, found in likeliest.items() if found.rank is not None and found.rank <= count}
    return {token: Logprob(-3.0, 3), **top}


@dataclass
class FakeEngine:
    """What it is asked, and what it answers, can be seen and set from outside."""

    words: Sequence[str] = WORDS
    delay: float = 0.0
    fail_at: int = -1
    """The step that raises ``failure``."""
    failure: BaseException | Delta = field(default_factory=lambda: RuntimeError("secret detail"))
    max_model_len: int = 512
    default_params: dict[str, Any] = field(default_factory=dict)
    eos_ids: frozenset[int] = frozenset()
    plan: FakePlan = field(default_factory=FakePlan)
    tokenizer: FakeTokenizer = field(default_factory=FakeTokenizer)
    dead_reason: str = ""
    stopped: bool = False
    running: set[str] = field(default_factory=set)
    aborted: list[str] = field(default_factory=list)
    asked: list[tuple[list[int], SamplingParams]] = field(default_factory=list)
    pooled: list[tuple[list[int], PoolingParams]] = field(default_factory=list)
    width: int = 4
    """Of the vectors."""
    pool_failure: Pooled | None = None
    """What every prompt gets instead of its vector."""
    options: list[dict[str, Any]] = field(default_factory=list)
    """What each request said besides prompt and parameters."""
    max_num_seqs: int = 4
    max_num_queued_requests: int | None = None
    scheduling_policy: str = "fcfs"
    stats: EngineStats = field(default_factory=EngineStats)
    sleeping: bool = False
    restarting: bool = False
    adapters: dict[str, str] = field(default_factory=dict)
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    cached_tokens: int = 3
    image_placeholder: str | None = None
    images: list[Any] = field(default_factory=list)
    """What was asked to be placed."""

    async def place_images(self, prompt_token_ids: list[int], images: Sequence[str]) -> PromptWithImages:
        self.images += images
        return PromptWithImages(prompt_token_ids, [])

    @property
    def alive(self) -> bool:
        return not self.dead_reason

    def die(self, reason: str = "the process was killed") -> None:
        self.dead_reason = reason

    async def ended(self) -> str:
        while self.alive:  # it may be killed from another thread
            await asyncio.sleep(0.005)
        return self.dead_reason

    async def generate(
        self,
        request_id: str,
        prompt_token_ids: list[int],
        params: SamplingParams,
        *,
        priority: int = 0,
        cache_salt: str | None = None,
        adapter: str | None = None,
        images: Any = None,
    ) -> AsyncGenerator[list[Delta], None]:
        assert request_id not in self.running
        self.asked.append((prompt_token_ids, params))
        self.options.append({"priority": priority, "cache_salt": cache_salt, "adapter": adapter})
        self.running.add(request_id)
        finished = False
        try:
            limit = min(params.max_tokens or 10**9, self.max_model_len - len(prompt_token_ids))
            for step in range(limit):
                await asyncio.sleep(self.delay)
                if not self.alive:
                    raise EngineDeadError(self.dead_reason)
                if step == self.fail_at:
                    if isinstance(self.failure, Delta):
                        yield [self.failure]
                        return
                    raise self.failure
                last = step == limit - 1 or (step == len(self.words) - 1 and not params.ignore_eos)
                reason = None if not last else "stop" if step == len(self.words) - 1 else "length"
                token = FIRST_TOKEN + step % 26
                batch = [Delta(i, self.words[step % len(self.words)], [token], reason) for i in range(params.n)]
                for delta in batch:
                    if params.logprobs is not None:
                        delta.logprobs = [position(token, params.logprobs)]
                    if step == 0:
                        delta.cached_tokens = self.cached_tokens
                if step == 0 and params.prompt_logprobs is not None:  # as the engine does: with the first alone
                    following = [position(token, params.prompt_logprobs) for token in prompt_token_ids[1:]]
                    batch[0].prompt_logprobs = [None, *following]
                    batch.reverse()
                yield batch
                if last:
                    finished = True
                    return
        finally:
            self.running.discard(request_id)
            if not finished:
                self.aborted.append(request_id)

    def check_beam_search(self) -> None:
        pass

    async def overview(self) -> Overview:
        requests = [RequestStats(name, "running", 5, 2, 0.25) for name in sorted(self.running)]
        return Overview(self.stats, requests, num_omitted=3)

    async def pool(
        self,
        request_id: str,
        prompt_token_ids: list[int],
        params: PoolingParams,
        *,
        priority: int = 0,
        cache_salt: str | None = None,
        adapter: str | None = None,
    ) -> Pooled:
        """A vector of the prompt's tokens that are 0, 1, 2, 3 … when divided by :attr:`width`, normalised if asked."""
        pooling = resolve_pooling_params(params, self.plan)
        check_pooling(prompt_token_ids, pooling, ModelLimits(self.max_model_len, self.tokenizer.vocab_size), self.width)
        self.pooled.append((prompt_token_ids, pooling))
        self.options.append({"priority": priority, "cache_salt": cache_salt, "adapter": adapter})
        self.running.add(request_id)
        finished = False
        try:
            await asyncio.sleep(self.delay)
            finished = True
            if not self.alive:
                raise EngineDeadError(self.dead_reason)
            if self.pool_failure is not None:
                return self.pool_failure
            counts = [sum(i % self.width == place for i in prompt_token_ids) for place in range(self.width)]
            counts = counts[: pooling.dimensions]
            length = math.hypot(*counts) if pooling.task == "embed" else sum(counts)
            values = [count / length if pooling.use_activation else count for count in counts]
            values = values[:1] if pooling.task == "score" else values
            return Pooled(struct.pack(f"<{len(values)}f", *values), self.cached_tokens)
        finally:
            self.running.discard(request_id)
            if not finished:
                self.aborted.append(request_id)

    async def reset_prefix_cache(self) -> None:
        self.calls.append(("reset_prefix_cache",))

    async def sleep(self, level: int) -> None:
        self.calls.append(("sleep", level))
        self.sleeping = True

    async def wake_up(self, tags: list[str] | None = None) -> None:
        if unknown := set(tags or ()) - {"weights", "kv_cache"}:
            raise RequestError(f"there are no tags {sorted(unknown)}", param="tags")
        self.calls.append(("wake_up", tags))
        self.sleeping = False

    async def add_adapter(self, name: str, path: str) -> None:
        self.calls.append(("add_adapter", name, path))
        if path == "/gone":
            raise RequestError("there is no such folder", param="lora_path")
        self.adapters[name] = path

    async def remove_adapter(self, name: str) -> None:
        self.calls.append(("remove_adapter", name))
        del self.adapters[name]

    async def stop(self) -> None:
        self.stopped = True


def build_app(engine: FakeEngine, settings: ServerSettings, *args: Any, **kwargs: Any) -> FastAPI:
    """The application, whose conversations are rendered in this process."""
    return app.build_app(engine, settings, *args, renderer=FakeRenderer(engine.tokenizer), **kwargs)


@contextmanager
def serving(engine: FakeEngine, settings: ServerSettings) -> Iterator[str]:
    """A real server on a free port, in a thread."""
    with serving_app(build_app(engine, settings)) as url:
        yield url


@contextmanager
def serving_app(application: FastAPI) -> Iterator[str]:
    """The same of an application that a test has changed."""
    connection = build_protocol_class(application.state.context.settings.receive_timeout)
    config = uvicorn.Config(
        application, http=connection, lifespan="off", ws="none", log_level="critical", timeout_keep_alive=75
    )
    server = uvicorn.Server(config)
    sock = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, args=([sock],))
    thread.start()
    until(lambda: server.started)
    try:
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"
    finally:
        server.should_exit = server.force_exit = True
        thread.join()


def until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)
